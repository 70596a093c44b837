"""DCN, version 2: cross layers with full matrices beside an MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import MLP, FeatureEmbedding, linear


class CrossNetworkV2(nn.Module):
    """Cross network, version 2: ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``, ``*`` elementwise.

    Reference: Wang et al. 2021, DCN V2, equation 1. Version 1 is the special case of matrices whose rows are all
    the same. Each layer starts as a linear layer, Xavier-normal with zero bias.

    Args:
        input_dim: width of the input.
        num_cross_layers: number of cross layers, 0 or more.
    """

    def __init__(self, input_dim: int, num_cross_layers: int) -> None:
        super().__init__()
        if num_cross_layers < 0:
            raise UserError(f"num_cross_layers must be 0 or more, got {num_cross_layers}")
        self.layers = nn.ModuleList(linear(input_dim, input_dim) for _ in range(num_cross_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, input_dim)."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x))  # (B, input_dim)
        return x


class DCNv2(nn.Module):
    """Cross network and MLP read the same flat embeddings; a linear layer reads both results.

    Reference: Wang et al. 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning
    to Rank Systems, equation 1 (cross layer) and its parallel structure.
    Variant: full matrices, no low-rank mixture of experts; cross and MLP in parallel; no first-order term.

    Args:
        field_dims: number of ids of each field, F entries.
        embedding_dim: D.
        hidden_units: widths of the MLP's hidden layers; when empty, the flat embeddings take the MLP's place.
        dropout: dropout after each hidden layer.
        batch_norm: batch norm in each hidden layer.
        num_cross_layers: number of cross layers.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_cross_layers: int = 3,
    ) -> None:
        super().__init__()
        input_dim = len(field_dims) * embedding_dim
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.cross = CrossNetworkV2(input_dim, num_cross_layers)
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=False)
        self.combine = linear(input_dim + self.mlp.output_dim, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        flat = self.embedding(ids).flatten(1)  # (B, F*D)
        both = torch.cat([self.cross(flat), self.mlp(flat)], dim=1)  # (B, F*D + H)
        return self.combine(both).squeeze(1)  # (B,)
