"""FiBiNET's pair vectors on a GPU, in three kernels where torch needs hundreds; tests compare them with the plain form.

Each kernel reads a vector once and writes its result where the MLP reads it; the products in between never leave the
chip. No sum depends on the order in which the GPU works. Imported only where there is a GPU: Triton comes with torch's
builds for those.

Shapes in the comments: B batch, F fields, D embedding dimension, P = F(F-1)/2 pairs, T tiles of the batch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64  # rows of the batch that one program works on
DIMENSIONS = (16, 32, 64)  # D for which the kernels are made; a matrix product on the chip has at least 16 columns


class BilinearPairs(torch.autograd.Function):
    """The pair vectors ``(W v_i) * v_j`` of several blocks side by side: (B, blocks * P * D).

    Plainly: ``torch.cat([BilinearInteraction's output of each block], 1).flatten(1)``.

    Args of ``apply``:
        blocks: for each block in turn its embeddings (B, F, D) and its matrices, (P, D, D) one per pair or
            (F-1, D, D) one per left field; all blocks have one shape of embeddings, with D in :data:`DIMENSIONS`.
    """

    @staticmethod
    def forward(ctx, *blocks: Tensor) -> Tensor:
        blocks = tuple(block.contiguous() for block in blocks)
        ctx.save_for_backward(*blocks)
        rows, num_fields, dim = blocks[0].shape
        width = num_fields * (num_fields - 1) // 2 * dim
        out = blocks[0].new_empty(rows, len(blocks) // 2 * width)
        grid = (triton.cdiv(rows, TILE), num_fields - 1)
        for n, (emb, matrices) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
            about = settings(emb, matrices)
            multiply_pairs[grid](emb, matrices, out, rows, out.stride(0), n * width, **about)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        blocks = ctx.saved_tensors
        grad = grad.contiguous()
        rows, num_fields, dim = blocks[0].shape
        width = num_fields * (num_fields - 1) // 2 * dim
        tiles = triton.cdiv(rows, TILE)
        found = []
        for n, (emb, matrices) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
            about = settings(emb, matrices)
            d_emb = torch.empty_like(emb)
            parts = emb.new_empty(tiles, *matrices.shape)  # of the matrices' gradient, one from each tile
            at = (rows, grad.stride(0), n * width)
            left_gradients[(tiles, num_fields)](emb, matrices, grad, d_emb, parts, *at, **about)
            add_right_gradients[(tiles, num_fields - 1)](emb, matrices, grad, d_emb, *at, **about)
            found += [d_emb, parts.sum(0)]
        return tuple(found)


def settings(emb: Tensor, matrices: Tensor) -> dict:
    """What the kernels are compiled for."""
    num_fields, dim = emb.shape[1:]
    return {
        "fields": num_fields,
        "dim": dim,
        "per_pair": len(matrices) != num_fields - 1,
        "precision": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "tile": TILE,
    }


@triton.jit
def multiply_pairs(
    emb, matrices, out, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """All pairs of one left field i: ``out[:, pair] = (W v_i) * v_j``."""
    i = tl.program_id(1)
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d = tl.arange(0, dim)
    there = rows < batch
    vectors = emb + rows * fields * dim + d[None, :]
    left = tl.load(vectors + i * dim, mask=there, other=0.0)  # (tile, D)
    first = i * (2 * fields - 1 - i) // 2  # pairs of all earlier left fields
    for n in range(0, fields - 1 - i):
        which = first + n if per_pair else i
        turned = tl.load(matrices + which * dim * dim + d[None, :] * dim + d[:, None])  # W transposed
        right = tl.load(vectors + (i + 1 + n) * dim, mask=there, other=0.0)
        products = tl.dot(left, turned, input_precision=precision) * right
        tl.store(out + rows * stride + column + (first + n) * dim + d[None, :], products, mask=there)


@triton.jit
def left_gradients(
    emb, matrices, grad, d_emb, parts, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Of one field i on the left of its pairs: gradient of its vectors, and this tile's part of the matrices'."""
    i = tl.program_id(1)
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d = tl.arange(0, dim)
    there = rows < batch
    vectors = emb + rows * fields * dim + d[None, :]
    square = d[:, None] * dim + d[None, :]
    left = tl.load(vectors + i * dim, mask=there, other=0.0)
    first = i * (2 * fields - 1 - i) // 2
    count = fields * (fields - 1) // 2 if per_pair else fields - 1
    own_parts = parts + tl.program_id(0) * count * dim * dim + square
    d_left = tl.zeros((tile, dim), tl.float32)
    d_matrix = tl.zeros((dim, dim), tl.float32)
    for n in range(0, fields - 1 - i):
        which = first + n if per_pair else i
        matrix = tl.load(matrices + which * dim * dim + square)
        right = tl.load(vectors + (i + 1 + n) * dim, mask=there, other=0.0)
        d_pair = tl.load(grad + rows * stride + column + (first + n) * dim + d[None, :], mask=there, other=0.0)
        d_projected = d_pair * right  # (tile, D)
        d_left += tl.dot(d_projected, matrix, input_precision=precision)
        product = tl.dot(tl.trans(d_projected), left, input_precision=precision)  # (D, D)
        if per_pair:
            tl.store(own_parts + which * dim * dim, product)
        else:
            d_matrix += product
    if not per_pair and i < fields - 1:
        tl.store(own_parts + i * dim * dim, d_matrix)
    tl.store(d_emb + rows * fields * dim + i * dim + d[None, :], d_left, mask=there)


@triton.jit
def add_right_gradients(
    emb, matrices, grad, d_emb, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Of one field j on the right of its pairs: added to the gradient of its vectors."""
    j = tl.program_id(1) + 1
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d = tl.arange(0, dim)
    there = rows < batch
    vectors = emb + rows * fields * dim + d[None, :]
    d_right = tl.zeros((tile, dim), tl.float32)
    for i in range(0, j):
        pair = i * (2 * fields - 1 - i) // 2 + j - i - 1
        which = pair if per_pair else i
        turned = tl.load(matrices + which * dim * dim + d[None, :] * dim + d[:, None])
        left = tl.load(vectors + i * dim, mask=there, other=0.0)
        d_pair = tl.load(grad + rows * stride + column + pair * dim + d[None, :], mask=there, other=0.0)
        d_right += d_pair * tl.dot(left, turned, input_precision=precision)
    own = d_emb + rows * fields * dim + j * dim + d[None, :]
    tl.store(own, tl.load(own, mask=there, other=0.0) + d_right, mask=there)
