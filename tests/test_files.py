"""JSON files with their checksum, and what is refused as one."""

import json
import os
import shutil
from pathlib import Path

import pytest
from raw_files import table_lines, write_lines
from small import fit, make_run, member, rows

from ctrlib.config import digest
from ctrlib.data import sources
from ctrlib.data.files import BrokenSeal, Irregular, read_sealed, seal, unseal, write_sealed
from ctrlib.data.options import PrepareOptions
from ctrlib.store.published import write
from ctrlib.store.record import write_record


def test_a_sealed_file_is_read_back_and_says_when_it_is_not_whole(tmp_path):
    path, content = tmp_path / "a.json", {"b": [1, 2.5, None], "é": "ü"}
    write_sealed(path, content, indent=1, ensure_ascii=False)
    write_sealed(path, content, indent=1, ensure_ascii=False)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert read_sealed(path) == content
    assert json.loads(path.read_text("utf-8")) == {**content, "checksum": digest(content)}
    good = seal(content)
    for bad, words in (
        (good.replace("2.5", "2.6"), "not that of its checksum"),
        (json.dumps(content), "no checksum"),
        (good[:-5], "EOF"),
        ("[]", "no object"),
        (good.replace("2.5", "NaN"), "expected value"),
        ("[" * 100_000, "recursion limit"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            unseal(bad)
        assert isinstance(caught.value, BrokenSeal) == ("checksum" in words)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(Irregular):
        read_sealed(tmp_path / "link")


@pytest.fixture
def events(monkeypatch):
    """What is forced to disk, renamed and removed, in order, by name."""
    found = []

    def watch(module, name, of):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **more: (found.append((name, of(*a))), original(*a, **more))[1])

    watch(os, "fsync", lambda number: Path(os.readlink(f"/proc/self/fd/{number}")))
    for name in ("rename", "replace"):
        watch(os, name, lambda old, new: (Path(old), Path(new)))
    watch(shutil, "rmtree", lambda path, *_: Path(path))
    return found


def assert_safe(events, made: Path) -> None:
    """All of ``made`` was on disk under the name it had before, then renamed, then the new name was on disk."""
    place = max(n for n, (kind, what) in enumerate(events) if kind in ("rename", "replace") and what[1] == made)
    before = events[place][1][0]
    parts = [before / path.relative_to(made) for path in made.rglob("*")] if made.is_dir() else []
    synced = [what for kind, what in events[:place] if kind == "fsync"]
    assert {before, *parts} <= set(synced)
    assert ("fsync", made.parent) in events[place:]
    gone = [n for n, (kind, what) in enumerate(events) if kind == "rmtree" and what.name.endswith(".old")]
    assert all(n > events.index(("fsync", made.parent), place) for n in gone), "the earlier one goes last"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the system which file is forced to disk")
def test_what_is_made_survives_a_loss_of_power(tmp_path, events):
    """Prepared data, twice under one name, a run record, and published results."""
    raw = write_lines(tmp_path / "raw.csv", table_lines())
    for seed in (0, 1):
        events.clear()
        assert_safe(events, sources.prepare("own", raw, tmp_path, PrepareOptions(split_seed=seed)))
    assert any(kind == "rmtree" and what.name.endswith(".old") for kind, what in events)
    run = make_run([member(1)])
    (tmp_path / "runs").mkdir()
    events.clear()
    assert_safe(events, write_record(tmp_path / "runs", run, fit(run), rows(), {"device": "cpu"}).folder)
    write(tmp_path / "published.parquet", [])
    assert_safe(events, tmp_path / "published.parquet")
