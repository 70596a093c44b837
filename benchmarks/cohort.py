"""ctrlib's side of the comparison: a cohort on a table, through ``ctrlib.fast.train``."""

import time

import numpy as np

from benchmarks import sizes
from benchmarks.table import Table
from ctrlib.config import Coupling, Data, Member, Recipe, Run
from ctrlib.coupling import complete
from ctrlib.training.dataset import Dataset, Split

HELD_OUT = 100  # rows evaluated after each epoch: next to nothing


def dataset(table: Table, rows: int) -> Dataset:
    """The first ``rows`` rows as ctrlib's training rows; few others for validation and test, of both labels."""
    held_out = np.concatenate([np.flatnonzero(table.labels == label)[: HELD_OUT // 2] for label in (0, 1)])
    part = Split(np.ascontiguousarray(table.ids[held_out]), table.labels[held_out])
    train = table.head(rows)
    return Dataset(
        name="benchmark",
        draw=0,
        field_names=tuple(f"f{f}" for f in range(len(table.field_dims))),
        field_dims=table.field_dims,
        train=Split(np.ascontiguousarray(train.ids), train.labels),
        valid=part,
        test=part,
        fingerprint="benchmark",
    )


def run(
    architecture: str,
    members: int,
    epochs: int,
    batch: int = sizes.BATCH,
    precision: str = "fp32",
    embedding_dim: int = sizes.EMBEDDING,
    hidden_units: tuple[int, ...] = sizes.HIDDEN,
) -> Run:
    """``members`` models that all listen to each other, trained together from scratch."""
    options = {"bilinear_type": sizes.BILINEAR} if architecture == "FiBiNET" else {}
    shared = {"architecture": architecture, "options": options, "order_seed": 1}
    size = {"embedding_dim": embedding_dim, "hidden_units": hidden_units}
    recipe = {"learning_rate": sizes.LEARNING_RATE, "batch_size": batch, "epochs": epochs, "precision": precision}
    return Run(
        data=Data(name="benchmark", fingerprint="benchmark"),
        members=tuple(Member(init_seed=n, **shared, **size) for n in range(members)),
        coupling=Coupling(weights=complete(members)),
        recipe=Recipe(**recipe),
    )


def seconds_per_step(
    settings: Run, rows: Dataset, device: str = "cpu", threads: int = 1, warm_epochs: int = 1
) -> tuple[float, list[float]]:
    """Mean time of a step of the whole cohort, and the time of each epoch it was taken from.

    Whole epochs are timed, with their shuffling and the evaluation of a few held-out rows. The first is left out
    (warm-up), and so is the last, which also copies weights and optimizer state into the result.
    """
    from ctrlib.fast import train

    ends: list[float] = []
    train(settings, rows, device=device, on_epoch=lambda _: ends.append(time.perf_counter()), threads=threads)
    epochs = np.diff(ends)[warm_epochs - 1 : -1]
    steps = -(-len(rows.train) // settings.recipe.batch_size)
    return float(epochs.mean() / steps), [float(seconds) for seconds in epochs]
