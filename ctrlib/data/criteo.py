"""Criteo text to numbers: every cell becomes one uint32 *key*, a block of lines at a time.

Keys of categories: eight lower-case hex digits are their own value (a1b2c3d4 -> 0xa1b2c3d4). Keys of counts: the
bucketed count (:func:`bucket_count`) plus ZERO. A missing cell is MISSING. Whatever else a cell may hold takes the keys
from FIRST_OTHER on, one for each distinct value of the field (:class:`FieldKeys`).
"""

import io
import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import polars as pl

from ctrlib.data.blocks import Block
from ctrlib.data.text import INTEGER, Text, one_line, scan, shown
from ctrlib.errors import UserError

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
FIELDS = (*NUMBERS, *CATEGORIES)
COLUMNS = ("label", *FIELDS)
MISSING = 0xFFFFFFFF
FIRST_OTHER = 0xFFC00000  # hex words from here on (one in 1024) are "other" values too
ZERO = 1 << 30  # key of the count 0
HEX_WORD = re.compile(r"[0-9a-f]{8}")
_PIECE = 1 << 19  # bytes looked at together: their intermediate arrays stay in the processor's cache
_TAB, _NEWLINE, _RETURN, _MINUS = 9, 10, 13, 45
_TABLE = 1 << 16  # counts below it are bucketed by looking them up


@dataclass(frozen=True)
class Others:
    """Cells of one field: row ``rows[i]`` holds ``values[which[i]]``."""

    rows: np.ndarray
    values: list[str] | list[int]
    which: np.ndarray


@dataclass
class Cells:
    """The cells of n lines. ``keys``: (F, n) uint32; ``labels``: (n,) uint8.

    ``others``: per field (its place in FIELDS) the cells that have no key yet, as :class:`Others`.
    ``word_lengths``: the lengths that occur among the words of C26, the last line's left out if the text ends there.
    """

    keys: np.ndarray
    labels: np.ndarray
    others: dict[int, list[Others]] = field(default_factory=dict)
    word_lengths: set[int] = field(default_factory=set)
    last_word: str = ""


def bucket_count(number: pl.Expr) -> pl.Expr:
    """Criteo's numeric transform: floor(ln(x)^2) for x > 2, x itself otherwise; null stays null."""
    squared = number.clip(lower_bound=1).cast(pl.Float64).log().pow(2).floor().cast(pl.Int64)
    return pl.when(number > 2).then(squared).otherwise(number)


def read_cells(block: Block, name: str) -> Cells:
    """The cells of a block; :class:`UserError` naming the file ``name``, line, value and what is allowed."""
    text = block.text
    if _first_line_ends_with_return(text):
        text = np.frombuffer(text.tobytes().replace(b"\r\n", b"\n"), np.uint8)
    cells = Cells(np.empty((len(FIELDS), block.lines), np.uint32), np.empty(block.lines, np.uint8))
    row = start = 0
    while start < len(text):
        stop = _line_end(text, start + _PIECE)
        read = _fast(text[start:stop], row, cells, block.last and stop == len(text))
        if read == 0:
            return _slow(block, name)
        row, start = row + read, stop
    return cells


def _first_line_ends_with_return(text: np.ndarray) -> bool:
    """Whether the file is written the Windows way."""
    first = int((text[:_PIECE] == _NEWLINE).argmax())
    return first > 0 and text[first - 1] == _RETURN


def _line_end(text: np.ndarray, near: int) -> int:
    """The place after the first newline at or after ``near`` - 1."""
    if near >= len(text):
        return len(text)
    found = text[near - 1 : near + 4096] == _NEWLINE
    if not found.any():
        found = text[near - 1 :] == _NEWLINE
    return near + int(found.argmax())


def _fast(text: np.ndarray, row: int, cells: Cells, final: bool) -> int:
    """Read ``text`` into ``cells`` from ``row`` on and return how many lines it has; 0 when a line is unusual."""
    ends = np.flatnonzero((text - np.uint8(_TAB)) < 2)
    if len(ends) == 0 or len(ends) % len(COLUMNS):
        return 0
    ends = np.ascontiguousarray(ends.reshape(-1, len(COLUMNS)).T)  # (40, n): where each cell ends
    lines = ends.shape[1]
    if (
        row + lines > len(cells.labels)
        or np.count_nonzero(text == _NEWLINE) != lines
        or (text.take(ends[-1]) != _NEWLINE).any()
    ):
        return 0
    lengths = np.empty_like(ends)
    np.subtract(ends[1:], ends[:-1] + 1, out=lengths[1:])
    lengths[0, 0] = ends[0, 0]
    np.subtract(ends[0, 1:], ends[-1, :-1] + 1, out=lengths[0, 1:])
    labels = text.take(ends[0] - 1) - np.uint8(ord("0"))
    if (lengths[0] != 1).any() or (labels > 1).any() or (text.take(ends[-1] - 1) == _RETURN).any():
        return 0
    here = slice(row, row + lines)
    cells.labels[here] = labels
    first = len(NUMBERS) + 1
    if not _read_counts(text, ends[1:first], lengths[1:first], cells, here):
        return 0
    if not _read_words(text, ends[first:], lengths[first:], cells, here):
        return 0
    seen = lengths[-1, : lines - final]
    seen = seen[seen > 0]
    cells.word_lengths.update([8] if len(seen) and (seen == 8).all() else np.unique(seen).tolist())
    if final:
        cells.last_word = text[ends[-1, -1] - lengths[-1, -1] : ends[-1, -1]].tobytes().decode(errors="replace")
    return lines


def _read_counts(text: np.ndarray, ends: np.ndarray, lengths: np.ndarray, cells: Cells, here: slice) -> bool:
    """Keys of counts from their digits; False when a cell is anything but up to 18 digits after at most one minus."""
    shape = ends.shape
    ends, digits = ends.ravel(), lengths.flatten()
    missing = digits == 0
    negative = np.flatnonzero(text.take(ends - digits) == _MINUS)
    digits[negative] -= 1
    if (digits[negative] < 1).any() or digits.max() > 18:
        return False
    digit = text.take(ends - 1) - np.uint8(ord("0"))
    np.copyto(digit, 0, where=missing)
    if (digit > 9).any():
        return False
    values = digit.astype(np.int64)
    longer = np.flatnonzero(digits > 1)
    place = 1
    while len(longer):
        digit = text.take(ends.take(longer) - (place + 1)) - np.uint8(ord("0"))
        if (digit > 9).any():
            return False
        values[longer] += digit.astype(np.int64) * 10**place
        place += 1
        longer = longer[digits.take(longer) > place]
    values[negative] *= -1
    keys, others = count_keys(values)
    np.copyto(keys, MISSING, where=missing)
    cells.keys[: shape[0], here] = keys.reshape(shape)
    for place in others.tolist():
        _note(cells, place // shape[1], np.array([here.start + place % shape[1]]), [int(values[place])])
    return True


def count_keys(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n,) uint32 of counts (n,) int64, and the places of those that are too far below zero to have one."""
    keys = _small_buckets().take(values, mode="clip") + np.uint32(ZERO)
    large = np.flatnonzero(values >= _TABLE)
    keys[large] = _large_buckets(values[large]) + np.uint32(ZERO)
    negative = np.flatnonzero(values < 0)
    keys[negative] = (values[negative] + ZERO).astype(np.uint32)
    return keys, negative[values[negative] < -ZERO]


def _exact_buckets(values: np.ndarray) -> np.ndarray:
    return pl.DataFrame({"x": values}).select(bucket_count(pl.col("x")))["x"].to_numpy()


@cache
def _small_buckets() -> np.ndarray:
    return _exact_buckets(np.arange(_TABLE)).astype(np.uint32)


def _large_buckets(values: np.ndarray) -> np.ndarray:
    """Buckets of counts > 2; polars decides where another logarithm, off by its last digit, could decide otherwise."""
    squared = np.square(np.log(values.astype(np.float64)))
    buckets = np.floor(squared).astype(np.uint32)
    if len(near := np.flatnonzero(np.abs(squared - np.rint(squared)) < 1e-9)):
        buckets[near] = _exact_buckets(values[near]).astype(np.uint32)
    return buckets


def _note(
    cells: Cells, place: int, rows: np.ndarray, values: list[str] | list[int], which: np.ndarray | None = None
) -> None:
    """Add other values of the field at ``place``; without ``which``, one for each row."""
    found = Others(rows, values, np.arange(len(values)) if which is None else which)
    cells.others.setdefault(place, []).append(found)


def _read_words(text: np.ndarray, ends: np.ndarray, lengths: np.ndarray, cells: Cells, here: slice) -> bool:
    """Keys of words; False when one is not UTF-8.

    The value of eight hex digits is computed at every place of the text: whole arrays are faster than gathered cells.
    """
    digit = (text & 15) + (text >> 6) * np.uint8(9)
    pair = digit[:-1] * np.uint8(16) | digit[1:]
    four = pair[:-2].astype(np.uint16) * np.uint16(1 << 8) | pair[2:]
    eight = four[:-4].astype(np.uint32) * np.uint32(1 << 16) | four[4:]
    valid = ((text - np.uint8(ord("0"))) < 10) | ((text - np.uint8(ord("a"))) < 6)
    for step in (1, 2, 4):
        valid = valid[:-step] & valid[step:]
    begins = ends - 8  # never before the text: 14 cells come first
    keys = eight.take(begins)
    regular = valid.take(begins) & (lengths == 8) & (keys < FIRST_OTHER)
    missing = lengths == 0
    np.copyto(keys, MISSING, where=missing)
    cells.keys[len(NUMBERS) :, here] = keys
    others = np.flatnonzero(~(regular | missing))
    return len(others) == 0 or _note_words(text, ends, lengths, others, cells, here)


def _note_words(
    text: np.ndarray, ends: np.ndarray, lengths: np.ndarray, others: np.ndarray, cells: Cells, here: slice
) -> bool:
    """Note the words at ``others`` (places in ``ends``, flattened); False when one is not UTF-8.

    Where they are many (the file's words are no hex words), a word of up to eight bytes is noted once for all its rows.
    """
    raw, lines = text.tobytes(), ends.shape[1]
    sizes, stops, places = lengths.ravel()[others], ends.ravel()[others], others // lines
    short = (sizes <= 8) & (len(others) >= lines and b"\0" not in raw)
    octets = _octets(text, stops, sizes) if short.any() else None
    for place in np.unique(places).tolist():
        chosen = rows = np.flatnonzero((places == place) & ~short)
        which = np.arange(len(chosen))
        if octets is not None:
            repeated = np.flatnonzero((places == place) & short)
            _, first, found = np.unique(octets[repeated], return_index=True, return_inverse=True)
            which = np.concatenate([which, len(chosen) + found])
            chosen, rows = np.concatenate([chosen, repeated[first]]), np.concatenate([rows, repeated])
        try:
            words = [raw[end - size : end].decode() for end, size in zip(stops[chosen], sizes[chosen], strict=True)]
        except UnicodeDecodeError:
            return False
        _note(cells, len(NUMBERS) + place, here.start + others[rows] % lines, words, which)
    return True


def _octets(text: np.ndarray, stops: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The last eight bytes of each word as one uint64, 0 before a shorter one."""
    octets = np.zeros(len(stops), np.uint64)
    for place in range(8):
        octet = np.where(place < sizes, text.take(stops - 1 - place), 0).astype(np.uint64)
        octets |= octet << np.uint64(8 * place)
    return octets


def _slow(block: Block, name: str) -> Cells:
    """The cells of a block with unusual lines: judged line by line, then read by polars."""
    text = Text(name, block.text.tobytes(), first=block.first, last=block.last)
    scan(text, COLUMNS, "\t", header=False, quoted=False, check=_check)
    schema = {column: pl.Int64 if column in NUMBERS else pl.String for column in COLUMNS}
    try:
        frame = pl.read_csv(io.BytesIO(text.content), separator="\t", has_header=False, schema=schema, quote_char=None)
    except pl.exceptions.PolarsError as error:
        lines = f"lines {block.first} to {block.first + block.lines - 1}"
        raise UserError(f"{name}, {lines}: cannot be read ({one_line(error)})") from None
    cells = Cells(np.empty((len(FIELDS), frame.height), np.uint32), frame["label"].cast(pl.UInt8).to_numpy().copy())
    for place, column in enumerate(FIELDS):
        values, missing = frame[column], frame[column].is_null().to_numpy()
        if column in NUMBERS:
            numbers = values.fill_null(0).to_numpy()
            keys, others = count_keys(numbers)
        else:
            keys, others = word_keys(values)
        keys[missing] = MISSING
        cells.keys[place] = keys
        if len(others):
            _note(cells, place, others, values.gather(others).to_list())
    last = frame["C26"].fill_null("")
    lengths = last[: -1 if block.last else None].str.len_bytes().unique().to_list()
    cells.word_lengths = {length for length in lengths if length}
    cells.last_word = last[-1]
    return cells


def word_keys(words: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n,) uint32 of words (null: MISSING), and the places of those that are neither missing nor hex words."""
    text = words.fill_null("")
    keys = text.str.to_integer(base=16, dtype=pl.UInt32, strict=False).fill_null(FIRST_OTHER).to_numpy().copy()
    plain = text.str.contains(f"^{HEX_WORD.pattern}$").to_numpy() & (keys < FIRST_OTHER)
    missing = words.is_null().to_numpy()
    keys[missing] = MISSING
    return keys, np.flatnonzero(~(plain | missing))


def _check(cells: list[str], where: str) -> None:
    """Judge one line of 40 cells; ``where`` begins the message."""
    if cells[0] not in ("0", "1"):
        if where.endswith("line 1") and not INTEGER.fullmatch(cells[0]):
            raise UserError(f"{where}: {shown(cells[0])} looks like a header; allowed: no header, rows only")
        raise UserError(f"{where}, column label: {shown(cells[0])}; allowed: 0 or 1")
    for name, value in zip(NUMBERS, cells[1:14], strict=True):
        # the length first, since Python refuses to read thousands of digits
        if value and not (len(value) < 1000 and INTEGER.fullmatch(value) and -(2**63) <= int(value) < 2**63):
            raise UserError(f"{where}, column {name}: {shown(value)}; allowed: a whole number or nothing")
