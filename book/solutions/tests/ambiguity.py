import numpy as np

members, truth = np.array([[0.2, 0.6], [0.4, 0.6]]), np.array([0.3, 0.5])
np.testing.assert_allclose(parts(members, truth), [0.005, 0.01, 0.005])
