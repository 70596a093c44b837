"""Prepared folders: what is written, what is read back, what happens to damaged ones."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_lines

from ctrlib.config import digest
from ctrlib.data import blocks, encode, sources, streaming, verified, writing
from ctrlib.data import prepared as table
from ctrlib.data.criteo import CATEGORIES, COLUMNS, FIELDS, NUMBERS, bucket_count
from ctrlib.data.manifest import read_about
from ctrlib.data.sources import PrepareOptions
from ctrlib.errors import UserError


@pytest.fixture
def criteo(tmp_path):
    """A raw Criteo file of 400 invented rows."""
    return write_lines(tmp_path / "train.txt", criteo_lines(400))


def content(folder):
    """Every file of a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_draws_divide_the_same_rows(criteo, tmp_path):
    sources.prepare("criteo", criteo, tmp_path / "data", PrepareOptions(draws=2, split_seed=3))
    one, two = (sources.load("criteo", draw, tmp_path / "data") for draw in (0, 1))
    assert one.fingerprint != two.fingerprint
    for dataset in (one, two):
        table.check(dataset)
        assert [len(split) for split in dataset.splits().values()] == [320, 40, 40]
        assert sum(int(split.labels.sum()) for split in dataset.splits().values()) == int(one_labels(criteo).sum())
    later = sources.prepare("later", criteo, tmp_path / "data", PrepareOptions(layout="criteo", split_seed=4))
    assert table.open_draw(later).fingerprint == two.fingerprint


def one_labels(path):
    return np.array([int(line[0]) for line in path.read_text().splitlines()])


def prepare_naively(raw, root, name, options):
    """The whole file in memory: what reading it in blocks must equal, byte for byte."""
    schema = {column: pl.Int64 if column in NUMBERS else pl.String for column in COLUMNS}
    frame = pl.read_csv(raw, separator="\t", has_header=False, schema=schema, quote_char=None)
    labels = frame["label"].cast(pl.UInt8).to_numpy()
    features = frame.select(*(bucket_count(pl.col(c)) for c in NUMBERS), *CATEGORIES)
    min_count = options.min_count or 2
    chosen = {**options.model_dump(mode="json", exclude={"layout", "min_count"})}
    about = {
        "kind": "criteo",
        "source": {"file": raw.name, "sha256": hashlib.sha256(raw.read_bytes()).hexdigest()},
        "settings": {**chosen, "layout": "criteo", "min_count": min_count},
        "numeric_columns": [],
    }

    def draws():
        for draw in range(options.draws):
            order = encode.random_order(len(labels), options.split_seed + draw)
            parts = encode.split_rows(len(labels), options.shares, order)
            ids, vocabulary, dims = encode.encode_draw(features, parts, min_count)
            splits = {part: table.Split(ids[part], labels[rows]) for part, rows in parts.items()}
            yield table.Dataset(name, draw, FIELDS, dims, fingerprint="", **splits), vocabulary

    return table.save(root, name, draws(), about)


counts = st.one_of(
    st.sampled_from(["", "", "0", "1", "2", "-1", "-0", "007", "+5", "-3", "70000", "0" * 30]),
    st.integers(-3, 40).map(str),
    st.sampled_from([-(2**63), -(2**30) - 1, -(2**30), 2**63 - 1, 10**17, 10**18]).map(str),
)
word_texts = st.one_of(
    st.sampled_from(["", "00000000", "ffffffff", "ffc00000", "ffbfffff", "0000000A", "é", '"x"', "abc", "a" * 9, " "]),
    st.integers(0, 9).map("{:08x}".format),
    st.text("0af z", max_size=9),
)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(60, 120), st.integers(1, 3), st.integers(200, 9000), st.integers(1, 3))
def test_blocks_give_the_bytes_of_the_whole_file(tmp_path_factory, data, rows, min_count, size, threads):
    unusual = data.draw(st.lists(st.tuples(st.integers(0, rows - 1), counts, st.integers(1, 13)), max_size=30))
    unusual += data.draw(st.lists(st.tuples(st.integers(0, rows - 1), word_texts, st.integers(14, 39)), max_size=30))
    cells = [line.split("\t") for line in criteo_lines(rows, seed=size)]
    for row, text, place in unusual:
        cells[row][place] = text
    folder = tmp_path_factory.mktemp("same")
    raw = write_lines(folder / "train.txt", ["\t".join(line) for line in cells])
    options = PrepareOptions(min_count=min_count, draws=2, split_seed=size, shares=(0.5, 0.3, 0.2))
    try:
        expected = prepare_naively(raw, folder / "naive", "criteo", options)
    except UserError:  # a part without clicks or without other rows
        reject()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        patch.setattr("ctrlib.data.criteo._PIECE", 1 + size // 2)
        patch.setattr("ctrlib.data.workers.usable_cores", lambda: threads)
        made = sources.prepare("criteo", raw, folder / "blocks", options)
    assert content(made) == content(expected)
    assert content(sources.prepare("criteo", raw, folder / "at once", options)) == content(expected)


def test_packed_text_gives_the_same_codes(criteo, tmp_path):
    plain = sources.prepare("criteo", criteo, tmp_path / "data")
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(gzip.compress(criteo.read_bytes()))
    other = sources.prepare("packed", packed, tmp_path / "data", PrepareOptions(layout="criteo"))
    assert table.open_draw(other).fingerprint == table.open_draw(plain).fingerprint
    about = read_about(other)
    assert about["source"] == {"file": packed.name, "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}


def test_some_rows_of_a_longer_file(criteo, tmp_path):
    short = write_lines(tmp_path / "short.txt", criteo.read_text().splitlines()[:150])
    one = sources.prepare("criteo", criteo, tmp_path / "data", PrepareOptions(rows=150))
    two = sources.prepare("short", short, tmp_path / "data", PrepareOptions(layout="criteo"))
    assert table.open_draw(one).fingerprint == table.open_draw(two).fingerprint
    assert read_about(one)["source"]["sha256"] == hashlib.sha256(criteo.read_bytes()).hexdigest()


def test_progress_says_rows_and_rate(criteo, tmp_path, monkeypatch):
    ticks = iter(range(100_000))
    monkeypatch.setattr(streaming.time, "monotonic", lambda: float(next(ticks)))
    said = []
    sources.prepare("criteo", criteo, tmp_path / "data", report=said.append)
    assert any(line.startswith("reading train.txt: 400 rows, ") and line.endswith(" rows/s") for line in said)
    for step in ("counting values", "encoding"):
        assert any(line.startswith(f"draw 1 of 1: {step}: 400 of 400 rows, ") for line in said)


def test_too_small_a_disk_is_known_before(criteo, tmp_path, monkeypatch):
    usage = writing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(
        UserError, match=r"about 0\.0 GB are needed on this disk and 0\.0 GB are free; allowed: another"
    ):
        sources.prepare("criteo", criteo, tmp_path / "made" / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["train.txt"]


def test_leftovers_of_dead_processes_go(criteo, tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = tmp_path / f".criteo.new-{done.pid}", tmp_path / f".criteo.new-{os.getppid()}"
    others = tmp_path / f".other.new-{done.pid}"
    for folder in (dead, alive, others):
        (folder / "draw-0").mkdir(parents=True)
    folder = sources.prepare("criteo", criteo, tmp_path)
    assert [path.exists() for path in (dead, alive, others)] == [False, True, True]
    before = content(folder)
    folder.rename(
        tmp_path / f".criteo.old-{done.pid}"
    )  # killed between setting the old one aside and the new one's name
    with pytest.raises(UserError, match="no such file"):
        sources.prepare("criteo", tmp_path / "none.txt", tmp_path)
    with pytest.raises(UserError, match="1 column"):
        sources.prepare("criteo", write_lines(tmp_path / "bad.txt", ["x"]), tmp_path)
    assert content(folder) == before
    folder.rename(tmp_path / f".criteo.old-{done.pid}")
    sources.prepare("criteo", criteo, tmp_path)
    assert content(folder) == before
    assert sorted(path.name for path in tmp_path.glob(".criteo*")) == [alive.name]


def test_validation_and_test_rows_do_not_reach_the_vocabulary(criteo, tmp_path):
    folder = sources.prepare("criteo", criteo, tmp_path / "data")
    lines = criteo.read_text().splitlines()
    train = set(np.random.default_rng(0).permutation(400)[:320].tolist())
    changed = [line if row in train else line.replace("000010", "ffffff") for row, line in enumerate(lines)]
    other = write_lines(tmp_path / "changed.txt", changed)
    again = sources.prepare("changed", other, tmp_path / "data", PrepareOptions(layout="criteo"))
    one, two = (table.open_draw(f) for f in (folder, again))
    assert one.field_dims == two.field_dims
    assert np.array_equal(one.train.ids, two.train.ids)
    assert not np.array_equal(one.test.ids, two.test.ids)
    words = [f"{folder}/draw-0/vocabulary.parquet", f"{again}/draw-0/vocabulary.parquet"]
    assert pl.read_parquet(words[0]).equals(pl.read_parquet(words[1]))


def test_the_same_input_gives_the_same_bytes(criteo, tmp_path):
    options = PrepareOptions(draws=2)
    first = sources.prepare("criteo", criteo, tmp_path / "a", options)
    second = sources.prepare("criteo", criteo, tmp_path / "b", options)
    assert content(first) == content(second)
    assert str(tmp_path) not in (first / "dataset.json").read_text()
    assert content(sources.prepare("criteo", criteo, tmp_path / "a", options)) == content(second)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["criteo"]


def test_a_failed_preparation_changes_nothing(criteo, tmp_path):
    folder = sources.prepare("criteo", criteo, tmp_path / "data")
    before = content(tmp_path / "data")

    def stop(step):
        if step.startswith("draw 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.prepare("criteo", criteo, tmp_path / "data", PrepareOptions(draws=3, split_seed=9), stop)
    assert content(tmp_path / "data") == before
    assert folder.exists()


def test_a_folder_of_something_else_is_not_replaced(criteo, tmp_path):
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists but is no prepared data set"):
        sources.prepare("criteo", criteo, tmp_path)
    assert (tmp_path / "criteo" / "notes.txt").read_text() == "mine"


def test_damage_is_found(criteo, tmp_path):
    folder = sources.prepare("criteo", criteo, tmp_path)
    files = ["train_ids.npy", "valid_ids.npy", "test_ids.npy", "train_labels.npy", "valid_labels.npy"]
    for name in files:
        path = folder / "draw-0" / name
        good = path.read_bytes()
        for bad in (good[:-7], good[:140] + bytes([good[140] ^ 1]) + good[141:], b""):
            path.write_bytes(bad)
            with pytest.raises(UserError, match=f"{name}: damaged"):
                table.open_draw(folder)
        path.unlink()
        with pytest.raises(UserError, match=f"{name}: missing"):
            table.open_draw(folder)
        path.write_bytes(good)
    table.open_draw(folder)


def test_an_untouched_file_is_hashed_once(criteo, tmp_path, monkeypatch):
    folder = sources.prepare("criteo", criteo, tmp_path)
    hashed, settled = [], verified._SETTLED
    real = verified.file_sha256
    monkeypatch.setattr(verified, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    for _ in range(2):  # just written: a change within a tick of the file's clock would not be seen
        table.open_draw(folder)
    assert len(hashed) == 12
    monkeypatch.setattr(verified, "_SETTLED", 0)
    for _ in range(3):
        table.open_draw(folder)
    assert len(hashed) == 18
    monkeypatch.setattr(verified, "_SETTLED", settled)
    path = folder / "draw-0" / "train_ids.npy"
    good, state = path.read_bytes(), path.stat()
    time.sleep(0.05)
    path.write_bytes(good[:500] + bytes([good[500] ^ 1]) + good[501:])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(UserError, match=r"train_ids\.npy: damaged"):
        table.open_draw(folder)


def test_codes_on_disk_are_tensors_without_a_copy(criteo, tmp_path, recwarn):
    folder = sources.prepare("criteo", criteo, tmp_path)
    dataset, whole = table.open_draw(folder), table.open_draw(folder, mmap=False)
    assert isinstance(dataset.train.ids, np.memmap)
    tensor = torch.from_numpy(dataset.train.ids)
    assert tensor.data_ptr() == dataset.train.ids.ctypes.data
    assert not recwarn.list
    assert torch.equal(tensor, torch.from_numpy(whole.train.ids))
    before = content(folder)
    tensor[0] += 1  # the file never sees it
    del tensor, dataset
    assert content(folder) == before
    assert np.array_equal(table.open_draw(folder).train.ids, whole.train.ids)


def test_a_system_that_refuses_private_pages_gets_read_only_ones(criteo, tmp_path, monkeypatch):
    folder = sources.prepare("criteo", criteo, tmp_path)
    load = np.load

    def refusing(path, mmap_mode=None, **more):
        if mmap_mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return load(path, mmap_mode=mmap_mode, **more)

    monkeypatch.setattr(np, "load", refusing)
    dataset = table.open_draw(folder)
    assert not dataset.train.ids.flags.writeable
    table.check(dataset)


def test_a_damaged_description_is_found(criteo, tmp_path):
    folder = sources.prepare("criteo", criteo, tmp_path)
    path = folder / "dataset.json"
    good = path.read_text()
    about = json.loads(good)
    about["draws"][0]["fields"][3]["dim"] += 1
    for bad, message in (
        (good[:100], "damaged"),
        (json.dumps(about), "damaged"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ):
        path.write_text(bad)
        with pytest.raises(UserError, match=message):
            table.open_draw(folder)
        assert [e.state for e in sources.catalogue(tmp_path) if e.name == "criteo"] == ["damaged"]
    later = {**json.loads(good), "format": 99}
    del later["checksum"]
    path.write_text(json.dumps({**later, "checksum": digest(later)}))
    with pytest.raises(UserError, match="format 99; allowed: 1"):
        table.open_draw(folder)


def test_unknown_names_say_what_exists(criteo, tmp_path):
    sources.prepare("mine", criteo, tmp_path, PrepareOptions(layout="criteo"))
    with pytest.raises(UserError, match=r"unknown data set 'minee'.*Did you mean 'mine'\?"):
        sources.load("minee", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"'avazu' is not prepared yet.*ctrlib data prepare avazu"):
        sources.load("avazu", data_dir=tmp_path)
    with pytest.raises(UserError, match="draw 1 does not exist; allowed: 0 to 0"):
        sources.load("mine", 1, tmp_path)
    assert sources.load(str(tmp_path / "mine")).fingerprint == sources.load("mine", data_dir=tmp_path).fingerprint
    for name in ("../mine", "synthetic", ".x", "a/b", ""):
        with pytest.raises(UserError, match="data set name"):
            sources.prepare(name, criteo, tmp_path)


def test_check_names_what_is_wrong(criteo, tmp_path):
    good = table.open_draw(sources.prepare("criteo", criteo, tmp_path), mmap=False)
    ids = good.valid.ids.copy()
    ids[5, 2] = good.field_dims[2]
    cases = [
        (table.Split(ids, good.valid.labels), r"valid, field I3: code \d+; allowed: 0 to"),
        (table.Split(-1 - good.valid.ids, good.valid.labels), "code -"),
        (table.Split(good.valid.ids.astype(np.int64), good.valid.labels), "ids are int64"),
        (table.Split(good.valid.ids[:, :5], good.valid.labels), "allowed: int32"),
        (table.Split(good.valid.ids, np.ones_like(good.valid.labels)), "all 40 labels are 1"),
        (table.Split(good.valid.ids, good.valid.labels * 2), "label 2; allowed: 0 or 1"),
        (table.Split(good.valid.ids[:0], good.valid.labels[:0]), "no rows"),
    ]
    for split, message in cases:
        with pytest.raises(UserError, match=message):
            table.check(replace(good, valid=split))


def test_check_reads_every_block(criteo, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_ROWS", 7)
    good = table.open_draw(sources.prepare("criteo", criteo, tmp_path))
    table.check(good)
    for row, code in ((0, -1), (6, 10**6), (39, -1), (39, 10**6)):
        ids = good.valid.ids.copy()
        ids[row, 38] = code
        with pytest.raises(UserError, match=f"field C26: code {code}; allowed: 0 to"):
            table.check(replace(good, valid=table.Split(ids, good.valid.labels)))


def test_description_counts_every_block(criteo, tmp_path, monkeypatch):
    folder = sources.prepare("criteo", criteo, tmp_path)
    whole = sources.describe("criteo", 0, tmp_path)
    monkeypatch.setattr(sources, "_ROWS", 7)
    assert sources.describe("criteo", 0, tmp_path) == whole
    dataset = table.open_draw(folder)
    for place, line in enumerate(whole["fields"]):
        assert line["oov_valid"] == np.mean(dataset.valid.ids[:, place] == 0)
        assert line["top_share"] == np.bincount(dataset.train.ids[:, place]).max() / len(dataset.train)
    short = sources.summary(folder)
    assert short["draws"][0]["splits"] == whole["splits"]
    assert [field["dim"] for field in short["draws"][0]["fields"]] == list(dataset.field_dims)


def test_time_splits(tmp_path):
    raw = write_lines(tmp_path / "train.csv", avazu_lines(500))
    sources.prepare("avazu", raw, tmp_path, PrepareOptions(split="time"))
    dataset = sources.load("avazu", data_dir=tmp_path)
    lines = avazu_lines(500)[1:]
    order = sorted(range(500), key=lambda row: lines[row].split(",")[2])
    clicks = [int(lines[row].split(",")[1]) for row in sorted(order[:400])]
    assert dataset.train.labels.tolist() == clicks
    own = write_lines(tmp_path / "own.csv", table_lines(300))
    sources.prepare("own", own, tmp_path, PrepareOptions(split="time", time_column="day"))
    days = pl.read_csv(own)
    assert sources.load("own", data_dir=tmp_path).test.labels.tolist() == days["label"][-30:].to_list()


def test_frappe_and_description(tmp_path):
    raw = write_lines(tmp_path / "frappe.csv", frappe_lines(200))
    sources.prepare("frappe", raw, tmp_path, PrepareOptions(draws=2))
    entry = {e.name: e for e in sources.catalogue(tmp_path)}
    assert (entry["frappe"].rows, entry["frappe"].fields, entry["frappe"].draws) == (600, 10, 2)
    assert entry["frappe"].click_rate == pytest.approx(1 / 3)
    assert entry["criteo"].state == "needs raw file"
    assert entry["synthetic"].state == "built in"
    facts = sources.describe("frappe", 1, tmp_path)
    assert [line["part"] for line in facts["splits"]] == ["train", "valid", "test"]
    dataset = sources.load("frappe", 1, tmp_path)
    user = facts["fields"][0]
    assert (user["field"], user["dim"]) == ("user", dataset.field_dims[0])
    assert user["top_share"] == pytest.approx(np.bincount(dataset.train.ids[:, 0]).max() / 480)
    assert user["oov_train"] == 0


def test_synthetic_by_name():
    from ctrlib.config import SyntheticSettings

    small = SyntheticSettings(train_rows=500, valid_rows=100, test_rows=100)
    dataset = sources.load("synthetic", 1, synthetic=small)
    table.check(dataset)
    assert (dataset.name, dataset.draw, len(dataset.train)) == ("synthetic", 1, 500)
    assert sources.describe("synthetic", 1, synthetic=small)["fingerprint"] == dataset.fingerprint
