"""Churn by its definition, and its largest value for two models."""

from itertools import combinations

import numpy as np

from ctrlib.stats.metrics import churn


def pairwise_churn(probabilities):
    """Mean absolute difference over all rows and all pairs of models: (K, rows) to a number."""
    return np.mean([np.abs(one - other).mean() for one, other in combinations(probabilities, 2)])


random = np.random.default_rng(0)
probabilities = random.random((4, 1000))
assert abs(pairwise_churn(probabilities) - churn(probabilities).mean_difference) < 1e-12
assert pairwise_churn(np.stack([probabilities[0]] * 3)) == 0  # identical copies

opposite = np.stack([np.zeros(10), np.ones(10)])  # one is sure of no click, the other of a click, on every row
assert pairwise_churn(opposite) == 1  # no two models can differ more
