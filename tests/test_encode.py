"""Raw rows to codes: readers, splits, buckets, vocabularies, against plain Python."""

import gzip
import hashlib
import math
from collections import Counter
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines

from ctrlib.data import blocks, criteo, encode
from ctrlib.data.layouts import draw_negatives, read_avazu, read_frappe
from ctrlib.data.own_table import read_table
from ctrlib.data.streaming import parts_at_random
from ctrlib.data.values import FieldValues
from ctrlib.data.workers import Workers
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
    made = pl.DataFrame({"x": values}, schema={"x": pl.Int64}).select(criteo.bucket_count(pl.col("x")))["x"].to_list()
    assert made == [v if v is None or v <= 2 else math.floor(math.log(v) ** 2) for v in values]


def test_criteo_numbers_by_hand():
    values = [-2, -1, 0, 1, 2, 3, 5, 100, None]
    made = pl.DataFrame({"x": values}).select(criteo.bucket_count(pl.col("x")))["x"].to_list()
    assert made == [-2, -1, 0, 1, 2, 1, 2, 21, None]


def read_criteo(path, rows=None):
    """Labels, and the cells of each line as (number, word or None), by the reader of blocks."""
    labels, lines = [], []
    with blocks.RawLines(path, rows) as raw:
        for block in raw:
            cells = criteo.read_cells(block, str(path))
            labels += cells.labels.tolist()
            made = [[None if key == criteo.MISSING else key for key in line] for line in cells.keys.T.tolist()]
            for place, others in cells.others.items():
                for found in others:
                    for row, which in zip(found.rows, found.which, strict=True):
                        made[row][place] = found.values[which]
            for line in made:
                lines.append([key if key is None else key - criteo.ZERO for key in line[:13]] + line[13:])
    return labels, lines


def plain_cells(line):
    """The same of one line of text, in plain Python; counts are bucketed, hex words are numbers."""
    cells = line.split("\t")[1:]
    numbers = [None if not c else int(c) if int(c) <= 2 else math.floor(math.log(int(c)) ** 2) for c in cells[:13]]
    return [*numbers, *(int(word, 16) if word else None for word in cells[13:])]


def test_criteo_rows_arrive_as_written(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 3000)
    monkeypatch.setattr(criteo, "_PIECE", 700)
    lines = criteo_lines(300)
    path = write_lines(tmp_path / "train.txt", lines)
    expected = [int(line[0]) for line in lines], [plain_cells(line) for line in lines]
    assert read_criteo(path) == expected
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_criteo(packed) == expected
    windows = tmp_path / "windows.txt"
    windows.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read_criteo(windows) == expected
    for source in (path, packed, windows):
        assert read_criteo(source, rows=120) == (expected[0][:120], expected[1][:120])
    assert read_criteo(path, rows=1000) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(60, 3000), st.sampled_from(["", "\n", "\n\n\n", "\r\n\r\n"]), st.booleans())
def test_blocks_are_the_lines_of_the_file(tmp_path_factory, rows, size, end, packed):
    lines = criteo_lines(rows, seed=size)
    content = ("\n".join(lines) + end).encode()
    path = tmp_path_factory.mktemp("blocks") / "raw"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        with blocks.RawLines(path) as raw:
            read = list(raw)
            assert raw.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    text = b"".join(block.text.tobytes() for block in read).decode()
    assert text.replace("\r\n", "\n") == "\n".join(lines) + "\n"
    assert [block.last for block in read] == [False] * (len(read) - 1) + [True]
    assert read[-1].whole == bool(end)
    assert [block.first for block in read] == [1 + sum(b.lines for b in read[:i]) for i in range(len(read))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        with blocks.RawLines(path, rows=max(1, rows // 2)) as raw:
            some = b"".join(block.text.tobytes() for block in raw).decode().splitlines()
            assert raw.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert some == lines[: max(1, rows // 2)]


counts = st.one_of(
    st.integers(-5, 70_000),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(2, 1900).map(lambda square: math.ceil(math.exp(math.sqrt(square)))).filter(lambda x: x < 2**63),
)


@given(st.lists(counts, min_size=1))
def test_keys_of_counts_equal_plain_python(values):
    keys, far = criteo.count_keys(np.array(values))
    expected = pl.DataFrame({"x": values}).select(criteo.bucket_count(pl.col("x")))["x"].to_list()
    assert far.tolist() == [row for row, value in enumerate(values) if value < -criteo.ZERO]
    assert [key - criteo.ZERO for row, key in enumerate(keys.tolist()) if row not in far] == [
        value for row, value in enumerate(expected) if row not in far
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 5000, 100_000, 2**32]), st.integers(1, 4))
def test_numbers_of_values_equal_a_dictionary(seed, distinct, blocks_read):
    rng = np.random.default_rng(seed)
    values, known = FieldValues("C1"), {}
    for _ in range(blocks_read):
        keys = rng.integers(0, distinct, 20_000, dtype=np.uint32) if distinct < 2**32 else rng.permutation(20_000)
        keys = (keys * np.uint32(2**32 // 20_000 if distinct == 2**32 else 1)).astype(np.uint32)
        keys[:2] = (0, criteo.MISSING)
        numbers = values.number(keys).tolist()
        for key, number in zip(keys.tolist(), numbers, strict=True):
            assert known.setdefault(key, number) == number
    assert sorted(known.values()) == list(range(1, values.count + 1))


def test_a_field_takes_only_so_many_other_values(monkeypatch):
    monkeypatch.setattr("ctrlib.data.values.FIRST_OTHER", criteo.MISSING - 3)
    values = FieldValues("C5")
    values.number(np.zeros(3, np.uint32), [criteo.Others(np.arange(3), ["x", "y"], np.array([0, 1, 0]))])
    values.number(np.zeros(1, np.uint32), [criteo.Others(np.arange(1), ["z"], np.arange(1))])
    with pytest.raises(UserError, match=r"column C5: too many distinct values .* allowed: at most 3"):
        values.number(np.zeros(2, np.uint32), [criteo.Others(np.arange(2), ["w", "v"], np.arange(2))])


@given(st.integers(10, 400), st.integers(0, 99), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.3, 0.2)]))
def test_parts_of_rows_equal_the_split(total, seed, shares):
    parts = encode.split_rows(total, shares, encode.random_order(total, seed))
    part = parts_at_random(total, shares, seed)
    for place, rows in enumerate(parts.values()):
        assert np.flatnonzero(part == place).tolist() == rows.tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_workers_keep_the_order(count):
    with Workers(count) as workers:
        assert list(workers.in_order(lambda x: x * x, range(50))) == [x * x for x in range(50)]
        assert workers.all_of(str, range(5)) == list("01234")
        with pytest.raises(ZeroDivisionError):
            list(workers.in_order(lambda x: 1 / x, range(3)))


def test_avazu_hour_equals_datetime(tmp_path):
    lines = avazu_lines(400)
    rows = read_avazu(write_lines(tmp_path / "train.csv", lines))
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
    rows = read_frappe(write_frappe_zip(tmp_path / "f.zip", lines), negatives=3, seed=5)
    frame = rows.features.with_columns(label=pl.Series(rows.labels))
    positives, made = frame.filter(pl.col("label") == 1), frame.filter(pl.col("label") == 0)
    assert (positives.height, made.height) == (150, 450)
    assert "cnt" not in frame.columns
    assert not used & set(zip(made["user"], made["item"], strict=True))
    assert all(cost[item] == paid for item, paid in zip(made["item"], made["cost"], strict=True))
    for name in ("user", "daytime", "weather", "city"):
        assert made[name].to_list() == [value for value in positives[name] for _ in range(3)]
    again = read_frappe(write_lines(tmp_path / "frappe.csv", lines), negatives=3, seed=5)
    assert again.features.equals(rows.features)
    assert not read_frappe(tmp_path / "frappe.csv", negatives=3, seed=6).features.equals(rows.features)


def test_negatives_are_uniform_over_unused_items():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 4])
    drawn = draw_negatives(users, items, 6000, seed=1)
    for user, allowed in ((0, [2, 3, 4]), (1, [0, 1, 2, 3])):
        counts = np.bincount(drawn[np.repeat(users, 6000) == user], minlength=5)
        assert np.flatnonzero(counts).tolist() == allowed
        expected = counts.sum() / len(allowed)
        assert np.abs(counts[allowed] - expected).max() < 5 * math.sqrt(expected)
    with pytest.raises(ValueError, match="all 2 items"):
        draw_negatives(np.array([0, 0]), np.array([0, 1]), 1, seed=0)


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
    rows = read_table(path, drop=("day",))
    train = np.arange(2500)
    assert rows.features.columns == ["colour", "shop", "price", "visits"]
    assert rows.undecided == ("shop", "visits")
    assert encode.choose_numeric(rows, train) == ("price", "visits")
    assert rows.features["colour"].null_count() > 0
    named = read_table(path, drop=("day",), numeric=("shop",), categorical=("v*", "price"))
    assert encode.choose_numeric(named, train) == ("shop",)
    frame = pl.read_csv(path)
    frame.write_parquet(tmp_path / "shop.parquet")
    same = read_table(tmp_path / "shop.parquet", drop=("day",))
    for numeric in (("price",), ("price", "visits")):
        one, two = (encode.encode_draw(r.features, {"train": train}, 2, numeric)[0]["train"] for r in (rows, same))
        assert np.array_equal(one, two)


def test_quoted_and_tab_separated_tables(tmp_path):
    quoted = tmp_path / "q.csv"
    quoted.write_text('label,"a, b"\n1,"x, y"\n0,"two\nlines"\n0,\n')
    rows = read_table(quoted)
    assert rows.features["a, b"].to_list() == ["x, y", "two\nlines", None]
    zeros = write_lines(tmp_path / "z.csv", ["label,x", "1,007", "0,7"])
    assert read_table(zeros).features["x"].to_list() == ["007", "7"]
    tabs = tmp_path / "t.tsv.gz"
    tabs.write_bytes(gzip.compress(b"label\tx\n1\ta\n0\tb\n"))
    assert read_table(tabs).features["x"].to_list() == ["a", "b"]


def test_time_column_is_no_feature(tmp_path):
    rows = read_table(write_lines(tmp_path / "t.csv", table_lines(50)), time_column="day")
    assert "day" not in rows.features.columns
    assert len(rows.time) == 50
    bad = write_lines(tmp_path / "bad.csv", ["label,day,x", "1,5,a", "0,,b"])
    with pytest.raises(UserError, match=r"line 3, column day: no value"):
        read_table(bad, time_column="day")
