"""What a run store holds that no study will ask for again."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctrlib.config import NUMERICS_VERSION
from ctrlib.errors import UserError
from ctrlib.locks import stale_s
from ctrlib.progress import print_line
from ctrlib.runs import RunStore


@dataclass(frozen=True)
class Garbage:
    """A folder that can go: ``reason`` says why."""

    folder: Path
    reason: str

    @property
    def size(self) -> int:
        """Bytes that its files take."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def find_garbage(
    store: RunStore, unfinished: bool = False, notice: Callable[[str], None] = print_line
) -> list[Garbage]:
    """Half-written and damaged records, records of another arithmetic, left-over states of trainings.

    The state of a training that was interrupted is kept for the training to go on, unless ``unfinished`` asks for it.
    What a living process holds the lock of is never named. Whether one on another machine lives takes a minute to find
    out; ``notice`` gets a line then.
    """
    if not store.root.is_dir():
        return []
    found: dict[str, list[Garbage]] = {}
    for folder in sorted(
        path for path in store.root.iterdir() if path.is_dir() and path.name not in (".locks", ".measures")
    ):
        kind, _, rest = folder.name.rpartition("-")
        if reason := _reason(store, folder, kind, rest or folder.name, unfinished):
            found.setdefault(rest or folder.name, []).append(Garbage(folder, reason))
    in_use = {name: _in_use(store, name) for name in found}
    if doubtful := [name for name, state in in_use.items() if state is None]:
        notice(f"other machines may be training {len(doubtful)} of these runs: looking for {stale_s():.0f} s")
        time.sleep(stale_s())
        in_use |= {name: _in_use(store, name) for name in doubtful}
    return [one for name, group in found.items() if in_use[name] is False for one in group]


def _reason(store: RunStore, folder: Path, kind: str, name: str, unfinished: bool) -> str | None:
    """Why a folder of the store can go, or None."""
    if kind == ".writing":
        return "half-written record of a process that is gone"
    if kind == ".training":
        if (store.root / name).is_dir():
            return "state of a training that is finished"
        return "state of an interrupted training" if unfinished else None
    if kind:
        return None  # nothing of ours
    try:
        record = store.verify(name)
    except UserError as problem:
        return f"damaged: {problem}"
    if record.content["numerics"] != NUMERICS_VERSION:
        return f"made by arithmetic version {record.content['numerics']}, this is {NUMERICS_VERSION}"
    return None


def _in_use(store: RunStore, name: str) -> bool | None:
    """Whether a living process holds the lock of a run; None where only time will tell."""
    locks = store.root / ".locks"
    if not (locks / f"{name}.lock").exists() and not (locks / f"{name}.owner").exists():
        return False
    return store.lock(name).is_held()


def remove(garbage: list[Garbage]) -> None:
    """Delete the folders; :class:`UserError` names the first that cannot be."""
    for one in garbage:
        try:
            shutil.rmtree(one.folder)
        except OSError as error:
            raise UserError(f"{one.folder}: cannot be removed ({error.strerror or error})") from None
