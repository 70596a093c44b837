"""Error of the average = mean error minus disagreement: the identity, checked on models that are wrong at random."""

import numpy as np


def parts(members, truth):
    """Error of the average, mean error, disagreement: squared, means over rows; members (K, rows), truth (rows,)."""
    average = members.mean(axis=0)
    error_of_average = ((average - truth) ** 2).mean()
    mean_error = ((members - truth) ** 2).mean()
    disagreement = ((members - average) ** 2).mean()
    return error_of_average, mean_error, disagreement


random = np.random.default_rng(0)
truth = random.random(10_000)
common = 0.1 * random.standard_normal(10_000)  # what all members get wrong alike
own = 0.1 * random.standard_normal((4, 10_000))  # what each gets wrong on its own
members = truth + common + own

error, mean_error, disagreement = parts(members, truth)
assert abs(error - (mean_error - disagreement)) < 1e-12

# "Coupling" that moves everybody halfway to the average: members get better, the average stays what it was.
coupled = (members + members.mean(axis=0)) / 2
after, mean_after, disagreement_after = parts(coupled, truth)
assert mean_after < mean_error
assert disagreement_after < disagreement
assert abs(after - error) < 1e-12

# Nothing that the members do among themselves removes what they get wrong alike.
assert abs(parts(np.stack([truth + common] * 4), truth)[0] - (common**2).mean()) < 1e-12
