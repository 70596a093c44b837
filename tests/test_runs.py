"""The run store: whole or not there, checked before use, each run trained once, by real processes too."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import PROCESSES, start, until
from raw_files import contents
from small import assert_same_member, make_run, member, refused, rows, same_state
from stores import here, quick, rewrite

from ctrlib.config import Checkpoint, Run
from ctrlib.coupling import complete
from ctrlib.stats import metrics
from ctrlib.store import executors, progress
from ctrlib.store.ensure import ensure_all
from ctrlib.store.record import FILES, Damaged, write_record
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def trainings(monkeypatch) -> list[str]:
    """Fingerprints of all trainings in this process, in their order."""
    done: list[str] = []
    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda run, *rest: done.append(run.fingerprint) or train(run, *rest))
    return done


# ---- there and back --------------------------------------------------------------------------------------------------


def test_a_record_gives_back_what_was_trained_and_what_was_measured(store) -> None:
    run = make_run([member(1, dropout=0.2, batch_norm=True), member(2, architecture="DCN")], complete(2))
    trained = trainer.train(run, rows(), device="cpu")
    saved = write_record(store.root, run, trained, rows(), {"torch": "x"})
    labels = rows().test.labels
    for one in (saved, store.open(run.fingerprint), RunStore(store.root).verify(run.fingerprint)):
        assert (one.run, one.fingerprint, one.seconds) == (run, run.fingerprint, trained.seconds)
        assert one.content["rows"] == {"train": 330, "valid": 200, "test": 150}
        kept = one.content["kept_epochs"]
        logits = one.logits("valid"), one.logits()
        again = trainer.Trained(one.states(), one.history, kept, *logits, trained.products)
        for n in range(2):
            assert_same_member(again, n, trained, n)
        for test, of_one, p in zip(one.content["test"], logits[1], one.probabilities(), strict=True):
            assert of_one.dtype == np.float32
            assert p == pytest.approx(1 / (1 + np.exp(-of_one.astype(np.float64))), rel=1e-15)
            assert test["auc"] == metrics.auc(labels, of_one)
            assert test["logloss"] == pytest.approx(metrics.logloss(labels, p), rel=1e-9)
            assert test["calibration"] == pytest.approx(p.mean() / labels.mean())
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted(["run.json", *FILES])


def test_what_is_there_is_found_by_its_settings_or_a_beginning_of_its_name(store) -> None:
    assert store.find(quick()) is None
    assert not store.root.exists(), "looking makes no folder"
    record = here(store, [quick()])[0]
    name, environment = record.fingerprint, record.content["environment"]
    assert {"python", "torch", "numpy", "device", "instructions", "threads", "commit"} <= set(environment)
    assert store.find(quick()).run == quick()
    assert store.find(quick(2)) is store.find(quick(learning_rate=0.02)) is None
    assert store.open(name[:5]).fingerprint == name
    (store.root / (name[:5] + "f" * 11)).mkdir()
    assert store.open(name).fingerprint == name
    assert f"2 runs begin with {name[:5]!r}" in refused(store.open, name[:5])
    assert "no run 'zzz'" in refused(store.open, "zzz")


# ---- what is no record (damaged files: test_damage) ------------------------------------------------------------------


def test_the_record_of_another_run_under_this_name_is_refused(store) -> None:
    first, second = here(store, [quick(1), quick(2)])
    shutil.rmtree(second.folder)
    shutil.copytree(first.folder, second.folder)
    refused(store.open, second.fingerprint, kind=Damaged)
    assert RunStore(store.root).find(quick(2)) is None


# ---- each run once ---------------------------------------------------------------------------------------------------


def test_each_distinct_run_is_trained_once(store, trainings, capsys) -> None:
    first, second, third = quick(1), quick(2), quick(3)
    assert here(store, []) == []
    records = here(store, [first, second, first, second, first])
    assert trainings == [first.fingerprint, second.fingerprint]
    assert [one.run for one in records] == [first, second, first, second, first]
    assert "2 runs: 0 in the store, 2 to train" in capsys.readouterr().out
    before = contents(store.root)
    for again in (store, RunStore(store.root)):
        assert [one.run for one in here(again, [second, first])] == [second, first]
    assert len(trainings) == 2
    assert contents(store.root) == before
    assert [one.run for one in here(store, [first, third])] == [first, third]
    assert trainings[2:] == [third.fingerprint]


def test_threads_of_the_caller_are_put_back(store) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        here(store, [quick()])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_checkpoints_come_from_the_store(store) -> None:
    first, second = here(store, [quick(1), quick(2)])
    started = [Checkpoint(run=one.fingerprint, optimizer="keep") for one in (first, second)]
    run = make_run([member(1), member(2)], complete(2), start=started, epochs=1, batch_size=165)
    found = here(store, [run])[0]
    expected = trainer.train(run, rows(), [first.states()[0], second.states()[0]], device="cpu")
    assert all(same_state(a, b) for a, b in zip(found.states(), expected.states, strict=True))
    swapped = run.model_copy(update={"start": tuple(reversed(started))})
    assert not same_state(here(store, [swapped])[0].states()[0], expected.states[0])


def test_what_cannot_be_trained_is_said_and_leaves_no_record(store) -> None:
    """No such run, no such member, one whose weights are damaged, impossible settings, no such device."""
    (there,) = here(store, [quick()])
    starts = [Checkpoint(run="f" * 16), Checkpoint(run=there.fingerprint, member=3), Checkpoint(run=there.fingerprint)]
    for start_, words in zip(starts, ("f" * 16, "has no member 3", "members.safetensors"), strict=True):
        if start_ is starts[2]:
            os.truncate(there.folder / "members.safetensors", 300)
        assert words in refused(here, RunStore(store.root), [quick(2, start=[start_])])
    assert "must be at most 330" in refused(here, store, [quick(batch_size=331)])
    assert "tpu" in refused(store.ensure, [quick(2)], "tpu")
    (store.root / "file").write_text("mine")
    for root in (store.root / "file", store.root / "file" / "runs"):
        assert str(root) in refused(here, RunStore(root), [quick()])
    assert (store.root / "file").read_text() == "mine"
    assert store.fingerprints() == [there.fingerprint]


# ---- other processes -------------------------------------------------------------------------------------------------


def test_workers_give_the_same_numbers_and_one_that_is_killed_is_said(store, tmp_path) -> None:
    """Two worker processes against this one; mistakes arrive as one line and cost no worker; then SIGKILL to one
    before the next call, as for want of memory: one line, and the call after it begins with new workers."""
    wanted = [quick(1), quick(2), make_run([member(1), member(2, dropout=0.4)], complete(2))]
    try:
        pooled = store.ensure(wanted, device="cpu", workers=2)
        for a, b in zip(pooled, here(RunStore(tmp_path / "alone"), wanted), strict=True):
            assert [a.read(name) for name in FILES] == [b.read(name) for name in FILES]
        mistakes = refused(store.ensure, [quick(batch_size=331), quick(batch_size=332)], "cpu", 2)
        assert "2 runs failed" in mistakes
        assert mistakes.count("must be at most 330") == 2
        kept = executors.Pool(2).executor
        assert kept.submit(signal.raise_signal, signal.SIGKILL).exception(60)  # only now is it known to be broken
        said = refused(store.ensure, [quick(3), quick(4)], "cpu", 2)
        assert "a worker process was killed, perhaps for want of memory" in said
        assert executors.Pool(2).executor is not kept
    finally:
        executors.stop_pools()


def train_logged(folder: Path, go) -> None:
    """``ensure`` six runs when told to; each training leaves its beginning and its end, and takes a second longer."""
    train = trainer.train

    def logged(run, *rest):
        began = time.time()
        time.sleep(1)
        trained = train(run, *rest)
        with (folder / "trained").open("a") as file:
            file.write(f"{run.fingerprint} {began} {time.time()}\n")
        return trained

    trainer.train = logged
    go.wait(90)
    assert len(here(RunStore(folder / "runs"), [quick(n) for n in range(6)])) == 6


def test_processes_share_the_work(tmp_path) -> None:
    """Eight at once: each run is trained once, and nobody waits for one while there are others to train."""
    go = PROCESSES.Barrier(8)
    started = [start(train_logged, tmp_path, go) for _ in range(8)]
    for one in started:
        one.join(90)
    assert [one.exitcode for one in started] == [0] * 8
    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert sorted(name for name, *_ in trained) == sorted(quick(n).fingerprint for n in range(6))
    times = [(float(began), float(ended)) for _, began, ended in trained]
    assert max(sum(a <= moment < b for a, b in times) for moment, _ in times) >= 4


def keep_lock(root: Path) -> None:
    with RunStore(root).locked(quick().fingerprint):
        (root / "held").touch()
        time.sleep(90)


def test_a_run_that_another_process_trains_is_left_to_it_until_that_ends(store, monkeypatch) -> None:
    """Others come first; then a line says that there is waiting; the lock of a process that is killed is free."""
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)
    other, lines = start(keep_lock, store.root), []
    until((store.root / "held").exists, "lock")
    assert store.train_unless_busy(quick(), "cpu") is None

    def show(line: str) -> None:
        lines.append(line)
        if "waiting for 1 runs that other processes train" in line:
            assert any(line.startswith("[1/2]") for line in lines), "the other one first"
            other.kill()

    records, failed = ensure_all(store, [quick(), quick(2)], "cpu", 1, show=show)
    assert not failed
    assert set(records) == {quick().fingerprint, quick(2).fingerprint}
    other.join(90)
    assert other.exitcode == -signal.SIGKILL


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_is_lost(store, monkeypatch) -> None:
    """Neither earlier runs, nor what is still whole of a damaged one that is to be replaced."""
    folder = here(store, [quick(1)])[0].folder
    (folder / "members.safetensors").unlink()
    before = contents(store.root)
    for call, code in (("fsync", 122), ("rename", 28)):  # EDQUOT, ENOSPC

        def full(*_, code=code, **__) -> None:
            raise OSError(code, "full")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            assert f"{store.root}: no space left" in refused(here, RunStore(store.root), [quick(2), quick(1)])
        assert contents(store.root) == before
    assert len(here(RunStore(store.root), [quick(1), quick(2)])) == 2


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_progress_says_what_is_done_and_gives_signs_of_life(store, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)
    here(store, [quick(1, epochs=3), make_run([member(1), member(2)], complete(2))])
    out = capsys.readouterr().out
    assert "[0/2] ... DeepFM alone from scratch, draw 0: epoch 2 of at most 3, validation AUC 0." in out
    assert "[1/2] DeepFM alone from scratch, draw 0: AUC 0." in out
    assert "to go" in out
    assert "[2/2] 2 DeepFM mutual mse live from scratch, draw 0: AUC 0." in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has tf32")
def test_a_precision_that_is_not_here_is_refused_only_where_something_has_to_be_trained(store) -> None:
    folder = here(store, [quick()])[0].folder
    settings = json.loads((folder / "run.json").read_bytes())["run"]
    settings["recipe"]["precision"] = "tf32"  # as if a GPU had trained it
    trained = Run.model_validate(settings)
    rewrite(folder / "run.json", run=settings, fingerprint=trained.fingerprint)
    folder.rename(store.root / trained.fingerprint)
    assert [one.fingerprint for one in store.ensure([trained])] == [trained.fingerprint]
    assert "needs a GPU" in refused(store.ensure, [trained, quick(2, precision="tf32")])
    assert len(store.fingerprints()) == 1
