"""Rates of false claims: by counting, and on models that are known not to differ."""

import numpy as np
import pytest
from scipy import stats

from ctrlib.errors import UserError
from ctrlib.stats.delong import AucCovariance, delong
from ctrlib.stats.false_claims import claim_rate, false_claims


def test_claims_are_counted_first_half_against_second_half() -> None:
    replicate = AucCovariance(np.array([0.72, 0.70, 0.71, 0.75, 0.70, 0.70]), np.eye(6) * 0.005**2 / 2)
    # -.03 and 0 are no claims; .01 is one by size and, at two standard errors, just one by test.
    for replicates, arguments, by_threshold, by_delong in (
        ([replicate], {"threshold": 0.005}, 1, 1),
        ([replicate], {"threshold": 0.011}, 0, 1),
        ([replicate], {"threshold": 0.005, "significance": 0.04}, 1, 0),
        ([replicate] * 2, {"threshold": 0.005}, 2, 2),
    ):
        found = false_claims(replicates, **arguments)
        assert (found.by_threshold.claims, found.by_delong.claims) == (by_threshold, by_delong)
        assert found.by_threshold.comparisons == found.by_delong.comparisons == 3 * len(replicates)


def test_rates_are_right_where_test_rows_are_the_only_noise() -> None:
    """300 replicates of two times two equally good scores: a two-sided 5 % test claims a gain in 2.5 %."""
    rng, labels = np.random.default_rng(0), np.repeat([1, 0], [80, 160])
    scores = labels + rng.standard_normal((300, 1, 240)) + rng.standard_normal((300, 4, 240))
    replicates = [delong(labels, one) for one in scores]
    spread = np.sqrt(np.mean([np.square(one.difference(0, 2).standard_error) for one in replicates]))
    found = false_claims(replicates, threshold=spread)
    for claims, expected in ((found.by_delong, 0.025), (found.by_threshold, stats.norm.sf(1))):
        low, high = stats.binom.ppf([0.001, 0.999], 600, expected)
        assert low <= claims.claims <= high


def test_rate_has_wilsons_interval() -> None:
    found, expected = claim_rate(np.arange(40) < 4), stats.binomtest(4, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.claims, found.comparisons, found.rate) == (4, 40, 0.1)
    none = claim_rate(np.zeros((4, 10)))
    assert (none.rate, none.low) == (0, 0)
    assert none.high > 0.05


def test_odd_conditions_and_nothing_to_count_are_refused() -> None:
    with pytest.raises(UserError, match="two conditions of as many models, got 3 models"):
        false_claims([AucCovariance(np.zeros(3), np.eye(3))], threshold=0.0)
    with pytest.raises(UserError, match="at least one comparison"):
        false_claims([], threshold=0.0)
