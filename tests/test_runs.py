"""The run store: whole or not there, checked before use, each run trained once, by real processes too."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import assert_same_member, make_run, member, one_line, rows, same_state

from ctrlib.config import Checkpoint, Run, digest
from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.stats import metrics
from ctrlib.store import executors, progress, runs
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer

PARTS = ("run.json", "members.safetensors", "predictions.npz")


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


def here(store: RunStore, wanted: list[Run]) -> list[runs.Record]:
    """``ensure`` without worker processes."""
    return store.ensure(wanted, device="cpu", workers=1)


# ---- there and back --------------------------------------------------------------------------------------------------


def test_a_record_gives_back_what_was_trained(store) -> None:
    run = make_run([member(1, dropout=0.2, batch_norm=True), member(2, architecture="DCN")], complete(2))
    trained = trainer.train(run, rows(), device="cpu")
    saved = store.save(run, trained, rows(), 1.5, {"torch": "x"})
    for record in (saved, RunStore(store.root).open(run.fingerprint), RunStore(store.root).verify(run.fingerprint)):
        assert record.run == run
        assert (record.fingerprint, record.seconds) == (run.fingerprint, 1.5)
        again = trainer.Trained(
            record.states(),
            record.history,
            record.content["kept_epochs"],
            record.logits("valid"),
            record.logits(),
            trained.products,
        )
        for n in range(2):
            assert_same_member(again, n, trained, n)
        assert record.logits().dtype == np.float32
        p = record.probabilities()
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-trained.test_logits.astype(np.float64))), rtol=1e-15)
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted(PARTS)


def test_a_record_says_what_was_measured(store) -> None:
    record = here(store, [make_run([member(1), member(2)])])[0]
    labels = rows().test.labels
    for test, logits, p in zip(record.content["test"], record.logits(), record.probabilities(), strict=True):
        assert test["auc"] == metrics.auc(labels, logits)
        assert test["logloss"] == pytest.approx(metrics.logloss(labels, p), rel=1e-9)
        assert test["calibration"] == pytest.approx(p.mean() / labels.mean())
    assert record.content["rows"] == {"train": 330, "valid": 200, "test": 150}
    assert {"python", "torch", "numpy", "device", "instructions", "threads", "commit"} <= set(
        record.content["environment"]
    )
    assert record.seconds > 0


def test_find_is_none_for_what_is_not_there(store) -> None:
    run = quick()
    assert store.find(run) is None
    assert not store.root.exists(), "looking makes no folder"
    here(store, [run])
    assert store.find(run).run == run
    assert store.find(quick(2)) is None
    assert store.find(quick(learning_rate=0.02)) is None


def test_nothing_there_is_said(store) -> None:
    with pytest.raises(UserError) as caught:
        store.open("abc")
    assert "no run 'abc'" in one_line(caught)


def test_beginnings_of_fingerprints(store, monkeypatch) -> None:
    record = here(store, [quick()])[0]
    name = record.fingerprint
    assert store.open(name[:5]).fingerprint == name
    (store.root / (name[:5] + "f" * 11)).mkdir()
    assert store.open(name).fingerprint == name, "a whole name is never ambiguous"
    with monkeypatch.context() as patch:
        patch.setattr(store, "fingerprints", lambda: pytest.fail("a whole name needs no look at ten thousand others"))
        assert store.open(name).fingerprint == name
    with pytest.raises(UserError) as caught:
        store.open(name[:5])
    assert f"2 runs begin with {name[:5]!r}" in one_line(caught)
    with pytest.raises(UserError) as caught:
        store.open("zzz")
    assert "no run 'zzz'" in one_line(caught)
    assert not isinstance(caught.value, Damaged)


def test_a_store_on_a_path_with_spaces_and_other_letters(tmp_path) -> None:
    store = RunStore(tmp_path / "my rüns – 実験 'x'")
    run = quick()
    record = here(store, [run])[0]
    assert RunStore(store.root).verify(run.fingerprint).folder == record.folder
    assert RunStore(store.root).find(run) is not None


# ---- damage ----------------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "deleted":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:middle])
    elif how == "longer":
        path.write_bytes(content + b"\n0")
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["cut", "bit flipped", "deleted", "empty", "longer"])
def test_damage_is_named_and_trained_again_with_equal_bytes(store, trainings, capsys, part, how) -> None:
    run = quick()
    folder = here(store, [run])[0].folder
    before = contents(folder)
    damage(folder / part, how)
    fresh = RunStore(store.root)
    with pytest.raises(Damaged) as caught:
        fresh.verify(run.fingerprint)
    assert str(folder / part) in one_line(caught)
    assert fresh.find(run) is None
    capsys.readouterr()
    record = here(RunStore(store.root), [run])[0]
    assert str(folder / part) in capsys.readouterr().out, "ensure says what was damaged"
    assert trainings == [run.fingerprint] * 2
    after = contents(folder)
    assert before.keys() == after.keys()
    for name in PARTS[1:]:
        assert before[name] == after[name]
    assert {k: v for k, v in record.content.items() if k not in ("seconds", "finished", "history")} == {
        k: v
        for k, v in json.loads(before["run.json"]).items()
        if k not in ("seconds", "finished", "history", "checksum")
    }
    RunStore(store.root).verify(run.fingerprint)


def test_damage_after_opening_is_seen_when_the_file_is_read(store) -> None:
    record = here(store, [quick()])[0]
    damage(record.folder / "predictions.npz", "bit flipped")
    damage(record.folder / "members.safetensors", "deleted")
    for read in (record.logits, record.probabilities, record.states):
        with pytest.raises(Damaged) as caught:
            read()
        assert record.folder.name in one_line(caught)


def test_any_flipped_bit_of_the_settings_is_seen(store) -> None:
    """Byte by byte, one bit each: the record is refused, or says exactly the same (a digit beyond precision)."""
    record = here(store, [quick()])[0]
    path = record.folder / "run.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(flipped))
        try:
            assert store.open(record.fingerprint).content == record.content
        except Damaged:
            continue


def rewrite(record: runs.Record, **changes) -> None:
    """Change run.json as a program would, checksum included."""
    content = {**record.content, **changes}
    (record.folder / "run.json").write_text(json.dumps({**content, "checksum": digest(content)}))


def test_another_format_is_refused(store) -> None:
    record = here(store, [quick()])[0]
    rewrite(record, format=2)
    with pytest.raises(UserError) as caught:
        store.open(record.fingerprint)
    assert "format 2; this ctrlib reads format 1" in one_line(caught)
    before = (record.folder / "run.json").read_bytes()
    with pytest.raises(UserError):
        here(RunStore(store.root), [quick()])
    assert (record.folder / "run.json").read_bytes() == before, "a newer ctrlib's work is not overwritten"


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"x"', "{}", '{"format": 1}', '{"format": 1, "checksum": "x"}', "\xff"]
)
def test_json_that_is_no_record_is_refused(store, text) -> None:
    record = here(store, [quick()])[0]
    (record.folder / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(Damaged) as caught:
        store.open(record.fingerprint)
    assert "run.json" in one_line(caught)


def test_a_record_under_another_name_is_refused(store) -> None:
    first, second = here(store, [quick(1), quick(2)])
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
    record, traces = here(store, [quick()])[0], tmp_path / "it ran"
    bomb = np.empty(1, dtype=object)
    bomb[0] = Bomb(traces)
    pickle.loads(pickle.dumps(bomb))
    assert traces.exists(), "the bomb works"
    traces.unlink()
    np.savez(record.folder / "predictions.npz", valid=bomb, test=bomb)
    torch.save({"0|weights.x": Bomb(traces)}, record.folder / "members.safetensors")
    sums = {name: runs.hashlib.sha256((record.folder / name).read_bytes()).hexdigest() for name in PARTS[1:]}
    rewrite(record, files=sums)
    found = RunStore(store.root).verify(record.fingerprint)
    for read in (found.logits, found.states):
        with pytest.raises(Exception, match=r"."):
            read()
    assert not traces.exists()


# ---- each run once ---------------------------------------------------------------------------------------------------


def test_each_distinct_run_is_trained_once(store, trainings, capsys) -> None:
    first, second = quick(1), quick(2)
    records = here(store, [first, second, first, second, first])
    assert trainings == [first.fingerprint, second.fingerprint]
    assert [record.run for record in records] == [first, second, first, second, first]
    assert "2 runs: 0 in the store, 2 to train" in capsys.readouterr().out
    before = contents(store.root)
    for again in (store, RunStore(store.root)):
        assert [record.run for record in here(again, [second, first])] == [second, first]
    assert len(trainings) == 2
    assert contents(store.root) == before
    third = quick(3)
    assert [record.run for record in here(store, [first, third])] == [first, third]
    assert trainings[2:] == [third.fingerprint]


def test_nothing_asked_is_nothing_done(store) -> None:
    assert here(store, []) == []


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
    start = [Checkpoint(run=one.fingerprint, optimizer="keep") for one in (first, second)]
    run = make_run([member(1), member(2)], complete(2), start=start, epochs=1, batch_size=165)
    record = here(store, [run])[0]
    states = [first.states()[0], second.states()[0]]
    expected = trainer.train(run, rows(), states, device="cpu")
    assert all(same_state(a, b) for a, b in zip(record.states(), expected.states, strict=True))
    swapped = run.model_copy(update={"start": tuple(reversed(start))})
    assert not same_state(here(store, [swapped])[0].states()[0], expected.states[0])


def test_a_checkpoint_that_is_not_there_is_said(store) -> None:
    there = here(store, [quick()])[0].fingerprint
    for start, words in ((Checkpoint(run="f" * 16), "f" * 16), (Checkpoint(run=there, member=3), "member")):
        with pytest.raises(UserError) as caught:
            here(store, [quick(2, start=[start])])
        assert words in one_line(caught)
    assert store.fingerprints() == [there]


def test_damaged_checkpoints_are_not_trained_on(store) -> None:
    first = here(store, [quick()])[0]
    damage(first.folder / "members.safetensors", "bit flipped")
    with pytest.raises(Damaged):
        here(RunStore(store.root), [quick(2, start=[Checkpoint(run=first.fingerprint)])])


def test_workers_give_the_same_numbers(store, tmp_path) -> None:
    """Two worker processes against this process; mistakes in workers arrive here as one line."""
    wanted = [quick(1), quick(2), make_run([member(1), member(2, dropout=0.4)], complete(2))]
    try:
        pooled = store.ensure(wanted, device="cpu", workers=2)
        alone = here(RunStore(tmp_path / "alone"), wanted)
        for a, b in zip(pooled, alone, strict=True):
            assert (a.folder / "predictions.npz").read_bytes() == (b.folder / "predictions.npz").read_bytes()
            assert (a.folder / "members.safetensors").read_bytes() == (b.folder / "members.safetensors").read_bytes()
        with pytest.raises(UserError) as caught:
            store.ensure([quick(batch_size=331), quick(batch_size=332)], device="cpu", workers=2)
        assert "2 runs failed" in one_line(caught)
        assert one_line(caught).count("must be at most 330") == 2
        assert executors._pools, "a mistake costs no worker"
    finally:
        executors.stop_pools()
    assert sorted(store.fingerprints()) == sorted(run.fingerprint for run in wanted)


def test_a_killed_worker_is_said_and_the_store_stays_usable(store) -> None:
    """As the system's out-of-memory killer does: SIGKILL to the workers of this process's own pool."""
    pool, _ = executors.worker_pool(2)
    try:
        doomed = [pool.submit(time.sleep, 60) for _ in range(2)]
        while not all(future.running() for future in doomed):
            time.sleep(0.01)
        for process in list(pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(UserError) as caught:
            store.ensure([quick(1), quick(2)], device="cpu", workers=2)
        assert "memory" in one_line(caught)
    finally:
        executors.stop_pools()
    assert [record.run for record in here(store, [quick(1)])] == [quick(1)]


def test_workers_killed_while_idle_do_not_break_every_later_call(store) -> None:
    """The pool is kept between calls (a notebook pauses, the system reclaims memory): it must not stay broken."""
    pool, _ = executors.worker_pool(2)
    try:
        pool.submit(time.sleep, 0).result(60)
        for worker in list(pool._processes.values()):
            os.kill(worker.pid, signal.SIGKILL)
        while not pool._broken:
            time.sleep(0.01)
        with pytest.raises(UserError) as caught:
            store.ensure([quick(1), quick(2)], device="cpu", workers=2)
        assert "memory" in one_line(caught)
        assert not executors._pools, "the next call begins with new workers"
    finally:
        executors.stop_pools()


# ---- other processes -------------------------------------------------------------------------------------------------

# Real processes, forked from a server that has imported everything once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch._dynamo", "ctrlib.training.loop", "ctrlib.store.runs", "safetensors.torch", "pytest"]
)


def process(target, *arguments) -> multiprocessing.Process:
    started = PROCESSES.Process(target=target, args=arguments)
    started.start()
    return started


def wait_for(sign: Path, started: multiprocessing.Process) -> None:
    """Until a process has left its sign."""
    end = time.monotonic() + 90
    while not sign.exists():
        assert time.monotonic() < end, f"no {sign.name!r}"
        assert started.is_alive()
        time.sleep(0.01)


def train_counted(folder: Path, ready, go) -> None:
    """``ensure`` one run when told to; each training leaves a line and takes half a second longer."""
    train = trainer.train

    def counted(run, *rest):
        with (folder / "trained").open("a") as file:
            file.write(run.fingerprint + "\n")
        time.sleep(0.5)
        return train(run, *rest)

    trainer.train = counted
    ready.release()
    go.wait(90)
    found = here(RunStore(folder / "runs"), [quick(1)])
    assert found[0].run == quick(1)


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


def hang_after_an_epoch(folder: Path) -> None:
    def hang(line):
        (folder / "now in training").touch()
        time.sleep(600)

    RunStore(folder / "runs").train(quick(1), "cpu", tell=hang)


def hang_in_a_file(folder: Path) -> None:
    def half(path, content):
        path.write_bytes(content[: len(content) // 2])
        (folder / "now writing").touch()
        time.sleep(600)

    runs.write_synced = half
    RunStore(folder / "runs").train(quick(2), "cpu")


def test_two_processes_at_once_train_a_run_once(tmp_path) -> None:
    ready, go = PROCESSES.Semaphore(0), PROCESSES.Event()
    started = [process(train_counted, tmp_path, ready, go) for _ in range(2)]
    for _ in started:
        assert ready.acquire(timeout=90)
    go.set()
    for one in started:
        one.join(90)
    assert [one.exitcode for one in started] == [0, 0]
    assert (tmp_path / "trained").read_text().split() == [quick(1).fingerprint]
    RunStore(tmp_path / "runs").verify(quick(1).fingerprint)


def test_eight_processes_share_the_work(tmp_path) -> None:
    """Each run is trained once, and nobody waits for one while there are others to train."""
    ready, go = PROCESSES.Semaphore(0), PROCESSES.Event()
    started = [process(train_logged, tmp_path, ready, go) for _ in range(8)]
    for _ in started:
        assert ready.acquire(timeout=90)
    go.set()
    for one in started:
        one.join(90)
    assert [one.exitcode for one in started] == [0] * 8
    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert sorted(name for name, *_ in trained) == sorted(quick(n).fingerprint for n in range(6))
    times = [(float(began), float(ended)) for _, began, ended in trained]
    at_once = max(sum(a <= moment < b for a, b in times) for moment, _ in times)
    assert at_once >= 4


def test_a_killed_process_leaves_no_half_record(tmp_path) -> None:
    """SIGKILL in the middle of a training, and in the middle of writing the record."""
    for target, sign in ((hang_after_an_epoch, "now in training"), (hang_in_a_file, "now writing")):
        started = process(target, tmp_path)
        try:
            wait_for(tmp_path / sign, started)
        finally:
            started.kill()
            started.join(90)
        assert started.exitcode == -signal.SIGKILL
    store = RunStore(tmp_path / "runs")
    assert store.fingerprints() == []
    assert any(store.root.glob(".writing-*")), "the example must stop in the middle of writing"
    records = here(store, [quick(1), quick(2)])
    assert [record.run for record in records] == [quick(1), quick(2)]
    assert not any(store.root.glob(".writing-*"))
    for record in records:
        store.verify(record.fingerprint)


# ---- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_is_said_and_earlier_runs_stay(store, monkeypatch, call) -> None:
    here(store, [quick(1)])
    before = contents(store.root)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError) as caught:
        here(store, [quick(2)])
    message = one_line(caught)
    assert str(store.root) in message
    assert "no space left" in message
    assert contents(store.root) == before
    monkeypatch.undo()
    assert len(here(store, [quick(1), quick(2)])) == 2


def test_a_full_disk_while_a_damaged_record_is_replaced(store, monkeypatch) -> None:
    """What is still whole of the damaged record is not thrown away for nothing."""
    record = here(store, [quick(1)])[0]
    damage(record.folder / "members.safetensors", "deleted")
    before = contents(store.root)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    with pytest.raises(UserError, match="no space left"):
        here(RunStore(store.root), [quick(1)])
    assert contents(store.root) == before


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
@pytest.mark.parametrize("closed", ["new store", "store", "record", "run.json", "predictions.npz"])
def test_what_may_not_be_written_or_read_is_said(tmp_path, closed) -> None:
    """A folder that forbids writing, a store that forbids reading, or something in it: one line with the path."""
    tmp_path.chmod(0o755)
    root = tmp_path / "mine" / "runs"
    root.parent.mkdir(mode=0o755)
    if closed != "new store":
        record = here(RunStore(root), [quick(1)])[0].folder
        place = {"store": root, "record": record}.get(closed, record / closed)
        place.chmod(0)
    else:
        root.parent.chmod(0o555)
    receive, send = PROCESSES.Pipe(duplex=False)
    started = process(ensure_without_rights, tmp_path, str(root.relative_to(tmp_path)), send)
    try:
        assert receive.poll(90)
        answer = receive.recv()
        started.join(90)
    finally:
        if closed == "new store":
            root.parent.chmod(0o755)
        else:
            place.chmod(0o755)
    assert answer.startswith(("UserError: ", "StoreError: ", "Damaged: "))
    assert "\n" not in answer
    assert str(Path("mine", "runs")) in answer
    if closed == "new store":
        assert "CTRLIB_RUNS" in answer
        assert not root.exists()
    else:
        RunStore(root).verify(quick(1).fingerprint)


@pytest.mark.parametrize("at", ["store", "parent"])
def test_a_file_where_the_store_should_be_is_said(tmp_path, at) -> None:
    (tmp_path / "thing").write_text("mine")
    root = tmp_path / "thing" if at == "store" else tmp_path / "thing" / "runs"
    with pytest.raises(UserError) as caught:
        here(RunStore(root), [quick()])
    assert str(root) in one_line(caught)
    assert (tmp_path / "thing").read_text() == "mine"


def test_a_mistake_leaves_no_record(store) -> None:
    with pytest.raises(UserError):
        here(store, [quick(batch_size=331)])
    with pytest.raises(UserError):
        store.ensure([quick()], device="tpu")
    assert contents(store.root) == {}


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_progress_says_what_is_done(store, capsys) -> None:
    here(store, [quick(1), make_run([member(1), member(2)], complete(2))])
    out = capsys.readouterr().out
    assert "[1/2] DeepFM solo from scratch, draw 0: AUC 0." in out
    assert "to go" in out
    assert "[2/2] 2 DeepFM mutual mse live from scratch, draw 0: AUC 0." in out


def test_a_long_training_gives_signs_of_life(store, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_S", -1.0)
    here(store, [quick(epochs=3)])
    out = capsys.readouterr().out
    assert "[0/1] ... DeepFM solo from scratch, draw 0: epoch 2 of at most 3, validation AUC 0." in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has tf32")
def test_a_precision_that_is_not_here_is_refused_only_where_something_has_to_be_trained(tmp_path) -> None:
    there, other = make_run(epochs=1), make_run([member(2)], epochs=1)
    store = RunStore(tmp_path)
    store.ensure([there])
    record = tmp_path / there.fingerprint / "run.json"
    content = json.loads(record.read_text())
    content.pop("checksum")
    content["run"]["recipe"]["precision"] = "tf32"  # as if a GPU had trained it
    trained = Run.model_validate(content["run"])
    content["fingerprint"] = trained.fingerprint
    record.write_text(json.dumps({**content, "checksum": digest(content)}))
    record.parent.rename(tmp_path / trained.fingerprint)
    assert [one.fingerprint for one in store.ensure([trained])] == [trained.fingerprint]
    recipe = other.recipe.model_copy(update={"precision": "tf32"})
    with pytest.raises(UserError) as caught:
        store.ensure([trained, other.model_copy(update={"recipe": recipe})])
    assert "needs a GPU" in one_line(caught)
    assert len(store.fingerprints()) == 1
