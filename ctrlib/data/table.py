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

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.data.writing import (
    FORMAT_VERSION,
    SPLITS,
    DrawWriter,
    file_sha256,
    fingerprint,
    need_space,
    new_folder,
    write_about,
)
from ctrlib.errors import UserError

OOV = 0  # the code of every value that is rare or unseen in the training rows
_SETTLED = 3_000_000_000  # nanoseconds
_ROWS = 1 << 16  # rows looked at together


@dataclass(frozen=True)
class Split:
    """Rows of one part: ``ids`` (N, F) int32, ``labels`` (N,) uint8, ``probability`` (N,) float64 where known."""

    ids: np.ndarray
    labels: np.ndarray
    probability: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """One draw of a data set. Codes of field f are 0 ... ``field_dims[f]`` - 1; ``fingerprint`` names the content."""

    name: str
    draw: int
    field_names: tuple[str, ...]
    field_dims: tuple[int, ...]
    train: Split
    valid: Split
    test: Split
    fingerprint: str

    def splits(self) -> dict[str, Split]:
        """The three parts by name, train first."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def check(dataset: Dataset) -> None:
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
    for start in range(0, len(ids), _ROWS):
        block = ids[start : start + _ROWS]
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
    return lowest, highest


def save(root: Path, name: str, draws: Iterable[tuple[Dataset, Any]], about: dict[str, Any]) -> Path:
    """Write a prepared data set to ``root/name`` and return that folder.

    ``draws`` yields ``(dataset, vocabulary)`` with the vocabulary a polars frame (field, value, code); it may be a
    generator, so that one draw at a time is in memory. ``about`` goes to the head of ``dataset.json``. Everything is
    written to a hidden sibling folder that takes the final name only when whole: whatever fails or is interrupted
    before, an earlier ``root/name`` stays as it was.
    """
    with new_folder(root, name) as aside:
        entries = [_save_draw(aside, dataset, vocabulary) for dataset, vocabulary in draws]
        write_about(aside, name, about, entries)
    return Path(root) / name


def _save_draw(folder: Path, dataset: Dataset, vocabulary: Any) -> dict[str, Any]:
    """Write one draw below ``folder``; return its entry for ``dataset.json``."""
    check(dataset)
    need_space(folder, sum(split.ids.nbytes + split.labels.nbytes for split in dataset.splits().values()))
    rows = {part: len(split) for part, split in dataset.splits().items()}
    with DrawWriter(folder, dataset.draw, rows, len(dataset.field_names)) as writer:
        for part, split in dataset.splits().items():
            writer.append(part, split.ids, split.labels)
        return writer.finish(dataset.field_names, dataset.field_dims, vocabulary)


def read_about(folder: Path) -> dict[str, Any]:
    """The content of ``folder/dataset.json``; :class:`UserError` when it is missing, damaged or of another version."""
    path = Path(folder) / "dataset.json"
    again = "prepare the data set again"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found, so this is no prepared data set; {again}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}") from None
    version = about.get("format") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format {version!r}; allowed: {FORMAT_VERSION}; {again}")
    with suppress(KeyError, TypeError, AttributeError):
        if all(fingerprint(entry) == entry["fingerprint"] for entry in about["draws"]) and about["draws"]:
            return about
    raise UserError(f"{path}: damaged (its fingerprints do not match its content); {again}")


def open_draw(folder: Path, draw: int = 0, mmap: bool = True) -> Dataset:
    """Open draw ``draw`` of a prepared folder; every array is checked against its header and its SHA-256.

    With ``mmap`` the code arrays stay on disk until they are read; labels are always in memory. Raises
    :class:`UserError` naming the file that is missing or damaged.
    """
    folder = Path(folder)
    about = read_about(folder)
    entries = {entry["draw"]: entry for entry in about["draws"]}
    if draw not in entries:
        raise UserError(f"{folder}: draw {draw} does not exist; allowed: 0 to {max(entries)} (prepare with --draws)")
    entry = entries[draw]
    place = folder / f"draw-{draw}"
    fields = len(entry["fields"])
    parts = {}
    for part in SPLITS:
        rows = entry["rows"][part]
        ids = _open_array(place / f"{part}_ids.npy", entry, (rows, fields), np.int32, mmap)
        labels = _open_array(place / f"{part}_labels.npy", entry, (rows,), np.uint8, mmap=False)
        parts[part] = Split(ids, labels)
    return Dataset(
        name=about["name"],
        draw=draw,
        field_names=tuple(field["name"] for field in entry["fields"]),
        field_dims=tuple(field["dim"] for field in entry["fields"]),
        fingerprint=entry["fingerprint"],
        **parts,
    )


def _open_array(path: Path, entry: dict[str, Any], shape: tuple[int, ...], dtype: type, mmap: bool) -> np.ndarray:
    """Load one ``.npy`` after comparing its hash and header with what ``dataset.json`` says."""
    if not path.is_file():
        raise UserError(f"{path}: missing; prepare the data set again")
    if _known_sha256(path) != entry["sha256"][path.name]:
        raise UserError(f"{path}: damaged (its SHA-256 differs from dataset.json); prepare the data set again")
    try:
        array = _load(path, mmap)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the data set again") from None
    if array.shape != shape or array.dtype != dtype:
        raise UserError(f"{path}: holds {array.dtype}{array.shape}; allowed: {np.dtype(dtype)}{shape}; prepare again")
    return array


def _load(path: Path, mmap: bool) -> np.ndarray:
    if not mmap:
        return np.load(path, allow_pickle=False)
    try:  # copy-on-write: torch wraps only writable arrays, and what is written never reaches the file
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError:  # a system that sets memory aside for every writable page may refuse a large file
        return np.load(path, mmap_mode="r", allow_pickle=False)


_hashes: dict[tuple[Any, ...], str] = {}


def _known_sha256(path: Path) -> str:
    """SHA-256 of a file; computed once in a process as long as the file stays untouched.

    Whether it was touched is read from its times, and these tick coarsely: a file changed in the last seconds could
    change again unseen, so its hash is not kept.
    """
    state = path.stat()
    key = (str(path.absolute()), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if key in _hashes:
        return _hashes[key]
    total = file_sha256(path)
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED:
        _hashes[key] = total
    return total
