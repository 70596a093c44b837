"""Avazu's csv file: a header and 24 columns, of which id is dropped and hour is the time."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from ctrlib.data.encode import Cells, Field, RawRows, ranked
from ctrlib.data.formats.text import header_of, labels_of, open_text, read_text
from ctrlib.data.options import PrepareOptions

COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
WORDS = COLUMNS[3:]
FIELDS = ("hour", "weekday", "weekend", *WORDS)


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Avazu file.

    ``id`` is dropped (it names one row); ``hour`` (YYMMDDHH) becomes hour (0-23), weekday (0 = Monday) and weekend
    (0/1), and is the time by which rows can be split. All fields are categories.
    """
    text = open_text(path, scratch, None if options.rows is None else options.rows + 1, report)
    columns = header_of(text, ",", COLUMNS)
    cells = Cells(scratch, [name for name in columns if name in COLUMNS[1:]])
    read_text(text, cells, columns, ",", report)
    labels = labels_of(cells, "click")
    fields = [*hour_fields(cells), *(cells.field(name) for name in WORDS)]
    return RawRows([text.raw], cells, fields, labels, **ranked(cells, "hour", cells.values("hour")))


def hour_fields(cells: Cells) -> list[Field]:
    """Hour, weekday and weekend, whole numbers, from a column ``hour`` of YYMMDDHH."""
    eight = cells.values("hour").set(~cells.values("hour").str.contains("^[0-9]{8}$"), None)
    moments = (eight + "00").str.strptime(pl.Datetime("us"), "%y%m%d%H%M", strict=False)
    cells.need("hour", moments.is_null(), "allowed: YYMMDDHH, for example 14102123")
    weekday = moments.dt.weekday().cast(pl.Int64) - 1
    parts = {"hour": moments.dt.hour(), "weekday": weekday, "weekend": weekday >= 5}
    return [Field(name, "hour", values.cast(pl.Int64)) for name, values in parts.items()]
