"""Raw text to a prepared folder, in memory that does not grow with the number of rows.

The text is read once. Every cell gets the number of its value (values.py), and the numbers wait in a temporary file.
For each draw one pass over that file counts the values of the training rows, which gives the vocabulary, and a second
pass writes the codes.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data import criteo
from ctrlib.data.blocks import Block, RawLines
from ctrlib.data.criteo import FIELDS, NUMBERS, Cells
from ctrlib.data.manifest import SPLITS
from ctrlib.data.values import FieldValues
from ctrlib.data.workers import Workers
from ctrlib.data.writing import DrawWriter, need_space
from ctrlib.errors import UserError

_TOGETHER = 8  # blocks counted at a time

Report = Callable[[str], None]


class Pace:
    """Reports how many rows are done and how fast, a few times a second."""

    def __init__(self, report: Report, step: str, total: int | None = None) -> None:
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


def bytes_per_row(fields: int, draws: int) -> int:
    """Roughly the bytes that a row takes on disk: its numbers while it is prepared, and its codes in each draw."""
    return 2 * fields + draws * (4 * fields + 1)


class NumberedRows:
    """Rows whose cells are numbers of values, in a temporary file in ``folder``. Use it in a ``with``.

    ``fields``: names of the fields; those in ``counts`` hold bucketed counts, the others words or fractions.
    ``labels``: (N,) uint8 and ``values``: per field, once :meth:`read` or :meth:`close` is done.
    """

    def __init__(
        self, folder: Path, workers: Workers, fields: Sequence[str] = FIELDS, counts: Sequence[str] = NUMBERS
    ) -> None:
        self.fields = tuple(fields)
        self.values = [FieldValues(name, name in counts) for name in fields]
        self.labels = np.empty(0, np.uint8)
        self._workers, self._folder = workers, folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._blocks: list[tuple[int, list[np.dtype]]] = []  # rows, and the number type of each field
        self._labels: list[np.ndarray] = []

    def __enter__(self) -> "NumberedRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, lines: RawLines, draws: int, report: Report) -> None:
        """Read raw Criteo text; :class:`UserError` names the file, line and value that cannot be used."""
        name = str(lines.path)
        lengths, end = set(), None
        try:
            for block, cells in self.add(lines, lambda block: criteo.read_cells(block, name), report):
                if block.first == 1:
                    need_space(self._folder, _row_estimate(block, lines) * bytes_per_row(len(FIELDS), draws))
                lengths |= cells.word_lengths
                end = (block, cells.last_word)
        except UserError:
            lines.read_on()
            raise
        self.close()
        _refuse_cut_word(name, len(self.labels), *end, lengths)
        if self.labels.min() == self.labels.max():
            problem = f"all {len(self.labels):,} labels are {self.labels[0]}"
            raise UserError(f"{name}, column label: {problem}; allowed: some rows with 0 and some with 1")
        need_space(self._folder, draws * len(self.labels) * (4 * len(FIELDS) + 1))

    def add(self, lines: RawLines, parse: Callable[[Block], Cells], report: Report) -> Iterator[tuple[Block, Cells]]:
        """Add the rows of a text; every block is given on with its cells once these are stored."""
        pace = Pace(report, f"reading {lines.path.name}")

        def parsed(block: Block) -> tuple[Block, Cells]:
            return block, parse(block)

        for block, cells in self._workers.in_order(parsed, lines):
            self._append(cells)
            self._labels.append(cells.labels)
            pace.add(len(cells.labels))
            yield block, cells

    def close(self) -> None:
        """All rows are there: free what only reading needs."""
        for values in self.values:
            values.close()
        self.labels = np.concatenate(self._labels)
        self._labels.clear()

    def _append(self, cells: Cells) -> None:
        """Number the cells of a block, and put the numbers into the file in the smallest type that holds them."""
        step = 1 if self._workers.count == 1 else 3 * self._workers.count

        def number(start: int) -> list[tuple[int, np.ndarray]]:
            made = []
            for place in range(start, len(self.fields), step):
                numbers = self.values[place].number(cells.keys[place], cells.others.get(place, ()))
                made.append((place, numbers.astype(np.min_scalar_type(self.values[place].count))))
            return made

        done = dict(pair for made in self._workers.all_of(number, range(step)) for pair in made)
        numbers = [done[place] for place in range(len(self.fields))]
        self._file.write(b"".join(numbers))
        self._blocks.append((len(cells.labels), [array.dtype for array in numbers]))

    def _stored(self) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Block by block: which rows it holds, and their numbers per field, (n,) each."""
        self._file.seek(0)
        start = 0
        for rows, types in self._blocks:
            content = memoryview(self._file.read(rows * sum(kind.itemsize for kind in types)))
            numbers, at = [], 0
            for kind in types:
                numbers.append(np.frombuffer(content, kind, rows, at))
                at += rows * kind.itemsize
            yield slice(start, start + rows), numbers
            start += rows

    def parts(self, shares: tuple[float, float, float], seed: int) -> np.ndarray:
        """(N,) uint8: the place in SPLITS of each row, drawn at random."""
        return parts_at_random(len(self.labels), shares, seed)

    def part_sizes(self, part: np.ndarray) -> dict[str, tuple[int, int]]:
        """Rows and clicks of each part."""
        sizes = {}
        for place, name in enumerate(SPLITS):
            here = part == place
            sizes[name] = int(np.count_nonzero(here)), int(np.count_nonzero(self.labels[here]))
        return sizes

    def write_draw(
        self,
        folder: Path,
        draw: int,
        part: np.ndarray,
        min_count: int,
        report: Report,
        step: str,
        numeric: Sequence[str] = (),
        buckets: int = 20,
    ) -> dict[str, Any]:
        """Fit the vocabulary of a draw, write its files below ``folder``, return its entry for dataset.json.

        ``numeric``: fields of fractions, which are cut into so many ``buckets``.
        """
        total = len(self.labels)
        counts = self._counts(part, Pace(report, f"{step}: counting values", total))
        fitted = []
        for values, counted in zip(self.values, counts, strict=True):
            report(f"{step}: fitting vocabulary, field {values.name}")
            bucketed = values.name in numeric
            fitted.append(
                values.buckets(counted, min_count, buckets) if bucketed else values.vocabulary(counted, min_count)
            )
        tables = [
            table.select(pl.lit(name).alias("field"), "value", "code")
            for name, (table, _) in zip(self.fields, fitted, strict=True)
        ]
        sizes = {name: rows for name, (rows, _) in self.part_sizes(part).items()}
        with DrawWriter(folder, draw, sizes, len(self.fields)) as writer:
            self._write_codes(writer, part, [codes for _, codes in fitted], Pace(report, f"{step}: encoding", total))
            return writer.finish(self.fields, [table.height + 1 for table in tables], pl.concat(tables))

    def _counts(self, part: np.ndarray, pace: Pace) -> list[np.ndarray]:
        """Per field how often each number occurs in the training rows, which have ``part`` (N,) = 0."""
        counts = [np.zeros(values.count + 1, np.int32) for values in self.values]
        together: list[tuple[np.ndarray, list[np.ndarray]]] = []

        def count(place: int) -> None:
            for is_train, numbers in together:
                np.add.at(counts[place], numbers[place].astype(np.intp), is_train)

        for rows, numbers in self._stored():
            together.append(((part[rows] == 0).astype(np.int32), numbers))
            pace.add(rows.stop - rows.start)
            if len(together) == _TOGETHER:
                self._workers.all_of(count, range(len(self.fields)))
                together.clear()
        self._workers.all_of(count, range(len(self.fields)))
        return counts

    def _write_codes(self, writer: DrawWriter, part: np.ndarray, codes: list[np.ndarray], pace: Pace) -> None:
        """Write the codes of all rows; ``part`` (N,): the place in SPLITS of each row; ``codes``: of each number."""

        def encode(block: tuple[slice, list[np.ndarray]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
            rows, numbers = block
            by_field = np.empty((len(self.fields), rows.stop - rows.start), np.int32)
            for place, of_field in enumerate(numbers):
                codes[place].take(of_field, out=by_field[place], mode="clip")  # clip: without a buffer
            ids = np.ascontiguousarray(by_field.T)
            chosen = [np.flatnonzero(part[rows] == place) for place in range(len(SPLITS))]
            labels = self.labels[rows]
            return [(name, ids.take(of, axis=0), labels[of]) for name, of in zip(SPLITS, chosen, strict=True)]

        for pieces in self._workers.in_order(encode, self._stored()):
            for name, ids, labels in pieces:
                writer.append(name, ids, labels)
            pace.add(sum(len(labels) for *_, labels in pieces))


def _row_estimate(block: Block, lines: RawLines) -> int:
    """About how many rows will be read, from the first of them; of packed text only what has been seen is certain."""
    if lines.packed or not lines.path.is_file():
        return block.lines
    estimate = int(lines.path.stat().st_size / len(block.text) * block.lines)
    return estimate if lines.rows is None else min(lines.rows, estimate)


def _refuse_cut_word(name: str, rows: int, block: Block, word: str, lengths: set[int]) -> None:
    """A file that ends without a newline and with a word that is too short was cut there."""
    if not block.whole and word and len(lengths) == 1 and len(word) < min(lengths):
        problem = f"{word!r} is shorter than every other value ({min(lengths)} characters)"
        raise UserError(f"{name}, line {rows}, column C26: {problem}: the file seems cut off there")


def parts_at_random(total: int, shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """(N,) uint8: the place in SPLITS of each row, as ``split_rows`` of a ``random_order`` has it, in less memory."""
    order = np.arange(total, dtype=np.int32 if total < 2**31 else np.int64)
    np.random.default_rng(seed).shuffle(order)  # what permutation() does, on numbers of half the size
    part = np.empty(total, np.uint8)
    first = int(np.floor(total * shares[0] + 0.5))
    second = first + int(np.floor(total * shares[1] + 0.5))
    part[order[:first]], part[order[first:second]], part[order[second:]] = 0, 1, 2
    return part
