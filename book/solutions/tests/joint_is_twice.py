import torch

from ctrlib.coupling import complete

z = torch.randn(4, 5, dtype=torch.float64)
live = gradient(z, complete(4), "live")
assert live.shape == z.shape
assert live.abs().min() > 0
torch.testing.assert_close(gradient(z, complete(4, 3.0), "live"), 3 * live)
