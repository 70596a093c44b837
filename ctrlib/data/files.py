"""Writing files that are whole or not there, and reading them without trusting them."""

import json
import os
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

LONGEST_HEADER = 10_000  # bytes of a .npy header; numpy's own limit


class Irregular(OSError):
    """A link, folder or device where a file was written: it is not followed and not read."""


def write_synced(path: Path, content: bytes) -> None:
    """Write and force to disk, so that a rename never makes an empty file visible."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading; :class:`Irregular` for anything else, which could lead elsewhere or never end."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Irregular("a link, folder or device where a file should be")
    return path.open("rb")


def read_plain(path: Path) -> bytes:
    """The bytes of a file; see :func:`open_plain`."""
    with open_plain(path) as file:
        return file.read()


def parse_json(content: bytes | str) -> Any:
    """JSON as the standard has it; ValueError for all else: NaN, Infinity, other text than UTF-8, endless nesting."""
    try:
        return json.loads(content.decode() if isinstance(content, bytes) else content, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link but not what it leads to; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type from the head of an open ``.npy`` file in C order; the array follows. Else ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy tries to mend what it takes for the work of Python 2
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version of .npy")
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file, LONGEST_HEADER)
    except Exception as error:  # the header is a Python literal, and numpy lets through whatever its parser raises
        raise ValueError(f"no .npy header ({' '.join(str(error).split())[:100]})") from None
    if in_columns and len(shape) > 1:
        raise ValueError("an array in columns")
    return shape, dtype
