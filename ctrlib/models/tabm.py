"""TabM-DeepFM: a DeepFM whose MLP is K MLPs that share their weight matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlib.errors import UserError
from ctrlib.models.fm import FM
from ctrlib.models.layers import Dropout, add_to_loss, linear, second_order_fm


class AdaptedLinear(nn.Module):
    """K linear layers on one matrix: ``l_k(x) = s_k * (W (r_k * x)) + b_k``, ``*`` elementwise.

    Reference: Gorishniy et al. 2025, TabM, section on the architecture; the layer is BatchEnsemble's. W starts
    Xavier-normal and b_k at 0, as all linear layers here; s_k at 1; r_k at 1, or at -1 or 1 by chance.

    Args:
        input_dim: width of the input.
        output_dim: width of the output.
        num_submodels: K.
        random_signs: whether r_k starts at random signs.
    """

    def __init__(self, input_dim: int, output_dim: int, num_submodels: int, random_signs: bool) -> None:
        super().__init__()
        self.shared = linear(input_dim, output_dim, bias=False)
        start = torch.ones(num_submodels, input_dim)
        self.r = nn.Parameter(torch.randint(2, start.shape) * 2.0 - 1 if random_signs else start)
        self.s = nn.Parameter(torch.ones(num_submodels, output_dim))
        self.bias = nn.Parameter(torch.zeros(num_submodels, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, input_dim) or (B, K, input_dim) to (B, K, output_dim)."""
        return torch.addcmul(self.bias, self.shared(x * self.r), self.s)


class TabMDeepFM(FM):
    """A DeepFM with K MLPs: submodel k is first order + FM + MLP_k; it predicts the mean of the K probabilities.

    The loss is the mean of the K click losses. As a click loss is ``softplus(z) - y z``, that is the click loss of the
    mean logit, which a trainer sees in training, plus ``mean_k softplus(z_k) - softplus(mean_k z_k)``, which needs no
    label and is added here. Peers of a coupled TabM see the mean logit, too.

    Reference: Gorishniy et al. 2025, TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling: shared
    matrices with adapters of which only the first ``r_k`` start at random, K output layers of their own, mean of the
    losses. A hidden layer is linear -> batch norm (if on, of each submodel by itself) -> ReLU -> dropout (if any).
    Variant: embeddings, first order and FM are common to all.

    Args:
        num_submodels: K, 1 or more.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_submodels: int = 8,
    ) -> None:
        super().__init__(field_dims, embedding_dim)
        if num_submodels < 1:
            raise UserError(f"num_submodels must be 1 or more, got {num_submodels}")
        layers: list[nn.Module] = []
        width = len(field_dims) * embedding_dim
        for depth, units in enumerate(hidden_units):
            layers.append(AdaptedLinear(width, units, num_submodels, random_signs=depth == 0))
            if batch_norm:
                own = nn.BatchNorm1d(num_submodels * units)
                layers += [nn.Flatten(1), own, nn.Unflatten(1, (num_submodels, units))]
            layers.append(nn.ReLU())
            layers += [Dropout(dropout)] * (dropout > 0)
            width = units
        self.towers = nn.Sequential(*layers)
        self.heads = nn.ParameterDict({"weight": torch.empty(num_submodels, width), "bias": torch.zeros(num_submodels)})
        nn.init.normal_(self.heads["weight"], std=(2 / (width + 1)) ** 0.5)

    def submodels(self, ids: Tensor) -> Tensor:
        """The logits (B, K) of all submodels."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        hidden = self.towers(feature_emb.flatten(1).unsqueeze(1))  # (B, K, H)
        common = self.first_order(ids) + second_order_fm(feature_emb)  # (B,)
        return common.unsqueeze(1) + torch.einsum("bkh,kh->bk", hidden, self.heads["weight"]) + self.heads["bias"]

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        each = self.submodels(ids)  # (B, K)
        if not self.training:  # the logit of the mean probability
            return F.logsigmoid(each).logsumexp(1) - F.logsigmoid(-each).logsumexp(1)
        logits = each.mean(1)
        return add_to_loss(logits, (F.softplus(each).mean(1) - F.softplus(logits)).mean())
