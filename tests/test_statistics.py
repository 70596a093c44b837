"""Paired intervals, tests and a curve against scipy, against simulation, and against their definitions by loops."""

import math
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from small import refused

from ctrlib.stats.diminishing import fit_diminishing_return
from ctrlib.stats.paired import (
    holm,
    minimum_detectable_effect,
    paired_difference,
    paired_power,
    relative_difference,
    sign_flip_difference,
)

UNDECIDED = "no difference shown"
INF, NAN = math.inf, math.nan

replicates = st.integers(2, 12)
seeds = st.integers(0, 10_000)


@settings(max_examples=60)
@given(replicates, seeds, st.floats(0.5, 0.999))
def test_paired_difference_is_scipys_paired_t_test(size, seed, level) -> None:
    rng = np.random.default_rng(seed)
    control = 0.7 + 0.02 * rng.standard_normal(size)
    treatment = control + 0.002 * rng.standard_normal(size) + 0.001
    found, reference = paired_difference(treatment, control, level), stats.ttest_rel(treatment, control)
    interval = reference.confidence_interval(level)
    assert found.mean == pytest.approx(np.mean(treatment - control), abs=1e-15)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-15)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.sd == pytest.approx(np.std(treatment - control, ddof=1))
    assert (found.replicates, found.level) == (size, level)
    assert (found.p_value < 1 - level) == (found.verdict != "no difference shown")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (paired_difference([0.75], [0.5]), (0.25, -INF, INF, NAN, UNDECIDED, 0.95)),
        (paired_difference([1.0, 2, 4], [1.0, 2, 4]), (0, 0, 0, 1, UNDECIDED, 0.95)),
        (paired_difference([1.5, 2.5, 4.5], [1.0, 2, 4]), (0.5, 0.5, 0.5, 0, "gain", 0.95)),
        (paired_difference([0.0, 1, 3], [1.0, 2, 4]), (-1, -1, -1, 0, "loss", 0.95)),
        (sign_flip_difference([1.0, 1.1, 0.9, 1.2, 1.3], [0.0] * 5), (1.1, -INF, INF, 2 / 32, UNDECIDED, 1)),
        (sign_flip_difference([1.0, 1.1, 0.9, 1.2, 1.3, 1.4], [0.0] * 6), (1.15, 0.9, 1.4, 2 / 64, "gain", 1 - 2 / 64)),
        (relative_difference([0.75], [0.5]), (0.5, -INF, INF, NAN, UNDECIDED, 0.95)),
        (relative_difference([0.1, 0.2], [-0.1, 0.0]), (NAN, -INF, INF, ANY, ANY, 0.95)),
        (relative_difference([0.1, 0.2, 0.0], [0.4, -0.3, -0.05]), (ANY, -INF, INF, ANY, UNDECIDED, 0.95)),
    ],
)
def test_edges(found, expected) -> None:
    """One replicate, equal differences, too few for a bounded sign-flip interval, a control around zero."""
    values = (found.mean, found.low, found.high, found.p_value, found.verdict, found.level)
    for value, wanted in zip(values, expected, strict=True):
        assert value == (wanted if isinstance(wanted, str) or wanted is ANY else pytest.approx(wanted, nan_ok=True))


# Sixteenths add up without rounding, so that ties are ties for scipy as well.
differences = st.lists(st.integers(-16, 16).map(lambda x: x / 16), min_size=2, max_size=8)


@settings(max_examples=60)
@given(differences.filter(any))
def test_sign_flip_p_is_scipys_exact_permutation_test(values) -> None:
    values, flips = np.array(values), {"permutation_type": "samples", "n_resamples": 2 ** len(values)}
    reference = stats.permutation_test((values,), np.mean, vectorized=True, **flips)
    assert sign_flip_difference(values, np.zeros_like(values)).p_value == pytest.approx(reference.pvalue, rel=1e-12)


def test_sign_flip_sees_ties_through_rounding() -> None:
    """0.1 + 0.2 - 0.3 is not zero in binary. Flips that leave a mean as large: none, and of four sets around -0.3."""
    values = np.array([0.1, 0.2, -0.3, 1.0, 1.0, 1.0])
    assert sign_flip_difference(values, np.zeros(6)).p_value == 2 * 5 / 64
    assert sign_flip_difference(-values, np.zeros(6)).p_value == 2 * 5 / 64


@settings(max_examples=60)
@given(seeds, st.integers(2, 8), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_sign_flip_interval_holds_the_effects_that_the_test_keeps(seed, size, level) -> None:
    values = np.random.default_rng(seed).standard_normal(size)
    found = sign_flip_difference(values, np.zeros(size), level)
    for end, outward in ((found.low, -1), (found.high, 1)):
        if math.isinf(end):
            assert 2 / 2**size > 1 - level  # not even the most extreme flip is rare enough
            continue
        inside, outside = end - outward * 1e-9, end + outward * 1e-9
        assert sign_flip_difference(values, np.full(size, inside)).p_value > 1 - level - 1e-12
        assert sign_flip_difference(values, np.full(size, outside)).p_value <= 1 - level + 1e-12


@pytest.mark.parametrize("size", [8, 13])
def test_sign_flip_interval_covers_no_effect_at_its_stated_rate(size) -> None:
    """1,000 studies whose noise is symmetric and far from normal; 13 replicates take the drawn flips."""
    noise = np.random.default_rng(size).standard_t(2, (1000, size))
    found = [sign_flip_difference(one, np.zeros(size), resamples=999) for one in noise]
    stated = found[0].level
    assert 0.95 <= stated < 0.97
    low, high = stats.binom.ppf([0.001, 0.999], 1000, stated)
    assert low <= sum(one.low <= 0 <= one.high for one in found) <= high
    assert low <= sum(one.verdict == "no difference shown" for one in found) <= high
    assert all((one.p_value <= 0.05) == (one.verdict != "no difference shown") for one in found)


@pytest.mark.parametrize(
    ("function", "given_", "words"),
    [
        (paired_difference, ([0.0] * 3, [0.0]), "one value per replicate each, got shapes (3,) and (1,)"),
        (sign_flip_difference, ([0.0] * 3, [0.0]), "one value per replicate each, got shapes (3,) and (1,)"),
        (minimum_detectable_effect, (0.0, 5), "spread above 0, got 5 replicates and sd 0"),
        (minimum_detectable_effect, (1.0, 1), "2 or more replicates and a spread above 0, got 1 replicates"),
        (minimum_detectable_effect, (1.0, 5, 0.95, 1.0), "power must lie between 0.05 and 1, got 1"),
        (minimum_detectable_effect, (1.0, 5, 0.95, 0.01), "power must lie between 0.05 and 1, got 0.01"),
        (fit_diminishing_return, ([1, 2, 3], [0.1, 0.2, 0.3]), "(replicates, 3 numbers of instances), got shape (3,)"),
        (fit_diminishing_return, ([1, 2, 3], [[0.1, 0.2]]), "got shape (1, 2)"),
        (fit_diminishing_return, ([1, 2, 3], [[0.0, np.nan, 0.1]]), "gains has 1 values that are no finite numbers"),
        (fit_diminishing_return, ([1, 2], [[0.0, 0.1]]), "two or more different numbers of instances above 1"),
        (fit_diminishing_return, ([0, 2, 3], [[0.0, 0.1, 0.2]]), "none below 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(function, given_, words) -> None:
    assert words in refused(function, *given_)


@settings(max_examples=40)
@given(st.integers(4, 12), seeds)
def test_the_relative_interval_ends_where_the_t_test_turns(size, seed) -> None:
    rng = np.random.default_rng(seed)
    control = 0.25 + 0.02 * rng.standard_normal(size)
    treatment = control + 0.004 * rng.standard_normal(size)
    found, plain = relative_difference(treatment, control), paired_difference(treatment, control)
    assert found.mean == pytest.approx(treatment.mean() / control.mean() - 1, rel=1e-9, abs=1e-12)
    assert (found.p_value, found.verdict) == (plain.p_value, plain.verdict)
    for ratio in (found.low, found.high):
        tested = stats.ttest_1samp(treatment - control - ratio * control, 0)
        assert tested.pvalue == pytest.approx(0.05, rel=1e-6)


def test_the_corrected_t_test_keeps_its_level_where_splits_share_rows() -> None:
    """Differences of five random splits, correlated as Nadeau and Bengio suppose: test over all rows."""
    rng, overlap, size = np.random.default_rng(0), 1 / 8, 5
    share = overlap / (1 + overlap)  # of a split's variance that all splits have in common
    common, own = rng.standard_normal((4000, 1)), rng.standard_normal((4000, size))
    differences = np.sqrt(share) * common + np.sqrt(1 - share) * own
    plain, corrected = (
        np.mean([paired_difference(d, 0 * d, overlap=of).verdict != UNDECIDED for d in differences])
        for of in (0, overlap)
    )
    assert plain > 0.08
    assert corrected == pytest.approx(0.05, abs=0.012)
    ratio = relative_difference(differences[0] + 5, np.full(size, 5.0), overlap=overlap)
    assert ratio.low * 5 == pytest.approx(paired_difference(differences[0], 0 * differences[0], overlap=overlap).low)


def test_minimum_detectable_effect_is_the_one_of_r() -> None:
    """R 4.2: power.t.test(n = 6, sd = 1, sig.level = .05, power = .8, type = "paired", strict = TRUE)."""
    assert minimum_detectable_effect(1.0, 6) == pytest.approx(1.43455, rel=2e-5)


@settings(max_examples=60)
@given(st.floats(1e-6, 10), st.integers(2, 40), st.sampled_from([0.9, 0.95, 0.99]), st.floats(0.2, 0.95))
def test_minimum_detectable_effect_turns_power_around(sd, size, level, power) -> None:
    effect = minimum_detectable_effect(sd, size, level, power)
    assert paired_power(effect, sd, size, level) == pytest.approx(power, rel=1e-6)
    assert paired_power(-effect, sd, size, level) == pytest.approx(power, rel=1e-6)
    assert paired_power(0.0, sd, size, level) == pytest.approx(1 - level)
    assert minimum_detectable_effect(sd, size + 1, level, power) < effect


def naive_holm(p_values: list[float]) -> list[float]:
    """Holm 1979 by its definition: p of rank k is held against the other p values from k on; never below earlier."""

    def adjusted(p: float) -> float:
        smaller = [q for q in p_values if q <= p]
        return min(1.0, max(q * sum(other >= q for other in p_values) for q in smaller))

    return [p if math.isnan(p) else adjusted(p) for p in p_values]


p_lists = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.01, 0.04, 1.0, math.nan]), max_size=12)


@settings(max_examples=200)
@given(p_lists)
def test_holm_is_its_definition(p_values) -> None:
    given_ = np.array(p_values)
    np.testing.assert_allclose(holm(given_), naive_holm(p_values), rtol=1e-12)
    np.testing.assert_array_equal(given_, p_values)
    assert naive_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02]), "written out"


INSTANCES = np.array([1, 2, 3, 4, 5, 6, 8, 10])


def curve(limit: float, exponent: float, instances=INSTANCES) -> np.ndarray:
    return limit * (1 - np.asarray(instances, float) ** -exponent)


@settings(max_examples=60)
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
