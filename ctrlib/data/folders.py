"""Where the project, its prepared data and its run records lie, and new folders that are whole or not there."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ctrlib.data.files import remove, sync, sync_all
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


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared data set, or what is left of one that is damaged."""
    return (folder / MANIFEST).exists() or (folder / "draw-0").is_dir()


@contextmanager
def new_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside ``root/name`` that takes that name when the ``with`` ends well, and is removed otherwise.

    Whatever fails or is interrupted before, an earlier ``root/name`` stays as it was. What processes that died have
    left behind is cleared away first.
    """
    folder = Path(root) / name
    if folder.exists() and not is_prepared(folder):
        raise UserError(f"{folder}: exists but is no prepared data set; choose another name or folder")
    above = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging, earlier, lock = (folder.with_name(f".{name}.{kind}") for kind in ("new", "old", "lock"))
    try:
        with FileLock(lock, timeout=0):
            if earlier.exists() and not folder.exists():  # killed between the two renames of _replace
                earlier.rename(folder)
            remove(staging)
            remove(earlier)
            try:
                staging.mkdir()
                yield staging
                _replace(staging, folder, earlier)
            finally:
                _remove_surely(staging)
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(
            f"{folder}: another process prepares it just now; wait for it, or choose another name"
        ) from None
    finally:
        for parent in above:  # folders made for nothing; one with the data set in it stays
            with suppress(OSError):
                parent.rmdir()


def _remove_surely(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:  # polars and Python may each report one Ctrl-C, the second one just here
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _replace(staging: Path, folder: Path, earlier: Path) -> None:
    """Give ``staging`` the name of ``folder``; what is there steps back to ``earlier``, and returns if that fails.

    All of the new one is on disk before the earlier one is removed.
    """
    sync_all(staging)
    if folder.exists():
        folder.rename(earlier)
    try:
        staging.rename(folder)
    except BaseException:
        if earlier.exists():
            earlier.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)
