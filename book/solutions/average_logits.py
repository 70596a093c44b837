"""Two ways to average models: their probabilities, or their logits."""

import numpy as np
from scipy.special import expit

from ctrlib.stats.metrics import auc, logloss


def both_averages(logits):
    """Mean of the probabilities, and probability of the mean logit: logits (K, rows) to two arrays (rows,)."""
    return expit(logits).mean(axis=0), expit(logits.mean(axis=0))


random = np.random.default_rng(0)
truth = 1.5 * random.standard_normal(50_000) - 1  # the true logit
labels = (random.random(50_000) < expit(truth)).astype(int)
logits = truth + random.standard_normal((4, 50_000))  # four models, each wrong in its own way

of_probabilities, of_logits = both_averages(logits)
members = np.mean([logloss(labels, expit(z)) for z in logits])
assert logloss(labels, of_probabilities) < members  # promised by Jensen's inequality
assert logloss(labels, of_logits) < members  # promised as well: the loss is convex in the logit, too

# The mean of probabilities lies nearer to one half than the probability of the mean logit ...
assert abs(of_probabilities - 0.5).mean() < abs(of_logits - 0.5).mean()
# ... and the order, which is all that AUC sees, is nearly the same.
assert abs(auc(labels, of_probabilities) - auc(labels, of_logits)) < 2e-3
