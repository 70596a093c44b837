"""Holm's correction in a few lines, and what it does to the best of many comparisons."""

import numpy as np

from ctrlib.stats.paired import holm


def holm_by_hand(p_values):
    """Corrected p-values, in the order of those given: (m,) to (m,)."""
    # smallest first: times the number of those left, never below the one before, at most 1
    corrected, largest = np.empty(len(p_values)), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


random = np.random.default_rng(0)
some = random.random(12) / 10
np.testing.assert_allclose(holm_by_hand(some), holm(some))

# A thousand studies of twelve comparisons each in which nothing is true: how many of them "find" something?
studies = random.random((1000, 12))
plain = (studies.min(axis=1) < 0.05).mean()
corrected = np.mean([holm_by_hand(study).min() < 0.05 for study in studies])
assert plain > 0.4  # nearly half of the studies
assert corrected < 0.07  # about one in twenty, as promised
