"""Any Parquet or text file, or several of them, with a column of labels.

Cells are read as they are (:mod:`ctrlib.data.formats.text`), then it is decided what each column is
(:mod:`ctrlib.data.columns`), and what was decided, and why, goes into the prepared data set.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import psutil

from ctrlib.data.columns import EVIDENCE_ROWS, Decision, decide, plain_numbers, several_values, usual_marks
from ctrlib.data.encode import MOST_FOLDS, Cells, Field, RawRows, ranked
from ctrlib.data.files import one_line, open_raw
from ctrlib.data.formats.text import (
    MOST_SHOWN,
    TextFile,
    header_of,
    needs_csv,
    open_text,
    read_text,
    reader_of,
    separator_of,
)
from ctrlib.data.manifest import SPLITS
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import bytes_per_row
from ctrlib.data.times import read_times
from ctrlib.errors import UserError, shown, unknown

if TYPE_CHECKING:  # imported when a Parquet file is read: text needs none of it
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

PARTS = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}
INDEX = r"Unnamed: \d+(\.\d+)?|__index_level_\d+__|index"  # the numbers of rows, as pandas writes them


@dataclass
class _Read:
    """What was read of all files: cells, what columns are for, and for each file its rows and the place of a row."""

    options: PrepareOptions
    cells: Cells
    columns: list[str]
    roles: dict[str, list[str]]
    decimal: str = "."
    files: list[tuple[Path, int, Callable[[int], str]]] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)  # of Parquet files, until the last is there

    def need(self, name: str, bad: pl.Series, allowed: str) -> None:
        """Refuse the first row whose value of a column is one of the ``bad``."""
        rows = np.flatnonzero(bad.to_numpy().take(self.cells.column(name)))
        if not len(rows):
            return
        row = int(rows[0])
        at = 0
        while row >= self.files[at][1]:
            row -= self.files[at][1]
            at += 1
        path, _, place = self.files[at]
        value = self.cells.values(name)[int(self.cells.column(name)[rows[0]])]
        problem = "no value" if value is None else shown(str(value), MOST_SHOWN)
        raise UserError(f"{path}, {place(row)}, column {name}: {problem}; {allowed}")


def read(
    raw: Path | Sequence[Path],
    scratch: Path,
    options: PrepareOptions,
    report: Callable[[str], None],
    others: Sequence[Path] = (),
) -> RawRows:
    """Parquet or text with a header, and a column of labels; ``others``: the files of the valid and the test rows.

    The options ``drop``, ``numeric`` and ``categorical`` hold column names or patterns such as ``C*``; other columns
    are read as :func:`ctrlib.data.columns.decide` says. The columns of times and folds are no features.
    """
    paths = [raw] if isinstance(raw, str | Path) else list(raw)
    parts = [[one for path in paths for one in _files(Path(path))], *([Path(path)] for path in others)]
    found, sizes, sources = None, [], []
    for place, path in enumerate(path for part in parts for path in part):
        below = scratch / str(place)
        below.mkdir()
        found, source = _read_file(path, below, options, report, found, first_of_part=any(path is p[0] for p in parts))
        sources.append(source)
    if found.frames:
        try:
            found.cells.add_frame(pl.concat(found.frames, how="vertical_relaxed"))
        except pl.exceptions.PolarsError as error:
            problem = f"columns of other types ({one_line(error)})"
            raise UserError(f"{found.files[-1][0]}: {problem}; allowed: files written alike") from None
    counts = [count for _, count, _ in found.files]
    for part in parts:
        sizes.append(sum(counts[: len(part)]))
        del counts[: len(part)]
    cells, roles = found.cells, found.roles
    labels, kept = _labels(found)
    if options.rows is not None and others:
        kept &= np.concatenate([np.arange(size) < options.rows for size in sizes])
    elif options.rows is not None:
        kept &= np.arange(cells.rows) < options.rows
    notes, fields, numeric, columns = [], [], [], {}
    for name in list(roles["features"]):
        decision, change = _decided(found, name)
        counts = np.bincount(cells.column(name)[kept], minlength=len(decision.values))
        some = int((counts > 0).sum()) - bool(counts[0])
        differs = some == kept.sum() > 1
        if differs and re.fullmatch(INDEX, name) and name not in (*roles["numeric"], *roles["categorical"]):
            notes.append(f"{name}: left out, it numbers the rows")
            continue
        if differs and not decision.why.startswith("fractions"):
            notes.append(
                f"{name}: differs in every row, so nothing can be learnt of it; leave it out with --drop {name}"
            )
        if decision.odd:
            odd, values = counts[list(decision.odd)], cells.values(name)
            words = ", ".join(shown(values[int(at)], MOST_SHOWN) for at in np.array(decision.odd)[np.argsort(-odd)][:3])
            problem = f"{odd.sum():,} of {kept.sum():,} cells are no numbers ({words}) and count as missing"
            notes.append(f"{name}: {problem}; --missing names what means nothing, --categorical {name} keeps them")
        if mark := several_values(decision.values):
            notes.append(
                f"{name}: cells hold several values ({shown(mark, MOST_SHOWN)}); each whole cell is one category"
            )
        numeric += [name] if decision.numeric else []
        kind = str(decision.values.dtype)
        columns[name] = {"numeric": decision.numeric, "why": decision.why, "change": change, "type": kind}
        fields.append(Field(name, name, decision.values))
    if not fields:
        raise UserError(f"{paths[0]}: no column is left as a feature; allowed: at least one besides the label")
    more: dict[str, Any] = {}
    if (name := options.time_column) is not None:
        _need_value(found, name, "time")
        try:
            times = read_times(cells.values(name), options.time_format, lambda bad, say: found.need(name, bad, say))
        except pl.exceptions.ComputeError as error:
            raise UserError(f"--time-format {options.time_format!r}: cannot be used ({one_line(error)})") from None
        more |= ranked(cells, name, times)
    if options.fold_column is not None:
        more |= _folds(found, options.fold_column)
    if others:
        more["parts"] = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)
    kept = None if kept.all() else np.flatnonzero(kept)
    return RawRows(sources, cells, fields, labels, kept, numeric=tuple(numeric), columns=columns, notes=notes, **more)


def read_columns(
    raw: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None], wanted: Sequence[str]
) -> Cells:
    """The cells of the columns ``wanted`` of a file whose rows need no label, such as those to be scored."""
    found, _ = _read_file(raw, scratch, options, report, None, True, wanted)
    if found.frames:
        found.cells.add_frame(found.frames[0])
    return found.cells


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder in the order of their names and numbers."""
    if not path.is_dir():
        return [path]
    found = sorted((p for p in path.iterdir() if p.is_file() and p.name[0] not in "._"), key=lambda p: natural(p.name))
    if not found:
        raise UserError(f"{path}: a folder without files; give the file itself")
    return found


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts fold10 after fold9."""
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _read_file(
    path: Path,
    scratch: Path,
    options: PrepareOptions,
    report: Callable[[str], None],
    found: _Read | None,
    first_of_part: bool,
    wanted: Sequence[str] | None = None,
) -> tuple[_Read, Path]:
    """Add the rows of a file to what was ``found`` before, of the first file the columns ``wanted`` alone where they
    are given; the file itself."""
    left = None
    if options.rows is not None:
        left = max(options.rows, EVIDENCE_ROWS)
        if not first_of_part and (left := left - sum(count for _, count, _ in found.files)) <= 0:
            found.files.append((path, 0, str))
            return found, path
    parquet = path.suffix in (".parquet", ".pq")
    if path.is_file():  # a pipe is text
        with open_raw(path) as file:
            parquet = parquet or file.peek(4)[:4] == b"PAR1"
    if parquet:
        report(f"reading {path.name}")
        frame = _read_parquet(path, left)
        columns, source = frame.columns, path
        header = True
    else:
        text = open_text(path, scratch, None if left is None else left + 1, report)
        separator = _separator(text, options)
        source, header = text.raw, True
        if found is not None and not first_of_part:  # only the first of the files may have a header
            header = not set(next(reader_of(text, separator, True), ())).isdisjoint(found.columns)
        columns = header_of(text, separator) if header else found.columns
    if found is None:
        for name in wanted or ():
            if name not in columns:
                raise UserError(f"{path}: {unknown('column', name, columns)}")
        roles = _roles(path, columns, options) if wanted is None else {"features": wanted, "used": wanted}
        decimal = options.decimal or ("," if not parquet and separator == ";" else ".")
        found = _Read(options, Cells(scratch.parent, roles["used"]), list(columns), roles, decimal)
    elif list(columns) != found.columns:
        other = next((name for name in found.columns if name not in columns), None) or columns[-1]
        problem = f"not the columns of {found.files[0][0]} (see {shown(other, MOST_SHOWN)})"
        raise UserError(f"{path}: {problem}; allowed: files with one header")
    before = found.cells.rows
    if parquet:
        made = [_plain_column(frame[name], path, name == options.time_column) for name in found.cells.columns]
        found.frames.append(pl.DataFrame(made))
        found.files.append((path, frame.height, lambda row: f"row {row + 1}"))
        return found, source
    if found.frames:
        raise UserError(f"{path}: is text and {found.files[0][0]} is Parquet; allowed: files of one kind")
    quoted = needs_csv(text)
    size = bytes_per_row(len(found.roles["features"]), options.draws)
    read_text(text, found.cells, columns, separator, None, report, header, quoted, size)

    def place(row: int) -> str:
        reader = reader_of(text, separator, quoted)
        next(islice(reader, row + header, None))
        return f"line {reader.line_num}"

    found.files.append((path, found.cells.rows - before, place))
    return found, source


def _separator(text: TextFile, options: PrepareOptions) -> str:
    given = options.separator
    return separator_of(text) if given is None else {"tab": "\t", "\\t": "\t", "space": " "}.get(given, given)


def _labels(found: _Read) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) uint8, and which rows (N,) are kept, by ``--positive`` and ``--drop-label``."""
    options, name = found.options, found.options.label
    texts, numbers = found.cells.values(name).cast(pl.String).str.strip_chars(" \u00a0"), found.cells.column(name)
    values = plain_numbers(texts, loose=True)[0].cast(pl.Float64)
    known, lower = pl.DataFrame({"text": texts, "value": values}), texts.str.to_lowercase()

    def equal(given: str) -> pl.Series:
        number = pl.Series([given]).cast(pl.Float64, strict=False)[0]
        return ((texts == given) | (values == number if number is not None else False)).fill_null(False)

    dropped = texts.is_null() & ("missing" in options.drop_label)
    for given in options.drop_label:
        dropped = dropped | equal(given)
    if options.positive is None:
        made = values.set((lower == "true").fill_null(False), 1.0).set((lower == "false").fill_null(False), 0.0)
        bad = ~made.is_in([0.0, 1.0]).fill_null(False) & ~dropped
    else:
        sign, limit = re.fullmatch(r"(>=|<=|>|<)?\s*(.*)", options.positive, re.DOTALL).groups()
        if sign:
            try:
                limit = float(limit)
            except ValueError:
                raise UserError(
                    f"--positive {options.positive!r}: must be a value, or a sign and a number: '>3'"
                ) from None
            made = {">": values > limit, "<": values < limit, ">=": values >= limit, "<=": values <= limit}[sign]
            bad = values.is_null() & ~dropped
        else:
            made = equal(options.positive)
            bad = texts.is_null() & ~dropped
            if not made.any():
                problem = f"--positive {options.positive!r} is no label of it"
                raise UserError(f"{found.files[0][0]}, column {name}: {problem}; allowed: {_few(texts)}")
    counts = np.bincount(numbers, minlength=len(known)) > 0
    bad &= pl.Series(counts)
    if bad.any():
        found.need(name, bad & texts.is_null(), "allowed: a label in every row, or --drop-label missing")
        number = values.drop_nulls()
        many = len(number) > 2 and len(number) == texts.drop_nulls().len()
        yes = f"'>{number.sort()[len(number) // 2]:g}'" if many else shown(_likely(texts, values))
        found.need(name, bad, f"allowed: 0 or 1, true or false; the column holds {_few(texts)}: see --positive {yes}")
    kept = ~dropped.to_numpy().take(numbers)
    labels = made.cast(pl.UInt8).fill_null(0).to_numpy().take(numbers)
    if not kept.any() or labels[kept].min() == labels[kept].max():
        problem = f"all {kept.sum():,} labels are {labels[kept][0]}" if kept.any() else "no labels are left"
        raise UserError(f"{found.files[0][0]}, column {name}: {problem}; allowed: some rows with 0 and some with 1")
    return labels, kept


def _few(texts: pl.Series) -> str:
    listed = texts.drop_nulls().unique().sort()
    return ", ".join(shown(text, MOST_SHOWN) for text in listed[:5]) + (", ..." if len(listed) > 5 else "")


def _likely(texts: pl.Series, values: pl.Series) -> str:
    """The label of two that is more likely the click: a yes, the larger number, the last word."""
    known = texts.drop_nulls().unique().sort().to_list()
    yes = [text for text in known if text.lower() in ("y", "yes", "click", "clicked", "t", "pos", "positive", "+")]
    number = texts.to_frame("t").with_columns(v=values).drop_nulls().sort("v")["t"]
    return (yes or number[-1:].to_list() or known[-1:] or ["1"])[0]


def _decided(found: _Read, name: str) -> tuple[Decision, str]:
    """How a column is read, and the option that changes it."""
    cells, options = found.cells, found.options
    values = without_missing(cells.values(name), options.missing)
    if name in found.roles["categorical"]:
        values = values.cast(pl.String) if values.dtype == pl.Float64 else values
        return Decision(False, values, "named by --categorical"), ""
    if name in found.roles["numeric"]:
        numbers = values.cast(pl.Float64, strict=False)
        if values.dtype == pl.String:
            plain = plain_numbers(values, found.decimal, options.decimal is not None, loose=True)[0]
            numbers = plain.cast(pl.Float64, strict=False)
            bad = numbers.is_null() & values.is_not_null() & ~usual_marks(values)
            found.need(name, bad, "allowed: a number or nothing (--missing names what means nothing)")
        return Decision(True, numbers.fill_nan(None), "named by --numeric"), ""
    counts = np.bincount(cells.column(name)[:EVIDENCE_ROWS], minlength=len(values))
    made = decide(name, values, counts, found.decimal, options.decimal is not None)
    return made, f"--{'categorical' if made.numeric else 'numeric'} {name}" if made.why != "text" else ""


def without_missing(values: pl.Series, marks: Sequence[str]) -> pl.Series:
    """Values of which those that are one of the ``marks``, as text or as a number, are null."""
    if not marks:
        return values
    text = values.cast(pl.String).str.strip_chars(" \u00a0")
    numbers = pl.Series(marks).cast(pl.Float64, strict=False).drop_nulls()
    gone = text.is_in(marks) | text.cast(pl.Float64, strict=False).is_in(numbers.to_list())
    return values.set(gone.fill_null(False), None)


def _need_value(found: _Read, name: str, kind: str) -> None:
    found.need(name, found.cells.values(name).is_null(), f"allowed: a {kind} in every row")


def _folds(found: _Read, name: str) -> dict[str, Any]:
    """The ``parts`` that a column says, or the ``folds`` and their names in order: draw d tests on the d-th."""
    _need_value(found, name, "fold")
    values = found.cells.values(name)
    if values.dtype == pl.String:
        known = values.str.strip_chars().str.to_lowercase()
        part = known.replace_strict(PARTS, default=None, return_dtype=pl.UInt8)
        if part.null_count() == values.null_count():
            if absent := [split for place, split in enumerate(SPLITS) if place not in part]:
                problem = f"no rows are marked {absent[0]!r}"
                raise UserError(
                    f"{found.files[0][0]}, column {name}: {problem}; allowed: train, valid and test, or folds"
                )
            return {"parts": part.fill_null(0).to_numpy().take(found.cells.column(name))}
        number = values.cast(pl.Float64, strict=False)
        values = number if number.null_count() == values.null_count() else values
    names = values.drop_nulls().unique().to_list()
    names.sort(key=natural if values.dtype == pl.String else None)
    if not 3 <= len(names) <= MOST_FOLDS:
        problem = f"{len(names):,} distinct values"
        raise UserError(f"{found.files[0][0]}, column {name}: {problem}; allowed: 3 to {MOST_FOLDS:,} folds")
    places = values.replace_strict(names, range(len(names)), default=0, return_dtype=pl.Int64).to_numpy()
    whole = [int(one) if isinstance(one, float) and one.is_integer() else one for one in names]
    return {"folds": places.take(found.cells.column(name)), "fold_names": whole}


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


def _plain_column(values: pl.Series, path: Path, time: bool = False) -> pl.Series:
    """A column as Int64, Float64 or String, with empty text and NaN as null; dates stay dates if it is the ``time``."""
    kind = values.dtype
    if time and kind.is_temporal():
        return values
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
