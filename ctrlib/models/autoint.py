"""AutoInt: fields attend to each other, layer upon layer; AutoInt+ adds an MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import MLP, Dropout, FeatureEmbedding, count_pairs, linear


class FieldAttention(nn.Module):
    """Multi-head self-attention over fields, one interacting layer: ``relu(sum_k a_mk V e_k + W_res e_m)``.

    ``a_mk`` is the softmax over fields k of ``<Q e_m, K e_k>``, in each head with its own part of Q, K and V.

    Reference: Song et al. 2019, AutoInt, section on the interacting layer: attention, heads side by side, residual.
    Variant: products are not divided by the root of their width, as in the paper; where input and output have one
    width the residual is the input itself (FuxiCTR); dropout on the attention weights (FuxiCTR). No biases.

    Args:
        input_dim: width of a field's vector before.
        attention_dim: width after, all heads together; a multiple of ``num_heads``.
        num_heads: number of heads.
        dropout: probability of zeroing an attention weight in training.
    """

    def __init__(self, input_dim: int, attention_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or attention_dim < 1 or attention_dim % num_heads:
            raise UserError(f"attention_dim must be a multiple of num_heads, got {attention_dim} and {num_heads}")
        self.num_heads = num_heads
        self.query = linear(input_dim, attention_dim, bias=False)
        self.key = linear(input_dim, attention_dim, bias=False)
        self.value = linear(input_dim, attention_dim, bias=False)
        same = input_dim == attention_dim
        self.residual = nn.Identity() if same else linear(input_dim, attention_dim, bias=False)
        self.dropout = Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, input_dim) to (B, F, attention_dim)."""
        parts = [part(x).chunk(self.num_heads, dim=2) for part in (self.query, self.key, self.value)]
        query, key, value = map(torch.cat, parts)  # (heads*B, F, width of a head): a head is more rows of the batch
        attention = self.dropout(torch.bmm(query, key.transpose(1, 2)).softmax(dim=2))  # (heads*B, F, F)
        heads = torch.cat(torch.bmm(attention, value).chunk(self.num_heads), dim=2)  # (B, F, attention_dim)
        return (heads + self.residual(x)).relu()


class AutoInt(nn.Module):
    """Interacting layers on the embeddings and a linear layer to a logit; AutoInt+ adds the logit of an MLP.

    Reference: Song et al. 2019, AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks,
    sections on the interacting layer, the output layer and the joint training with an MLP (AutoInt+).
    Variant: AutoInt+ unless ``plus`` is off; no first-order term; dropout on the attention weights, too.

    Args:
        attention_layers: number of interacting layers, 1 or more.
        attention_dim: width of a field's vector after each of them, all heads together.
        num_heads: heads of each of them.
        plus: whether there is an MLP.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        attention_layers: int = 2,
        attention_dim: int = 32,
        num_heads: int = 2,
        plus: bool = True,
    ) -> None:
        super().__init__()
        count_pairs(len(field_dims))
        if attention_layers < 1:
            raise UserError(f"attention_layers must be 1 or more, got {attention_layers}")
        widths = [embedding_dim] + [attention_dim] * (attention_layers - 1)
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.attention = nn.Sequential(*(FieldAttention(w, attention_dim, num_heads, dropout) for w in widths))
        self.combine = linear(len(field_dims) * attention_dim, 1)
        flat_dim = len(field_dims) * embedding_dim
        self.mlp = MLP(flat_dim, hidden_units, dropout, batch_norm, output=True) if plus else None

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        logits = self.combine(self.attention(feature_emb).flatten(1)).squeeze(1)  # (B,)
        return logits if self.mlp is None else logits + self.mlp(feature_emb.flatten(1))
