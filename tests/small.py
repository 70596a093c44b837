"""Tiny data and runs that train in milliseconds; shared by the tests of trainer, store and experiments."""

import hashlib
from functools import cache

import numpy as np
import torch

from ctrlib.config import Checkpoint, Coupling, Data, Member, Recipe, Run, SyntheticSettings, Weights
from ctrlib.coupling import solo
from ctrlib.data.load import data_settings, load_data
from ctrlib.fast import install
from ctrlib.models import embedding_parameters
from ctrlib.training.cohort import Group, make_adam, share_table
from ctrlib.training.dataset import Dataset
from ctrlib.training.loop import Trained

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
    return Member(
        **{
            "architecture": "DeepFM",
            "embedding_dim": 3,
            "hidden_units": (8, 5),
            "init_seed": seed,
            "order_seed": order,
            **settings,
        }
    )


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


def independent_groups(groups: list[Weights]) -> Weights:
    """Several cohorts in one: a block-diagonal matrix, no peers across groups."""
    total = sum(len(group) for group in groups)
    rows, before = [], 0
    for group in groups:
        rows += [(0.0,) * before + row + (0.0,) * (total - before - len(row)) for row in group]
        before += len(group)
    return tuple(rows)


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


def one_line(caught) -> str:
    """The message of an expected error, which must be a single line."""
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def batch(first: int = 0, count: int = 50, double: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of some of the tiny training rows."""
    part = slice(first, first + count)
    labels = torch.from_numpy(rows().train.labels[part].astype(np.float64 if double else np.float32))
    return torch.from_numpy(rows().train.ids[part].astype(np.int64)), labels


def widen(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give the tables values of ordinary size, so that L2 and interactions matter."""
    with torch.no_grad():
        for table in embedding_parameters(model):
            table.copy_(0.5 * torch.randn(table.shape, generator=generator))


def widened(group: Group) -> Group:
    """The group in float64, so that only the maths can differ, with tables of ordinary size and an Adam begun anew."""
    generator, rate = torch.Generator().manual_seed(3), group.recipe.learning_rate
    for trainee in group.trainees:
        trainee.model.double()
        widen(trainee.model, generator)
        trainee.optimizer = make_adam(trainee.model, rate)
    if group.table:
        group.table = share_table(group.trainees, rate, from_scratch=True)
    for model in group.frozen:
        model.double()
    group.weights = group.weights.double()
    return group


def logits_like(size: int, batch: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    """Random logits (K, B) in float64, none beyond 4 times ``scale``."""
    values = torch.randn(size, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * values).clamp(-4 * scale, 4 * scale)


def digest_of(trained: Trained) -> str:
    """SHA-256 over the bytes of all weights, Adam states and predictions."""
    total = hashlib.sha256()
    for state in trained.states:
        for name in sorted(state):
            total.update(name.encode() + state[name].numpy().tobytes())
    total.update(trained.valid_logits.tobytes() + trained.test_logits.tobytes())
    return total.hexdigest()
