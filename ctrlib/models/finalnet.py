"""FinalNet: two blocks of layers that multiply their own halves, and learn from their mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlib.models.layers import Dropout, FeatureEmbedding, add_to_loss, linear


class FactorizedInteraction(nn.Module):
    """``[u, u * v]`` of the two halves u and v of ``W x + b``, ``*`` elementwise: each layer doubles the order.

    Reference: Zhu et al. 2023, FINAL, the factorized interaction layer. Variant: the products stand beside u (FuxiCTR's
    ``concat``). Where ``output_dim`` is odd, u has one unit more and its last one no partner.

    Args:
        input_dim: width of the input.
        output_dim: width of the output.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear = linear(input_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, output_dim)."""
        u, v = self.linear(x).chunk(2, dim=1)
        return torch.cat([u, u[:, : v.shape[1]] * v], dim=1)


class FinalNet(nn.Module):
    """Two blocks of factorized interactions on the embeddings; the logit is the mean of theirs, which teaches both.

    The second block reads the flat embeddings, the first one also the same times gates: ``e_f * g_f`` with
    ``g = 1 + W e``, a linear layer over the fields that starts at ``g = 1``. To the click loss of the mean logit each
    block adds its cross entropy with the mean probability, held constant.

    Reference: Zhu et al. 2023, FINAL: Factorized Interaction Layer for CTR Prediction, with two blocks, feature gating
    and self-distillation (``2B`` in FuxiCTR 0245987).
    Variant: both blocks have the same widths, dropout and batch norm; a layer is interaction -> batch norm (if on) ->
    dropout (if any), without an activation, as in FuxiCTR.

    Args:
        feature_gating: whether the first block sees gated embeddings, too.
        self_distillation: whether the blocks learn from their mean.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        feature_gating: bool = True,
        self_distillation: bool = True,
    ) -> None:
        super().__init__()
        self.self_distillation = self_distillation
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.gating = nn.Linear(len(field_dims), len(field_dims)) if feature_gating else None
        for parameter in self.gating.parameters() if feature_gating else ():
            nn.init.zeros_(parameter)
        flat_dim = len(field_dims) * embedding_dim
        self.blocks, self.combine = nn.ModuleList(), nn.ModuleList()
        for input_dim in (flat_dim * (2 if feature_gating else 1), flat_dim):
            widths = [input_dim, *hidden_units]
            layers: list[nn.Module] = []
            for before, units in zip(widths, hidden_units, strict=False):
                layers.append(FactorizedInteraction(before, units))
                layers += [nn.BatchNorm1d(units)] * batch_norm
                layers += [Dropout(dropout)] * (dropout > 0)
            self.blocks.append(nn.Sequential(*layers))
            self.combine.append(linear(widths[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        x = y = self.embedding(ids)  # (B, F, D)
        if self.gating is not None:
            gates = 1 + self.gating(x.transpose(1, 2)).transpose(1, 2)  # (B, F, D)
            x = torch.cat([x, x * gates], dim=1)  # (B, 2F, D)
        parts = zip(self.combine, self.blocks, (x, y), strict=True)
        first, second = (combine(block(part.flatten(1))).squeeze(1) for combine, block, part in parts)  # (B,) each
        logits = (first + second) / 2
        if not (self.training and self.self_distillation):
            return logits
        teacher = logits.detach().sigmoid()
        told = [F.binary_cross_entropy_with_logits(one, teacher) for one in (first, second)]
        return add_to_loss(logits, sum(told))
