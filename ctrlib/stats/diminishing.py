"""How much does the next instance add? A curve of diminishing returns over the number of instances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ctrlib.errors import UserError

EXPONENTS = np.geomspace(0.05, 10, 1001)
"""Exponents tried, 0.5 % apart. At the lower end the curve still rises like a logarithm; at the upper one, two
instances have all the gain."""


@dataclass(frozen=True)
class DiminishingReturn:
    """The fitted curve ``gain(N) = limit (1 - N^-exponent)``, and its bootstrap draws (resamples, 2) of both."""

    limit: float
    exponent: float
    draws: np.ndarray
    level: float

    def _interval(self, values: np.ndarray) -> tuple[float, float]:
        """Percentile interval of one value per draw."""
        tails = [0.5 - self.level / 2, 0.5 + self.level / 2]
        low, high = np.quantile(values, tails, method="inverted_cdf")
        return float(low), float(high)

    @property
    def limit_interval(self) -> tuple[float, float]:
        """Interval of the gain of endlessly many instances."""
        return self._interval(self.draws[:, 0])

    @property
    def exponent_interval(self) -> tuple[float, float]:
        """Interval of the exponent: the larger, the sooner the returns are used up."""
        return self._interval(self.draws[:, 1])

    def gain(self, instances: ArrayLike) -> np.ndarray:
        """The fitted gain of ``instances`` over one instance."""
        return self.limit * (1 - np.asarray(instances, dtype=np.float64) ** -self.exponent)

    def gain_interval(self, instances: float) -> tuple[float, float]:
        """Interval of the gain of ``instances`` over one instance."""
        return self._interval(self.draws[:, 0] * (1 - float(instances) ** -self.draws[:, 1]))

    def enough(self, amount: float) -> tuple[int, int, int]:
        """The number of instances beyond which the next one adds less than ``amount``, with its interval.

        1 where already the second adds less (or takes away).
        """
        if not amount > 0:
            raise UserError(f"amount must be above 0, got {amount:g}")
        enough = np.array([_enough(limit, exponent, amount) for limit, exponent in self.draws])
        low, high = self._interval(enough)
        return _enough(self.limit, self.exponent, amount), int(low), int(high)


def _enough(limit: float, exponent: float, amount: float) -> int:
    """Smallest N >= 1 for which ``limit (N^-exponent - (N + 1)^-exponent) < amount``; the left side falls with N."""

    def adds_less(n: int) -> bool:
        return limit * (n**-exponent - (n + 1) ** -exponent) < amount

    high = 1
    while not adds_less(high):
        high *= 2
    low = high // 2  # not enough, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if adds_less(middle) else (middle, high)
    return high


def _fit(gains: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Least squares for each row of ``gains`` (R, S): (R, 2) of limit and exponent.

    For a given exponent the limit has a closed form, so the exponent alone is searched.
    """
    curves = 1 - instances ** -EXPONENTS[:, None]  # (exponents, S)
    norms = np.square(curves).sum(axis=1)
    match = gains @ curves.T  # (R, exponents)
    best = np.argmax(match**2 / norms, axis=1)
    return np.column_stack([match[np.arange(len(gains)), best] / norms[best], EXPONENTS[best]])


def fit_diminishing_return(
    instances: ArrayLike, gains: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> DiminishingReturn:
    """Fit ``limit (1 - N^-exponent)`` to the mean gain over groups, by least squares.

    An average of N equally good models with independent errors has exponent 1; the curve passes through no gain for
    one instance. The intervals resample groups and take percentiles, which with few groups come out too short.

    Args:
        instances: (S,) numbers of instances, each 1 or more and at least two different ones above 1.
        gains: (groups, S) gain of each number over a single instance (or over solo), in one order of groups.
        level: coverage of the intervals.
        resamples, seed: number of resamples of the groups and where their draws start.
    """
    instances, gains = np.asarray(instances, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    if gains.ndim != 2 or instances.shape != gains.shape[1:] or not gains.size:
        raise UserError(f"gains must be (groups, {instances.size} numbers of instances), got shape {gains.shape}")
    if not np.isfinite(gains).all():
        raise UserError(f"gains has {int((~np.isfinite(gains)).sum())} values that are no finite numbers")
    if instances.min() < 1 or len(np.unique(instances[instances > 1])) < 2:
        raise UserError("a curve needs two or more different numbers of instances above 1, and none below 1")
    chosen = np.random.default_rng(seed).integers(0, len(gains), (resamples, len(gains)))
    limit, exponent = _fit(gains.mean(axis=0, keepdims=True), instances)[0]
    return DiminishingReturn(float(limit), float(exponent), _fit(gains[chosen].mean(axis=1), instances), level)
