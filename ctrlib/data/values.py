"""The distinct values of one field, numbered in order of arrival: a hash table that takes arrays of keys.

A key is the uint32 that :mod:`ctrlib.data.criteo` makes of a cell. Numbering all rows first and counting numbers
afterwards makes every draw cheap: its vocabulary is one count per number, its codes are one look-up per cell.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from ctrlib.data.criteo import FIRST_OTHER, HEX_WORD, MISSING, ZERO, Others
from ctrlib.data.encode import bucket_edges
from ctrlib.errors import UserError

_SPREAD = np.uint32(2_654_435_769)  # 2**32 / golden ratio: consecutive keys land far apart
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_FEW = 1 << 12


class FieldValues:
    """Values of the field ``name``; ``count`` of them so far, with the numbers 1 ... ``count``.

    ``counts``: its keys are those of Criteo's bucketed counts, not of words.
    """

    def __init__(self, name: str, counts: bool = False) -> None:
        self.name, self.count, self._counts = name, 0, counts
        self.others: dict[str | int, int] = {}
        self._keys = np.zeros(_FEW, np.uint32)  # number -> key
        # An entry holds key << 32 | number; 0 is empty. At most half of the entries are taken.
        self._resize(12)

    def _resize(self, bits: int) -> None:
        self._bits, self._entries = bits, np.zeros(1 << bits, np.uint64)

    def number(self, keys: np.ndarray, others: Sequence[Others] = ()) -> np.ndarray:
        """Numbers (n,) uint32 of ``keys`` (n,) uint32; the keys of ``others`` are set here.

        Raises :class:`UserError` when the field has more values other than hex words than there are keys for.
        """
        for found in others:
            made = [self.others.setdefault(value, FIRST_OTHER + len(self.others)) for value in found.values]
            if len(self.others) > MISSING - FIRST_OTHER:
                limit = f"allowed: at most {MISSING - FIRST_OTHER:,}"
                raise UserError(f"column {self.name}: too many distinct values that are not eight hex digits; {limit}")
            keys[found.rows] = np.array(made, np.uint32)[found.which]
        numbers = self._look_up(keys)
        new = np.flatnonzero(numbers == 0)
        while len(new):  # a few at first: among many new cells, most repeat a few values
            self._add(np.unique(keys[new[: max(_FEW, self.count)]]))
            numbers[new] = self._look_up(keys[new])
            new = new[numbers[new] == 0]
        return numbers

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        return ((keys * _SPREAD) >> np.uint32(32 - self._bits)).astype(np.intp)

    def _look_up(self, keys: np.ndarray) -> np.ndarray:
        """The number of each key; 0 for a key that has none."""
        slots = self._slots(keys)
        found = self._entries.take(slots)
        numbers = found.astype(np.uint32)
        left = np.flatnonzero(((found >> np.uint64(32)) != keys) & (found != 0))
        while len(left):  # another key sits there: look one further
            slots[left] = (slots[left] + 1) & (len(self._entries) - 1)
            found = self._entries.take(slots[left])
            numbers[left] = found.astype(np.uint32)
            left = left[((found >> np.uint64(32)) != keys[left]) & (found != 0)]
        return numbers

    def _add(self, keys: np.ndarray) -> None:
        """Number distinct new keys."""
        numbers = np.arange(self.count + 1, self.count + len(keys) + 1)
        self.count += len(keys)
        if self.count >= len(self._keys):
            self._keys = np.concatenate([self._keys, np.zeros(self.count, np.uint32)])
        self._keys[numbers] = keys
        if 2 * self.count > len(self._entries):
            self._resize(self.count.bit_length() + 1)
            keys, numbers = self._keys[1 : self.count + 1], np.arange(1, self.count + 1)
        self._enter(keys, numbers)

    def _enter(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Put distinct keys into the table."""
        entries = keys.astype(np.uint64) << np.uint64(32) | numbers.astype(np.uint64)
        slots = self._slots(keys)
        while len(entries):
            free = np.flatnonzero(self._entries.take(slots) == 0)
            self._entries[slots[free]] = entries[free]  # of several for one slot the last stays; the others go on
            left = np.flatnonzero(self._entries.take(slots) != entries)
            entries, slots = entries[left], (slots[left] + 1) & (len(self._entries) - 1)

    def close(self) -> None:
        """Free the table: no more keys will come."""
        self._resize(0)
        self._keys = self._keys[: self.count + 1].copy()

    def vocabulary(self, counts: np.ndarray, min_count: int) -> tuple[pl.DataFrame, np.ndarray]:
        """Codes of the values that training shows at least ``min_count`` times, the most frequent first.

        ``counts``: (``count`` + 1,), how often each number occurs in the training rows. Returns the frame
        (value, code), with "" for a missing value, and the code of each number, (``count`` + 1,) int32.
        """
        kept = np.flatnonzero(counts >= min_count)
        values = self._values(self._keys[kept])
        table, ranks = _ranked(values, counts[kept])
        codes = np.zeros(self.count + 1, np.int32)
        codes[kept] = ranks
        if not self._counts and values.dtype == pl.Int64:
            return table.with_columns(_hex_words(table["value"]).fill_null("")), codes
        return table.with_columns(pl.col("value").cast(pl.String).fill_null("")), codes

    def buckets(self, counts: np.ndarray, min_count: int, buckets: int) -> tuple[pl.DataFrame, np.ndarray]:
        """The same for keys that are fractions (:func:`fraction_keys`), in buckets that training fills equally."""
        keys = self._keys[1 : self.count + 1]
        missing = keys == MISSING
        of_values = np.where(missing, 0, keys).astype(np.uint32).view(np.float32).astype(np.float64)
        seen = counts[1:]
        edges = bucket_edges(of_values[~missing], seen[~missing], buckets)
        bucket = np.where(missing, 0, 1 + np.searchsorted(edges, of_values, side="left"))  # 0: missing
        filled = np.bincount(bucket, seen, minlength=len(edges) + 2).astype(np.int64)
        kept = np.flatnonzero(filled >= min_count)
        table, ranks = _ranked(pl.Series("value", kept - 1).set(pl.Series(kept == 0), None), filled[kept])
        of_bucket = np.zeros(len(filled), np.int32)
        of_bucket[kept] = ranks
        return (
            table.with_columns(pl.col("value").cast(pl.String).fill_null("")),
            np.concatenate([np.zeros(1, np.int32), of_bucket[bucket]]),
        )

    def _values(self, keys: np.ndarray) -> pl.Series:
        """What ``keys`` stand for; hex words as numbers (they sort as the text does) unless there is other text."""
        values = keys.astype(np.int64) - (ZERO if self._counts else 0)
        places = np.flatnonzero((keys >= FIRST_OTHER) & (keys != MISSING))
        known = list(self.others) if len(places) else []
        others = [known[key - FIRST_OTHER] for key in keys[places].tolist()]
        if self._counts or all(HEX_WORD.fullmatch(word) for word in others):
            values[places] = [int(other) if self._counts else int(other, 16) for other in others]
            made = pl.Series("value", values)
        else:
            made = _hex_words(pl.Series("value", values)).scatter(places, others)
        return made.set(pl.Series(keys == MISSING), None)


def fraction_keys(values: pl.Series) -> np.ndarray:
    """Keys (n,) uint32 of Float32 numbers: their bits, which no missing value (null or NaN: MISSING) shares."""
    missing = (values.is_null() | values.is_nan()).fill_null(True).to_numpy()
    bits = (values.fill_null(0.0).to_numpy() + np.float32(0.0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    return np.where(missing, np.uint32(MISSING), bits)


def _ranked(values: pl.Series, counts: np.ndarray) -> tuple[pl.DataFrame, np.ndarray]:
    """The frame (value, code), the most frequent value first, and the code of each of ``values`` (n,), int32."""
    frame = pl.DataFrame({"place": np.arange(len(values)), "count": counts, "value": values})
    frame = frame.sort("count", "value", descending=[True, False], nulls_last=False)
    codes = np.empty(len(values), np.int32)
    codes[frame["place"].to_numpy()] = np.arange(1, len(values) + 1, dtype=np.int32)
    ranks = pl.int_range(1, len(values) + 1, dtype=pl.Int32, eager=True)
    return pl.DataFrame({"value": frame["value"], "code": ranks}), codes


def _hex_words(values: pl.Series) -> pl.Series:
    """Whole numbers (n,) below 2 ** 32 as text of eight hex digits each; null stays null."""
    if len(values) == 0:
        return values.cast(pl.String)
    octets = values.fill_null(0).to_numpy().astype(">u4").view(np.uint8).reshape(-1, 4)
    lines = np.full((len(values), 9), ord("\n"), np.uint8)
    lines[:, 0:8:2], lines[:, 1:8:2] = _HEX[octets >> 4], _HEX[octets & 15]
    words = pl.Series("value", [lines.tobytes()[:-1].decode("ascii")]).str.split("\n").explode()
    return words.set(values.is_null(), None)
