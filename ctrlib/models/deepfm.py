"""DeepFM: first-order weights, a factorization machine and an MLP on shared embeddings."""

from collections.abc import Sequence

from torch import Tensor

from ctrlib.models.fm import FM
from ctrlib.models.layers import MLP, second_order_fm


class DeepFM(FM):
    """Sum of three logits: first order, second-order FM, MLP.

    Reference: Guo et al. 2017, DeepFM: A Factorization-Machine based Neural Network for CTR Prediction,
    equations 1 (sum of the parts), 2 (FM) and 4 (MLP).
    Variant: the first order has its own weight per id; FM and MLP read the same embedding table.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(field_dims, embedding_dim)
        self.mlp = MLP(len(field_dims) * embedding_dim, hidden_units, dropout, batch_norm, output=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        return self.first_order(ids) + second_order_fm(feature_emb) + self.mlp(feature_emb.flatten(1))  # (B,)
