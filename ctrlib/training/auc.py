"""AUC and log loss in plain numpy; arrays, pandas columns and CPU tensors all go in. Rows are clicks (1) or none (0).

Evaluation parts have millions of rows and are scored after every epoch, so passes over them and copies are few.
"""

import numpy as np
from numpy.typing import ArrayLike

from ctrlib.errors import UserError


def checked_column(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` as a non-empty 1-D array without NaN: float32 stays as it is, all else becomes float64."""
    column = np.asarray(values)
    if column.dtype != np.float32:
        column = np.asarray(column, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise UserError(f"{name} must be a non-empty column of numbers, got shape {column.shape}")
    if np.isnan(column.min()):
        raise UserError(f"{name} has {int(np.isnan(column).sum())} NaN among {column.size} rows")
    return column


def checked_clicks(labels: ArrayLike, rows: int) -> np.ndarray:
    """``labels`` as a boolean array with one entry per row."""
    column = np.asarray(labels)
    if column.dtype.kind not in "biu" or column.ndim != 1 or column.size == 0:  # integers have no NaN
        column = checked_column(labels, "labels")
    if column.size != rows:
        raise UserError(f"labels and predictions differ in length: {column.size} and {rows}")
    clicked = column == 1
    if np.count_nonzero(clicked) + np.count_nonzero(column == 0) != rows:
        raise UserError(f"labels must be 0 or 1, got {column[~clicked & (column != 0)][0]:g}")
    return clicked


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often a click scores above a non-click, a tie counting one half.

    Wins and ties are counted as integers and divided once, so the value does not depend on row order. Labels (N,) are
    0 or 1; scores (N,) are probabilities, logits or any ranking.
    """
    scores = checked_column(scores, "scores")
    return auc_of_rows(scores, *rows_by_label(labels, scores.size))


def rows_by_label(labels: ArrayLike, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows with a click, and of those without; there must be some of both."""
    clicked = checked_clicks(labels, rows)
    # Taking rows by number is several times faster than by mask, and a cohort finds the numbers once.
    clicks, others = np.flatnonzero(clicked), np.flatnonzero(~clicked)
    if not clicks.size or not others.size:
        raise UserError(f"AUC needs both labels, but all {rows} rows are labelled {int(clicked[0])}")
    return clicks, others


def auc_of_rows(scores: np.ndarray, clicks: np.ndarray, others: np.ndarray) -> float:
    """AUC of ``scores`` (N,), float32 or float64, from the row numbers of clicks and of non-clicks."""
    positives, negatives = scores[clicks], scores[others]
    positives.sort()
    negatives.sort()
    # Both are sorted, so the search walks through the negatives once, in cache.
    wins = np.searchsorted(negatives, positives, side="left")
    tied = negatives.take(wins, mode="clip") == positives  # beyond the end, clip compares with a smaller score: no tie
    ties = int(np.searchsorted(negatives, positives[tied], side="right").sum()) - int(wins[tied].sum())
    return (2 * int(wins.sum()) + ties) / (2 * positives.size * negatives.size)


def logloss_from_logits(labels: ArrayLike, logits: ArrayLike) -> float:
    """Log loss of labels (N,), 0 or 1, without the detour through probabilities: exact for logits (N,) of any size."""
    z = checked_column(logits, "logits")
    clicked = checked_clicks(labels, z.size)
    loss = np.where(clicked, -z, z).astype(np.float64)
    return float(np.logaddexp(0, loss, out=loss).mean())
