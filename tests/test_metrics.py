"""Metrics against scikit-learn, against counting by hand and against simulation."""

import math
import time
import tracemalloc
import warnings
from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score

from ctrlib.errors import UserError
from ctrlib.stats import metrics
from ctrlib.stats.metrics import (
    auc,
    auc_standard_error,
    calibration,
    churn,
    cohort_auc,
    error_overlap,
    expected_auc,
    expected_logloss,
    logloss,
    logloss_from_logits,
    relative_improvement,
)


@st.composite
def labelled_scores(draw):
    """Labels of both kinds and small integer scores, so ties are the rule."""
    rows = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=30))
    labels, scores = map(np.array, zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    return labels, scores


TIED_SCORES = [0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-45, 1e-310, 1.0, -1.0, 1 + 2**-23, 1 + 2**-52, np.inf, -np.inf]


@st.composite
def cohorts(draw, infinite=True):
    """Labels (N,) of both kinds and scores (K, N) of one of the two types: ties, both zeros, denormals, infinities."""
    members, rows = draw(st.integers(1, 4)), draw(st.integers(2, 20))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = np.finfo(dtype).bits
    ordinary = [value for value in TIED_SCORES if infinite or np.isfinite(value)]
    one = st.sampled_from(ordinary) | st.floats(width=width, allow_nan=False, allow_infinity=infinite)
    scores = draw(st.lists(one, min_size=members * rows, max_size=members * rows))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    assume(0 < sum(labels) < rows)
    return np.array(labels, np.uint8), np.array(scores, dtype).reshape(members, rows)


def counted_auc(labels, scores) -> float:
    """AUC from all pairs, one by one, in integers."""
    pairs = [(s, t) for s in scores[labels == 1] for t in scores[labels == 0]]
    return float(Fraction(sum(2 * int(s > t) + int(s == t) for s, t in pairs), 2 * len(pairs)))


probability_lists = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0]) | st.floats(0, 1), max_size=20)


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- AUC ------------------------------------------------------------------------------------------------------------


@given(labelled_scores())
def test_auc_is_wins_and_half_ties(data):
    labels, scores = data
    pairs = [(s, t) for s in scores[labels == 1] for t in scores[labels == 0]]
    assert auc(labels, scores) == sum(2 * (s > t) + (s == t) for s, t in pairs) / (2 * len(pairs))


@given(labelled_scores())
def test_auc_equals_sklearn_on_ties(data):
    assert auc(*data) == pytest.approx(roc_auc_score(*data), abs=1e-12)


@given(labelled_scores())
def test_auc_depends_on_order_of_scores_alone(data):
    labels, scores = data
    expected = auc(labels, scores)
    assert auc(labels, scores**3 + 2 * scores) == expected
    assert auc(labels, np.exp(scores)) == expected
    assert auc(labels[::-1], scores[::-1]) == expected
    assert auc(labels, -scores) == pytest.approx(1 - expected, abs=1e-15)
    assert auc(1 - labels, scores) == pytest.approx(1 - expected, abs=1e-15)


@pytest.mark.parametrize("decimals", [2, 12])
def test_auc_equals_sklearn_on_a_million_rows(decimals):
    rng = np.random.default_rng(1)
    p = rng.beta(1, 4, 1_000_000).round(decimals)
    labels = rng.random(p.size) < p
    begin = time.perf_counter()
    value = auc(labels, p)
    assert time.perf_counter() - begin < 3
    assert value == pytest.approx(roc_auc_score(labels, p), abs=1e-12)
    assert 0.6 < value < 0.9


def test_auc_landmarks():
    assert auc([0, 1, 0, 1], [7, 7, 7, 7]) == 0.5
    assert auc([0, 0, 1], [1, 2, 3]) == 1.0
    assert auc([1, 0, 0], [1, 2, 3]) == 0.0
    assert auc([0, 1], [-np.inf, np.inf]) == 1.0
    assert auc(np.array([0.0, 1.0], np.float32), np.array([0.2, 0.1], np.float32)) == 0.0


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([1, 1], [0.1, 0.2], "all 2 rows are labelled 1"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "all 3 rows are labelled 0"),
        ([0, 1], [0.1, np.nan], "1 NaN among 2 rows"),
        ([0, np.nan], [0.1, 0.2], "labels has 1 NaN"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1, got 2"),
        ([0, 1, 1], [0.1, 0.2], "differ in length: 3 and 2"),
        ([], [], "non-empty"),
        ([[0, 1]], [[0.1, 0.2]], "shape (1, 2)"),
    ],
)
def test_auc_refuses_in_one_line(labels, scores, words):
    with pytest.raises(UserError) as caught:
        auc(labels, scores)
    assert words in one_line(caught)


# ---- AUC of a cohort ------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(cohorts())
def test_cohort_auc_counts_every_pair(data):
    labels, scores = data
    result = cohort_auc(labels, scores)
    assert (result.shape, result.dtype) == ((len(scores),), np.float64)
    assert result.tolist() == [counted_auc(labels, one) for one in scores]


@settings(max_examples=400)
@given(cohorts())
def test_cohort_auc_is_auc_of_each_member_in_either_type(data):
    labels, scores = data
    expected = [auc(labels, one) for one in scores]
    assert cohort_auc(labels, scores).tolist() == expected
    assert cohort_auc(labels, scores.astype(np.float64)).tolist() == expected
    assert [auc(labels, one.astype(np.float64)) for one in scores] == expected


@given(cohorts(infinite=False))
def test_cohort_auc_equals_sklearn(data):
    labels, scores = data
    expected = [roc_auc_score(labels, one) for one in scores]
    np.testing.assert_allclose(cohort_auc(labels, scores), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("click_rate", [0.05, 0.8])
def test_cohort_auc_equals_sklearn_on_many_rows(dtype, click_rate):
    rng = np.random.default_rng(9)
    labels = (rng.random(200_000) < click_rate).astype(np.uint8)
    scores = (labels + rng.normal(0, 1.5, (4, labels.size))).astype(dtype)
    scores[1] = scores[1].round(1)  # ties
    scores[2] = 3.0
    result = cohort_auc(labels, scores)
    np.testing.assert_allclose(result, [roc_auc_score(labels, one) for one in scores], rtol=0, atol=1e-12)
    assert result[2] == 0.5
    assert result[0] > 0.6


def test_cohort_auc_leaves_most_of_the_time_of_sklearn():
    """In processor time of one thread, with much room: the factor is 5 and more on millions of rows."""
    rng = np.random.default_rng(10)
    labels = (rng.random(500_000) < 0.25).astype(np.uint8)
    scores = (labels + rng.normal(0, 1.5, (3, labels.size))).astype(np.float32)

    def seconds(work):
        begin = time.process_time()
        work()
        return time.process_time() - begin

    ours = min(seconds(lambda: cohort_auc(labels, scores)) for _ in range(3))
    theirs = min(seconds(lambda: [roc_auc_score(labels, one) for one in scores]) for _ in range(2))
    assert ours < theirs / 2


def test_cohort_auc_holds_one_member_at_a_time():
    rng = np.random.default_rng(11)
    labels = (rng.random(100_000) < 0.25).astype(np.uint8)
    scores = rng.normal(size=(20, labels.size)).astype(np.float32)
    tracemalloc.start()
    cohort_auc(labels, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * labels.size  # bytes a row, whatever K


def test_cohort_auc_takes_what_auc_takes_and_changes_nothing():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([[3, 1, 2, 2, 9], [5, 4, 3, 2, 1]])
    expected = [counted_auc(labels, one) for one in scores]
    forms = [scores, scores.tolist(), torch.tensor(scores), torch.tensor(scores).float(), pd.DataFrame(scores)]
    forms += [np.asfortranarray(scores), scores.astype(np.float32)[:, ::-1][:, ::-1], scores.astype(np.float16)]
    for form in forms:
        for kind in (np.uint8, bool, np.int64, np.float32):
            assert cohort_auc(labels.astype(kind), form).tolist() == expected
    assert cohort_auc(torch.tensor(labels), scores).tolist() == expected
    assert cohort_auc(pd.Series(labels), scores).tolist() == expected
    locked = scores.astype(np.float32)
    for array in (labels, locked):
        array.flags.writeable = False
    assert cohort_auc(labels, locked).tolist() == expected
    assert locked.tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1], np.empty((0, 2)), "shape (0, 2)"),
        ([0, 1], np.empty((2, 0)), "shape (2, 0)"),
        ([0, 1], [0.1, 0.2], "shape (2,)"),
        ([0, 1], [[[0.1, 0.2]]], "shape (1, 1, 2)"),
        ([0, 1, 1], [[0.1, 0.2]], "differ in length: 3 and 2"),
        ([[0, 1]], [[0.1, 0.2]], "labels must be a non-empty column of numbers, got shape (1, 2)"),
        (np.array([[0, 1]], np.uint8), [[0.1, 0.2]], "labels must be a non-empty column of numbers, got shape (1, 2)"),
        ([], [[0.1, 0.2]], "labels must be a non-empty column of numbers, got shape (0,)"),
        ([0, 1], [[0.1, 0.2], [np.nan, 0.2]], "scores of member 1 has 1 NaN among 2 rows"),
        ([0, 1], np.float32([[np.nan, np.nan], [0.1, 0.2]]), "scores of member 0 has 2 NaN among 2 rows"),
        ([1, 1], [[0.1, 0.2]], "all 2 rows are labelled 1"),
        (np.zeros(3, np.uint8), [[0.1, 0.2, 0.3]], "all 3 rows are labelled 0"),
        ([0, np.nan], [[0.1, 0.2]], "labels has 1 NaN"),
        (np.array([0, 3], np.uint8), [[0.1, 0.2]], "labels must be 0 or 1, got 3"),
        ([0, -1], [[0.1, 0.2]], "labels must be 0 or 1, got -1"),
        ([0, 0.5], [[0.1, 0.2]], "labels must be 0 or 1, got 0.5"),
    ],
)
def test_cohort_auc_refuses_in_one_line(labels, scores, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            cohort_auc(labels, scores)
    assert words in one_line(caught)


# ---- standard error of AUC ------------------------------------------------------------------------------------------


def test_auc_standard_error_of_a_worked_case():
    # AUC 3/4 with 2 clicks and 2 others: Q1 = .75/1.25 = .6, Q2 = 1.125/1.75 = 9/14.
    labels, scores = [0, 1, 0, 1], [1, 2, 3, 4]
    expected = math.sqrt((3 / 16 + (0.6 - 9 / 16) + (9 / 14 - 9 / 16)) / 4)
    assert auc(labels, scores) == 0.75
    assert auc_standard_error(labels, scores) == pytest.approx(expected, rel=1e-12)
    assert auc_standard_error([0, 0, 1], [1, 2, 3]) == 0.0


def test_auc_standard_error_uses_each_class_size():
    rng = np.random.default_rng(2)
    labels = np.repeat([1, 0], [30, 200])
    scores = np.where(labels, rng.exponential(3.0, 230), rng.exponential(1.0, 230))
    a = auc(labels, scores)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    expected = math.sqrt((a * (1 - a) + 29 * (q1 - a * a) + 199 * (q2 - a * a)) / (30 * 200))
    assert auc_standard_error(labels, scores) == pytest.approx(expected, rel=1e-12)


def test_auc_standard_error_is_the_spread_over_samples():
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [60, 200])
    samples = [np.where(labels, rng.exponential(3.0, 260), rng.exponential(1.0, 260)) for _ in range(1500)]
    spread = np.std([auc(labels, s) for s in samples])
    claimed = np.mean([auc_standard_error(labels, s) for s in samples])
    assert claimed == pytest.approx(spread, rel=0.08)  # the sd of 1500 draws is known to 2 %


# ---- log loss -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_logloss_equals_sklearn(rows):
    labels, p = map(np.array, zip(*rows, strict=True))
    assert logloss(labels, p) == pytest.approx(log_loss(labels, p, labels=[0, 1]), rel=1e-12, abs=1e-12)


def test_logloss_equals_sklearn_on_a_million_rows():
    rng = np.random.default_rng(4)
    p = rng.beta(1, 4, 1_000_000)
    labels = rng.random(p.size) < p
    assert logloss(labels, p) == pytest.approx(log_loss(labels, p), abs=1e-12)


def test_logloss_landmarks():
    assert logloss([0, 1, 1], [0.5, 0.5, 0.5]) == pytest.approx(math.log(2))
    assert logloss([1], [0.0]) == pytest.approx(36.04, abs=0.01)
    assert logloss([0], [1.0]) == pytest.approx(36.04, abs=0.01)
    assert logloss([1, 0], [1.0, 0.0]) < 1e-15


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-15, 15)), min_size=1, max_size=30))
def test_logloss_from_logits_equals_logloss_of_the_probabilities(rows):
    labels, z = map(np.array, zip(*rows, strict=True))
    assert logloss_from_logits(labels, z) == pytest.approx(logloss(labels, 1 / (1 + np.exp(-z))), rel=1e-8, abs=1e-12)


def test_logloss_from_logits_is_exact_far_out():
    assert logloss_from_logits([0, 1], [800.0, -600.0]) == 700.0
    assert logloss_from_logits([1], [100.0]) == pytest.approx(math.exp(-100), rel=1e-12)
    assert logloss_from_logits([1, 0], [1e6, -1e6]) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_losses_keep_every_bit_of_their_plain_formulas(dtype):
    """They save copies and passes, never a rounding: the same terms in the same order."""
    rng = np.random.default_rng(12)
    logits = np.append(rng.normal(-1, 3, 100_003), [0.0, -0.0, 90.0, -90.0]).astype(dtype)
    clicked = rng.random(logits.size) < 0.25
    z = logits.astype(np.float64)
    assert logloss_from_logits(clicked, logits) == np.logaddexp(0, np.where(clicked, -z, z)).mean()
    p = (1 / (1 + np.exp(-z))).astype(dtype)
    clipped = p.astype(np.float64).clip(metrics.PROBABILITY_MARGIN, 1 - metrics.PROBABILITY_MARGIN)
    assert logloss(clicked, p) == -np.where(clicked, np.log(clipped), np.log1p(-clipped)).mean()
    assert logits.tobytes() == z.astype(dtype).tobytes(), "the argument stays as it was"


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, np.inf])
@pytest.mark.parametrize("metric", [logloss, calibration])
def test_probabilities_outside_their_range_are_refused(metric, bad):
    with pytest.raises(UserError) as caught:
        metric([0, 1], [0.5, bad])
    assert "probabilities" in one_line(caught)


def test_logits_with_nan_are_refused():
    with pytest.raises(UserError, match="logits has 1 NaN"):
        logloss_from_logits([0, 1], [0.5, np.nan])


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    p = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]
    result = calibration([0, 1, 0, 0, 1, 1], p, bins=3)
    assert result.bins["rows"].tolist() == [2, 2, 2]
    assert result.bins["lowest"].tolist() == [0.1, 0.3, 0.6]
    assert result.bins["highest"].tolist() == [0.2, 0.4, 0.8]
    assert result.bins["mean_probability"].tolist() == pytest.approx([0.15, 0.35, 0.7])
    assert result.bins["click_rate"].tolist() == [0.5, 0.0, 1.0]
    assert result.expected_error == pytest.approx((0.35 + 0.35 + 0.3) / 3)
    assert result.ratio == pytest.approx(2.4 / 3)


def test_calibration_weighs_bins_by_their_rows():
    result = calibration([1, 0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.5], bins=5)
    assert result.bins["rows"].tolist() == [4, 1]
    assert result.expected_error == pytest.approx((4 * 0.05 + 1 * 0.5) / 5)


def test_calibration_of_the_truth_is_good_and_of_doubled_odds_is_not():
    rng = np.random.default_rng(5)
    p = rng.beta(2, 6, 100_000)
    labels = rng.random(p.size) < p
    honest, doubled = calibration(labels, p), calibration(labels, 2 * p / (1 + p))
    assert honest.ratio == pytest.approx(1, abs=0.02)
    assert honest.expected_error < 0.01
    assert doubled.ratio > 1.4
    assert doubled.expected_error > 0.1
    assert honest.bins["rows"].tolist() == [10_000] * 10


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=40), st.integers(1, 12))
def test_calibration_bins_partition_the_rows_and_ignore_their_order(rows, bins):
    labels, p = map(np.array, zip(*rows, strict=True))
    p = p / 4
    assume(labels.any())
    result = calibration(labels, p, bins)
    table = result.bins
    assert table["rows"].sum() == len(p)
    assert 1 <= len(table) <= bins
    assert (table["rows"] * table["click_rate"]).sum() == pytest.approx(labels.sum())
    for bin in table.itertuples():
        inside = (p >= bin.lowest) & (p <= bin.highest)
        assert inside.sum() == bin.rows  # ties never straddle two bins
        assert bin.mean_probability == pytest.approx(p[inside].mean())
        assert bin.click_rate == pytest.approx(labels[inside].mean())
    backwards = calibration(labels[::-1], p[::-1], bins)
    assert backwards.bins.equals(table)
    assert backwards.expected_error == result.expected_error


def test_calibration_refusals():
    with pytest.raises(UserError, match="labelled 0"):
        calibration([0, 0], [0.1, 0.2])
    with pytest.raises(UserError, match="bins"):
        calibration([0, 1], [0.1, 0.2], bins=0)


# ---- churn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [2, 3, 5])
def test_churn_is_the_mean_over_pairs(models):
    p = np.random.default_rng(6).random((models, 50)).round(1)  # ties
    differences, correlations = [], []
    for a, b in combinations(p, 2):
        differences.append(sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 50)
        correlations.append(spearmanr(a, b).statistic)
    result = churn(p)
    assert result.mean_difference == pytest.approx(np.mean(differences), rel=1e-12)
    assert result.rank_correlation == pytest.approx(np.mean(correlations), rel=1e-10)


def test_churn_landmarks():
    p = np.linspace(0.1, 0.9, 9)
    assert churn([p, p, p]).mean_difference == 0
    assert churn([p, p, p]).rank_correlation == pytest.approx(1)
    assert churn([p, p**2]).rank_correlation == pytest.approx(1)
    assert churn([p, p**2]).mean_difference > 0.1
    assert churn([p, 1 - p]).rank_correlation == pytest.approx(-1)


def test_churn_with_a_constant_member_has_no_rank_correlation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = churn([[0.1, 0.2, 0.4], [0.3, 0.3, 0.3]])
    assert math.isnan(result.rank_correlation)
    assert result.mean_difference == pytest.approx(0.4 / 3)


@pytest.mark.parametrize("matrix", [[0.1, 0.2], [[0.1, 0.2]], [[0.1, 2.0], [0.1, 0.2]], [[0.1, np.nan], [0.1, 0.2]]])
def test_churn_refuses_in_one_line(matrix):
    with pytest.raises(UserError) as caught:
        churn(matrix)
    one_line(caught)


# ---- improvement ----------------------------------------------------------------------------------------------------


def test_relative_improvement_in_both_senses():
    ratio, rela_impr = relative_improvement(0.78, 0.75)
    assert ratio == pytest.approx(0.04)
    assert rela_impr == pytest.approx(0.12)
    assert relative_improvement(0.75, 0.75) == (0, 0)
    assert relative_improvement(0.7, 0.75).of_excess == pytest.approx(-0.2)
    assert relative_improvement(0.54, 0.52).of_excess == pytest.approx(1.0)
    assert math.isnan(relative_improvement(0.6, 0.5).of_excess)


# ---- what the truth itself reaches ----------------------------------------------------------------------------------


@given(probability_lists)
def test_expected_auc_by_brute_force(p):
    ordered = [(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j]
    all_pairs = sum(a * (1 - b) for a, b in ordered)
    assume(all_pairs > 1e-6)
    right = sum(a * (1 - b) * ((a > b) + 0.5 * (a == b)) for a, b in ordered)
    assert expected_auc(p) == pytest.approx(right / all_pairs, rel=1e-9)


def test_expected_auc_landmarks():
    assert expected_auc([0.3] * 10) == pytest.approx(0.5)
    assert expected_auc([0.0, 1.0, 0.0]) == 1.0
    assert 0.5 < expected_auc([0.4, 0.6]) < 1


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=20))
def test_expected_auc_never_rewards_doubt(p):
    assert expected_auc(p) >= 0.5 - 1e-12


def test_expectations_agree_with_simulated_labels():
    rng = np.random.default_rng(7)
    p = rng.beta(1, 3, 2000).round(2)  # ties, zeros possible
    draws = [rng.random(p.size) < p for _ in range(1000)]

    simulated = np.array([logloss(labels, p) for labels in draws])
    assert abs(simulated.mean() - expected_logloss(p)) < 3 * simulated.std() / math.sqrt(len(draws))

    # The ratio of expectations, so numerator and denominator are averaged before dividing (delta method for the SE).
    aucs = np.array([auc(labels, p) for labels in draws])
    pairs = np.array([float(labels.sum()) * (~labels).sum() for labels in draws])
    ratio = (aucs * pairs).sum() / pairs.sum()
    residual = (aucs - ratio) * pairs / pairs.mean()
    assert abs(ratio - expected_auc(p)) < 3 * residual.std() / math.sqrt(len(draws))
    assert residual.std() / math.sqrt(len(draws)) < 1e-3  # narrow enough to notice a wrong formula


@pytest.mark.parametrize("p", [[0.3], [0.0, 0.0], [1.0, 1.0]])
def test_expected_auc_needs_a_chance_of_both_labels(p):
    with pytest.raises(UserError) as caught:
        expected_auc(p)
    assert "both labels" in one_line(caught)


def test_expected_logloss_is_the_mean_entropy():
    assert expected_logloss([0.5]) == pytest.approx(math.log(2))
    assert expected_logloss([0.0, 1.0]) == 0
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert expected_logloss([0.2, 0.8, 0.5]) == pytest.approx((2 * entropy + math.log(2)) / 3)


def test_no_prediction_beats_the_truth_in_expectation():
    rng = np.random.default_rng(8)
    p = rng.beta(1, 3, 200_000)
    labels = rng.random(p.size) < p
    noisy = 1 / (1 + np.exp(-np.log(p / (1 - p)) - rng.normal(0, 0.5, p.size)))
    assert auc(labels, noisy) < expected_auc(p) - 0.005
    assert logloss(labels, noisy) > expected_logloss(p) + 0.005
    assert auc(labels, p) == pytest.approx(expected_auc(p), abs=0.005)


# ---- error overlap --------------------------------------------------------------------------------------------------


def naive_overlap(labels, probabilities, worst_rows):
    """By loops: Pearson of residuals and Jaccard of the worst rows by log loss, averaged over pairs."""
    correlations, jaccards = [], []
    for a, b in combinations(probabilities, 2):
        correlations.append(np.corrcoef(a - labels, b - labels)[0, 1])
        sets = []
        for p in (a, b):
            loss = [-math.log(q if y else 1 - q) for q, y in zip(p, labels, strict=True)]
            sets.append(set(sorted(range(len(p)), key=lambda i, loss=loss: (-loss[i], i))[:worst_rows]))
        jaccards.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    return np.mean(correlations), np.mean(jaccards)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(3, 40), st.floats(0.01, 1), st.integers(0, 999))
def test_error_overlap_is_what_loops_find(models, count, share, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    p = rng.choice(np.arange(1, 16) / 16, (models, count))  # ties are common, and exact
    found = error_overlap(labels, p, share)
    assert found.worst_rows == max(1, round(share * count))
    correlation, jaccard = naive_overlap(labels, p, found.worst_rows)
    assert found.worst_overlap == pytest.approx(jaccard)
    assert found.residual_correlation == pytest.approx(correlation, nan_ok=True)


def test_chance_is_what_unrelated_models_show():
    rng = np.random.default_rng(1)
    labels = np.zeros(50, dtype=int)
    found = [error_overlap(labels, rng.random((2, 50)), 0.2) for _ in range(2000)]
    overlaps = [one.worst_overlap for one in found]
    assert found[0].chance == pytest.approx(np.mean(overlaps), abs=4 * np.std(overlaps) / math.sqrt(2000))
    assert abs(np.mean([one.residual_correlation for one in found])) < 0.02
    many = error_overlap(np.zeros(100_000, dtype=int), rng.random((2, 100_000)))
    assert many.chance == pytest.approx(0.1 / 1.9, rel=1e-3)  # m/N of the rows in both, nearly 2 m/N in either


def test_error_overlap_of_a_model_with_itself_is_full():
    rng = np.random.default_rng(2)
    labels, p = rng.integers(0, 2, 200), rng.random(200)
    found = error_overlap(labels, [p, p, p])
    assert (found.residual_correlation, found.worst_overlap) == (pytest.approx(1), 1.0)
    assert found.worst_rows == 20
    assert error_overlap(labels, [p, rng.random(200)], 1.0).chance == 1.0  # all rows are the worst
    assert math.isnan(error_overlap(np.zeros(4, dtype=int), np.full((2, 4), 0.5)).residual_correlation)


def test_more_alike_models_overlap_more():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 5000)
    first, other = rng.random((2, 5000))
    near, far = (error_overlap(labels, [first, (1 - w) * first + w * other]) for w in (0.1, 0.9))
    assert near.worst_overlap > far.worst_overlap > far.chance
    assert near.residual_correlation > far.residual_correlation


@pytest.mark.parametrize(
    ("p", "share", "words"),
    [
        (np.full((1, 3), 0.5), 0.1, "2 or more models"),
        (np.full(3, 0.5), 0.1, "got shape (3,)"),
        (np.full((2, 3), 1.5), 0.1, "must lie in [0, 1]"),
        (np.full((2, 4), 0.5), 0.1, "differ in length: 3 and 4"),
        (np.full((2, 3), 0.5), 0.0, "share must be above 0"),
        (np.full((2, 3), 0.5), 1.1, "at most 1, got 1.1"),
    ],
)
def test_error_overlap_refuses(p, share, words):
    with pytest.raises(UserError) as caught:
        error_overlap([0, 1, 0], p, share)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
