"""Where the project, its prepared data and its run records lie, and new folders that are whole or not there."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctrlib.data.files import sync, sync_all
from ctrlib.errors import UserError

MANIFEST = "dataset.json"


def project_root() -> Path:
    """The folder that holds this project's ``_toc.yml``, looked for upwards from here; else the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").exists() and (folder / "ctrlib").is_dir():
            return folder
    return here


def is_in_project() -> bool:
    """Whether the current folder is of this project."""
    return (project_root() / "_toc.yml").exists()


def data_root() -> Path:
    """Where prepared data sets are: ``CTRLIB_DATA``, else ``data/`` in the project."""
    return _named_folder("CTRLIB_DATA", "data")


def store_root() -> Path:
    """Where run records are: ``CTRLIB_RUNS``, else ``runs/`` in the project."""
    return _named_folder("CTRLIB_RUNS", "runs")


def _named_folder(variable: str, name: str) -> Path:
    """A relative path is meant from the project's root, in a command and in a notebook's kernel alike."""
    folder = os.environ.get(variable) or name
    need_folder_path(folder)
    return project_root() / Path(folder).expanduser()


def need_folder_path(path: Path | str) -> None:
    """Raise :class:`UserError` for the address of an object store."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # C:/ is a drive
        raise UserError(
            f"{path}: must be on a disk, which may be shared over the network; object stores have no locks and cannot "
            "rename a folder in one step"
        )


@contextmanager
def new_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside ``root/name`` that takes that name when the ``with`` ends well, and is removed otherwise.

    Whatever fails or is interrupted before, an earlier ``root/name`` stays as it was. What processes that died have
    left behind is cleared away first.
    """
    folder = Path(root) / name
    if folder.exists() and not _is_prepared(folder):
        raise UserError(f"{folder}: exists but is no prepared data set; choose another name or folder")
    if other := _clear_leftovers(folder):
        raise UserError(f"{folder}: process {other} prepares it just now; wait for it, or choose another name")
    staging = folder.with_name(f".{name}.new-{os.getpid()}")
    above = [parent for parent in folder.parents if not parent.exists()]
    try:
        staging.mkdir(parents=True)
        yield staging
        _replace(staging, folder)
    finally:
        try:
            shutil.rmtree(staging, ignore_errors=True)
        except KeyboardInterrupt:  # polars and Python may each report one Ctrl-C, the second one just here
            shutil.rmtree(staging, ignore_errors=True)
            raise
        for parent in above:  # folders made for nothing; one with the data set in it stays
            with suppress(OSError):
                parent.rmdir()


def _is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared data set, or what is left of one."""
    if (folder / MANIFEST).is_file():
        return True
    return folder.is_dir() and all(re.fullmatch(r"dataset.json|draw-[0-9]+", path.name) for path in folder.iterdir())


def _replace(staging: Path, folder: Path) -> None:
    """Give ``staging`` the name of ``folder``; an earlier folder of that name steps back if that fails.

    All of the new one is on disk before the earlier one is removed.
    """
    sync_all(staging)
    if not folder.exists():
        staging.rename(folder)
        sync(folder.parent)
        return
    earlier = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.rename(earlier)
    try:
        staging.rename(folder)
    except BaseException:
        earlier.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _clear_leftovers(folder: Path) -> int:
    """Remove what earlier preparations of ``folder`` left when they were killed; give back one that was set aside.

    Returns:
        The number of a process that is at it now, else 0.
    """
    at_work = 0
    for kind in ("old", "new"):
        start = f".{folder.name}.{kind}-"
        for left in sorted(folder.parent.glob(f"{start}*")):
            process = left.name.removeprefix(start)
            if not process.isdecimal():
                continue
            if _runs(int(process), left.stat().st_ctime):
                at_work = int(process)
                continue
            if kind == "old" and not folder.exists():
                left.rename(folder)
            else:
                shutil.rmtree(left, ignore_errors=True)
    return at_work


def _runs(process: int, since: float) -> bool:
    """Whether another process of that number is running that was there at that time."""
    import psutil

    try:
        return process != os.getpid() and psutil.Process(process).create_time() <= since
    except psutil.Error:
        return False
