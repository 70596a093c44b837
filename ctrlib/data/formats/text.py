"""Raw text files: plain text on disk whatever they are packed in, read by polars, and the first bad line named.

polars reads fast but fills short lines in silence and says little about bad ones. So separators are counted first, and
when something is wrong, the slow line-by-line :func:`first_bad_line` looks for the line and names it.
"""

import csv
import gzip
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.data.encode import Cells, Progress
from ctrlib.data.files import need_space, one_line, open_raw
from ctrlib.errors import UserError, shown

_BLOCK = 1 << 18  # bytes: what is counted in it stays in the cache of the processor
MOST_SHOWN = 40  # characters of a value in a message
GZIP = b"\x1f\x8b"

RowCheck = Callable[[list[str], str], None]


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


def open_text(path: Path, scratch: Path, most: int | None = None, report: Callable = print) -> TextFile:
    """A plain or gzip text file, or a pipe, of which ``most`` lines are to be read.

    What is not plain text on disk is unpacked or copied into the folder ``scratch``.
    """
    path = raw = Path(path)
    with open_raw(path) as file:
        packed = file.peek(2)[:2] == GZIP
        if path.suffix == ".gz" and not packed:
            raise UserError(f"{path}: damaged gzip (it does not begin like one); rename it if it is plain text")
        if not path.is_file():  # a pipe can be read only once
            raw = scratch / "raw"
            report(f"copying {path.name}")
            with open(raw, "wb") as copy:
                shutil.copyfileobj(file, copy, _BLOCK)
    if not packed:
        return TextFile(str(path), raw, raw, most)
    report(f"unpacking {path.name}")
    unpacked = scratch / "unpacked"
    _unpack(path, raw, unpacked, most)
    return TextFile(str(path), unpacked, raw, most)


def _unpack(path: Path, raw: Path, target: Path, most: int | None) -> None:
    """Decompress gzip to ``target``, at least ``most`` lines of it; at most half of the disk that is free."""
    room, done, lines = shutil.disk_usage(target.parent).free // 2, 0, 0
    try:
        with gzip.open(raw) as packed, open(target, "wb") as file:
            while (most is None or lines < most) and (block := packed.read(_BLOCK)):
                done += file.write(block)
                lines += 0 if most is None else block.count(b"\n")
                if done > room:
                    problem = f"unpacks to more than half of the {2 * room / 1e9:,.1f} GB that are free on this disk"
                    raise UserError(f"{path}: {problem}; allowed: fewer --rows, or another --out")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip after {done:,} unpacked bytes"
        raise UserError(f"{path}: {problem} ({one_line(error)}); download or copy it again") from None


@dataclass(frozen=True)
class Extent:
    """How much text there is: ``lines`` to be read, the ``separators`` in them, and whether the last line is ``whole``
    (has a newline). Blank lines at the end of the file do not count."""

    lines: int
    separators: int
    whole: bool


def measure(text: TextFile, separator: str) -> Extent:
    """Count lines and separators; :class:`UserError` for a file of nothing but blank lines."""
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
                return Extent(text.most, separators + int(np.count_nonzero(block[:stop] == mark)), True)
            lines += found
            separators += int(np.count_nonzero(block == mark))
        return Extent(lines + 1, separators, text.path.stat().st_size > _end_of_text(text))


def _end_of_text(text: TextFile) -> int:
    """Bytes up to the last character that is no line end."""
    size = text.path.stat().st_size
    with open(text.path, "rb") as file:
        while size:
            start = max(0, size - (1 << 16))
            file.seek(start)
            tail = file.read(size - start).rstrip(b"\r\n")
            if tail.strip() or (tail and start):
                return start + len(tail)
            size = start
    raise UserError(f"{text.name}: the file is empty")


def first_bad_line(
    text: TextFile, columns: Sequence[str], separator: str, header: bool, quoted: bool, check: RowCheck
) -> int:
    """Read line by line; raise :class:`UserError` for the first line that is not as it should be, else count the rows.

    ``check(cells, where)`` judges the values of a row; ``where`` is the beginning of its message (file and line).
    """
    reader = csv.reader(
        text.lines(), delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    kind = {"\t": "tab", ",": "comma"}.get(separator, repr(separator))
    short, blank, rows = None, 0, 0
    try:
        for cells in reader:
            if short:
                break
            where = f"{text.name}, line {reader.line_num}"
            if reader.line_num == 1 and header:
                continue
            if not cells:  # a mistake, unless only such lines follow
                blank = blank or reader.line_num
                continue
            if blank:
                raise UserError(f"{text.name}, line {blank}: 0 columns; allowed: {len(columns)}, {kind}-separated")
            if len(cells) != len(columns):
                number = f"{len(cells)} column{'s' * (len(cells) != 1)}"
                short = f"{where}: {number}; allowed: {len(columns)}, {kind}-separated"
                if len(cells) > len(columns):
                    break
                continue  # whether this is the last line decides what to say
            check(cells, where)
            rows += 1
        else:
            if short and text.most is None:
                short += " (it is the last line: the file seems cut off there)"
    except csv.Error as error:
        problem = f"{one_line(error)}; allowed: valid {kind}-separated text"
        raise UserError(f"{text.name}, line {reader.line_num}: {problem}") from None
    if short:
        raise UserError(short)
    return rows


def read_text(
    text: TextFile,
    cells: Cells,
    columns: Sequence[str],
    separator: str,
    check: RowCheck,
    report: Callable[[str], None],
    header: bool = True,
    quoted: bool = False,
    row_bytes: int = 0,
) -> tuple[Extent, Callable[[], int]]:
    """Number the ``cells`` of a text with those ``columns``; ``row_bytes``: what a row will take on the disk.

    Returns how much text there is, and the function that finds the first bad line, for a value that turns out to be
    wrong later on.
    """

    def explain() -> int:
        return first_bad_line(text, columns, separator, header, quoted, check)

    extent = measure(text, separator)
    rows = extent.lines - header
    if quoted or extent.separators != (len(columns) - 1) * extent.lines:
        rows = explain()
    if rows == 0:
        raise UserError(f"{text.name}: no rows below the header line")
    need_space(cells.folder, rows * row_bytes)
    lazy = pl.scan_csv(
        text.path,
        separator=separator,
        has_header=header,
        schema=dict.fromkeys(columns, pl.String),
        quote_char='"' if quoted else None,
        n_rows=rows,
    )
    before = cells.rows
    try:
        cells.add_text(lazy, Progress(report, f"reading {Path(text.name).name}", rows))
    except pl.exceptions.PolarsError as error:
        explain()
        raise UserError(stray_quote(text, separator) or f"{text.name}: cannot be read ({one_line(error)})") from None
    if cells.rows - before != rows:
        problem = f"{text.name}: {cells.rows - before:,} of its {rows:,} rows can be read"
        raise UserError(stray_quote(text, separator) or problem)
    return extent, explain


def stray_quote(text: TextFile, separator: str) -> str:
    """The line for a quote inside a cell that does not begin with one, as in ``19" screen``; empty if there is none."""
    inside = re.compile(f'(^|{re.escape(separator)})[^"{re.escape(separator)}]+"')
    for number, line in enumerate(text.lines(), 1):
        if found := inside.search(line):
            cell = shown(line[found.start() :].strip(separator).split(separator)[0].rstrip(), MOST_SHOWN)
            allowed = "the cell in quotes, and each inside doubled"
            return f"{text.name}, line {number}: {cell} has a quote inside; allowed: {allowed}"
    return ""


def separator_of(text: TextFile) -> str:
    """Tab, comma or semicolon: the first of them that the header line has."""
    first = next(text.lines(), "")
    return next((mark for mark in ("\t", ",", ";") if mark in first), ",")


def header_of(text: TextFile, separator: str, needed: Sequence[str] = ()) -> list[str]:
    """Column names of line 1; :class:`UserError` when one is empty or repeated or ``needed`` and absent."""
    where = f"{text.name}, line 1"
    try:
        columns = next(csv.reader([next(text.lines())], delimiter=separator), [""])
    except csv.Error as error:
        raise UserError(f"{where}: {one_line(error)}; allowed: a header that names every column") from None
    absent = [name for name in needed if name not in columns]
    if needed and len(absent) == len(needed):
        begins = shown(columns[0], MOST_SHOWN)
        raise UserError(f"{where}: no header (it begins with {begins}); allowed: {', '.join(needed)}")
    if absent:
        raise UserError(f"{where}: no column {absent[0]!r} in the header; allowed: {', '.join(needed)}")
    for place, name in enumerate(columns, 1):
        if not name.strip():
            raise UserError(f"{where}, column {place}: no name; allowed: a header that names every column")
        if name in columns[: place - 1]:
            problem = f"{shown(name, MOST_SHOWN)} names two columns (is the header line missing?)"
            raise UserError(f"{where}, column {place}: {problem}; allowed: unique names")
    return columns


LABELS = {"0": 0, "1": 1}
ANY_LABELS = {**LABELS, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "False": 0, "True": 1}


def labels_of(
    cells: Cells, column: str, explain: Callable[[], int] | None, name: str, known: dict[str, int] = LABELS
) -> np.ndarray:
    """Labels (N,) uint8 from a column of cells; when one is none, ``explain`` is to say where. Both must occur."""
    values, numbers = cells.values(column).cast(pl.String), cells.column(column)
    labels = values.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.UInt8)
    need_all(numbers, labels.is_null(), values, explain, name, "allowed: 0 or 1")
    found = labels.fill_null(0).to_numpy().take(numbers)
    if found.min() == found.max():
        problem = f"all {len(found):,} labels are {found[0]}"
        raise UserError(f"{name}, column {column}: {problem}; allowed: some rows with 0 and some with 1")
    return found


def need_all(
    numbers: np.ndarray, bad: pl.Series, values: pl.Series, explain: Callable[[], int] | None, name: str, allowed: str
) -> None:
    """Raise :class:`UserError` for the first of the rows' ``numbers`` that is one of the ``bad`` of its ``values``."""
    rows = np.flatnonzero(bad.to_numpy().take(numbers))
    if not len(rows):
        return
    if explain:
        explain()
    value = values[int(numbers[rows[0]])]
    problem = "no value" if value is None else shown(str(value), MOST_SHOWN)
    raise UserError(f"{name}, row {rows[0] + 1}, column {values.name}: {problem}; {allowed}")
