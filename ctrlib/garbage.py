"""What a run store holds that no study will ask for again."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ctrlib.config import NUMERICS_VERSION
from ctrlib.errors import UserError
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


def find_garbage(store: RunStore, unfinished: bool = False) -> list[Garbage]:
    """Half-written and damaged records, records of another arithmetic, left-over states of trainings.

    The state of a training that was interrupted is kept for the training to go on, unless ``unfinished`` asks for it.
    What a living process holds the lock of is never named.
    """
    if not store.root.is_dir():
        return []
    found = []
    for folder in sorted(
        path for path in store.root.iterdir() if path.is_dir() and path.name not in (".locks", ".measures")
    ):
        kind, _, rest = folder.name.rpartition("-")
        reason = _reason(store, folder, kind, rest or folder.name, unfinished)
        if reason and not _in_use(store, rest or folder.name):
            found.append(Garbage(folder, reason))
    return found


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


def _in_use(store: RunStore, name: str) -> bool:
    """Whether a living process holds the lock of a run."""
    path = store.root / ".locks" / f"{name}.lock"
    if not path.exists():
        return False
    try:
        FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False


def remove(garbage: list[Garbage]) -> None:
    """Delete the folders; :class:`UserError` names the first that cannot be."""
    for one in garbage:
        try:
            shutil.rmtree(one.folder)
        except OSError as error:
            raise UserError(f"{one.folder}: cannot be removed ({error.strerror or error})") from None
