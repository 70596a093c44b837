"""Raw rows to codes: readers, splits, buckets, vocabularies, against plain Python."""

import gzip
import math
from collections import Counter
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines

from ctrlib.data import encode
from ctrlib.errors import UserError


def naive_codes(train: list, every: list, min_count: int) -> tuple[list[int], dict]:
    """The definition of a vocabulary, in plain Python."""
    counts = Counter(train)
    kept = [value for value, count in counts.items() if count >= min_count]
    kept.sort(key=lambda value: (-counts[value], value is not None, value))
    codes = {value: code for code, value in enumerate(kept, 1)}
    return [codes.get(value, 0) for value in every], codes


words = st.one_of(st.none(), st.text(alphabet="abcé0 ", min_size=1, max_size=2))
numbers = st.one_of(st.none(), st.integers(-5, 5))
tables = st.integers(1, 60).flatmap(
    lambda n: st.tuples(st.lists(words, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([pl.String, pl.Categorical]))
def test_codes_equal_plain_python(columns, min_count, seed, kind):
    frame = pl.DataFrame({"word": columns[0], "number": columns[1]}, schema={"word": pl.String, "number": pl.Int64})
    rng = np.random.default_rng(seed)
    train = np.sort(rng.permutation(frame.height)[: max(1, frame.height * 2 // 3)])
    typed = frame.with_columns(pl.col("word").cast(kind))
    vocabulary = encode.fit_vocabulary(typed[train], min_count)
    ids = encode.encode(typed, vocabulary)
    parts = {"train": train, "all": np.arange(frame.height)}
    by_part, table, dims = encode.encode_draw(typed, parts, min_count)
    for place, values in enumerate(columns):
        expected, codes = naive_codes([values[row] for row in train], values, min_count)
        assert ids[:, place].tolist() == expected
        assert by_part["all"][:, place].tolist() == expected
        assert by_part["train"][:, place].tolist() == [expected[row] for row in train]
        assert dims[place] == len(codes) + 1
        stored = table.filter(pl.col("field") == frame.columns[place])
        assert dict(zip(stored["value"], stored["code"], strict=True)) == {
            "" if value is None else str(value): code for value, code in codes.items()
        }


def test_vocabulary_knows_training_rows_only():
    frame = pl.DataFrame({"x": ["a", "a", "b", "b", "rare", "unseen", "unseen", "unseen"]})
    vocabulary = encode.fit_vocabulary(frame[:5], min_count=2)
    assert vocabulary["x"]["value"].to_list() == ["a", "b"]
    assert encode.encode(frame, vocabulary)[:, 0].tolist() == [1, 1, 2, 2, 0, 0, 0, 0]
    other = pl.concat([frame[:5], pl.DataFrame({"x": ["b", "q", "rare"]})])
    assert encode.fit_vocabulary(other[:5], 2)["x"].equals(vocabulary["x"])


def test_a_field_of_rare_values_has_one_code():
    frame = pl.DataFrame({"x": ["a", "b", "c"]})
    ids, _, dims = encode.encode_draw(frame, {"train": np.arange(3)}, min_count=2)
    assert dims == (1,)
    assert not ids["train"].any()


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(-3, 20)), min_size=1))
def test_criteo_numbers_equal_plain_python(values):
    made = pl.DataFrame({"x": values}, schema={"x": pl.Int64}).select(encode.bucket_count(pl.col("x")))["x"].to_list()
    assert made == [v if v is None or v <= 2 else math.floor(math.log(v) ** 2) for v in values]


def test_criteo_numbers_by_hand():
    values = [-2, -1, 0, 1, 2, 3, 5, 100, None]
    made = pl.DataFrame({"x": values}).select(encode.bucket_count(pl.col("x")))["x"].to_list()
    assert made == [-2, -1, 0, 1, 2, 1, 2, 21, None]


def test_criteo_rows_arrive_as_written(tmp_path):
    lines = criteo_lines(300)
    path = write_lines(tmp_path / "train.txt", lines)
    rows = encode.read_criteo(path)
    cells = [line.split("\t") for line in lines]
    assert rows.labels.tolist() == [int(row[0]) for row in cells]
    assert rows.features["C7"].to_list() == [row[20] or None for row in cells]
    assert rows.features.columns == [*encode.CRITEO_NUMBERS, *encode.CRITEO_CATEGORIES]
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert encode.read_criteo(packed).features.equals(rows.features)
    windows = tmp_path / "windows.txt"
    windows.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert encode.read_criteo(windows).features.equals(rows.features)
    for source in (path, packed):
        first = encode.read_criteo(source, rows=120)
        assert first.features.equals(rows.features[:120])


def test_a_complete_last_line_needs_no_newline(tmp_path):
    lines = criteo_lines(50)
    path = tmp_path / "train.txt"
    path.write_text("\n".join(lines))
    assert len(encode.read_criteo(path).labels) == 50


def test_avazu_hour_equals_datetime(tmp_path):
    lines = avazu_lines(400)
    rows = encode.read_avazu(write_lines(tmp_path / "train.csv", lines))
    moments = [datetime.strptime(line.split(",")[2], "%y%m%d%H") for line in lines[1:]]
    assert rows.features["hour"].to_list() == [m.hour for m in moments]
    assert rows.features["weekday"].to_list() == [m.weekday() for m in moments]
    assert rows.features["weekend"].to_list() == [int(m.isoweekday() in (6, 7)) for m in moments]
    assert "id" not in rows.features.columns
    assert "click" not in rows.features.columns
    assert rows.features.width == 24


def test_frappe_negatives(tmp_path):
    lines = frappe_lines(150)
    log = [line.split("\t") for line in lines[1:]]
    used = {(row[0], row[1]) for row in log}
    cost = {row[1]: row[7] for row in log}
    rows = encode.read_frappe(write_frappe_zip(tmp_path / "f.zip", lines), negatives=3, seed=5)
    frame = rows.features.with_columns(label=pl.Series(rows.labels))
    positives, made = frame.filter(pl.col("label") == 1), frame.filter(pl.col("label") == 0)
    assert (positives.height, made.height) == (150, 450)
    assert "cnt" not in frame.columns
    assert not used & set(zip(made["user"], made["item"], strict=True))
    assert all(cost[item] == paid for item, paid in zip(made["item"], made["cost"], strict=True))
    for name in ("user", "daytime", "weather", "city"):
        assert made[name].to_list() == [value for value in positives[name] for _ in range(3)]
    again = encode.read_frappe(write_lines(tmp_path / "frappe.csv", lines), negatives=3, seed=5)
    assert again.features.equals(rows.features)
    assert not encode.read_frappe(tmp_path / "frappe.csv", negatives=3, seed=6).features.equals(rows.features)


def test_negatives_are_uniform_over_unused_items():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 4])
    drawn = encode.draw_negatives(users, items, 6000, seed=1)
    for user, allowed in ((0, [2, 3, 4]), (1, [0, 1, 2, 3])):
        counts = np.bincount(drawn[np.repeat(users, 6000) == user], minlength=5)
        assert np.flatnonzero(counts).tolist() == allowed
        expected = counts.sum() / len(allowed)
        assert np.abs(counts[allowed] - expected).max() < 5 * math.sqrt(expected)
    with pytest.raises(ValueError, match="all 2 items"):
        encode.draw_negatives(np.array([0, 0]), np.array([0, 1]), 1, seed=0)


@given(st.integers(10, 500), st.integers(0, 99))
def test_splits_are_disjoint_and_complete(total, seed):
    parts = encode.split_rows(total, (0.8, 0.1, 0.1), encode.random_order(total, seed))
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(total))
    assert abs(len(parts["train"]) - 0.8 * total) <= 0.5
    assert all(np.all(np.diff(rows) > 0) for rows in parts.values())


def test_time_split_is_ordered():
    time = pl.Series(np.random.default_rng(0).integers(0, 30, 200))
    parts = encode.split_rows(200, (0.7, 0.1, 0.2), encode.time_order(time))
    values = {part: time.to_numpy()[rows] for part, rows in parts.items()}
    assert values["train"].max() <= values["valid"].min()
    assert values["valid"].max() <= values["test"].min()
    assert [len(rows) for rows in parts.values()] == [140, 20, 40]


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1, max_size=20),
    st.integers(2, 9),
)
def test_buckets_equal_plain_python(train, other, buckets):
    edges = encode.fit_buckets(pl.Series("x", train, dtype=pl.Float64), buckets)
    known = sorted(v for v in train if v is not None and not math.isnan(v))
    expected = {known[math.ceil(k * len(known) / buckets) - 1] for k in range(1, buckets)} if known else set()
    assert edges.tolist() == sorted(expected)
    made = encode.apply_buckets(pl.Series("x", other, dtype=pl.Float64), edges).to_list()
    assert made == [None if v is None else sum(edge < v for edge in edges) for v in other]


def test_equally_full_buckets():
    values = pl.Series("x", np.random.default_rng(0).normal(size=1000))
    counts = encode.apply_buckets(values, encode.fit_buckets(values, 20)).value_counts()["count"]
    assert counts.to_list() == [50] * 20


def test_own_table_kinds(tmp_path):
    lines = table_lines(3000)
    path = write_lines(tmp_path / "shop.csv", lines)
    rows = encode.read_table(path, drop=("day",))
    train = np.arange(2500)
    assert rows.features.columns == ["colour", "shop", "price", "visits"]
    assert rows.undecided == ("shop", "visits")
    assert encode.choose_numeric(rows, train) == ("price", "visits")
    assert rows.features["colour"].null_count() > 0
    named = encode.read_table(path, drop=("day",), numeric=("shop",), categorical=("v*", "price"))
    assert encode.choose_numeric(named, train) == ("shop",)
    frame = pl.read_csv(path)
    frame.write_parquet(tmp_path / "shop.parquet")
    same = encode.read_table(tmp_path / "shop.parquet", drop=("day",))
    for numeric in (("price",), ("price", "visits")):
        one, two = (encode.encode_draw(r.features, {"train": train}, 2, numeric)[0]["train"] for r in (rows, same))
        assert np.array_equal(one, two)


def test_quoted_and_tab_separated_tables(tmp_path):
    quoted = tmp_path / "q.csv"
    quoted.write_text('label,"a, b"\n1,"x, y"\n0,"two\nlines"\n0,\n')
    rows = encode.read_table(quoted)
    assert rows.features["a, b"].to_list() == ["x, y", "two\nlines", None]
    zeros = write_lines(tmp_path / "z.csv", ["label,x", "1,007", "0,7"])
    assert encode.read_table(zeros).features["x"].to_list() == ["007", "7"]
    tabs = tmp_path / "t.tsv.gz"
    tabs.write_bytes(gzip.compress(b"label\tx\n1\ta\n0\tb\n"))
    assert encode.read_table(tabs).features["x"].to_list() == ["a", "b"]


def test_time_column_is_no_feature(tmp_path):
    rows = encode.read_table(write_lines(tmp_path / "t.csv", table_lines(50)), time_column="day")
    assert "day" not in rows.features.columns
    assert len(rows.time) == 50
    bad = write_lines(tmp_path / "bad.csv", ["label,day,x", "1,5,a", "0,,b"])
    with pytest.raises(UserError, match=r"line 3, column day: no value"):
        encode.read_table(bad, time_column="day")
