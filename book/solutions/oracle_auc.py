"""The oracle AUC, computed without labels, against the AUC of the true probabilities on drawn labels."""

import numpy as np

from ctrlib.config import SyntheticSettings
from ctrlib.data.synthetic import generate
from ctrlib.stats.metrics import auc, expected_auc


def auc_of_draws(probability, draws, random):
    """AUC of the probabilities (rows,) on labels drawn from them, once a draw; by a NumPy generator: (draws,)."""
    return np.array([auc(random.random(len(probability)) < probability, probability) for _ in range(draws)])


dataset = generate(SyntheticSettings(train_rows=1000, valid_rows=1000, test_rows=4000))
probability = dataset.test.probability

drawn = auc_of_draws(probability, 200, np.random.default_rng(0))
error = np.std(drawn, ddof=1) / np.sqrt(len(drawn))
assert abs(np.mean(drawn) - expected_auc(probability)) < 4 * error

# The labels of the data set are one more draw: its AUC is near, and by no means equal.
here = auc(dataset.test.labels, probability)
assert abs(here - expected_auc(probability)) < 5 * np.std(drawn, ddof=1)
