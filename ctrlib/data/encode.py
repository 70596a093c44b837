"""Raw rows to integer codes.

Reading: one function per layout (:func:`read_criteo`, :func:`read_avazu`, :func:`read_frappe`, :func:`read_table`)
gives :class:`Rows`. Each reads with polars; only when that fails, or a count over the whole file does not add up, a
slow line-by-line scan looks for the first bad line and names it.

Encoding: :func:`fit_vocabulary` sees training rows only and gives the codes 1, 2, ... of each field to its values,
the most frequent first (equal counts: in order of value). Rarer values, and values that training never shows, get
code 0. A missing value (null here, "" in stored vocabularies) is a value like any other.
"""

import csv
import gzip
import io
import math
import mmap
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.config import derive_seed
from ctrlib.data.table import OOV
from ctrlib.errors import UserError, unknown

CRITEO_NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CRITEO_CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
CRITEO_COLUMNS = ("label", *CRITEO_NUMBERS, *CRITEO_CATEGORIES)
AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
FRAPPE_COLUMNS = (
    *("user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
MOST_CATEGORIES = 1000  # a column of whole numbers with more distinct training values is taken as numeric
LARGEST_MEMBER = 1 << 30  # bytes; a larger file inside a zip is refused
_INTEGER = re.compile(r"[+-]?[0-9]+")
_BLOCK = 1 << 24  # bytes
_ROW_BLOCK = 1 << 14
_QUOTE = ord('"')

RowCheck = Callable[[list[str], str], None]


@dataclass(frozen=True)
class Rows:
    """Raw rows of any layout.

    ``features``: N rows, one String or Int64 column per field (null = missing); Float64 columns still need buckets.
    ``labels``: (N,) uint8. ``time``: N sortable values, where the layout has a time. ``numeric``: columns to cut into
    quantile buckets. ``undecided``: columns of whole numbers whose kind depends on how many values training shows.
    """

    features: pl.DataFrame
    labels: np.ndarray
    time: pl.Series | None = None
    numeric: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


# --- text: opening, counting, and finding the first bad line ---------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """The bytes of a text file: mapped from disk when plain (``on_disk``), in memory otherwise."""

    name: str
    content: bytes | mmap.mmap
    on_disk: Path | None = field(default=None)

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
            text = Text(str(path), _unpack(path, file, lines))
        elif path.suffix == ".gz":
            raise UserError(f"{path}: damaged gzip (it does not begin like one); rename it if it is plain text")
        else:
            text = Text(str(path), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
            if lines is not None:
                text = Text(str(path), b"".join(_take(text.lines(), lines)))
    if text.content[-2:] == b"\n\n" or text.content[-4:] == b"\r\n\r\n":
        text = Text(str(path), text.content[:].rstrip(b"\r\n") + b"\n")
    if not text.content[:1000].strip() and not text.content[:].strip():
        raise UserError(f"{path}: the file is empty")
    return text


def _unpack(path: Path, file: io.BufferedReader, lines: int | None) -> bytes:
    """Decompress gzip content in memory, up to ``lines`` lines."""
    done = io.BytesIO()
    missing = math.inf if lines is None else lines
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while missing > 0 and (block := unpacked.read(_BLOCK)):
                missing -= block.count(b"\n")
                done.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip after {done.tell():,} unpacked bytes"
        raise UserError(f"{path}: {problem} ({_one_line(error)}); download or copy it again") from None
    if missing >= 0:
        return done.getvalue()
    return b"".join(_take(io.BytesIO(done.getvalue()), lines))


def _take(lines: Iterable[bytes], count: int) -> Iterator[bytes]:
    return (line for _, line in zip(range(count), lines, strict=False))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".")[:200]


def _shown(value: str) -> str:
    """A value as it appears in a message: quoted and not longer than 40 characters."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


def _decoded(text: Text) -> Iterator[str]:
    for number, line in enumerate(text.lines(), 1):
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
    reader = csv.reader(_decoded(text), delimiter=separator, quoting=quoting, strict=True)
    kind = {"\t": "tab", ",": "comma"}.get(separator, repr(separator))
    short = None
    try:
        for cells in reader:
            if short:
                break
            where = f"{text.name}, line {reader.line_num}"
            if reader.line_num == 1 and header:
                continue
            if len(cells) != len(columns):
                number = f"{len(cells)} column{'s' * (len(cells) != 1)}"
                short = f"{where}: {number}; allowed: {len(columns)}, {kind}-separated"
                if len(cells) > len(columns):
                    break
                continue  # whether this is the last line decides what to say
            check(cells, where)
        else:
            if short:
                short += " (it is the last line: the file seems cut off there)"
    except csv.Error as error:
        problem = f"{_one_line(error)}; allowed: valid {kind}-separated text"
        raise UserError(f"{text.name}, line {reader.line_num}: {problem}") from None
    if short:
        raise UserError(short)


def _read_delimited(
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
        raise UserError(f"{text.name}: cannot be read ({_one_line(error)})") from None
    if frame.height == 0:
        raise UserError(f"{text.name}: no rows below the header line")
    return frame


def _labels(values: pl.Series, explain: Callable[[], None], where: str) -> np.ndarray:
    """Labels (N,) uint8 from text; when one is not 0 or 1, ``explain`` is to say where."""
    if not (bad := ~values.is_in(["0", "1"]).fill_null(False)).any():
        return (values == "1").to_numpy().astype(np.uint8)
    explain()
    row = bad.arg_max()
    raise UserError(f"{where}, row {row + 1}, column {values.name}: {values[row]!r}; allowed: 0 or 1")


def _need_both(labels: np.ndarray, path: Path | str, column: str) -> None:
    if labels.min() == labels.max():
        problem = f"all {len(labels):,} labels are {labels[0]}"
        raise UserError(f"{path}, column {column}: {problem}; allowed: some rows with 0 and some with 1")


# --- layouts ---------------------------------------------------------------------------------------------------------


def read_criteo(path: Path, rows: int | None = None) -> Rows:
    """Criteo Display Advertising rows: 40 tab-separated columns (label, I1-I13, C1-C26), no header, empty = missing.

    A number x > 2 becomes floor(ln(x)^2) and every other number stays itself, so neighbouring large counts share a
    category (and 1 shares one with 3 and 4: the convention of the public benchmark).
    """
    text = open_text(path, rows)

    def check(cells: list[str], where: str) -> None:
        if cells[0] not in ("0", "1"):
            if where.endswith("line 1") and not _INTEGER.fullmatch(cells[0]):
                raise UserError(f"{where}: {_shown(cells[0])} looks like a header; allowed: no header, rows only")
            raise UserError(f"{where}, column label: {_shown(cells[0])}; allowed: 0 or 1")
        for name, value in zip(CRITEO_NUMBERS, cells[1:14], strict=True):
            if value and not (_INTEGER.fullmatch(value) and -(2**63) <= int(value) < 2**63):
                raise UserError(f"{where}, column {name}: {_shown(value)}; allowed: a whole number or nothing")

    def explain() -> None:
        scan(text, CRITEO_COLUMNS, "\t", header=False, quoted=False, check=check)

    frame = _read_delimited(text, CRITEO_COLUMNS, "\t", explain, header=False, numbers=CRITEO_NUMBERS)
    labels = _labels(frame["label"], explain, text.name)
    last = frame["C26"][-1]
    if not text.ends_with_newline() and last and frame.height > 1:
        usual = frame["C26"][:-1].drop_nulls().str.len_chars()
        if len(usual) and len(last) < usual.min() == usual.max():
            problem = f"{_shown(last)} is shorter than every other value ({usual.min()} characters)"
            raise UserError(f"{text.name}, line {frame.height}, column C26: {problem}: the file seems cut off there")
    _need_both(labels, text.name, "label")
    return Rows(frame.select(*(bucket_count(pl.col(name)) for name in CRITEO_NUMBERS), *CRITEO_CATEGORIES), labels)


def bucket_count(number: pl.Expr) -> pl.Expr:
    """Criteo's numeric transform: floor(ln(x)^2) for x > 2, x itself otherwise; null stays null."""
    squared = number.clip(lower_bound=1).cast(pl.Float64).log().pow(2).floor().cast(pl.Int64)
    return pl.when(number > 2).then(squared).otherwise(number)


def read_avazu(path: Path, rows: int | None = None) -> Rows:
    """Avazu rows: comma-separated with a header and 24 columns.

    ``id`` is dropped (it names one row); ``hour`` (YYMMDDHH) becomes hour (0-23), weekday (0 = Monday) and weekend
    (0/1), and is the time by which rows can be split. All fields are categories.
    """
    text = open_text(path, None if rows is None else rows + 1)
    columns = _header(text, ",", AVAZU_COLUMNS)
    label, hour = columns.index("click"), columns.index("hour")

    def check(cells: list[str], where: str) -> None:
        if cells[label] not in ("0", "1"):
            raise UserError(f"{where}, column click: {_shown(cells[label])}; allowed: 0 or 1")
        if _moment(cells[hour]) is None:
            raise UserError(f"{where}, column hour: {_shown(cells[hour])}; allowed: YYMMDDHH, for example 14102123")

    def explain() -> None:
        scan(text, columns, ",", header=True, quoted=False, check=check)

    frame = _read_delimited(text, columns, ",", explain)
    labels = _labels(frame["click"], explain, text.name)
    if not text.ends_with_newline() and frame[columns[-1]][-1] is None:
        raise UserError(f"{text.name}, line {text.line_count()}: ends after a comma: the file seems cut off there")
    hours = {value: _moment(value or "") for value in frame["hour"].unique()}
    if None in hours.values():
        explain()
    known = [value for value in hours if hours[value]]

    def part(name: str, of: Callable[[datetime], int]) -> pl.Expr:
        return pl.col("hour").replace_strict(known, [of(hours[v]) for v in known], return_dtype=pl.Int64).alias(name)

    features = frame.select(
        part("hour", lambda moment: moment.hour),
        part("weekday", lambda moment: moment.weekday()),
        part("weekend", lambda moment: int(moment.weekday() >= 5)),
        *(name for name in AVAZU_COLUMNS if name not in ("id", "click", "hour")),
    )
    _need_both(labels, text.name, "click")
    return Rows(features, labels, time=frame["hour"])


def _moment(value: str) -> datetime | None:
    """Avazu's YYMMDDHH as a datetime; None when it is not one."""
    if not re.fullmatch(r"[0-9]{8}", value):
        return None
    try:
        return datetime.strptime(value, "%y%m%d%H")
    except ValueError:
        return None


def read_frappe(path: Path, negatives: int = 2, seed: int = 0, rows: int | None = None) -> Rows:
    """The Frappe app log (its zip, or frappe.csv out of it) plus drawn negatives.

    The log holds positives only: user, item and context. ``cnt`` is dropped: it counts uses after the choice, and a
    drawn negative has none. For each positive, ``negatives`` items are drawn (:func:`draw_negatives`); such a row keeps
    the user and the context of its positive. ``cost`` (free or paid) describes the app, not the context, so it follows
    the drawn item: keeping the cost of the positive would tell a model which rows are made up.
    """
    path = Path(path)
    text = _frappe_text(path, None if rows is None else rows + 1)
    columns = _header(text, "\t", FRAPPE_COLUMNS)
    count = columns.index("cnt")

    def check(cells: list[str], where: str) -> None:
        if not _INTEGER.fullmatch(cells[count]):
            raise UserError(f"{where}, column cnt: {_shown(cells[count])}; allowed: a whole number")

    def explain() -> None:
        scan(text, columns, "\t", header=True, quoted=False, check=check)

    frame = _read_delimited(text, columns, "\t", explain, numbers=("cnt",))
    positives = frame.select(name for name in FRAPPE_COLUMNS if name != "cnt")
    users, items = (positives[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user", "item"))
    try:
        drawn = draw_negatives(users, items, negatives, derive_seed("negatives", seed))
    except ValueError as error:
        raise UserError(f"{text.name}: {error}") from None
    catalogue = positives.select("item", "cost").unique("item", keep="first").sort("item")
    origin = np.repeat(np.arange(len(positives)), negatives)
    made = positives[origin].with_columns(catalogue["item"].gather(drawn), catalogue["cost"].gather(drawn))
    labels = np.concatenate([np.ones(len(positives), np.uint8), np.zeros(len(made), np.uint8)])
    return Rows(pl.concat([positives, made]), labels)


def draw_negatives(users: np.ndarray, items: np.ndarray, per_row: int, seed: int) -> np.ndarray:
    """Item codes (N * per_row,), for row 0 first: uniform over all items that the row's user never used in the log.

    ``users`` and ``items`` are (N,) codes 0, 1, ...; draws are independent, so an item may come twice. Raises
    ValueError when some user has used every item.
    """
    size = int(items.max()) + 1
    used = np.unique(users * size + items)
    if np.bincount(used // size).max() == size:
        raise ValueError(f"a user has used all {size} items, so no negative can be drawn; allowed: negatives = 0")
    rng = np.random.default_rng(seed)
    owner = np.repeat(users, per_row)
    drawn = rng.integers(0, size, len(owner))
    wrong = np.arange(len(owner))
    while len(wrong):
        pair = owner[wrong] * size + drawn[wrong]
        place = np.minimum(np.searchsorted(used, pair), len(used) - 1)
        wrong = wrong[used[place] == pair]
        drawn[wrong] = rng.integers(0, size, len(wrong))
    return drawn


def _frappe_text(path: Path, lines: int | None) -> Text:
    """The log as text: ``frappe.csv`` out of the zip, read in memory (nothing is unpacked to disk), or the file."""
    with open_file(path) as file:
        if file.peek(2)[:2] != b"PK" and path.suffix != ".zip":
            return open_text(path, lines)
        try:
            with zipfile.ZipFile(file) as archive:
                found = [info for info in archive.infolist() if info.filename.split("/")[-1] == "frappe.csv"]
                if len(found) != 1:
                    raise UserError(f"{path}: {len(found)} files named frappe.csv in the zip; allowed: exactly 1")
                if found[0].file_size > LARGEST_MEMBER:
                    problem = f"frappe.csv has {found[0].file_size:,} bytes"
                    raise UserError(f"{path}: {problem}; allowed: at most {LARGEST_MEMBER:,}")
                content = archive.read(found[0])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{path}: damaged zip ({_one_line(error)}); download or copy it again") from None
    if not content.strip():
        raise UserError(f"{path}, frappe.csv: the file is empty")
    if lines is not None:
        content = b"".join(_take(io.BytesIO(content), lines))
    return Text(f"{path}, frappe.csv", content)


def read_table(
    path: Path,
    label: str = "label",
    drop: Sequence[str] = (),
    numeric: Sequence[str] = (),
    categorical: Sequence[str] = (),
    time_column: str | None = None,
    rows: int | None = None,
) -> Rows:
    """Any Parquet file, or any CSV/TSV (plain or gzip) with a header, and a column of labels 0/1.

    ``drop``, ``numeric`` and ``categorical`` hold column names or patterns such as ``C*``. Fractions are numeric,
    text is categorical, and whole numbers are ``undecided`` unless named. ``time_column`` is no feature.
    """
    path = Path(path)
    with open_file(path) as file:
        parquet = file.peek(4)[:4] == b"PAR1" or path.suffix in (".parquet", ".pq")
    if parquet:
        frame, explain = _read_parquet(path, rows), None
        columns = frame.columns
    else:
        text = open_text(path, None if rows is None else rows + 1)
        separator = _separator(text)
        columns = _header(text, separator)
    roles = _roles(path, columns, label, drop, numeric, categorical, time_column)
    if not parquet:
        places = [(name, columns.index(name)) for name in roles["numeric"]]
        target = columns.index(label)
        quoted = text.count(_QUOTE) > 0

        def check(cells: list[str], where: str) -> None:
            if cells[target] not in _LABELS:
                raise UserError(f"{where}, column {label}: {_shown(cells[target])}; allowed: 0 or 1")
            if time_column is not None and not cells[columns.index(time_column)]:
                raise UserError(f"{where}, column {time_column}: no value; allowed: a time in every row")
            for name, place in places:
                if cells[place] and not _is_number(cells[place]):
                    raise UserError(f"{where}, column {name}: {_shown(cells[place])}; allowed: a number or nothing")

        def explain() -> None:
            scan(text, columns, separator, header=True, quoted=quoted, check=check)

        frame = _read_delimited(text, columns, separator, explain, quoted=quoted)
    labels = _table_labels(frame[label], explain, path)
    _need_both(labels, path, label)
    features, sure, undecided = {}, [], []
    for name in roles["features"]:
        values = _plain_column(frame[name], path)
        if name in roles["categorical"]:
            values = values.cast(pl.String) if values.dtype == pl.Float64 else values
        elif name in roles["numeric"]:
            values = _as_numbers(values, explain, path)
            sure.append(name)
        elif values.dtype == pl.Float64:
            sure.append(name)
        elif values.dtype == pl.Int64 or _all_cast(values, pl.Int64):
            undecided.append(name)
            values = _whole(values)
        elif _all_cast(values, pl.Float64):
            values = values.cast(pl.Float64)
            sure.append(name)
        features[name] = values
    time = None if time_column is None else _time(frame[time_column], explain, path)
    return Rows(pl.DataFrame(features), labels, time, tuple(sure), tuple(undecided))


_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "False": 0, "True": 1}


def _table_labels(values: pl.Series, explain: Callable[[], None] | None, path: Path) -> np.ndarray:
    """Labels (N,) uint8 from numbers, booleans or text."""
    known = values.cast(pl.String).replace_strict(
        list(_LABELS), list(_LABELS.values()), default=None, return_dtype=pl.UInt8
    )
    if (bad := known.is_null()).any():
        if explain:
            explain()
        row = bad.arg_max()
        raise UserError(f"{path}, row {row + 1}, column {values.name}: {values[row]!r}; allowed: 0 or 1")
    return known.to_numpy().astype(np.uint8)


def _roles(
    path: Path,
    columns: Sequence[str],
    label: str,
    drop: Sequence[str],
    numeric: Sequence[str],
    categorical: Sequence[str],
    time_column: str | None,
) -> dict[str, list[str]]:
    """Which columns are features, which of them numeric or categorical by name; :class:`UserError` for a wrong name."""

    def matching(role: str, patterns: Sequence[str]) -> list[str]:
        for pattern in patterns:
            if not any(name == pattern or fnmatchcase(name, pattern) for name in columns):
                raise UserError(f"{path}: {unknown(f'{role} column', pattern, columns)}")
        return [n for n in columns if any(n == pattern or fnmatchcase(n, pattern) for pattern in patterns)]

    if label not in columns:
        raise UserError(f"{path}: {unknown('label column', label, columns)}")
    if time_column is not None and time_column not in columns:
        raise UserError(f"{path}: {unknown('time column', time_column, columns)}")
    out = {label, time_column, *matching("drop", drop)}
    roles = {"numeric": matching("numeric", numeric), "categorical": matching("categorical", categorical)}
    for role, names in (("drop", drop), ("numeric", numeric), ("categorical", categorical)):
        if label in names:
            raise UserError(f"{path}, column {label}: is the label; allowed as {role}: any other column")
    if both := [name for name in roles["numeric"] if name in roles["categorical"]]:
        raise UserError(f"{path}, column {both[0]}: is named as numeric and as categorical; allowed: one of them")
    roles["features"] = [name for name in columns if name not in out]
    if not roles["features"]:
        raise UserError(f"{path}: no column is left as a feature; allowed: at least one besides the label")
    roles["numeric"] = [name for name in roles["numeric"] if name in roles["features"]]
    return roles


def _read_parquet(path: Path, rows: int | None) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path, n_rows=rows)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: damaged Parquet ({_one_line(error)}); copy or write it again") from None
    if frame.height == 0:
        raise UserError(f"{path}: no rows")
    return frame


def _plain_column(values: pl.Series, path: Path) -> pl.Series:
    """A column as Int64, Float64 or String, with empty text and NaN as null."""
    kind = values.dtype
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise UserError(
            f"{path}, column {values.name}: holds {kind}; allowed: numbers, text, booleans, dates (or drop it)"
        )
    if kind.is_float() or kind.is_decimal():
        return values.cast(pl.Float64).fill_nan(None)
    if kind.is_integer() and kind != pl.UInt64:
        return values.cast(pl.Int64)
    text = values.cast(pl.String)
    return text.replace("", None) if (text == "").any() else text


def _all_cast(values: pl.Series, kind: type[pl.DataType]) -> bool:
    """Whether every text that is not missing reads as ``kind``, and there is one."""
    if values.dtype != pl.String or values.null_count() == len(values):
        return False
    if values.head(1000).cast(kind, strict=False).null_count() > values.head(1000).null_count():
        return False
    return values.cast(kind, strict=False).null_count() == values.null_count()


def _whole(values: pl.Series) -> pl.Series:
    """Whole numbers as Int64, unless that would lose something, as with the text 007."""
    made = values.cast(pl.Int64)
    return made if values.dtype == pl.Int64 or (made.cast(pl.String) == values).all() else values


def _as_numbers(values: pl.Series, explain: Callable[[], None] | None, path: Path) -> pl.Series:
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() > values.null_count():
        if explain:
            explain()
        row = (numbers.is_null() & values.is_not_null()).arg_max()
        place = f"{path}, row {row + 1}, column {values.name}"
        raise UserError(f"{place}: {_shown(str(values[row]))}; allowed: a number or nothing")
    return numbers.fill_nan(None)


def _is_number(value: str) -> bool:
    return pl.Series([value]).cast(pl.Float64, strict=False)[0] is not None


def _time(values: pl.Series, explain: Callable[[], None] | None, path: Path) -> pl.Series:
    """A sortable time column: numbers as numbers, anything else as it is."""
    if (missing := values.is_null()).any():
        if explain:
            explain()
        row = missing.arg_max()
        raise UserError(f"{path}, row {row + 1}, column {values.name}: no value; allowed: a time in every row")
    return values.cast(pl.Float64) if _all_cast(values, pl.Float64) else values


def _separator(text: Text) -> str:
    """Tab, comma or semicolon: the first of them that the header line has."""
    first = next(text.lines())
    return next((mark for mark in ("\t", ",", ";") if mark.encode() in first), ",")


def _header(text: Text, separator: str, needed: Sequence[str] = ()) -> list[str]:
    """Column names of line 1; :class:`UserError` when one is empty or repeated or ``needed`` and absent."""
    where = f"{text.name}, line 1"
    columns = next(csv.reader([next(_decoded(text))], delimiter=separator))
    absent = [name for name in needed if name not in columns]
    if needed and len(absent) == len(needed):
        raise UserError(f"{where}: no header (it begins with {_shown(columns[0])}); allowed: {', '.join(needed)}")
    if absent:
        raise UserError(f"{where}: no column {absent[0]!r} in the header; allowed: {', '.join(needed)}")
    for place, name in enumerate(columns, 1):
        if not name.strip():
            raise UserError(f"{where}, column {place}: no name; allowed: a header that names every column")
        if name in columns[: place - 1]:
            problem = f"{_shown(name)} names two columns (is the header line missing?)"
            raise UserError(f"{where}, column {place}: {problem}; allowed: unique names")
    return columns


# --- splits, buckets, vocabularies, codes ----------------------------------------------------------------------------


def split_rows(total: int, shares: tuple[float, float, float], order: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of train, valid and test: the first, middle and last shares of ``order``, each sorted."""
    first = math.floor(total * shares[0] + 0.5)
    second = first + math.floor(total * shares[1] + 0.5)
    cuts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {part: np.sort(rows) for part, rows in cuts.items()}


def random_order(total: int, seed: int) -> np.ndarray:
    """A permutation of the row numbers (total,) for a random split."""
    return np.random.default_rng(seed).permutation(total)


def time_order(time: pl.Series) -> np.ndarray:
    """Row numbers from the earliest to the latest; rows of one time keep their order."""
    return time.to_frame("time").with_row_index().sort("time", maintain_order=True)["index"].to_numpy().astype(np.int64)


def choose_numeric(rows: Rows, train: np.ndarray) -> tuple[str, ...]:
    """Columns that become quantile buckets: the sure ones, and whole numbers with many distinct training values."""
    many = [c for c in rows.undecided if rows.features[c].gather(train).n_unique() > MOST_CATEGORIES]
    return tuple(c for c in rows.features.columns if c in rows.numeric or c in many)


def fit_buckets(train: pl.Series, buckets: int) -> np.ndarray:
    """Upper edges (at most ``buckets`` - 1, ascending) that cut the training values into equally full buckets."""
    values = np.sort(train.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy())
    if len(values) == 0:
        return np.empty(0)
    places = [math.ceil(k * len(values) / buckets) - 1 for k in range(1, buckets)]
    return np.unique(values[np.maximum(places, 0)]) if places else np.empty(0)


def apply_buckets(values: pl.Series, edges: np.ndarray) -> pl.Series:
    """Bucket number (Int64) of each value: how many edges lie below it; missing stays missing."""
    values = values.cast(pl.Float64).fill_nan(None)
    number = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="left").astype(np.int64)
    return pl.Series(values.name, number).set(values.is_null(), None)


def fit_vocabulary(train: pl.DataFrame, min_count: int) -> dict[str, pl.DataFrame]:
    """Per field a frame (value, code) of every value seen at least ``min_count`` times in the training rows.

    Codes are 1, 2, ... by falling count, equal counts by value (missing first); code 0 is left to all other values.
    """
    return {
        name: train.select(pl.col(name).alias("value"))
        .group_by("value")
        .agg(pl.len().alias("count"))
        .filter(pl.col("count") >= min_count)
        .with_columns(pl.col("value").cast(_stored(train[name].dtype)))
        .sort("count", "value", descending=[True, False], nulls_last=False)
        .select("value", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("code"))
        for name in train.columns
    }


def encode(frame: pl.DataFrame, vocabulary: dict[str, pl.DataFrame]) -> np.ndarray:
    """Codes (N, F) int32 of the fields of ``vocabulary``, in its order; 0 for values that it does not hold."""
    ids = np.empty((frame.height, len(vocabulary)), dtype=np.int32)
    for place, (name, codes) in enumerate(vocabulary.items()):
        ids[:, place] = _codes(frame[name], codes)
    return ids


def _codes(values: pl.Series, codes: pl.DataFrame) -> np.ndarray:
    """Codes (N,) int32 of one column."""
    known = codes["value"].cast(values.dtype)
    return values.replace_strict(known, codes["code"], default=OOV, return_dtype=pl.Int32).to_numpy()


def _stored(kind: pl.DataType) -> pl.DataType:
    """The type in which a vocabulary holds values: text for Categorical (whose own order is not that of the text)."""
    return pl.String() if kind == pl.Categorical else kind


def encode_draw(
    features: pl.DataFrame,
    parts: dict[str, np.ndarray],
    min_count: int,
    numeric: Sequence[str] = (),
    buckets: int = 20,
) -> tuple[dict[str, np.ndarray], pl.DataFrame, tuple[int, ...]]:
    """Codes (n, F) int32 of each part, with vocabulary and buckets fitted on ``parts["train"]`` alone.

    ``parts`` are row numbers. Also returns the vocabulary as one frame (field, value, code) and the number of codes of
    each field. Works column by column, so that only one is copied at a time.
    """
    by_field = np.empty((features.width, features.height), dtype=np.int32)
    tables = []
    for place, name in enumerate(features.columns):
        values = features[name]
        train = values.gather(parts["train"])
        if name in numeric:
            edges = fit_buckets(train, buckets)
            values, train = apply_buckets(values, edges), apply_buckets(train, edges)
        table = fit_vocabulary(train.to_frame(), min_count)[name]
        by_field[place] = _codes(values, table)
        stored = table.select(
            pl.lit(name).alias("field"), pl.col("value").cast(pl.String).fill_null(""), pl.col("code")
        )
        tables.append(stored)
    ids = {part: _rows_of(by_field, chosen) for part, chosen in parts.items()}
    return ids, pl.concat(tables), tuple(table.height + 1 for table in tables)


def _rows_of(by_field: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows ``chosen`` (n,) of codes held field by field (F, N), as (n, F); in blocks that fit the processor's cache."""
    ids = np.empty((len(chosen), len(by_field)), dtype=by_field.dtype)
    for start in range(0, len(chosen), _ROW_BLOCK):
        ids[start : start + _ROW_BLOCK] = by_field[:, chosen[start : start + _ROW_BLOCK]].T
    return ids


def compact(rows: Rows) -> Rows:
    """The same rows with text columns as Categorical: each value is stored once, and all that follows is faster."""
    text = [name for name in rows.features.columns if rows.features[name].dtype == pl.String]
    keep = set(rows.numeric) | set(rows.undecided)
    changes = {name: rows.features[name].cast(pl.Categorical) for name in text if name not in keep}
    return replace(rows, features=rows.features.with_columns(**changes))
