"""A column that says the fold, and Criteo's rule for own numbers."""

import math

import numpy as np
import polars as pl
import pytest

from ctrlib.config import checked
from ctrlib.data import sources
from ctrlib.data.manifest import read_manifest
from ctrlib.data.options import PrepareOptions
from ctrlib.errors import UserError


def folded(folder, rows=600, folds=(0, 1, 2, 3, 10), seed=3):
    """Own data with a fold column, as a frame and as Parquet and CSV files. Its column ``row`` numbers the rows."""
    rng = np.random.default_rng(seed)
    columns = {"row": [f"r{row}" for row in range(rows)], "label": rng.integers(0, 2, rows)}
    columns |= {"fold": rng.choice(folds, rows), "n": rng.geometric(0.01, rows) - 3, "c": rng.integers(0, 9, rows)}
    frame = pl.DataFrame(columns)
    frame.write_parquet(folder / "own.parquet")
    frame.write_csv(folder / "own.csv")
    return frame


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_folds_test_each_row_once_in_the_order_of_the_file(tmp_path, suffix):
    frame, folds = folded(tmp_path), [0, 1, 2, 3, 10]
    options = PrepareOptions(fold_column="fold", categorical=("row", "c"), min_count=1)
    folder = sources.prepare("own", tmp_path / f"own.{suffix}", tmp_path, options)
    about = read_manifest(folder)
    assert (about["folds"], about["draw_count"], about["settings"]["draws"]) == (folds, 5, 5)
    scores, fold_of_row = np.full(600, -1.0), frame["fold"].to_numpy()
    for draw, name in enumerate(folds):
        dataset, next_fold = sources.load("own", draw, tmp_path), folds[(draw + 1) % 5]
        assert dataset.field_names == ("row", "n", "c")
        rows = {"test": np.flatnonzero(fold_of_row == name), "valid": np.flatnonzero(fold_of_row == next_fold)}
        rows["train"] = np.flatnonzero(~np.isin(fold_of_row, [name, next_fold]))
        words = pl.read_parquet(folder / f"draw-{draw}" / "vocabulary.parquet").filter(pl.col("field") == "row")
        known = dict(zip(words["code"], words["value"], strict=True))
        assert [known[code] for code in dataset.train.ids[:, 0]] == [f"r{row}" for row in rows["train"]]
        assert not dataset.test.ids[:, 0].any()  # a row of the test part is in no vocabulary
        for part, split in dataset.splits().items():
            assert split.labels.tolist() == frame["label"].gather(rows[part]).to_list()
        scores[fold_of_row == name] = rows["test"]  # as the book says to pool
    assert np.array_equal(scores, np.arange(600.0))


def test_numbers_by_criteos_rule(tmp_path):
    frame = folded(tmp_path)
    options = PrepareOptions(fold_column="fold", numeric=("n",), numeric_rule="criteo", min_count=1, drop=("row",))
    folder = sources.prepare("own", tmp_path / "own.parquet", tmp_path, options)
    assert read_manifest(folder)["numeric_columns"] == ["n"]
    dataset = sources.load("own", 2, tmp_path)
    words = pl.read_parquet(folder / "draw-2" / "vocabulary.parquet").filter(pl.col("field") == "n")
    codes = dict(zip(words["value"], words["code"], strict=True))
    numbers = frame.filter(pl.col("fold") == 2)["n"].to_list()
    expected = [codes.get(str(n if n <= 2 else math.floor(math.log(n) ** 2)), 0) for n in numbers]
    assert dataset.test.ids[:, 0].tolist() == expected
    assert len(set(expected)) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold_column": "flod"}, r"unknown fold column 'flod'.*mean 'fold'\?"),
        ({"fold_column": "label"}, "column label: is the label; allowed as fold: any other column"),
        ({"fold_column": "two"}, "column two: 2 distinct values; allowed: 3 to 1,000 folds"),
        ({"fold_column": "row"}, "column row: 1,200 distinct values; allowed: 3 to 1,000 folds"),
        ({"fold_column": "gap"}, "row 8, column gap: no value; allowed: a fold in every row"),
        ({"numeric": ("share",), "numeric_rule": "criteo"}, "row 2, column share: '0.14.*allowed: a whole number"),
        ({"numeric": ("huge",), "numeric_rule": "criteo", "drop": ("share",)}, "row 2, column huge: .*at most 64 bits"),
        ({"layout": "criteo", "fold_column": "fold"}, "--fold-column is for your own CSV or Parquet"),
        ({"layout": "criteo", "numeric_rule": "criteo"}, "--numeric-rule is for your own CSV or Parquet"),
    ],
)
def test_bad_folds_and_numbers(tmp_path, options, message):
    frame = folded(tmp_path, rows=1200)
    index = pl.int_range(frame.height, eager=True)
    more = {"two": index % 2, "gap": (index % 5).set(index == 7, None), "share": index / 7, "huge": index * 1e300}
    frame.with_columns(**more).write_parquet(tmp_path / "own.parquet")
    with pytest.raises(UserError, match=message):
        sources.prepare("own", tmp_path / "own.parquet", tmp_path, PrepareOptions(**options))
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("other", [{"draws": 2}, {"split_seed": 1}, {"split": "time"}, {"shares": (0.5, 0.3, 0.2)}])
def test_folds_leave_nothing_else_to_divide(other):
    with pytest.raises(UserError, match=f"{next(iter(other))}=.* with fold_column 'fold': the folds divide the rows"):
        checked(PrepareOptions, fold_column="fold", **other)
