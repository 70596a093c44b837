"""Public raw logs: Criteo's (text without a header), Avazu's (csv) and Frappe's (positives only).

Each is read into :class:`ctrlib.data.encode.RawRows` with the given options; :class:`UserError` names the first line
and field that is not as it should be.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.config import derive_seed
from ctrlib.data.encode import Cells, Field, RawRows, count_buckets, ranked, whole_numbers
from ctrlib.data.options import PrepareOptions
from ctrlib.data.text import header_of, labels_of, open_text, read_text
from ctrlib.errors import UserError

CRITEO_NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CRITEO_WORDS = tuple(f"C{i}" for i in range(1, 27))
CRITEO_FIELDS = (*CRITEO_NUMBERS, *CRITEO_WORDS)
CRITEO_COLUMNS = ("label", *CRITEO_FIELDS)
AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
AVAZU_WORDS = AVAZU_COLUMNS[3:]
AVAZU_FIELDS = ("hour", "weekday", "weekend", *AVAZU_WORDS)
FRAPPE_COLUMNS = (
    *("user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
FRAPPE_FIELDS = tuple(name for name in FRAPPE_COLUMNS if name != "cnt")


def read_criteo(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Criteo file, its counts in buckets (:func:`ctrlib.data.encode.count_buckets`)."""
    text = open_text(path, scratch, options.rows, report)
    cells = Cells(scratch, CRITEO_COLUMNS)
    read_text(text, cells, CRITEO_COLUMNS, "\t", report, header=False)
    labels = labels_of(cells, "label", "0 or 1, and no header line")
    return RawRows([text.raw], cells, criteo_fields(cells), labels)


def criteo_fields(cells: Cells) -> list[Field]:
    """The 39 fields of Criteo's columns."""
    counts = [count_buckets(whole_numbers(cells, name, cells.values(name))) for name in CRITEO_NUMBERS]
    fields = [Field(name, name, values) for name, values in zip(CRITEO_NUMBERS, counts, strict=True)]
    return [*fields, *(cells.field(name) for name in CRITEO_WORDS)]


def read_avazu(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The rows of a raw Avazu file.

    ``id`` is dropped (it names one row); ``hour`` (YYMMDDHH) becomes hour (0-23), weekday (0 = Monday) and weekend
    (0/1), and is the time by which rows can be split. All fields are categories.
    """
    text = open_text(path, scratch, None if options.rows is None else options.rows + 1, report)
    columns = header_of(text, ",", AVAZU_COLUMNS)
    cells = Cells(scratch, [name for name in columns if name in AVAZU_COLUMNS[1:]])
    read_text(text, cells, columns, ",", report)
    labels = labels_of(cells, "click")
    fields = [*hour_fields(cells), *(cells.field(name) for name in AVAZU_WORDS)]
    return RawRows([text.raw], cells, fields, labels, **ranked(cells, "hour", cells.values("hour")))


def hour_fields(cells: Cells) -> list[Field]:
    """Hour, weekday and weekend, whole numbers, from a column ``hour`` of YYMMDDHH."""
    eight = cells.values("hour").set(~cells.values("hour").str.contains("^[0-9]{8}$"), None)
    moments = (eight + "00").str.strptime(pl.Datetime("us"), "%y%m%d%H%M", strict=False)
    cells.need("hour", moments.is_null(), "allowed: YYMMDDHH, for example 14102123")
    weekday = moments.dt.weekday().cast(pl.Int64) - 1
    parts = {"hour": moments.dt.hour(), "weekday": weekday, "weekend": weekday >= 5}
    return [Field(name, "hour", values.cast(pl.Int64)) for name, values in parts.items()]


def read_frappe(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
    """The log (its zip, or frappe.csv out of it) plus drawn negatives.

    ``cnt`` is dropped: it counts uses after the choice, and a drawn negative has none. For each positive,
    ``negatives`` items are drawn (:func:`draw_negatives`); such a row keeps the user and the context of its positive.
    Both stay in one part. Divided row by row (``negatives_stay`` = apart), a use in train leaves its negatives to test,
    so that a context seen with clicks in train is one without them in test.
    ``cost`` (free or paid) describes the app, not the context, so it follows the drawn item: keeping the cost of the
    positive would tell a model which rows are made up.
    """
    most = None if options.rows is None else options.rows + 1
    text = open_text(path, scratch, most, report, member="frappe.csv")
    columns = header_of(text, "\t", FRAPPE_COLUMNS)
    with Cells(scratch, FRAPPE_FIELDS) as log:
        read_text(text, log, columns, "\t", report)
        for name in ("user", "item"):
            log.need(name, log.values(name).is_null(), "allowed: an id in every row")
        positives = pl.DataFrame({name: log.values(name).gather(log.column(name)) for name in FRAPPE_FIELDS})
    users, items = (positives[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user", "item"))
    drawn = draw_negatives(users, items, options.negatives, derive_seed("negatives", options.split_seed))
    catalogue = positives.select("item", "cost").unique("item", keep="first").sort("item")
    origin = np.repeat(np.arange(len(positives)), options.negatives)
    made = positives[origin].with_columns(catalogue["item"].gather(drawn), catalogue["cost"].gather(drawn))
    cells = Cells(scratch, FRAPPE_FIELDS)
    cells.add_frame(pl.concat([positives, made]))
    cells.files = log.files
    labels = np.concatenate([np.ones(len(positives), np.uint8), np.zeros(len(made), np.uint8)])
    units = np.concatenate([np.arange(len(positives)), origin]) if options.negatives_stay == "together" else None
    return RawRows([text.raw], cells, [cells.field(name) for name in FRAPPE_FIELDS], labels, units=units)


def draw_negatives(users: np.ndarray, items: np.ndarray, per_row: int, seed: int) -> np.ndarray:
    """Item codes (N * per_row,), for row 0 first: uniform over all items that the row's user never used in the log.

    ``users`` and ``items`` are (N,) codes 0, 1, ...; draws are independent, so an item may come twice. Raises
    :class:`UserError` when some user has used every item.
    """
    size = int(items.max()) + 1
    used = np.unique(users * size + items)
    if np.bincount(used // size).max() == size:
        raise UserError(f"a user has used all {size} items, so no negative can be drawn; each user must have left one")
    rng = np.random.default_rng(seed)
    owner = np.repeat(users, per_row)
    drawn = rng.integers(0, size, len(owner))
    wrong = np.arange(len(owner))
    while len(wrong):
        pair = owner[wrong] * size + drawn[wrong]
        place = np.minimum(np.searchsorted(used, pair), len(used) - 1)
        wrong = wrong[used[place] == pair]
        drawn[wrong] = rng.integers(0, size, len(wrong))
    return drawn
