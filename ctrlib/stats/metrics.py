"""How good are predictions, how trustworthy, and how much do the members of a cohort differ?

Plain numpy in float64; arrays, pandas columns and CPU tensors all go in. Rows are clicks (1) or no clicks (0).
Test parts have millions of rows, so what a training run calls after every epoch keeps its passes and copies few.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ctrlib.errors import UserError
from ctrlib.training.auc import auc as auc  # also for users of this module
from ctrlib.training.auc import auc_of_rows, checked_clicks, checked_column, rows_by_label
from ctrlib.training.auc import logloss_from_logits as logloss_from_logits  # as well

PROBABILITY_MARGIN = float(np.finfo(np.float64).eps)
"""Log loss keeps probabilities this far from 0 and 1, as scikit-learn does for float64, which is 2.2e-16."""


def _probability_column(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` as a column of numbers in [0, 1]."""
    column = np.asarray(checked_column(values, name), dtype=np.float64)
    if column.min() < 0 or column.max() > 1:
        raise UserError(f"{name} must lie in [0, 1], got values from {column.min():g} to {column.max():g}")
    return column


def cohort_auc(labels: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """:func:`auc` of each of K models on the same N rows, (K,) float64; the labels are checked and divided once.

    One member at a time is in memory beside the arguments.

    Args:
        labels: 0 or 1, (N,).
        scores: probabilities, logits or any ranking, (K, N), K >= 1.

    Raises:
        UserError: for shapes other than these, labels of one kind only, and NaN, naming the member that has it.
    """
    members, clicks, others = checked_cohort(labels, scores)
    return np.array([auc_of_rows(one, clicks, others) for one in members])


def checked_cohort(labels: ArrayLike, scores: ArrayLike) -> tuple[Iterator[np.ndarray], np.ndarray, np.ndarray]:
    """What every measure on one cohort's scores needs: the members' scores and the rows of either label.

    Args and errors are those of :func:`cohort_auc`.

    Returns:
        The members one by one, (N,) float32 or float64, each checked when its turn comes; the numbers of the rows
        with a click; the numbers of those without. There are some of both.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or 0 in scores.shape:
        raise UserError(f"scores must be (K, N), K >= 1 models on the same N >= 1 rows, got shape {scores.shape}")
    clicks, others = rows_by_label(labels, scores.shape[1])
    return (checked_column(one, f"scores of member {k}") for k, one in enumerate(scores)), clicks, others


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log likelihood of the clicks, natural logarithm.

    Probabilities are taken to float64, then clipped to [2.2e-16, 1 - 2.2e-16] (see ``PROBABILITY_MARGIN``), so one
    certain and wrong row costs about 36 instead of infinity.

    Args:
        labels: 0 or 1, (N,).
        probabilities: in [0, 1], (N,).
    """
    p = _probability_column(probabilities, "probabilities")
    clicked = checked_clicks(labels, p.size)
    p = p.clip(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    likelihood = np.log1p(-p)
    clicks = np.flatnonzero(clicked)
    likelihood[clicks] = np.log(p[clicks])
    return float(-likelihood.mean())


class Churn(NamedTuple):
    """How much K models disagree on the same rows.

    Attributes:
        mean_difference: ``|p_a - p_b|`` averaged over rows and over pairs of models.
        rank_correlation: Spearman's correlation averaged over pairs of models; NaN when some model predicts a
            constant, which has no ranks to correlate.
    """

    mean_difference: float
    rank_correlation: float


def churn(probability_matrix: ArrayLike) -> Churn:
    """Disagreement between the members of a cohort.

    Args:
        probability_matrix: in [0, 1], (K, N), K >= 2 models on the same N rows.
    """
    p = _probability_matrix(probability_matrix)
    ranks = rankdata(p, axis=1)
    difference = np.mean([np.abs(a - b).mean() for a, b in combinations(p, 2)])
    return Churn(mean_difference=float(difference), rank_correlation=_mean_correlation(ranks))


def relative_prediction_difference(a: ArrayLike, b: ArrayLike) -> float:
    """``|p_a - p_b|`` over the mean of the two, averaged over rows: 0 for equal predictions, at most 2.

    The measure of (ir)reproducibility of Shamir and Coviello 2020 ("Anti-Distillation", arXiv 2010.09923) and Shamir
    and Lin 2022 (arXiv 2202.06499), for two models. Rows with probability 0 in both differ by 0.

    Args:
        a, b: probabilities in [0, 1], (N,).
    """
    a, b = _probability_column(a, "a"), _probability_column(b, "b")
    if a.size != b.size:
        raise UserError(f"both must predict the same rows, got {a.size} and {b.size}")
    total = a + b
    return float(np.divide(2 * np.abs(a - b), total, out=np.zeros_like(total), where=total > 0).mean())


def _probability_matrix(values: ArrayLike) -> np.ndarray:
    """``values`` as (K, N) in [0, 1], K >= 2 models."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 2 or len(p) < 2:
        raise UserError(f"the predictions of 2 or more models are needed as (K, N), got shape {p.shape}")
    _probability_column(p.ravel(), "probability_matrix")
    return p


def _mean_correlation(values: np.ndarray) -> float:
    """Pearson's correlation of the rows of (K, N), averaged over pairs; NaN where one is constant."""
    values = values - values.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a constant row is 0 / 0, which is the NaN we want
        values /= np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return float(np.mean([a @ b for a, b in combinations(values, 2)]))


class RelativeImprovement(NamedTuple):
    """The two senses of "relative improvement of AUC" in use, both as fractions (0.01 is 1 %).

    Attributes:
        of_auc: (new - old) / old.
        of_excess: RelaImpr, (new - 0.5) / (old - 0.5) - 1; NaN when the old AUC is not above 0.5.
    """

    of_auc: float
    of_excess: float


def relative_improvement(auc_new: float, auc_old: float) -> RelativeImprovement:
    """Relative improvement of ``auc_new`` over ``auc_old`` in both senses, see :class:`RelativeImprovement`."""
    of_excess = (auc_new - 0.5) / (auc_old - 0.5) - 1 if auc_old > 0.5 else float("nan")
    return RelativeImprovement(of_auc=(auc_new - auc_old) / auc_old, of_excess=of_excess)


def expected_auc(probability: ArrayLike) -> float:
    """The AUC that the true click probabilities reach as predictions, over draws of the labels.

    No model can expect more on these rows. It is the ratio of two expectations: of the pairs (click, non-click) that
    are ranked rightly (ties one half) and of all such pairs,
    ``sum_{i != j} p_i (1-p_j) ([p_i > p_j] + [p_i = p_j]/2) / sum_{i != j} p_i (1-p_j)``,
    by prefix sums over the sorted distinct probabilities.

    Args:
        probability: true click probability of each row, in [0, 1], (N,).
    """
    p = _probability_column(probability, "probability")
    value, count = np.unique(p, return_counts=True)
    clicks, others = count * value, count * (1 - value)  # expected number at each value
    others_below = np.cumsum(others) - others
    # A row is no pair with itself: of count^2 ordered pairs at one value, count drop out.
    ties = count * (count - 1.0) * value * (1 - value)
    all_pairs = clicks.sum() * others.sum() - (count * value * (1 - value)).sum()
    if all_pairs <= 0:
        raise UserError(
            f"expected AUC needs a chance of both labels; {p.size} rows with probability {p.mean():g} do not"
        )
    return float((clicks @ others_below + ties.sum() / 2) / all_pairs)
