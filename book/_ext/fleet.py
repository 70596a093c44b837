"""The paper's grid on the whole of Criteo and Avazu, on paper: how long many cards take, and what gives way first.

The runs are those that the profile ``paper`` plans, of the paper's four architectures. How long a step takes, and what
Dask costs, are in the newest records of :mod:`benchmarks`; early stopping is taken to come when it usually does.
Nothing is trained, timed or read of a log.
"""

import heapq
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ctrlib.config import Run
from ctrlib.data.published import PUBLISHED
from ctrlib.run.estimate import FORWARD_SHARE, usual_epochs
from ctrlib.run.plan import plan, planned
from ctrlib.store.progress import humanize
from ctrlib.store.record import builds_on
from ctrlib.store.runs import CHECKPOINT_S
from ctrlib.study.notebook import benchmark_reports

PAGES = ["02", "03", "06", "32"]  # the notebooks that ask what the paper asked
LOGS = {"Criteo": "criteo_x4", "Avazu": "avazu_x4"}
CARDS = (1, 8, 64)
SHARED_FOLDER = 1e9  # bytes a second: a little less than a network of 10 Gbit/s carries
FLOAT = 4  # bytes


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


class OnPaper(NamedTuple):
    """The grid on one log: by run its seconds, and the bytes it writes in all; the bytes of them that stay."""

    runs: list[Run]
    seconds: dict[str, float]
    written: float
    kept: float

    def takes(self, cards: int) -> float:
        """Seconds on so many cards."""
        return makespan(self.runs, self.seconds, cards)

    @property
    def chain(self) -> float:
        """Seconds of the longest chain of runs that build on each other."""
        return self.takes(len(self.runs))

    @property
    def alone(self) -> float:
        """Seconds of all runs one after the other."""
        return sum(self.seconds.values())


@cache
def grid(root: Path) -> list[Run]:
    """The distinct runs of the paper's grid. Which rows they would read changes nothing in it, so it needs none."""
    runs = {}
    for job in plan(root, "paper", PAGES, {"dataset": "synthetic", "companions": []}):
        runs |= {run.fingerprint: run for run in planned(job)[0]}
    return list(runs.values())


@cache
def on_paper(root: Path, log: str) -> OnPaper:
    """The grid on a log, from the measured time of a step and the rows of its published division."""
    measured = benchmark_reports(gpu=True)["gpu"]
    from benchmarks import report, sizes  # found from here on

    rows, fields = PUBLISHED[LOGS[log]].rows, len(PUBLISHED[LOGS[log]].fields)
    step = report.card_step_seconds(measured, fields)
    parameters = {name: sizes.cost(name, fields, sizes.GPU_CODES).parameters for name in step}
    seconds, written, kept = {}, 0.0, 0.0
    for run in grid(root):
        held_out = FORWARD_SHARE * rows["valid"]
        steps = (usual_epochs(run) * (rows["train"] + held_out) + held_out) / run.recipe.batch_size
        takes = steps * sum(step[member.architecture] for member in run.members)
        weights = FLOAT * sum(parameters[member.architecture] for member in run.members)
        record = weights + FLOAT * len(run.members) * (rows["valid"] + rows["test"])
        state = weights * (4 if run.recipe.patience else 3)  # Adam has two moments; early stopping keeps the best epoch
        seconds[run.fingerprint] = takes
        written += record + takes // CHECKPOINT_S * state
        kept += record
    return OnPaper(grid(root), seconds, written, kept)


def fleet_rows(root: Path) -> list[list[str]]:
    """How long the grid takes on 1, 8 and 64 cards and on one for each run, and how busy they are; on either log."""
    rows = []
    for cards in (*CARDS, len(grid(root))):
        row = [f"{cards:,}"]
        for log in LOGS:
            made = on_paper(root, log)
            takes = made.takes(cards)
            row += [humanize(takes), f"{made.alone / (cards * takes):.0%}"]
        rows.append(row)
    return rows


@cache
def overhead() -> float:
    """Seconds of a run beside its training by Dask, the most that was measured with any number of workers."""
    workers = benchmark_reports()["workers"].ratios
    return workers[workers["what"].str.match("Dask, .*overhead")]["value"].max() / 1000


def limits(root: Path, log: str) -> dict[str, tuple[float, str]]:
    """How many cards each part can serve, and what that is taken from; what gives way first comes first."""
    made = on_paper(root, log)
    found = {
        "the longest chain of runs": (made.alone / made.chain, humanize(made.chain)),
        "the shared folder": (
            SHARED_FOLDER * made.alone / made.written,
            f"{made.written / made.alone / 1e6:.0f} MB a second from each card",
        ),
        "the scheduler": (
            made.alone / len(made.runs) / overhead(),
            f"{1000 * overhead():.0f} ms a run of {made.alone / len(made.runs):.0f} s",
        ),
    }
    return dict(sorted(found.items(), key=lambda part: part[1][0]))


def limit_rows(root: Path) -> list[list[str]]:
    """The parts in the order in which they give way on the first log, and the disk that the records take."""
    found = {log: limits(root, log) for log in LOGS}
    rows = [
        [name, *(f"{found[log][name][0]:,.0f} cards ({found[log][name][1]})" for log in LOGS)]
        for name in next(iter(found.values()))
    ]
    return [*rows, ["disk for the records", *(f"{on_paper(root, log).kept / 1e9:,.0f} GB" for log in LOGS)]]
