"""Raw text files: plain text on disk whatever they are packed in, read by polars, and the first bad line named.

polars reads fast but fills short lines in silence and says little about bad ones. So separators are counted first, and
when something is wrong, Python's slow reader looks for the line and names it (:func:`rows_of`).
"""

import bz2
import contextlib
import csv
import gzip
import itertools
import lzma
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from ctrlib.data.encode import BATCH, MOST_SHOWN, Cells, Progress
from ctrlib.data.files import name_damage, one_line, open_raw
from ctrlib.errors import UserError, shown

_BLOCK = 1 << 18  # bytes: what is counted in it stays in the cache of the processor
HEAD = 512  # bytes that tell what a file is
PACKED = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ", "zstd": b"\x28\xb5\x2f\xfd", "zip": b"PK\x03\x04"}
ENDINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
AS_PARQUET = "read it with pandas or polars and write it as Parquet"
OTHERS = {  # what a file that begins so is, and what to do with it
    b"PAR1": ("Parquet, packed or through a pipe", "give the file itself"),
    b"ARROW1": ("Feather (Arrow)", AS_PARQUET),
    b"\x80": ("a pickle, which may run code when it is opened", AS_PARQUET),
    b"{": ("JSON lines", AS_PARQUET),
    b"[{": ("JSON", AS_PARQUET),
    b"\x89HDF": ("HDF5", AS_PARQUET),
    b"SQLite format 3": ("an SQLite database", AS_PARQUET),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save it as CSV"),
    b"Obj\x01": ("Avro", AS_PARQUET),
    b"7z\xbc\xaf": ("7z", "unpack it"),
    b"Rar!": ("rar", "unpack it"),
}


@dataclass(frozen=True)
class TextFile:
    """A text file. ``name``: as messages call it; ``path``: its plain text; ``raw``: the file as it was given.

    ``most``: how many of its lines are to be read (None: all).
    """

    name: str
    path: Path
    raw: Path
    most: int | None = None

    def lines(self) -> Iterator[str]:
        """The lines to be read, with their ends; :class:`UserError` for one that is not UTF-8."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if self.most is not None and number > self.most:
                    return
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
                    raise UserError(f"{self.name}, line {number}: {byte} is not UTF-8; allowed: UTF-8 text") from None


def open_text(
    path: Path, scratch: Path, most: int | None = None, report: Callable = print, member: str | None = None
) -> TextFile:
    """A text file, plain or packed (gzip, bz2, xz, zstd, zip), a pipe, or "-" for standard input.

    ``most`` of its lines are to be read; ``member``: the name of the file in a zip of several. What is not plain text
    on disk is unpacked or copied into the folder ``scratch``. Raises :class:`UserError` for files of another kind.
    """
    path = raw = Path(path)
    if not path.is_file() and not path.is_dir():  # a pipe can be read only once
        raw = scratch / "raw"
        with sys.stdin.buffer if str(path) == "-" else open_raw(path) as file, open(raw, "wb") as copy:
            report(f"copying {path.name}")
            shutil.copyfileobj(file, copy, _BLOCK)
    with open_raw(raw if raw.is_file() else path) as file:
        head = file.read(HEAD)
    kind = next((kind for kind, magic in PACKED.items() if head.startswith(magic)), None)
    expected = ENDINGS.get(path.suffix)
    if expected not in (None, kind):
        raise UserError(f"{path}: damaged {expected} (it does not begin like one); rename it if it is plain text")
    if kind is None:
        refuse_others(path, head)
        return TextFile(str(path), raw, raw, most)
    report(f"unpacking {path.name}")
    unpacked = scratch / "unpacked"
    _unpack(path, raw, unpacked, kind, most, member)
    with open(unpacked, "rb") as file:
        if not (head := file.read(HEAD)):
            raise UserError(f"{path}: the file in it is empty")
    refuse_others(path, head)
    return TextFile(str(path), unpacked, raw, most)


def refuse_others(path: Path, head: bytes) -> None:
    """Raise :class:`UserError` for a file whose first bytes say that it is no text, with what to do."""
    kinds = [what for magic, what in OTHERS.items() if head.startswith(magic)]
    if head[257:262] == b"ustar":
        kinds = [("a tar archive", "unpack it and give the files")]
    for kind, advice in kinds:
        raise UserError(f"{path}: is {kind}; {advice}. Allowed: CSV or Parquet")


def _opened(raw: Path, kind: str, member: str | None) -> IO[bytes]:
    """What is packed in a file; of a zip, the one ``member`` of that name, or its only one."""
    if kind == "zstd":
        from pyarrow import input_stream

        return input_stream(str(raw), compression="zstd")
    if kind != "zip":
        return {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind](raw)
    archive = zipfile.ZipFile(raw)
    names = [one for one in archive.namelist() if not one.endswith("/") and "__MACOSX/" not in one]
    if "[Content_Types].xml" in names:
        raise UserError(f"{raw}: is an Excel workbook; save it as CSV. Allowed: CSV or Parquet")
    names = [name for name in names if member is None or name.split("/")[-1] == member]
    if len(names) != 1:
        problem = f"{len(names)} files{' named ' if member else ''}{member or ''} in the zip"
        raise UserError(f"{raw}: {problem}; allowed: exactly 1 (unpack it and give the files)")
    return archive.open(names[0])


def _unpack(path: Path, raw: Path, target: Path, kind: str, most: int | None, member: str | None) -> None:
    """Unpack to ``target``, at least ``most`` lines."""
    lines = 0
    with name_damage(path, kind), _opened(raw, kind, member) as packed, open(target, "wb") as file:
        while (most is None or lines < most) and (block := packed.read(_BLOCK)):
            file.write(block)
            lines += block.count(b"\n")


def measure(text: TextFile, separator: str) -> tuple[int, int]:
    """How many lines are to be read, and how many separators they have; blank lines at the end do not count.

    :class:`UserError` for a file of nothing else.
    """
    lines = separators = 0
    mark, left = ord(separator), _end_of_text(text)
    with open(text.path, "rb", buffering=0) as file:
        buffer = bytearray(_BLOCK)
        while left and (size := file.readinto(buffer)):
            block = np.frombuffer(buffer, np.uint8, min(size, left))
            left -= len(block)
            found = int(np.count_nonzero(block == 10))
            if text.most is not None and lines + found >= text.most:
                stop = int(np.flatnonzero(block == 10)[text.most - lines - 1])
                return text.most, separators + int(np.count_nonzero(block[:stop] == mark))
            lines += found
            separators += int(np.count_nonzero(block == mark))
    return lines + 1, separators


def _end_of_text(text: TextFile) -> int:
    """Bytes up to the last character that is no line end."""
    size = text.path.stat().st_size
    with open(text.path, "rb") as file:
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if not (kept := tail.rstrip(b"\r\n")).strip():
        raise UserError(f"{text.name}: the file is empty, or ends in nothing but blank lines")
    return size - len(tail) + len(kept)


def rows_of(text: TextFile, columns: Sequence[str], separator: str, header: bool, quoted: bool) -> Iterator[list[str]]:
    """The cells of each row as Python's csv reads them; :class:`UserError` for the first line that has too few or many.

    Blank lines at the end do not count.
    """
    reader = reader_of(text, separator, quoted)
    kind = {"\t": "tab", ",": "comma"}.get(separator, repr(separator))
    allowed = f"allowed: {len(columns)}, {kind}-separated"
    blank, begun = 0, 0  # the first blank line; the line before the row
    try:
        for number, cells in enumerate(reader):
            begun = reader.line_num
            if number == 0 and header:
                continue
            if not cells:
                blank = blank or begun
            elif blank:
                raise UserError(f"{text.name}, line {blank}: 0 columns; {allowed}")
            elif len(cells) != len(columns):
                problem = f"{len(cells)} column{'s' * (len(cells) != 1)}; {allowed}"
                if len(cells) < len(columns) and text.most is None and not any(reader):
                    problem += " (it is the last line: the file seems cut off there)"
                raise UserError(f"{text.name}, line {begun}: {problem}")
            else:
                yield cells
    except csv.Error as error:
        open_end = "unexpected end" in str(error)
        if open_end and text.most is not None:  # cut between the lines of a row
            return
        problem = "a quote that opens here never closes" if open_end else one_line(error)
        where = f"{text.name}, line {begun + 1 if open_end else reader.line_num}"
        allowed = f"valid {kind}-separated text, with a quote inside a quoted cell doubled"
        raise UserError(f"{where}: {problem}; allowed: {allowed}") from None


def read_text(
    text: TextFile,
    cells: Cells,
    columns: Sequence[str],
    separator: str,
    report: Callable[[str], None],
    header: bool = True,
    quoted: bool = False,
) -> None:
    """Number the ``cells`` of a text with those ``columns``."""
    step, before = f"reading {Path(text.name).name}", cells.rows
    by_line = rows_of(text, columns, separator, header, quoted)
    if quoted or len(separator.encode()) > 1:  # in quotes, polars takes other text for a cell than Python does
        progress, places = Progress(report, step), [list(columns).index(name) for name in cells.columns]
        schema = dict.fromkeys(cells.columns, pl.String)
        while batch := [[row[place] for place in places] for row in itertools.islice(by_line, BATCH)]:
            made = dict(zip(cells.columns, zip(*batch, strict=True), strict=True))
            cells.add_text(pl.LazyFrame(made, schema=schema), progress)
    else:
        lines, separators = measure(text, separator)
        rows = lines - header
        if separators != (len(columns) - 1) * lines:
            rows = sum(1 for _ in by_line)
        lazy = pl.scan_csv(
            text.path,
            separator=separator,
            has_header=False,  # names may have been given
            skip_lines=int(header),
            schema=dict.fromkeys(columns, pl.String),
            quote_char=None,
            n_rows=rows,
        )
        try:
            cells.add_text(lazy, Progress(report, step, rows))
        except pl.exceptions.PolarsError as error:
            for _ in by_line:
                pass
            raise UserError(f"{text.name}: cannot be read ({one_line(error)})") from None
        if cells.rows - before != rows:
            raise UserError(f"{text.name}: {cells.rows - before:,} of its {rows:,} rows can be read")
    if cells.rows == before:
        raise UserError(f"{text.name}: no rows below the header line")
    cells.files.append((text.name, cells.rows - before, partial(line_of, text, separator, quoted, header)))


def needs_csv(text: TextFile) -> bool:
    """Whether a text has quotes, or line ends of its own kind, so that lines and separators alone do not divide it."""
    odd, before = 0, b""
    with open(text.path, "rb") as file:
        while block := file.read(1 << 22):
            if b'"' in block:
                return True
            odd += block.count(b"\r") - block.count(b"\r\n") - (before == b"\r" and block[:1] == b"\n")
            before = block[-1:]
    return odd > 0


def reader_of(text: TextFile, separator: str, quoted: bool) -> Any:
    """Python's own csv reader of a text; a separator of several characters is put into one first."""
    lines, one = text.lines(), separator
    if len(separator) > 1:
        lines, one = (line.replace(separator, "\x1f") for line in lines), "\x1f"
    return csv.reader(lines, delimiter=one, quoting=0 if quoted else csv.QUOTE_NONE, strict=True)


def line_of(text: TextFile, separator: str, quoted: bool, header: bool, row: int) -> str:
    """The line of a row, in words."""
    if not quoted and len(separator) == 1:
        return f"line {row + 1 + header}"
    reader = reader_of(text, separator, quoted)
    next(itertools.islice(reader, row + header, None))
    return f"line {reader.line_num}"


def separator_of(text: TextFile) -> str:
    """The first of tab, comma, semicolon, bar that divides all of the first lines alike; else the header's first."""
    marks, first = ("\t", ",", ";", "|"), list(itertools.islice(text.lines(), 100))
    for mark in marks:
        with contextlib.suppress(csv.Error):
            widths = {len(row) for row in csv.reader(first, delimiter=mark) if row}
            if len(widths) == 1 and widths != {1}:
                return mark
    return next((mark for mark in marks if first and mark in first[0]), ",")


def first_cells(text: TextFile, separator: str) -> list[str]:
    """The cells of the first line, the header."""
    try:
        return next(reader_of(text, separator, True), None) or [""]  # an empty line has no cells
    except csv.Error as error:
        problem = f"{one_line(error)}; allowed: a header that names every column"
        raise UserError(f"{text.name}, line 1: {problem}") from None


def header_of(text: TextFile, separator: str, needed: Sequence[str] = ()) -> list[str]:
    """Column names of line 1; :class:`UserError` when one is empty or repeated or ``needed`` and absent."""
    where, columns = f"{text.name}, line 1", first_cells(text, separator)
    if columns[0].startswith("sep="):
        note = shown(separator.join(columns), MOST_SHOWN)
        raise UserError(f"{where}: {note} is a note for Excel; allowed: the names of the columns (delete the line)")
    if columns == [""]:
        raise UserError(f"{where}: is empty; allowed: the names of the columns (delete the line)")
    absent = [name for name in needed if name not in columns]
    if needed and len(absent) == len(needed):
        begins = shown(columns[0], MOST_SHOWN)
        raise UserError(f"{where}: no header (it begins with {begins}); allowed: {', '.join(needed)}")
    if absent:
        raise UserError(f"{where}: no column {absent[0]!r} in the header; allowed: {', '.join(needed)}")
    for place, name in enumerate(columns, 1):
        if not name.strip():  # as pandas names it, which writes the numbers of its rows without a name
            name = columns[place - 1] = f"Unnamed: {place - 1}"
        if name in columns[: place - 1]:
            problem = f"{shown(name, MOST_SHOWN)} names two columns (is the header line missing?)"
            raise UserError(f"{where}, column {place}: {problem}; allowed: unique names")
    return columns


def labels_of(cells: Cells, column: str, allowed: str = "0 or 1") -> np.ndarray:
    """Labels (N,) uint8 from a column of 0 and 1 (or 0.0 and 1.0); :class:`UserError` unless both occur."""
    values = cells.values(column).replace_strict(
        ["0", "1", "0.0", "1.0"], [0, 1, 0, 1], default=None, return_dtype=pl.UInt8
    )
    cells.need(column, values.is_null(), f"allowed: {allowed}")
    labels = values.fill_null(0).to_numpy().take(cells.column(column))
    if labels.min() == labels.max():
        problem = f"all {len(labels):,} labels are {labels[0]}; allowed: some rows with 0 and some with 1"
        raise cells.refuse(column, problem)
    return labels
