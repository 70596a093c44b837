"""A look inside stored members: what their layers hold, which way the two losses push, what an answer costs.

Nothing here trains or changes a model. Legend: K members, N rows, F fields, D embedding dimension.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, peer_loss
from ctrlib.errors import UserError
from ctrlib.fast import install
from ctrlib.models import count_parameters, embedding_parameters
from ctrlib.models.layers import MLP, FeatureEmbedding
from ctrlib.store.record import Record
from ctrlib.training.cohort import build, load_state
from ctrlib.training.dataset import Dataset
from ctrlib.training.evaluation import EVALUATION_ROWS


def load_members(record: Record, dataset: Dataset) -> list[nn.Module]:
    """All members of a record on the CPU with their kept weights, in evaluation mode.

    Args:
        record: a finished run.
        dataset: the rows that it was trained on, ``load_data(record.run.data)``; their fields give the tables' sizes.
    """
    install()  # the digits of a record's predictions are those of the faster forms
    models = [build(member, dataset, torch.device("cpu")) for member in record.run.members]
    for model, state in zip(models, record.states(), strict=True):
        load_state(state, model)
    return [model.eval() for model in models]


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts, the models are in evaluation mode."""
    before = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, training in zip(models, before, strict=True):
            model.train(training)


# What the layers hold ----------------------------------------------------------------------------------------------


@torch.no_grad()
def hidden_layers(model: nn.Module, ids: ArrayLike) -> dict[str, Tensor]:
    """What the layers of a model hold for some rows, in evaluation mode.

    Args:
        model: of any architecture.
        ids: (N, F) integer codes.

    Returns:
        ``embedding``: the flat embeddings (N, F*D); ``hidden 1``, ``hidden 2``, ...: the units of the hidden layers of
        its MLP after ReLU, (N, width). Where there are several MLPs or tables of embeddings, their layers of one
        depth stand side by side; what an architecture does not have is not in the result.
    """
    parts: dict[str, list[Tensor]] = {}
    found: dict[str, list[Tensor]] = {}
    with evaluating([model]), watched(model, parts):
        for batch in torch.as_tensor(np.asarray(ids)).split(EVALUATION_ROWS):
            parts.clear()
            model(batch.to(next(model.parameters()).device).long())
            for name, values in parts.items():
                found.setdefault(name, []).append(torch.cat(values, dim=1))
    return {name: torch.cat(batches) for name, batches in found.items()}


@contextmanager
def watched(model: nn.Module, parts: dict[str, list[Tensor]]) -> Iterator[None]:
    """While it lasts, every pass of ``model`` leaves what its layers hold in ``parts``, from the embeddings upwards."""

    def keep(name: str):
        return lambda _module, _inputs, output: parts.setdefault(name, []).append(output.flatten(1))

    handles = []
    for module in model.modules():
        if isinstance(module, FeatureEmbedding):
            handles.append(module.register_forward_hook(keep("embedding")))
        if isinstance(module, MLP):
            relus = [layer for layer in module.layers if isinstance(layer, nn.ReLU)]
            handles += [relu.register_forward_hook(keep(f"hidden {k}")) for k, relu in enumerate(relus, start=1)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Debiased linear centred kernel alignment: how alike two sets of activations are, up to rotation and scale.

    1 is the same; 0 on average for unrelated activations (so it can be negative), while the plain form grows with few
    rows and wide layers. It is ``HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))`` of :func:`unbiased_hsic`.

    Args:
        x: (N, width) activations of one layer, N >= 4.
        y: (N, other width) activations of another on the same rows.

    Returns:
        the alignment; NaN where a layer holds the same for all rows.

    Reference: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, section 3 (linear CKA);
    Song et al. 2012, Feature Selection via Dependence Maximization (unbiased HSIC), used for CKA by Nguyen et al. 2021,
    Do Wide and Deep Networks Learn the Same Things?
    """
    x, y = centred(x), centred(y)
    if len(x) != len(y) or len(x) < 4:
        raise UserError(f"CKA needs the same 4 or more rows of both layers, got {len(x)} and {len(y)}")
    own_x, own_y = unbiased_hsic(x, x), unbiased_hsic(y, y)
    return float(unbiased_hsic(x, y) / np.sqrt(own_x * own_y)) if own_x > 0 and own_y > 0 else float("nan")


def centred(values: ArrayLike) -> np.ndarray:
    """Activations (N, width) in float64 with column means 0; exactly 0 where a column is constant up to rounding."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise UserError(f"activations must be (rows, width), got shape {values.shape}")
    constant = np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(axis=0, initial=0)
    return np.where(constant, 0.0, values - values.mean(axis=0))


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased HSIC of linear kernels K = X X^T and L = Y Y^T without these matrices, up to the factor 1 / (N (N-3)).

    ``tr(K~ L~) + 1'K~1 1'L~1 / ((N-1)(N-2)) - 2/(N-2) 1'K~L~1``, where ~ sets the diagonal to zero. Sums over the full
    kernels go through X^T Y and X^T 1; the diagonals, the rows' squared lengths, are taken off.
    """
    rows = len(x)
    own_x, own_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)  # diagonals, (N,)
    sums_x, sums_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y  # K~1 and L~1, (N,)
    trace = np.square(x.T @ y).sum() - own_x @ own_y
    return float(trace + sums_x.sum() * sums_y.sum() / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * (sums_x @ sums_y))


def cka_table(models: Sequence[nn.Module], ids: ArrayLike) -> pd.DataFrame:
    """How alike the layers of several models are: mean debiased linear CKA per kind of layer.

    Args:
        models: two or more members, of any architectures; layers that a pair does not share are left out.
        ids: (N, F) rows to compare on.

    Returns:
        a row per kind of layer: layer, cka (mean over pairs).
    """
    if len(models) < 2:
        raise UserError(f"CKA between members needs 2 or more of them, got {len(models)}")
    activations = [hidden_layers(model, ids) for model in models]
    rows = [
        {"layer": layer, "cka": linear_cka(one[layer].cpu(), other[layer].cpu())}
        for one, other in combinations(activations, 2)
        for layer in one
        if layer in other
    ]
    return pd.DataFrame(rows, columns=["layer", "cka"]).groupby("layer", sort=False)["cka"].mean().reset_index()


# Which way the losses push ------------------------------------------------------------------------------------------


def gradient_norms(
    models: Sequence[nn.Module],
    coupling: Coupling,
    ids: ArrayLike,
    labels: ArrayLike,
    batch_size: int = 1000,
) -> pd.DataFrame:
    """How large the gradients of click loss and peer loss are for each member, and how much they agree in direction.

    Both gradients are those of a training step: of the mean click loss of a batch and of the weighted peer loss,
    through the same functions as in training. The models are in evaluation mode, without dropout and with the batch
    norm of prediction; embedding L2 and clipping are left out.

    Args:
        models: the K members.
        coupling: as in training, with any target but ``frozen``; its start does not matter.
        ids: (N, F) rows, cut into batches in their order; what remains after the last whole batch is left out.
        labels: 0 or 1, (N,).
        batch_size: rows of a batch; the norm of a batch's gradient depends on it, as the labels' noise averages out.

    Returns:
        a row per member and part (``all`` parameters, ``embedding``: tables with a row per id, ``dense``: the rest):
        member, part, click (norm), peer (norm), ratio (peer / click), cosine; norms and cosine averaged over batches.
        Cosines are NaN where the peers' gradient is zero.
    """
    ids, labels = torch.as_tensor(np.asarray(ids)).long(), torch.as_tensor(np.asarray(labels)).float()
    if not 1 <= batch_size <= len(ids):
        raise UserError(f"batch_size={batch_size}: must be 1 to {len(ids)}, the number of rows")
    drawn = torch.Generator().manual_seed(0)
    rows = []
    with evaluating(models):
        for first in range(0, len(ids) - batch_size + 1, batch_size):
            batch, clicked = ids[first : first + batch_size], labels[first : first + batch_size]
            outputs = [model(batch) for model in models]
            logits = torch.stack([output.detach() for output in outputs]).requires_grad_()  # (K, B)
            shuffle = torch.randperm(batch_size, generator=drawn)
            losses = click_loss(logits, clicked), peer_loss(logits, coupling, shuffle=shuffle, labels=clicked)
            pulls = [torch.autograd.grad(loss.sum(), logits)[0] for loss in losses]  # (K, B) each
            for n, (model, output) in enumerate(zip(models, outputs, strict=True)):
                click, peer = (parameter_gradient(model, output, pull[n]) for pull in pulls)
                rows += [{"member": n, "part": part, **compare(click[part], peer[part])} for part in click]
    table = pd.DataFrame(rows).groupby(["member", "part"], sort=False).mean().reset_index()
    table.insert(4, "ratio", table["peer"] / table["click"])
    return table


def parameter_gradient(model: nn.Module, output: Tensor, pull: Tensor) -> dict[str, Tensor]:
    """From the gradient ``pull`` (B,) in the logits back to the parameters: one vector for each part of the model."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tables = {id(table) for table in embedding_parameters(model)}
    gradients = torch.autograd.grad(output, parameters, pull, retain_graph=True)
    parts: dict[str, list[Tensor]] = {"embedding": [], "dense": []}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parts["embedding" if id(parameter) in tables else "dense"].append(gradient.flatten().double())
    return {"all": torch.cat(parts["embedding"] + parts["dense"]), **{k: torch.cat(v) for k, v in parts.items() if v}}


def compare(click: Tensor, peer: Tensor) -> dict[str, float]:
    """Norms of two gradients and the cosine between them."""
    norms = click.norm().item(), peer.norm().item()
    cosine = (click @ peer).item() / (norms[0] * norms[1]) if all(norms) else float("nan")
    return {"click": norms[0], "peer": norms[1], "cosine": cosine}


# What an answer costs -----------------------------------------------------------------------------------------------


def in_place_flop(_total, a, b, **_) -> int:
    """FLOP of ``total.addmm_(a, b)`` from the operands' shapes: torch counts only the form that is not in place."""
    return 2 * a[0] * a[1] * b[1]


def vector_flop(a, _vector, **_) -> int:
    """FLOP of a matrix times a vector."""
    return 2 * a[0] * a[1]


COUNTED = {torch.ops.aten.addmm_: in_place_flop, torch.ops.aten.mv: vector_flop}


@torch.no_grad()
def inference_cost(model: nn.Module, ids: ArrayLike, repeats: int = 7) -> dict[str, float]:
    """What one model costs when it answers. An ensemble costs the sum of its members.

    Args:
        model: of any architecture, where it is.
        ids: (N, F) rows that are answered at once.
        repeats: how many timed passes the median is taken of; one more before them is not counted.

    Returns:
        ``parameters``: trainable numbers; ``multiply_adds``: of one row, in matrix products alone, counted
        by torch on this model;
        ``milliseconds``: measured time per 1,000 rows, median of the repeats, on this machine as it is now.
    """
    ids = torch.as_tensor(np.asarray(ids)).long().to(next(model.parameters()).device)
    seconds = []
    with evaluating([model]):
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            model(ids)
        for _ in range(repeats + 1):
            began = time.perf_counter()
            model(ids)
            if ids.is_cuda:
                torch.cuda.synchronize(ids.device)
            seconds.append(time.perf_counter() - began)
    return {
        "parameters": count_parameters(model),
        "multiply_adds": counter.get_total_flops() / 2 / len(ids),
        "milliseconds": 1e6 * float(np.median(seconds[1:])) / len(ids),
    }
