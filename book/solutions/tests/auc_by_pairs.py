import numpy as np

from ctrlib.stats.metrics import auc

random = np.random.default_rng(1)
labels, scores = np.array([0, 1] * 50), random.integers(0, 9, 100)
np.testing.assert_allclose(auc_by_pairs(labels, scores), auc(labels, scores))
