"""Rates of false claims: by counting, and on models that are known not to differ."""

import numpy as np
import pytest
from scipy import stats

from ctrlib.errors import UserError
from ctrlib.stats.delong import AucCovariance, delong
from ctrlib.stats.false_claims import claim_rate, false_claims


def test_claims_are_counted_first_half_against_second_half() -> None:
    replicate = AucCovariance(np.array([0.72, 0.70, 0.71, 0.75, 0.70, 0.70]), np.eye(6) * 0.005**2 / 2)
    found = false_claims([replicate], threshold=0.005)
    # -.03 and 0 are no claims; .01 is one by size and, at two standard errors, just one by test.
    assert (found.by_threshold.claims, found.by_threshold.comparisons) == (1, 3)
    assert (found.by_delong.claims, found.by_delong.comparisons) == (1, 3)
    assert false_claims([replicate], threshold=0.011).by_threshold.claims == 0
    assert false_claims([replicate], threshold=0.005, significance=0.04).by_delong.claims == 0
    twice = false_claims([replicate, replicate], threshold=0.005)
    assert (twice.by_threshold.claims, twice.by_threshold.comparisons) == (2, 6)
    assert twice.by_threshold.rate == pytest.approx(1 / 3)


def test_rates_are_right_where_test_rows_are_the_only_noise() -> None:
    """300 replicates of two times two equally good scores: a two-sided 5 % test claims a gain in 2.5 %."""
    replicates = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = np.repeat([1, 0], [80, 160])
        replicates.append(delong(labels, rng.standard_normal(240) + labels + rng.standard_normal((4, 240))))
    spread = np.sqrt(np.mean([np.square(one.difference(0, 2).standard_error) for one in replicates]))
    found = false_claims(replicates, threshold=spread)
    low, high = stats.binom.ppf([0.001, 0.999], 600, 0.025)
    assert low <= found.by_delong.claims <= high
    low, high = stats.binom.ppf([0.001, 0.999], 600, stats.norm.sf(1))
    assert low <= found.by_threshold.claims <= high


def test_seeds_that_move_a_model_make_delong_claim_more_than_its_level() -> None:
    """True AUCs that vary between seeds by three times the test rows' error: most of its significance is false."""
    rng = np.random.default_rng(1)
    aucs = 0.75 + 0.003 * rng.standard_normal((300, 2)) + 0.001 * rng.standard_normal((300, 2))
    replicates = [AucCovariance(one, np.eye(2) * 0.001**2) for one in aucs]
    expected = stats.norm.sf(stats.norm.ppf(0.975) / np.sqrt(10))
    low, high = stats.binom.ppf([0.001, 0.999], 300, expected)
    found = false_claims(replicates, threshold=0.0).by_delong
    assert low <= found.claims <= high
    assert found.low > 0.05


def test_rate_has_wilsons_interval_and_it_covers() -> None:
    n, p, z = 40, 0.1, stats.norm.ppf(0.975)
    found = claim_rate(np.arange(n) < p * n)
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.low, found.high) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    )
    assert (found.claims, found.comparisons, found.rate) == (4, 40, 0.1)
    none = claim_rate(np.zeros((4, 10)))
    assert (none.rate, none.low) == (0, 0)
    assert none.high > 0.05


def test_odd_conditions_and_nothing_to_count_are_refused() -> None:
    with pytest.raises(UserError, match="two conditions of as many models, got 3 models"):
        false_claims([AucCovariance(np.zeros(3), np.eye(3))], threshold=0.0)
    with pytest.raises(UserError, match="at least one comparison"):
        false_claims([], threshold=0.0)
