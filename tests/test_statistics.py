"""Paired intervals and tests against scipy, against simulation, and against their definitions by loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ctrlib.statistics import PairedDifference, holm, paired_difference

groups = st.integers(2, 12)
seeds = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(groups, seeds, st.floats(0.5, 0.999))
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
    assert (found.groups, found.level) == (size, level)
    assert (found.p_value < 1 - level) == (found.verdict != "no difference shown")


def test_interval_covers_no_effect_in_95_of_100_studies() -> None:
    """1,000 studies of 5 groups without an effect: how many intervals hold 0 is binomial (0.1 % to 99.9 % bounds)."""
    rng = np.random.default_rng(1)
    group, noise = rng.normal(0.7, 0.05, (1000, 5)), rng.normal(0, 0.01, (2, 1000, 5))
    found = [paired_difference(a, b) for a, b in zip(group + noise[0], group + noise[1], strict=True)]
    low, high = stats.binom.ppf([0.001, 0.999], 1000, 0.95)
    assert low <= sum(one.low <= 0 <= one.high for one in found) <= high
    assert low <= sum(one.verdict == "no difference shown" for one in found) <= high
    wrong = stats.binom.ppf([0.001, 0.999], 1000, 0.025)
    assert wrong[0] <= sum(one.verdict == "gain" for one in found) <= wrong[1]
    assert stats.kstest([one.p_value for one in found], "uniform").pvalue > 0.001


def test_pairing_sees_what_group_spread_would_hide() -> None:
    control = np.array([0.60, 0.70, 0.80, 0.90])
    treatment = control + np.array([0.010, 0.011, 0.009, 0.010])
    assert paired_difference(treatment, control).verdict == "gain"
    assert stats.ttest_ind(treatment, control).pvalue > 0.9


@given(groups, seeds)
def test_exchanging_the_arms_mirrors_everything(size, seed) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, size))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)
    assert one.share_better + other.share_better == pytest.approx(1)


def test_share_better_counts_a_tie_as_half() -> None:
    assert paired_difference(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 2.0, 5.0])).share_better == 0.625


def test_one_group_carries_no_interval() -> None:
    found = paired_difference(np.array([0.71]), np.array([0.70]))
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert math.isnan(found.sd)
    assert math.isnan(found.p_value)
    assert (found.groups, found.share_better, found.verdict) == (1, 1.0, "no difference shown")


@pytest.mark.parametrize(
    ("shift", "verdict", "p"), [(0.0, "no difference shown", 1.0), (0.5, "gain", 0.0), (-1, "loss", 0.0)]
)
def test_equal_differences_are_a_point(shift, verdict, p) -> None:
    control = np.array([1.0, 2.0, 4.0])
    found = paired_difference(control + shift, control)
    assert (found.mean, found.low, found.high, found.sd) == (shift, shift, shift, 0)
    assert (found.verdict, found.p_value) == (verdict, p)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1e-9, 0.1, "gain"),
        (-0.1, -1e-9, "loss"),
        (0.0, 0.1, "no difference shown"),
        (-0.1, 0.0, "no difference shown"),
        (-0.1, 0.1, "no difference shown"),
        (-math.inf, math.inf, "no difference shown"),
    ],
)
def test_verdict_asks_only_whether_the_interval_excludes_zero(low, high, verdict) -> None:
    assert PairedDifference(0.0, low, high, 1.0, 5, 0.5, 0.5, 0.95).verdict == verdict


def test_more_confidence_is_a_wider_interval() -> None:
    a, b = np.random.default_rng(3).standard_normal((2, 6))
    widths = [found.high - found.low for found in (paired_difference(a, b, level) for level in (0.5, 0.9, 0.95, 0.99))]
    assert widths == sorted(widths)


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level) -> None:
    rejected, order = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        if p_values[i] * (len(p_values) - rank) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(np.array(p_values))) if p <= level} == rejected


def test_holm_written_out() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.02])) == pytest.approx([0.02])
    assert holm(np.array([])).shape == (0,)
    kept = np.array([0.3, 0.1])
    holm(kept)
    assert kept.tolist() == [0.3, 0.1]
