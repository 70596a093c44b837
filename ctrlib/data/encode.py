"""Rows in memory to integer codes: splits, buckets, vocabularies.

:func:`fit_vocabulary` sees training rows only and gives the codes 1, 2, ... of each field to its values, the most
frequent first (equal counts: in order of value). Rarer values, and values that training never shows, get code 0. A
missing value (null here, "" in stored vocabularies) is a value like any other.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ctrlib.data.criteo import bucket_count
from ctrlib.data.layouts import Rows
from ctrlib.errors import UserError
from ctrlib.training.dataset import OOV

MOST_CATEGORIES = 1000  # a column of whole numbers with more distinct training values is taken as numeric
MOST_FOLDS = 1000
_ROW_BLOCK = 1 << 14


def split_rows(total: int, shares: tuple[float, float, float], order: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of train, valid and test: the first, middle and last shares of ``order``, each sorted."""
    first = math.floor(total * shares[0] + 0.5)
    second = first + math.floor(total * shares[1] + 0.5)
    cuts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {part: np.sort(rows) for part, rows in cuts.items()}


def random_order(total: int, seed: int) -> np.ndarray:
    """A permutation of the row numbers (total,) for a random split."""
    return np.random.default_rng(seed).permutation(total)


def time_order(time: pl.Series) -> np.ndarray:
    """Row numbers from the earliest to the latest; rows of one time keep their order."""
    return time.to_frame("time").with_row_index().sort("time", maintain_order=True)["index"].to_numpy().astype(np.int64)


def fold_rows(folds: np.ndarray, draw: int) -> dict[str, np.ndarray]:
    """Row numbers of train, valid and test, each sorted: ``folds`` (N,) holds 0 ... K - 1 and has K >= 3.

    Draw d tests on fold d, validates on the next (after the last comes the first) and trains on the others, so that
    over the K draws each row is tested exactly once.
    """
    following = (draw + 1) % (int(folds.max()) + 1)
    test, valid = folds == draw, folds == following
    parts = {"train": ~(test | valid), "valid": valid, "test": test}
    return {part: np.flatnonzero(chosen) for part, chosen in parts.items()}


def fold_names(folds: pl.Series, path: Path) -> list[int | float | str]:
    """The folds in order: draw d tests on the d-th. Raises :class:`UserError` when they are too few or too many."""
    names = folds.unique().sort().to_list()
    if not 3 <= len(names) <= MOST_FOLDS:
        problem = f"{len(names):,} distinct values"
        raise UserError(f"{path}, column {folds.name}: {problem}; allowed: 3 to {MOST_FOLDS:,} folds")
    return [int(name) if isinstance(name, float) and name.is_integer() else name for name in names]


def choose_numeric(rows: Rows, train: np.ndarray) -> tuple[str, ...]:
    """Columns that become buckets: the sure ones, and whole numbers with many distinct training values."""
    many = [c for c in rows.undecided if rows.features[c].gather(train).n_unique() > MOST_CATEGORIES]
    return tuple(c for c in rows.features.columns if c in rows.numeric or c in many)


def fit_buckets(train: pl.Series, buckets: int) -> np.ndarray:
    """Upper edges (at most ``buckets`` - 1, ascending) that cut the training values into equally full buckets."""
    values = train.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    return bucket_edges(*np.unique(values, return_counts=True), buckets)


def bucket_edges(values: np.ndarray, counts: np.ndarray, buckets: int) -> np.ndarray:
    """The same from values (n,) and how often each occurs in training, (n,) whole numbers; a value may come twice."""
    if counts.sum() == 0:
        return np.empty(0)
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order], dtype=np.int64)
    places = np.array([math.ceil(k * int(upto[-1]) / buckets) - 1 for k in range(1, buckets)], dtype=np.int64)
    return np.unique(values[order][np.searchsorted(upto, np.maximum(places, 0), side="right")])


def apply_buckets(values: pl.Series, edges: np.ndarray) -> pl.Series:
    """Bucket number (Int64) of each value: how many edges lie below it; missing stays missing."""
    values = values.cast(pl.Float64).fill_nan(None)
    number = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="left").astype(np.int64)
    return pl.Series(values.name, number).set(values.is_null(), None)


def bucket_counts(features: pl.DataFrame, columns: Sequence[str], path: Path) -> pl.DataFrame:
    """The rows with Criteo's rule (``criteo.bucket_count``) applied to ``columns``; these must hold whole numbers."""
    for name in columns:
        whole = features[name].cast(pl.Int64, strict=False)
        if not (whole == features[name]).all() or whole.null_count() > features[name].null_count():
            problem = "holds fractions or numbers beyond 64 bits"
            raise UserError(f"{path}, column {name}: {problem}; allowed with numeric rule 'criteo': whole numbers")
    return features.with_columns(bucket_count(pl.col(name).cast(pl.Int64)) for name in columns)


def fit_vocabulary(train: pl.DataFrame, min_count: int) -> dict[str, pl.DataFrame]:
    """Per field a frame (value, code) of every value seen at least ``min_count`` times in the training rows.

    Codes are 1, 2, ... by falling count, equal counts by value (missing first); code 0 is left to all other values.
    """
    return {
        name: train.select(pl.col(name).alias("value"))
        .group_by("value")
        .agg(pl.len().alias("count"))
        .filter(pl.col("count") >= min_count)
        .with_columns(pl.col("value").cast(_stored(train[name].dtype)))
        .sort("count", "value", descending=[True, False], nulls_last=False)
        .select("value", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("code"))
        for name in train.columns
    }


def encode(frame: pl.DataFrame, vocabulary: dict[str, pl.DataFrame]) -> np.ndarray:
    """Codes (N, F) int32 of the fields of ``vocabulary``, in its order; 0 for values that it does not hold."""
    ids = np.empty((frame.height, len(vocabulary)), dtype=np.int32)
    for place, (name, codes) in enumerate(vocabulary.items()):
        ids[:, place] = _codes(frame[name], codes)
    return ids


def _codes(values: pl.Series, codes: pl.DataFrame) -> np.ndarray:
    """Codes (N,) int32 of one column."""
    known = codes["value"].cast(values.dtype)
    return values.replace_strict(known, codes["code"], default=OOV, return_dtype=pl.Int32).to_numpy()


def _stored(kind: pl.DataType) -> pl.DataType:
    """The type in which a vocabulary holds values: text for Categorical (whose own order is not that of the text)."""
    return pl.String() if kind == pl.Categorical else kind


def encode_draw(
    features: pl.DataFrame,
    parts: dict[str, np.ndarray],
    min_count: int,
    numeric: Sequence[str] = (),
    buckets: int = 20,
) -> tuple[dict[str, np.ndarray], pl.DataFrame, tuple[int, ...]]:
    """Codes (n, F) int32 of each part, with vocabulary and buckets fitted on ``parts["train"]`` alone.

    ``parts`` are row numbers. Also returns the vocabulary as one frame (field, value, code) and the number of codes of
    each field. Works column by column, so that only one is copied at a time.
    """
    by_field = np.empty((features.width, features.height), dtype=np.int32)
    tables = []
    for place, name in enumerate(features.columns):
        values = features[name]
        train = values.gather(parts["train"])
        if name in numeric:
            edges = fit_buckets(train, buckets)
            values, train = apply_buckets(values, edges), apply_buckets(train, edges)
        table = fit_vocabulary(train.to_frame(), min_count)[name]
        by_field[place] = _codes(values, table)
        stored = table.select(
            pl.lit(name).alias("field"), pl.col("value").cast(pl.String).fill_null(""), pl.col("code")
        )
        tables.append(stored)
    ids = {part: _rows_of(by_field, chosen) for part, chosen in parts.items()}
    return ids, pl.concat(tables), tuple(table.height + 1 for table in tables)


def _rows_of(by_field: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows ``chosen`` (n,) of codes held field by field (F, N), as (n, F); in blocks that fit the processor's cache."""
    ids = np.empty((len(chosen), len(by_field)), dtype=by_field.dtype)
    for start in range(0, len(chosen), _ROW_BLOCK):
        ids[start : start + _ROW_BLOCK] = by_field[:, chosen[start : start + _ROW_BLOCK]].T
    return ids


def compact(rows: Rows) -> Rows:
    """The same rows with text columns as Categorical: each value is stored once, and all that follows is faster."""
    text = [name for name in rows.features.columns if rows.features[name].dtype == pl.String]
    keep = set(rows.numeric) | set(rows.undecided)
    changes = {name: rows.features[name].cast(pl.Categorical) for name in text if name not in keep}
    return replace(rows, features=rows.features.with_columns(**changes))
