"""The curve of diminishing returns: found again when it is known, and read by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from ctrlib.errors import UserError
from ctrlib.stats.diminishing import DiminishingReturn, fit_diminishing_return

INSTANCES = np.array([1, 2, 3, 4, 5, 6, 8, 10])


def curve(limit: float, exponent: float, instances=INSTANCES) -> np.ndarray:
    return limit * (1 - np.asarray(instances, float) ** -exponent)


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.02, 0.02).filter(lambda x: abs(x) > 1e-4), st.floats(0.1, 6))
def test_a_known_curve_is_found_again(limit, exponent) -> None:
    found = fit_diminishing_return(INSTANCES, np.tile(curve(limit, exponent), (3, 1)), resamples=10)
    assert found.exponent == pytest.approx(exponent, rel=0.004)  # exponents are tried 0.5 % apart
    assert found.limit == pytest.approx(limit, rel=0.004)
    assert found.gain(INSTANCES) == pytest.approx(curve(limit, exponent), abs=1e-3 * abs(limit))
    assert found.gain(1) == 0
    assert found.limit_interval == pytest.approx((found.limit, found.limit))  # equal replicates, equal resamples


def test_the_fit_is_scipys_least_squares() -> None:
    gains = curve(0.004, 0.8) + 0.0004 * np.random.default_rng(1).standard_normal((6, INSTANCES.size))
    found = fit_diminishing_return(INSTANCES, gains)
    reference, _ = optimize.curve_fit(lambda n, a, b: curve(a, b, n), INSTANCES, gains.mean(axis=0), [0.004, 1])
    assert (found.limit, found.exponent) == pytest.approx(reference, rel=0.01)


def test_intervals_cover_the_truth_with_many_groups() -> None:
    """200 studies of 30 replicates whose limits differ; percentiles of 30 replicates lose a little."""
    rng, covered = np.random.default_rng(2), []
    for seed in range(200):
        gains = rng.normal(0.004, 0.001, (30, 1)) * curve(1, 1) + rng.normal(0, 3e-4, (30, INSTANCES.size))
        found = fit_diminishing_return(INSTANCES, gains, level=0.9, resamples=200, seed=seed)
        intervals = [found.limit_interval, found.exponent_interval, found.gain_interval(4)]
        covered.append([low <= truth <= high for (low, high), truth in zip(intervals, [0.004, 1, 0.003], strict=True)])
    low, high = stats.binom.ppf(0.001, 200, 0.86), stats.binom.ppf(0.999, 200, 0.92)
    assert all(low <= count <= high for count in np.sum(covered, axis=0))


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.01, 0.1), st.floats(0.3, 4), st.floats(1e-4, 0.05))
def test_enough_is_found_by_counting_up(limit, exponent, amount) -> None:
    found = DiminishingReturn(limit, exponent, np.array([[limit, exponent]]), 0.95)
    steps = -np.diff(limit * np.arange(1, 5000.0) ** -exponent)  # what instance 2, 3, ... adds
    enough, low, high = found.enough(amount)
    assert low == high == enough
    assert enough == 1 + np.argmax(steps < amount)
    assert steps[-1] < amount


def test_enough_has_an_interval_and_losses_need_one_instance() -> None:
    gains = curve(0.004, 1.0) + np.random.default_rng(3).normal(0, 5e-4, (8, INSTANCES.size))
    found = fit_diminishing_return(INSTANCES, gains)
    best, low, high = found.enough(2e-4)
    assert 1 <= low <= best <= high
    assert low < high
    assert fit_diminishing_return(INSTANCES, -gains).enough(2e-4)[0] == 1
    with pytest.raises(UserError, match="amount must be above 0, got 0"):
        found.enough(0)


def test_the_order_of_groups_and_of_instances_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    gains = curve(0.004, 1.0) + rng.normal(0, 5e-4, (7, INSTANCES.size))
    found, order = fit_diminishing_return(INSTANCES, gains), rng.permutation(INSTANCES.size)
    for other in (
        fit_diminishing_return(INSTANCES, gains[rng.permutation(7)]),
        fit_diminishing_return(INSTANCES[order], gains[:, order]),
    ):
        assert (other.limit, other.exponent) == pytest.approx((found.limit, found.exponent))
    assert fit_diminishing_return(INSTANCES, 10 * gains).limit == pytest.approx(10 * found.limit)


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
    with pytest.raises(UserError) as caught:
        fit_diminishing_return(instances, gains)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
