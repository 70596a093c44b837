"""The rows everybody is timed on: as many fields and codes as Criteo has after encoding, drawn at random."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUMERIC_FIELDS, WORD_FIELDS = 13, 26
NUMERIC_CODES = 40  # buckets of each of the 13 count fields
SMALLEST_WORDS = 4  # codes of the smallest of the 26 word fields; their sizes grow geometrically


@dataclass(frozen=True)
class Table:
    """``ids`` (N, F) int32 codes from 0, ``labels`` (N,) uint8, ``field_dims`` the number of codes of each field."""

    ids: np.ndarray
    labels: np.ndarray
    field_dims: tuple[int, ...]

    def of_fields(self, fields: int, first: int = 0) -> "Table":
        """``fields`` fields alone, from ``first`` on; those before the 14th have ``NUMERIC_CODES`` codes each."""
        some = slice(first, first + fields)
        return Table(self.ids[:, some], self.labels, self.field_dims[some])

    def head(self, rows: int) -> "Table":
        """The first ``rows`` rows."""
        if rows > len(self.labels):
            raise ValueError(f"{rows} rows asked of a table of {len(self.labels)}")
        return Table(self.ids[:rows], self.labels[:rows], self.field_dims)


def field_sizes(codes: int = 300_000) -> tuple[int, ...]:
    """Codes of each of the 39 fields; they add up to ``codes`` exactly."""
    for_words = codes - NUMERIC_FIELDS * NUMERIC_CODES
    low, high = 0.0, float(np.log(for_words))
    for _ in range(60):  # the growth that makes the sum right, by bisection
        growth = (low + high) / 2
        if (SMALLEST_WORDS * np.exp(growth * np.linspace(0, 1, WORD_FIELDS))).sum() < for_words:
            low = growth
        else:
            high = growth
    words = np.round(SMALLEST_WORDS * np.exp(low * np.linspace(0, 1, WORD_FIELDS))).astype(int)
    words[-1] += for_words - words.sum()
    return (NUMERIC_CODES,) * NUMERIC_FIELDS + tuple(int(size) for size in words)


def make(rows: int, codes: int = 300_000, zipf: float = 1.05, click_rate: float = 0.25, seed: int = 0) -> Table:
    """Independent fields with Zipf-distributed codes; a label is a coin with ``click_rate``."""
    rng = np.random.default_rng(seed)
    sizes = field_sizes(codes)
    ids = np.empty((rows, len(sizes)), dtype=np.int32)
    for f, size in enumerate(sizes):
        law = np.cumsum(np.arange(1, size + 1) ** -zipf)
        # Frequent codes are spread over the table, as they are after encoding by value.
        ids[:, f] = rng.permutation(size)[np.searchsorted(law / law[-1], rng.random(rows))]
    labels = (rng.random(rows) < click_rate).astype(np.uint8)
    return Table(ids, labels, sizes)


def save(table: Table, folder: Path) -> None:
    """Write a table for the child processes."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "ids.npy", table.ids)
    np.save(folder / "labels.npy", table.labels)
    np.save(folder / "field_dims.npy", np.array(table.field_dims))


def load(folder: Path) -> Table:
    """Read what :func:`save` wrote."""
    folder = Path(folder)
    dims = tuple(int(size) for size in np.load(folder / "field_dims.npy"))
    return Table(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "labels.npy"), dims)
