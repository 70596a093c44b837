"""The Frappe app log: positives only, to which negatives are drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.config import derive_seed
from ctrlib.data.encode import Cells, RawRows
from ctrlib.data.formats.text import header_of, open_text, read_text
from ctrlib.data.options import PrepareOptions
from ctrlib.errors import UserError

COLUMNS = (
    *("user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
FIELDS = tuple(name for name in COLUMNS if name != "cnt")


def read(path: Path, scratch: Path, options: PrepareOptions, report: Callable[[str], None]) -> RawRows:
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
    columns = header_of(text, "\t", COLUMNS)
    with Cells(scratch, FIELDS) as log:
        read_text(text, log, columns, "\t", report)
        for name in ("user", "item"):
            log.need(name, log.values(name).is_null(), "allowed: an id in every row")
        positives = pl.DataFrame({name: log.values(name).gather(log.column(name)) for name in FIELDS})
    users, items = (positives[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user", "item"))
    drawn = draw_negatives(users, items, options.negatives, derive_seed("negatives", options.split_seed))
    catalogue = positives.select("item", "cost").unique("item", keep="first").sort("item")
    origin = np.repeat(np.arange(len(positives)), options.negatives)
    made = positives[origin].with_columns(catalogue["item"].gather(drawn), catalogue["cost"].gather(drawn))
    cells = Cells(scratch, FIELDS)
    cells.add_frame(pl.concat([positives, made]))
    cells.files = log.files
    labels = np.concatenate([np.ones(len(positives), np.uint8), np.zeros(len(made), np.uint8)])
    units = np.concatenate([np.arange(len(positives)), origin]) if options.negatives_stay == "together" else None
    return RawRows([text.raw], cells, [cells.field(name) for name in FIELDS], labels, units=units)


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
