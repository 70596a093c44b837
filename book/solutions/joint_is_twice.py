"""Not detaching the peers doubles the gradient in a complete graph, and reaches the teachers in a one-way one."""

import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete, one_way, peer_loss


def gradient(z, weights, target):
    """Gradient of the summed peer losses in the logits z (K, B), for a matrix of weights and a target."""
    z = z.detach().clone().requires_grad_()
    peer_loss(z, Coupling(weights=weights, target=target)).sum().backward()
    return z.grad


torch.manual_seed(0)
z = torch.randn(4, 6, dtype=torch.float64)

torch.testing.assert_close(gradient(z, complete(4), "joint"), 2 * gradient(z, complete(4), "live"))
torch.testing.assert_close(gradient(z, complete(4), "joint"), gradient(z, complete(4, 2.0), "live"))

assert gradient(z, one_way(4), "live")[1:].abs().max() == 0  # detached: a teacher gets no gradient
assert gradient(z, one_way(4), "joint")[1:].abs().min() > 0  # not detached: the teachers get one as well
