import numpy as np

from ctrlib.stats.paired import paired_difference

treatment, control = np.random.default_rng(1).random((2, 6))
theirs = paired_difference(treatment, control)
np.testing.assert_allclose(paired_interval(treatment, control), [theirs.mean, theirs.low, theirs.high])
