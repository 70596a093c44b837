"""Files that ctrlib keeps, damaged in every way: noticed before they are used, named in one line, the rest used."""

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from processes import answer_of, as_nobody
from raw_files import contents, table_lines, write_lines
from small import make_run, member, refused
from stores import here, quick, rewrite
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Run
from ctrlib.coupling import complete
from ctrlib.data import sources
from ctrlib.store.gc import garbage
from ctrlib.store.record import FILES, Damaged
from ctrlib.store.runs import RunStore

NAME = "mine – 実験 'ü'"  # every store and data folder here lies on such a path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 2
    path.write_bytes(content)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "missing": Path.unlink,
    "bit flipped": flip,
    "a folder": to_folder,
}


def damages(*parts: str) -> pytest.MarkDecorator:
    """Each kind of damage on one of the parts, in turn."""
    return pytest.mark.parametrize(("how", "part"), [*zip(DAMAGES, cycle(parts), strict=False)])


def command(*words: object) -> tuple[int, str]:
    """Exit code and output of a ctrlib command."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "10000"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def quiet(function: Callable, *arguments):
    """What a function returns, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = function(*arguments)
    return result, out.getvalue()


# ---- run store -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    """A store with two runs."""
    store = RunStore(tmp_path_factory.mktemp("made") / NAME)
    for seed in (1, 2):
        store.train(quick(seed), "cpu")
    return store.root


@pytest.fixture
def store(two_runs: Path, tmp_path: Path) -> RunStore:
    """A copy of it for a test."""
    return RunStore(shutil.copytree(two_runs, tmp_path / "a" / NAME))


@damages("run.json", *FILES)
def test_run_store(store: RunStore, part: str, how: str) -> None:
    """Named by verify and gc, which delete nothing; trained again by a study; the other run is used as it is."""
    run, other = quick(1), quick(2)
    path = store.root / run.fingerprint / part
    before = {name: (path.parent / name).read_bytes() for name in FILES}
    DAMAGES[how](path)
    assert str(path) in refused(store.verify, run.fingerprint, kind=Damaged)
    if part != "run.json":  # what was opened before is checked again when it is read
        record = store.open(run.fingerprint)
        refused(record.states if part == "members.safetensors" else record.logits, kind=Damaged)
    code, said = command("runs", "verify", "--store", store.root)
    assert (code, said.count(str(path))) == (1, 1)
    assert "2 runs checked, 1 damaged" in said
    code, said = command("runs", "gc", "--store", store.root)
    assert (code, path.parent.exists()) == (0, True)
    assert "1 folders" in said
    assert part in said
    records, said = quiet(here, store, [run, other])
    assert said.count(str(path)) == 1
    assert "2 runs: 1 in the store, 1 to train" in said
    assert [record.run for record in records] == [run, other]
    for name, content in before.items():
        assert (path.parent / name).read_bytes() == content
    assert command("runs", "verify", "--store", store.root)[0] == 0


def test_what_is_not_of_this_version_of_a_store_is_left_alone(store: RunStore) -> None:
    """A record of another version is not read, trained over or deleted; nor is what somebody else put there."""
    run, path = quick(1), store.root / quick(1).fingerprint / "run.json"
    rewrite(path, format=2)
    for name in ("my notes", "notes-1", "0123456789abcdeg"):
        (store.root / name).mkdir()
        (store.root / name / "text").write_text("mine")
    (store.root / "0123456789abcdef").write_text("a file")
    before = contents(store.root)
    for use in (store.open, store.verify, lambda name: store.find(run), lambda name: store.train(run, "cpu")):
        assert "format 2; this ctrlib reads format 1" in refused(use, run.fingerprint)
    code, said = command("runs", "verify", "--store", store.root)
    assert code == 1
    assert "2 runs checked, 0 damaged, 1 that cannot be used" in said
    assert "0 folders" in command("runs", "gc", "--delete", "--store", store.root)[1]
    assert contents(store.root) == before
    assert store.find(quick(2)) is not None


def test_garbage_is_shown_first_and_deleted_when_told(store: RunStore) -> None:
    """A damaged record, one of another arithmetic, left-overs; not what a training may go on with."""
    store.train(quick(3), "cpu")
    damaged, old, healthy = (quick(seed).fingerprint for seed in (1, 2, 3))
    (store.root / damaged / "predictions.npz").write_bytes(b"broken")
    rewrite(store.root / old / "run.json", numerics=0)
    for name in (".writing-0000", f".training-{healthy}", ".training-1111"):
        (store.root / name).mkdir()
        (store.root / name / "file").write_bytes(b"x" * 1000)

    def found(**options) -> dict[str, str]:
        return {one.name: one.reason for one in garbage(store, **options)}

    reasons = found()
    assert set(reasons) == {damaged, old, ".writing-0000", f".training-{healthy}"}
    assert "predictions.npz" in reasons[damaged]
    assert "arithmetic version 0" in reasons[old]
    assert set(found(unfinished=True)) == {*reasons, ".training-1111"}
    before = contents(store.root)
    shown = command("runs", "gc", "--store", store.root)
    assert contents(store.root) == before
    deleted = command("runs", "gc", "--delete", "--store", store.root)
    assert (shown[0], deleted[0], found()) == (0, 0, {})
    assert "4 folders" in shown[1]
    assert "with --delete" in shown[1]
    assert "4 folders" in deleted[1]
    assert "0.0 MB freed" in deleted[1]
    assert store.fingerprints() == [healthy]
    assert (store.root / ".training-1111").exists()
    assert "0 folders" in command("runs", "gc", "--store", store.root / "nowhere")[1]


def test_garbage_that_another_process_works_on_is_kept(store: RunStore) -> None:
    used = quick(1).fingerprint
    (store.root / used / "predictions.npz").write_bytes(b"broken")
    with store.locked(used) as mine:
        assert mine
        code, said = command("runs", "gc", "--delete", "--store", store.root)
    assert code == 0
    assert "0 folders, 0.0 MB freed; 1 in use or whole again, and kept" in said
    assert [one.deleted for one in garbage(store, delete=True)] == [True]
    assert store.fingerprints() == [quick(2).fingerprint]


# ---- states of unfinished trainings ----------------------------------------------------------------------------------


class Cut(Exception):
    """The moment at which a training is cut off."""


def mutual() -> Run:
    return make_run([member(1, dropout=0.3), member(2)], complete(2), epochs=2, batch_size=165)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory) -> Path:
    """A store with a training that was cut off after an epoch."""

    def cut_now(line: str) -> None:
        raise Cut

    root = tmp_path_factory.mktemp("cut") / NAME
    with pytest.raises(Cut):
        RunStore(root, checkpoint_s=0.0).train(mutual(), "cpu", tell=cut_now)
    return root


@pytest.mark.parametrize("how", DAMAGES)
def test_states_of_trainings(cut_off: Path, tmp_path: Path, how: str) -> None:
    """Said in one line; the training starts from its beginning and ends as ever."""
    root = shutil.copytree(cut_off, tmp_path / "a" / NAME)
    (state,) = root.glob(".training-*/state")
    folder, gone = state.parent, how == "missing"  # then there is no state, and nothing to say
    DAMAGES[how](state)
    code, said = command("runs", "verify", "--store", root)
    assert (code, said.count(str(folder))) == ((0, 0) if gone else (1, 1))
    record, said = quiet(RunStore(root, checkpoint_s=0.0).train, mutual(), "cpu")
    assert said.count("\n") == said.count("damaged checkpoint") == (not gone)
    whole = RunStore(tmp_path / "whole").train(mutual(), "cpu")
    assert [record.read(name) for name in FILES] == [whole.read(name) for name in FILES]
    assert not folder.exists()


# ---- prepared data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory) -> Path:
    """A data folder with two data sets and their raw file."""
    root = tmp_path_factory.mktemp("sets") / NAME
    root.mkdir()
    raw = write_lines(root / "raw.csv", table_lines(200))
    for name in ("one", "two"):
        sources.prepare(name, raw, root)
    return root


@damages("train_ids.npy", "test_ids.npy", "valid_labels.npy", "vocabulary.parquet", "about")
def test_prepared_data(two_sets: Path, tmp_path: Path, part: str, how: str) -> None:
    """Named by verify and when it is loaded; preparing it again mends it; the other data set is used as it is."""
    root = shutil.copytree(two_sets, tmp_path / "a" / NAME)
    good = sources.load("one", 0, root).fingerprint
    path = root / "one" / ("dataset.json" if part == "about" else f"draw-0/{part}")
    DAMAGES[how](path)
    for use in (sources.describe,) if part == "vocabulary.parquet" else (sources.load, sources.describe):
        assert str(path) in refused(use, "one", 0, root)
    if part == "about":
        states = {entry.name: entry.state for entry in sources.catalogue(root)}
        assert (states["one"], states["two"]) == ("damaged", "prepared")
    code, said = command("data", "verify", "--data-dir", root)
    assert (code, said.count(str(path))) == (1, 1)
    assert "2 data sets checked, 1 problems" in said
    assert sources.load("two", 0, root).fingerprint == good
    sources.prepare("one", root / "raw.csv", root)
    assert sources.load("one", 0, root).fingerprint == good
    assert command("data", "verify", "--data-dir", root)[0] == 0


# ---- disks -----------------------------------------------------------------------------------------------------------

PLACES = [
    *(("new store", 0o555), ("store", 0o555), ("store", 0), (f"store/{quick(1).fingerprint}/run.json", 0)),
    *(("sets", 0o555), ("sets/one", 0), ("sets/one/draw-0/train_ids.npy", 0)),
]


def use_there(place: str, mode: int) -> str:
    """Ask for what a store or a data folder holds, or for something new where that may be read; the line of refusal."""
    if place.startswith("sets"):
        if place != "sets":
            return refused(sources.load, "one", 0, Path("sets"))
        assert sources.load("one", 0, Path("sets")).fingerprint == sources.load("two", 0, Path("sets")).fingerprint
        code, said = command("data", "prepare", "three", "--raw", "sets/raw.csv", "--out", "sets", "--layout", "table")
        assert (code, said.count("\n")) == (1, 1)
        return said
    store = RunStore(Path("new store/runs" if place == "new store" else "store"))
    readable = (place, mode) == ("store", 0o555)
    if readable:
        assert [one.run for one in here(store, [quick(2), quick(1)])] == [quick(2), quick(1)]
        assert [command("runs", word, "--store", "store")[0] for word in ("verify", "gc", "list")] == [0, 0, 0]
    return refused(here, store, [quick(3 if readable else 1)])


@pytest.mark.skipif(os.name != "posix", reason="closed folders are a matter of POSIX here")
@pytest.mark.parametrize(("place", "mode"), PLACES)
def test_what_may_not_be_written_or_read_is_said(two_runs: Path, two_sets: Path, tmp_path, place: str, mode) -> None:
    """A folder that forbids writing (what it holds is used), one that forbids reading, or something in it: one line."""
    tmp_path.chmod(0o755)
    shutil.copytree(two_runs, tmp_path / "store", ignore=shutil.ignore_patterns(".locks"))
    shutil.copytree(two_sets, tmp_path / "sets")
    (tmp_path / "new store").mkdir()
    (tmp_path / place).chmod(mode)
    try:
        said = answer_of(as_nobody, tmp_path, use_there, place, mode)
    finally:
        (tmp_path / place).chmod(0o755)
    assert place.split("/")[0] in said
    assert ("CTRLIB_RUNS" in said) == (place in ("store", "new store"))
    assert ("umask 002" in said) == ("CTRLIB_RUNS" in said)


def test_a_full_disk_while_data_are_prepared(two_sets: Path, tmp_path: Path, monkeypatch) -> None:
    """Known before where it can be; else one line. The earlier data set stays, nothing half-made does."""
    root = shutil.copytree(two_sets, tmp_path / "sets")
    before, usage = contents(root), shutil.disk_usage(root)
    words = ("data", "prepare", "one", "--raw", root / "raw.csv", "--out", root)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    code, said = command(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert "are needed on this disk" in said
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", full)  # others fill the disk meanwhile
    code, said = command(*words)
    assert (code, said.count("\n")) == (1, 1)
    assert "no space left on the disk" in said
    assert contents(root) == before
