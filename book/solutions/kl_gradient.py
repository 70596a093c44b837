"""The gradient of the KL form: by autograd, by the formula, and without the no-click half."""

import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete, peer_loss

z = torch.tensor([[0.3, -1.2, 0.5], [0.1, -2.0, 0.5]], requires_grad=True)  # (N, B); they agree on the last row
rows = z.shape[1]
peer_loss(z, Coupling(weights=complete(2), form="kl")).sum().backward()
p = z.detach().sigmoid()

torch.testing.assert_close(z.grad[0], (p[0] - p[1]) / rows)  # the formula of the page
assert z.grad[0, 2].abs() < 1e-7  # no pull where the two agree

own = z.detach()[0].clone().requires_grad_()
half = p[1] * (p[1].log() - torch.nn.functional.logsigmoid(own))  # the click half alone
half.mean().backward()
torch.testing.assert_close(own.grad, -p[1] * (1 - p[0]) / rows)  # always upwards
assert own.grad[2] < 0  # and so there is a pull where the two agree: the slip that the page warns of
