"""AUC by its definition, every pair in turn, against the count that sorting gives."""

import numpy as np

from ctrlib.stats.metrics import auc


def auc_by_pairs(labels, scores):
    """How often a click scores above a non-click, a tie counting one half."""
    clicks, others = scores[labels == 1], scores[labels == 0]
    won = (clicks[:, None] > others[None, :]).sum()
    tied = (clicks[:, None] == others[None, :]).sum()
    return (won + tied / 2) / (len(clicks) * len(others))


random = np.random.default_rng(0)
labels = (random.random(2000) < 0.1).astype(int)
scores = np.round(random.random(2000) + 0.3 * labels, 2)  # rounded, so that there are ties

assert abs(auc_by_pairs(labels, scores) - auc(labels, scores)) < 1e-12
assert auc_by_pairs(labels, 2 * scores + 1) == auc_by_pairs(labels, scores)  # only the order counts
assert auc_by_pairs(labels, np.zeros(2000)) == 0.5  # knowing nothing: every pair a tie
