import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete, peer_loss

z = torch.randn(2, 5, requires_grad=True)
peer_loss(z, Coupling(weights=complete(2), form="kl")).sum().backward()
torch.testing.assert_close(by_formula(*z.detach()), z.grad[0])
assert of_click_half(*z.detach()).shape == (5,)
