"""What a run store holds that no study will ask for again."""

from collections.abc import Iterator
from dataclasses import dataclass

from ctrlib.config import NUMERICS_VERSION
from ctrlib.data import files
from ctrlib.errors import UserError
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore


@dataclass(frozen=True)
class Garbage:
    """A folder of a store that can go.

    Attributes:
        name: of the folder.
        reason: why.
        size: bytes that its files take.
        deleted: whether it is gone.
    """

    name: str
    reason: str
    size: int
    deleted: bool


def garbage(store: RunStore, unfinished: bool = False, delete: bool = False) -> Iterator[Garbage]:
    """Half-written and damaged records, records of another arithmetic, left-over states of trainings.

    The state of a training that was interrupted is kept for the training to go on, unless ``unfinished`` asks for it.
    What is not of this ctrlib's making is never named. With ``delete`` each folder is removed under the lock of its
    run: what another process works on stays, and so does what is whole again by then.

    Raises:
        UserError: names a folder that cannot be removed.
    """
    records = set(store.fingerprints())  # says in one line why a folder cannot be read
    for folder in sorted(store.root.iterdir()) if store.root.exists() else []:
        kind, _, name = folder.name.rpartition("-")
        if (not kind and name not in records) or not (reason := _reason(store, kind, name, unfinished)):
            continue
        size, deleted = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()), False
        if delete:
            with store.locked(name) as mine:
                if deleted := mine and bool(_reason(store, kind, name, unfinished)):
                    try:
                        files.remove(folder)
                    except OSError as error:
                        raise UserError(f"{folder}: cannot be removed ({error.strerror or error})") from None
        yield Garbage(folder.name, reason, size, deleted)


def _reason(store: RunStore, kind: str, name: str, unfinished: bool) -> str:
    """Why a folder of the store can go, empty where it cannot."""
    if kind == ".writing":
        return "half-written record"
    if kind == ".training":
        if (store.root / name).is_dir():
            return "state of a training that is finished"
        return "state of an interrupted training" if unfinished else ""
    if kind:
        return ""  # nothing of ours
    try:
        record = store.verify(name)
    except Damaged as problem:
        return f"damaged: {problem}"
    except UserError:
        return ""  # of another ctrlib, or not ours to read: `ctrlib runs verify` says so
    if record.content["numerics"] != NUMERICS_VERSION:
        return f"made by arithmetic version {record.content['numerics']}, this is {NUMERICS_VERSION}"
    return ""
