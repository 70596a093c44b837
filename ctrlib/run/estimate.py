"""How long a plan takes on this machine: a few training steps of each kind are timed and multiplied.

Steps are timed on random rows of the right shape, so no data set is loaded. How many epochs early stopping takes is
looked up in the records of such trainings, in the store and among the published ones.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from ctrlib.config import Coupling, Data, Member, Recipe, Run, solo
from ctrlib.errors import UserError
from ctrlib.fast import install
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import data_shape
from ctrlib.training.dataset import Dataset, Split

WARM_UP, TIMED = 2, 5
FORWARD_SHARE = 0.35  # of a training step that an evaluation of as many rows takes: no way back, no update
RUN_S = 0.1  # looking up, writing and fingerprinting a run
NOTEBOOK_S = 5.0  # of a notebook beside others: kernel start, tables and figures
# Epochs of early stopping where no record is alike. Seen: single models from scratch 8 to 11 on criteo_100k, 18 to 21
# on ml1m and synthetic clicks, 27 to 35 on Frappe, coupled up to 1.9 times as many; continued 3 or 4, coupled 3 to 7 at
# weight 1; at weight 20, 4 to 9 at the learning rate, at a hundredth of it 16 on ml1m, 80 or more on synthetic clicks.
EPOCHS = {"from scratch": 20, "fine-tuning": 4, "fine-tuning, strongly coupled": 15}
COUPLED = 1.4  # times as many
STRONG = 10  # the total weight of the peers from which a coupling is strong


class Clock:
    """Says how long runs take on one device; the steps of each kind of model are timed once."""

    def __init__(self, store: RunStore, device: str = "auto") -> None:
        self.device = device
        self._store = store
        self._seconds: dict[str, float] = {}

    def seconds(self, run: Run) -> float:
        """Of one run on one core (or on the GPU)."""
        rows, valid, test, dims = data_shape(run.data)
        step = sum(self._step(member, run.recipe, dims) for member in run.members) * with_teachers(run)
        trained, evaluated = rows * self.epochs(run), valid * (self.epochs(run) + 1) + test
        return RUN_S + step * (trained + FORWARD_SHARE * evaluated) / run.recipe.batch_size

    def epochs(self, run: Run) -> float:
        """How many epochs a run takes: the mean over the trainings most alike, or else the usual number."""
        for kind in kinds(run) if run.recipe.patience else ():
            if kind in self._stopped:
                return min(fmean(self._stopped[kind]), run.recipe.epochs)
        return usual_epochs(run)

    @cached_property
    def _stopped(self) -> dict[tuple, list[int]]:
        """The epochs that trainings with early stopping took, by what they are alike in."""
        epochs: dict[tuple, list[int]] = {}
        for run, count in stopped_trainings(self._store):
            for kind in kinds(run):
                epochs.setdefault(kind, []).append(count)
        return epochs

    def _step(self, member: Member, recipe: Recipe, field_dims: tuple[int, ...]) -> float:
        kind = member.model_copy(update={"init_seed": 0, "order_seed": 0})
        names = ("batch_size", "precision", "rdrop", "gradient_penalty")
        recipe = Recipe(**{name: getattr(recipe, name) for name in names})  # what the time of a step depends on
        key = repr((kind, recipe, field_dims))
        if key not in self._seconds:
            self._seconds[key] = time_steps(kind, recipe, field_dims, self.device)
        return self._seconds[key]


def usual_epochs(run: Run) -> float:
    """How many epochs a training takes, one with early stopping by :data:`EPOCHS`."""
    if not run.recipe.patience:
        return run.recipe.epochs
    weight = 0.0 if run.teachers else max(sum(map(abs, row)) for row in run.coupling.weights)
    coupled = COUPLED if weight else 1
    usual = EPOCHS["fine-tuning, strongly coupled"] if weight >= STRONG else EPOCHS["fine-tuning"] * coupled
    return min(usual if run.start else EPOCHS["from scratch"] * coupled, run.recipe.epochs)


def with_teachers(run: Run) -> float:
    """How many times as long a step takes, for what the teachers of a run predict in it."""
    return 1 + FORWARD_SHARE * len(run.teachers or ())


def kinds(run: Run) -> list[tuple]:
    """What a training is alike in, from much to little; the rows of synthetic data are part of its name, and the rule
    of early stopping of its start."""
    start = (run.start is not None, run.recipe.cuts)
    data = (run.data.name, run.data.synthetic and run.data.synthetic.train_rows, *start)
    architectures = tuple(sorted({member.architecture for member in run.members}))
    weight = max((weight for row in run.coupling.weights for weight in row), key=abs)
    return [(*data, architectures, weight), (*data, architectures), data]


def stopped_trainings(store: RunStore) -> Iterator[tuple[Run, int]]:
    """Finished trainings with early stopping, in the store and published, and the epochs that they took."""
    published = store.results.runs if store.results else {}
    for name in [*published, *(name for name in store.fingerprints() if name not in published)]:
        with suppress(UserError):  # what cannot be read does not count
            content = published[name] if name in published else store.open(name).content
            if content["run"]["recipe"]["patience"]:
                yield Run.model_validate(content["run"]), max(row["epoch"] for row in content["history"])


def time_steps(member: Member, recipe: Recipe, field_dims: tuple[int, ...], device: str) -> float:
    """Median seconds of a training step of one model, after a warm-up, with one thread."""
    import torch  # here, so that a plan of what is all trained does without

    from ctrlib.fast.machine import training_arithmetic
    from ctrlib.training.loop import make_group, resolve_device
    from ctrlib.training.step import train_step

    place = resolve_device(device)
    rng, batch_size = np.random.default_rng(0), recipe.batch_size
    ids = np.stack([rng.integers(0, dim, batch_size) for dim in field_dims], axis=1).astype(np.int32)
    split = Split(ids, rng.integers(0, 2, batch_size).astype(np.uint8))
    names = tuple(f"f{n}" for n in range(len(field_dims)))
    dataset = Dataset("timing", 0, names, field_dims, split, split, split, fingerprint="timing")
    run = Run(
        data=Data(name="timing", fingerprint="timing"),
        members=(member,),
        coupling=Coupling(weights=solo(1)),
        recipe=recipe,
    )
    install()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with training_arithmetic(recipe.precision, place):
            group = make_group(run, [0], dataset, None, place)
            codes = torch.from_numpy(ids).long().to(place)
            labels = torch.from_numpy(split.labels).float().to(place)
            seconds = []
            for _ in range(WARM_UP + TIMED):
                began = time.perf_counter()
                train_step(group, codes, labels, False)
                if place.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return median(seconds[WARM_UP:])


class Part(NamedTuple):
    """One notebook of a plan: its runs, how many the store holds, and how many others it is the first to need."""

    name: str
    runs: int
    stored: int
    to_train: int
    seconds: float


def plan_parts(wanted: dict[str, list[Run]], held: set[str], clock: Clock, cores: int) -> list[Part]:
    """The parts of a plan in order, and a last one, ``all``, that counts every distinct run once.

    Args:
        wanted: the runs of each notebook, in order.
        held: fingerprints of what the store has.
        clock: estimates a run on the device that trains it.
        cores: how many runs are trained side by side; 1 on a GPU.
    """
    seen = set(held)
    parts = []
    for name, runs in wanted.items():
        new = [run for run in runs if run.fingerprint not in seen]
        seen.update(run.fingerprint for run in new)
        stored = sum(run.fingerprint in held for run in runs)
        seconds = NOTEBOOK_S + sum(map(clock.seconds, new)) / cores
        parts.append(Part(name, len(runs), stored, len(new), seconds))
    distinct = {run.fingerprint for runs in wanted.values() for run in runs}
    together = sum(part.to_train for part in parts), sum(part.seconds for part in parts)
    return [*parts, Part("all", len(distinct), len(distinct & held), *together)]
