"""Prepared folders: what is written, what is read back, what happens to damaged ones."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_lines

from ctrlib.data import sources, table
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


def test_a_damaged_description_is_found(criteo, tmp_path):
    folder = sources.prepare("criteo", criteo, tmp_path)
    path = folder / "dataset.json"
    good = path.read_text()
    about = json.loads(good)
    about["draws"][0]["fields"][3]["dim"] += 1
    for bad, message in (
        (good[:100], "damaged"),
        (json.dumps(about), "damaged"),
        ("[]", "format None"),
        ("{", "damaged"),
    ):
        path.write_text(bad)
        with pytest.raises(UserError, match=message):
            table.open_draw(folder)
        assert [e.state for e in sources.catalogue(tmp_path) if e.name == "criteo"] == ["damaged"]
    path.write_text(good.replace('"format": 1', '"format": 99'))
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
