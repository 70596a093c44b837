import numpy as np

from ctrlib.stats.metrics import expected_auc

probability = np.random.default_rng(1).random(300)
drawn = auc_of_draws(probability, 20, np.random.default_rng(2))
assert len(drawn) == 20
assert len(set(drawn)) > 10
assert abs(np.mean(drawn) - expected_auc(probability)) < 0.03
