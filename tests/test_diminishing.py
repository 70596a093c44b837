"""The curve of diminishing returns: found again when it is known, and the least squares of scipy when it is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from small import refused

from ctrlib.stats.diminishing import fit_diminishing_return

INSTANCES = np.array([1, 2, 3, 4, 5, 6, 8, 10])


def curve(limit: float, exponent: float, instances=INSTANCES) -> np.ndarray:
    return limit * (1 - np.asarray(instances, float) ** -exponent)


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.02, 0.02).filter(lambda x: abs(x) > 1e-4), st.floats(0.1, 6))
def test_a_known_curve_is_found_again(limit, exponent) -> None:
    found = fit_diminishing_return(INSTANCES, np.tile(curve(limit, exponent), (3, 1)))
    assert found.exponent == pytest.approx(exponent, rel=0.004)  # exponents are tried 0.5 % apart
    assert found.limit == pytest.approx(limit, rel=0.004)
    assert found.gain(INSTANCES) == pytest.approx(curve(limit, exponent), abs=1e-3 * abs(limit))
    assert found.gain(1) == 0


def test_the_fit_is_scipys_least_squares_in_any_order() -> None:
    rng = np.random.default_rng(1)
    gains = curve(0.004, 0.8) + 0.0004 * rng.standard_normal((6, INSTANCES.size))
    found, order = fit_diminishing_return(INSTANCES, gains), rng.permutation(INSTANCES.size)
    reference, _ = optimize.curve_fit(lambda n, a, b: curve(a, b, n), INSTANCES, gains.mean(axis=0), [0.004, 1])
    assert found == pytest.approx(tuple(reference), rel=0.01)
    assert fit_diminishing_return(INSTANCES[order], gains[::-1, order]) == pytest.approx(found)


@pytest.mark.parametrize(
    ("instances", "gains", "words"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], "gains must be (replicates, 3 numbers of instances), got shape (3,)"),
        ([1, 2, 3], [[0.1, 0.2]], "got shape (1, 2)"),
        ([1, 2, 3], [[0.0, np.nan, 0.1]], "gains has 1 values that are no finite numbers"),
        ([1, 2], [[0.0, 0.1]], "two or more different numbers of instances above 1"),
        ([0, 2, 3], [[0.0, 0.1, 0.2]], "none below 1"),
    ],
)
def test_unusable_gains_are_refused_in_one_line(instances, gains, words) -> None:
    assert words in refused(fit_diminishing_return, instances, gains)
