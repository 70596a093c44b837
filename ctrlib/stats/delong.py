"""What the test rows say about fitted models: the covariance of correlated AUCs.

These speak of the models at hand, not of the method that made them; the latter needs replicates, see
:mod:`ctrlib.stats.paired`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ctrlib.errors import UserError
from ctrlib.stats.metrics import checked_cohort
from ctrlib.stats.paired import IntervalReading

BLOCK = 65_536
"""Rows taken at once when covariances are summed: a block of 20 members in float64 is 10 MB."""


@dataclass(frozen=True)
class RowDifference(IntervalReading):
    """A difference between fitted models on one test part: estimate, standard error, interval, two-sided p value."""

    estimate: float
    standard_error: float
    low: float
    high: float
    p_value: float
    level: float


@dataclass(frozen=True)
class AucCovariance:
    """AUCs of K models on the same rows, (K,), and the covariance of these estimates over draws of rows, (K, K)."""

    aucs: np.ndarray
    covariance: np.ndarray

    @property
    def standard_errors(self) -> np.ndarray:
        """Standard error of each AUC, (K,)."""
        return np.sqrt(np.diag(self.covariance))

    def contrast(self, weights: ArrayLike, level: float = 0.95) -> RowDifference:
        """The weighted sum of the AUCs with its normal interval (DeLong et al. 1988, equation 5, one row).

        Args:
            weights: (K,), such as +1/N for each peer and -1/N for each of its controls.
            level: coverage of the interval.
        """
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != self.aucs.shape:
            raise UserError(f"a contrast of {self.aucs.size} AUCs needs as many weights, got shape {weights.shape}")
        estimate = float(weights @ self.aucs)
        variance = float(weights @ self.covariance @ weights)
        # Equal rankings leave a variance that is zero but for rounding.
        if variance <= 1e-13 * float(np.abs(weights) @ np.abs(self.covariance) @ np.abs(weights)):
            return RowDifference(estimate, 0.0, estimate, estimate, float(abs(estimate) < 1e-13), level)
        error = float(np.sqrt(variance))
        half = float(stats.norm.ppf(0.5 + level / 2)) * error
        p_value = float(2 * stats.norm.sf(abs(estimate) / error))
        return RowDifference(estimate, error, estimate - half, estimate + half, p_value, level)

    def difference(self, i: int, j: int, level: float = 0.95) -> RowDifference:
        """AUC of model ``i`` minus AUC of model ``j``, see :meth:`contrast`."""
        weights = np.zeros(self.aucs.size)
        weights[i] += 1
        weights[j] -= 1
        return self.contrast(weights, level)


def _doubled_placements(scores: np.ndarray, clicks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Twice each row's wins against the rows of the other label, a tie counting one half: (N,) whole numbers.

    For a click, the non-clicks below it; for a non-click, the clicks above it. Sun and Xu 2014 get the same from
    midranks (pooled minus within the label, equation 8 ff.); here one sort and counts of clicks up to each tie.
    """
    clicked = np.zeros(scores.size, dtype=np.int32)
    clicked[clicks] = 1
    order = np.argsort(scores)
    scores, clicked = scores[order], clicked[order]
    starts = np.append(0, np.flatnonzero(scores[1:] != scores[:-1]) + 1)
    sizes = np.diff(starts, append=scores.size)
    clicks_here = np.add.reduceat(clicked, starts)
    others_here = sizes - clicks_here
    # Those below the tie, twice, plus those within it.
    clicks_below = (2 * np.cumsum(clicks_here) - clicks_here).astype(np.int32)
    others_below = (2 * np.cumsum(others_here) - others_here).astype(np.int32)
    placements = np.empty(scores.size, dtype=np.int32)
    clicks_above = np.int32(2 * clicks.size) - clicks_below
    placements[order] = np.where(clicked, np.repeat(others_below, sizes), np.repeat(clicks_above, sizes))
    return placements


def _sample_covariance(placements: np.ndarray, rows: np.ndarray, scale: float) -> np.ndarray:
    """Covariance between members, (K, K), of ``placements[:, rows] / scale``, in blocks of rows."""
    total = np.zeros((len(placements), len(placements)))
    means = np.array([one[rows].mean(dtype=np.float64) for one in placements])[:, None]
    for start in range(0, rows.size, BLOCK):
        centred = placements[:, rows[start : start + BLOCK]] - means
        total += centred @ centred.T
    return total / (rows.size - 1) / scale**2


def delong(labels: ArrayLike, scores: ArrayLike) -> AucCovariance:
    """AUCs of models on the same rows and their covariance, without assumptions about the scores, in O(N log N).

    DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, 837-845, equations 3 and 4: with m clicks and n other rows,
    V10 of a click is the share of other rows it beats, V01 of another row the share of clicks that beat it, and the
    covariance is cov(V10) / m + cov(V01) / n. Fast as Sun and Xu 2014, IEEE Signal Processing Letters 21, 1389-1393.
    Both shares are kept as whole numbers in 4 bytes per row and member, so nothing is rounded before the sums.

    Args:
        labels: 0 or 1, (N,), at least two of each.
        scores: probabilities, logits or any ranking, (K, N).

    Raises:
        UserError: as :func:`ctrlib.stats.metrics.cohort_auc`, and for a label with a single row.
    """
    members, clicks, others = checked_cohort(labels, scores)
    m, n = clicks.size, others.size
    if min(m, n) < 2:
        raise UserError(f"the spread of an AUC needs two rows of each label, got {m} clicks and {n} others")
    placements = np.empty((len(scores), m + n), dtype=np.int32)
    for k, one in enumerate(members):
        placements[k] = _doubled_placements(one, clicks, others)
    aucs = np.array([int(one[clicks].sum(dtype=np.int64)) / (2 * m * n) for one in placements])
    covariance = _sample_covariance(placements, clicks, 2 * n) / m + _sample_covariance(placements, others, 2 * m) / n
    return AucCovariance(aucs, covariance)


def pool_folds(folds: Sequence[AucCovariance]) -> AucCovariance:
    """Mean AUC over test folds that share no row, of the same K models (or recipes) in one order.

    The folds' estimates are independent given the models, so the covariance of their mean is the sum of the
    covariances over the number of folds squared. It holds test-row noise alone.
    """
    if not folds:
        raise UserError("pooling needs at least one fold")
    aucs = np.mean([fold.aucs for fold in folds], axis=0)
    return AucCovariance(aucs, np.sum([fold.covariance for fold in folds], axis=0) / len(folds) ** 2)
