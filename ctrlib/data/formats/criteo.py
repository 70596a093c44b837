"""Criteo's raw text: a label, 13 counts and 26 words, tab-separated, without a header."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.data.encode import Cells, Field, RawRows, count_bucket
from ctrlib.data.formats.text import MOST_SHOWN, labels_of, open_text, read_text
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import bytes_per_row
from ctrlib.errors import UserError, shown

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
WORDS = tuple(f"C{i}" for i in range(1, 27))
FIELDS = (*NUMBERS, *WORDS)
COLUMNS = ("label", *FIELDS)
INTEGER = re.compile(r"[+-]?[0-9]+")


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Criteo file, its counts in buckets (:func:`ctrlib.data.encode.count_bucket`)."""
    text = open_text(path, scratch, options.rows, report)
    cells = Cells(scratch, COLUMNS)

    size = bytes_per_row(len(FIELDS), options.draws)
    extent, explain = read_text(text, cells, COLUMNS, "\t", _check, report, header=False, row_bytes=size)
    labels = labels_of(cells, "label", explain, text.name)
    if not extent.whole:
        _refuse_cut_word(text.name, cells)
    return RawRows([text.raw], cells, fields_of(cells, explain), labels)


def fields_of(cells: Cells, explain: Callable[[], int]) -> list[Field]:
    """The 39 fields of Criteo's columns; ``explain`` is to name the line of a count that is none."""
    counts = [Field(name, name, _bucketed(cells.values(name), explain)) for name in NUMBERS]
    return [*counts, *(cells.field(name) for name in WORDS)]


def _bucketed(texts: pl.Series, explain: Callable[[], int]) -> pl.Series:
    """The bucket of each text that is a whole number of 64 bits; null stays null."""
    numbers = texts.cast(pl.Int64, strict=False)
    odd = np.flatnonzero((numbers.is_null() & texts.is_not_null()).to_numpy())  # 007 with thousands of zeros, or none
    try:
        numbers = numbers.scatter(odd, [_whole(text) for text in texts.gather(odd)]) if len(odd) else numbers
    except ValueError:
        explain()
        raise UserError(f"column {texts.name}: {shown(texts[odd[0]], MOST_SHOWN)}; allowed: whole numbers") from None
    return numbers.to_frame("x").select(count_bucket(pl.col("x")))["x"]


def _whole(text: str) -> int:
    """A whole number of 64 bits; ValueError for other text."""
    # the length first, since Python refuses to read thousands of digits
    if not (len(text) < 1000 and INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63):
        raise ValueError(text)
    return int(text)


def _check(cells: list[str], where: str) -> None:
    """Judge one line of 40 cells; ``where`` begins the message."""
    if cells[0] not in ("0", "1"):
        found = shown(cells[0], MOST_SHOWN)
        if where.endswith("line 1") and not INTEGER.fullmatch(cells[0]):
            raise UserError(f"{where}: {found} looks like a header; allowed: no header, rows only")
        raise UserError(f"{where}, column label: {found}; allowed: 0 or 1")
    check_counts(cells[1:14], where)


def check_counts(cells: list[str], where: str) -> None:
    """Judge the 13 counts of a line."""
    for name, value in zip(NUMBERS, cells, strict=True):
        try:
            _whole(value or "0")
        except ValueError:
            found = shown(value, MOST_SHOWN)
            raise UserError(f"{where}, column {name}: {found}; allowed: a whole number or nothing") from None


def _refuse_cut_word(name: str, cells: Cells) -> None:
    """A file that ends without a newline and with a word that is too short was cut there."""
    numbers, words = cells.column(WORDS[-1]), cells.values(WORDS[-1]).fill_null("")
    word, others = words[int(numbers[-1])], words.gather(np.unique(numbers[:-1]))
    lengths = set(others.filter(others != "").str.len_chars().unique().to_list())
    if word and len(lengths) == 1 and len(word) < min(lengths):
        problem = f"{word!r} is shorter than every other value ({min(lengths)} characters)"
        raise UserError(f"{name}, line {cells.rows}, column {WORDS[-1]}: {problem}: the file seems cut off there")
