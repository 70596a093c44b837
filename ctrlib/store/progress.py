"""What is said of runs while they train: names in a few words, signs of life, how far it is."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ctrlib.config import Run

if TYPE_CHECKING:
    from ctrlib.store.record import Record

SILENCE_S, FIRST_S = 10.0, 2.0  # after which a batch of runs gives a sign of life, and its first one


def humanize(seconds: float) -> str:
    """A duration in the largest unit of which there are two or more."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


print_line = partial(print, flush=True)  # so that a line is seen at once, in a notebook that runs elsewhere too


class Progress:
    """Lines that say how far a batch of runs is: one per run that ended, and a sign of life every few seconds."""

    def __init__(self, total: int, show: Callable[[str], None] = print_line) -> None:
        self.total, self.done, self.began, self.last = total, 0, time.monotonic(), time.monotonic()
        self._show, self._silence = show, min(FIRST_S, SILENCE_S)

    def finished(self, record: "Record") -> None:
        """Count a finished run and show it with the time that is left."""
        self.done += 1
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        aucs = " ".join(f"{test['auc']:.4f}" for test in record.content["test"][:4])
        to_go = f", about {left:.0f} s to go" if self.done < self.total else ""
        self._print(f"[{self.done}/{self.total}] {label(record.run)}: AUC {aucs}, {record.seconds:.1f} s{to_go}")

    def failed(self, run: Run, error: Exception) -> None:
        """Count a run that failed and show why."""
        self.done += 1
        self._print(f"[{self.done}/{self.total}] {label(run)}: failed: {str(error) or type(error).__name__}")

    def beat(self, text: str) -> None:
        """Show ``text`` if nothing was shown for a while."""
        if time.monotonic() - self.last > self._silence:
            self._print(f"[{self.done}/{self.total}] ... {text}")

    def _print(self, text: str) -> None:
        self.last, self._silence = time.monotonic(), SILENCE_S
        self._show(text)


def label(run: Run) -> str:
    """A run in a few words: its members, how they are coupled, where they start."""
    names = [member.architecture for member in run.members]
    cohort = " + ".join(
        f"{names.count(name)} {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    kind = "alone" if run.coupling.is_solo else f"mutual {run.coupling.form} {run.coupling.target}"
    start = "from scratch" if run.start is None else "from checkpoints"
    return f"{cohort} {kind} {start}, draw {run.data.draw}"


def epoch_line(run: Run, rows: list[dict]) -> str:
    """The sign of life of a run in training."""
    auc = np.mean([row["valid_auc"] for row in rows])
    return f"{label(run)}: epoch {rows[0]['epoch']} of at most {run.recipe.epochs}, validation AUC {auc:.4f}"


def progress_line(run: Run, epoch: int, share: float) -> str:
    """The sign of life within an epoch."""
    return f"{label(run)}: epoch {epoch} of at most {run.recipe.epochs}, {share:.0%} of its steps"
