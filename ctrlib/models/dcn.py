"""DCN, both versions: a cross network beside an MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import MLP, CrossNetwork, FeatureEmbedding, linear
from ctrlib.models.operations import has_faster_form


class DCN(nn.Module):
    """Cross network and MLP read the same flat embeddings; a linear layer reads both results.

    Reference: Wang et al. 2017, Deep & Cross Network for Ad Click Predictions, equations 3 (cross layer),
    4 (deep layer) and 5 (combination).
    Variant: version 1 with weight vectors, cross and MLP in parallel; no first-order term. Without hidden
    units the flat embeddings take the MLP's place.

    Args:
        num_cross_layers: number of cross layers.
    """

    cross_network: type[nn.Module] = CrossNetwork

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
        if num_cross_layers < 0:
            raise UserError(f"num_cross_layers must be 0 or more, got {num_cross_layers}")
        input_dim = len(field_dims) * embedding_dim
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.cross = self.cross_network(input_dim, num_cross_layers)
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=False)
        self.combine = linear(input_dim + self.mlp.output_dim, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        flat = self.embedding(ids).flatten(1)  # (B, F*D)
        return cross_and_deep(self.cross, self.mlp, self.combine, flat)


@has_faster_form
def cross_and_deep(cross: nn.Module, mlp: MLP, combine: nn.Linear, flat: Tensor) -> Tensor:
    """A linear layer on the results of a cross network and of an MLP on the flat embeddings (B, F*D): (B,)."""
    return combine(torch.cat([cross(flat), mlp(flat)], dim=1)).squeeze(1)


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
        self.layers = nn.ModuleList(linear(input_dim, input_dim) for _ in range(num_cross_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, input_dim)."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x))  # (B, input_dim)
        return x


class DCNv2(DCN):
    """Cross network and MLP read the same flat embeddings; a linear layer reads both results. Arguments: :class:`DCN`.

    Reference: Wang et al. 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning
    to Rank Systems, equation 1 (cross layer) and its parallel structure.
    Variant: full matrices, no low-rank mixture of experts; cross and MLP in parallel; no first-order term.
    """

    cross_network = CrossNetworkV2
