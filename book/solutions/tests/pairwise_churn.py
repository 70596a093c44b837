import numpy as np

from ctrlib.stats.metrics import churn

probabilities = np.random.default_rng(1).random((3, 50))
np.testing.assert_allclose(pairwise_churn(probabilities), churn(probabilities).mean_difference)
