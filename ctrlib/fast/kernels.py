"""Faster forms of a few operations of the models, with their gradients written out.

They compute the same numbers up to rounding, with less memory traffic: on a CPU that, not arithmetic, is what a CTR
model's training loses its time to. Each is known by the plain form that it stands for, and the tests compare the two.

Shapes in the comments: B batch, F fields, D embedding dimension, P = F(F-1)/2 pairs, H units of the layer.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ctrlib.models.layers import MLP, BilinearInteraction, CrossNetwork
from ctrlib.models.operations import PLAIN

COLUMNS = 1500  # of a block of pair products: wide enough for a fast matrix product, small enough for a cache


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """As the plain form, on a GPU by :class:`ctrlib.fast.gpu.TakeRows`."""
    if table.is_cuda:
        from ctrlib.fast.gpu import TakeRows

        return TakeRows.apply(table, rows)
    return PLAIN["take_rows"](table, rows)


def dropout_mask(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """As the plain form, bit for bit: where ``bernoulli_`` compares 53 bits of a drawn integer with ``share``, the same
    integers drawn as such take two thirds of the time. (Intel's library draws otherwise, and is left to it.)"""
    if x.is_cuda or not bernoulli_compares_integers():
        return PLAIN["dropout_mask"](x, share, generator)
    return integers_below(torch.empty_like(x, dtype=torch.int64), share, generator).to(x.dtype).div_(share)


def integers_below(place: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Which of the integers of 53 bits drawn into ``place`` are below ``share`` of their range."""
    return place.random_(generator=generator).bitwise_and_(2**53 - 1).lt(math.ceil(share * 2**53))


@lru_cache
def bernoulli_compares_integers() -> bool:
    """Whether ``bernoulli_`` on this CPU gives what :func:`integers_below` does."""
    drawn = [torch.Generator().manual_seed(7) for _ in range(2)]
    mask = torch.empty(5000).bernoulli_(0.7, generator=drawn[0]).bool()
    other = integers_below(torch.empty(5000, dtype=torch.int64), 0.7, drawn[1])
    return torch.equal(mask, other) and torch.equal(drawn[0].get_state(), drawn[1].get_state())


class SecondOrderFM(torch.autograd.Function):
    """``0.5 * (|sum_f v_f|^2 - sum_f |v_f|^2)`` of embeddings (B, F, D) -> (B,); the gradient in v_i is the sum
    of the other fields' embeddings. Plainly ``second_order_fm``."""

    @staticmethod
    def forward(ctx, feature_emb: Tensor) -> Tensor:
        total = feature_emb.sum(1)  # (B, D)
        ctx.save_for_backward(feature_emb, total)
        return 0.5 * (total.square().sum(1) - torch.linalg.vector_norm(feature_emb.flatten(1), dim=1).square())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        feature_emb, total = ctx.saved_tensors
        return torch.sub(total[:, None], feature_emb).mul_(grad[:, None, None])  # (B, F, D)


class PairInnerProducts(torch.autograd.Function):
    """``<v_i, v_j>`` of all pairs i < j of embeddings (B, F, D) -> (B, P). Plainly ``inner_products``.

    The gradient of the Gram matrix is symmetric, so that one batched product replaces two on the way back.

    Args of ``apply``:
        feature_emb: (B, F, D).
        pairs: (P,) where in the flat Gram matrix each pair stands; more of them have to get a gradient of zero.
        pair_of: (F*F,) which pair each entry of the flat Gram matrix is, either way round; P on the diagonal.
    """

    @staticmethod
    def forward(ctx, feature_emb: Tensor, pairs: Tensor, pair_of: Tensor) -> Tensor:
        ctx.save_for_backward(feature_emb, pair_of)
        gram = torch.bmm(feature_emb, feature_emb.transpose(1, 2)).flatten(1)  # (B, F*F)
        return gram.index_select(1, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        feature_emb, pair_of = ctx.saved_tensors
        num_fields = feature_emb.shape[1]
        extra = grad.shape[1] > num_fields * (num_fields - 1) // 2
        with_zero = grad if extra else torch.nn.functional.pad(grad, (0, 1))  # (B, P + 1) or wider
        d_gram = with_zero.index_select(1, pair_of).unflatten(1, (num_fields, num_fields))
        return torch.bmm(d_gram, feature_emb), None, None


def inner_products(feature_emb: Tensor, unused: int = 0) -> Tensor:
    """As the plain form; ``unused`` more columns may be anything, for callers who multiply them with zero."""
    fields, device = feature_emb.shape[1], feature_emb.device
    left, right = torch.triu_indices(fields, fields, offset=1, device=device)
    pair_of = torch.full((fields, fields), len(left), device=device)
    pair_of[left, right] = pair_of[right, left] = torch.arange(len(left), device=device)
    pairs = nn.functional.pad(left * fields + right, (0, unused))
    return PairInnerProducts.apply(feature_emb, pairs, pair_of.flatten())


class LinearOfPairs(torch.autograd.Function):
    """A linear layer on all pair vectors ``(W v_i) * v_j`` without ever holding all of them.

    Plainly: ``pairs.flatten(1) @ weight.T`` with ``pairs`` (B, P, D) from ``BilinearInteraction``. At 39 fields the
    pair vectors of one batch of 4000 are 190 MB, and three times that with their gradients; here a few left fields
    at a time are multiplied into the result, and made again on the way back, which costs 4 % more arithmetic.

    Args of ``apply``:
        feature_emb: (B, F, D).
        matrices: (P, D, D) one per pair, or (F-1, D, D) one per left field.
        weight: (H, P*D), the part of the layer's weight that reads these pairs.
        bf16: whether the layer's matrix products take bfloat16 operands; sums stay float32.
    """

    @staticmethod
    def forward(ctx, feature_emb: Tensor, matrices: Tensor, weight: Tensor, bf16: bool) -> Tensor:
        ctx.save_for_backward(feature_emb, matrices, weight)
        ctx.bf16 = bf16
        out = feature_emb.new_zeros(len(feature_emb), len(weight))  # (B, H)
        for lefts, columns in blocks_of_pairs(*feature_emb.shape[1:]):
            products = pair_products(feature_emb, matrices, lefts)  # (B, columns)
            add_product(out, products, weight[:, columns].T, bf16)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        feature_emb, matrices, weight = ctx.saved_tensors
        per_pair = len(matrices) != feature_emb.shape[1] - 1
        d_emb, d_matrices, d_weight = map(torch.zeros_like, (feature_emb, matrices, weight))
        for lefts, columns in blocks_of_pairs(*feature_emb.shape[1:]):
            d_products = matmul(grad, weight[:, columns], ctx.bf16)  # (B, columns)
            products = torch.empty_like(d_products)
            for i, own, place in left_fields(feature_emb, matrices, lefts):
                left, right = feature_emb[:, i], feature_emb[:, i + 1 :]  # (B, D), (B, n, D)
                projected = project(left, matrices[own])  # (B, n, D) or (B, 1, D)
                d_pairs = d_products[:, place].unflatten(1, right.shape[1:])  # (B, n, D)
                torch.mul(projected, right, out=products[:, place].unflatten(1, right.shape[1:]))
                d_emb[:, i + 1 :].addcmul_(d_pairs, projected)
                d_pairs.mul_(right)
                d_projected = d_products[:, place] if per_pair else d_pairs.sum(1)  # (B, n*D) or (B, D)
                # With D as the rows of the result, not its columns: for a small D that is several times faster.
                d_matrices[own].flatten(0, 1).add_((left.T @ d_projected).T)
                d_emb[:, i].add_((matrices[own].flatten(0, 1).T @ d_projected.T).T)
            add_product(d_weight[:, columns], grad.T, products, ctx.bf16)
        return d_emb, d_matrices, d_weight, None


def blocks_of_pairs(num_fields: int, embedding_dim: int) -> list[tuple[range, slice]]:
    """Runs of left fields whose pairs fill about :data:`COLUMNS` columns each, with those columns."""
    blocks, first, begin, end = [], 0, 0, 0
    for i in range(num_fields - 1):
        end += (num_fields - 1 - i) * embedding_dim
        if end - begin >= COLUMNS or i == num_fields - 2:
            blocks.append((range(first, i + 1), slice(begin, end)))
            first, begin = i + 1, end
    return blocks


def left_fields(feature_emb: Tensor, matrices: Tensor, lefts: Sequence[int]) -> list[tuple[int, slice, slice]]:
    """For each left field of a block: its number, its matrices and its columns within the block."""
    num_fields, embedding_dim = feature_emb.shape[1:]
    per_pair = len(matrices) != num_fields - 1
    found, begin = [], 0
    for i in lefts:
        pairs = num_fields - 1 - i
        before = i * (2 * num_fields - 1 - i) // 2  # pairs of all earlier left fields
        own = slice(before, before + pairs) if per_pair else slice(i, i + 1)
        found.append((i, own, slice(begin, begin + pairs * embedding_dim)))
        begin += pairs * embedding_dim
    return found


def project(left: Tensor, matrices: Tensor) -> Tensor:
    """``W v`` of left vectors (B, D) for n matrices (n, D, D): (B, n, D)."""
    return (left @ matrices.flatten(0, 1).T).unflatten(1, (-1, left.shape[1]))


def pair_products(feature_emb: Tensor, matrices: Tensor, lefts: Sequence[int]) -> Tensor:
    """The pair vectors of some left fields side by side: (B, their pairs * D)."""
    fields = left_fields(feature_emb, matrices, lefts)
    products = feature_emb.new_empty(len(feature_emb), fields[-1][2].stop)
    for i, own, place in fields:
        right = feature_emb[:, i + 1 :]
        projected = project(feature_emb[:, i], matrices[own])
        torch.mul(projected, right, out=products[:, place].unflatten(1, right.shape[1:]))
    return products


def matmul(a: Tensor, b: Tensor, bf16: bool) -> Tensor:
    """``a @ b`` in float32, with bfloat16 operands if asked."""
    return (a.bfloat16() @ b.bfloat16()).float() if bf16 else a @ b


def add_product(total: Tensor, a: Tensor, b: Tensor, bf16: bool) -> None:
    """``total += a @ b``; the sum is kept in float32 whatever the operands are."""
    if bf16:
        total.add_(matmul(a, b, bf16=True))
    else:
        total.addmm_(a, b)


def mlp_of_pairs(mlp: MLP, blocks: list[tuple[BilinearInteraction, Tensor]]) -> Tensor:
    """As the plain form: on a CPU the pairs are never all in memory; on a GPU, where memory is fast, one large matrix
    product is best, and :class:`ctrlib.fast.gpu.BilinearPairs` makes its input."""
    layer = mlp.layers[0]
    if layer.weight.is_cuda:
        from ctrlib.fast.gpu import DIMENSIONS, BilinearPairs

        if blocks[0][1].shape[2] not in DIMENSIONS:
            return PLAIN["mlp_of_pairs"](mlp, blocks)
        parts = [part for interaction, embeddings in blocks for part in (embeddings, interaction.matrices())]
        return mlp(BilinearPairs.apply(*parts))
    bf16 = mlp.bf16 and mlp.training and mlp.hidden_depth > 0
    weights = layer.weight.chunk(len(blocks), dim=1)  # (H, P*D) each
    hidden = [
        LinearOfPairs.apply(embeddings, interaction.matrices(), weight, bf16)
        for (interaction, embeddings), weight in zip(blocks, weights, strict=True)
    ]
    return mlp(sum(hidden[1:], hidden[0]) + layer.bias, first=1)


def cross_and_deep(cross: nn.Module, mlp: MLP, combine: nn.Linear, flat: Tensor) -> Tensor:
    """As the plain form, with the part of a cross network of version 1 in closed form."""
    if not isinstance(cross, CrossNetwork):
        return PLAIN["cross_and_deep"](cross, mlp, combine, flat)
    for_cross, for_deep = combine.weight[0].split([flat.shape[1], mlp.output_dim])
    products = flat @ torch.cat([cross.weight, for_cross[None]]).T
    return cross_dot(cross, products, for_cross) + mlp(flat) @ for_deep + combine.bias


def cross_dot(cross: CrossNetwork, products: Tensor, vector: Tensor) -> Tensor:
    """``<x_L, vector>`` of a cross network's result and ``vector`` (F*D,): (B,), without any x_l.

    Every x_l is ``a_l x_0 + c_l`` with one number a_l per row and one vector c_l for all rows, so that only the
    products of x_0 with the w_l are needed: ``a_{l+1} = a_l (1 + <x_0, w_l>) + <c_l, w_l>``, ``c_{l+1} = c_l + b_l``.

    Args:
        cross: L layers.
        products: (B, L + 1), the products of x_0 with each w_l, and the one with ``vector``.
        vector: (F*D,).
    """
    scale = torch.ones_like(products[:, 0])  # a_l, (B,)
    shift = torch.zeros_like(vector)  # c_l, (F*D,)
    for layer, (weight, bias) in enumerate(zip(cross.weight, cross.bias, strict=True)):
        scale = scale * (1 + products[:, layer]) + shift @ weight
        shift = shift + bias
    return scale * products[:, -1] + shift @ vector
