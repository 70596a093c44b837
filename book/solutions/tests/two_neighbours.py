matrix = two_neighbours(6)
assert len(matrix) == 6
assert [abs(sum(row) - 1) < 1e-12 for row in matrix] == [True] * 6
assert matrix[0][1] == matrix[0][5] == 0.5
