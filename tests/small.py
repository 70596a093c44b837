"""Tiny data and runs that train in milliseconds; shared by the tests of trainer, store and experiments."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch

from ctrlib.config import Checkpoint, Coupling, Data, Member, Recipe, Run, SyntheticSettings, Weights
from ctrlib.coupling import solo
from ctrlib.data.load import data_settings, load_data
from ctrlib.errors import UserError
from ctrlib.fast import distinct_ids, install
from ctrlib.models import build_model, embedding_parameters
from ctrlib.training.cohort import Group, build, load_state, make_adam, share_table
from ctrlib.training.dataset import Dataset
from ctrlib.training.loop import Trained, make_group, train

install()  # what the tests train is what users train; test_kernels.py compares the plain forms

CPU = torch.device("cpu")
NOISY = {"dropout": 0.3, "batch_norm": True}
SETTINGS = SyntheticSettings(
    train_rows=330, valid_rows=200, test_rows=150, fields=4, smallest_field=3, largest_field=40, clusters=4, pairs=3
)


@cache
def data(draw: int = 0) -> Data:
    """What a run says of the tiny data."""
    return data_settings("synthetic", draw, SETTINGS)


def rows(draw: int = 0) -> Dataset:
    """The tiny rows themselves: 330 for training, which leaves a short last batch at the usual sizes."""
    return load_data(data(draw))


def member(seed: int = 1, order: int = 7, **settings) -> Member:
    """A DeepFM with two hidden layers of a few units."""
    small = {"architecture": "DeepFM", "embedding_dim": 3, "hidden_units": (8, 5)}
    return Member(**{**small, "init_seed": seed, "order_seed": order, **settings})


def make_run(
    members: list[Member] | None = None,
    weights: Weights | None = None,
    start: list[Checkpoint] | None = None,
    coupling: dict | None = None,
    teachers: list | None = None,
    embeddings: str = "own",
    **recipe,
) -> Run:
    """A run on the tiny data; one solo DeepFM for two epochs unless told otherwise."""
    members = members or [member()]
    return Run(
        data=data(),
        members=tuple(members),
        coupling=Coupling(weights=weights or solo(len(members)), **(coupling or {})),
        recipe=Recipe(**{"learning_rate": 0.01, "batch_size": 50, "epochs": 2, **recipe}),
        start=tuple(start) if start else None,
        teachers=tuple(teachers) if teachers else None,
        embeddings=embeddings,
    )


def checkpoints(count: int, optimizer: str = "keep") -> list[Checkpoint]:
    """What the settings of a run say of ``count`` members of another run that its own go on from."""
    return [Checkpoint(run="0" * 16, member=n, optimizer=optimizer) for n in range(count)]


def fit(run: Run, starts: list | None = None, **more) -> Trained:
    """A training on the tiny data, on the CPU."""
    return train(run, rows(), starts, device="cpu", **more)


def independent_groups(groups: list[Weights]) -> Weights:
    """Several cohorts in one: a block-diagonal matrix, no peers across groups."""
    blocks = torch.block_diag(*(torch.tensor(group, dtype=torch.float64) for group in groups))
    return tuple(map(tuple, blocks.tolist()))


def same_state(a: dict, b: dict) -> bool:
    """Whether two member states hold the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a
    )


def without_time(history: list[dict], index: int) -> list[dict]:
    """The history of one member, as numbers that do not depend on the clock or on its place in the cohort."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "member")} for row in history if row["member"] == index
    ]


def assert_same_member(a: Trained, i: int, b: Trained, j: int) -> None:
    """Member ``i`` of one training is member ``j`` of another: weights, Adam, history, kept epoch, predictions."""
    assert without_time(a.history, i) == without_time(b.history, j)
    assert same_state(a.states[i], b.states[j])
    assert a.kept_epochs[i] == b.kept_epochs[j]
    for split in ("valid_logits", "test_logits"):
        assert np.array_equal(getattr(a, split)[i], getattr(b, split)[j])


def distance(a: dict, b: dict) -> float:
    """Largest difference of any weight of two member states."""
    return max(float((a[k] - b[k]).abs().max()) for k in a if k.startswith("weights.") and a[k].is_floating_point())


def refused(function: Callable, *arguments, kind: type[UserError] = UserError, **more) -> str:
    """The message with which something is refused, which must be a single line."""
    with pytest.raises(kind) as caught:
        function(*arguments, **more)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def batch(first: int = 0, count: int = 50, double: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of some of the tiny training rows."""
    part = slice(first, first + count)
    labels = torch.from_numpy(rows().train.labels[part].astype(np.float64 if double else np.float32))
    return torch.from_numpy(rows().train.ids[part].astype(np.int64)), labels


def wide_model(architecture: str, field_dims: Sequence[int], **sizes) -> torch.nn.Module:
    """A model in float64 with embeddings of a size at which every part of it matters."""
    small = {"embedding_dim": 3, "hidden_units": (6, 4), "dropout": 0.0, "batch_norm": False}
    model = build_model(architecture, field_dims, 0, options={}, **{**small, **sizes}).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def use_distinct_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct ids are used from here on, however small the model and however few the repeated ids."""
    for name, value in (("SMALLEST_EMBEDDING", 1), ("SMALLEST_WIDTH", 1), ("LARGEST_SHARE", 1.0)):
        monkeypatch.setattr(distinct_ids, name, value)


def widen(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give the tables values of ordinary size, so that L2 and interactions matter."""
    for table in embedding_parameters(model):
        table.data.copy_(0.5 * torch.randn(table.shape, generator=generator))


def widened(run: Run, starts: list | None = None, teachers: list | None = None) -> Group:
    """All members of a run in float64, so that only the maths can differ, widened, and an Adam begun anew."""
    group = make_group(run, list(range(len(run.members))), rows(), starts, CPU, teachers=teachers)
    generator, rate = torch.Generator().manual_seed(3), run.recipe.learning_rate
    for trainee in group.trainees:
        widen(trainee.model.double(), generator)
        trainee.optimizer = make_adam(trainee.model, rate)
    if group.table:
        group.table = share_table(group.trainees, rate, from_scratch=True)
    for model in group.frozen:
        model.double()
    group.weights = group.weights.double()
    return group


def twins(group: Group) -> list[torch.nn.Module]:
    """Other models in float64 with the weights of the group's."""
    models = [build(trainee.member, rows(), CPU).double() for trainee in group.trainees]
    for model, trainee in zip(models, group.trainees, strict=True):
        model.load_state_dict(trainee.model.state_dict())
    return models


def logits_of(one: Member, state: dict, ids: np.ndarray | torch.Tensor) -> torch.Tensor:
    """What a member with this state predicts for ``ids`` (B, F), by a model built here."""
    model = build(one, rows(), CPU)
    load_state(state, model)
    with torch.no_grad():
        return model.eval()(torch.as_tensor(ids).long())


def digest_of(trained: Trained) -> str:
    """SHA-256 over the bytes of all weights, Adam states and predictions."""
    total = hashlib.sha256()
    for state in trained.states:
        for name in sorted(state):
            total.update(name.encode() + state[name].numpy().tobytes())
    total.update(trained.valid_logits.tobytes() + trained.test_logits.tobytes())
    return total.hexdigest()
