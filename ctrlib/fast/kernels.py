"""Faster forms of three expressions, with their gradients written out; the tests compare each with its plain form.

They compute the same numbers up to rounding, with less memory traffic: on a CPU that, not arithmetic, is what a CTR
model's training loses its time to. A reader of the models can take them for the plain forms named in each docstring.

Shapes in the comments: B batch, F fields, D embedding dimension, P = F(F-1)/2 pairs, H units of the layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 1500  # of a block of pair products: wide enough for a fast matrix product, small enough for a cache


class SecondOrderFM(torch.autograd.Function):
    """``0.5 * (|sum_f v_f|^2 - sum_f |v_f|^2)`` of embeddings (B, F, D) -> (B,); see ``second_order_fm``."""

    @staticmethod
    def forward(ctx, feature_emb: Tensor) -> Tensor:
        total = feature_emb.sum(1)  # (B, D)
        ctx.save_for_backward(feature_emb, total)
        return 0.5 * (total.square().sum(1) - torch.linalg.vector_norm(feature_emb.flatten(1), dim=1).square())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        feature_emb, total = ctx.saved_tensors
        return torch.sub(total[:, None], feature_emb).mul_(grad[:, None, None])  # (B, F, D)


class PairInnerProducts(torch.autograd.Function):
    """``<v_i, v_j>`` of all pairs i < j of embeddings (B, F, D) -> (B, P); see ``InnerProducts``.

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
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        feature_emb, pair_of = ctx.saved_tensors
        num_fields = feature_emb.shape[1]
        extra = grad.shape[1] > num_fields * (num_fields - 1) // 2
        with_zero = grad if extra else torch.nn.functional.pad(grad, (0, 1))  # (B, P + 1) or wider
        d_gram = with_zero.index_select(1, pair_of).unflatten(1, (num_fields, num_fields))
        return torch.bmm(d_gram, feature_emb), None, None


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
