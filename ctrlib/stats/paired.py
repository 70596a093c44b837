"""Is a difference real? Paired intervals and tests whose unit is the replicate, never the single model.

Peers that trained together are not independent, so each replicate gives one number per condition (the mean of its
members), and conditions are compared by the paired differences of those numbers. What test rows alone can say about
fitted models is in :mod:`ctrlib.stats.delong`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ctrlib.errors import UserError

EXACT_REPLICATES = 12
"""Up to here the sign-flip test goes through all 2^replicates flips; beyond, it draws some."""


class IntervalReading:
    """What an interval of a difference says, by rule."""

    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``gain``, ``loss`` or ``no difference shown``, by the interval alone: does it exclude zero?"""
        if self.low > 0:
            return "gain"
        if self.high < 0:
            return "loss"
        return "no difference shown"

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies strictly between -margin and +margin.

        This is two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680), each at half the
        error that the interval leaves: 2.5 % for a 95 % interval.
        """
        if not margin > 0:
            raise UserError(f"margin must be above 0, got {margin:g}")
        return -margin < self.low and self.high < margin


@dataclass(frozen=True)
class PairedDifference(IntervalReading):
    """Treatment minus control over replicates: mean, spread, interval, and how often the treatment won."""

    mean: float
    low: float
    high: float
    sd: float
    replicates: int
    p_value: float
    share_better: float
    level: float


def _pairs(treatment: ArrayLike, control: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
    """Differences and control values in float64, and the share of replicates the treatment won, a tie counting half."""
    treatment, control = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if treatment.shape != control.shape or treatment.ndim != 1 or treatment.size == 0:
        raise UserError(
            f"conditions need one value per replicate each, got shapes {treatment.shape} and {control.shape}"
        )
    differences = treatment - control
    return differences, control, float((differences > 0).mean() + 0.5 * (differences == 0).mean())


def paired_difference(
    treatment: ArrayLike, control: ArrayLike, level: float = 0.95, overlap: float = 0.0
) -> PairedDifference:
    """Compare two conditions measured on the same replicates by Student's paired t test.

    Args:
        treatment, control: (replicates,) one value per replicate, in one order.
        level: coverage of Student's t interval of the mean difference.
        overlap: for folds or random splits of one log, which share rows, test rows over training rows of a split: the
            variance of the mean is then sd^2 (1 / replicates + overlap) instead of sd^2 / replicates (Nadeau and Bengio
            2003, Mach. Learn. 52, 239-281, the corrected resampled t test). 0 where replicates have rows of their own.

    Returns:
        The mean difference with its interval and two-sided p value. With fewer than two replicates, or when all
        differences are equal, spread and interval are what the data say: infinite for one replicate, a point for equal
        differences.
    """
    differences, _, better = _pairs(treatment, control)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return PairedDifference(mean, -np.inf, np.inf, np.nan, n, np.nan, better, level)
    sd = float(differences.std(ddof=1))
    if sd == 0:
        return PairedDifference(mean, mean, mean, 0.0, n, 1.0 if mean == 0 else 0.0, better, level)
    error = sd * np.sqrt(1 / n + overlap)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return PairedDifference(mean, mean - half, mean + half, sd, n, p_value, better, level)


def sign_flip_difference(
    treatment: ArrayLike, control: ArrayLike, level: float = 0.95, resamples: int = 20_000, seed: int = 0
) -> PairedDifference:
    """Compare two conditions measured on the same replicates by the sign-flip permutation test of the mean difference.

    Needs no normal distribution: differences symmetric about the effect are enough. A flip of the replicates A beats
    the observed mean under a supposed effect exactly if the mean difference within A is at most that effect, so test
    and interval both follow from the means of all non-empty sets of replicates (Hartigan 1969, Using subsample values
    as typical values, J. Am. Stat. Assoc. 64, 1303-1317): the interval runs between two of their order statistics and
    holds exactly the effects that the test does not reject.

    Args:
        treatment, control: (replicates,) one value per replicate, in one order.
        level: coverage asked for.
        resamples, seed: random sets of replicates beyond ``EXACT_REPLICATES`` of them; with fewer all are used.

    Returns:
        As :func:`paired_difference`; ``level`` is the coverage attained, at least the one asked for. Few replicates
        have few sets: below 6 replicates no 95 % interval is bounded and no two-sided p value falls under 5 %.
    """
    differences, _, better = _pairs(treatment, control)
    n, mean = len(differences), float(differences.mean())
    if n <= EXACT_REPLICATES:
        flips = np.arange(1, 2**n)[:, None] >> np.arange(n) & 1
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (resamples, n))
        flips = flips[flips.any(axis=1)]
    means = np.sort(flips @ differences / flips.sum(axis=1))
    means[np.abs(means) <= 1e-12 * np.abs(differences).max()] = 0  # sums that cancel but for rounding
    flips_and_none = len(means) + 1
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)) + 1
    p_value = min(1.0, 2 * tail / flips_and_none)
    cut = int((1 - level) / 2 * flips_and_none + 1e-9)  # the bump keeps 0.05 * 20 from being 0.99...
    low, high = (means[cut - 1], means[-cut]) if cut else (-np.inf, np.inf)
    sd = float(differences.std(ddof=1)) if n > 1 else np.nan
    attained = 1 - 2 * cut / flips_and_none
    return PairedDifference(mean, float(low), float(high), sd, n, p_value, better, attained)


def relative_difference(
    treatment: ArrayLike, control: ArrayLike, level: float = 0.95, overlap: float = 0.0
) -> PairedDifference:
    """Relative improvement of the conditions' means over replicates, (treatment - control) / control.

    Args:
        treatment, control: (replicates,) one value per replicate, in one order.
        level: coverage of the interval.
        overlap: as for :func:`paired_difference`.

    Returns:
        The ratio with Fieller's interval (Fieller 1954, J. R. Stat. Soc. B 16, 175-185): all ratios r for which the
        paired t test of ``difference - r control`` does not reject. It excludes zero exactly when the interval of
        :func:`paired_difference` does, and the p value is the same. ``sd`` is the spread of the replicates'
        difference - r control over the mean control. Infinite for one replicate or a control that is not clearly
        above zero; the ratio is NaN where its mean is not above it at all.
    """
    plain = paired_difference(treatment, control, level, overlap)
    differences, base, better = _pairs(treatment, control)
    n = len(base)
    ratio = float(differences.mean() / base.mean()) if base.mean() > 0 else np.nan
    low, high, sd = -np.inf, np.inf, np.nan
    if n > 1 and base.mean() > 0:
        sd = float((differences - ratio * base).std(ddof=1) / base.mean())
        k = stats.t.ppf(0.5 + level / 2, n - 1) ** 2 * (1 / n + overlap)
        covariance = np.cov(differences, base)
        # |mean(d - r b)| <= t sd sqrt(1 / n + overlap), squared: square r^2 - 2 mixed r + constant <= 0
        square = base.mean() ** 2 - k * covariance[1, 1]
        mixed = differences.mean() * base.mean() - k * covariance[0, 1]
        constant = differences.mean() ** 2 - k * covariance[0, 0]
        if square > 0:
            half = np.sqrt(max(mixed**2 - square * constant, 0.0)) / square
            low, high = float(mixed / square - half), float(mixed / square + half)
    return PairedDifference(ratio, low, high, sd, n, plain.p_value, better, level)


def paired_power(effect: float, sd: float, replicates: int, level: float = 0.95) -> float:
    """How often a paired t test over ``replicates`` shows a true mean difference ``effect`` (two-sided).

    Args:
        effect: true mean difference.
        sd: standard deviation of the replicates' differences, above 0.
        replicates: 2 or more.
        level: one minus the test's significance level.
    """
    if replicates < 2 or not sd > 0:
        raise UserError(
            f"power needs 2 or more replicates and a spread above 0, got {replicates} replicates and sd {sd:g}"
        )
    noncentrality = replicates * (effect / sd) ** 2
    if noncentrality == 0:
        return 1 - level
    critical = stats.t.ppf(0.5 + level / 2, replicates - 1)
    # The square of noncentral t: scipy's noncentral F stays finite where its noncentral t gives NaN (two replicates).
    return float(stats.ncf.sf(critical**2, 1, replicates - 1, noncentrality))


def minimum_detectable_effect(sd: float, replicates: int, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true mean difference that :func:`paired_power` shows with probability ``power``.

    Args:
        sd, replicates, level: as for :func:`paired_power`.
        power: between 1 - level and 1.
    """
    if not 1 - level < power < 1:
        raise UserError(f"power must lie between {1 - level:g} and 1, got {power:g}")

    def excess(effect: float) -> float:
        return paired_power(effect, sd, replicates, level) - power

    high = sd
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9 * sd))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down correction of a family of p values (Holm 1979); NaN stays NaN and does not count.

    statsmodels' ``multipletests`` counts a NaN as one more test, which makes the others larger than they are.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p_values, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
