"""The interval of a paired difference over replicates, by hand."""

import numpy as np
from scipy.stats import t

from ctrlib.stats.paired import paired_difference


def paired_interval(treatment, control, level=0.95):
    """Mean difference and the two ends of Student's interval, from one value per replicate and condition."""
    difference = np.asarray(treatment) - np.asarray(control)
    replicates = len(difference)
    half = t.ppf(0.5 + level / 2, replicates - 1) * difference.std(ddof=1) / np.sqrt(replicates)
    return difference.mean(), difference.mean() - half, difference.mean() + half


random = np.random.default_rng(0)
control = 0.75 + 0.01 * random.standard_normal(8)  # replicates differ a lot from each other ...
treatment = control + 0.001 + 0.0005 * random.standard_normal(8)  # ... and in each the treatment adds a little

mean, low, high = paired_interval(treatment, control)
found = paired_difference(treatment, control)
np.testing.assert_allclose([mean, low, high], [found.mean, found.low, found.high])

_, low_shuffled, high_shuffled = paired_interval(random.permutation(treatment), control)
assert high_shuffled - low_shuffled > 5 * (high - low)  # unpaired, the effect drowns in the differences of replicates
