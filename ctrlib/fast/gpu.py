"""Parts of the models in kernels of their own, for a GPU; the tests compare each with its plain form.

torch reads rows of a table far below the memory's speed, and FiBiNET's pair vectors take it hundreds of kernels. Here
a pair vector is made where the MLP reads it, and what comes in between never leaves the chip. Sums over pairs and batch
do not depend on the order in which the GPU works; those of a table's gradient do, as torch's own. Imported only where
there is a GPU: Triton comes with torch's builds for those.

Shapes in the comments: B batch, F fields, D embedding dimension, P = F(F-1)/2 pairs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 64  # rows of the batch that one program works on
WIDTH = 64  # columns that it works on at a time: the vectors of neighbouring fields, which lie side by side
DIMENSIONS = (16, 32, 64)  # D for which there are kernels of pairs: a matrix product on the chip has 16 columns or more
ELEMENTS = 1024  # that one program of ``copy_rows`` reads


class TakeRows(torch.autograd.Function):
    """``table.index_select(0, rows)`` of a table (C,) or (C, D) and row numbers (n,): (n,) or (n, D)."""

    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = table.shape
        out = table.new_empty(len(rows), *table.shape[1:])
        dim = table.shape[1] if table.ndim == 2 else 1
        grid = (triton.cdiv(out.numel(), ELEMENTS),)
        with torch.cuda.device_of(table):
            copy_rows[grid](table, rows, out, out.numel(), dim=dim, block=ELEMENTS)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_add_(0, rows, grad), None


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
            with torch.cuda.device_of(emb):
                multiply_pairs[grid](emb, matrices, out, rows, out.stride(0), n * width, **settings(emb, matrices))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        blocks = ctx.saved_tensors
        grad = grad.contiguous()
        rows, num_fields, dim = blocks[0].shape
        width = num_fields * (num_fields - 1) // 2 * dim
        tiles, chunks = triton.cdiv(rows, TILE), triton.cdiv(num_fields * dim, WIDTH)
        found = []
        for n, (emb, matrices) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
            d_emb = torch.empty_like(emb)
            parts = emb.new_empty(tiles, *matrices.shape)  # of the matrices' gradient, one from each tile
            at, about = (rows, grad.stride(0), n * width), settings(emb, matrices)
            with torch.cuda.device_of(emb):
                left_gradients[(tiles, num_fields)](emb, matrices, grad, d_emb, parts, *at, **about)
                add_right_gradients[(tiles, chunks)](emb, matrices, grad, d_emb, *at, **about)
            found += [d_emb, parts.sum(0)]
        return tuple(found)


def settings(emb: Tensor, matrices: Tensor) -> dict:
    """What the kernels of pairs are compiled for."""
    num_fields, dim = emb.shape[1:]
    return {
        "fields": num_fields,
        "dim": dim,
        "per_pair": len(matrices) != num_fields - 1,
        "precision": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "tile": TILE,
        "width": WIDTH,
    }


@triton.jit
def copy_rows(table, rows, out, count, dim: tl.constexpr, block: tl.constexpr):
    """``out[n] = table[rows[n]]``, element by element."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    row = tl.load(rows + at // dim, mask=at < count, other=0)
    tl.store(out + at, tl.load(table + row * dim + at % dim, mask=at < count), mask=at < count)


@triton.jit
def multiply_pairs(
    emb, matrices, out, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr,
    tile: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """All pairs of one left field i: ``out[:, pair] = (W v_i) * v_j``."""
    i = tl.program_id(1)
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d, c = tl.arange(0, dim), tl.arange(0, width)
    vectors = emb + rows * fields * dim
    left = tl.load(vectors + i * dim + d[None, :], mask=rows < batch, other=0.0)  # (tile, D)
    first = i * (2 * fields - 1 - i) // 2  # pairs of all earlier left fields
    wide = (fields - 1 - i) * dim  # columns of this field's pairs
    for begin in range(0, wide, width):
        at = begin + c
        there = (rows < batch) & (at < wide)[None, :]
        line = first * dim + at if per_pair else i * dim + at % dim  # of the matrices one above the other
        turned = tl.load(matrices + line[None, :] * dim + d[:, None], mask=(at < wide)[None, :], other=0.0)
        right = tl.load(vectors + (i + 1) * dim + at[None, :], mask=there, other=0.0)  # (tile, width)
        products = tl.dot(left, turned, input_precision=precision) * right
        tl.store(out + rows * stride + column + first * dim + at[None, :], products, mask=there)


@triton.jit
def left_gradients(
    emb, matrices, grad, d_emb, parts, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr,
    tile: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Of one field i on the left of its pairs: gradient of its vectors, and this tile's part of the matrices'."""
    i = tl.program_id(1)
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d, c = tl.arange(0, dim), tl.arange(0, width)
    vectors = emb + rows * fields * dim
    left = tl.load(vectors + i * dim + d[None, :], mask=rows < batch, other=0.0)
    first = i * (2 * fields - 1 - i) // 2
    wide = (fields - 1 - i) * dim
    count = fields * (fields - 1) // 2 if per_pair else fields - 1
    own_parts = parts + tl.program_id(0) * count * dim * dim
    d_left = tl.zeros((tile, dim), tl.float32)
    d_matrix = tl.zeros((width, dim), tl.float32)
    for begin in range(0, wide, width):
        at = begin + c
        there = (rows < batch) & (at < wide)[None, :]
        line = first * dim + at if per_pair else i * dim + at % dim
        square = line[:, None] * dim + d[None, :]
        matrix = tl.load(matrices + square, mask=(at < wide)[:, None], other=0.0)  # (width, D)
        right = tl.load(vectors + (i + 1) * dim + at[None, :], mask=there, other=0.0)
        d_pairs = tl.load(grad + rows * stride + column + first * dim + at[None, :], mask=there, other=0.0)
        d_projected = d_pairs * right  # (tile, width)
        d_left += tl.dot(d_projected, matrix, input_precision=precision)
        product = tl.dot(tl.trans(d_projected), left, input_precision=precision)  # (width, D)
        if per_pair:
            tl.store(own_parts + square, product, mask=(at < wide)[:, None])
        else:
            d_matrix += product
    if not per_pair and i < fields - 1:
        total = tl.sum(tl.reshape(d_matrix, (width // dim, dim, dim)), axis=0)
        tl.store(own_parts + i * dim * dim + d[:, None] * dim + d[None, :], total)
    tl.store(d_emb + rows * fields * dim + i * dim + d[None, :], d_left, mask=rows < batch)


@triton.jit
def add_right_gradients(
    emb, matrices, grad, d_emb, batch, stride, column,
    fields: tl.constexpr, dim: tl.constexpr, per_pair: tl.constexpr, precision: tl.constexpr,
    tile: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Of neighbouring fields j on the right of their pairs: added to the gradient of their vectors."""
    rows = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)[:, None]
    d = tl.arange(0, dim)
    at = tl.program_id(1) * width + tl.arange(0, width)  # columns of a row's vectors
    vectors = emb + rows * fields * dim
    d_right = tl.zeros((tile, width), tl.float32)
    last = tl.minimum((tl.program_id(1) + 1) * (width // dim), fields) - 1  # the last of these fields
    for i in range(0, last):
        on_right = (at >= (i + 1) * dim) & (at < fields * dim)
        first = i * (2 * fields - 1 - i) // 2
        begin = (first - i - 1) * dim  # where the pair of i with field 0 would begin
        line = begin + at if per_pair else i * dim + at % dim
        turned = tl.load(matrices + line[None, :] * dim + d[:, None], mask=on_right[None, :], other=0.0)
        left = tl.load(vectors + i * dim + d[None, :], mask=rows < batch, other=0.0)
        there = (rows < batch) & on_right[None, :]
        d_pairs = tl.load(grad + rows * stride + column + begin + at[None, :], mask=there, other=0.0)
        d_right += d_pairs * tl.dot(left, turned, input_precision=precision)
    own = d_emb + rows * fields * dim + at[None, :]
    there = (rows < batch) & (at < fields * dim)[None, :]
    tl.store(own, tl.load(own, mask=there, other=0.0) + d_right, mask=there)
