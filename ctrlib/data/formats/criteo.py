"""Criteo's raw text: a label, 13 counts and 26 words, tab-separated, without a header."""

from collections.abc import Callable
from pathlib import Path

from ctrlib.data.encode import Cells, Field, RawRows, count_buckets, whole_numbers
from ctrlib.data.formats.text import labels_of, open_text, read_text
from ctrlib.data.options import PrepareOptions

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
WORDS = tuple(f"C{i}" for i in range(1, 27))
FIELDS = (*NUMBERS, *WORDS)
COLUMNS = ("label", *FIELDS)


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Criteo file, its counts in buckets (:func:`ctrlib.data.encode.count_buckets`)."""
    text = open_text(path, scratch, options.rows, report)
    cells = Cells(scratch, COLUMNS)
    read_text(text, cells, COLUMNS, "\t", report, header=False)
    labels = labels_of(cells, "label", "0 or 1, and no header line")
    return RawRows([text.raw], cells, fields_of(cells), labels)


def fields_of(cells: Cells) -> list[Field]:
    """The 39 fields of Criteo's columns."""
    counts = [count_buckets(whole_numbers(cells, name, cells.values(name))) for name in NUMBERS]
    fields = [Field(name, name, values) for name, values in zip(NUMBERS, counts, strict=True)]
    return [*fields, *(cells.field(name) for name in WORDS)]
