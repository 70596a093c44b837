"""One training loop for a cohort of K models, coupled or not, from scratch or from checkpoints.

Coupled members form a *group* (:func:`ctrlib.coupling.connected_groups`): they see the same
batches and share one learning-rate schedule. Groups never touch each other, so a cohort without coupling is K
separate trainings, bit for bit; K = 1 is a cohort too.

All randomness is a function of (seeds, epoch, step): ``init_seed`` gives the initial weights, ``order_seed`` the
permutation of each epoch, both together the dropout masks. There is no random state to carry along.

Legend: K members of a group, B batch, N rows.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctrlib.config import FROZEN, Precision, Run, derive_seed
from ctrlib.coupling import connected_groups
from ctrlib.errors import UserError
from ctrlib.models.operations import has_faster_form
from ctrlib.training.averaging import WeightAverage
from ctrlib.training.batches import BatchSource, batch_source
from ctrlib.training.cohort import (
    Group,
    State,
    Teacher,
    add_head,
    frozen_model,
    in_turn,
    load_state,
    make_trainee,
    member_state,
    model_tensors,
    served,
    share_table,
    unshare_table,
)
from ctrlib.training.dataset import Dataset, Split
from ctrlib.training.evaluation import predict, score
from ctrlib.training.rivals import count_codes, draw_tables_afresh, keep_embeddings, logit_of_clicks, plain_forward
from ctrlib.training.step import choose_forward, choose_step

PROGRESS_S = 5.0
MIN_GAIN = 1e-6  # a validation AUC must rise by more than this to count as better (FuxiCTR)


@dataclass
class Trained:
    """What a run leaves: one entry per member, in the order of ``run.members``."""

    states: list[State]
    history: list[dict]  # one row per epoch and member
    kept_epochs: list[int]
    valid_logits: np.ndarray  # (K, valid rows) float32
    test_logits: np.ndarray  # (K, test rows) float32
    products: str  # which matrix products were used, in words
    seconds: float = 0.0  # wall time, interruptions left out


@dataclass
class Position:
    """How far a training is: all before step ``step`` of group ``group`` in epoch ``epoch`` is done (all from 0)."""

    epoch: int = 0
    group: int = 0
    step: int = 0
    losses: Tensor | None = None  # (2, K) summed over the steps that this group has done in this epoch
    epoch_seconds: float = 0.0  # that they took
    new: list[dict] = field(default_factory=list)  # history rows of the groups that are through with this epoch
    history: list[dict] = field(default_factory=list)  # of the epochs before
    seconds: float = 0.0  # that the whole training took so far


class Checkpoints(Protocol):
    """Keeper of the state of an unfinished training: models, optimizers and schedules in ``groups``, and the position.

    A training whose groups and position are as they were after some step goes on as if it had never stopped.
    """

    def restore(self, groups: list[Group]) -> Position:
        """Bring ``groups`` to the state that was kept last and return its position; else a new ``Position()``."""

    def after_step(self, groups: list[Group], position: Position) -> None:
        """A step or an epoch is done; nothing may keep a reference to what is passed."""


def resolve_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one; a device that is not there is a :class:`UserError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]{1,2})?", name):
        raise UserError(f"device={name!r}: must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise UserError(f"device={name!r} is not there: torch {torch.__version__} sees {there} CUDA device(s); use cpu")
    return device


def train(
    run: Run,
    dataset: Dataset,
    starts: list[State] | None = None,
    device: str = "auto",
    on_epoch: Callable[[list[dict]], None] | None = None,
    on_progress: Callable[[int, float], None] | None = None,
    threads: int = 1,
    checkpoints: Checkpoints | None = None,
    teachers: list[Teacher] | None = None,
) -> Trained:
    """Train every member of ``run`` on ``dataset``.

    Args:
        run: the settings; ``run.data.fingerprint`` must be the data set's.
        dataset: encoded rows with their split.
        starts: the states named by ``run.start``, one per member; None trains from scratch.
        device: see :func:`resolve_device`.
        on_epoch: called with the history rows of each finished epoch.
        on_progress: called every few seconds with the epoch (from 1) and the share of its steps that are done.
        threads: CPU threads that share the members of a group; does not touch the numbers.
        checkpoints: keeper of the state of this training; one that it has is taken up, and the training ends as if it
            had never been interrupted, bit for bit on a CPU.
        teachers: settings and states of the members named by ``run.teachers``.

    Raises:
        UserError: batch larger than the training rows, another data set than the run's, a precision that the device
            does not have, or a loss that is no number.
    """
    check(run, dataset, starts, teachers)
    place = resolve_device(device)
    with side_by_side(threads, place) as each, training_arithmetic(run.recipe.precision, place) as products:
        linked = connected_groups(run.coupling.weights, run.teachers is not None)
        groups = [make_group(run, indices, dataset, starts, place, each, teachers) for indices in linked]
        at = train_groups(groups, run, dataset, place, on_epoch, on_progress, checkpoints)
        for table in (group.table for group in groups if group.table):
            unshare_table(table)
        trainees = sorted((t for group in groups for t in group.trainees), key=lambda t: t.index)
        for trainee in trainees:
            load_state(trainee.kept_state, trainee.model)
        ways = sorted({group.way for group in groups} - {""})
        return Trained(
            states=[served(t.kept_state) for t in trainees],
            history=at.history,
            kept_epochs=[t.kept_epoch for t in trainees],
            valid_logits=torch.stack(each(lambda t: predict(t.model, dataset.valid), trainees)).cpu().numpy(),
            test_logits=torch.stack(each(lambda t: predict(t.model, dataset.test), trainees)).cpu().numpy(),
            products=", ".join([products, *ways]),
            seconds=at.seconds,
        )


@has_faster_form
@contextmanager
def side_by_side(threads: int, device: torch.device) -> Iterator[Callable[..., list]]:
    """Inside, a function that applies a function to every member of a group and gives the results in order."""
    yield in_turn


@has_faster_form
@contextmanager
def training_arithmetic(precision: Precision, device: torch.device) -> Iterator[str]:
    """Inside, float32 matrix products are as ``precision`` says; gives what they are in words, for the record."""
    if precision == "tf32":
        raise UserError("precision='tf32': needs the faster forms, ctrlib.fast.install()")
    yield f"torch {precision}"


def train_groups(
    groups: list[Group],
    run: Run,
    dataset: Dataset,
    device: torch.device,
    on_epoch: Callable[[list[dict]], None] | None,
    on_progress: Callable[[int, float], None] | None,
    checkpoints: Checkpoints | None,
) -> Position:
    """Epoch by epoch, group by group, until each group has stopped; the position at the end, with all history."""
    rows = batch_source(dataset.train, device)
    steps = len(batch_bounds(len(rows), run.recipe.batch_size))
    at = checkpoints.restore(groups) if checkpoints else Position()
    began, told, left = time.perf_counter() - at.seconds, time.monotonic(), []

    def after_step() -> None:
        nonlocal told
        at.seconds = time.perf_counter() - began
        if checkpoints:
            checkpoints.after_step(groups, at)
        if on_progress and at.step and time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            on_progress(at.epoch + 1, (left.index(at.group) + at.step / steps) / len(left))

    while at.epoch < run.recipe.epochs:
        left = [index for index, group in enumerate(groups) if index >= at.group and not group.stopped]
        if not left and not at.new:
            break
        for at.group in left:
            at.new += run_epoch(groups[at.group], at, rows, dataset.valid, after_step)
            at.group, at.step, at.losses, at.epoch_seconds = at.group + 1, 0, None, 0.0
        if on_epoch:
            on_epoch(at.new)
        at.history += sorted(at.new, key=lambda row: row["member"])
        at.epoch, at.group, at.new = at.epoch + 1, 0, []
        after_step()
    at.seconds = time.perf_counter() - began
    return at


def check(run: Run, dataset: Dataset, starts: list[State] | None, teachers: list[Teacher] | None) -> None:
    """Refuse what cannot be trained, before any time is spent."""
    if run.data.fingerprint != dataset.fingerprint:
        changed = f"but the run was defined on {run.data.fingerprint}: the prepared data changed since"
        found = f"data set {dataset.name!r} (draw {dataset.draw}) has fingerprint {dataset.fingerprint}"
        raise UserError(f"{found}, {changed}")
    size, most = run.recipe.batch_size, len(dataset.train)
    if size > most:
        raise UserError(f"batch_size={size}: must be at most {most}, the training rows of {dataset.name!r}")
    for name, given in (("start", starts), ("teachers", teachers)):
        if (given is None) != (getattr(run, name) is None):
            raise ValueError(f"run.{name} names members exactly when their states are given")


def make_group(
    run: Run,
    indices: list[int],
    dataset: Dataset,
    starts: list[State] | None,
    device: torch.device,
    each: Callable[..., list] = in_turn,
    teachers: list[Teacher] | None = None,
) -> Group:
    """Build the models and optimizers of one group and put them where they start."""
    trainees = [
        make_trainee(i, run, dataset, starts[i] if starts else None, run.start[i] if run.start else None, device)
        for i in indices
    ]
    matrix = torch.tensor(run.coupling.weights, dtype=torch.float32)[indices]
    frozen = run.coupling.target in FROZEN
    teacher_columns = matrix.any(dim=0).nonzero().flatten().tolist() if frozen else indices
    matrix = matrix[:, teacher_columns].to(device)
    group = Group(trainees, matrix, run.recipe, run.coupling, run.recipe.learning_rate, each)
    if frozen or (run.coupling.refresh > 1 and matrix.any()):
        group.frozen = [frozen_model(i, trainees, teachers, dataset, device) for i in teacher_columns]
    if run.coupling.head == "auxiliary":
        for trainee in trainees:
            add_head(trainee, run.recipe.learning_rate)
    if run.embeddings == "shared":
        group.table = share_table(trainees, run.recipe.learning_rate, from_scratch=starts is None)
    group.base_rate = logit_of_clicks(dataset) if run.recipe.base_rate_weight else 0.0
    group.continued = starts is not None
    group.average = WeightAverage(model_tensors(trainees), run.recipe)
    group.forward, group.way = choose_forward(group, dataset)
    if run.recipe.gradient_penalty:
        group.forward, group.way, group.code_counts = plain_forward, "", count_codes(dataset).to(device)
        for trainee in trainees:
            keep_embeddings(trainee)
    group.step = choose_step(group)
    return group


def batch_bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Slices of an epoch's permutation. The last batch is what remains; a single remaining row joins the one
    before, because batch norm cannot see one row alone."""
    starts = list(range(0, rows, batch_size))
    if rows % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True))


def run_epoch(
    group: Group, at: Position, rows: BatchSource, valid: Split, after_step: Callable[[], None]
) -> list[dict]:
    """Train one group to the end of epoch ``at.epoch`` from step ``at.step`` on, evaluate it, move its schedule.

    Returns history rows, one per member. The order of the rows is drawn on the CPU, so that it does not depend on the
    device; nothing else waits for the device before the epoch is over, unless ``after_step``, called after each step,
    keeps the state.
    """
    began, epoch, earlier = time.perf_counter(), at.epoch, at.epoch_seconds
    order_seed = group.trainees[0].member.order_seed
    order = torch.randperm(len(rows), generator=generator(order_seed, "order", epoch)).to(rows.order_device)
    bounds = batch_bounds(len(rows), group.recipe.batch_size)
    steps = group.recipe.epochs * len(bounds)  # of the whole training
    has_peers = bool(group.weights.any())
    if at.losses is None:
        at.losses = torch.zeros(2, len(group.trainees), device=rows.device)
    for trainee in group.trainees:
        trainee.model.train()
    if group.recipe.meda and at.step == 0 and (epoch or group.continued):
        draw_tables_afresh(group.trainees, epoch)
    for step in range(at.step, len(bounds)):
        first, last = bounds[step]
        ids, labels = rows.batch(order[first:last])
        number = epoch * len(bounds) + step
        coupled = has_peers and has_begun(number, steps, group.coupling.start)
        if number % group.coupling.refresh == 0:
            group.look_at_peers()
        seed_dropout(group, epoch, step)
        at.losses += group.step(ids, labels, coupled, shuffle_order(group, epoch, step, len(labels)))
        group.average.after_step()
        at.step, at.epoch_seconds = step + 1, earlier + time.perf_counter() - began
        after_step()
    click, peer = (at.losses / len(bounds)).tolist()
    rate = group.learning_rate
    if not np.isfinite([*click, *peer]).all():
        raise UserError(f"the loss is no number after epoch {epoch + 1}; use a learning_rate below {rate:g}")
    with group.average.in_place():
        scores = end_epoch(group, epoch, valid)
    if group.recipe.patience and group.epochs_without_gain:
        lower_rate_or_stop(group)
    seconds = earlier + time.perf_counter() - began
    return [
        {
            "epoch": epoch + 1,
            "member": trainee.index,
            "learning_rate": rate,
            "click_loss": click[n],
            "peer_loss": peer[n],
            "valid_auc": scores[n][0],
            "valid_logloss": scores[n][1],
            "seconds": seconds / len(group.trainees),
        }
        for n, trainee in enumerate(group.trainees)
    ]


def has_begun(step: int, steps: int, share: float) -> bool:
    """Whether ``step``, from 0, lies behind ``share`` of all ``steps``; rounding does not move it."""
    return step >= share * steps - 1e-6


def seed_dropout(group: Group, epoch: int, step: int) -> None:
    """Dropout masks follow from the member's seeds and the step, not from what ran before."""
    for trainee in (one for one in group.trainees if one.member.dropout):
        seeds = trainee.member.init_seed, trainee.member.order_seed
        trainee.dropout_generator.manual_seed(derive_seed(*seeds, "dropout", epoch, step))


def shuffle_order(group: Group, epoch: int, step: int, rows: int) -> Tensor | None:
    """The permutation (B,) of the batch for target ``shuffled``, else None."""
    if group.coupling.target != "shuffled":
        return None
    order = generator(group.trainees[0].member.order_seed, "shuffle", epoch, step)
    return torch.randperm(rows, generator=order).to(group.weights.device)


def end_epoch(group: Group, epoch: int, valid: Split) -> list[tuple[float, float]]:
    """Validation AUC and log loss of each member; remember the best and what is kept."""
    recipe, scores = group.recipe, []
    predictions = group.each(lambda trainee: predict(trainee.model, valid), group.trainees)
    for logits in predictions:
        if not logits.isfinite().all():
            raise UserError(f"predictions are no numbers after epoch {epoch + 1}; use a lower learning_rate")
        scores.append(score(valid.labels, logits))
    mean = float(np.mean([auc for auc, _ in scores]))
    gained = mean > group.best_auc + MIN_GAIN
    group.best_auc = mean if gained else group.best_auc
    group.epochs_without_gain = 0 if gained else group.epochs_without_gain + 1
    for trainee, (auc, _) in zip(group.trainees, scores, strict=True):
        best = gained if recipe.cuts is not None else auc > trainee.best_auc + MIN_GAIN
        if best if recipe.keep == "best" else recipe.patience or epoch + 1 == recipe.epochs:
            trainee.best_auc, trainee.kept_epoch, trainee.kept_state = auc, epoch + 1, member_state(trainee)
    return scores


def lower_rate_or_stop(group: Group) -> None:
    """After an epoch without gain: what the recipe's rule of early stopping asks for, see :class:`Recipe`."""
    recipe, again = group.recipe, group.epochs_without_gain < group.recipe.patience
    if recipe.cuts is None:
        group.stopped = not again
    elif again:
        return
    elif group.cuts == recipe.cuts:
        group.stopped = True
        return
    else:
        group.cuts, group.epochs_without_gain = group.cuts + 1, 0
        for trainee in group.trainees:
            load_state(trainee.kept_state, trainee.model, trainee.optimizer)
        group.average.restart()
    group.set_learning_rate(group.learning_rate * recipe.plateau_factor)


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that depends on every part."""
    return torch.Generator().manual_seed(derive_seed(*parts))
