"""The gradient of the KL form: by autograd, by the formula, and without the no-click half."""

import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete, peer_loss


def by_formula(own, peer):
    """Gradient of the kl form, a mean over rows, in the own logits: logits (rows,) of both to (rows,)."""
    return (own.sigmoid() - peer.sigmoid()) / len(own)


def of_click_half(own, peer):
    """The same without the no-click half."""
    own, p = own.detach().clone().requires_grad_(), peer.detach().sigmoid()
    half = p * (p.log() - torch.nn.functional.logsigmoid(own))
    half.mean().backward()
    return own.grad


z = torch.tensor([[0.3, -1.2, 0.5], [0.1, -2.0, 0.5]], requires_grad=True)  # (N, B); they agree on the last row
peer_loss(z, Coupling(weights=complete(2), form="kl")).sum().backward()
own, peer = z.detach()

torch.testing.assert_close(z.grad[0], by_formula(own, peer))  # the formula of the page
assert z.grad[0, 2].abs() < 1e-7  # no pull where the two agree

half = of_click_half(own, peer)
torch.testing.assert_close(half, -peer.sigmoid() * (1 - own.sigmoid()) / len(own))  # always upwards
assert half[2] < 0  # and so there is a pull where the two agree: the slip that the page warns of
