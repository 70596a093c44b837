"""A look inside stored members: how strongly peers pull, what an answer costs.

Nothing here trains or changes a model. What needs the members' weights is kept beside the records once it is computed
(:func:`ctrlib.store.measures.measured`).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, complete, peer_loss
from ctrlib.data.load import load_data
from ctrlib.errors import UserError
from ctrlib.fast import install
from ctrlib.models import count_parameters
from ctrlib.store.measures import measured
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Condition
from ctrlib.training.cohort import build, load_state
from ctrlib.training.dataset import Dataset

GRADIENT_ROWS = 4000  # training rows that gradients are taken on
SERVED_ROWS = 4096


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


# How strongly peers pull --------------------------------------------------------------------------------------------


def gradient_norms(
    models: Sequence[nn.Module], coupling: Coupling, ids: ArrayLike, labels: ArrayLike, batch_size: int = 1000
) -> pd.DataFrame:
    """How large the gradients of click loss and peer loss are for each member, over all its parameters.

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
        a row per member: member, click (norm), peer (norm), ratio (peer / click); norms averaged over batches.

    Raises:
        UserError: there are fewer rows than a batch has.
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
                click, peer = (_parameter_gradient(model, output, pull[n]).norm().item() for pull in pulls)
                rows.append({"member": n, "click": click, "peer": peer})
    table = pd.DataFrame(rows).groupby("member").mean().reset_index()
    return table.assign(ratio=table["peer"] / table["click"])


def _parameter_gradient(model: nn.Module, output: Tensor, pull: Tensor) -> Tensor:
    """From the gradient ``pull`` (B,) in the logits back to the parameters, as one vector."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output, parameters, pull, retain_graph=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def gradient_ratio(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition and replicate: its labels and ``ratio``, the norm of the peer loss's gradient over that of
    the click loss's at weight 1 in the paper's form, mean over members. At weight w it is w times that, as the peer
    loss is linear in its weight."""

    def ratio(records: Sequence[Record]) -> float:
        data, batch_size = load_data(records[0].run.data), records[0].run.recipe.batch_size
        models = [model for record in records for model in load_members(record, data)]
        rows = slice(0, max(GRADIENT_ROWS, batch_size))
        coupling = Coupling(weights=complete(len(models)))
        norms = gradient_norms(models, coupling, data.train.ids[rows], data.train.labels[rows], batch_size)
        return float(norms["ratio"].mean())

    found = [(one, measured(store, "pull", one.records, ratio, rows=GRADIENT_ROWS)) for one in conditions]
    return pd.DataFrame([{**one.labels, "ratio": value} for one, value in found])


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


def serving_cost(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition name: parameters, multiply-adds a row and measured time of its first model."""

    def cost(records: Sequence[Record]) -> dict[str, Any]:
        data = load_data(records[0].run.data)
        found = inference_cost(load_members(records[0], data)[0], data.test.ids[:SERVED_ROWS])
        return {
            "parameters": found["parameters"],
            "multiply_adds": found["multiply_adds"],
            "time": found["milliseconds"],
        }

    first = {one.name: one.records[:1] for one in reversed(list(conditions))}
    return pd.DataFrame(
        [{"condition": name, **measured(store, "serving_cost", one, cost)} for name, one in first.items()]
    )
