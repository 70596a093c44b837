import numpy as np

of_probabilities, of_logits = both_averages(np.array([[0.0, 2.0], [0.0, -2.0], [0.0, 3.0]]))
np.testing.assert_allclose(of_probabilities, [0.5, 0.650858], atol=1e-6)
np.testing.assert_allclose(of_logits, [0.5, 0.731059], atol=1e-6)
