"""``ctrlib runs gc``: shows first, deletes when told, never what somebody needs."""

import json
from pathlib import Path

import pytest
from small import make_run, member
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import digest
from ctrlib.store.gc import find_garbage
from ctrlib.store.runs import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Three finished runs, one of them damaged, one of another arithmetic; three left-overs."""
    found = RunStore(tmp_path / "a store")
    records = [found.train(make_run([member(n)]), "cpu") for n in (1, 2, 3)]
    (records[1].folder / "predictions.npz").write_bytes(b"broken")
    content = json.loads((records[2].folder / "run.json").read_text())
    del content["checksum"]
    content["numerics"] = 0
    (records[2].folder / "run.json").write_text(json.dumps({**content, "checksum": digest(content)}))
    for name in (".writing-0000", f".training-{records[0].fingerprint}", ".training-1111"):
        (found.root / name).mkdir()
        (found.root / name / "file").write_bytes(b"x" * 1000)
    return RunStore(found.root)


def reasons(store: RunStore, **options) -> dict[str, str]:
    return {one.folder.name: one.reason for one in find_garbage(store, **options)}


def test_what_nobody_will_ask_for_is_found(store: RunStore) -> None:
    healthy, damaged, old = (make_run([member(n)]).fingerprint for n in (1, 2, 3))
    found = reasons(store)
    assert set(found) == {damaged, old, ".writing-0000", f".training-{healthy}"}
    assert "predictions.npz" in found[damaged]
    assert "arithmetic version 0" in found[old]
    assert set(reasons(store, unfinished=True)) == {*found, ".training-1111"}


def test_what_a_living_process_works_on_is_left_alone(store: RunStore) -> None:
    lock = store.lock("0000")
    assert lock.acquire()
    with lock:
        assert ".writing-0000" not in reasons(store)
    assert ".writing-0000" in reasons(store)


def test_the_command_shows_first_and_deletes_when_told(store: RunStore) -> None:
    before = sorted(store.root.rglob("*"))
    shown = CliRunner().invoke(app, ["runs", "gc", "--store", str(store.root)])
    assert shown.exit_code == 0
    assert "4 folders" in shown.output
    assert "with --delete" in shown.output
    assert sorted(store.root.rglob("*")) == before
    deleted = CliRunner().invoke(app, ["runs", "gc", "--delete", "--store", str(store.root)])
    assert "4 folders" in deleted.output
    assert find_garbage(store) == []
    assert store.fingerprints() == [make_run([member(1)]).fingerprint]
    assert (store.root / ".training-1111").exists()
    nothing = CliRunner().invoke(app, ["runs", "gc", "--store", str(store.root / "nowhere")])
    assert "0 folders" in nothing.output
