"""One training loop for a cohort of K models, coupled or not, from scratch or from checkpoints.

Members that hear of each other form a *group* (:func:`ctrlib.coupling.connected_groups`): they see the same
batches and share one learning-rate schedule. Groups never touch each other, so a cohort without coupling is K
separate trainings, bit for bit; K = 1 is a cohort too.

All randomness is a function of (seeds, epoch, step): ``init_seed`` gives the initial weights, ``order_seed`` the
permutation of each epoch, both together the dropout masks. There is no random state to carry along.

Legend: K members of a group, B batch, N rows.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ctrlib.config import FROZEN, Run, derive_seed
from ctrlib.coupling import connected_groups
from ctrlib.errors import UserError
from ctrlib.fast.distinct_ids import distinct_ids, has_form, repeat_enough
from ctrlib.fast.graphs import CudaGraph, GraphStep, SideBySide, Step, warm_up_on_stream
from ctrlib.fast.machine import arithmetic, keep_freed_memory
from ctrlib.models.layers import field_offsets
from ctrlib.store.checkpoints import Checkpoints, Position
from ctrlib.training.averaging import WeightAverage, has_begun
from ctrlib.training.batches import Rows, as_tensor
from ctrlib.training.cohort import (
    Group,
    State,
    Teacher,
    changing_tensors,
    frozen_model,
    load_state,
    make_trainee,
    member_state,
    model_tensors,
    part_table,
    share_table,
)
from ctrlib.training.dataset import Dataset, Split
from ctrlib.training.evaluation import predict, score
from ctrlib.training.step import train_step

PROGRESS_S = 5.0
ONCE = "first layer once per distinct id"
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


def resolve_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one; a device that is not there is a :class:`UserError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name!r}: must be auto, cpu, cuda or cuda:N")
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
        checkpoints: where the state of this training is put away now and then; one that lies there is taken up, and
            the training ends as if it had never been interrupted, bit for bit on a CPU.
        teachers: settings and states of the members named by ``run.teachers``.

    Raises:
        UserError: batch larger than the training rows, another data set than the run's, a precision that the device
            does not have, or a loss that is no number.
    """
    check(run, dataset, starts, teachers)
    place = resolve_device(device)
    keep_freed_memory()
    each = SideBySide(threads, place)
    try:
        with arithmetic(run.recipe.precision, place) as products:
            linked = connected_groups(run.coupling.weights, run.teachers is not None)
            groups = [make_group(run, indices, dataset, starts, place, each, teachers) for indices in linked]
            at = train_groups(groups, run, dataset, place, on_epoch, on_progress, checkpoints)
            for table in (group.table for group in groups if group.table):
                part_table(table)
            trainees = sorted((t for group in groups for t in group.trainees), key=lambda t: t.index)
            for trainee in trainees:
                load_state(trainee.kept_state, trainee.model)
            return Trained(
                states=[t.kept_state for t in trainees],
                history=at.history,
                kept_epochs=[t.kept_epoch for t in trainees],
                valid_logits=torch.stack(each(lambda t: predict(t.model, dataset.valid), trainees)).cpu().numpy(),
                test_logits=torch.stack(each(lambda t: predict(t.model, dataset.test), trainees)).cpu().numpy(),
                products=f"{products}{', ' + ONCE if any(group.distinct_ids for group in groups) else ''}",
                seconds=at.seconds,
            )
    finally:
        each.close()


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
    began = time.perf_counter()
    rows = Rows(dataset.train, device)
    at = checkpoints.restore(groups) if checkpoints else Position()
    before = at.seconds

    def put_away() -> None:
        at.seconds = before + time.perf_counter() - began
        if checkpoints and checkpoints.due():
            checkpoints.save(groups, at)

    while at.epoch < run.recipe.epochs:
        left = [index for index, group in enumerate(groups) if index >= at.group and not group.stopped]
        if not left and not at.new:
            break
        progress = Progress(at.epoch, len(left) * len(batch_bounds(len(rows), run.recipe.batch_size)), on_progress)
        for at.group in left:
            at.new += run_epoch(groups[at.group], at, rows, dataset.valid, progress, put_away)
            at.group, at.step, at.losses, at.epoch_seconds = at.group + 1, 0, None, 0.0
        if on_epoch:
            on_epoch(at.new)
        at.history += sorted(at.new, key=lambda row: row["member"])
        at.epoch, at.group, at.new = at.epoch + 1, 0, []
        put_away()
    at.seconds = before + time.perf_counter() - began
    return at


class Progress:
    """Counts the steps of an epoch and says every few seconds how far it is."""

    def __init__(self, epoch: int, steps: int, tell: Callable[[int, float], None] | None) -> None:
        self.epoch, self.steps, self.tell, self.done, self.last = epoch, steps, tell, 0, time.monotonic()

    def step(self) -> None:
        """One more step is done."""
        self.done += 1
        if self.tell and time.monotonic() - self.last > PROGRESS_S:
            self.last = time.monotonic()
            self.tell(self.epoch + 1, self.done / self.steps)


def check(run: Run, dataset: Dataset, starts: list[State] | None, teachers: list[Teacher] | None) -> None:
    """Refuse what cannot be trained, before any time is spent."""
    if run.data.fingerprint != dataset.fingerprint:
        raise UserError(
            f"data set {dataset.name!r} (draw {dataset.draw}) has fingerprint {dataset.fingerprint}, but the run was "
            f"defined on {run.data.fingerprint}: the prepared data changed since"
        )
    if run.recipe.batch_size > len(dataset.train):
        raise UserError(
            f"batch_size={run.recipe.batch_size}: must be at most {len(dataset.train)}, "
            f"the training rows of {dataset.name!r}"
        )
    if (starts is None) != (run.start is None):
        raise ValueError("run.start names checkpoints exactly when starts holds them")
    if (teachers is None) != (run.teachers is None):
        raise ValueError("run.teachers names members exactly when teachers holds them")


def make_group(
    run: Run,
    indices: list[int],
    dataset: Dataset,
    starts: list[State] | None,
    device: torch.device,
    each: SideBySide | None = None,
    teachers: list[Teacher] | None = None,
) -> Group:
    """Build the models and optimizers of one group and put them where they start."""
    trainees = [
        make_trainee(i, run, dataset, starts[i] if starts else None, run.start[i] if run.start else None, device)
        for i in indices
    ]
    matrix = torch.tensor(run.coupling.weights, dtype=torch.float32)[indices]
    heard = matrix.any(dim=0).nonzero().flatten().tolist() if run.coupling.target in FROZEN else indices
    matrix = matrix[:, heard].to(device)
    group = Group(trainees, matrix, run.recipe, run.coupling, run.recipe.learning_rate, each or SideBySide(1, device))
    if run.coupling.target in FROZEN:
        group.frozen = [frozen_model(i, trainees, teachers, dataset, device) for i in heard]
    if run.embeddings == "shared":
        group.table = share_table(trainees, run.recipe.learning_rate, from_scratch=starts is None)
    if run.recipe.averaging != "none":
        group.average = WeightAverage(model_tensors(trainees), run.recipe)
    if device.type == "cpu" and computes_from_distinct_ids(group, dataset.train.ids):
        group.distinct_ids = partial(distinct_ids, offsets=field_offsets(dataset.field_dims))
    group.step = graph_step(group) if device.type == "cuda" else eager_step(group)
    return group


def computes_from_distinct_ids(group: Group, ids: np.ndarray) -> bool:
    """Whether :mod:`ctrlib.fast.distinct_ids` pays for the group, judged by a batch from all over the rows (N, F)."""
    size = group.recipe.batch_size
    models = [trainee.model for trainee in group.trainees] + group.frozen
    return any(has_form(model) for model in models) and repeat_enough(as_tensor(ids[:: len(ids) // size][:size]))


def eager_step(group: Group) -> Step:
    """The step as it is written."""
    return lambda ids, labels, coupled, shuffle: train_step(group, ids, labels, coupled, shuffle)


def graph_step(group: Group) -> Step:
    """The step as CUDA graphs."""
    generators = [trainee.dropout_generator for trainee in group.trainees]
    return GraphStep(
        eager_step(group),
        rows=group.recipe.batch_size,
        state=lambda: changing_tensors(group.trainees),
        generators=generators,
        new_graph=lambda: CudaGraph(generators),
        warm_up=warm_up_on_stream,
    )


def batch_bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Slices of an epoch's permutation. The last batch is what remains; a single remaining row joins the one
    before, because batch norm cannot see one row alone."""
    starts = list(range(0, rows, batch_size))
    if rows % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True))


def run_epoch(
    group: Group, at: Position, rows: Rows, valid: Split, progress: Progress, put_away: Callable[[], None]
) -> list[dict]:
    """Train one group to the end of epoch ``at.epoch`` from step ``at.step`` on, evaluate it, move its schedule.

    Returns history rows, one per member. The order of the rows is drawn on the CPU, so that it does not depend on the
    device; nothing else waits for the device before the epoch is over, unless ``put_away``, called after each step,
    decides to keep the state.
    """
    began, epoch, earlier = time.perf_counter(), at.epoch, at.epoch_seconds
    order_seed = group.trainees[0].member.order_seed
    order = torch.randperm(len(rows), generator=generator(order_seed, "order", epoch)).to(rows.order_device)
    bounds = batch_bounds(len(rows), group.recipe.batch_size)
    steps = group.recipe.epochs * len(bounds)  # of the whole training
    listens = bool(group.weights.any())
    if at.losses is None:
        at.losses = torch.zeros(2, len(group.trainees), device=rows.device)
    for trainee in group.trainees:
        trainee.model.train()
    for step in range(at.step, len(bounds)):
        first, last = bounds[step]
        ids, labels = rows.batch(order[first:last])
        number = epoch * len(bounds) + step
        coupled = listens and has_begun(number, steps, group.coupling.start)
        seed_dropout(group, epoch, step)
        at.losses += group.step(ids, labels, coupled, shuffle_order(group, epoch, step, len(labels)))
        if group.average:
            group.average.after_step(number, steps)
        at.step, at.epoch_seconds = step + 1, earlier + time.perf_counter() - began
        progress.step()
        put_away()
    click, peer = (at.losses / len(bounds)).tolist()
    rate = group.learning_rate
    if not np.isfinite([*click, *peer]).all():
        raise UserError(f"the loss is no number after epoch {epoch + 1}; use a learning_rate below {rate:g}")
    if group.average:
        group.average.after_epoch(epoch, group.recipe.epochs)
    with group.average.in_place() if group.average else nullcontext():
        scores = end_epoch(group, epoch, valid)
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


def seed_dropout(group: Group, epoch: int, step: int) -> None:
    """Dropout masks follow from the member's seeds and the step, not from what ran before."""
    for trainee in group.trainees:
        member = trainee.member
        if member.dropout:
            seed = derive_seed(member.init_seed, member.order_seed, "dropout", epoch, step)
            trainee.dropout_generator.manual_seed(seed)


def shuffle_order(group: Group, epoch: int, step: int, rows: int) -> Tensor | None:
    """The permutation (B,) of the batch for target ``shuffled``, else None."""
    if group.coupling.target != "shuffled":
        return None
    order = generator(group.trainees[0].member.order_seed, "shuffle", epoch, step)
    return torch.randperm(rows, generator=order).to(group.weights.device)


def end_epoch(group: Group, epoch: int, valid: Split) -> list[tuple[float, float]]:
    """Validation AUC and log loss of each member; remember what is kept; lower the learning rate or stop."""
    scores = []
    predictions = group.each(lambda trainee: predict(trainee.model, valid), group.trainees)
    for trainee, logits in zip(group.trainees, predictions, strict=True):
        if not logits.isfinite().all():
            raise UserError(f"predictions are no numbers after epoch {epoch + 1}; use a lower learning_rate")
        auc, logloss = score(valid.labels, logits)
        scores.append((auc, logloss))
        if group.recipe.keep == "best" and auc > trainee.best_auc + MIN_GAIN:
            trainee.best_auc, trainee.kept_epoch, trainee.kept_state = auc, epoch + 1, member_state(trainee)
        if group.recipe.keep == "last" and (epoch + 1 == group.recipe.epochs or group.recipe.patience):
            trainee.kept_epoch, trainee.kept_state = epoch + 1, member_state(trainee)
    mean = float(np.mean([auc for auc, _ in scores]))
    if mean > group.best_auc + MIN_GAIN:
        group.best_auc, group.epochs_without_gain = mean, 0
    elif group.recipe.patience:
        group.epochs_without_gain += 1
        group.stopped = group.epochs_without_gain >= group.recipe.patience
        group.set_learning_rate(group.learning_rate * group.recipe.plateau_factor)
    return scores


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that depends on every part."""
    return torch.Generator().manual_seed(derive_seed(*parts))
