"""How often would a single run have claimed a gain that is not there?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ctrlib.errors import UserError
from ctrlib.stats.delong import AucCovariance


@dataclass(frozen=True)
class ClaimRate:
    """How many of some comparisons claimed a gain, with Wilson's interval of the rate.

    Wilson 1927, Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22, 209-212.
    """

    claims: int
    comparisons: int
    rate: float
    low: float
    high: float
    level: float


def claim_rate(claimed: ArrayLike, level: float = 0.95) -> ClaimRate:
    """Rate of True among ``claimed`` (any shape), whose entries are taken as independent."""
    claimed = np.asarray(claimed, dtype=bool)
    if claimed.size == 0:
        raise UserError("a rate of claims needs at least one comparison")
    claims = int(claimed.sum())
    interval = stats.binomtest(claims, claimed.size).proportion_ci(level, method="wilson")
    return ClaimRate(claims, claimed.size, claims / claimed.size, float(interval.low), float(interval.high), level)


class FalseClaims(NamedTuple):
    """How often single runs of equal conditions claim a gain: by size, and by DeLong's test on the rows."""

    by_threshold: ClaimRate
    by_delong: ClaimRate


def false_claims(
    replicates: Sequence[AucCovariance], threshold: float, significance: float = 0.05, level: float = 0.95
) -> FalseClaims:
    """How often one model against one model would claim a gain that is not there.

    Every model enters one comparison, first half against second half, so that comparisons share test rows at most.
    ``significance`` is that of the two-sided test; were test rows the only noise, half of it would claim a gain.

    Args:
        replicates: one entry each, :func:`ctrlib.stats.delong.delong` of 2 M models: M, and M others trained
            alike, such as the seeds of one condition in two halves.
        threshold: a difference of AUC above this is a claim "by size".
        significance: DeLong's p below this, with a positive difference, is a claim "by test".
        level: coverage of the rates' intervals.
    """
    differences = []
    for replicate in replicates:
        half, odd = divmod(replicate.aucs.size, 2)
        if odd or not half:
            raise UserError(f"false claims need two conditions of as many models, got {replicate.aucs.size} models")
        differences += [replicate.difference(one, half + one) for one in range(half)]
    by_size = [found.estimate > threshold for found in differences]
    by_test = [found.estimate > 0 and found.p_value < significance for found in differences]
    return FalseClaims(claim_rate(by_size, level), claim_rate(by_test, level))
