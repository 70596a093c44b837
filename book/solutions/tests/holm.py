import numpy as np

from ctrlib.stats.paired import holm

p_values = np.random.default_rng(1).random(5) / 10
np.testing.assert_allclose(holm_by_hand(p_values), holm(p_values))
