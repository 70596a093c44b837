"""How long a plan takes on this machine: a few training steps of each kind are timed and multiplied.

Steps are timed on random rows of the right shape, so no data set is loaded. How many epochs early stopping takes is
looked up in the records of such trainings, in the store and among the published ones (:class:`StoppedEpochs`).
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from ctrlib.config import Coupling, Data, Member, Recipe, Run, solo
from ctrlib.data.files import parse_json, read_plain
from ctrlib.fast import install
from ctrlib.store.progress import humanize
from ctrlib.store.record import builds_on
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import data_shape
from ctrlib.training.dataset import Dataset, Split

WARM_UP, TIMED = 2, 5
FORWARD_SHARE = 0.35  # of a training step that an evaluation of as many rows takes: no way back, no update
RUN_S = 0.1  # looking up, writing and fingerprinting a run
NOTEBOOK_S = 5.0  # of a notebook beside others: kernel start, tables and figures
CHAINED = 1.1  # a plan that takes less than this times its longest chain gains next to nothing from more devices
# Epochs of early stopping where no record is alike. Seen: single models from scratch 8 to 11 on criteo_100k, 18 to 21
# on ml1m and synthetic clicks, 27 to 35 on Frappe, coupled up to 1.9 times as many; continued 3 or 4, coupled 3 to 7 at
# weight 1; at weight 20, 4 to 9 at the learning rate, at a hundredth of it 16 on ml1m, 80 or more on synthetic clicks.
EPOCHS = {"from scratch": 20, "fine-tuning": 4, "fine-tuning, strongly coupled": 15}
COUPLED = 1.4  # times as many
STRONG = 10  # the total weight of the peers from which a coupling is strong


@dataclass(frozen=True)
class Estimate:
    """Seconds that trainings take, probably and at most."""

    likely: float
    most: float

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.likely + other.likely, self.most + other.most)


class Clock:
    """Estimates runs on one device; the steps of each kind of model are timed once."""

    def __init__(self, store: RunStore, device: str = "auto") -> None:
        self.device = device
        self.epochs = StoppedEpochs(store)
        self._seconds: dict[str, float] = {}

    def estimate(self, run: Run) -> Estimate:
        """Seconds of one run on one core (or on the GPU)."""
        rows, valid, test, dims = data_shape(run.data)
        batch = run.recipe.batch_size
        seconds = sum(self._step(member, run.recipe, dims) for member in run.members) * with_teachers(run)
        epoch = seconds * (rows + FORWARD_SHARE * valid) / batch
        once = RUN_S + seconds * FORWARD_SHARE * (valid + test) / batch
        return Estimate(once + epoch * self.epochs.likely(run), once + epoch * run.recipe.epochs)

    def _step(self, member: Member, recipe: Recipe, field_dims: tuple[int, ...]) -> float:
        kind = member.model_copy(update={"init_seed": 0, "order_seed": 0})
        names = ("batch_size", "precision", "rdrop", "gradient_penalty")
        recipe = Recipe(**{name: getattr(recipe, name) for name in names})  # what the time of a step depends on
        key = repr((kind, recipe, field_dims))
        if key not in self._seconds:
            self._seconds[key] = time_steps(kind, recipe, field_dims, self.device)
        return self._seconds[key]


class StoppedEpochs:
    """How many epochs trainings with early stopping took, from the records of a store and those published with it."""

    def __init__(self, store: RunStore) -> None:
        self.found: dict[str, str] = {}  # fingerprint of what was asked for -> where its number is from
        self._store = store

    @cached_property
    def _epochs(self) -> dict[tuple, list[int]]:
        epochs: dict[tuple, list[int]] = {}
        for run, count in stopped_trainings(self._store):
            for kind in kinds(run).values():
                epochs.setdefault(kind, []).append(count)
        return epochs

    def likely(self, run: Run) -> float:
        """The mean over the trainings most alike, or, where there are none, :data:`EPOCHS`; at most the cap."""
        if not run.recipe.patience:
            return run.recipe.epochs
        for name, kind in kinds(run).items():
            if kind in self._epochs:
                self.found[run.fingerprint] = f"records of the same {name}"
                return min(float(np.mean(self._epochs[kind])), run.recipe.epochs)
        self.found[run.fingerprint] = "nothing alike, the usual number taken"
        return usual_epochs(run)

    def sources(self) -> str:
        """In words, from what the epochs of how many trainings were taken."""
        counts = Counter(self.found.values()).items()
        return "; ".join(f"{count:,} from {source}" for source, count in counts)


def usual_epochs(run: Run, scratch: float = EPOCHS["from scratch"]) -> float:
    """How many epochs a training takes, one with early stopping by :data:`EPOCHS`; ``scratch``: one model alone."""
    if not run.recipe.patience:
        return run.recipe.epochs
    weight = 0.0 if run.teachers else max(sum(map(abs, row)) for row in run.coupling.weights)
    coupled = COUPLED if weight else 1
    usual = EPOCHS["fine-tuning, strongly coupled"] if weight >= STRONG else EPOCHS["fine-tuning"] * coupled
    return min(usual if run.start else scratch * coupled, run.recipe.epochs)


def with_teachers(run: Run) -> float:
    """How many times as long a step takes, for what the teachers of a run predict in it."""
    return 1 + FORWARD_SHARE * len(run.teachers or ())


def kinds(run: Run) -> dict[str, tuple]:
    """What a training is alike in, from much to little; the rows of synthetic data are part of its name, and the rule
    of early stopping of its start."""
    start = (run.start is not None, run.recipe.cuts)
    data = (run.data.name, run.data.synthetic and run.data.synthetic.train_rows, *start)
    architectures = tuple(sorted({member.architecture for member in run.members}))
    weight = max((weight for row in run.coupling.weights for weight in row), key=abs)
    return {
        "data, start, architecture and weight": (*data, architectures, weight),
        "data, start and architecture": (*data, architectures),
        "data and start": data,
    }


def stopped_trainings(store: RunStore) -> Iterator[tuple[Run, int]]:
    """Finished trainings with early stopping and the epochs that they took. Records are read without checking them: it
    is for an estimate, and there may be many."""
    published = store.results.runs if store.results else {}
    for name in [*published, *(name for name in store.fingerprints() if name not in published)]:
        with suppress(OSError, ValueError, KeyError, TypeError):  # what cannot be read does not count
            content = published[name] if name in published else parse_json(read_plain(store.root / name / "run.json"))
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


@dataclass(frozen=True)
class Part:
    """One notebook of a plan: how many runs it has, how many the store holds, and the time of the rest.

    ``shared`` are runs that an earlier notebook of the plan trains; their time counts there.
    """

    name: str
    runs: int
    trained: int
    shared: int
    time: Estimate


def plan_parts(wanted: dict[str, list[Run]], held: set[str], clock: Clock, cores: int) -> list[Part]:
    """The parts of a plan in order, and a last one, ``all``, that counts every distinct run once.

    Args:
        wanted: the runs of each notebook, in order.
        held: fingerprints of what the store has.
        clock: estimates a run on the device that trains it.
        cores: how many runs are trained side by side; 1 on a GPU.
    """
    seen: set[str] = set()
    parts = []
    for name, runs in wanted.items():
        missing = [clock.estimate(run) for run in runs if run.fingerprint not in held and run.fingerprint not in seen]
        seen.update(run.fingerprint for run in runs)
        trained = sum(run.fingerprint in held for run in runs)
        likely, most = sum(one.likely for one in missing), sum(one.most for one in missing)
        needed = Estimate(NOTEBOOK_S + likely / cores, NOTEBOOK_S + most / cores)
        parts.append(Part(name, len(runs), trained, len(runs) - trained - len(missing), needed))
    together = sum((part.time for part in parts), Estimate(0.0, 0.0))
    return [*parts, Part("all", len(seen), len(seen & held), 0, together)]


def makespan(runs: list[Run], seconds: dict[str, float], devices: int) -> float:
    """Seconds until ``devices`` equal devices have trained all runs, one run on each at a time.

    The first run that waits for no other goes to the first free device, as in
    :func:`ctrlib.store.executors.run_tasks`. ``seconds`` has the time of each run by fingerprint.
    """
    order = [run.fingerprint for run in runs]
    after = [{one.run for one in builds_on(run)} & seconds.keys() for run in runs]
    followers: dict[str, list[int]] = {name: [] for name in order}
    for place, names in enumerate(after):
        for name in names:
            followers[name].append(place)
    ready = [place for place, names in enumerate(after) if not names]
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < devices:
            name = order[heapq.heappop(ready)]
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        for place in followers[name]:
            after[place].discard(name)
            if not after[place]:
                heapq.heappush(ready, place)
    return now


def fleet_lines(runs: list[Run], seconds: dict[str, float], fleets: Sequence[int] = (8, 64)) -> list[str]:
    """For each number of devices a line: how long the runs take, how busy the devices are, what limits them."""
    chain = makespan(runs, seconds, len(runs))
    lines = []
    for devices in fleets:
        takes = makespan(runs, seconds, devices)
        busy = sum(seconds.values()) / (devices * takes)
        chained = takes < CHAINED * chain
        limit = "the longest chain of runs that build on each other" if chained else "the number of devices"
        lines.append(f"{devices} such devices: about {humanize(takes)}, {busy:.0%} busy; the limit is {limit}")
    return lines
