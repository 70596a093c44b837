"""Any Parquet or CSV file with a column of labels."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import psutil

from ctrlib.data.encode import MOST_FOLDS, Cells, Field, RawRows, ranks
from ctrlib.data.files import one_line, open_raw
from ctrlib.data.formats.text import (
    ANY_LABELS,
    MOST_SHOWN,
    RowCheck,
    TextFile,
    header_of,
    labels_of,
    need_all,
    open_text,
    read_text,
    separator_of,
)
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import bytes_per_row
from ctrlib.errors import UserError, shown, unknown

if TYPE_CHECKING:  # imported when a Parquet file is read: text needs none of it
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

Explain = Callable[[], int] | None


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """Any Parquet file, or any CSV/TSV (plain or gzip) with a header, and a column of labels 0/1.

    The options ``drop``, ``numeric`` and ``categorical`` hold column names or patterns such as ``C*``. Fractions are
    numeric, text is categorical, and whole numbers are ``undecided`` unless named. The columns of times and folds are
    no features.
    """
    path = Path(path)
    parquet = path.suffix in (".parquet", ".pq")
    if path.is_file():  # a pipe is text
        with open_raw(path) as file:
            parquet = parquet or file.peek(4)[:4] == b"PAR1"
    if parquet:
        report(f"reading {path.name}")
        frame, explain, source = _read_parquet(path, options.rows), None, path
        roles = _roles(path, frame.columns, options)
        cells = Cells(scratch, roles["used"])
        cells.add_frame(frame.select(_plain_column(frame[name], path) for name in cells.columns))
    else:
        text = open_text(path, scratch, None if options.rows is None else options.rows + 1, report)
        source = text.raw
        cells, roles, explain = _read_csv(text, scratch, options, report)
    labels = labels_of(cells, options.label, explain, str(path), ANY_LABELS)
    fields, sure, undecided = [], list(roles["numeric"]), []
    for name in roles["features"]:
        values = cells.values(name)
        if name in roles["categorical"]:
            values = values.cast(pl.String) if values.dtype == pl.Float64 else values
        elif name in roles["numeric"]:
            values = _as_numbers(values, cells, explain, path)
        elif values.dtype == pl.Float64:
            sure.append(name)
        elif values.dtype == pl.Int64 or _all_cast(values, pl.Int64):
            undecided.append(name)
            values = _whole(values)
        elif _all_cast(values, pl.Float64):
            values = values.cast(pl.Float64)
            sure.append(name)
        fields.append(Field(name, name, values))
    sorted_by: dict[str, tuple[np.ndarray, pl.Series]] = {}
    for kind, name in (("time", options.time_column), ("fold", options.fold_column)):
        if name is not None:
            sorted_by[kind] = _in_every_row(cells, name, kind, explain, path)
    time = sorted_by["time"][0] if "time" in sorted_by else None
    folds, names = sorted_by.get("fold", (None, None))
    fold_names = [] if names is None else _fold_names(names, path)
    return RawRows(source, cells, fields, labels, time, tuple(sure), tuple(undecided), folds, fold_names)


def _read_csv(
    text: TextFile, scratch: Path, options: PrepareOptions, report: Callable[[str], None]
) -> tuple[Cells, dict[str, list[str]], Explain]:
    """The cells of a text, what its columns are for, and the function that finds the first bad line."""
    separator = separator_of(text)
    columns = header_of(text, separator)
    roles = _roles(Path(text.name), columns, options)
    with open(text.path, "rb") as file:
        quoted = any(b'"' in block for block in iter(lambda: file.read(1 << 22), b""))

    cells, check = Cells(scratch, roles["used"]), _row_check(columns, roles, options)
    size = bytes_per_row(len(roles["features"]), options.draws)
    _, explain = read_text(text, cells, columns, separator, check, report, quoted=quoted, row_bytes=size)
    return cells, roles, explain


def _row_check(columns: list[str], roles: dict[str, list[str]], options: PrepareOptions) -> RowCheck:
    """Judges the cells of a row."""
    places = [(name, columns.index(name)) for name in roles["numeric"]]
    target = columns.index(options.label)

    def check(cells: list[str], where: str) -> None:
        if cells[target] not in ANY_LABELS:
            found = shown(cells[target], MOST_SHOWN)
            raise UserError(f"{where}, column {options.label}: {found}; allowed: 0 or 1")
        for kind, column in (("time", options.time_column), ("fold", options.fold_column)):
            if column is not None and not cells[columns.index(column)]:
                raise UserError(f"{where}, column {column}: no value; allowed: a {kind} in every row")
        for name, place in places:
            if cells[place] and pl.Series([cells[place]]).cast(pl.Float64, strict=False)[0] is None:
                found = shown(cells[place], MOST_SHOWN)
                raise UserError(f"{where}, column {name}: {found}; allowed: a number or nothing")

    return check


def _roles(path: Path, columns: Sequence[str], options: PrepareOptions) -> dict[str, list[str]]:
    """Which columns are features, which of them numeric or categorical by name, and which are used at all.

    Raises :class:`UserError` for a wrong name.
    """
    label, special = options.label, {"time": options.time_column, "fold": options.fold_column}

    def matching(role: str, patterns: Sequence[str]) -> list[str]:
        for pattern in patterns:
            if not any(name == pattern or fnmatchcase(name, pattern) for name in columns):
                raise UserError(f"{path}: {unknown(f'{role} column', pattern, columns)}")
        return [n for n in columns if any(n == pattern or fnmatchcase(n, pattern) for pattern in patterns)]

    if label not in columns:
        raise UserError(f"{path}: {unknown('label column', label, columns)}")
    for kind, name in special.items():
        if name is not None and name not in columns:
            raise UserError(f"{path}: {unknown(f'{kind} column', name, columns)}")
        if name == label:
            raise UserError(f"{path}, column {label}: is the label; allowed as {kind}: any other column")
    out = {label, *special.values(), *matching("drop", options.drop)}
    roles = {
        "numeric": matching("numeric", options.numeric),
        "categorical": matching("categorical", options.categorical),
    }
    for role in ("drop", "numeric", "categorical"):
        if label in getattr(options, role):
            raise UserError(f"{path}, column {label}: is the label; allowed as {role}: any other column")
    if both := [name for name in roles["numeric"] if name in roles["categorical"]]:
        raise UserError(f"{path}, column {both[0]}: is named as numeric and as categorical; allowed: one of them")
    roles["features"] = [name for name in columns if name not in out]
    if not roles["features"]:
        raise UserError(f"{path}: no column is left as a feature; allowed: at least one besides the label")
    roles["numeric"] = [name for name in roles["numeric"] if name in roles["features"]]
    roles["used"] = [name for name in columns if name in {label, *special.values(), *roles["features"]}]
    return roles


def _read_parquet(path: Path, rows: int | None) -> pl.DataFrame:
    """Read with Arrow's own reader: it refuses every damaged file with an exception, where that of polars (1.x) asks
    for as much memory as the file says, and then ends the process."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            cells = (file.metadata.num_rows if rows is None else rows) * file.metadata.num_columns
            if cells * 8 > (most := psutil.virtual_memory().available // 2):
                problem = f"unpacks to more than the {most / 1e9:,.1f} GB of memory that are free"
                raise UserError(f"{path}: {problem}; allowed: fewer --rows")
            found = file.read(use_threads=False) if rows is None else _first_rows(file, rows)
        found.validate(full=True)  # among others, that text is UTF-8
        with _no_panic_messages():
            frame = pl.from_arrow(found)
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged Parquet ({one_line(error)}); copy or write it again") from None
    if frame.height == 0:
        raise UserError(f"{path}: no rows")
    return frame


def _first_rows(file: "ParquetFile", rows: int) -> "Table":
    import pyarrow as pa

    batches, left = [], rows
    for batch in file.iter_batches(batch_size=min(rows, 65_536)):
        batches.append(batch.slice(0, left))
        if (left := left - batch.num_rows) <= 0:
            break
    return pa.Table.from_batches(batches, file.schema_arrow)


@contextmanager
def _no_panic_messages() -> Iterator[None]:
    """polars raises for what is damaged, but also writes pages about it to the file of standard error; not here."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    try:
        with _no_panic_messages():
            text = values.cast(pl.String)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        problem = shown(str(error), MOST_SHOWN)
        raise UserError(
            f"{path}, column {shown(values.name, MOST_SHOWN)}: {kind} values that cannot be read ({problem})"
        ) from None
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


def _as_numbers(values: pl.Series, cells: Cells, explain: Explain, path: Path) -> pl.Series:
    """A column that is to be numeric, as Float64."""
    numbers = values.cast(pl.Float64, strict=False)
    bad = numbers.is_null() & values.is_not_null()
    need_all(cells.column(values.name), bad, values, explain, str(path), "allowed: a number or nothing")
    return numbers.fill_nan(None)


def _in_every_row(cells: Cells, name: str, kind: str, explain: Explain, path: Path) -> tuple[np.ndarray, pl.Series]:
    """Times or folds without gaps, as numbers where all are: the place of each row's value among the sorted ones."""
    values = cells.values(name)
    need_all(cells.column(name), values.is_null(), values, explain, str(path), f"allowed: a {kind} in every row")
    values = values.cast(pl.Float64) if _all_cast(values, pl.Float64) else values
    return ranks(cells, name, values), values.drop_nulls().unique().sort()


def _fold_names(values: pl.Series, path: Path) -> list[int | float | str]:
    """The folds in order: draw d tests on the d-th. Raises :class:`UserError` when they are too few or too many."""
    if not 3 <= len(values) <= MOST_FOLDS:
        problem = f"{len(values):,} distinct values"
        raise UserError(f"{path}, column {values.name}: {problem}; allowed: 3 to {MOST_FOLDS:,} folds")
    return [int(name) if isinstance(name, float) and name.is_integer() else name for name in values.to_list()]
