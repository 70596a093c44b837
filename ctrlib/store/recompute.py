"""Do the published numbers come out again? A few recorded runs are trained anew, and their test AUC compared.

Only runs that begin from nothing are chosen, among the cheaper half of them, so that a check takes minutes.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ctrlib.config import NUMERICS_VERSION, Run
from ctrlib.data.load import load_data
from ctrlib.errors import UserError
from ctrlib.store.environment import INSTRUCTIONS
from ctrlib.store.progress import label
from ctrlib.store.record import builds_on
from ctrlib.store.runs import RunStore

TOLERANCE = 3e-3
"""AUC by which members may differ where the arithmetic is another: training makes a new seed of a rounding."""

SAME = ("torch", "numpy", "processor", "instructions", "device", "products", "threads")
"""What of a record's environment has to agree for the same bits."""


@dataclass(frozen=True)
class Recomputed:
    """A recorded run beside the same run trained now.

    Attributes:
        run: its settings.
        recorded, now: test AUC of each member.
        same_machine: whether both were trained with the same arithmetic, so that they have to agree bit for bit.
    """

    run: Run
    recorded: list[float]
    now: list[float]
    same_machine: bool

    @property
    def difference(self) -> float:
        """Largest difference of a member's AUC."""
        return max(abs(a - b) for a, b in zip(self.recorded, self.now, strict=True))

    @property
    def matches(self) -> bool:
        """Exactly on the same kind of machine, within :data:`TOLERANCE` elsewhere."""
        return self.difference == 0 if self.same_machine else self.difference <= TOLERANCE

    def __str__(self) -> str:
        kind = "same kind of machine" if self.same_machine else f"other machine, tolerance {TOLERANCE:g}"
        found = "bit for bit" if self.difference == 0 else f"largest difference of an AUC {self.difference:.2g}"
        return f"{self.run.fingerprint} {label(self.run)}: {found} ({kind}){'' if self.matches else ' DOES NOT MATCH'}"


def candidates(contents: dict[str, dict]) -> list[Run]:
    """Recorded runs that can be trained by themselves, the cheaper half of them, by fingerprint.

    Args:
        contents: run.json by fingerprint, as in :class:`ctrlib.store.published.Results`.
    """
    runs, seconds = {}, {}
    for name, content in contents.items():
        if content["numerics"] != NUMERICS_VERSION:
            continue
        run = Run.model_validate(content["run"])
        with suppress(UserError):  # its data are not at hand
            if not builds_on(run) and (run.data.synthetic or load_data(run.data)):
                runs[name], seconds[name] = run, content["seconds"]
    if not runs:
        raise UserError("no recorded run begins from nothing on data that are at hand; nothing can be computed again")
    middle = median(seconds.values())
    return [run for name, run in sorted(runs.items()) if seconds[name] <= middle]


def recompute(
    contents: dict[str, dict], count: int, seed: int, tell: Callable[[str], None] | None = None
) -> Iterator[Recomputed]:
    """Train ``count`` recorded runs again, drawn by ``seed``, each in a store of its own, one after the other."""
    chosen = candidates(contents)
    for run in random.Random(seed).sample(chosen, min(count, len(chosen))):
        before = contents[run.fingerprint]
        device = before["environment"]["device"]
        if before["environment"]["instructions"] == "AVX2":  # counts if this process has multiplied nothing yet
            os.environ.setdefault(INSTRUCTIONS, "AVX2")
        with tempfile.TemporaryDirectory() as folder:
            record = RunStore(Path(folder)).train(
                run, "cpu" if device == "cpu" else "auto", before["environment"]["threads"], tell
            )
        environments = before["environment"], record.content["environment"]
        same = all(environments[0].get(name) == environments[1].get(name) for name in SAME)
        aucs = [[test["auc"] for test in content["test"]] for content in (before, record.content)]
        yield Recomputed(run, *aucs, same)
