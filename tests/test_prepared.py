"""Prepared folders: what is written, what is read back, what happens to damaged ones."""

import hashlib
import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from raw_files import contents, criteo_lines, frappe_lines, write_lines
from small import refused

from ctrlib.config import SyntheticSettings
from ctrlib.data import encode, facts, manifest, prepared, sources
from ctrlib.data.files import file_sha256, seal, write_sealed
from ctrlib.data.manifest import read_manifest
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import open_draw


@pytest.fixture
def criteo(tmp_path):
    """A raw Criteo file of 400 invented rows."""
    return write_lines(tmp_path / "train.txt", criteo_lines(400))


def test_a_prepared_set_is_what_plain_python_makes(criteo, tmp_path, monkeypatch):
    """Draws, vocabularies and codes of a whole file, read in several batches."""
    monkeypatch.setattr(encode, "BATCH", 50)
    folder = sources.prepare("criteo", criteo, tmp_path / "data", PrepareOptions(draws=2, split_seed=3, min_count=3))
    source = {"file": criteo.name, "sha256": hashlib.sha256(criteo.read_bytes()).hexdigest()}
    assert read_manifest(folder)["source"] == source
    lines = [line.split("\t") for line in criteo.read_text().splitlines()]
    for draw in (0, 1):
        dataset = sources.load("criteo", draw, tmp_path / "data")
        order = np.random.default_rng(3 + draw).permutation(400)
        rows = {"train": sorted(order[:320]), "valid": sorted(order[320:360]), "test": sorted(order[360:])}
        stored = pl.read_parquet(folder / f"draw-{draw}" / "vocabulary.parquet")
        for place, name in enumerate(dataset.field_names):
            known = dict(stored.filter(pl.col("field") == name).select("value", "code").iter_rows())
            assert dataset.field_dims[place] == len(known) + 1
            if place >= 13:
                counts = Counter(lines[row][place + 1] for row in rows["train"])
                kept = sorted((-count, word) for word, count in counts.items() if count >= 3)
                assert known == {word: code for code, (_, word) in enumerate(kept, 1)}
                for part, split in dataset.splits().items():
                    assert split.ids[:, place].tolist() == [known.get(lines[row][place + 1], 0) for row in rows[part]]
        for part, split in dataset.splits().items():
            assert split.labels.tolist() == [int(lines[row][0]) for row in rows[part]]
    later = sources.prepare(
        "later", criteo, tmp_path / "data", PrepareOptions(layout="criteo", split_seed=4, min_count=3)
    )
    assert open_draw(later).fingerprint == dataset.fingerprint


def test_progress_says_rows_and_rate(criteo, tmp_path, monkeypatch):
    ticks = iter(range(100_000))
    monkeypatch.setattr(encode.time, "monotonic", lambda: float(next(ticks)))
    said = []
    sources.prepare("criteo", criteo, tmp_path / "data", report=said.append)
    for step in ("reading train.txt: 400 of 400", "draw 1 of 1: encoding: 400 of 400"):
        assert any(line.startswith(f"{step} rows, ") and line.endswith(" rows/s") for line in said)


def test_leftovers_of_dead_processes_go(criteo, tmp_path):
    (tmp_path / ".criteo.new" / "draw-0").mkdir(parents=True)
    folder = sources.prepare("criteo", criteo, tmp_path)
    before = contents(folder)
    folder.rename(tmp_path / ".criteo.old")  # killed between the old one's step aside and the new name
    assert "1 column" in refused(sources.prepare, "criteo", write_lines(tmp_path / "bad.txt", ["x"]), tmp_path)
    assert contents(folder) == before
    assert list(tmp_path.glob(".criteo*")) == []


def test_the_same_input_gives_the_same_bytes_and_a_failure_changes_nothing(criteo, tmp_path):
    options = PrepareOptions(draws=2)
    first, second = (sources.prepare("criteo", criteo, tmp_path / name, options) for name in "ab")
    before = contents(first)
    assert before == contents(second)
    assert str(tmp_path) not in (first / "dataset.json").read_text()
    assert contents(sources.prepare("criteo", criteo, tmp_path / "a", options)) == before

    def stop(step):
        if step.startswith("draw 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.prepare("criteo", criteo, tmp_path / "a", PrepareOptions(draws=3, split_seed=9), stop)
    assert contents(first) == before
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["criteo"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    said = refused(sources.prepare, "other", criteo, tmp_path, PrepareOptions(layout="criteo"))
    assert "exists but is no prepared data set" in said
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_codes_on_disk_are_tensors_without_a_copy(criteo, tmp_path, recwarn):
    folder = sources.prepare("criteo", criteo, tmp_path)
    dataset = open_draw(folder)
    assert isinstance(dataset.train.ids, np.memmap)
    tensor = torch.from_numpy(dataset.train.ids)
    assert tensor.data_ptr() == dataset.train.ids.ctypes.data
    assert not recwarn.list
    before = contents(folder)
    tensor[0] += 1  # the file never sees it
    assert contents(folder) == before


def test_unknown_names_and_formats_say_what_exists(criteo, tmp_path):
    sources.prepare("mine", criteo, tmp_path, PrepareOptions(layout="criteo"))
    for name, draw, words in (
        ("minee", 0, "Did you mean 'mine'?"),
        ("avazu", 0, "ctrlib data prepare avazu"),
        ("mine", 1, "draw 1 does not exist; allowed: 0 to 0"),
    ):
        assert words in refused(sources.load, name, draw, tmp_path)
    assert sources.load(str(tmp_path / "mine")).fingerprint == sources.load("mine", data_dir=tmp_path).fingerprint
    for name in ("../mine", "synthetic", ".x", ""):
        assert "data set name" in refused(sources.prepare, name, criteo, tmp_path)
    path = tmp_path / "mine" / "dataset.json"
    later = {**json.loads(path.read_text()), "format": 99}
    del later["checksum"]
    path.write_text(seal(later))
    assert "format 99; allowed: 1" in refused(open_draw, path.parent)


def test_arrays_of_another_program_are_refused(criteo, tmp_path, monkeypatch):
    """With the right checksums, as another program could write them: a model would look beyond the end of its table."""
    monkeypatch.setattr(prepared, "ROWS_TOGETHER", 7)  # rows looked at together
    folder = sources.prepare("criteo", criteo, tmp_path)
    good = np.load(folder / "draw-0" / "train_ids.npy")
    for row, field, value in ((0, 2, 10**6), (6, 0, -1), (319, 38, 10**6)):
        bad = good.copy()
        bad[row, field] = value
        rewrite(folder, "train_ids.npy", bad)
        assert f"train_ids.npy: holds the code {value}, which no field has" in refused(open_draw, folder)
    rewrite(folder, "train_ids.npy", good.astype(np.int64))
    assert "holds int64(320, 39); allowed: int32(320, 39)" in refused(open_draw, folder)


def rewrite(folder, name, array):
    """Put another array into a prepared folder, with the checksums that it should have."""
    path, facts = folder / "draw-0" / name, read_manifest(folder)
    np.save(path, array)
    (entry,) = facts["draws"]
    entry["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["fingerprint"] = manifest.fingerprint(entry)
    write_sealed(folder / "dataset.json", facts)


def test_large_files_are_hashed_once_until_they_change(criteo, tmp_path, monkeypatch):
    folder, hashed = sources.prepare("criteo", criteo, tmp_path), []
    monkeypatch.setattr(prepared, "LARGE", 1)
    monkeypatch.setattr(prepared, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    for count in (6, 6):
        open_draw(folder)
        assert len(hashed) == count
    (folder / "draw-0" / "test_ids.npy").touch()
    open_draw(folder)
    assert hashed[6:] == ["test_ids.npy"]
    assert sources.verify("criteo", tmp_path) == []
    assert len(hashed) == 14


def test_description_counts_every_block(criteo, tmp_path, monkeypatch):
    folder = sources.prepare("criteo", criteo, tmp_path)
    monkeypatch.setattr(facts, "ROWS_TOGETHER", 7)
    whole = sources.describe("criteo", 0, tmp_path)
    dataset = open_draw(folder)
    for place, line in enumerate(whole["fields"]):
        assert line["oov_valid"] == np.mean(dataset.valid.ids[:, place] == 0)
        assert line["top_share"] == np.bincount(dataset.train.ids[:, place]).max() / len(dataset.train)
    short = sources.summary(folder)
    assert [{**line, "repeated": 0.0} for line in short["draws"][0]["splits"]] == whole["splits"]
    assert [field["dim"] for field in short["draws"][0]["fields"]] == list(dataset.field_dims)


def test_the_catalogue(tmp_path):
    raw = write_lines(tmp_path / "frappe.csv", frappe_lines(200))
    sources.prepare("frappe", raw, tmp_path, PrepareOptions(draws=2))
    entry = {e.name: e for e in sources.catalogue(tmp_path)}
    assert (entry["frappe"].rows, entry["frappe"].fields, entry["frappe"].draws) == (600, 10, 2)
    assert entry["frappe"].click_rate == pytest.approx(1 / 3)
    assert (entry["criteo"].state, entry["synthetic"].state) == ("needs raw file", "built in")
    assert sources.describe("frappe", 1, tmp_path)["fields"][0]["oov_train"] == 0
    small = SyntheticSettings(train_rows=500, valid_rows=100, test_rows=100)
    dataset = sources.load("synthetic", 1, synthetic=small)
    assert (dataset.name, dataset.draw, len(dataset.train)) == ("synthetic", 1, 500)
    assert sources.describe("synthetic", 1, synthetic=small)["fingerprint"] == dataset.fingerprint
