"""Any Parquet or CSV file with a column of labels: raw file to :class:`Rows`, in memory."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ctrlib.data.layouts import Rows
from ctrlib.data.text import (
    header_of,
    most_unpacked,
    need_both,
    one_line,
    open_file,
    open_text,
    read_delimited,
    scan,
    separator_of,
    shown,
)
from ctrlib.errors import UserError, unknown

if TYPE_CHECKING:  # imported when a Parquet file is read: text needs none of it
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

_QUOTE = ord('"')


def read_table(
    path: Path,
    label: str = "label",
    drop: Sequence[str] = (),
    numeric: Sequence[str] = (),
    categorical: Sequence[str] = (),
    time_column: str | None = None,
    rows: int | None = None,
    fold_column: str | None = None,
) -> Rows:
    """Any Parquet file, or any CSV/TSV (plain or gzip) with a header, and a column of labels 0/1.

    ``drop``, ``numeric`` and ``categorical`` hold column names or patterns such as ``C*``. Fractions are numeric,
    text is categorical, and whole numbers are ``undecided`` unless named. ``time_column`` and ``fold_column`` are no
    features.
    """
    path = Path(path)
    with open_file(path) as file:
        parquet = file.peek(4)[:4] == b"PAR1" or path.suffix in (".parquet", ".pq")
    if parquet:
        frame, explain = _read_parquet(path, rows), None
        columns = frame.columns
    else:
        text = open_text(path, None if rows is None else rows + 1)
        separator = separator_of(text)
        columns = header_of(text, separator)
    roles = _roles(path, columns, label, drop, numeric, categorical, {"time": time_column, "fold": fold_column})
    if not parquet:
        places = [(name, columns.index(name)) for name in roles["numeric"]]
        target = columns.index(label)
        quoted = text.count(_QUOTE) > 0

        def check(cells: list[str], where: str) -> None:
            if cells[target] not in _LABELS:
                raise UserError(f"{where}, column {label}: {shown(cells[target])}; allowed: 0 or 1")
            for kind, column in (("time", time_column), ("fold", fold_column)):
                if column is not None and not cells[columns.index(column)]:
                    raise UserError(f"{where}, column {column}: no value; allowed: a {kind} in every row")
            for name, place in places:
                if cells[place] and not _is_number(cells[place]):
                    raise UserError(f"{where}, column {name}: {shown(cells[place])}; allowed: a number or nothing")

        def explain() -> None:
            scan(text, columns, separator, header=True, quoted=quoted, check=check)

        frame = read_delimited(text, columns, separator, explain, quoted=quoted)
    labels = _table_labels(frame[label], explain, path)
    need_both(labels, path, label)
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
    time = None if time_column is None else _in_every_row(frame[time_column], "time", explain, path)
    folds = (
        None if fold_column is None else _in_every_row(_plain_column(frame[fold_column], path), "fold", explain, path)
    )
    return Rows(pl.DataFrame(features), labels, time, tuple(sure), tuple(undecided), folds)


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
    special: dict[str, str | None],
) -> dict[str, list[str]]:
    """Which columns are features, which of them numeric or categorical by name; :class:`UserError` for a wrong name."""

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
    out = {label, *special.values(), *matching("drop", drop)}
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
    """Read with Arrow's own reader: it refuses every damaged file with an exception, where that of polars (1.x) asks
    for as much memory as the file says, and then ends the process."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            cells = (file.metadata.num_rows if rows is None else rows) * file.metadata.num_columns
            if cells * 8 > (most := most_unpacked()):
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
        problem = shown(str(error))
        raise UserError(f"{path}, column {shown(values.name)}: {kind} values that cannot be read ({problem})") from None
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
        raise UserError(f"{place}: {shown(str(values[row]))}; allowed: a number or nothing")
    return numbers.fill_nan(None)


def _is_number(value: str) -> bool:
    return pl.Series([value]).cast(pl.Float64, strict=False)[0] is not None


def _in_every_row(values: pl.Series, kind: str, explain: Callable[[], None] | None, path: Path) -> pl.Series:
    """A sortable column of times or folds without gaps: numbers as numbers, anything else as it is."""
    values = values.replace("", None) if values.dtype == pl.String else values
    if (missing := values.is_null()).any():
        if explain:
            explain()
        row = missing.arg_max()
        raise UserError(f"{path}, row {row + 1}, column {values.name}: no value; allowed: a {kind} in every row")
    return values.cast(pl.Float64) if _all_cast(values, pl.Float64) else values
