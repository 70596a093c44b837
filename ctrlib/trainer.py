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
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ctrlib import metrics
from ctrlib.config import Checkpoint, Coupling, Member, Recipe, Run, derive_seed
from ctrlib.coupling import click_loss, connected_groups, peer_loss
from ctrlib.data.table import Dataset, Split
from ctrlib.errors import UserError
from ctrlib.models import build_model
from ctrlib.models.layers import embedding_parameters

EVALUATION_ROWS = 8192
MIN_GAIN = 1e-6  # a validation AUC must rise by more than this to count as better (FuxiCTR)
State = dict[str, Tensor]  # a member's weights ("weights.*") and Adam state ("adam.<kind>.*"), on the CPU


@dataclass
class Trained:
    """What a run leaves: one entry per member, in the order of ``run.members``."""

    states: list[State]
    history: list[dict]  # one row per epoch and member
    kept_epochs: list[int]
    valid_logits: np.ndarray  # (K, valid rows) float32
    test_logits: np.ndarray  # (K, test rows) float32


@dataclass
class Trainee:
    """A member in training."""

    index: int
    member: Member
    model: nn.Module
    optimizer: torch.optim.Adam
    best_auc: float = -1.0
    kept_epoch: int = 0
    kept_state: State | None = None


@dataclass
class Group:
    """Members that train together: the rows of A among them, their schedule, their frozen copies."""

    trainees: list[Trainee]
    weights: Tensor  # (K, K)
    recipe: Recipe
    coupling: Coupling
    learning_rate: float
    frozen: list[nn.Module] = field(default_factory=list)
    best_auc: float = -1.0
    epochs_without_gain: int = 0
    stopped: bool = False


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
) -> Trained:
    """Train every member of ``run`` on ``dataset``.

    Args:
        run: the settings; ``run.data.fingerprint`` must be the data set's.
        dataset: encoded rows with their split.
        starts: the states named by ``run.start``, one per member; None trains from scratch.
        device: see :func:`resolve_device`.
        on_epoch: called with the history rows of each finished epoch.

    Raises:
        UserError: batch larger than the training rows, another data set than the run's, or a loss that is no number.
    """
    check(run, dataset, starts)
    place = resolve_device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        linked = connected_groups(run.coupling.weights)
        groups = [make_group(run, indices, dataset, starts, place) for indices in linked]
        rows = (torch.from_numpy(np.array(dataset.train.ids)).to(place), to_labels(dataset.train).to(place))
        history: list[dict] = []
        for epoch in range(run.recipe.epochs):
            if all(group.stopped for group in groups):
                break
            new = [row for group in groups if not group.stopped for row in run_epoch(group, epoch, rows, dataset.valid)]
            history += sorted(new, key=lambda row: row["member"])
            if on_epoch:
                on_epoch(new)
        trainees = sorted((t for group in groups for t in group.trainees), key=lambda t: t.index)
        for trainee in trainees:
            load_state(trainee.kept_state, trainee.model)
        return Trained(
            states=[t.kept_state for t in trainees],
            history=history,
            kept_epochs=[t.kept_epoch for t in trainees],
            valid_logits=np.stack([predict(t.model, dataset.valid) for t in trainees]),
            test_logits=np.stack([predict(t.model, dataset.test) for t in trainees]),
        )


def check(run: Run, dataset: Dataset, starts: list[State] | None) -> None:
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


def make_group(
    run: Run, indices: list[int], dataset: Dataset, starts: list[State] | None, device: torch.device
) -> Group:
    """Build the models and optimizers of one group and put them where they start."""
    trainees = [
        make_trainee(i, run, dataset, starts[i] if starts else None, run.start[i] if run.start else None, device)
        for i in indices
    ]
    matrix = torch.tensor(run.coupling.weights, dtype=torch.float32, device=device)[indices][:, indices]
    group = Group(trainees, matrix, run.recipe, run.coupling, run.recipe.learning_rate)
    if run.coupling.target == "frozen" and len(indices) > 1:
        group.frozen = [build(t.member, dataset, device) for t in trainees]
        for copy, trainee in zip(group.frozen, trainees, strict=True):
            copy.load_state_dict(trainee.model.state_dict())
            copy.eval()
    return group


def build(member: Member, dataset: Dataset, device: torch.device) -> nn.Module:
    """The model of a member with its initial weights, drawn on the CPU so that they do not depend on the device."""
    return build_model(
        member.architecture,
        dataset.field_dims,
        member.init_seed,
        embedding_dim=member.embedding_dim,
        hidden_units=member.hidden_units,
        dropout=member.dropout,
        batch_norm=member.batch_norm,
        options=member.options,
    ).to(device)


def make_trainee(
    index: int, run: Run, dataset: Dataset, start: State | None, checkpoint: Checkpoint | None, device: torch.device
) -> Trainee:
    """A member with a fused dense Adam; from a checkpoint its weights, and its Adam state if that is kept."""
    member = run.members[index]
    model = build(member, dataset, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.recipe.learning_rate, fused=True)
    if start is not None and checkpoint is not None:
        load_state(start, model, optimizer if checkpoint.optimizer == "keep" else None)
    return Trainee(index, member, model, optimizer)


def to_labels(split: Split) -> Tensor:
    """Labels (N,) as the float32 that the loss needs."""
    return torch.from_numpy(np.asarray(split.labels, dtype=np.float32))


def batch_bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Slices of an epoch's permutation. The last batch is what remains; a single remaining row joins the one
    before, because batch norm cannot see one row alone."""
    starts = list(range(0, rows, batch_size))
    if rows % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True))


def run_epoch(group: Group, epoch: int, rows: tuple[Tensor, Tensor], valid: Split) -> list[dict]:
    """Train one group for one epoch, evaluate it on validation, move its schedule; history rows, one per member."""
    began = time.perf_counter()
    ids, labels = rows
    order_seed = group.trainees[0].member.order_seed
    order = torch.randperm(len(labels), generator=generator(order_seed, "order", epoch)).to(ids.device)
    bounds = batch_bounds(len(labels), group.recipe.batch_size)
    coupled_from = group.coupling.start * group.recipe.epochs * len(bounds) - 1e-6  # 6 / 30 * 30 may exceed 6
    losses = torch.zeros(2, len(group.trainees), device=ids.device)
    for trainee in group.trainees:
        trainee.model.train()
    for step, (first, last) in enumerate(bounds):
        batch = order[first:last]
        coupled = epoch * len(bounds) + step >= coupled_from
        losses += train_step(group, epoch, step, ids.index_select(0, batch).long(), labels[batch], coupled)
    click, peer = (losses / len(bounds)).tolist()
    rate = group.learning_rate
    if not np.isfinite([*click, *peer]).all():
        raise UserError(f"the loss is no number after epoch {epoch + 1}; use a learning_rate below {rate:g}")
    scores = end_epoch(group, epoch, valid)
    seconds = time.perf_counter() - began
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


def train_step(group: Group, epoch: int, step: int, ids: Tensor, labels: Tensor, coupled: bool) -> Tensor:
    """One step of every member of the group on one batch; returns click and peer loss (2, K), detached."""
    logits = torch.stack([forward(trainee, ids, epoch, step) for trainee in group.trainees])  # (K, B)
    click = click_loss(logits, labels)
    peer = torch.zeros_like(click)
    if coupled and len(group.trainees) > 1:
        frozen = shuffle = None
        if group.frozen:
            with torch.no_grad():
                frozen = torch.stack([copy(ids) for copy in group.frozen])
        if group.coupling.target == "shuffled":
            order = generator(group.trainees[0].member.order_seed, "shuffle", epoch, step)
            shuffle = torch.randperm(len(labels), generator=order).to(ids.device)
        peer = peer_loss(logits, group.weights, group.coupling.form, group.coupling.target, frozen, shuffle)
    for trainee in group.trainees:
        trainee.optimizer.zero_grad(set_to_none=True)
    (click + peer).sum().backward()
    for trainee in group.trainees:
        update(trainee, group.recipe)
    return torch.stack([click.detach(), peer.detach()])


def forward(trainee: Trainee, ids: Tensor, epoch: int, step: int) -> Tensor:
    """Logits (B,); dropout masks follow from the member's seeds and the step, not from what ran before."""
    member = trainee.member
    if member.dropout:
        seed = derive_seed(member.init_seed, member.order_seed, "dropout", epoch, step)
        if ids.is_cuda:
            with torch.cuda.device(ids.device):
                torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
    return trainee.model(ids)


def update(trainee: Trainee, recipe: Recipe) -> None:
    """Embedding L2 over the whole tables (dense, as FuxiCTR), gradient clipping, Adam."""
    if recipe.embedding_l2:
        for table in embedding_parameters(trainee.model):
            table.grad.add_(table.detach(), alpha=recipe.embedding_l2)
    nn.utils.clip_grad_norm_(trainee.model.parameters(), recipe.clip_norm)
    trainee.optimizer.step()


def end_epoch(group: Group, epoch: int, valid: Split) -> list[tuple[float, float]]:
    """Validation AUC and log loss of each member; remember what is kept; lower the learning rate or stop."""
    scores = []
    for trainee in group.trainees:
        logits = predict(trainee.model, valid)
        if not np.isfinite(logits).all():
            raise UserError(f"predictions are no numbers after epoch {epoch + 1}; use a lower learning_rate")
        auc = metrics.auc(valid.labels, logits)
        scores.append((auc, metrics.logloss_from_logits(valid.labels, logits)))
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
        group.learning_rate *= group.recipe.plateau_factor
        for trainee in group.trainees:
            for parameters in trainee.optimizer.param_groups:
                parameters["lr"] = group.learning_rate
    return scores


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> np.ndarray:
    """Logits of every row of a split: (N,) float32 on the CPU."""
    model.eval()
    place = next(model.parameters()).device
    ids = torch.from_numpy(np.array(split.ids))
    parts = [model(part.to(place).long()) for part in ids.split(EVALUATION_ROWS)]
    return torch.cat(parts).float().cpu().numpy()


def member_state(trainee: Trainee) -> State:
    """Copies of the weights and of Adam's moments and step count, named, on the CPU."""
    state = {f"weights.{name}": value for name, value in trainee.model.state_dict().items()}
    for name, parameter in trainee.model.named_parameters():
        for kind, value in trainee.optimizer.state[parameter].items():
            state[f"adam.{kind}.{name}"] = value
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def load_state(state: State, model: nn.Module, optimizer: torch.optim.Adam | None = None) -> None:
    """Put a member's weights into ``model`` and, where given, its Adam state into ``optimizer``."""
    weights = {name.removeprefix("weights."): v for name, v in state.items() if name.startswith("weights.")}
    model.load_state_dict(weights)
    if optimizer is None:
        return
    for name, parameter in model.named_parameters():
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][kind] = state[f"adam.{kind}.{name}"].clone().to(parameter.device)


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that depends on every part."""
    return torch.Generator().manual_seed(derive_seed(*parts))
