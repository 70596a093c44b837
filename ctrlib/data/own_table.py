"""Any Parquet or text file, or several of them, with a column of labels.

Cells are read as they are (:mod:`ctrlib.data.text`), then it is decided what each column is
(:mod:`ctrlib.data.columns`), and what was decided, and why, goes into the prepared data set.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from ctrlib.data.columns import EVIDENCE_ROWS, Decision, decide_column, plain_numbers, several_values, usual_marks
from ctrlib.data.encode import MOST_SHOWN, Cells, Field, RawRows, count_buckets, ranked, whole_numbers
from ctrlib.data.files import one_line, open_raw
from ctrlib.data.manifest import SPLITS
from ctrlib.data.options import PrepareOptions
from ctrlib.data.text import first_cells, header_of, needs_csv, open_text, read_text, separator_of
from ctrlib.data.times import looks_like_times, read_times
from ctrlib.errors import UserError, shown, unknown

MOST_FOLDS = 1000
SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " "}  # as they can be typed
PARTS = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}
INDEX = r"Unnamed: \d+(\.\d+)?|__index_level_\d+__|index"  # the numbers of rows, as pandas writes them


@dataclass
class _Read:
    """What was read: the cells of all files, and what the columns are for."""

    options: PrepareOptions
    cells: Cells
    columns: list[str]
    roles: dict[str, list[str]]
    decimal: str
    separator: str | None
    sources: list[Path] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)  # of Parquet files, until the last is there


def read(
    raw: Path | Sequence[Path],
    scratch: Path,
    options: PrepareOptions,
    report: Callable[[str], None],
    others: Sequence[Path] = (),
) -> RawRows:
    """Parquet or text with a header, and a column of labels; ``others``: the files of the valid and the test rows.

    The options ``drop``, ``numeric`` and ``categorical`` hold column names or patterns such as ``C*``; other columns
    are read as :func:`ctrlib.data.columns.decide_column` says. The columns of times and folds are no features.
    """
    paths = [Path(path) for path in ([raw] if isinstance(raw, str | Path) else raw)]
    parts = [[one for path in paths for one in _files(path)], *([path] for path in others)]
    found, sizes = None, []
    for part in parts:
        found = _read_files(part, scratch / str(len(sizes)), options, report, found)
        sizes.append(sum(rows for _, rows, _ in found.cells.files) - sum(sizes))
    cells = found.cells
    if found.frames:
        try:
            cells.add_frame(pl.concat(found.frames, how="vertical_relaxed"))
        except pl.exceptions.PolarsError as error:
            problem = f"columns of other types ({one_line(error)})"
            raise UserError(f"{found.cells.files[-1][0]}: {problem}; allowed: files written alike") from None
    labels, kept = _labels(found)
    if options.rows is not None:
        kept &= np.concatenate([np.arange(size) < options.rows for size in sizes])
    fields, columns, notes = [], {}, []
    for name in found.roles["features"]:
        made, change = _decided(found, name)
        said, counts = [], np.bincount(cells.column(name)[kept], minlength=len(made.values))
        if np.count_nonzero(counts[1:]) == kept.sum():
            if re.fullmatch(INDEX, name) and not made.why.startswith("named by"):
                notes.append(f"{name}: left out, it numbers the rows")
                continue
            if not made.numeric:
                said.append(f"differs in every row, so that nothing can be learnt of it; see --drop {name}")
            elif made.why.startswith("whole numbers"):
                said.append(f"differs in every row, as the number of a row does; see --drop {name}")
        if made.odd:
            odd, values = counts[list(made.odd)], cells.values(name).gather(made.odd)
            words = ", ".join(shown(values[int(at)], MOST_SHOWN) for at in np.argsort(-odd)[:3])
            how = f"--missing names what means nothing, --categorical {name} keeps them"
            said.append(f"{odd.sum():,} of {kept.sum():,} cells are no numbers ({words}) and count as missing; {how}")
        if cell := several_values(made.values):
            said.append(f"cells hold several values ({shown(cell, MOST_SHOWN)}); each whole cell is one category")
        few = made.values.drop_nulls().head(len(PARTS) + 1)
        if not (options.fold_column or others) and set(_parts(few)) == {0, 1, 2}:
            said.append(f"holds {', '.join(map(shown, few))}; --fold-column {name} divides by them")
        if not (made.numeric or options.time_column or others) and looks_like_times(made.values):
            split = f"--time-column {name} --split time"
            said.append(f"holds times ({shown(str(made.values.min()), MOST_SHOWN)}); {split} divides by them")
        notes += [f"{name}: {line}" for line in said]
        kind = str(made.values.dtype)
        columns[name] = {"numeric": made.numeric, "why": made.why, "change": change, "type": kind}
        columns[name] |= {"decimal": made.decimal} if made.decimal else {}
        by_rule = made.numeric and options.numeric_rule == "criteo"
        values = count_buckets(whole_numbers(cells, name, made.values)) if by_rule else made.values
        fields.append(Field(name, name, values))
    if not fields:
        raise UserError(f"{paths[0]}: no column is left as a feature; allowed: at least one besides the label")
    more = {} if options.time_column is None else _times(found, options.time_column)
    more |= {} if options.fold_column is None else _folds(found, options.fold_column)
    more |= {"parts": np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)} if others else {}
    more["separator"] = found.separator
    more["kept"] = None if kept.all() else np.flatnonzero(kept)
    numeric = tuple(name for name, what in columns.items() if what["numeric"])
    return RawRows(found.sources, cells, fields, labels, numeric=numeric, columns=columns, notes=notes, **more)


def read_columns(
    raw: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None], wanted: Sequence[str]
) -> Cells:
    """The cells of the columns ``wanted`` of a file whose rows need no label, such as those to be scored; a name may
    be a pattern."""
    found = _read_files([raw], scratch / "new", options, report, None, wanted)
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
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_files(
    paths: list[Path],
    scratch: Path,
    options: PrepareOptions,
    report: Callable[[str], None],
    found: _Read | None,
    wanted: Sequence[str] | None = None,
) -> _Read:
    """Add the rows of the files of a part to what was ``found`` before; of them the columns ``wanted`` alone, where
    these are given."""
    left = None if options.rows is None else max(options.rows, EVIDENCE_ROWS)
    for place, path in enumerate(paths):
        below = scratch / str(place)
        below.mkdir(parents=True)
        parquet = path.suffix in (".parquet", ".pq")
        if path.is_file():  # a pipe is text
            with open_raw(path) as file:
                parquet = parquet or file.peek(4)[:4] == b"PAR1"
        if parquet:
            report(f"reading {path.name}")
            frame, header, source = _read_parquet(path, left), True, path
            columns = frame.columns
        else:
            text = open_text(path, below, None if left is None else left + 1, report)
            separator, source = SEPARATORS.get(options.separator, options.separator), text.raw
            if not separator or (wanted and set(wanted).isdisjoint(first_cells(text, separator))):
                separator = separator_of(text)
            # of several files, only the first may have a header
            header = not place or not set(first_cells(text, separator)).isdisjoint(found.columns)
            columns = header_of(text, separator) if header else found.columns
        if found is None:
            for name in wanted or ():
                if name not in columns and not any(fnmatchcase(one, name) for one in columns):
                    has = ", ".join(shown(one, MOST_SHOWN) for one in columns[:20])
                    raise UserError(f"{path}: no column {name!r}, which is needed; the file has {has}")
            wanted = wanted and [n for n in columns if n in wanted or any(fnmatchcase(n, one) for one in wanted)]
            roles = {"features": wanted, "used": wanted} if wanted else _roles(path, columns, options)
            separator = None if parquet else separator
            decimal = options.decimal or ("," if separator == ";" else ".")
            found = _Read(options, Cells(scratch.parent, roles["used"]), list(columns), roles, decimal, separator)
        if sorted(columns) != sorted(found.columns) or (found.cells.files and bool(found.frames) != parquet):
            other = next((name for name in found.columns if name not in columns), columns[-1])
            problem = f"not the columns of {found.cells.files[0][0]} (see {shown(other, MOST_SHOWN)}), or not its kind"
            raise UserError(f"{path}: {problem}; allowed: files with the same columns")
        found.sources.append(source)
        if parquet:
            made = [_plain_column(frame[name], path, name == options.time_column) for name in found.cells.columns]
            found.frames.append(pl.DataFrame(made))
            found.cells.files.append((path, frame.height, lambda row: f"row {row + 1}"))
        else:
            read_text(text, found.cells, columns, separator, report, header, needs_csv(text))
        if left is not None and (left := left - found.cells.files[-1][1]) <= 0:
            break
    return found


def _labels(found: _Read) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) uint8, and which rows (N,) are kept, by ``--positive`` and ``--drop-label``."""
    options, name = found.options, found.options.label
    texts, numbers = found.cells.values(name).cast(pl.String).str.strip_chars(" \u00a0"), found.cells.column(name)
    values = plain_numbers(texts, loose=True)[0].cast(pl.Float64)
    known = pl.DataFrame({"value": values, "text": texts}).drop_nulls("text").unique().sort("value", "text")["text"]
    few = ", ".join(shown(text, MOST_SHOWN) for text in known[:5]) + ", ..." * (len(known) > 5)

    def equal(given: str) -> pl.Series:
        number = pl.Series([given]).cast(pl.Float64, strict=False)[0]
        return ((texts == given) | (values == number if number is not None else False)).fill_null(False)

    dropped = texts.is_null() & ("missing" in options.drop_label)
    for given in options.drop_label:
        dropped = dropped | equal(given)
    sign, limit = re.fullmatch(r"(>=|<=|>|<)?\s*(.*)", options.positive or "", re.DOTALL).groups()
    if options.positive is None:
        lower = texts.str.to_lowercase()
        made = values.set((lower == "true").fill_null(False), 1.0).set((lower == "false").fill_null(False), 0.0)
        bad = ~made.is_in([0.0, 1.0]).fill_null(False)
    elif sign:
        try:
            made = {">": values.gt, "<": values.lt, ">=": values.ge, "<=": values.le}[sign](float(limit))
        except ValueError:
            problem = "must be a value, or a sign and a number such as '>3'"
            raise UserError(f"--positive {options.positive!r}: {problem}") from None
        bad = values.is_null()
    elif not (made := equal(limit)).any():
        raise found.cells.refuse(name, f"--positive {limit!r} is no label of it; allowed: {few}")
    else:
        bad = texts.is_null()
    bad &= ~dropped & pl.Series(np.bincount(numbers, minlength=len(texts)) > 0)
    found.cells.need(name, bad & texts.is_null(), "allowed: a label in every row, or --drop-label missing")
    if bad.any():
        some = [shown(one, MOST_SHOWN) for one in known] if len(known) < 3 else ["VALUE", "'>3'"]
        see = f"say which is the click, {' or '.join(f'--positive {one}' for one in some)}"
        found.cells.need(name, bad, f"allowed: 0 or 1, true or false; the column holds {few}: {see}")
    kept = ~dropped.to_numpy().take(numbers)
    labels = made.cast(pl.UInt8).fill_null(0).to_numpy().take(numbers)
    if len(set(labels[kept])) < 2:
        problem = f"all {kept.sum():,} labels are {labels[kept][0]}" if kept.any() else "no labels are left"
        raise found.cells.refuse(name, f"{problem}; allowed: some rows with 0 and some with 1")
    return labels, kept


def without_missing(values: pl.Series, marks: Sequence[str]) -> pl.Series:
    """Values of which those that are one of the ``marks``, as text or as a number, are null."""
    if not marks:
        return values
    text = values.cast(pl.String).str.strip_chars(" \u00a0")
    numbers = pl.Series(marks).cast(pl.Float64, strict=False).drop_nulls().to_list()
    gone = text.is_in(marks) | text.cast(pl.Float64, strict=False).is_in(numbers)
    return values.set(gone.fill_null(False), None)


def _decided(found: _Read, name: str) -> tuple[Decision, str]:
    """How a column is read, and the option that changes it."""
    options, values = found.options, without_missing(found.cells.values(name), found.options.missing)
    if name in found.roles["categorical"]:
        values = values.cast(pl.String) if values.dtype == pl.Float64 else values
        return Decision(False, values, "named by --categorical"), ""
    forced = options.decimal is not None
    if name in found.roles["numeric"]:
        text, mark = values, None
        if values.dtype == pl.String:
            text, mark, _ = plain_numbers(values, found.decimal, forced, loose=True)
        numbers = text.cast(pl.Float64, strict=False).fill_nan(None)
        if mark:
            bad = numbers.is_null() & values.is_not_null() & ~usual_marks(values)
            found.cells.need(name, bad, "allowed: a number or nothing (--missing names what means nothing)")
        return Decision(True, numbers, "named by --numeric", decimal=mark), ""
    counts = np.bincount(found.cells.column(name)[:EVIDENCE_ROWS], minlength=len(values))
    made = decide_column(name, values, counts, found.decimal, forced)
    return made, f"--{'categorical' if made.numeric else 'numeric'} {name}" if made.why != "text" else ""


def _times(found: _Read, name: str) -> dict[str, Any]:
    """The places of the rows among the sorted times, and these."""
    values, form = found.cells.values(name), found.options.time_format
    found.cells.need(name, values.is_null(), "allowed: a time in every row")
    try:
        return ranked(found.cells, name, read_times(values, form, partial(found.cells.need, name)))
    except pl.exceptions.ComputeError as error:
        raise UserError(f"--time-format {form!r}: cannot be used ({one_line(error)})") from None


def _folds(found: _Read, name: str) -> dict[str, Any]:
    """The ``parts`` that a column says, or the ``folds`` and their names in order: draw d tests on the d-th."""
    values, numbers = found.cells.values(name), found.cells.column(name)
    found.cells.need(name, values.is_null(), "allowed: a fold in every row")
    if values.dtype == pl.String:
        part = _parts(values)
        if part.null_count() < len(part):
            odd = part.is_null() & values.is_not_null()
            found.cells.need(name, odd, "allowed beside train, valid and test: nothing else")
            if absent := [split for place, split in enumerate(SPLITS) if place not in part]:
                problem = f"no rows are marked {absent[0]!r}; allowed: train, valid and test, or folds"
                raise found.cells.refuse(name, problem)
            return {"parts": part.fill_null(0).to_numpy().take(numbers)}
        number = values.cast(pl.Float64, strict=False)
        values = number if number.null_count() == values.null_count() else values
    names = values.drop_nulls().unique().to_list()
    names.sort(key=natural if values.dtype == pl.String else None)
    if not 3 <= len(names) <= MOST_FOLDS:
        raise found.cells.refuse(name, f"{len(names):,} distinct values; allowed: 3 to {MOST_FOLDS:,} folds")
    places = values.replace_strict(names, range(len(names)), default=0, return_dtype=pl.Int64).to_numpy()
    whole = [int(one) if isinstance(one, float) and one.is_integer() else one for one in names]
    return {"folds": places.take(numbers), "fold_names": whole}


def _parts(values: pl.Series) -> pl.Series:
    """The place in SPLITS of each value that names a part, else null."""
    lower = values.cast(pl.String).str.strip_chars().str.to_lowercase()
    return lower.replace_strict(PARTS, default=None, return_dtype=pl.UInt8)


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
        alone = " The file has only one column: see --separator" if len(columns) == 1 else ""
        raise UserError(f"{path}: {unknown('label column', label, columns)}{alone}")
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
    """Read with Arrow's own reader: it refuses every damaged file with an exception, where that of polars asks for as
    much memory as the file says, and then ends the process."""
    import pyarrow as pa
    from pyarrow import dataset

    try:
        file = dataset.dataset(path, format="parquet")
        cells = min(rows or math.inf, file.count_rows()) * len(file.schema)
        if cells * 8 > (most := psutil.virtual_memory().available // 2):
            problem = f"unpacks to more than the {most / 1e9:,.1f} GB of memory that are free"
            raise UserError(f"{path}: {problem}; allowed: fewer --rows")
        found = file.to_table(use_threads=False) if rows is None else file.head(rows)
        found.validate(full=True)  # among others, that text is UTF-8
        frame = pl.from_arrow(found)
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged Parquet ({one_line(error)}); copy or write it again") from None
    if frame.height == 0:
        raise UserError(f"{path}: no rows")
    return frame


def _plain_column(values: pl.Series, path: Path, time: bool = False) -> pl.Series:
    """A column as Int64, Float64 or String, with empty text and NaN as null; dates stay dates if it is the ``time``."""
    kind = values.dtype
    if time and kind.is_temporal():
        return values
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise UserError(
            f"{path}, column {values.name}: holds {kind}; allowed: numbers, text, booleans, dates (or drop it)"
        )
    if kind.is_float() or (kind.is_decimal() and kind.scale):
        return values.cast(pl.Float64).fill_nan(None)
    if kind.is_integer() and kind != pl.UInt64:
        return values.cast(pl.Int64)
    try:
        text = values.cast(pl.String)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        problem = shown(str(error), MOST_SHOWN)
        raise UserError(
            f"{path}, column {shown(values.name, MOST_SHOWN)}: {kind} values that cannot be read ({problem})"
        ) from None
    return text.replace("", None) if (text == "").any() else text
