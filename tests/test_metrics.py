"""Metrics against scikit-learn, against counting by hand and against simulation."""

import math
import warnings
from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score
from small import refused

from ctrlib.stats.metrics import (
    auc,
    churn,
    cohort_auc,
    expected_auc,
    logloss,
    logloss_from_logits,
    relative_improvement,
)

TIED_SCORES = [0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-45, 1e-310, 1.0, -1.0, 1 + 2**-23, 1 + 2**-52, np.inf, -np.inf]


@st.composite
def cohorts(draw):
    """Labels (N,) of both kinds and scores (K, N) of one of the two types: ties, both zeros, denormals, infinities."""
    members, rows = draw(st.integers(1, 4)), draw(st.integers(2, 20))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    one = st.sampled_from(TIED_SCORES) | st.floats(width=np.finfo(dtype).bits, allow_nan=False)
    scores = draw(st.lists(one, min_size=members * rows, max_size=members * rows))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    assume(0 < sum(labels) < rows)
    return np.array(labels, np.uint8), np.array(scores, dtype).reshape(members, rows)


def counted_auc(labels, scores) -> float:
    """AUC from all pairs, one by one, in integers."""
    pairs = [(s, t) for s in scores[labels == 1] for t in scores[labels == 0]]
    return float(Fraction(sum(2 * int(s > t) + int(s == t) for s, t in pairs), 2 * len(pairs)))


probability_lists = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0]) | st.floats(0, 1), max_size=20)


@given(cohorts())
def test_cohort_auc_counts_every_pair(data):
    labels, scores = data
    result = cohort_auc(labels, scores)
    assert (result.shape, result.dtype) == ((len(scores),), np.float64)
    assert result.tolist() == [counted_auc(labels, one) for one in scores]
    assert cohort_auc(labels, scores.astype(np.float64)).tolist() == result.tolist() == [auc(labels, s) for s in scores]


def test_cohort_auc_is_scikit_learns_on_many_rows():
    rng = np.random.default_rng(1)
    p = rng.beta(1, 4, 200_000)
    labels, scores = rng.random(p.size) < p, np.array([p, p.round(2)])
    assert cohort_auc(labels, scores) == pytest.approx([roc_auc_score(labels, one) for one in scores], abs=1e-12)


def test_cohort_auc_takes_what_auc_takes_and_changes_nothing():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([[3, 1, 2, 2, 9], [5, 4, 3, 2, 1]])
    expected = [counted_auc(labels, one) for one in scores]
    locked = scores.astype(np.float32)
    for array in (labels, locked):
        array.flags.writeable = False
    forms = [scores.tolist(), torch.tensor(scores), torch.tensor(scores).float(), pd.DataFrame(scores), locked]
    forms += [np.asfortranarray(scores), scores.astype(np.float32)[:, ::-1][:, ::-1], scores.astype(np.float16)]
    for form in forms:
        assert cohort_auc(labels, form).tolist() == expected
    kinds = [labels.astype(kind) for kind in (np.uint8, bool, np.int64, np.float32)]
    for form in (*kinds, torch.tensor(labels), pd.Series(labels)):
        assert cohort_auc(form, scores).tolist() == expected
    assert locked.tolist() == scores.tolist()


REFUSALS = [
    (cohort_auc, ([0, 1], np.empty((0, 2))), "shape (0, 2)"),
    (cohort_auc, ([0, 1], [0.1, 0.2]), "shape (2,)"),
    (cohort_auc, ([0, 1, 1], [[0.1, 0.2]]), "differ in length: 3 and 2"),
    (cohort_auc, ([[0, 1]], [[0.1, 0.2]]), "labels must be a non-empty column of numbers, got shape (1, 2)"),
    (cohort_auc, ([0, 1], [[0.1, 0.2], [np.nan, 0.2]]), "scores of member 1 has 1 NaN among 2 rows"),
    (cohort_auc, ([0, 1], np.float32([[np.nan, np.nan], [0.1, 0.2]])), "scores of member 0 has 2 NaN among 2 rows"),
    (cohort_auc, ([1, 1], [[0.1, 0.2]]), "all 2 rows are labelled 1"),
    (cohort_auc, ([0, np.nan], [[0.1, 0.2]]), "labels has 1 NaN"),
    (cohort_auc, (np.array([0, 3], np.uint8), [[0.1, 0.2]]), "labels must be 0 or 1, got 3"),
    (cohort_auc, ([0, 0.5], [[0.1, 0.2]]), "labels must be 0 or 1, got 0.5"),
    *((logloss, ([0, 1], [0.5, bad]), "probabilities") for bad in (-0.1, 1.1, np.nan, np.inf)),
    (logloss_from_logits, ([0, 1], [0.5, np.nan]), "logits has 1 NaN"),
    *((expected_auc, (p,), "both labels") for p in ([0.3], [0.0, 0.0], [1.0, 1.0])),
]


@pytest.mark.parametrize(("metric", "given_", "words"), REFUSALS)
def test_what_cannot_be_measured_is_refused_in_one_line(metric, given_, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words in refused(metric, *given_)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_logloss_equals_sklearn(rows):
    labels, p = map(np.array, zip(*rows, strict=True))
    assert logloss(labels, p) == pytest.approx(log_loss(labels, p, labels=[0, 1]), rel=1e-12, abs=1e-12)


def test_log_losses_far_out():
    assert logloss([1], [0.0]) == logloss([0], [1.0]) == pytest.approx(36.04, abs=0.01)
    assert logloss([1, 0], [1.0, 0.0]) < 1e-15
    assert logloss_from_logits([0, 1], [800.0, -600.0]) == 700.0
    assert logloss_from_logits([1], [100.0]) == pytest.approx(math.exp(-100), rel=1e-12)
    assert logloss_from_logits([1, 0], [1e6, -1e6]) == 0.0


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-15, 15)), min_size=1, max_size=30))
def test_logloss_from_logits_equals_logloss_of_the_probabilities(rows):
    labels, z = map(np.array, zip(*rows, strict=True))
    assert logloss_from_logits(labels, z) == pytest.approx(logloss(labels, 1 / (1 + np.exp(-z))), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("models", [2, 5])
def test_churn_is_the_mean_over_pairs(models):
    p = np.random.default_rng(6).random((models, 50)).round(1)  # ties
    pairs = list(combinations(p, 2))
    result = churn(p)
    assert result.mean_difference == pytest.approx(np.mean([np.abs(a - b).mean() for a, b in pairs]), rel=1e-12)
    assert result.rank_correlation == pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in pairs]), rel=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constant = churn([[0.1, 0.2, 0.4], [0.3, 0.3, 0.3]])
    assert math.isnan(constant.rank_correlation)
    assert constant.mean_difference == pytest.approx(0.4 / 3)


def test_relative_improvement_in_both_senses():
    assert relative_improvement(0.78, 0.75) == pytest.approx((0.04, 0.12))
    assert relative_improvement(0.7, 0.75).of_excess == pytest.approx(-0.2)
    assert math.isnan(relative_improvement(0.6, 0.5).of_excess)


@given(probability_lists)
def test_expected_auc_by_brute_force(p):
    ordered = [(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j]
    all_pairs = sum(a * (1 - b) for a, b in ordered)
    assume(all_pairs > 1e-6)
    right = sum(a * (1 - b) * ((a > b) + 0.5 * (a == b)) for a, b in ordered)
    assert expected_auc(p) == pytest.approx(right / all_pairs, rel=1e-9)
    assert expected_auc([0.3] * 10) == pytest.approx(0.5)
