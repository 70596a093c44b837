"""Encoded rows in memory (:class:`Dataset`) and their folder on disk.

A prepared data set is a folder ``ROOT/NAME``::

    dataset.json                        what it is, how it was made, and the SHA-256 of every file below
    draw-0/{train,valid,test}_ids.npy       (N, F) int32 codes
    draw-0/{train,valid,test}_labels.npy    (N,)   uint8, 0 or 1
    draw-0/vocabulary.parquet               field, value, code
    draw-1/ ...

A *draw* is one division of the same rows into train, valid and test. Each draw has its own vocabulary, because a
vocabulary may only know its own training rows.
"""

import hashlib
import io
import math
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.data.files import open_plain, read_npy_header
from ctrlib.data.manifest import (
    FILE,
    PREPARE_AGAIN,
    SPLITS,
    VOCABULARY,
    fingerprint,
    read_manifest,
)
from ctrlib.data.verified import Files
from ctrlib.errors import UserError
from ctrlib.training.dataset import Dataset, Split

ROWS_TOGETHER = 1 << 16  # rows looked at together


def validate_dataset(dataset: Dataset) -> None:
    """Raise :class:`UserError` unless shapes and types agree, codes are in range and each part has both classes."""
    where = f"data set {dataset.name!r}, draw {dataset.draw}"
    fields = len(dataset.field_names)
    if fields == 0 or len(dataset.field_dims) != fields:
        raise UserError(
            f"{where}: {fields} field names and {len(dataset.field_dims)} field sizes; allowed: as many, > 0"
        )
    if len(set(dataset.field_names)) != fields:
        raise UserError(f"{where}: a field name occurs twice in {list(dataset.field_names)}; allowed: unique names")
    for part, split in dataset.splits().items():
        place = f"{where}, {part}"
        if split.labels.ndim != 1 or split.labels.dtype != np.uint8:
            raise UserError(f"{place}: labels are {split.labels.dtype}{split.labels.shape}; allowed: uint8 (N,)")
        if split.ids.dtype != np.int32 or split.ids.shape != (len(split), fields):
            raise UserError(
                f"{place}: ids are {split.ids.dtype}{split.ids.shape}; allowed: int32 {(len(split), fields)}"
            )
        if split.probability is not None and split.probability.shape != split.labels.shape:
            raise UserError(f"{place}: probability has shape {split.probability.shape}; allowed: {split.labels.shape}")
        if len(split) == 0:
            raise UserError(f"{place}: no rows; allowed: at least one row of each class")
        lowest, highest = _range(split.ids)
        for name, size, low, high in zip(dataset.field_names, dataset.field_dims, lowest, highest, strict=True):
            if low < 0 or high >= size:
                raise UserError(f"{place}, field {name}: code {low if low < 0 else high}; allowed: 0 to {size - 1}")
        clicks = int(np.count_nonzero(split.labels == 1))
        if clicks + int(np.count_nonzero(split.labels == 0)) != len(split):
            raise UserError(f"{place}: label {int(split.labels.max())}; allowed: 0 or 1")
        if clicks in (0, len(split)):
            problem = f"all {len(split)} labels are {int(clicks > 0)}"
            raise UserError(f"{place}: {problem}; allowed: both 0 and 1 (more rows, or other shares or seed)")


def _range(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest code of each field, (F,) each; a table on disk is read in blocks."""
    lowest, highest = ids[0].copy(), ids[0].copy()
    for start in range(0, len(ids), ROWS_TOGETHER):
        block = ids[start : start + ROWS_TOGETHER]
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
    return lowest, highest


def bytes_per_row(fields: int, draws: int) -> int:
    """Roughly the bytes that a row takes on disk: its numbers while it is prepared, and its codes in each draw."""
    return 2 * fields + draws * (4 * fields + 1)


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


def open_draw(folder: Path, draw: int = 0, mmap: bool = True, trust: bool = True) -> Dataset:
    """Open draw ``draw`` of a prepared folder; every array is checked against its header and its SHA-256.

    With ``mmap`` the code arrays stay on disk until they are read; labels are always in memory. With ``trust``, files
    that are untouched since they were checked are not read again (:mod:`ctrlib.data.verified`). Raises
    :class:`UserError` naming the file that is missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    entries = {entry["draw"]: entry for entry in manifest["draws"]}
    if draw not in entries:
        raise UserError(f"{folder}: draw {draw} does not exist; allowed: 0 to {max(entries)} (prepare with --draws)")
    entry = entries[draw]
    place = folder / f"draw-{draw}"
    files = Files(place, trust)
    parts = {}
    for part in SPLITS:
        rows = entry["rows"][part]
        ids = _open_array(place / f"{part}_ids.npy", files, entry, (rows, len(entry["fields"])), np.int32, mmap)
        labels = _open_array(place / f"{part}_labels.npy", files, entry, (rows,), np.uint8, mmap=False)
        parts[part] = Split(ids, labels)
    dataset = Dataset(
        name=manifest["name"],
        draw=draw,
        field_names=tuple(field["name"] for field in entry["fields"]),
        field_dims=tuple(field["dim"] for field in entry["fields"]),
        fingerprint=entry["fingerprint"],
        **parts,
    )
    if files.fresh:  # what was hashed is in the system's cache now, so looking at the codes too costs little
        validate_dataset(dataset)
        files.remember()
    return dataset


def verify_draw(folder: Path, draw: int) -> None:
    """Read every byte of a draw, its vocabulary too; :class:`UserError` names the first file that is not whole."""
    open_draw(folder, draw, trust=False)
    _whole_vocabulary(folder, draw)


def read_vocabulary(folder: Path, draw: int) -> dict[str, dict[int, str]]:
    """By field, the value of each code of a draw, as text; "" is a missing value."""
    import polars as pl

    frame = pl.read_parquet(_whole_vocabulary(folder, draw))
    groups = frame.group_by("field", maintain_order=True)
    return {field: dict(zip(group["code"], group["value"], strict=True)) for (field,), group in groups}


def _whole_vocabulary(folder: Path, draw: int) -> Path:
    entry = {one["draw"]: one for one in read_manifest(folder)["draws"]}[draw]
    path = Path(folder) / f"draw-{draw}" / VOCABULARY
    _need_whole(path, Files(path.parent, trust=False), entry)
    return path


def _need_whole(path: Path, files: Files, entry: dict[str, Any]) -> None:
    """Raise :class:`UserError` unless a file is there and has the hash that ``dataset.json`` says."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(f"{path}: damaged (a link, folder or device where a file should be); {PREPARE_AGAIN}")
        whole = files.is_whole(path, entry["sha256"][path.name])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: missing; {PREPARE_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not whole:
        raise UserError(f"{path}: damaged (its SHA-256 differs from {FILE}); {PREPARE_AGAIN}")


def _open_array(
    path: Path, files: Files, entry: dict[str, Any], shape: tuple[int, ...], dtype: type, mmap: bool
) -> np.ndarray:
    """Load one ``.npy`` after comparing its hash, header and size with what ``dataset.json`` says."""
    _need_whole(path, files, entry)
    with open_plain(path) as file:
        try:
            found = read_npy_header(file)
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); {PREPARE_AGAIN}") from None
        size = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
    if found != (shape, np.dtype(dtype)) or path.stat().st_size != size:
        raise UserError(f"{path}: holds {found[1]}{found[0]}; allowed: {np.dtype(dtype)}{shape}; {PREPARE_AGAIN}")
    return _load(path, mmap)


def _load(path: Path, mmap: bool) -> np.ndarray:
    if not mmap:
        return np.load(path, allow_pickle=False)
    try:  # copy-on-write: torch wraps only writable arrays, and what is written never reaches the file
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError:  # a system that sets memory aside for every writable page may refuse a large file
        return np.load(path, mmap_mode="r", allow_pickle=False)
