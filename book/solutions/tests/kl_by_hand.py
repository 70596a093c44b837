import torch

from ctrlib.config import Coupling
from ctrlib.coupling import complete, peer_loss

z = torch.randn(3, 5, dtype=torch.float64)
theirs = peer_loss(z, Coupling(weights=complete(3), form="kl"))
torch.testing.assert_close(kl_loss(z.sigmoid(), 1), theirs[1])
