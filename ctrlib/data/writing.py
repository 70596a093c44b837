"""Writing a prepared folder: aside first, every byte hashed on its way, renamed when whole."""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.data.manifest import FILE, VOCABULARY, fingerprint
from ctrlib.errors import UserError

_BLOCK = 1 << 20


@contextmanager
def new_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside ``root/name`` that takes that name when the ``with`` ends well, and is removed otherwise.

    Whatever fails or is interrupted before, an earlier ``root/name`` stays as it was. What processes that died have
    left behind is cleared away first.
    """
    folder = Path(root) / name
    if folder.exists() and not _is_prepared(folder):
        raise UserError(f"{folder}: exists but is no prepared data set; choose another name or folder")
    _clear_leftovers(folder)
    aside = folder.with_name(f".{name}.new-{os.getpid()}")
    above = [parent for parent in folder.parents if not parent.exists()]
    try:
        aside.mkdir(parents=True)
        yield aside
        _replace(aside, folder)
    finally:
        try:
            shutil.rmtree(aside, ignore_errors=True)
        except KeyboardInterrupt:  # polars and Python may each report one Ctrl-C, the second one just here
            shutil.rmtree(aside, ignore_errors=True)
            raise
        for parent in above:  # folders made for nothing; one with the data set in it stays
            with suppress(OSError):
                parent.rmdir()


def _is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared data set, or what is left of one."""
    if (folder / FILE).is_file():
        return True
    return folder.is_dir() and all(re.fullmatch(rf"{FILE}|draw-[0-9]+", path.name) for path in folder.iterdir())


def _replace(aside: Path, folder: Path) -> None:
    """Give ``aside`` the name of ``folder``; an earlier folder of that name steps back if that fails."""
    if not folder.exists():
        aside.rename(folder)
        return
    earlier = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.rename(earlier)
    try:
        aside.rename(folder)
    except BaseException:
        earlier.rename(folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what earlier preparations of ``folder`` left when they were killed; give back a data set set aside."""
    for kind in ("old", "new"):
        start = f".{folder.name}.{kind}-"
        for left in sorted(folder.parent.glob(f"{start}*")):
            process = left.name.removeprefix(start)
            if not process.isdecimal() or _runs(int(process)):
                continue
            if kind == "old" and not folder.exists():
                left.rename(folder)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of that number is running."""
    import psutil

    return process != os.getpid() and psutil.pid_exists(process)


class _HashedFile:
    """A new file whose bytes are hashed as they are written. Python's own file, so a full disk is reported as such."""

    def __init__(self, path: Path) -> None:
        self.path, self.total, self._file = path, hashlib.sha256(), open(path, "wb")  # noqa: SIM115 (see close)

    def write(self, data: Any) -> None:
        self._file.write(data)
        self.total.update(data)

    def close(self) -> None:
        self._file.close()


class DrawWriter:
    """The files of one draw, written row by row in blocks. Use it in a ``with``, and ``finish`` it there.

    ``rows`` says how many rows each part will have.
    """

    def __init__(self, folder: Path, draw: int, rows: dict[str, int], fields: int) -> None:
        self.draw, self.rows, self.fields = draw, rows, fields
        self.clicks = dict.fromkeys(rows, 0)
        self._written = dict.fromkeys(rows, 0)
        self._folder = folder / f"draw-{draw}"
        self._files: dict[tuple[str, str], _HashedFile] = {}
        self._open = ExitStack()

    def __enter__(self) -> "DrawWriter":
        self._folder.mkdir()
        with ExitStack() as stack:
            for part, count in self.rows.items():
                for kind, shape, dtype in (("ids", (count, self.fields), "<i4"), ("labels", (count,), "|u1")):
                    file = _HashedFile(self._folder / f"{part}_{kind}.npy")
                    stack.callback(file.close)
                    head = {"descr": dtype, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, head)
                    self._files[part, kind] = file
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def append(self, part: str, ids: np.ndarray, labels: np.ndarray) -> None:
        """Add rows to a part: ``ids`` (n, F) int32, ``labels`` (n,) uint8."""
        self._files[part, "ids"].write(np.ascontiguousarray(ids, "<i4").data)
        self._files[part, "labels"].write(np.ascontiguousarray(labels, np.uint8).data)
        self._written[part] += len(labels)
        self.clicks[part] += int(np.count_nonzero(labels))

    def finish(self, names: Sequence[str], dims: Sequence[int], vocabulary: Any) -> dict[str, Any]:
        """Close the files, add ``vocabulary`` (a frame: field, value, code); return the entry for dataset.json."""
        if self._written != self.rows:
            raise RuntimeError(f"{self._folder}: {self._written} rows were written, {self.rows} announced")
        self._open.close()
        packed = io.BytesIO()
        vocabulary.write_parquet(packed)
        path = self._folder / VOCABULARY
        path.write_bytes(packed.getbuffer())
        entry = {
            "fields": [{"name": name, "dim": dim} for name, dim in zip(names, dims, strict=True)],
            "rows": self.rows,
            "click_rate": {part: self.clicks[part] / count for part, count in self.rows.items()},
            "sha256": {file.path.name: file.total.hexdigest() for file in self._files.values()},
        }
        name = fingerprint(entry)
        entry["sha256"] = {**entry["sha256"], path.name: hashlib.sha256(packed.getbuffer()).hexdigest()}
        return {"draw": self.draw, **entry, "fingerprint": name}


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def need_space(folder: Path, size: int, allowed: str = "another --out, fewer --rows or --draws") -> None:
    """Raise :class:`UserError` if the disk of ``folder`` has fewer than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        problem = f"about {size / 1e9:,.1f} GB are needed on this disk and {free / 1e9:,.1f} GB are free"
        raise UserError(f"{folder.parent}: {problem}; allowed: {allowed}")
