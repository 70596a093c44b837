"""FiBiNET: bilinear interactions of raw and of SENET re-weighted embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.fast.kernels import LinearOfPairs
from ctrlib.models.layers import MLP, SENET, BilinearInteraction, FeatureEmbedding, FirstOrder


class FiBiNET(nn.Module):
    """An MLP on two sets of bilinear pair vectors, plus first-order weights.

    Reference: Huang et al. 2019, FiBiNET: Combining Feature Importance and Bilinear Feature Interaction for CTR
    Prediction, sections 3.2 (SENET), 3.3 (bilinear interaction) and 3.4 (concatenation).
    Variant: the two bilinear blocks have their own matrices; the first-order term has its own weight per id;
    both blocks are of the same ``bilinear_type``.

    Args:
        field_dims: number of ids of each field, F entries.
        embedding_dim: D.
        hidden_units: widths of the MLP's hidden layers.
        dropout: dropout after each hidden layer.
        batch_norm: batch norm in each hidden layer.
        reduction_ratio: how much narrower than F SENET's hidden layer is.
        bilinear_type: ``field_all``, ``field_each`` or ``field_interaction``.
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
    ) -> None:
        super().__init__()
        num_fields = len(field_dims)
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.first_order = FirstOrder(field_dims)
        self.senet = SENET(num_fields, reduction_ratio)
        self.bilinear_raw = BilinearInteraction(num_fields, embedding_dim, bilinear_type)
        self.bilinear_senet = BilinearInteraction(num_fields, embedding_dim, bilinear_type)
        input_dim = 2 * self.bilinear_raw.num_pairs * embedding_dim
        self.mlp = MLP(input_dim, hidden_units, dropout, batch_norm, output=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        reweighted = self.senet(feature_emb)  # (B, F, D)
        if ids.is_cuda:  # where memory is fast, one large matrix product is best
            deep = self.mlp(self._all_pairs(feature_emb, reweighted))
        else:
            deep = self.mlp.from_layer(1, self._first_layer(feature_emb, reweighted))
        return self.first_order(ids) + deep  # (B,)

    def _all_pairs(self, feature_emb: Tensor, reweighted: Tensor) -> Tensor:
        """Both sets of pairs in the MLP's order: (B, 2 * P * D)."""
        from ctrlib.fast import gpu as gpu_kernels

        if feature_emb.shape[2] in gpu_kernels.DIMENSIONS:
            raw, senet = self.bilinear_raw.matrices(), self.bilinear_senet.matrices()
            return gpu_kernels.BilinearPairs.apply(feature_emb, raw, reweighted, senet)
        pairs = self.bilinear_raw.pair_products(feature_emb) + self.bilinear_senet.pair_products(reweighted)
        return torch.cat(pairs, dim=1).flatten(1)

    def _first_layer(self, feature_emb: Tensor, reweighted: Tensor) -> Tensor:
        """The MLP's first linear layer on both sets of pairs, which are never all in memory: (B, H)."""
        layer = self.mlp.layers[0]
        for_raw, for_senet = layer.weight.chunk(2, dim=1)  # (H, P*D) each
        bf16 = self.mlp.bf16 and self.training and self.mlp.hidden_depth > 0
        raw = LinearOfPairs.apply(feature_emb, self.bilinear_raw.matrices(), for_raw, bf16)
        senet = LinearOfPairs.apply(reweighted, self.bilinear_senet.matrices(), for_senet, bf16)
        return raw + senet + layer.bias
