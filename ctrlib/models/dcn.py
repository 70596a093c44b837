"""DCN, version 1: a cross network beside an MLP."""

from collections.abc import Sequence

from torch import Tensor, nn

from ctrlib.models.layers import MLP, CrossNetwork, FeatureEmbedding, linear


class DCN(nn.Module):
    """Cross network and MLP read the same flat embeddings; a linear layer reads both results.

    Reference: Wang et al. 2017, Deep & Cross Network for Ad Click Predictions, equations 3 (cross layer),
    4 (deep layer) and 5 (combination).
    Variant: version 1 with weight vectors, cross and MLP in parallel; no first-order term.

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
        self.cross = CrossNetwork(input_dim, num_cross_layers)
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=False)
        self.combine = linear(input_dim + self.mlp.output_dim, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        flat = self.embedding(ids).flatten(1)  # (B, F*D)
        for_cross, for_deep = self.combine.weight[0].split([flat.shape[1], self.mlp.output_dim])
        # combine(cat[cross(flat), mlp(flat)]), with the cross network's part in closed form
        return self.cross.dot(flat, for_cross) + self.mlp(flat) @ for_deep + self.combine.bias  # (B,)
