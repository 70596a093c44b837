"""The KL form of the peer loss, written out, against ctrlib's: value and gradient."""

import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete
from ctrlib.coupling import peer_loss as of_ctrlib


def kl_loss(p, n):
    """Mean over the peers of KL(peer || own), both outcomes; the peers are held constant."""
    total = 0.0
    for i, peer in enumerate(p):
        if i != n:
            q = peer.detach()
            click = q * (q / p[n]).log()
            no_click = (1 - q) * ((1 - q) / (1 - p[n])).log()
            total += (click + no_click).mean()
    return total / (len(p) - 1)


torch.manual_seed(0)
z = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)  # (N, B)
by_hand = torch.stack([kl_loss(torch.sigmoid(z), n) for n in range(4)])
(gradient,) = torch.autograd.grad(by_hand.sum(), z)

theirs = of_ctrlib(z, Coupling(weights=complete(4), form="kl"))
(gradient_of_ctrlib,) = torch.autograd.grad(theirs.sum(), z)
torch.testing.assert_close(by_hand, theirs)
torch.testing.assert_close(gradient, gradient_of_ctrlib)
