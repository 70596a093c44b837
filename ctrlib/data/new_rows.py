"""Codes of new rows by the vocabulary of a prepared data set: what training did not show gets code 0."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data.columns import plain_numbers
from ctrlib.data.encode import count_buckets, in_buckets, whole_numbers
from ctrlib.data.options import PrepareOptions
from ctrlib.data.own_table import read_columns, without_missing
from ctrlib.errors import UserError
from ctrlib.training.dataset import OOV


def encode_new(
    path: Path,
    settings: dict[str, Any],
    columns: dict[str, dict[str, Any]],
    edges: dict[str, list[str]],
    vocabulary: dict[str, dict[str, int]],
    report: Callable[[str], None],
) -> np.ndarray:
    """Codes (N, F) int32 of the rows of a file, which needs the columns of the fields and no label.

    Args:
        path: text or Parquet, as for ``ctrlib data prepare``.
        settings: with which the data set was prepared.
        columns: by field, in order: whether it is numeric, the type that its values were read as, and by which decimal
            mark (earlier versions kept none).
        edges: of the buckets of numeric fields.
        vocabulary: by field, the code of each value as text; "" is a missing one.
        report: is told what is being done.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    options = PrepareOptions(**{name: settings[name] for name in ("missing", "decimal", "separator")})
    with TemporaryDirectory() as scratch:
        cells = read_columns(path, Path(scratch), options, report, list(columns))
        with cells:
            codes = np.empty((cells.rows, len(columns)), np.int32)
            for place, (name, one) in enumerate(columns.items()):
                values = without_missing(cells.values(name), options.missing)
                text = as_read(values, one["type"], one.get("decimal", options.decimal))
                if name in edges:
                    text = in_buckets(text, np.array(edges[name], np.float64))
                elif one["numeric"]:
                    text = count_buckets(whole_numbers(cells, name, text))
                of_value = text.cast(pl.String).fill_null("").replace_strict(vocabulary[name], default=OOV)
                codes[:, place] = of_value.cast(pl.Int32).to_numpy().take(cells.column(name))
    return codes


def kept_columns(
    path: Path, settings: dict[str, Any], names: Sequence[str], report: Callable[[str], None]
) -> pl.DataFrame:
    """The columns of a file that ``names`` or patterns name, as text, in the order of its rows.

    Raises:
        UserError: the file lacks a column.
    """
    if not names:
        return pl.DataFrame()
    options = PrepareOptions(separator=settings["separator"])
    with TemporaryDirectory() as scratch, read_columns(path, Path(scratch), options, report, names) as cells:
        return pl.DataFrame(
            {name: cells.values(name).cast(pl.String).gather(cells.column(name)) for name in cells.columns}
        )


def as_read(values: pl.Series, kind: str, decimal: str | None) -> pl.Series:
    """Values as the type that the training rows had; text that is no number is missing among fractions. Without a
    ``decimal`` mark the one that fits is taken."""
    if kind == "String" or str(values.dtype) == kind:
        return values.cast(pl.String) if kind == "String" else values
    if values.dtype == pl.String:
        values = plain_numbers(values, decimal or ".", decimal is not None, loose=True)[0]
    numbers = values.cast(pl.Float64, strict=False)
    return numbers if kind == "Float64" else numbers.cast(pl.Int64, strict=False)


def check_own(manifest: dict[str, Any]) -> None:
    """Raise :class:`UserError` unless a data set was prepared from a log of one's own by this version."""
    if manifest.get("kind") != "table" or not all("type" in one for one in manifest.get("columns", {"": {}}).values()):
        raise UserError(
            f"data set {manifest['name']!r}: not an own log prepared by this version, whose new rows could be read; "
            "prepare it again from its file"
        )
