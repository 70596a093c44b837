"""The building blocks of the CTR models, each a few lines.

Shapes in the comments: B batch, F fields, D embedding dimension, P = F(F-1)/2 pairs of fields.
Wherever pairs of fields appear they stand in the order (0,1), (0,2), ..., (0,F-1), (1,2), ..., (F-2,F-1).
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ctrlib.errors import UserError, unknown
from ctrlib.models.operations import has_faster_form

EMBEDDING_STD = 1e-4


def count_pairs(num_fields: int) -> int:
    """P, the number of unordered pairs of distinct fields; at least two fields are needed."""
    if num_fields < 2:
        raise UserError(f"field interactions need at least 2 fields, got {num_fields}")
    return num_fields * (num_fields - 1) // 2


def field_offsets(field_dims: Sequence[int]) -> Tensor:
    """Row of the first id of each field when the tables of all fields are stacked, (F,) int64."""
    if len(field_dims) == 0 or min(field_dims) < 1:
        raise UserError(f"field_dims must list at least one id for each field, got {list(field_dims)}")
    return torch.tensor([0, *field_dims[:-1]]).cumsum(0)


@has_faster_form
def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """The rows (n,) of a table (C,) or (C, D): (n,) or (n, D)."""
    return table.index_select(0, rows)


class FeatureEmbedding(nn.Module):
    """One vector per id; the tables of all fields are stacked into one.

    Ids are not range-checked: an id of ``field_dims[f]`` or more would read the next field's rows.
    On a CPU rows are fetched with ``index_select``, whose backward is several times faster than that of
    ``F.embedding``. Initial values are N(0, 1e-4^2).

    Args:
        field_dims: number of ids of each field, F entries.
        embedding_dim: D.
    """

    def __init__(self, field_dims: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("offsets", field_offsets(field_dims), persistent=False)
        self.weight = nn.Parameter(torch.empty(sum(field_dims), embedding_dim))
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to feature embeddings (B, F, D)."""
        rows = (ids + self.offsets).flatten()  # (B*F,)
        return take_rows(self.weight, rows).view(*ids.shape, -1)  # (B, F, D)


class FirstOrder(nn.Module):
    """Logistic regression on the ids: one weight per id, from N(0, 1e-4^2), summed, plus a bias, from 0."""

    def __init__(self, field_dims: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("offsets", field_offsets(field_dims), persistent=False)
        self.weight = nn.Parameter(torch.empty(sum(field_dims)))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        rows = (ids + self.offsets).flatten()  # (B*F,)
        return take_rows(self.weight, rows).view(ids.shape).sum(1) + self.bias  # (B,)


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The tables with a row per id (embeddings and first-order weights, no biases) inside ``model``.

    These are the parameters that the embedding L2 of the study covers, whole table at every step.
    """
    return [module.weight for module in model.modules() if isinstance(module, FeatureEmbedding | FirstOrder)]


def linear(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-normal weights and zero bias."""
    layer = nn.Linear(input_dim, output_dim, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Dropout(nn.Module):
    """Zeroes each unit with probability ``p`` in training and scales the others by 1 / (1 - p).

    Unlike ``nn.Dropout`` it can draw its mask from a generator of its own (``generator``; None: torch's global one),
    so that members trained side by side do not disturb each other's masks.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x of any shape to the same shape."""
        if not self.training:
            return x
        return x * dropout_mask(x, 1 - self.p, self.generator)


@has_faster_form
def dropout_mask(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """For each number of ``x``, of any shape, 1 / ``share`` with probability ``share`` and else 0."""
    return torch.empty_like(x).bernoulli_(share, generator=generator).div_(share)


class MLP(nn.Module):
    """Fully connected tower; each hidden layer is linear -> batch norm (if on) -> ReLU -> dropout (if any).

    Args:
        input_dim: width of the input.
        hidden_units: width of each hidden layer; may be empty.
        dropout: probability of zeroing a hidden unit in training.
        batch_norm: whether to normalise over the batch before each ReLU.
        output: whether to end in a linear layer to one logit.

    Attributes:
        bf16: whether the hidden layers' matrix products take bfloat16 operands in training (default no); weights,
            the output layer and predictions are float32 in any case.
    """

    def __init__(
        self, input_dim: int, hidden_units: Sequence[int], dropout: float, batch_norm: bool, output: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = input_dim
        for units in hidden_units:
            layers.append(linear(width, units))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(nn.ReLU(inplace=True))
            # a place of its own also without dropout, so that a checkpoint can be continued with another one
            layers.append(Dropout(dropout) if dropout > 0 else nn.Identity())
            width = units
        self.hidden_depth = len(layers)
        if output:
            layers += [linear(width, 1), nn.Flatten(0)]
        self.layers = nn.Sequential(*layers)
        self.output_dim = 1 if output else width
        self.bf16 = False

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Map (B, input_dim) to logits (B,), or to hidden units (B, output_dim) when there is no output layer.

        With ``first`` > 0 ``x`` is what the layers before that one give.
        """
        layers = list(self.layers)  # a slice of the module itself is a new module, slow beside a small step
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
            x = reduce(lambda x, layer: layer(x), layers[first : self.hidden_depth], x)
        x = x.float() if x.dtype == torch.bfloat16 else x
        return reduce(lambda x, layer: layer(x), layers[max(first, self.hidden_depth) :], x)


@has_faster_form
def second_order_fm(feature_emb: Tensor) -> Tensor:
    """Sum over all pairs of fields of the inner product of their embeddings: (B, F, D) to logits (B,).

    Uses ``2 * sum_{i<j} <v_i, v_j> = |sum_i v_i|^2 - sum_i |v_i|^2``, which needs no pairs.

    Reference: Rendle 2010, Factorization Machines, Lemma 3.1 (the feature values are all 1 here).
    """
    return 0.5 * (feature_emb.sum(1).square().sum(1) - feature_emb.square().sum((1, 2)))


@has_faster_form
def inner_products(feature_emb: Tensor) -> Tensor:
    """Inner products of the embeddings (B, F, D) of all pairs of fields: (B, P).

    Reference: Qu et al. 2016, Product-based Neural Networks, section III-B; here one value per pair goes to the
    MLP, not the paper's factorised product weights.
    """
    gram = torch.bmm(feature_emb, feature_emb.transpose(1, 2))  # (B, F, F)
    left, right = torch.triu_indices(*gram.shape[1:], offset=1, device=gram.device)
    return gram[:, left, right]


class CrossNetwork(nn.Module):
    """Cross network, version 1: ``x_{l+1} = x_0 * <x_l, w_l> + b_l + x_l``.

    Reference: Wang et al. 2017, Deep & Cross Network, equation 3. Each ``w_l`` starts Xavier-normal as a linear
    layer to one unit would, each ``b_l`` at 0.

    Args:
        input_dim: width of the input.
        num_cross_layers: number of cross layers, 0 or more.
    """

    def __init__(self, input_dim: int, num_cross_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_cross_layers, input_dim))
        self.bias = nn.Parameter(torch.zeros(num_cross_layers, input_dim))
        nn.init.normal_(self.weight, std=(2 / (input_dim + 1)) ** 0.5)

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, input_dim) to (B, input_dim)."""
        x = x0
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = x0 * (x @ weight).unsqueeze(1) + bias + x  # (B, input_dim)
        return x


class SENET(nn.Module):
    """Squeeze-and-excitation over fields: each field's embedding is scaled by a learned weight.

    Reference: Huang et al. 2019, FiBiNET, section 3.2: squeeze, excitation, re-weight. Squeeze is mean pooling
    over D; excitation is two bias-free linear layers, each followed by ReLU; re-weighting is a product.

    Args:
        num_fields: F.
        reduction_ratio: the excitation's hidden layer has ``F / reduction_ratio`` units, rounded down, at least 1.
    """

    def __init__(self, num_fields: int, reduction_ratio: float) -> None:
        super().__init__()
        if reduction_ratio <= 0:
            raise UserError(f"reduction_ratio must be above 0, got {reduction_ratio}")
        reduced = max(1, int(num_fields / reduction_ratio))
        self.excitation = nn.Sequential(
            linear(num_fields, reduced, bias=False), nn.ReLU(), linear(reduced, num_fields, bias=False), nn.ReLU()
        )

    def forward(self, feature_emb: Tensor) -> Tensor:
        """Map (B, F, D) to re-weighted embeddings (B, F, D)."""
        field_weights = self.excitation(feature_emb.mean(2))  # (B, F)
        return feature_emb * field_weights.unsqueeze(2)  # (B, F, D)


class BilinearInteraction(nn.Module):
    """For every pair of fields i < j the vector ``(W v_i) * v_j``, elementwise product.

    Reference: Huang et al. 2019, FiBiNET, section 3.3, its three types. The D x D matrix W is one for all pairs
    (``field_all``), one per left field i (``field_each``; F-1 of them, as the last field is never on the left)
    or one per pair (``field_interaction``). Each matrix acts as in ``nn.Linear``.

    Args:
        num_fields: F.
        embedding_dim: D.
        bilinear_type: which matrices are shared, see above.
        bilinear_init: standard deviation of the initial weights: ``per_matrix``, Xavier of a D x D matrix; ``stacked``,
            Xavier as PyTorch computes it for the tensor of all n matrices, sqrt(2 / (D D + n D)), as in FuxiCTR.
    """

    def __init__(
        self, num_fields: int, embedding_dim: int, bilinear_type: str, bilinear_init: str = "per_matrix"
    ) -> None:
        super().__init__()
        num_pairs = count_pairs(num_fields)
        num_matrices = {"field_all": 1, "field_each": num_fields - 1, "field_interaction": num_pairs}
        if bilinear_type not in num_matrices:
            raise unknown("bilinear_type", bilinear_type, num_matrices)
        self.bilinear_type = bilinear_type
        self.num_fields = num_fields
        self.num_pairs = num_pairs
        n = num_matrices[bilinear_type]
        self.weight = nn.Parameter(torch.empty(n, embedding_dim, embedding_dim))
        xavier = embedding_dim**-0.5
        stacked = (2 / (embedding_dim * (embedding_dim + n))) ** 0.5
        starts = {"per_matrix": xavier, "stacked": xavier if bilinear_type == "field_all" else stacked}
        if bilinear_init not in starts:
            raise unknown("bilinear_init", bilinear_init, starts)
        nn.init.normal_(self.weight, std=starts[bilinear_init])

    def matrices(self) -> Tensor:
        """The matrices per pair (P, D, D) or per left field (F-1, D, D)."""
        return self.weight.expand(self.num_fields - 1, -1, -1) if self.bilinear_type == "field_all" else self.weight

    def forward(self, feature_emb: Tensor) -> Tensor:
        """Map (B, F, D) to (B, P, D)."""
        left, right = torch.triu_indices(self.num_fields, self.num_fields, offset=1, device=feature_emb.device)
        matrices = self.weight if self.bilinear_type == "field_interaction" else self.matrices()[left]  # (P, D, D)
        projected = torch.einsum("bpd,ped->bpe", feature_emb[:, left], matrices)  # W v_i
        return projected * feature_emb[:, right]


class _AddToLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, term: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    @once_differentiable  # going through it for a second derivative would add the term once more
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.new_ones(())


def add_to_loss(logits: Tensor, term: Tensor) -> Tensor:
    """The logits as they are; whoever goes back from them, from whatever loss, goes back from ``term`` as well.

    For a model with a term of its own in its loss, one that needs no labels: a trainer sees logits alone, and what it
    writes down is the loss of these, without the term. In training only, and one backward pass for each forward pass;
    a second derivative is refused.

    Args:
        logits: (B,).
        term: one number, the mean over the batch as a click loss is.
    """
    return _AddToLoss.apply(logits, term)
