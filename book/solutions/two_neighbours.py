"""A topology of your own: a ring in which each member learns from both neighbours."""

from ctrlib.config import Coupling
from ctrlib.coupling import complete, connected_groups, ring


def two_neighbours(size, weight=1.0):
    """Member n learns from n - 1 and n + 1, half the weight each; the ends of the row are neighbours, too."""
    rows = [[0.0] * size for _ in range(size)]
    for n in range(size):
        for i in (n - 1, n + 1):
            if i % size != n:
                rows[n][i % size] += weight / 2
    return tuple(map(tuple, rows))


matrix = two_neighbours(5)
Coupling(weights=matrix)  # accepts it: square, nothing negative, no member learns from itself
assert all(abs(sum(row) - 1) < 1e-12 for row in matrix)  # the same total weight for each
assert connected_groups(matrix) == [[0, 1, 2, 3, 4]]  # no member is cut off
assert all(matrix[n][i] == matrix[i][n] for n in range(5) for i in range(5))  # a teacher is a student of its students
assert sum(weight > 0 for row in ring(5) for weight in row) == 5  # the ring of ctrlib: one neighbour each

assert two_neighbours(2) == complete(2)  # with two members both neighbours are the same one
assert two_neighbours(3) == complete(3)  # with three they are everybody
