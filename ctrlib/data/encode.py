"""Raw rows to integer codes: cells as numbers of values, divisions of the rows, vocabularies and buckets.

Every cell becomes the number of its value first, and the numbers wait in a temporary file (:class:`Cells`), so that
memory does not grow with the number of rows. All that is said of a value (what it means, whether it is rare) is then
said once. A draw counts the numbers of its training rows, which gives the vocabulary, and looks up one code per cell.

A vocabulary gives the codes 1, 2, ... of a field to the values of the training rows, the most frequent first (equal
counts: in order of value). Rarer values, and values that training never shows, get code 0. A missing value (null here,
"" in stored vocabularies) is a value like any other.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data.manifest import SPLITS
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import write_draw
from ctrlib.data.workers import MOST_THREADS, usable_cores
from ctrlib.errors import UserError, shown
from ctrlib.training.dataset import OOV

MOST_SHOWN = 40  # characters of a value in a message
LEFT_OUT = len(SPLITS)  # the part of rows that are in none
BATCH = 1 << 17  # rows


class Progress:
    """Reports how many rows are done and how fast, a few times a second."""

    def __init__(self, report: Callable[[str], None], step: str, total: int | None = None) -> None:
        self._report, self._step, self._total = report, step, "" if total is None else f" of {total:,}"
        self._rows, self._begun, self._said = 0, time.monotonic(), 0.0
        report(step)

    def add(self, rows: int) -> None:
        """``rows`` more rows are done."""
        self._rows += rows
        now = time.monotonic()
        if now - self._said > 0.3 and now - self._begun > 0.3:
            self._said = now
            rate = self._rows / (now - self._begun)
            self._report(f"{self._step}: {self._rows:,}{self._total} rows, {rate:,.0f} rows/s")


class Cells:
    """Columns of cells as numbers of values, in a temporary file in ``folder``. Use it in a ``with``.

    ``rows``: how many rows there are. Number 0 is a missing cell; number n stands for ``values(column)[n]``.
    ``files``: of each file that was read its name, its rows, and what names the place of one of them.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.columns, self.rows = tuple(columns), 0
        self.files: list[tuple[str, int, Callable[[int], str]]] = []
        self._categories = {name: pl.Categories.random() for name in columns}
        # polars forgets categories of which no series is left
        self._kept = [pl.Series([], dtype=pl.Categorical(categories)) for categories in self._categories.values()]
        self._typed: dict[str, pl.Series] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._blocks: list[tuple[int, list[np.dtype]]] = []  # rows, and the type of each column's numbers

    def __enter__(self) -> "Cells":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_text(self, frame: pl.LazyFrame, progress: Progress) -> None:
        """Add the rows of a frame of String columns, read in batches; empty text is missing."""
        numbered = frame.select(
            pl.col(name).cast(pl.Categorical(categories)).to_physical().add(1).fill_null(0)
            for name, categories in self._categories.items()
        )
        for batch in numbered.collect_batches(chunk_size=BATCH, maintain_order=True):
            self._append([batch[name].to_numpy() for name in self.columns])
            progress.add(batch.height)

    def add_frame(self, frame: pl.DataFrame) -> None:
        """Add all rows at once: text as in :meth:`add_text`; other types keep their type, and NaN is missing."""
        numbers = []
        for name in self.columns:
            values = frame[name]
            if values.dtype == pl.String:
                values = values.cast(pl.Categorical(self._categories[name])).to_physical() + 1
            else:
                values = values.fill_nan(None) if values.dtype.is_float() else values
                self._typed[name] = values.drop_nulls().unique().sort()
                values = values.rank("dense")
            numbers.append(values.cast(pl.UInt32).fill_null(0).to_numpy())
        self._append(numbers)

    def _append(self, numbers: list[np.ndarray]) -> None:
        """Put a block of columns into the file, each in the smallest type that holds its numbers."""
        rows = len(numbers[0])
        packed = [column.astype(np.min_scalar_type(column.max(initial=0))) for column in numbers]
        self._file.write(b"".join(packed))
        self._blocks.append((rows, [column.dtype for column in packed]))
        self.rows += rows

    def values(self, name: str) -> pl.Series:
        """What the numbers 0, 1, 2, ... of a column stand for; null where nothing was there."""
        found = self._typed.get(name)
        if found is None:
            found = self._categories[name].to_series().cast(pl.String).replace("", None)
        return pl.concat([pl.Series(name, [None], found.dtype), found.alias(name)])

    def field(self, name: str) -> "Field":
        """The field whose values are those of a column."""
        values = self.values(name)
        return Field(name, name, values, distinct=values.null_count() == 1)  # two: nothing, and empty text in quotes

    def column(self, name: str) -> np.ndarray:
        """The numbers of one column, (rows,) uint32."""
        place, found, start, at = self.columns.index(name), np.empty(self.rows, np.uint32), 0, 0
        for rows, kinds in self._blocks:
            sizes = [rows * kind.itemsize for kind in kinds]
            self._file.seek(at + sum(sizes[:place]))
            found[start : start + rows] = np.frombuffer(self._file.read(sizes[place]), kinds[place])
            start, at = start + rows, at + sum(sizes)
        return found

    def need(self, name: str, bad: pl.Series, allowed: str) -> None:
        """Raise :class:`UserError` for the first row whose value of a column is one of the ``bad``, if there is any."""
        if not bad.any():
            return
        numbers = self.column(name)
        row = int(bad.to_numpy().take(numbers).argmax())
        if not bad[int(numbers[row])]:
            return
        value, before = self.values(name)[int(numbers[row])], np.cumsum([0, *(rows for _, rows, _ in self.files)])
        at = int(np.searchsorted(before, row, side="right")) - 1
        path, _, place = self.files[at]
        problem = "no value" if value is None else shown(str(value), MOST_SHOWN)
        raise UserError(f"{path}, {place(row - int(before[at]))}, column {name}: {problem}; {allowed}")

    def refuse(self, name: str, problem: str) -> UserError:
        """The error for a whole column."""
        return UserError(f"{self.files[0][0]}, column {name}: {problem}")

    def blocks(self) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Block by block: which rows it holds, and the numbers of each column."""
        self._file.seek(0)
        start = 0
        for rows, kinds in self._blocks:
            numbers = [np.frombuffer(self._file.read(rows * kind.itemsize), kind) for kind in kinds]
            yield slice(start, start + rows), dict(zip(self.columns, numbers, strict=True))
            start += rows


@dataclass(frozen=True)
class Field:
    """A field of the prepared rows: its name, the column of cells it comes from, and what their numbers mean in it.

    ``values``: one for each number of the column, of any type that sorts; null = missing; some may be equal, unless
    they are known to be ``distinct``, which saves the search for equal ones.
    """

    name: str
    column: str
    values: pl.Series
    distinct: bool = False


@dataclass(frozen=True)
class RawRows:
    """Raw rows of any layout: ``cells``, the ``fields`` made of them, and ``labels`` (N,) uint8.

    ``kept``: numbers of the rows to be used (None: all). ``units``: (N,) numbers 0, 1, ... of what a random division
    keeps in one part, where that is more than a row. ``time``: (N,) places, from 0, in the sorted ``times``, where
    the layout has a time. ``numeric``: fields to cut into buckets. ``parts``: (N,) the place in SPLITS of each row,
    where the file says it; ``folds``: (N,) numbers 0, 1, ... of ``fold_names``, where a column says the fold.
    ``sources``: the raw files themselves. ``separator``: what stands between their columns, where they are text of
    one's own. ``columns``: by name, how each was read and why. ``notes``: what a user should know besides.
    """

    sources: list[Path]
    cells: Cells
    fields: list[Field]
    labels: np.ndarray
    kept: np.ndarray | None = None
    units: np.ndarray | None = None
    time: np.ndarray | None = None
    times: pl.Series | None = None
    numeric: tuple[str, ...] = ()
    parts: np.ndarray | None = None
    folds: np.ndarray | None = None
    fold_names: list[Any] = field(default_factory=list)
    separator: str | None = None
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def ranked(cells: Cells, column: str, values: pl.Series) -> dict[str, Any]:
    """The ``time`` and ``times`` of :class:`RawRows`, from the ``values`` of a column's numbers; none is missing."""
    places = values.rank("dense").cast(pl.Int64).fill_null(1).to_numpy() - 1
    return {"time": places.take(cells.column(column)), "times": values.drop_nulls().unique().sort()}


# ---- divisions -------------------------------------------------------------------------------------------------------


def random_order(total: int, seed: int) -> np.ndarray:
    """A permutation of the row numbers (total,): what ``permutation`` draws, in numbers of half the size."""
    order = np.arange(total, dtype=np.int32 if total < 2**31 else np.int64)
    np.random.default_rng(seed).shuffle(order)
    return order


def divide(order: np.ndarray, shares: tuple[float, float, float], total: int | None = None) -> np.ndarray:
    """(N,) uint8: the place in SPLITS of each row; train is the first share of ``order``, valid the next.

    Of ``total`` rows, those that are not in ``order`` belong to no part (:data:`LEFT_OUT`).
    """
    part = np.full(len(order) if total is None else total, LEFT_OUT, np.uint8)
    first = math.floor(len(order) * shares[0] + 0.5)
    second = first + math.floor(len(order) * shares[1] + 0.5)
    part[order[:first]], part[order[first:second]], part[order[second:]] = 0, 1, 2
    return part


def divide_by_fold(folds: np.ndarray, draw: int) -> np.ndarray:
    """(N,) uint8: the place in SPLITS of each row; ``folds`` (N,) holds 0 ... K - 1 and has K >= 3.

    Draw d tests on fold d, validates on the next (after the last comes the first) and trains on the others, so that
    over the K draws each row is tested exactly once.
    """
    following = (draw + 1) % (int(folds.max()) + 1)
    return np.where(folds == draw, 2, np.where(folds == following, 1, 0)).astype(np.uint8)


def division(rows: RawRows, draw: int, options: PrepareOptions) -> np.ndarray:
    """(N,) uint8: the place in SPLITS of each row in a draw, or :data:`LEFT_OUT`; ``units`` end with the largest."""
    total, kept = rows.cells.rows, rows.kept
    if rows.parts is not None or rows.folds is not None:
        part = rows.parts.copy() if rows.folds is None else divide_by_fold(rows.folds, draw)
        if kept is not None:
            part[np.delete(np.arange(total), kept)] = LEFT_OUT
        return part
    if rows.units is not None:
        return divide(random_order(int(rows.units[-1]) + 1, options.split_seed + draw), options.shares)[rows.units]
    if options.split == "time":  # rows of one time keep their order
        order = np.argsort(rows.time if kept is None else rows.time[kept], kind="stable")
    else:
        order = random_order(total if kept is None else len(kept), options.split_seed + draw)
    return divide(order if kept is None else kept[order], options.shares, total)


def part_sizes(part: np.ndarray, labels: np.ndarray) -> dict[str, tuple[int, int]]:
    """Rows and clicks of each part."""
    rows = np.bincount(part, minlength=LEFT_OUT)[:LEFT_OUT].tolist()
    clicks = np.bincount(part[labels > 0], minlength=LEFT_OUT)[:LEFT_OUT].tolist()
    return dict(zip(SPLITS, zip(rows, clicks, strict=True), strict=True))


# ---- vocabularies and buckets ----------------------------------------------------------------------------------------


def bucket_edges(values: np.ndarray, counts: np.ndarray, buckets: int) -> np.ndarray:
    """Upper edges (at most ``buckets`` - 1, ascending) that cut the training values into equally full buckets.

    ``values`` (n,) and how often each occurs in training, (n,) whole numbers; a value may come twice.
    """
    if counts.sum() == 0:
        return np.empty(0)
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order], dtype=np.int64)
    places = np.array([math.ceil(k * int(upto[-1]) / buckets) - 1 for k in range(1, buckets)], dtype=np.int64)
    return np.unique(values[order][np.searchsorted(upto, np.maximum(places, 0), side="right")])


def in_buckets(values: pl.Series, edges: np.ndarray) -> pl.Series:
    """Bucket number (Int64) of each number; missing stays missing."""
    values = values.cast(pl.Float64).fill_nan(None)
    buckets = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="left").astype(np.int64)
    return pl.Series(buckets).set(values.is_null(), None)


def count_buckets(numbers: pl.Series) -> pl.Series:
    """Criteo's transform of whole numbers: floor(ln(x)^2) for x > 2, x itself otherwise; null stays null."""
    squared = numbers.clip(lower_bound=1).cast(pl.Float64).log().pow(2).floor().cast(pl.Int64)
    return squared.zip_with((numbers > 2).fill_null(False), numbers)


def fit_vocabulary(
    values: pl.Series, counts: np.ndarray, min_count: int, distinct: bool = False
) -> tuple[pl.DataFrame, np.ndarray]:
    """Codes of the values seen at least ``min_count`` times in training.

    Args:
        values: (n,) values, some of them perhaps equal.
        counts: (n,) how often each occurs in the training rows.
        min_count: 1 or more.
        distinct: all ``values`` are known to differ.

    Returns:
        The frame (value, code), and the code of each of ``values``, (n,) int32.
    """
    table = pl.DataFrame({"value": values, "count": counts, "place": np.arange(len(values))})
    if not distinct:
        table = table.group_by("value").agg(pl.col("count").sum(), pl.col("place"))
    order = {"by": ["count", "value"], "descending": [True, False], "nulls_last": False}
    table = table.filter(pl.col("count") >= min_count).sort(**order).with_row_index("code", 1)
    codes, places = np.full(len(values), OOV, np.int32), table if distinct else table.explode("place")
    codes[places["place"].to_numpy()] = places["code"].to_numpy()
    return table.select("value", pl.col("code").cast(pl.Int32)), codes


def counts_of(rows: RawRows, column: str, train: np.ndarray) -> np.ndarray:
    """How often each number of a column occurs in the rows that ``train`` (N,) marks."""
    return np.bincount(rows.cells.column(column)[train], minlength=len(rows.cells.values(column)))


def whole_numbers(cells: Cells, name: str, values: pl.Series) -> pl.Series:
    """The ``values`` of a column's numbers as Int64; :class:`UserError` for the first row that holds another."""
    whole = values.cast(pl.Int64, strict=False)
    bad = whole.is_null() & values.is_not_null() if values.dtype == pl.String else whole.ne_missing(values)
    cells.need(name, bad, "allowed: a whole number of at most 64 bits, or nothing")
    return whole


def encode_draw(
    folder: Path,
    draw: int,
    rows: RawRows,
    part: np.ndarray,
    min_count: int,
    report: Callable[[str], None],
    step: str,
    numeric: Sequence[str] = (),
    buckets: int = 20,
) -> dict[str, Any]:
    """Fit the vocabulary of a draw, write its files below ``folder``, return its entry for dataset.json.

    ``part`` (N,): the place in SPLITS of each row; ``numeric``: fields that are cut into so many ``buckets``.
    """
    total, train = rows.cells.rows, part == 0
    tables, codes, edges = [], [], {}
    for place, one in enumerate(rows.fields, 1):
        report(f"{step}: fitting vocabulary, field {place} of {len(rows.fields)}, {one.name}")
        counts, values = counts_of(rows, one.column, train), one.values
        if one.name in numeric:
            known = values.cast(pl.Float64).is_not_nan().fill_null(False).to_numpy()
            edges[one.name] = bucket_edges(values.cast(pl.Float64).to_numpy()[known], counts[known], buckets)
            values = in_buckets(values, edges[one.name])
        known, of_number = fit_vocabulary(values, counts, min_count, one.distinct and one.name not in numeric)
        text = pl.col("value").cast(pl.String).fill_null("")
        tables.append(known.select(pl.lit(one.name).alias("field"), text, "code"))
        codes.append(of_number)
    dims = {one.name: table.height + 1 for one, table in zip(rows.fields, tables, strict=True)}
    blocks = _encoded(rows, codes, part, Progress(report, f"{step}: encoding", total))
    entry = write_draw(folder, draw, part_sizes(part, rows.labels), dims, blocks, pl.concat(tables))
    return entry | {"edges": {name: list(map(str, found.tolist())) for name, found in edges.items()}}


def _encoded(
    rows: RawRows, codes: list[np.ndarray], part: np.ndarray, progress: Progress
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Block by block and part by part: name, codes (n, F) int32 and labels (n,) of its rows, in their order."""
    with ThreadPoolExecutor(min(usable_cores(), MOST_THREADS)) as pool:
        for here, numbers in rows.cells.blocks():
            by_field = np.empty((len(codes), here.stop - here.start), np.int32)

            def look_up(place: int, numbers: dict = numbers, by_field: np.ndarray = by_field) -> None:
                of = numbers[rows.fields[place].column]
                codes[place].take(of, out=by_field[place], mode="clip")  # clip: without a buffer

            list(pool.map(look_up, range(len(codes))))
            ids = np.ascontiguousarray(by_field.T)
            for place, name in enumerate(SPLITS):
                chosen = np.flatnonzero(part[here] == place)
                yield name, ids.take(chosen, axis=0), rows.labels[here][chosen]
                progress.add(len(chosen))
