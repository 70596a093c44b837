"""Writing files that are whole or not there, and reading them without trusting them."""

import errno
import hashlib
import io
import json
import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from ctrlib.config import digest
from ctrlib.errors import UserError

# What unpacking a damaged file raises, besides OSError: among them the wrong text of a name, and unknown packing.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)


class Irregular(OSError):
    """A link, folder or device where a file was written: it is not followed and not read."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split()).removesuffix(".")[:200]


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_space(folder: Path, size: int, allowed: str = "another --out, fewer --rows or --draws") -> None:
    """Raise :class:`UserError` if the disk of ``folder`` has fewer than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        problem = f"about {size / 1e9:,.1f} GB are needed on this disk and {free / 1e9:,.1f} GB are free"
        raise UserError(f"{folder.parent}: {problem}; allowed: {allowed}")


def open_raw(path: Path) -> io.BufferedReader:
    """Open somebody's file for reading; :class:`UserError` when it is missing, empty, a folder or not readable."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the file itself")
    try:
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    if not file.peek(1):
        file.close()
        raise UserError(f"{path}: the file is empty")
    return file


@contextmanager
def name_damage(path: Path, kind: str) -> Iterator[None]:
    """Within, what is wrong with a packed file becomes a :class:`UserError`; trouble of the disk stays as it is."""
    try:
        yield
    except (*DAMAGED, OSError) as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL):  # EINVAL: a zip may lead before its start
            raise
        raise UserError(f"{path}: damaged {kind} ({one_line(error)}); download or copy it again") from None


def write_synced(path: Path, content: bytes) -> None:
    """Write and force to disk, so that a rename never makes an empty file visible."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk: what was renamed keeps its name when the power fails."""
    if os.name != "posix":
        return  # Windows opens no folders, and forces to disk only what is open for writing
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network file systems refuse it for folders
            raise
    finally:
        os.close(number)


def sync_all(folder: Path) -> None:
    """Force a folder with all that is in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def need_plain(path: Path) -> None:
    """Raise :class:`Irregular` for anything but a file, which could lead elsewhere or never end."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Irregular("a link, folder or device where a file should be")


def read_plain(path: Path) -> bytes:
    """The bytes of a file; see :func:`need_plain`."""
    need_plain(path)
    return path.read_bytes()


def parse_json(content: bytes | str) -> Any:
    """JSON as the standard has it; ValueError for all else: NaN, Infinity, other text than UTF-8, endless nesting."""
    return from_json(content, allow_inf_nan=False)


def replace_file(path: Path, content: bytes) -> None:
    """Give ``path`` a new content in one move, so that no reader ever finds half of it."""
    staging = path.with_name(f".{path.name.lstrip('.')}.new-{os.getpid()}")
    try:
        write_synced(staging, content)
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


class BrokenSeal(ValueError):
    """JSON without its checksum, or with another one than that of its content."""


def seal(content: dict[str, Any], checksum: Callable[[dict[str, Any]], str] = digest, **style: Any) -> str:
    """``content`` as JSON text with its ``checksum`` as the last entry; ``style``: what ``json.dumps`` takes."""
    return json.dumps({**content, "checksum": checksum(content)}, **style)


def unseal(text: bytes | str, checksum: Callable[[dict[str, Any]], str] = digest) -> dict[str, Any]:
    """The content of a text that :func:`seal` made; :class:`BrokenSeal` or another ValueError when it is not whole.

    ``checksum`` may raise KeyError or TypeError for content that lacks what it needs.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    if "checksum" not in content:
        raise BrokenSeal("it has no checksum")
    known = content.pop("checksum")
    try:
        whole = checksum(content) == known
    except (KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise BrokenSeal("its content is not that of its checksum")
    return content


def read_sealed(path: Path, checksum: Callable[[dict[str, Any]], str] = digest) -> dict[str, Any]:
    """The content of a file of :func:`write_sealed`. Raises OSError (:class:`Irregular`), or as :func:`unseal`."""
    return unseal(read_plain(path), checksum)


def write_sealed(
    path: Path, content: dict[str, Any], checksum: Callable[[dict[str, Any]], str] = digest, **style: Any
) -> None:
    """Write ``content`` with its checksum as the JSON file ``path``, whole or not at all, safe on disk."""
    replace_file(path, f"{seal(content, checksum, **style)}\n".encode())


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link but not what it leads to; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
