"""How much does the next instance add? A curve of diminishing returns over the number of instances."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ctrlib.errors import UserError

EXPONENTS = np.geomspace(0.05, 10, 1001)
"""Exponents tried, 0.5 % apart. At the lower end the curve still rises like a logarithm; at the upper one, two
instances have all the gain."""


class DiminishingReturn(NamedTuple):
    """The fitted curve ``gain(N) = limit (1 - N^-exponent)``."""

    limit: float
    exponent: float

    def gain(self, instances: ArrayLike) -> np.ndarray:
        """The fitted gain of ``instances`` over one instance."""
        return self.limit * (1 - np.asarray(instances, dtype=np.float64) ** -self.exponent)


def fit_diminishing_return(instances: ArrayLike, gains: ArrayLike) -> DiminishingReturn:
    """Fit ``limit (1 - N^-exponent)`` to the mean gain over replicates, by least squares.

    An average of N equally good models with independent errors has exponent 1; the curve passes through no gain for
    one instance. For a given exponent the limit has a closed form, so the exponent alone is searched.

    Args:
        instances: (S,) numbers of instances, each 1 or more and at least two different ones above 1.
        gains: (replicates, S) gain of each number over a single instance (or over the control).
    """
    instances, gains = np.asarray(instances, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    if gains.ndim != 2 or instances.shape != gains.shape[1:] or not gains.size:
        raise UserError(f"gains must be (replicates, {instances.size} numbers of instances), got shape {gains.shape}")
    if not np.isfinite(gains).all():
        raise UserError(f"gains has {int((~np.isfinite(gains)).sum())} values that are no finite numbers")
    if instances.min() < 1 or len(np.unique(instances[instances > 1])) < 2:
        raise UserError("a curve needs two or more different numbers of instances above 1, and none below 1")
    curves = 1 - instances ** -EXPONENTS[:, None]  # (exponents, S)
    norms = np.square(curves).sum(axis=1)
    match = gains.mean(axis=0, keepdims=True) @ curves.T  # (1, exponents); two axes: the same sums for any caller
    best = int(np.argmax(match[0] ** 2 / norms))
    return DiminishingReturn(float(match[0, best] / norms[best]), float(EXPONENTS[best]))
