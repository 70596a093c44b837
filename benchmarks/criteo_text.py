"""Invented text in the raw Criteo layout, of any length: what the encoder's speed and memory are measured on.

One row is a label, 13 counts and 26 words of eight hex digits, tab-separated, without a header. Numbers of distinct
values and shares of missing cells follow the sizes published for the Display Advertising Challenge; the values are
drawn at random (Zipf with exponent 1.25, so that 45.8 million rows keep some two million words seen twice or more).
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

FULL_ROWS = 45_840_617
CHUNK = 50_000  # rows drawn from one seed: the text does not depend on how many processes write it
_LARGE = {3: 10_131_227, 4: 2_202_608, 12: 8_351_593, 16: 5_461_306, 21: 7_046_547}
_MIDDLE = {1: 1460, 2: 583, 5: 305, 6: 24, 7: 12_517, 8: 633, 9: 3, 10: 93_145, 11: 5683, 13: 3194, 14: 27}
_REST = {15: 14_992, 17: 10, 18: 5652, 19: 2173, 20: 4, 22: 18, 23: 15, 24: 286_181, 25: 105, 26: 142_572}
WORDS = tuple(({**_LARGE, **_MIDDLE, **_REST})[field] for field in range(1, 27))
NO_NUMBER = (0.45, 0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.001, 0.04, 0.45, 0.04, 0.76, 0.22)
NO_WORD = (*(0, 0, 0.03, 0.03, 0, 0.12, 0, 0, 0, 0, 0, 0.03, 0, 0, 0, 0.03), *(0, 0, 0.44, 0.44, 0.03, 0.76, 0, 0.03))
NO_WORD = (*NO_WORD, 0.44, 0.44)
SPREAD = ((0.5, 1.4), (2, 2), (1.5, 1.5), (1.5, 1.2), (7.5, 2.3), (3, 1.8), (1.5, 1.6))  # of ln(count)
SPREAD = (*SPREAD, (2, 1.2), (3.5, 1.5), (0, 0.7), (0.5, 1), (0, 0.9), (1.6, 1.1))
_WIDTH = 9  # characters of a cell with its tab; a count has at most eight
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_POWERS = 10 ** np.arange(7, -1, -1, dtype=np.int64)


def chunk(rows: int, seed: int, number: int) -> bytes:
    """Rows ``number * CHUNK`` and following (at most CHUNK of them) as text."""
    rng = np.random.default_rng([seed, number])
    cells = np.full((rows, 2 + 39 * _WIDTH), ord("\t"), np.uint8)
    kept = np.ones(cells.shape, bool)
    cells[:, 0] = ord("0") + (rng.random(rows) < 0.256)
    for place in range(39):
        at = slice(2 + place * _WIDTH, 2 + place * _WIDTH + 8)
        missing = (NO_NUMBER + NO_WORD)[place]
        if place < 13:
            kept[:, at] = _write_counts(cells[:, at], _counts(rng, rows, place))
        else:
            _write_words(cells[:, at], _words(rng, rows, place - 13))
        if missing:
            kept[rng.random(rows) < missing, at] = False
    cells[:, -1] = ord("\n")
    return cells[kept].tobytes()


def _counts(rng: np.random.Generator, rows: int, place: int) -> np.ndarray:
    """Counts of field I``place + 1``: log-normal, and some -1, -2, -3 in I2."""
    mean, deviation = SPREAD[place]
    counts = np.exp(rng.normal(mean, deviation, rows)).astype(np.int64)
    np.minimum(counts, 9_999_999, out=counts)
    return np.where(rng.random(rows) < 0.1, rng.integers(-3, 0, rows), counts) if place == 1 else counts


def _write_counts(cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fill ``cells`` (rows, 8) with digits to the right; return which of them belong to the number."""
    digits = np.abs(counts)[:, None] // _POWERS % 10
    cells[:] = ord("0") + digits
    begins = np.maximum(digits != 0, _POWERS == 1).argmax(axis=1)
    negative = np.flatnonzero(counts < 0)
    begins[negative] -= 1
    cells[negative, begins[negative]] = ord("-")
    return np.arange(8) >= begins[:, None]


def _words(rng: np.random.Generator, rows: int, place: int) -> np.ndarray:
    """Words of field C``place + 1`` as uint32: ranks with frequency 1 / rank ** 1.25, scattered over all words."""
    least = WORDS[place] ** -0.25
    share = least + (1 - least) * rng.random(rows)
    ranks = np.minimum((1 / np.square(np.square(share))).astype(np.uint64), WORDS[place])
    return ((ranks * 2_654_435_761 + place * 40_503_001) & 0xFFFFFFFF).astype(np.uint32)


def _write_words(cells: np.ndarray, words: np.ndarray) -> None:
    octets = words.astype(">u4").view(np.uint8).reshape(-1, 4)
    cells[:, 0::2] = _HEX[octets >> 4]
    cells[:, 1::2] = _HEX[octets & 15]


def text(rows: int, seed: int = 0, processes: int = 1) -> Iterator[bytes]:
    """The text of ``rows`` rows, piece by piece; the same for any number of processes."""
    sizes = [min(CHUNK, rows - start) for start in range(0, rows, CHUNK)]
    jobs = (sizes, [seed] * len(sizes), range(len(sizes)))
    if processes == 1:
        yield from map(chunk, *jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        for start in range(0, len(sizes), 4 * processes):  # few at a time, so that little text waits in memory
            yield from pool.map(chunk, *(job[start : start + 4 * processes] for job in jobs))


def write(path: Path, rows: int, seed: int = 0, processes: int = 1) -> Path:
    """Write ``rows`` rows to ``path`` and return it."""
    with open(path, "wb") as file:
        for piece in text(rows, seed, processes):
            file.write(piece)
    return Path(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=FULL_ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    settings = parser.parse_args()
    begun = time.perf_counter()
    write(settings.path, settings.rows, settings.seed, settings.processes)
    size, seconds = settings.path.stat().st_size, time.perf_counter() - begun
    print(f"{settings.path}: {settings.rows:,} rows, {size / 1e9:.2f} GB in {seconds:.0f} s")
