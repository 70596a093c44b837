"""Wukong: layers that make new feature vectors of the old ones' products, and an MLP on the last."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import MLP, Dropout, FeatureEmbedding, linear


class WukongLayer(nn.Module):
    """From n vectors X to 2m new ones: ``LN([FMB(X), LCB(X)] + residual(X))``.

    The factorization machine block makes m vectors from products, ``FMB(X) = MLP(LN(X X^T Y))``, where Y has ``rank``
    columns, so that n * rank numbers stand for all n * n products. The linear compress block makes m vectors that are
    weighted sums of the old ones. The residual is X itself where n = 2m, else a linear layer over the vectors.

    Reference: Zhang et al. 2024, Wukong, section on the interaction stack. Variant: the MLP has one hidden layer and
    ends in ReLU (FuxiCTR); dropout (if any) in that hidden layer. Y starts N(0, 1) as in FuxiCTR, whose residual has a
    bias: the layer norm over D takes it away again.

    Args:
        num_inputs: n.
        num_features: m.
        embedding_dim: D.
        rank: columns of Y.
        units: width of the hidden layer.
        dropout: probability of zeroing a hidden unit in training.
    """

    def __init__(
        self, num_inputs: int, num_features: int, embedding_dim: int, rank: int, units: int, dropout: float
    ) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(num_inputs, rank))
        self.products_norm = nn.LayerNorm(num_inputs * rank)
        first, second = linear(num_inputs * rank, units), linear(units, num_features * embedding_dim)
        drop = [Dropout(dropout)] if dropout > 0 else []
        self.fm = nn.Sequential(first, nn.ReLU(), *drop, second, nn.ReLU())
        self.compress = linear(num_inputs, num_features, bias=False)
        same = num_inputs == 2 * num_features
        self.residual = nn.Identity() if same else linear(num_inputs, 2 * num_features, bias=False)
        self.norm = nn.LayerNorm(embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, D) to (B, 2m, D)."""
        by_dimension = x.transpose(1, 2)  # (B, D, n)
        products = torch.bmm(x, by_dimension @ self.projection)  # (B, n, rank)
        crossed = self.fm(self.products_norm(products.flatten(1))).unflatten(1, (-1, x.shape[2]))  # (B, m, D)
        compressed = self.compress(by_dimension).transpose(1, 2)  # (B, m, D)
        return self.norm(torch.cat([crossed, compressed], dim=1) + self.residual(by_dimension).transpose(1, 2))


class Wukong(nn.Module):
    """A stack of Wukong layers on the embeddings and an MLP on the vectors of the last; L layers reach order 2^L.

    Reference: Zhang et al. 2024, Wukong: Towards a Scaling Law for Large-Scale Recommendation.
    Variant: as in FuxiCTR 0245987; both blocks of a layer make the same number of vectors; small by default.

    Args:
        wukong_layers: number of layers, 1 or more.
        num_features: vectors that each block of a layer makes.
        rank: numbers that stand for a vector's products with all others.
        fm_units: width of the hidden layer between products and new vectors.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        wukong_layers: int = 2,
        num_features: int = 8,
        rank: int = 8,
        fm_units: int = 64,
    ) -> None:
        super().__init__()
        for name, value in dict(
            wukong_layers=wukong_layers, num_features=num_features, rank=rank, fm_units=fm_units
        ).items():
            if value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        counts = [len(field_dims)] + [2 * num_features] * (wukong_layers - 1)
        layers = (WukongLayer(n, num_features, embedding_dim, rank, fm_units, dropout) for n in counts)
        self.wukong = nn.Sequential(*layers)
        self.mlp = MLP(2 * num_features * embedding_dim, hidden_units, dropout, batch_norm, output=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        return self.mlp(self.wukong(self.embedding(ids)).flatten(1))  # (B,)
