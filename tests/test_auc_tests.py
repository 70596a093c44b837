"""Covariance of AUCs and rates of false claims: by definition, by published numbers, by counting, by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small import refused

from ctrlib.stats import delong as auc_tests
from ctrlib.stats.delong import AucCovariance, delong, pool_folds
from ctrlib.stats.false_claims import claim_rate, false_claims
from ctrlib.stats.metrics import cohort_auc

# 43 patients of DeLong et al. 1988 as SAS/STAT's example "Comparing Receiver Operating Characteristic Curves" lists
# them: albumin, total protein, K-G score, 1 for those who died within two months of surgery.
PATIENTS = np.fromstring(
    "3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  "
    "3.8 5.7  5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  "
    "2.3 4.4  6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  "
    "3.1 6.6  6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  "
    "3.7 6.1  5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  "
    "3.3 5.7  6 1  3.7 6.9 5 1  3.6 6.6 5 1",
    sep=" ",
).reshape(43, 4)


def drawn(seed: int, models: int, clicks: int, others: int, values: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled labels and correlated scores of equally good models; whole numbers below ``values`` make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [clicks, others]))
    shared = rng.standard_normal(labels.size) + labels
    scores = shared + rng.standard_normal((models, labels.size))
    if values:
        scores = np.floor(np.clip(scores, -2, 3) / 5 * values)
    return labels, scores


def brute_force(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong et al. 1988 by their definitions: every pair (click, other), O(m n), float64."""
    clicks, others = scores[:, labels == 1], scores[:, labels == 0]
    wins = (clicks[:, :, None] > others[:, None, :]) + 0.5 * (clicks[:, :, None] == others[:, None, :])
    aucs, (m, n) = wins.mean(axis=(1, 2)), wins.shape[1:]
    v10, v01 = wins.mean(axis=2) - aucs[:, None], wins.mean(axis=1) - aucs[:, None]
    return aucs, v10 @ v10.T / (m - 1) / m + v01 @ v01.T / (n - 1) / n


cohorts = st.tuples(
    st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 40), st.integers(2, 40), st.sampled_from([0, 1, 2, 4, 9])
)


@settings(max_examples=150)
@given(cohorts, st.sampled_from([np.float32, np.float64]), st.sampled_from([3, 7, auc_tests.BLOCK]))
def test_delong_is_its_definition(cohort, dtype, block) -> None:
    labels, scores = drawn(*cohort)
    scores = scores.astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auc_tests, "BLOCK", block)
        found = delong(labels, scores)
    aucs, covariance = brute_force(labels, scores)
    np.testing.assert_allclose(found.aucs, aucs, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10, atol=1e-15)
    assert found.aucs.tolist() == cohort_auc(labels, scores).tolist()  # whole numbers, divided once


def test_delong_gives_the_published_numbers() -> None:
    """As R's pROC 1.18 computes them from these rows (var, cov, roc.test); SAS/STAT prints the same to 4 digits."""
    albumin, protein, kg, labels = PATIENTS.T
    found = delong(labels, [10 - kg, albumin, protein])
    assert found.aucs == pytest.approx([0.725806451613, 0.736559139785, 0.647849462366], rel=1e-11)
    assert found.standard_errors == pytest.approx([0.102821608980, 0.0926943460524, 0.100047375584], rel=1e-10)
    covariances = found.covariance[[0, 1, 0], [1, 2, 2]]
    assert covariances == pytest.approx([0.00503705981073307, 0.00774452927646216, 0.00481929729133163], rel=1e-12)
    assert found.difference(0, 1).p_value == pytest.approx(0.910206347201, rel=1e-10)
    assert found.difference(0, 2).p_value == pytest.approx(0.456139707507, rel=1e-10)


def test_a_contrast_of_means_is_their_difference() -> None:
    found, weights = delong(*drawn(3, 4, 50, 90)), np.array([0.5, 0.5, -0.5, -0.5])
    one = found.contrast(weights)
    assert one.estimate == pytest.approx(found.aucs[:2].mean() - found.aucs[2:].mean(), abs=1e-14)
    assert one.standard_error == pytest.approx(math.sqrt(weights @ found.covariance @ weights))
    interval = stats.norm.interval(0.95, loc=one.estimate, scale=one.standard_error)
    assert (one.low, one.high) == pytest.approx(interval, rel=1e-12)
    assert (one.p_value < 0.05) == (one.verdict != "no difference shown")
    assert found.difference(0, 2) == found.contrast([1, 0, -1, 0])
    assert found.difference(1, 1).estimate == 0


def test_equal_rankings_differ_by_nothing_and_perfect_ones_by_a_point() -> None:
    labels, scores = drawn(4, 1, 30, 50)
    same = delong(labels, np.vstack([scores[0], np.exp(scores[0])])).difference(0, 1)
    assert (same.estimate, same.low, same.high, same.p_value, same.verdict) == (0, 0, 0, 1, "no difference shown")
    perfect = delong(labels, [labels, -labels]).difference(0, 1)
    assert (perfect.estimate, perfect.standard_error, perfect.p_value, perfect.verdict) == (1, 0, 0, "gain")


def test_folds_pool_to_the_mean_auc_and_its_spread() -> None:
    folds = [delong(*drawn(fold, 2, 40, 80)) for fold in range(5)]
    pooled = pool_folds(folds)
    np.testing.assert_allclose(pooled.aucs, np.mean([one.aucs for one in folds], axis=0))
    np.testing.assert_allclose(pooled.covariance * 25, sum(one.covariance for one in folds))


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


@pytest.mark.parametrize(
    ("function", "given_", "words"),
    [
        (delong, ([0, 0, 1], [[1.0, 2, 3]]), "two rows of each label, got 1 clicks and 2 others"),
        (delong, ([0, 1, 1, 0], [[1.0, 2, 3, 4], [1.0, np.nan, 3, 4]]), "scores of member 1 has 1 NaN"),
        (AucCovariance(np.zeros(2), np.eye(2)).contrast, ([1, -1, 0],), "2 AUCs needs as many weights, got shape (3,)"),
        (pool_folds, ([],), "at least one fold"),
        (false_claims, ([AucCovariance(np.zeros(3), np.eye(3))], 0.0), "two conditions of as many models, got 3"),
        (false_claims, ([], 0.0), "at least one comparison"),
    ],
)
def test_what_cannot_be_tested_is_refused_in_one_line(function, given_, words) -> None:
    assert words in refused(function, *given_)
