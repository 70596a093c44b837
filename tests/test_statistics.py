"""Paired intervals and tests against scipy, against simulation, and against their definitions by loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ctrlib.errors import UserError
from ctrlib.stats.paired import (
    holm,
    minimum_detectable_effect,
    paired_difference,
    paired_power,
    relative_difference,
    sign_flip_difference,
)

replicates = st.integers(2, 12)
seeds = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
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


def test_interval_covers_no_effect_in_95_of_100_studies() -> None:
    """1,000 studies of 5 replicates without effect: how many intervals hold 0 is binomial (0.1 % to 99.9 % bounds)."""
    rng = np.random.default_rng(1)
    replicate, noise = rng.normal(0.7, 0.05, (1000, 5)), rng.normal(0, 0.01, (2, 1000, 5))
    found = [paired_difference(a, b) for a, b in zip(replicate + noise[0], replicate + noise[1], strict=True)]
    low, high = stats.binom.ppf([0.001, 0.999], 1000, 0.95)
    assert low <= sum(one.low <= 0 <= one.high for one in found) <= high
    assert low <= sum(one.verdict == "no difference shown" for one in found) <= high
    wrong = stats.binom.ppf([0.001, 0.999], 1000, 0.025)
    assert wrong[0] <= sum(one.verdict == "gain" for one in found) <= wrong[1]
    assert stats.kstest([one.p_value for one in found], "uniform").pvalue > 0.001


def test_one_group_carries_no_interval() -> None:
    found = paired_difference(np.array([0.71]), np.array([0.70]))
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert math.isnan(found.sd)
    assert math.isnan(found.p_value)
    assert (found.replicates, found.share_better, found.verdict) == (1, 1.0, "no difference shown")


@pytest.mark.parametrize(
    ("shift", "verdict", "p"), [(0.0, "no difference shown", 1.0), (0.5, "gain", 0.0), (-1, "loss", 0.0)]
)
def test_equal_differences_are_a_point(shift, verdict, p) -> None:
    control = np.array([1.0, 2.0, 4.0])
    found = paired_difference(control + shift, control)
    assert (found.mean, found.low, found.high, found.sd) == (shift, shift, shift, 0)
    assert (found.verdict, found.p_value) == (verdict, p)


# ---- sign-flip test -------------------------------------------------------------------------------------------------

# Sixteenths add up without rounding, so that ties are ties for scipy as well.
differences = st.lists(st.integers(-16, 16).map(lambda x: x / 16), min_size=2, max_size=8)


@settings(max_examples=60, deadline=None)
@given(differences)
def test_sign_flip_p_is_scipys_exact_permutation_test(values) -> None:
    values = np.array(values)
    if np.all(values == 0):
        return
    reference = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=2 ** len(values), vectorized=True
    )
    assert sign_flip_difference(values, np.zeros_like(values)).p_value == pytest.approx(reference.pvalue, rel=1e-12)


def test_sign_flip_sees_ties_through_rounding() -> None:
    """0.1 + 0.2 - 0.3 is not zero in binary. Flips that leave a mean as large: none, and of four sets around -0.3."""
    values = np.array([0.1, 0.2, -0.3, 1.0, 1.0, 1.0])
    assert sign_flip_difference(values, np.zeros(6)).p_value == 2 * 5 / 64
    assert sign_flip_difference(-values, np.zeros(6)).p_value == 2 * 5 / 64


@settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize("size", [6, 8, 13])
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


def test_too_few_groups_for_a_bounded_sign_flip_interval() -> None:
    five = sign_flip_difference(np.array([1.0, 1.1, 0.9, 1.2, 1.3]), np.zeros(5))
    assert (five.low, five.high, five.level, five.p_value) == (-math.inf, math.inf, 1.0, 2 / 32)
    six = sign_flip_difference(np.array([1.0, 1.1, 0.9, 1.2, 1.3, 1.4]), np.zeros(6))
    assert (six.low, six.high, six.level, six.p_value) == (0.9, 1.4, 1 - 2 / 64, 2 / 64)
    assert six.verdict == "gain"


both = pytest.mark.parametrize("compare", [paired_difference, sign_flip_difference])


@both
@settings(max_examples=40, deadline=None)
@given(seed=seeds, size=st.integers(2, 9), shift=st.floats(-2, 2))
def test_intervals_move_with_the_effect_turn_with_the_sign_and_ignore_order(compare, seed, size, shift) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, size))
    one, order = compare(a, b), rng.permutation(size)
    moved, turned, shuffled = compare(a + shift, b), compare(b, a), compare(a[order], b[order])
    scaled = compare(10 * a, 10 * b)
    assert (moved.low, moved.mean, moved.high) == pytest.approx((one.low + shift, one.mean + shift, one.high + shift))
    assert (turned.low, turned.mean, turned.high) == pytest.approx((-one.high, -one.mean, -one.low))
    assert (shuffled.low, shuffled.mean, shuffled.high) == pytest.approx((one.low, one.mean, one.high))
    assert (scaled.low, scaled.mean, scaled.high) == pytest.approx((10 * one.low, 10 * one.mean, 10 * one.high))
    assert turned.p_value == pytest.approx(one.p_value)
    assert shuffled.p_value == pytest.approx(one.p_value)
    assert turned.share_better == pytest.approx(1 - one.share_better)


@both
def test_conditions_of_different_length_are_refused(compare) -> None:
    with pytest.raises(UserError, match=r"one value per replicate each, got shapes \(3,\) and \(1,\)"):
        compare(np.zeros(3), np.zeros(1))


# ---- relative improvement -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
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


def test_relative_difference_at_its_edges() -> None:
    one = relative_difference(np.array([0.82]), np.array([0.8]))
    assert (one.mean, one.low, one.high) == (pytest.approx(0.025), -math.inf, math.inf)
    below = relative_difference(np.array([0.1, 0.2]), np.array([-0.1, 0.0]))
    assert math.isnan(below.mean)
    assert (below.low, below.high) == (-math.inf, math.inf)
    unclear = relative_difference(np.array([0.1, 0.2, 0.0]), np.array([0.4, -0.3, -0.05]))
    assert (unclear.low, unclear.high, unclear.verdict) == (-math.inf, math.inf, "no difference shown")


# ---- minimum detectable effect --------------------------------------------------------------------------------------


def test_minimum_detectable_effect_is_the_one_of_r() -> None:
    """R 4.2: power.t.test(n = 6, sd = 1, sig.level = .05, power = .8, type = "paired", strict = TRUE)."""
    assert minimum_detectable_effect(1.0, 6) == pytest.approx(1.43455, rel=2e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 10), st.integers(2, 40), st.sampled_from([0.9, 0.95, 0.99]), st.floats(0.2, 0.95))
def test_minimum_detectable_effect_turns_power_around(sd, size, level, power) -> None:
    effect = minimum_detectable_effect(sd, size, level, power)
    assert paired_power(effect, sd, size, level) == pytest.approx(power, rel=1e-6)
    assert paired_power(-effect, sd, size, level) == pytest.approx(power, rel=1e-6)
    assert paired_power(0.0, sd, size, level) == pytest.approx(1 - level)
    assert minimum_detectable_effect(sd, size + 1, level, power) < effect


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 5), "spread above 0, got 5 replicates and sd 0"),
        ((1.0, 1), "2 or more replicates and a spread above 0, got 1 replicates"),
        ((1.0, 5, 0.95, 1.0), "power must lie between 0.05 and 1, got 1"),
        ((1.0, 5, 0.95, 0.01), "power must lie between 0.05 and 1, got 0.01"),
    ],
)
def test_minimum_detectable_effect_refuses_in_one_line(arguments, words) -> None:
    with pytest.raises(UserError) as caught:
        minimum_detectable_effect(*arguments)
    assert words in str(caught.value)


# ---- Holm -----------------------------------------------------------------------------------------------------------


def naive_holm(p_values: list[float]) -> list[float]:
    """Holm 1979 by its definition: p of rank k is held against the other p values from k on; never below earlier."""
    known = [p for p in p_values if not math.isnan(p)]
    adjusted = []
    for p in p_values:
        if math.isnan(p):
            adjusted.append(math.nan)
            continue
        smaller = [q for q in known if q <= p]
        adjusted.append(min(1.0, max(q * sum(other >= q for other in known) for q in smaller)))
    return adjusted


p_lists = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.01, 0.04, 1.0, math.nan]), max_size=12)


@settings(max_examples=200, deadline=None)
@given(p_lists)
def test_holm_is_its_definition(p_values) -> None:
    np.testing.assert_allclose(holm(np.array(p_values)), naive_holm(p_values), rtol=1e-12)


def test_holm_written_out() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.02])) == pytest.approx([0.02])
    assert holm(np.array([])).shape == (0,)
    kept = np.array([0.3, 0.1])
    holm(kept)
    assert kept.tolist() == [0.3, 0.1]
