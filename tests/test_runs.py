"""The run store: whole or not there, checked before use, each run trained once, by real processes too."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from processes import PROCESSES, start, until
from small import assert_same_member, make_run, member, one_line, rows, same_state

from ctrlib.config import Checkpoint, Run, digest
from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.stats import metrics
from ctrlib.store import executors, progress, record
from ctrlib.store.record import FILES, Damaged, Record, write_record
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer


def quick(seed: int = 1, **settings) -> Run:
    """A run of one epoch."""
    return make_run([member(seed)], **{"epochs": 1, "batch_size": 165, **settings})


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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def here(store: RunStore, wanted: list[Run]) -> list[Record]:
    """``ensure`` without worker processes."""
    return store.ensure(wanted, device="cpu", workers=1)


def flip(path: Path, place: int | None = None, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= bit
    path.write_bytes(content)


def rewrite(folder: Path, **changes) -> None:
    """Change run.json as a program would, checksum included."""
    content = {**json.loads((folder / "run.json").read_bytes()), **changes}
    del content["checksum"]
    (folder / "run.json").write_text(json.dumps({**content, "checksum": digest(content)}))


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


def test_what_is_not_there_is_not_found_and_looking_makes_no_folder(store) -> None:
    assert store.find(quick()) is None
    assert not store.root.exists()
    environment = here(store, [quick()])[0].content["environment"]
    assert {"python", "torch", "numpy", "device", "instructions", "threads", "commit"} <= set(environment)
    assert store.find(quick()).run == quick()
    assert store.find(quick(2)) is store.find(quick(learning_rate=0.02)) is None


def test_beginnings_of_fingerprints(store, monkeypatch) -> None:
    name = here(store, [quick()])[0].fingerprint
    assert store.open(name[:5]).fingerprint == name
    (store.root / (name[:5] + "f" * 11)).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(store, "fingerprints", lambda: pytest.fail("a whole name needs no look at ten thousand others"))
        assert store.open(name).fingerprint == name
    for beginning, words in ((name[:5], f"2 runs begin with {name[:5]!r}"), ("zzz", "no run 'zzz'")):
        with pytest.raises(UserError) as caught:
            store.open(beginning)
        assert words in one_line(caught)
        assert not isinstance(caught.value, Damaged)


# ---- what is no record (damaged files: test_damage) ------------------------------------------------------------------


def test_any_flipped_bit_of_the_settings_is_seen(store) -> None:
    """Here and there in the file: the record is refused, or says exactly the same (a digit beyond precision)."""
    found = here(store, [quick()])[0]
    path = found.folder / "run.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 17):
        path.write_bytes(whole)
        flip(path, place, 1 << int(rng.integers(8)))
        try:
            assert store.open(found.fingerprint).content == found.content
        except Damaged:
            continue


def test_what_is_no_record_of_this_run_is_refused(store) -> None:
    """Other JSON, no JSON, and the whole record of another run under this name."""
    first, second = here(store, [quick(1), quick(2)])
    for text in ("[]", "null", '"x"', "{}", '{"format": 1}', '{"format": 1, "checksum": "x"}', "\xff"):
        (second.folder / "run.json").write_text(text, encoding="latin-1")
        with pytest.raises(Damaged) as caught:
            store.open(second.fingerprint)
        assert "run.json" in one_line(caught)
    shutil.rmtree(second.folder)
    shutil.copytree(first.folder, second.folder)
    with pytest.raises(Damaged):
        store.open(second.fingerprint)
    assert RunStore(store.root).find(quick(2)) is None


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_nothing_that_could_run_code_is_ever_loaded(store, tmp_path) -> None:
    """Pickles in place of predictions and weights, with right checksums, by someone who can write to the store."""
    folder, traces = here(store, [quick()])[0].folder, tmp_path / "it ran"
    bomb = np.empty(1, dtype=object)
    bomb[0] = Bomb(traces)
    pickle.loads(pickle.dumps(bomb))
    assert traces.exists(), "the bomb works"
    traces.unlink()
    np.savez(folder / "predictions.npz", valid=bomb, test=bomb)
    torch.save({"0|weights.x": Bomb(traces)}, folder / "members.safetensors")
    rewrite(folder, files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES})
    found = RunStore(store.root).verify(folder.name)
    for read in (found.logits, found.states):
        with pytest.raises(Damaged):
            read()
    assert not traces.exists()


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


def test_checkpoints_that_cannot_be_used_are_said(store) -> None:
    """No such run, no such member, and one whose weights are damaged."""
    there = here(store, [quick()])[0]
    missing = [(Checkpoint(run="f" * 16), "f" * 16), (Checkpoint(run=there.fingerprint, member=3), "has no member 3")]
    for checkpoint, words in missing:
        with pytest.raises(UserError) as caught:
            here(store, [quick(2, start=[checkpoint])])
        assert words in one_line(caught)
    flip(there.folder / "members.safetensors")
    with pytest.raises(Damaged):
        here(RunStore(store.root), [quick(2, start=[Checkpoint(run=there.fingerprint)])])
    assert store.fingerprints() == [there.fingerprint]


def test_a_mistake_leaves_no_record(store) -> None:
    with pytest.raises(UserError):
        here(store, [quick(batch_size=331)])
    with pytest.raises(UserError):
        store.ensure([quick()], device="tpu")
    assert contents(store.root) == {}


# ---- other processes -------------------------------------------------------------------------------------------------


def test_workers_give_the_same_numbers_and_one_that_is_killed_is_said(store, tmp_path) -> None:
    """Two worker processes against this one; mistakes arrive as one line and cost no worker; then SIGKILL to one while
    it is idle, as for want of memory: one line, and the next call begins with new workers."""
    wanted = [quick(1), quick(2), make_run([member(1), member(2, dropout=0.4)], complete(2))]
    try:
        pooled = store.ensure(wanted, device="cpu", workers=2)
        for a, b in zip(pooled, here(RunStore(tmp_path / "alone"), wanted), strict=True):
            for name in FILES:
                assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()
        with pytest.raises(UserError) as caught:
            store.ensure([quick(batch_size=331), quick(batch_size=332)], device="cpu", workers=2)
        assert "2 runs failed" in one_line(caught)
        assert one_line(caught).count("must be at most 330") == 2
        kept = executors.Pool(2).executor
        worker = psutil.Process(kept.submit(os.getpid).result(60))
        worker.kill()
        until(lambda: not worker.is_running() or worker.status() == "zombie", "end")
        with pytest.raises(UserError) as caught:
            store.ensure([quick(3), quick(4)], device="cpu", workers=2)
        assert "a worker process was killed, perhaps for want of memory" in one_line(caught)
        assert executors.Pool(2).executor is not kept
    finally:
        executors.stop_pools()


def train_logged(folder: Path, ready, go) -> None:
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
    ready.release()
    go.wait(90)
    assert len(here(RunStore(folder / "runs"), [quick(n) for n in range(6)])) == 6


def test_processes_share_the_work(tmp_path) -> None:
    """Eight at once: each run is trained once, and nobody waits for one while there are others to train."""
    ready, go = PROCESSES.Semaphore(0), PROCESSES.Event()
    started = [start(train_logged, tmp_path, ready, go) for _ in range(8)]
    for _ in started:
        assert ready.acquire(timeout=90)
    go.set()
    for one in started:
        one.join(90)
    assert [one.exitcode for one in started] == [0] * 8
    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert sorted(name for name, *_ in trained) == sorted(quick(n).fingerprint for n in range(6))
    times = [(float(began), float(ended)) for _, began, ended in trained]
    assert max(sum(a <= moment < b for a, b in times) for moment, _ in times) >= 4


def hang_in_a_file(folder: Path) -> None:
    def half(path, content):
        path.write_bytes(content[: len(content) // 2])
        (folder / "now writing").touch()
        time.sleep(600)

    record.write_synced = half
    RunStore(folder / "runs").train(quick(1), "cpu")


def test_a_process_killed_while_it_writes_leaves_no_half_record(tmp_path) -> None:
    """SIGKILL in the middle of a file. (At any other moment: test_resume.)"""
    started = start(hang_in_a_file, tmp_path)
    until((tmp_path / "now writing").exists, "file")
    os.kill(started.pid, signal.SIGKILL)
    started.join(90)
    store = RunStore(tmp_path / "runs")
    assert store.fingerprints() == []
    assert any(store.root.glob(".writing-*"))
    (found,) = here(store, [quick(1)])
    assert not any(store.root.glob(".writing-*"))
    store.verify(found.fingerprint)


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_is_lost(store, monkeypatch) -> None:
    """Neither earlier runs, nor what is still whole of a damaged one that is to be replaced."""
    folder = here(store, [quick(1)])[0].folder
    (folder / "members.safetensors").unlink()
    before = contents(store.root)
    for call, code in (("fsync", 122), ("rename", 28)):  # EDQUOT, ENOSPC
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_, code=code, **__: (_ for _ in ()).throw(OSError(code, "full")))
            with pytest.raises(UserError) as caught:
                here(RunStore(store.root), [quick(2), quick(1)])
        assert f"{store.root}: no space left" in one_line(caught)
        assert contents(store.root) == before
    assert len(here(RunStore(store.root), [quick(1), quick(2)])) == 2


def ensure_without_rights(folder: Path, root: str, answer) -> None:
    """``ensure`` as a user without root's rights; paths are relative, as the folders above may be closed too."""
    os.chdir(folder)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        here(RunStore(Path(root)), [quick(1)])
        answer.send("no error")
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")


@pytest.mark.skipif(os.name != "posix", reason="closed folders are a matter of POSIX here")
@pytest.mark.parametrize("closed", ["new store", "store", "run.json"])
def test_what_may_not_be_written_or_read_is_said(tmp_path, closed) -> None:
    """A folder that forbids writing, a store that forbids reading, or something in it: one line with the path."""
    tmp_path.chmod(0o755)
    root = tmp_path / "mine" / "runs"
    root.parent.mkdir(mode=0o755)
    place, mode = root.parent, 0o555
    if closed != "new store":
        folder = here(RunStore(root), [quick(1)])[0].folder
        place, mode = {"store": root}.get(closed, folder / closed), 0
    place.chmod(mode)
    receive, send = PROCESSES.Pipe(duplex=False)
    try:
        started = start(ensure_without_rights, tmp_path, str(root.relative_to(tmp_path)), send)
        assert receive.poll(90)
        answer = receive.recv()
        started.join(90)
    finally:
        place.chmod(0o755)
    assert answer.startswith(("UserError: ", "StoreError: ", "Damaged: "))
    assert "\n" not in answer
    assert str(Path("mine", "runs")) in answer
    assert ("CTRLIB_RUNS" in answer) == (closed != "run.json")


def test_a_file_where_the_store_should_be_is_said(tmp_path) -> None:
    (tmp_path / "thing").write_text("mine")
    for root in (tmp_path / "thing", tmp_path / "thing" / "runs"):
        with pytest.raises(UserError) as caught:
            here(RunStore(root), [quick()])
        assert str(root) in one_line(caught)
    assert (tmp_path / "thing").read_text() == "mine"


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_progress_says_what_is_done_and_gives_signs_of_life(store, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)
    here(store, [quick(1, epochs=3), make_run([member(1), member(2)], complete(2))])
    out = capsys.readouterr().out
    assert "[0/2] ... DeepFM solo from scratch, draw 0: epoch 2 of at most 3, validation AUC 0." in out
    assert "[1/2] DeepFM solo from scratch, draw 0: AUC 0." in out
    assert "to go" in out
    assert "[2/2] 2 DeepFM mutual mse live from scratch, draw 0: AUC 0." in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has tf32")
def test_a_precision_that_is_not_here_is_refused_only_where_something_has_to_be_trained(store) -> None:
    folder = here(store, [quick()])[0].folder
    settings = json.loads((folder / "run.json").read_bytes())["run"]
    settings["recipe"]["precision"] = "tf32"  # as if a GPU had trained it
    trained = Run.model_validate(settings)
    rewrite(folder, run=settings, fingerprint=trained.fingerprint)
    folder.rename(store.root / trained.fingerprint)
    assert [one.fingerprint for one in store.ensure([trained])] == [trained.fingerprint]
    with pytest.raises(UserError) as caught:
        store.ensure([trained, quick(2, precision="tf32")])
    assert "needs a GPU" in one_line(caught)
    assert len(store.fingerprints()) == 1
