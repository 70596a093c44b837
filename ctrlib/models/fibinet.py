"""FiBiNET: bilinear interactions of raw and of SENET re-weighted embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.models.layers import MLP, SENET, BilinearInteraction, FeatureEmbedding, FirstOrder
from ctrlib.models.operations import has_faster_form


class FiBiNET(nn.Module):
    """An MLP on two sets of bilinear pair vectors, plus first-order weights.

    Reference: Huang et al. 2019, FiBiNET: Combining Feature Importance and Bilinear Feature Interaction for CTR
    Prediction, sections 3.2 (SENET), 3.3 (bilinear interaction) and 3.4 (concatenation).
    Variant: the two bilinear blocks have their own matrices; the first-order term has its own weight per id;
    both blocks are of the same ``bilinear_type``.

    Args:
        reduction_ratio: how much narrower than F SENET's hidden layer is.
        bilinear_type: ``field_all``, ``field_each`` or ``field_interaction``.
        bilinear_init: ``per_matrix`` or ``stacked``: how far from zero the bilinear matrices start, see
            :class:`~ctrlib.models.layers.BilinearInteraction`.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        reduction_ratio: float = 3,
        bilinear_type: str = "field_interaction",
        bilinear_init: str = "per_matrix",
    ) -> None:
        super().__init__()
        num_fields = len(field_dims)
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.first_order = FirstOrder(field_dims)
        self.senet = SENET(num_fields, reduction_ratio)
        self.bilinear_raw = BilinearInteraction(num_fields, embedding_dim, bilinear_type, bilinear_init)
        self.bilinear_senet = BilinearInteraction(num_fields, embedding_dim, bilinear_type, bilinear_init)
        input_dim = 2 * self.bilinear_raw.num_pairs * embedding_dim
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        reweighted = self.senet(feature_emb)  # (B, F, D)
        pairs = [(self.bilinear_raw, feature_emb), (self.bilinear_senet, reweighted)]
        return self.first_order(ids) + mlp_of_pairs(self.mlp, pairs)  # (B,)


@has_faster_form
def mlp_of_pairs(mlp: MLP, blocks: list[tuple[BilinearInteraction, Tensor]]) -> Tensor:
    """The MLP (B,) on the pair vectors of several blocks side by side: interactions and their embeddings (B, F, D)."""
    pairs = torch.cat([interaction(embeddings) for interaction, embeddings in blocks], dim=1)  # (B, blocks * P, D)
    return mlp(pairs.flatten(1))
