"""RankMixer: tokens that exchange their parts and go through a network of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlib.errors import UserError
from ctrlib.models.layers import Dropout, FeatureEmbedding, linear


class PerTokenLinear(nn.Module):
    """A linear layer of its own for each token: ``y_t = W_t x_t + b_t``; each W_t starts Xavier-normal, b_t at 0.

    Args:
        num_tokens: T.
        input_dim: width of a token before.
        output_dim: width of a token after.
    """

    def __init__(self, num_tokens: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, input_dim, output_dim))
        self.bias = nn.Parameter(torch.zeros(num_tokens, 1, output_dim))
        nn.init.normal_(self.weight, std=(2 / (input_dim + output_dim)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, B, input_dim) to (T, B, output_dim)."""
        return torch.baddbmm(self.bias, x, self.weight)


class MixerBlock(nn.Module):
    """``S = LN(X + mix(X))``, then ``LN(S + FFN(S))`` with a feed-forward network of its own for each token.

    Mixing has no weights: each token is cut into T parts, and the new token h is all old ones' parts h side by side.
    The network is linear, to twice the width -> GELU -> dropout (if any) -> linear.

    Reference: Zhu et al. 2025, RankMixer, sections on multi-head token mixing (as many heads as tokens) and on
    per-token feed-forward networks.

    Args:
        num_tokens: T.
        token_dim: width of a token, a multiple of T.
        dropout: probability of zeroing a hidden unit in training.
    """

    def __init__(self, num_tokens: int, token_dim: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(token_dim) for _ in range(2))
        self.up = PerTokenLinear(num_tokens, token_dim, 2 * token_dim)
        self.down = PerTokenLinear(num_tokens, 2 * token_dim, token_dim)
        self.dropout = Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, B, token_dim) to (T, B, token_dim)."""
        parts = x.unflatten(2, (len(x), -1))  # (T, B, T, token_dim / T)
        x = self.norms[0](x + parts.permute(2, 1, 0, 3).flatten(2))
        return self.norms[1](x + self.down(self.dropout(F.gelu(self.up(x)))))


class RankMixer(nn.Module):
    """The flat embeddings, cut into T tokens; blocks that mix them; a linear layer on the tokens' mean.

    Reference: Zhu et al. 2025, RankMixer: Scaling Up Ranking Models in Industrial Recommenders.
    Variant: small and dense, no mixture of experts; the embeddings are cut in the order of the fields, the last token
    filled up with zeros, and each token has a projection of its own; no MLP.

    Args:
        num_tokens: T.
        token_dim: width of a token, a multiple of ``num_tokens``.
        mixer_layers: number of blocks, 1 or more.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        dropout: float = 0.0,
        num_tokens: int = 8,
        token_dim: int = 32,
        mixer_layers: int = 2,
    ) -> None:
        super().__init__()
        if num_tokens < 1 or token_dim < 1 or token_dim % num_tokens:
            raise UserError(f"token_dim must be a multiple of num_tokens, got {token_dim} and {num_tokens}")
        if mixer_layers < 1:
            raise UserError(f"mixer_layers must be 1 or more, got {mixer_layers}")
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        flat_dim = len(field_dims) * embedding_dim
        width = -(-flat_dim // num_tokens)  # of a token before its projection, rounded up
        self.missing = num_tokens * width - flat_dim
        self.tokens = PerTokenLinear(num_tokens, width, token_dim)
        blocks = (MixerBlock(num_tokens, token_dim, dropout) for _ in range(mixer_layers))
        self.mixer = nn.Sequential(*blocks)
        self.combine = linear(token_dim, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        flat = F.pad(self.embedding(ids).flatten(1), (0, self.missing))  # (B, T * width)
        tokens = flat.unflatten(1, (len(self.tokens.weight), -1)).transpose(0, 1)  # (T, B, width)
        return self.combine(self.mixer(self.tokens(tokens)).mean(0)).squeeze(1)  # (B,)
