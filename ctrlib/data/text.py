"""Text files: opening them whole, reading them with polars, and finding the first bad line.

:func:`read_delimited` reads with polars; only when that fails, or a count over the whole file does not add up, the
slow line-by-line :func:`scan` looks for the first bad line and names it.
"""

import csv
import gzip
import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.errors import UserError

INTEGER = re.compile(r"[+-]?[0-9]+")
_BLOCK = 1 << 24  # bytes

# What zipfile raises for a damaged file, besides OSError: among them the wrong text of a name, and unknown packing.
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)

RowCheck = Callable[[list[str], str], None]


@dataclass(frozen=True)
class Text:
    """The bytes of a text file: mapped from disk when plain (``on_disk``), in memory otherwise.

    It may be a part of the file: then ``first`` is the number of its first line, and ``last`` says whether the file
    ends with it.
    """

    name: str
    content: bytes | mmap.mmap
    on_disk: Path | None = None
    first: int = 1
    last: bool = True

    def polars_source(self) -> Path | io.BytesIO:
        """What to hand to ``polars.read_csv``."""
        return self.on_disk or io.BytesIO(self.content)

    def blocks(self) -> Iterator[np.ndarray]:
        """The bytes as uint8 arrays of limited size."""
        for start in range(0, len(self.content), _BLOCK):
            yield np.frombuffer(self.content, np.uint8, min(_BLOCK, len(self.content) - start), start)

    def count(self, byte: int) -> int:
        """How often a byte occurs."""
        return sum(int(np.count_nonzero(block == byte)) for block in self.blocks())

    def ends_with_newline(self) -> bool:
        return self.content[-1:] == b"\n"

    def line_count(self) -> int:
        return self.count(ord("\n")) + (not self.ends_with_newline())

    def lines(self) -> Iterator[bytes]:
        """The lines with their ends."""
        start, size = 0, len(self.content)
        while start < size:
            stop = self.content.find(b"\n", start) + 1 or size
            yield self.content[start:stop]
            start = stop


def open_file(path: Path) -> io.BufferedReader:
    """Open a raw file for reading; :class:`UserError` when it is missing, empty, a folder or not readable."""
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


def open_text(path: Path, lines: int | None = None) -> Text:
    """Open a plain or gzip text file, at most its first ``lines`` lines; blank lines at its end are left out."""
    path = Path(path)
    with open_file(path) as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        if packed:
            text = Text(str(path), unpack(path, file, lines))
        elif path.suffix == ".gz":
            raise UserError(f"{path}: damaged gzip (it does not begin like one); rename it if it is plain text")
        else:
            text = Text(str(path), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
            if lines is not None:
                text = Text(str(path), b"".join(take(text.lines(), lines)))
    if text.content[-2:] == b"\n\n" or text.content[-4:] == b"\r\n\r\n":
        text = Text(str(path), text.content[:].rstrip(b"\r\n") + b"\n")
    if not text.content[:1000].strip() and not text.content[:].strip():
        raise UserError(f"{path}: the file is empty")
    return text


def unpack(path: Path, file: io.BufferedReader, lines: int | None) -> bytes:
    """Decompress gzip content in memory, up to ``lines`` lines; :class:`UserError` if it would not fit there."""
    done, most = io.BytesIO(), most_unpacked()
    missing = math.inf if lines is None else lines
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while missing > 0 and (block := unpacked.read(_BLOCK)):
                missing -= block.count(b"\n")
                done.write(block)
                if done.tell() > most:
                    problem = f"unpacks to more than the {most / 1e9:,.1f} GB of memory that are free"
                    raise UserError(f"{path}: {problem}; allowed: fewer --rows")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip after {done.tell():,} unpacked bytes"
        raise UserError(f"{path}: {problem} ({one_line(error)}); download or copy it again") from None
    if missing >= 0:
        return done.getvalue()
    return b"".join(take(io.BytesIO(done.getvalue()), lines))


def most_unpacked() -> int:
    """Bytes that unpacked text may take: half of the memory that is free, as what is read from it needs some too."""
    import psutil

    return psutil.virtual_memory().available // 2


def take(lines: Iterable[bytes], count: int) -> Iterator[bytes]:
    return (line for _, line in zip(range(count), lines, strict=False))


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".")[:200]


def shown(value: str) -> str:
    """A value as it appears in a message: quoted and not longer than 40 characters."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


def decoded(text: Text) -> Iterator[str]:
    for number, line in enumerate(text.lines(), text.first):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
            raise UserError(f"{text.name}, line {number}: {byte} is not UTF-8; allowed: UTF-8 text") from None


def scan(text: Text, columns: Sequence[str], separator: str, header: bool, quoted: bool, check: RowCheck) -> None:
    """Read line by line; raise :class:`UserError` for the first line that is not as it should be.

    ``check(cells, where)`` judges the values of a row; ``where`` is the beginning of its message (file and line).
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(decoded(text), delimiter=separator, quoting=quoting, strict=True)
    kind = {"\t": "tab", ",": "comma"}.get(separator, repr(separator))
    short = None
    try:
        for cells in reader:
            if short:
                break
            line = text.first + reader.line_num - 1
            where = f"{text.name}, line {line}"
            if line == 1 and header:
                continue
            if len(cells) != len(columns):
                number = f"{len(cells)} column{'s' * (len(cells) != 1)}"
                short = f"{where}: {number}; allowed: {len(columns)}, {kind}-separated"
                if len(cells) > len(columns):
                    break
                continue  # whether this is the last line decides what to say
            check(cells, where)
        else:
            if short and text.last:
                short += " (it is the last line: the file seems cut off there)"
    except csv.Error as error:
        problem = f"{one_line(error)}; allowed: valid {kind}-separated text"
        raise UserError(f"{text.name}, line {text.first + reader.line_num - 1}: {problem}") from None
    if short:
        raise UserError(short)


def read_delimited(
    text: Text,
    columns: Sequence[str],
    separator: str,
    explain: Callable[[], None],
    header: bool = True,
    quoted: bool = False,
    numbers: Sequence[str] = (),
) -> pl.DataFrame:
    """All rows as String columns (``numbers`` as Int64), null = empty.

    ``explain`` is the slow scan; it is called when something is wrong and raises :class:`UserError` with the line.
    """
    # polars fills short rows with nulls in silence, so the separators are counted; it does refuse long rows.
    if quoted or text.count(ord(separator)) != (len(columns) - 1) * text.line_count():
        explain()
    schema = {name: pl.Int64 if name in numbers else pl.String for name in columns}
    try:
        frame = pl.read_csv(
            text.polars_source(),
            separator=separator,
            has_header=header,
            schema=schema,
            quote_char='"' if quoted else None,
        )
    except pl.exceptions.PolarsError as error:
        explain()
        raise UserError(f"{text.name}: cannot be read ({one_line(error)})") from None
    if frame.height == 0:
        raise UserError(f"{text.name}: no rows below the header line")
    return frame


def text_labels(values: pl.Series, explain: Callable[[], None], where: str) -> np.ndarray:
    """Labels (N,) uint8 from text; when one is not 0 or 1, ``explain`` is to say where."""
    if not (bad := ~values.is_in(["0", "1"]).fill_null(False)).any():
        return (values == "1").to_numpy().astype(np.uint8)
    explain()
    row = bad.arg_max()
    raise UserError(f"{where}, row {row + 1}, column {values.name}: {values[row]!r}; allowed: 0 or 1")


def need_both(labels: np.ndarray, path: Path | str, column: str) -> None:
    if labels.min() == labels.max():
        problem = f"all {len(labels):,} labels are {labels[0]}"
        raise UserError(f"{path}, column {column}: {problem}; allowed: some rows with 0 and some with 1")


def separator_of(text: Text) -> str:
    """Tab, comma or semicolon: the first of them that the header line has."""
    first = next(text.lines())
    return next((mark for mark in ("\t", ",", ";") if mark.encode() in first), ",")


def header_of(text: Text, separator: str, needed: Sequence[str] = ()) -> list[str]:
    """Column names of line 1; :class:`UserError` when one is empty or repeated or ``needed`` and absent."""
    where = f"{text.name}, line 1"
    try:
        columns = next(csv.reader([next(decoded(text))], delimiter=separator))
    except csv.Error as error:
        raise UserError(f"{where}: {one_line(error)}; allowed: a header that names every column") from None
    absent = [name for name in needed if name not in columns]
    if needed and len(absent) == len(needed):
        raise UserError(f"{where}: no header (it begins with {shown(columns[0])}); allowed: {', '.join(needed)}")
    if absent:
        raise UserError(f"{where}: no column {absent[0]!r} in the header; allowed: {', '.join(needed)}")
    for place, name in enumerate(columns, 1):
        if not name.strip():
            raise UserError(f"{where}, column {place}: no name; allowed: a header that names every column")
        if name in columns[: place - 1]:
            problem = f"{shown(name)} names two columns (is the header line missing?)"
            raise UserError(f"{where}, column {place}: {problem}; allowed: unique names")
    return columns
