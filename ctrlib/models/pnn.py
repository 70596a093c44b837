"""PNN with inner products (IPNN): an MLP that also sees every pair's inner product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.models.layers import MLP, FeatureEmbedding, count_pairs, inner_products


class PNN(nn.Module):
    """An MLP on the flat embeddings and the inner products of all pairs of fields.

    Reference: Qu et al. 2016, Product-based Neural Networks for User Response Prediction, equations 1-3 (the
    layers) and section III-B (inner products).
    Variant: inner products only (no outer products); the P plain values enter the first linear layer, in place of
    the paper's low-rank product weights; no first-order term.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.num_pairs = count_pairs(len(field_dims))
        input_dim = len(field_dims) * embedding_dim + self.num_pairs
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        products = inner_products(feature_emb)  # (B, P)
        return self.mlp(torch.cat([feature_emb.flatten(1), products], dim=1))  # (B,)
