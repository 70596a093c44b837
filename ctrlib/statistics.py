"""Is a difference real? Paired intervals and tests whose unit is the group of N models, never the single model.

Peers that trained together are not independent, so each group gives one number per arm (the mean of its members)
and arms are compared by the paired differences of those numbers.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus control over groups: mean, spread, t interval, and how often the treatment won."""

    mean: float
    low: float
    high: float
    sd: float
    groups: int
    p_value: float
    share_better: float
    level: float

    @property
    def verdict(self) -> str:
        """``gain``, ``loss`` or ``no difference shown``, by the interval alone: does it exclude zero?"""
        if self.low > 0:
            return "gain"
        if self.high < 0:
            return "loss"
        return "no difference shown"


def paired_difference(treatment: np.ndarray, control: np.ndarray, level: float = 0.95) -> PairedDifference:
    """Compare two arms measured on the same groups.

    Args:
        treatment, control: (groups,) one value per group, in one order.
        level: coverage of Student's t interval of the mean difference.

    Returns:
        The mean difference with its interval and two-sided p value. With fewer than two groups, or when all
        differences are equal, spread and interval are what the data say: infinite for one group, a point for equal
        differences.
    """
    differences = np.asarray(treatment, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    better = float((differences > 0).mean() + 0.5 * (differences == 0).mean())
    if n < 2:
        return PairedDifference(mean, -np.inf, np.inf, np.nan, n, np.nan, better, level)
    sd = float(differences.std(ddof=1))
    if sd == 0:
        return PairedDifference(mean, mean, mean, 0.0, n, 1.0 if mean == 0 else 0.0, better, level)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * sd / np.sqrt(n)
    p_value = float(stats.ttest_1samp(differences, 0).pvalue)
    return PairedDifference(mean, mean - half, mean + half, sd, n, p_value, better, level)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of a family of p values; NaN stays NaN and does not count."""
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p_values, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
