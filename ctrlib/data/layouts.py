"""Avazu and Frappe: raw file to :class:`Rows`, in memory. (Criteo's is read in blocks, see criteo.py.)"""

import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.config import derive_seed
from ctrlib.data.text import (
    DAMAGED_ZIP,
    INTEGER,
    Text,
    header_of,
    need_both,
    one_line,
    open_file,
    open_text,
    read_delimited,
    scan,
    shown,
    take,
    text_labels,
)
from ctrlib.errors import UserError

AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
FRAPPE_COLUMNS = (
    *("user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
LARGEST_MEMBER = 1 << 30  # bytes; a larger file inside a zip is refused


@dataclass(frozen=True)
class Rows:
    """Raw rows of any layout.

    ``features``: N rows, one String or Int64 column per field (null = missing); Float64 columns still need buckets.
    ``labels``: (N,) uint8. ``time``: N sortable values, where the layout has a time. ``numeric``: columns to cut into
    buckets. ``undecided``: columns of whole numbers whose kind depends on how many values training shows. ``folds``: N
    values that say the fold, where a column does.
    """

    features: pl.DataFrame
    labels: np.ndarray
    time: pl.Series | None = None
    numeric: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    folds: pl.Series | None = None


def read_avazu(path: Path, rows: int | None = None) -> Rows:
    """Avazu rows: comma-separated with a header and 24 columns.

    ``id`` is dropped (it names one row); ``hour`` (YYMMDDHH) becomes hour (0-23), weekday (0 = Monday) and weekend
    (0/1), and is the time by which rows can be split. All fields are categories.
    """
    text = open_text(path, None if rows is None else rows + 1)
    columns = header_of(text, ",", AVAZU_COLUMNS)
    label, hour = columns.index("click"), columns.index("hour")

    def check(cells: list[str], where: str) -> None:
        if cells[label] not in ("0", "1"):
            raise UserError(f"{where}, column click: {shown(cells[label])}; allowed: 0 or 1")
        if _moment(cells[hour]) is None:
            raise UserError(f"{where}, column hour: {shown(cells[hour])}; allowed: YYMMDDHH, for example 14102123")

    def explain() -> None:
        scan(text, columns, ",", header=True, quoted=False, check=check)

    frame = read_delimited(text, columns, ",", explain)
    labels = text_labels(frame["click"], explain, text.name)
    if not text.ends_with_newline() and frame[columns[-1]][-1] is None:
        raise UserError(f"{text.name}, line {text.line_count()}: ends after a comma: the file seems cut off there")
    if any(_moment(value or "") is None for value in frame["hour"].unique()):
        explain()
    features = frame.select(
        *hour_parts(frame["hour"], text.name), *(name for name in AVAZU_COLUMNS if name not in ("id", "click", "hour"))
    )
    need_both(labels, text.name, "click")
    return Rows(features, labels, time=frame["hour"])


def hour_parts(hours: pl.Series, where: str) -> list[pl.Series]:
    """Avazu's YYMMDDHH as hour (0-23), weekday (0 = Monday) and weekend (0/1), N Int64 each.

    Raises :class:`UserError`, its message begun by ``where``, for text that is no such time.
    """
    values = hours.unique()
    moments = [_moment(value or "") for value in values]
    if None in moments:
        value = values[moments.index(None)]
        raise UserError(f"{where}, column hour: {shown(value or '')}; allowed: YYMMDDHH, for example 14102123")

    def part(name: str, of: Callable[[datetime], int]) -> pl.Series:
        return hours.replace_strict(values, [of(moment) for moment in moments], return_dtype=pl.Int64).alias(name)

    return [
        part("hour", lambda moment: moment.hour),
        part("weekday", lambda moment: moment.weekday()),
        part("weekend", lambda moment: int(moment.weekday() >= 5)),
    ]


def _moment(value: str) -> datetime | None:
    """Avazu's YYMMDDHH as a datetime; None when it is not one."""
    if not re.fullmatch(r"[0-9]{8}", value):
        return None
    try:
        return datetime.strptime(value, "%y%m%d%H")
    except ValueError:
        return None


def read_frappe(path: Path, negatives: int = 2, seed: int = 0, rows: int | None = None) -> Rows:
    """The Frappe app log (its zip, or frappe.csv out of it) plus drawn negatives.

    The log holds positives only: user, item and context. ``cnt`` is dropped: it counts uses after the choice, and a
    drawn negative has none. For each positive, ``negatives`` items are drawn (:func:`draw_negatives`); such a row keeps
    the user and the context of its positive. ``cost`` (free or paid) describes the app, not the context, so it follows
    the drawn item: keeping the cost of the positive would tell a model which rows are made up.
    """
    path = Path(path)
    text = _frappe_text(path, None if rows is None else rows + 1)
    columns = header_of(text, "\t", FRAPPE_COLUMNS)
    count = columns.index("cnt")

    def check(cells: list[str], where: str) -> None:
        if not INTEGER.fullmatch(cells[count]):
            raise UserError(f"{where}, column cnt: {shown(cells[count])}; allowed: a whole number")

    def explain() -> None:
        scan(text, columns, "\t", header=True, quoted=False, check=check)

    frame = read_delimited(text, columns, "\t", explain, numbers=("cnt",))
    for name in ("user", "item"):
        if (missing := frame[name].is_null()).any():
            raise UserError(f"{text.name}, row {missing.arg_max() + 1}, column {name}: no value; allowed: an id")
    positives = frame.select(name for name in FRAPPE_COLUMNS if name != "cnt")
    users, items = (positives[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user", "item"))
    try:
        drawn = draw_negatives(users, items, negatives, derive_seed("negatives", seed))
    except ValueError as error:
        raise UserError(f"{text.name}: {error}") from None
    catalogue = positives.select("item", "cost").unique("item", keep="first").sort("item")
    origin = np.repeat(np.arange(len(positives)), negatives)
    made = positives[origin].with_columns(catalogue["item"].gather(drawn), catalogue["cost"].gather(drawn))
    labels = np.concatenate([np.ones(len(positives), np.uint8), np.zeros(len(made), np.uint8)])
    return Rows(pl.concat([positives, made]), labels)


def draw_negatives(users: np.ndarray, items: np.ndarray, per_row: int, seed: int) -> np.ndarray:
    """Item codes (N * per_row,), for row 0 first: uniform over all items that the row's user never used in the log.

    ``users`` and ``items`` are (N,) codes 0, 1, ...; draws are independent, so an item may come twice. Raises
    ValueError when some user has used every item.
    """
    size = int(items.max()) + 1
    used = np.unique(users * size + items)
    if np.bincount(used // size).max() == size:
        raise ValueError(f"a user has used all {size} items, so no negative can be drawn; allowed: negatives = 0")
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


def _frappe_text(path: Path, lines: int | None) -> Text:
    """The log as text: ``frappe.csv`` out of the zip, read in memory (nothing is unpacked to disk), or the file."""
    with open_file(path) as file:
        if file.peek(2)[:2] != b"PK" and path.suffix != ".zip":
            return open_text(path, lines)
        try:
            with zipfile.ZipFile(file) as archive:
                found = [info for info in archive.infolist() if info.filename.split("/")[-1] == "frappe.csv"]
                if len(found) != 1:
                    raise UserError(f"{path}: {len(found)} files named frappe.csv in the zip; allowed: exactly 1")
                if found[0].file_size > LARGEST_MEMBER:
                    problem = f"frappe.csv has {found[0].file_size:,} bytes"
                    raise UserError(f"{path}: {problem}; allowed: at most {LARGEST_MEMBER:,}")
                content = archive.read(found[0])
        except (*DAMAGED_ZIP, OSError) as error:
            raise UserError(f"{path}: damaged zip ({one_line(error)}); download or copy it again") from None
    if not content.strip():
        raise UserError(f"{path}, frappe.csv: the file is empty")
    if lines is not None:
        content = b"".join(take(io.BytesIO(content), lines))
    return Text(f"{path}, frappe.csv", content)
