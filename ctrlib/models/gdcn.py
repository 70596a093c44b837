"""GDCN: a cross network whose layers have gates, beside an MLP."""

import torch
from torch import Tensor, nn

from ctrlib.models.dcn import DCN
from ctrlib.models.layers import linear


class GatedCrossNetwork(nn.Module):
    """Gated cross network: ``x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l``, ``*`` elementwise.

    Reference: Wang et al. 2023, GDCN, section on the gated cross network: the cross layer of DCN V2, and an information
    gate that weighs each number of the new cross. The gate has no bias. Each layer starts as a linear layer,
    Xavier-normal with zero bias (in FuxiCTR ``b_l`` starts uniform between 0 and 1).

    Args:
        input_dim: width of the input.
        num_cross_layers: number of cross layers, 0 or more.
    """

    def __init__(self, input_dim: int, num_cross_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(input_dim, input_dim) for _ in range(num_cross_layers))
        self.gates = nn.ModuleList(linear(input_dim, input_dim, bias=False) for _ in range(num_cross_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, input_dim)."""
        x = x0
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = torch.addcmul(x, x0 * layer(x), gate(x).sigmoid())  # (B, input_dim)
        return x


class GDCN(DCN):
    """Gated crosses and MLP read the same flat embeddings; a linear layer reads both results. Arguments: :class:`DCN`.

    Reference: Wang et al. 2023, Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction.
    Variant: cross and MLP in parallel (GDCN-P, in FuxiCTR 0245987 ``GDCNP``); embeddings of one width, without the
    paper's field-level choice of their dimensions; no first-order term.
    """

    cross_network = GatedCrossNetwork
