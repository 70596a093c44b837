"""How long will it take here? A few training steps of each kind are timed, and multiplied by what the plan asks for.

Steps are timed on made-up rows of the right shape, so nothing has to be loaded. A training that ends by itself (own
end) takes fewer epochs than it may; how many is taken from the records of such trainings in the store.
"""

import heapq
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from ctrlib.config import Coupling, Data, Member, Recipe, Run
from ctrlib.coupling import solo
from ctrlib.errors import UserError
from ctrlib.fast import install
from ctrlib.fast.machine import training_arithmetic
from ctrlib.store.record import builds_on
from ctrlib.store.runs import RunStore
from ctrlib.study.arms import data_shape
from ctrlib.training.dataset import Dataset, Split
from ctrlib.training.loop import make_group, resolve_device
from ctrlib.training.step import train_step

WARM_UP, TIMED = 2, 5
FORWARD_SHARE = 0.35  # of a training step that an evaluation of as many rows takes: no way back, no update
RUN_S = 0.1  # looking up, writing and fingerprinting a run
NOTEBOOK_S = 8.0  # kernel start, imports, tables and figures of a notebook
CHAINED = 1.1  # a plan that takes less than this times its longest chain gains next to nothing from more devices
OWN_END_SHARE = 0.6  # of its longest length, for own-end trainings while the store holds none


@dataclass(frozen=True)
class Kind:
    """What the time of a step depends on."""

    member: Member
    batch_size: int
    precision: str
    field_dims: tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """Seconds that trainings take on one core, probably and at most."""

    likely: float
    most: float

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.likely + other.likely, self.most + other.most)


class Clock:
    """Times the steps of each kind once."""

    def __init__(self, store: RunStore, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.share = own_end_share(store)
        self._seconds: dict[str, float] = {}

    def estimate(self, run: Run) -> Estimate:
        """Seconds of one run on one core (or on the GPU)."""
        rows, valid, test, dims = data_shape(run.data)
        batch = run.recipe.batch_size
        seconds = 0.0
        for one in run.members:
            plain = one.model_copy(update={"init_seed": 0, "order_seed": 0})
            seconds += self._step(Kind(plain, batch, run.recipe.precision, dims))
        epoch = seconds * (rows + FORWARD_SHARE * valid) / batch
        once = RUN_S + seconds * FORWARD_SHARE * (valid + test) / batch
        longest = epoch * run.recipe.epochs
        return Estimate(once + longest * (self.share if run.recipe.patience else 1.0), once + longest)

    def _step(self, kind: Kind) -> float:
        if (key := repr(kind)) not in self._seconds:
            self._seconds[key] = time_steps(kind, self.device)
        return self._seconds[key]


def own_end_share(store: RunStore) -> float:
    """Epochs that finished own-end trainings took over those they might have, mean over the store."""
    shares = []
    for name in store.fingerprints():
        with suppress(UserError):  # what cannot be read does not count
            record = store.open(name)
            if record.run.recipe.patience:
                shares.append(max(row["epoch"] for row in record.history) / record.run.recipe.epochs)
    return float(np.mean(shares)) if shares else OWN_END_SHARE


def time_steps(kind: Kind, device: torch.device) -> float:
    """Median seconds of a training step of one model, after a warm-up, with one thread."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, dim, kind.batch_size) for dim in kind.field_dims], axis=1).astype(np.int32)
    split = Split(ids, rng.integers(0, 2, kind.batch_size).astype(np.uint8))
    names = tuple(f"f{n}" for n in range(len(kind.field_dims)))
    dataset = Dataset("timing", 0, names, kind.field_dims, split, split, split, fingerprint="timing")
    run = Run(
        data=Data(name="timing", fingerprint="timing"),
        members=(kind.member,),
        coupling=Coupling(weights=solo(1)),
        recipe=Recipe(batch_size=kind.batch_size, precision=kind.precision),
    )
    install()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with training_arithmetic(kind.precision, device):
            group = make_group(run, [0], dataset, None, device)
            codes = torch.from_numpy(ids).long().to(device)
            labels = torch.from_numpy(split.labels).float().to(device)
            seconds = []
            for _ in range(WARM_UP + TIMED):
                began = time.perf_counter()
                train_step(group, codes, labels, False)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return median(seconds[WARM_UP:])


@dataclass(frozen=True)
class Part:
    """What one notebook adds to a plan: its runs, those that are trained already, the time of the rest.

    Runs that an earlier notebook of the plan trains count there, as ``shared`` here.
    """

    name: str
    runs: int
    trained: int
    shared: int
    time: Estimate


def plan_parts(wanted: dict[str, list[Run]], store: RunStore, clock: Clock, cores: int) -> list[Part]:
    """The parts of a plan in order, and a last one, ``all``, that counts every distinct run once.

    Args:
        wanted: the runs of each notebook, in order.
        store: what is there already.
        clock: times the rest on the device that trains it.
        cores: how many runs are trained side by side; 1 on a GPU.
    """
    seen: set[str] = set()
    there: set[str] = set()
    parts = []
    for name, runs in wanted.items():
        new = [run for run in runs if run.fingerprint not in seen]
        seen |= {run.fingerprint for run in new}
        missing = [run for run in new if store.find(run) is None]
        there |= {run.fingerprint for run in new} - {run.fingerprint for run in missing}
        trained = sum(run.fingerprint in there for run in runs)
        time_needed = Estimate(NOTEBOOK_S, NOTEBOOK_S)
        for run in missing:
            one = clock.estimate(run)
            time_needed = time_needed + Estimate(one.likely / cores, one.most / cores)
        parts.append(Part(name, len(runs), trained, len(runs) - trained - len(missing), time_needed))
    together = Estimate(0.0, 0.0)
    for part in parts:
        together = together + part.time
    return [*parts, Part("all", len(seen), len(there), 0, together)]


def side_by_side(runs: list[Run], seconds: dict[str, float], devices: int) -> float:
    """Seconds until ``devices`` equal devices have trained all runs, one on each at a time.

    As :func:`ctrlib.store.executors.work_off` does it: the first run that waits for no other goes to the first free
    device.
    ``seconds`` has the time of each run by fingerprint.
    """
    after = {run.fingerprint: {one.run for one in builds_on(run)} & seconds.keys() for run in runs}
    waiting, undone = list(after), set(after)
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        for name in [name for name in waiting if not after[name] & undone][: devices - len(running)]:
            waiting.remove(name)
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        undone.discard(name)
    return now


def fleet_lines(runs: list[Run], seconds: dict[str, float], fleets: Sequence[int] = (8, 64)) -> list[str]:
    """For each number of devices a line: how long the runs take, how busy the devices are, and what holds them up."""
    chain = side_by_side(runs, seconds, len(runs))
    lines = []
    for devices in fleets:
        takes = side_by_side(runs, seconds, devices)
        busy = sum(seconds.values()) / (devices * takes)
        chained = takes < CHAINED * chain
        limit = "the longest chain of runs that build on each other" if chained else "the number of devices"
        lines.append(f"{devices} such devices: about {spoken_time(takes)}, {busy:.0%} busy; the limit is {limit}")
    return lines


def spoken_time(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
