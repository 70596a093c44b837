"""DeepFM, DCN and PNN computed from the distinct ids of a batch: the same numbers up to rounding, faster on a CPU.

A batch of 4000 rows of Criteo asks 156,000 times for an embedding, but only for some 15,000 different ones. Whatever is
linear in the flat embeddings is a sum over fields, ``W x = sum_f W_f v_f``, and ``W_f v_f`` depends on the id alone. So
it is computed once per distinct id, and each row adds up the F results it needs; the gradients go the same way back.
The first hidden layer, the widest product of these models, then takes about a tenth of the arithmetic.

The models in their own files are the plain form; the tests compare each with its form here.

Shapes in the comments: B batch, F fields, D embedding dimension, U distinct ids of the batch, H units, M other columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ctrlib.fast.kernels import cross_dot, inner_products
from ctrlib.models.dcn import DCN
from ctrlib.models.deepfm import DeepFM
from ctrlib.models.layers import MLP, field_offsets, take_rows
from ctrlib.models.operations import PLAIN
from ctrlib.models.pnn import PNN
from ctrlib.training.batches import as_tensor
from ctrlib.training.cohort import Forward, Group
from ctrlib.training.dataset import Dataset

SMALLEST_EMBEDDING = 16
"""D from which on it pays: adding up costs the same for any D, the products that it saves cost D times as much."""

SMALLEST_WIDTH = 256
"""Units of the first hidden layer from which on a model is computed this way. Narrower ones would gain too; but
those that a CPU trained for the book are narrower, and are to keep their digits."""

LARGEST_SHARE = 0.2
"""Distinct ids per cell of a batch up to which it pays."""

WIDTH_UNIT = 16


@dataclass(frozen=True)
class DistinctIds:
    """Which ids a batch holds, and where.

    Attributes:
        rows: (U,) their rows in the stacked tables, ascending, so that the ids of a field stand together.
        which: (B, F), for each cell the place of its id in ``rows``.
        bounds: F + 1 places in ``rows`` between which the ids of each field stand.
        samples: (F, B), for each field its ids in turn, and for each id the rows of the batch that hold it.
        begins: (U,), where in ``samples`` (flattened) those of each id begin.
    """

    rows: Tensor
    which: Tensor
    bounds: list[int]
    samples: Tensor
    begins: Tensor

    def of_field(self, field: int) -> slice:
        """Where the ids of a field stand in ``rows``."""
        return slice(self.bounds[field], self.bounds[field + 1])

    def cells(self) -> Tensor:
        """(F*B,), in the order of ``samples`` the cells themselves, as places in ``which`` (flattened)."""
        fields = len(self.samples)
        return (self.samples * fields + torch.arange(fields)[:, None]).flatten()


def distinct_ids(ids: Tensor, offsets: Tensor) -> DistinctIds:
    """The distinct ids of a batch (B, F); ``offsets`` (F,) as :func:`ctrlib.models.layers.field_offsets` gives them."""
    cells = (ids + offsets).T.flatten().int()  # (F*B,), field by field; int32 is sorted twice as fast
    ordered, places = cells.sort(stable=True)
    rows, found, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    which = torch.empty_like(found)
    which[places] = found
    return DistinctIds(
        rows=rows.long(),
        which=which.view(ids.shape[1], -1).T.contiguous(),
        bounds=[*torch.searchsorted(rows, offsets.int()).tolist(), len(rows)],
        samples=(places % len(ids)).view(ids.shape[1], -1),
        begins=counts.cumsum(0) - counts,
    )


class SumOverFields(torch.autograd.Function):
    """Numbers of each id (U, M), added up over the ids of each row of the batch: (B, M)."""

    @staticmethod
    def forward(ctx, values: Tensor, distinct: DistinctIds) -> Tensor:
        ctx.distinct = distinct
        return add_up(values, distinct.which)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return add_up(grad, ctx.distinct.samples.flatten(), ctx.distinct.begins), None


class Embeddings(torch.autograd.Function):
    """The embeddings (B, F, D) of a batch from those of its distinct ids (U, D)."""

    @staticmethod
    def forward(ctx, rows: Tensor, distinct: DistinctIds) -> Tensor:
        ctx.distinct = distinct
        return rows.index_select(0, distinct.which.flatten()).view(*distinct.which.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return add_up(grad.flatten(0, 1), ctx.distinct.cells(), ctx.distinct.begins), None


class LinearOfFlat(torch.autograd.Function):
    """A linear layer on the flat embeddings of each row of the batch: ``embeddings.flatten(1) @ weight.T``, (B, H).

    Args of ``apply``:
        rows: (U, D) embeddings of the distinct ids.
        weight: (H, F*D).
        distinct: which ids they are.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, distinct: DistinctIds) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.distinct = distinct
        by_field = weight.unflatten(1, (-1, rows.shape[1]))  # (H, F, D)
        products = rows.new_empty(len(rows), len(weight))  # (U, H)
        for f in range(by_field.shape[1]):
            ids = distinct.of_field(f)
            torch.mm(rows[ids], by_field[:, f].T, out=products[ids])
        return add_up(products, distinct.which)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weight = ctx.saved_tensors
        by_field = weight.unflatten(1, (-1, rows.shape[1]))
        d_rows, d_by_field = torch.empty_like(rows), torch.empty_like(by_field)
        for f, samples in enumerate(ctx.distinct.samples):
            ids = ctx.distinct.of_field(f)
            begins = ctx.distinct.begins[ids] - f * len(grad)
            d_products = add_up(grad, samples, begins)  # (ids of the field, H): the same kind of sum, the other way
            torch.mm(d_products, by_field[:, f], out=d_rows[ids])
            d_by_field[:, f] = d_products.T @ rows[ids]
        return d_rows, d_by_field.flatten(1), None


def add_up(values: Tensor, places: Tensor, begins: Tensor | None = None) -> Tensor:
    """Sums of rows of ``values``: one for each row of ``places``, or for each run of ``places`` from ``begins`` on."""
    return nn.functional.embedding_bag(places, values, begins, mode="sum")


def deepfm(model: DeepFM, distinct: DistinctIds) -> Tensor:
    """Logits (B,) of a DeepFM; what its first order and its FM add up over the fields is added up in one go."""
    rows = take_rows(model.embedding.weight, distinct.rows)  # (U, D)
    first_order = take_rows(model.first_order.weight, distinct.rows)  # (U,)
    values = torch.cat([rows, rows.square().sum(1, keepdim=True), first_order[:, None]], dim=1)  # (U, D + 2)
    total, squares, linear = SumOverFields.apply(values, distinct).split([rows.shape[1], 1, 1], dim=1)
    second_order = 0.5 * (total.square().sum(1) - squares[:, 0])  # as second_order_fm
    return linear[:, 0] + model.first_order.bias + second_order + deep(model.mlp, rows, distinct)


def dcn(model: DCN, distinct: DistinctIds) -> Tensor:
    """Logits (B,) of a DCN; all that its cross network multiplies with the flat embeddings is a layer of few units."""
    rows = take_rows(model.embedding.weight, distinct.rows)  # (U, D)
    cross = model.cross
    for_cross, for_deep = model.combine.weight[0].split([cross.weight.shape[1], model.mlp.output_dim])
    products = LinearOfFlat.apply(rows, torch.cat([cross.weight, for_cross[None]]), distinct)  # (B, L + 1)
    from_cross = cross_dot(cross, products, for_cross)
    return from_cross + deep(model.mlp, rows, distinct) @ for_deep + model.combine.bias


def pnn(model: PNN, distinct: DistinctIds) -> Tensor:
    """Logits (B,) of a PNN; inner products differ from row to row, the embeddings beside them do not.

    An odd width costs a matrix product up to half of its rate, so zeros are put beside the weights of the products.
    """
    rows = take_rows(model.embedding.weight, distinct.rows)  # (U, D)
    first, pairs = model.mlp.layers[0], model.num_pairs
    of_flat, of_pairs = first.weight.split([first.in_features - pairs, pairs], dim=1)
    unused = WIDTH_UNIT - pairs % WIDTH_UNIT
    products = inner_products(Embeddings.apply(rows, distinct), unused)  # (B, P + unused)
    hidden = LinearOfFlat.apply(rows, of_flat, distinct) + first.bias
    return model.mlp(torch.addmm(hidden, products, nn.functional.pad(of_pairs, (0, unused)).T), first=1)


def deep(mlp: MLP, rows: Tensor, distinct: DistinctIds) -> Tensor:
    """The tower on the flat embeddings."""
    first = mlp.layers[0]
    return mlp(LinearOfFlat.apply(rows, first.weight, distinct) + first.bias, first=1)


DEDUP_FORWARD: dict[type[nn.Module], Callable[..., Tensor]] = {DeepFM: deepfm, DCN: dcn, PNN: pnn}


def supports_dedup(model: nn.Module) -> bool:
    """Whether ``model`` can be computed from distinct ids, is wide enough for it, and does not round its operands."""
    if type(model) not in DEDUP_FORWARD or model.embedding.weight.shape[1] < SMALLEST_EMBEDDING:
        return False
    mlp: MLP = model.mlp
    return mlp.hidden_depth > 0 and mlp.layers[0].out_features >= SMALLEST_WIDTH and not mlp.bf16


def ids_repeat_enough(ids: Tensor) -> bool:
    """Whether ids (B, F) repeat so often that it pays."""
    return sum(len(column.unique()) for column in ids.T) <= LARGEST_SHARE * ids.numel()


def choose_forward(group: Group, dataset: Dataset) -> tuple[Forward, str]:
    """From distinct ids on a CPU where it pays, judged by a batch from all over the training rows."""
    ids, size = dataset.train.ids, group.recipe.batch_size
    models = [trainee.model for trainee in group.trainees] + group.frozen
    on_cpu = group.weights.device.type == "cpu"
    if on_cpu and any(map(supports_dedup, models)) and ids_repeat_enough(as_tensor(ids[:: len(ids) // size][:size])):
        offsets = field_offsets(dataset.field_dims)
        return partial(from_distinct_ids, offsets=offsets), "first layer once per distinct id"
    return PLAIN["choose_forward"](group, dataset)


def from_distinct_ids(ids: Tensor, offsets: Tensor) -> Callable[[nn.Module], Tensor]:
    """Logits (B,) of any model on a batch (B, F), whose distinct ids are found once for all models."""
    distinct = distinct_ids(ids, offsets)
    return lambda model: DEDUP_FORWARD[type(model)](model, distinct) if supports_dedup(model) else model(ids)
