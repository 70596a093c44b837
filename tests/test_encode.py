"""Raw rows to codes: cells, divisions, buckets, vocabularies and layouts, against plain Python."""

import gzip
import math
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, write_frappe_zip, write_lines

from ctrlib.data import encode, own_table, raw_logs
from ctrlib.data.encode import (
    Cells,
    Progress,
    bucket_edges,
    count_buckets,
    divide,
    division,
    fit_vocabulary,
    in_buckets,
)
from ctrlib.data.options import PrepareOptions
from ctrlib.data.raw_logs import draw_negatives
from ctrlib.errors import UserError


def quiet(_: str) -> None:
    pass


def read(layout, path, folder, **options):
    """Raw rows, and each field as a list of its values."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    rows = layout(path, scratch, PrepareOptions(**options), quiet)
    made = {one.name: one.values.gather(rows.cells.column(one.column)).to_list() for one in rows.fields}
    return rows, made


def naive_codes(train: list, every: list, min_count: int) -> tuple[list[int], dict]:
    """The definition of a vocabulary, in plain Python."""
    counts = Counter(train)
    kept = [value for value, count in counts.items() if count >= min_count]
    kept.sort(key=lambda value: (-counts[value], value is not None, value))
    codes = {value: code for code, value in enumerate(kept, 1)}
    return [codes.get(value, 0) for value in every], codes


words = st.one_of(st.none(), st.text(alphabet="abcé0 ", min_size=1, max_size=2))
numbers = st.one_of(st.none(), st.integers(-5, 5))


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.lists(words, min_size=1, max_size=60), st.lists(numbers, min_size=1)), st.integers(1, 4), st.data())
def test_codes_equal_plain_python(tmp_path_factory, values, min_count, data):
    """From cells, added at once or in two parts, to codes; the vocabulary knows the training rows only."""
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    kind = pl.Int64 if any(isinstance(value, int) for value in values) else pl.String
    frame = pl.DataFrame({"x": values}, schema={"x": kind})
    with Cells(tmp_path_factory.mktemp("cells"), ["x"]) as cells:
        if kind == pl.String and data.draw(st.booleans()):
            for part in (frame[:7], frame[7:]):
                cells.add_text(part.lazy(), Progress(quiet, ""))
        else:
            cells.add_frame(frame)
        of_number, found = cells.values("x"), cells.column("x")
        assert of_number.gather(found).to_list() == values
        table, codes = fit_vocabulary(of_number, np.bincount(found[train], minlength=len(of_number)), min_count)
    expected, known = naive_codes([v for v, chosen in zip(values, train, strict=True) if chosen], values, min_count)
    assert codes[found].tolist() == expected
    assert dict(zip(table["value"], table["code"], strict=True)) == known


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(-3, 20)), min_size=1))
def test_criteo_numbers_equal_plain_python(values):
    made = count_buckets(pl.Series("x", values, dtype=pl.Int64)).to_list()
    assert made == [criteo_number(value) for value in values]


def criteo_number(value):
    return value if value is None or value <= 2 else math.floor(math.log(value) ** 2)


def plain_cells(line):
    """The cells of one line of text, in plain Python."""
    cells = line.split("\t")[1:]
    numbers = [criteo_number(int(cell) if cell else None) for cell in cells[:13]]
    return [*numbers, *(word or None for word in cells[13:])]


ODD = {3: "-0", 5: "007", 9: "+5", 13: "0" * 30, 14: "ffffffff", 20: "é", 21: '"x"', 22: "0000000A", 23: " "}


def test_criteo_rows_arrive_as_written(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 50)
    lines = criteo_lines(300)
    for place, value in ODD.items():
        cells = lines[place].split("\t")
        lines[place] = "\t".join([*cells[:place], value, *cells[place + 1 :]])
    raw = write_lines(tmp_path / "train.txt", lines).read_bytes()
    labels, expected = [int(line[0]) for line in lines], [plain_cells(line) for line in lines]
    windows = b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n") + b"\r\n\r\n"
    for name, content in {"a": raw, "a.gz": gzip.compress(raw), "windows": windows, "open end": raw[:-1]}.items():
        (tmp_path / name).write_bytes(content)
        for most in (None, 120, 1000):
            rows, made = read(raw_logs.read_criteo, tmp_path / name, tmp_path, rows=most)
            assert rows.labels.tolist() == labels[:most]
            assert [list(row) for row in zip(*made.values(), strict=True)] == expected[:most]


def test_avazu_hour_equals_datetime(tmp_path):
    lines = avazu_lines(400)
    rows, made = read(raw_logs.read_avazu, write_lines(tmp_path / "train.csv", lines), tmp_path)
    moments = [datetime.strptime(line.split(",")[2], "%y%m%d%H") for line in lines[1:]]
    assert made["hour"] == [m.hour for m in moments]
    assert made["weekday"] == [m.weekday() for m in moments]
    assert made["weekend"] == [int(m.isoweekday() in (6, 7)) for m in moments]
    assert tuple(made) == raw_logs.AVAZU_FIELDS
    assert np.argsort(rows.time, kind="stable").tolist() == sorted(range(400), key=lambda row: moments[row])


def test_frappe_negatives(tmp_path):
    lines = frappe_lines(150)
    log = [line.split("\t") for line in lines[1:]]
    used, cost = {(row[0], row[1]) for row in log}, {row[1]: row[7] for row in log}
    rows, made = read(
        raw_logs.read_frappe, write_frappe_zip(tmp_path / "f.zip", lines), tmp_path, negatives=3, split_seed=5
    )
    frame = pl.DataFrame(made)
    positives, drawn = frame.filter(rows.labels == 1), frame.filter(rows.labels == 0)
    assert (positives.height, drawn.height) == (150, 450)
    assert "cnt" not in frame.columns
    assert not used & set(zip(drawn["user"], drawn["item"], strict=True))
    assert all(cost[item] == paid for item, paid in zip(drawn["item"], drawn["cost"], strict=True))
    for name in ("user", "daytime", "weather", "city"):
        assert drawn[name].to_list() == [value for value in positives[name] for _ in range(3)]
    log = write_lines(tmp_path / "log.csv", lines)
    assert read(raw_logs.read_frappe, log, tmp_path, negatives=3, split_seed=5)[1] == made
    assert read(raw_logs.read_frappe, log, tmp_path, negatives=3, split_seed=6)[1] != made


def test_a_use_and_its_negatives_stay_in_one_part(tmp_path):
    log = write_lines(tmp_path / "log.csv", frappe_lines(200))
    for stay in ("together", "apart"):
        options = PrepareOptions(layout="frappe", draws=2, split_seed=3, negatives_stay=stay)
        rows, _ = read(raw_logs.read_frappe, log, tmp_path, **options.model_dump(exclude={"layout"}))
        parts = [division(rows, draw, options) for draw in (0, 1)]
        origin = np.concatenate([np.arange(200), np.repeat(np.arange(200), 2)])
        alike = [(part == part[:200][origin]).all() for part in parts]
        assert alike == [stay == "together"] * 2
        assert (parts[0] != parts[1]).any()
        assert all((np.bincount(part) == [480, 60, 60]).all() for part in parts)


def test_negatives_are_uniform_over_unused_items():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 4])
    drawn = draw_negatives(users, items, 6000, seed=1)
    for user, allowed in ((0, [2, 3, 4]), (1, [0, 1, 2, 3])):
        counts = np.bincount(drawn[np.repeat(users, 6000) == user], minlength=5)
        assert np.flatnonzero(counts).tolist() == allowed
        expected = counts.sum() / len(allowed)
        assert np.abs(counts[allowed] - expected).max() < 5 * math.sqrt(expected)
    with pytest.raises(UserError, match="all 2 items"):
        draw_negatives(np.array([0, 0]), np.array([0, 1]), 1, seed=0)


@given(st.integers(10, 500), st.integers(0, 99), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.3, 0.2)]))
def test_a_division_follows_its_order(total, seed, shares):
    order = encode.random_order(total, seed)
    assert order.tolist() == np.random.default_rng(seed).permutation(total).tolist()
    cuts = [math.floor(total * shares[0] + 0.5), math.floor(total * shares[1] + 0.5)]
    expected = [0] * cuts[0] + [1] * cuts[1] + [2] * (total - sum(cuts))
    assert divide(order, shares)[order].tolist() == expected


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1, max_size=20),
    st.integers(2, 9),
)
def test_buckets_equal_plain_python(train, other, buckets):
    known = sorted(v for v in train if v is not None and not math.isnan(v))
    expected = {known[math.ceil(k * len(known) / buckets) - 1] for k in range(1, buckets)} if known else set()
    edges = bucket_edges(np.array(known), np.ones(len(known), int), buckets)
    assert edges.tolist() == sorted(expected)
    assert in_buckets(pl.Series("x", other, dtype=pl.Float64), edges).to_list() == [
        None if v is None else sum(edge < v for edge in expected) for v in other
    ]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (['0,"x"y,2', "1,z,3"], """line 2: ',' expected after '"'"""),
        (["1,z,3", '0,"open,2', "1,z,3", "0,k,1"], "line 3: a quote that opens here never closes"),
    ],
)
def test_a_stray_quote_is_named_and_no_row_is_lost(tmp_path, lines, place):
    raw = write_lines(tmp_path / "own.csv", ["label,a,b", *lines])
    with pytest.raises(UserError, match=f"own.csv, {place}.*; allowed: valid comma"):
        read(own_table.read, raw, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("inch.csv", b'label,x\n1,19" screen\n0,a"b"\n', {"x": ['19" screen', 'a"b"']}),
        ("q.csv", b'label,"a, b"\n1,"x, y"\n0,"two\nlines"\n0,\n0,""\n', {"a, b": ["x, y", "two\nlines", None, None]}),
        ("zeros.csv", b"label,x\n1,007\n0,7\n", {"x": ["007", "7"]}),
        ("t.tsv.gz", gzip.compress(b"label\tx\n1\ta\n0\tb\n", mtime=0), {"x": ["a", "b"]}),
    ],
)
def test_quoted_and_tab_separated_tables(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert read(own_table.read, tmp_path / name, tmp_path)[1] == expected
