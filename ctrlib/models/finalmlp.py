"""FinalMLP: two MLPs on the same embeddings that meet in a bilinear form."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctrlib.errors import UserError
from ctrlib.models.layers import MLP, FeatureEmbedding, linear


class BilinearFusion(nn.Module):
    """One logit of two vectors: ``b + <w_x, x> + <w_y, y> + sum_h x_h^T W_h y_h`` over their ``num_heads`` parts.

    Reference: Mao et al. 2023, FinalMLP, section on stream-level fusion, with its extension to several heads. The W_h
    start N(0, s^2) with the Xavier-normal s of a linear layer that has all of their entries as inputs (FuxiCTR).

    Args:
        x_dim: width of the first vector, a multiple of ``num_heads``.
        y_dim: width of the second vector, a multiple of ``num_heads``.
        num_heads: number of parts.
    """

    def __init__(self, x_dim: int, y_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or x_dim % num_heads or y_dim % num_heads:
            raise UserError(f"num_heads must divide the last hidden width, got {num_heads} and {x_dim}")
        self.x, self.y = linear(x_dim, 1), linear(y_dim, 1, bias=False)
        self.weight = nn.Parameter(torch.empty(num_heads, x_dim // num_heads, y_dim // num_heads))
        nn.init.normal_(self.weight, std=(2 / (self.weight.numel() + 1)) ** 0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map (B, x_dim) and (B, y_dim) to logits (B,)."""
        heads = x.unflatten(1, (len(self.weight), -1))  # (B, heads, width of a head)
        projected = torch.einsum("bhx,hxy->bhy", heads, self.weight).flatten(1)  # (B, y_dim)
        products = (projected * y).sum(1)  # (B,)
        return self.x(x).squeeze(1) + self.y(y).squeeze(1) + products


class ContextGate(nn.Module):
    """Scales every number of the flat embeddings by a weight in (0, 2) that depends on the id of one field.

    Reference: Mao et al. 2023, FinalMLP, section on stream-specific feature gating. The context field has an
    embedding of its own for this purpose.

    Args:
        field_dims: number of ids of each field, F entries.
        embedding_dim: D.
        field: number of the context field, from 0.
        hidden_units: width of the gate's hidden layer.
    """

    def __init__(self, field_dims: Sequence[int], embedding_dim: int, field: int, hidden_units: int) -> None:
        super().__init__()
        if not 0 <= field < len(field_dims):
            raise UserError(f"a gate's field must be -1 (no gate) or 0 to {len(field_dims) - 1}, got {field}")
        self.field = field
        self.embedding = FeatureEmbedding(field_dims[field : field + 1], embedding_dim)
        self.gate = nn.Sequential(
            linear(embedding_dim, hidden_units), nn.ReLU(), linear(hidden_units, len(field_dims) * embedding_dim)
        )

    def forward(self, ids: Tensor, flat: Tensor) -> Tensor:
        """Map ids (B, F) and flat embeddings (B, F*D) to gated embeddings (B, F*D)."""
        context = self.embedding(ids[:, self.field : self.field + 1]).flatten(1)  # (B, D)
        return flat * (2 * self.gate(context).sigmoid())


class FinalMLP(nn.Module):
    """Two streams, each an MLP on the (gated) flat embeddings; a bilinear form of both is the logit.

    Reference: Mao et al. 2023, FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction.
    Variant: both streams have the same widths, dropout and batch norm, and differ in their initial weights and in
    their gates. A gate is off unless it is given a field: without context it would be the same for every row, a
    factor that the stream's first layer already holds. Without hidden units the flat embeddings meet in the fusion.

    Args:
        num_heads: parts of the fusion; must divide the last hidden width.
        gate_field_1: the field that gates the first stream; -1 for no gate.
        gate_field_2: the field that gates the second stream; -1 for no gate.
        gate_units: width of a gate's hidden layer.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_heads: int = 1,
        gate_field_1: int = -1,
        gate_field_2: int = -1,
        gate_units: int = 64,
    ) -> None:
        super().__init__()
        input_dim = len(field_dims) * embedding_dim
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.gates = nn.ModuleList(
            ContextGate(field_dims, embedding_dim, field, gate_units) if field != -1 else None
            for field in (gate_field_1, gate_field_2)
        )
        self.streams = nn.ModuleList(MLP(input_dim, hidden_units, dropout, batch_norm, output=False) for _ in range(2))
        self.fusion = BilinearFusion(self.streams[0].output_dim, self.streams[1].output_dim, num_heads)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        flat = self.embedding(ids).flatten(1)  # (B, F*D)
        inputs = [flat if gate is None else gate(ids, flat) for gate in self.gates]
        x, y = (stream(part) for stream, part in zip(self.streams, inputs, strict=True))  # (B, H) each
        return self.fusion(x, y)  # (B,)
