import numpy as np

table = log_odds(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 0.0, 0.0]), 3)
assert table.shape == (3,)
assert table[0] > 0 > table[1]
assert table[2] == 0  # a code that no training row has
assert sum_over_fields([table, table], np.array([[0, 1], [0, 2]]))[1] == table[0]
