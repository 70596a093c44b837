"""What a run store holds that no study will ask for again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ctrlib.config import NUMERICS_VERSION
from ctrlib.data import files
from ctrlib.errors import UserError
from ctrlib.store.locks import stale_s
from ctrlib.store.progress import print_line
from ctrlib.store.record import Damaged, storage_error
from ctrlib.store.runs import RunStore


@dataclass(frozen=True)
class Garbage:
    """A folder that can go: ``reason`` says why."""

    folder: Path
    reason: str

    @property
    def size(self) -> int:
        """Bytes that its files take."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())


def find_garbage(
    store: RunStore, unfinished: bool = False, notice: Callable[[str], None] = print_line
) -> list[Garbage]:
    """Half-written and damaged records, records of another arithmetic, left-over states of trainings.

    The state of a training that was interrupted is kept for the training to go on, unless ``unfinished`` asks for it.
    What a living process holds the lock of is never named, nor is what is not of this ctrlib's making. Whether one on
    another machine lives takes a minute to find out; ``notice`` gets a line then.
    """
    records = set(store.fingerprints())  # says in one line why a folder cannot be read
    found: dict[str, list[Garbage]] = {}
    for folder in sorted(store.root.iterdir()) if store.root.exists() else []:
        kind, _, name = folder.name.rpartition("-")
        reason = _reason(store, folder, kind, name, unfinished) if kind or name in records else None
        if reason:
            found.setdefault(name, []).append(Garbage(folder, reason))
    in_use = {name: _in_use(store, name) for name in found}
    if doubtful := [name for name, state in in_use.items() if state is None]:
        notice(f"other machines may be training {len(doubtful)} of these runs: looking for {stale_s():.0f} s")
        time.sleep(stale_s())
        in_use |= {name: _in_use(store, name) for name in doubtful}
    return [one for name, group in found.items() if in_use[name] is False for one in group]


def unfinished_trainings(store: RunStore) -> dict[str, str]:
    """Runs whose training was interrupted or goes on, with what is wrong with the state it was put away in, or ""."""
    found = {}
    for folder in sorted(store.root.glob(".training-*")):
        name = folder.name.removeprefix(".training-")
        found[name] = _state_problem(folder) and _state_problem(folder)  # a living process may just have replaced it
    return found


def _state_problem(folder: Path) -> str:
    """What is wrong with the state in a folder, or "" for nothing."""
    from ctrlib.store.checkpoints import read_state

    try:
        read_state(folder)
    except ValueError as problem:
        return f"{folder}: {problem}"
    return ""


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
    except Damaged as problem:
        return f"damaged: {problem}"
    except UserError:
        return None  # of another ctrlib, or not ours to read: `ctrlib runs verify` says so
    if record.content["numerics"] != NUMERICS_VERSION:
        return f"made by arithmetic version {record.content['numerics']}, this is {NUMERICS_VERSION}"
    return None


def _in_use(store: RunStore, name: str) -> bool | None:
    """Whether a living process holds the lock of a run; None where only time will tell."""
    try:
        return store.lock(name).is_held()
    except OSError as error:
        raise storage_error(error, store.root) from None


def remove(store: RunStore, garbage: Iterable[Garbage], unfinished: bool = False) -> list[Garbage]:
    """Delete the folders that are garbage still, each under the lock of its run; those that were deleted.

    Meanwhile a run may have been trained again, or be in training: what the folder holds then is left alone.

    Raises:
        UserError: names the first folder that cannot be removed.
    """
    gone = []
    for one in garbage:
        kind, _, name = one.folder.name.rpartition("-")
        try:
            (store.root / ".locks").mkdir(exist_ok=True)
            if not (lock := store.lock(name)).acquire():
                continue
            with lock:
                if _reason(store, one.folder, kind, name, unfinished):
                    files.remove(one.folder)
                    gone.append(one)
        except OSError as error:
            raise UserError(f"{one.folder}: cannot be removed ({error.strerror or error})") from None
    return gone
