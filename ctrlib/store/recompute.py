"""Do the published numbers come out again? A few recorded runs are trained anew, and their test AUC compared.

Only runs that begin from nothing are chosen, among the cheaper half of them, so that a check takes minutes.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
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
) -> Iterator[tuple[str, bool]]:
    """Train ``count`` recorded runs again, drawn by ``seed``, each in a store of its own, one after the other.

    Yields for each a line, and whether it matches: bit for bit where both were trained with the same arithmetic, within
    :data:`TOLERANCE` elsewhere.
    """
    chosen = candidates(contents)
    for run in random.Random(seed).sample(chosen, min(count, len(chosen))):
        before = contents[run.fingerprint]
        device, threads = before["environment"]["device"], before["environment"]["threads"]
        if before["environment"]["instructions"] == "AVX2":  # counts if this process has multiplied nothing yet
            os.environ.setdefault(INSTRUCTIONS, "AVX2")
        with tempfile.TemporaryDirectory() as folder:
            now = RunStore(Path(folder)).train(run, "cpu" if device == "cpu" else "auto", threads, tell).content
        same = all(before["environment"].get(name) == now["environment"].get(name) for name in SAME)
        difference = max(abs(a["auc"] - b["auc"]) for a, b in zip(before["test"], now["test"], strict=True))
        matches = difference == 0 if same else difference <= TOLERANCE
        kind = "same kind of machine" if same else f"other machine, tolerance {TOLERANCE:g}"
        found = f"largest difference of an AUC {difference:.2g}" if difference else "bit for bit"
        yield f"{run.fingerprint} {label(run)}: {found} ({kind}){'' if matches else ' DOES NOT MATCH'}", matches
