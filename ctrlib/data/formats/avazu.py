"""Avazu's csv file: a header and 24 columns, of which id is dropped and hour is the time."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl

from ctrlib.data.encode import Cells, Field, RawRows, ranked
from ctrlib.data.formats.text import MOST_SHOWN, header_of, labels_of, need_all, open_text, read_text
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import bytes_per_row
from ctrlib.errors import UserError, shown

COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
WORDS = COLUMNS[3:]
FIELDS = ("hour", "weekday", "weekend", *WORDS)
HOUR_ALLOWED = "allowed: YYMMDDHH, for example 14102123"


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Avazu file.

    ``id`` is dropped (it names one row); ``hour`` (YYMMDDHH) becomes hour (0-23), weekday (0 = Monday) and weekend
    (0/1), and is the time by which rows can be split. All fields are categories.
    """
    text = open_text(path, scratch, None if options.rows is None else options.rows + 1, report)
    columns = header_of(text, ",", COLUMNS)
    label, hour = columns.index("click"), columns.index("hour")

    def check(cells: list[str], where: str) -> None:
        if cells[label] not in ("0", "1"):
            raise UserError(f"{where}, column click: {shown(cells[label], MOST_SHOWN)}; allowed: 0 or 1")
        if moment(cells[hour]) is None:
            raise UserError(f"{where}, column hour: {shown(cells[hour], MOST_SHOWN)}; {HOUR_ALLOWED}")

    cells = Cells(scratch, [name for name in columns if name in COLUMNS[1:]])
    size = bytes_per_row(len(FIELDS), options.draws)
    extent, explain = read_text(text, cells, columns, ",", check, report, row_bytes=size)
    labels = labels_of(cells, "click", explain, text.name)
    last = columns[-1]
    if not extent.whole and last in cells.columns and cells.values(last)[int(cells.column(last)[-1])] is None:
        raise UserError(f"{text.name}, line {extent.lines}: ends after a comma: the file seems cut off there")
    fields = [*hour_fields(cells, explain, text.name), *(cells.field(name) for name in WORDS)]
    return RawRows([text.raw], cells, fields, labels, **ranked(cells, "hour", cells.values("hour")))


def hour_fields(cells: Cells, explain: Callable[[], int], name: str) -> list[Field]:
    """Hour, weekday and weekend, whole numbers, from a column ``hour`` of YYMMDDHH; ``name``: of the file."""
    texts = cells.values("hour")
    moments = [moment(text or "") for text in texts]
    bad = pl.Series([one is None for one in moments])
    need_all(cells.column("hour"), bad, texts, explain, name, HOUR_ALLOWED)

    def part(name: str, of: Callable[[datetime], int]) -> Field:
        return Field(name, "hour", pl.Series(name, [one and of(one) for one in moments], dtype=pl.Int64))

    return [
        part("hour", lambda one: one.hour),
        part("weekday", lambda one: one.weekday()),
        part("weekend", lambda one: int(one.weekday() >= 5)),
    ]


def moment(value: str) -> datetime | None:
    """Avazu's YYMMDDHH as a datetime; None when it is not one."""
    if not re.fullmatch(r"[0-9]{8}", value):
        return None
    try:
        return datetime.strptime(value, "%y%m%d%H")
    except ValueError:
        return None
