"""FCN, once called DCNv3: two cross networks with masks, one of linear and one of exponential order, and no MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import Dropout, FeatureEmbedding, linear


class MaskedCrossNetwork(nn.Module):
    """``x_{l+1} = a * ([c_l, c_l * mask_l] + b_l) + x_l`` with ``c_l = W_l x_l`` of half the width, ``*`` elementwise.

    The factor ``a`` is x_0, and the order grows by one a layer, or x_l itself, and the order doubles. The mask
    ``relu(LN(c_l))`` lets only what stands out of c_l pass in the second half.

    Reference: Li et al. 2025, FCN, sections on the linear and the exponential cross network and the self-mask. As in
    the authors' code, batch norm (if on) of c_l has one mean and variance for all units, and dropout (if any) is last;
    each b_l starts at 0 (there uniform between 0 and 1). Where the width is odd, the half without a mask has one more.

    Args:
        input_dim: width of the input.
        num_cross_layers: number of cross layers.
        exponential: whether ``a`` is x_l.
        dropout: probability of zeroing a number after each layer in training.
        batch_norm: whether c_l is normalised over the batch.
    """

    def __init__(
        self, input_dim: int, num_cross_layers: int, exponential: bool, dropout: float, batch_norm: bool
    ) -> None:
        super().__init__()
        half, self.exponential = (input_dim + 1) // 2, exponential
        self.layers = nn.ModuleList(linear(input_dim, half, bias=False) for _ in range(num_cross_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(half) for _ in self.layers)
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(1) if batch_norm else nn.Identity() for _ in self.layers)
        self.dropouts = nn.ModuleList(Dropout(dropout) if dropout > 0 else nn.Identity() for _ in self.layers)
        self.bias = nn.Parameter(torch.zeros(num_cross_layers, input_dim))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, input_dim)."""
        x = x0
        parts = zip(self.layers, self.batch_norms, self.norms, self.bias, self.dropouts, strict=True)
        for layer, batch_norm, norm, bias, dropout in parts:
            c = batch_norm(layer(x).unsqueeze(1)).squeeze(1)  # (B, half)
            masked = c * norm(c).relu()
            crossed = torch.cat([c, masked[:, : x.shape[1] // 2]], dim=1) + bias  # (B, input_dim)
            x = dropout(torch.addcmul(x, x if self.exponential else x0, crossed))
        return x


class FCN(nn.Module):
    """An exponential and a linear cross network on the embeddings, a linear layer each; the logit is the mean.

    Reference: Li et al. 2025, FCN: Fusing Exponential and Linear Cross Network for Click-Through Rate Prediction, whose
    first version is called DCNv3.
    Variant: one head; as many layers in both networks; trained by the click loss of the mean alone, without the paper's
    losses of the two parts (Tri-BCE), which weigh in by how much worse a part is than the mean. The first halves of all
    embeddings come before the second ones, as in the authors' code (salmon1802/FCN 1835ffe).

    Args:
        num_cross_layers: number of cross layers of each network, 1 or more.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_cross_layers: int = 3,
    ) -> None:
        super().__init__()
        if num_cross_layers < 1:
            raise UserError(f"num_cross_layers must be 1 or more, got {num_cross_layers}")
        input_dim = len(field_dims) * embedding_dim
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.exponential = MaskedCrossNetwork(input_dim, num_cross_layers, True, dropout, batch_norm)
        self.linear = MaskedCrossNetwork(input_dim, num_cross_layers, False, dropout, batch_norm)
        self.combine = nn.ModuleList(linear(input_dim, 1) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        halves = self.embedding(ids).tensor_split(2, dim=2)  # two of (B, F, D/2)
        x = torch.cat([half.flatten(1) for half in halves], dim=1)  # (B, F*D)
        first, second = self.combine
        return (first(self.exponential(x)) + second(self.linear(x))).squeeze(1) / 2  # (B,)
