matrix = two_neighbours(5)
assert len(matrix) == 5
assert [abs(sum(row) - 1) < 1e-12 for row in matrix] == [True] * 5
assert matrix[0][1] == matrix[0][4] == 0.5
