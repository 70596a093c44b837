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
import json
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.data.files import Irregular, file_sha256, need_plain, one_line, parse_json, read_plain, replace_file
from ctrlib.data.manifest import FILE, PREPARE_AGAIN, SPLITS, VOCABULARY, fingerprint, read_manifest
from ctrlib.errors import UserError
from ctrlib.training.dataset import Dataset, Split

ROWS_TOGETHER = 1 << 16  # rows looked at together
NOTE, LARGE = ".verified.json", 1 << 28  # bytes


def write_draw(
    folder: Path,
    draw: int,
    sizes: dict[str, tuple[int, int]],
    dims: dict[str, int],
    blocks: Iterable[tuple[str, np.ndarray, np.ndarray]],
    vocabulary: Any,
) -> dict[str, Any]:
    """Write the files of a draw below ``folder``; return its entry for dataset.json.

    Args:
        sizes: of each part the rows and the clicks.
        dims: the number of codes of each field.
        blocks: the rows, as part, codes (n, F) int32 and labels (n,) uint8; those of a part in their order.
        vocabulary: a frame of field, value, code.
    """
    place, sums = folder / f"draw-{draw}", {}
    place.mkdir()
    with ExitStack() as stack:
        files = {}

        def write(name: str, data: memoryview) -> None:
            files[name].write(data)
            sums[name].update(data)

        for part, (rows, _) in sizes.items():
            for kind, shape, dtype in (("ids", (rows, len(dims)), "<i4"), ("labels", (rows,), "|u1")):
                name, head = f"{part}_{kind}.npy", io.BytesIO()
                np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
                # Python's own file, so that a full disk is reported as such
                files[name], sums[name] = stack.enter_context(open(place / name, "wb")), hashlib.sha256()
                write(name, head.getbuffer())
        for part, ids, labels in blocks:
            write(f"{part}_ids.npy", np.ascontiguousarray(ids, "<i4").data)
            write(f"{part}_labels.npy", np.ascontiguousarray(labels, np.uint8).data)
    packed = io.BytesIO()
    vocabulary.write_parquet(packed)
    (place / VOCABULARY).write_bytes(packed.getbuffer())
    entry = {
        "fields": [{"name": name, "dim": dim} for name, dim in dims.items()],
        "rows": {part: rows for part, (rows, _) in sizes.items()},
        "click_rate": {part: clicks / rows for part, (rows, clicks) in sizes.items()},
        "sha256": {name: total.hexdigest() for name, total in sums.items()},
    }
    name = fingerprint(entry)
    entry["sha256"][VOCABULARY] = file_sha256(place / VOCABULARY)
    return {"draw": draw, **entry, "fingerprint": name}


def open_draw(folder: Path, draw: int = 0, trust: bool = True) -> Dataset:
    """Open draw ``draw`` of a prepared folder; every array is checked against its header and its SHA-256.

    The code arrays stay on disk until they are read. With ``trust``, large files that are untouched since they were
    checked are not read again. Raises :class:`UserError` naming the file that is missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    entry, place, parts = _entry(folder, manifest, draw), folder / f"draw-{draw}", {}
    dims = tuple(field["dim"] for field in entry["fields"])
    for part in SPLITS:
        rows = entry["rows"][part]
        ids = _open_array(place / f"{part}_ids.npy", entry, (rows, len(dims)), np.int32, np.array(dims), trust)
        labels = _open_array(place / f"{part}_labels.npy", entry, (rows,), np.uint8, np.array(2), trust)
        parts[part] = Split(ids, np.array(labels))
    names = tuple(field["name"] for field in entry["fields"])
    return Dataset(manifest["name"], draw, names, dims, **parts, fingerprint=entry["fingerprint"])


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
    path = Path(folder) / f"draw-{draw}" / VOCABULARY
    _need_whole(path, _entry(folder, read_manifest(folder), draw), trust=False)
    return path


def _entry(folder: Path, manifest: dict[str, Any], draw: int) -> dict[str, Any]:
    entries = {entry["draw"]: entry for entry in manifest["draws"]}
    if draw not in entries:
        raise UserError(f"{folder}: draw {draw} does not exist; allowed: 0 to {max(entries)} (prepare with --draws)")
    return entries[draw]


def _need_whole(path: Path, entry: dict[str, Any], trust: bool) -> bool:
    """Raise :class:`UserError` unless a file has the hash that ``dataset.json`` says; whether that was known before."""
    try:
        need_plain(path)
        if trust and _is_known(path, entry["sha256"][path.name]):
            return True
        whole = file_sha256(path) == entry["sha256"][path.name]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: missing; {PREPARE_AGAIN}") from None
    except Irregular as error:
        raise UserError(f"{path}: damaged ({error}); {PREPARE_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not whole:
        raise UserError(f"{path}: damaged (its SHA-256 differs from {FILE}); {PREPARE_AGAIN}")
    return False


def _open_array(
    path: Path, entry: dict[str, Any], shape: tuple[int, ...], dtype: type, sizes: np.ndarray, trust: bool
) -> np.ndarray:
    """Open one ``.npy`` after comparing hash and header with ``dataset.json``; its numbers are below ``sizes``."""
    known = _need_whole(path, entry, trust)
    try:
        # copy-on-write: torch wraps only writable arrays, and what is written never reaches the file
        found = np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # the header is a Python literal, and numpy lets through whatever its parser raises
        raise UserError(f"{path}: damaged ({one_line(error)}); {PREPARE_AGAIN}") from None
    if (found.shape, found.dtype) != (shape, np.dtype(dtype)):
        raise UserError(f"{path}: holds {found.dtype}{found.shape}; allowed: {np.dtype(dtype)}{shape}; {PREPARE_AGAIN}")
    if not known:
        for start in range(0, len(found), ROWS_TOGETHER):
            block = found[start : start + ROWS_TOGETHER]
            if (wrong := (block < 0) | (block >= sizes)).any():
                raise UserError(f"{path}: holds the code {block[wrong][0]}, which no field has; {PREPARE_AGAIN}")
        _remember(path, entry["sha256"][path.name])
    return found


def _is_known(path: Path, sha256: str) -> bool:
    """Whether a large file was found whole before and is untouched since then.

    What was found stands in ``.verified.json`` beside it: size, times and place on the disk. The time of the last
    change is kept by the system and cannot be set. What a disk changes by itself is seen by ``ctrlib data verify``.
    """
    return path.stat().st_size >= LARGE and _noted(path.parent).get(path.name) == [*_state(path), sha256]


def _remember(path: Path, sha256: str) -> None:
    if path.stat().st_size >= LARGE:
        note = {**_noted(path.parent), path.name: [*_state(path), sha256]}
        with suppress(OSError):  # where the folder is closed to writing, files are hashed by each process
            replace_file(path.parent / NOTE, json.dumps(note).encode())


def _state(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _noted(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        note = parse_json(read_plain(folder / NOTE))
        return note if isinstance(note, dict) else {}
    return {}
