"""Locks of runs: one owner, a dead one has one heir, here and on other machines, by real processes."""

import json
import os
import random
import time
from itertools import count
from pathlib import Path

import pytest
from processes import is_alive, on_machine, start, until
from stores import here, quick

from ctrlib.store import locks
from ctrlib.store.gc import find_garbage
from ctrlib.store.locks import RunLock
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer

HEARTBEAT_S = 0.1  # dead after 0.6 s


@pytest.fixture
def heartbeat(monkeypatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_S", HEARTBEAT_S)


def write_owner(folder: Path, name: str = "run", **changes) -> Path:
    """The file that an owner on another machine has left."""
    about = {"token": "0123456789abcdef", "machine": "far/away", "process": 4711}
    path = folder / f"{name}.owner"
    path.write_text(json.dumps({**about, **changes}))
    return path


def test_one_has_it_and_frees_it(tmp_path) -> None:
    first, second = RunLock(tmp_path, "run"), RunLock(tmp_path, "run")
    assert first.is_held() is False
    assert first.acquire()
    with first:
        assert not second.acquire()
        assert second.is_held() is True
        assert str(second.owner()) == f"process {os.getpid()} on {os.uname().nodename}"
        assert not first.is_lost()
        assert RunLock(tmp_path, "another").is_held() is False
    assert list(tmp_path.iterdir()) == []
    assert second.owner() is None
    assert second.acquire()
    with second:
        assert not first.acquire()


def hammer(folder: Path, number: int, end: float) -> None:
    """Take the lock again and again; inside, a file that must not be there yet is made and removed."""
    locks.HEARTBEAT_S = HEARTBEAT_S
    if number % 2:
        on_machine(f"machine {number}")
    draws, longer = random.Random(number), number in (1, 2)
    while time.time() < end:
        lock = RunLock(folder / "locks", "run")
        if lock.acquire():
            with lock:
                inside = folder / f"inside {os.getpid()}"
                inside.touch()
                others = [path for path in folder.glob("inside *") if path != inside and is_there(path)]
                with (folder / "sections").open("a") as file:
                    file.write(f"{len(others)}\n")
                time.sleep(2 * locks.stale_s() if longer else draws.random() / 50)  # its heart beats
                longer = False
                inside.unlink()
        time.sleep(draws.random() / 100)


def is_there(sign: Path) -> bool:
    """Whether the process that left a sign is inside, and not dead."""
    return is_alive(int(sign.name.split()[1])) and sign.exists()


def test_eight_processes_and_random_kills(tmp_path) -> None:
    """SIGKILL, now and then to an owner; half of them are as if on other machines, where a heartbeat is missed."""
    (tmp_path / "locks").mkdir()
    start(int).join(90)  # the server that forks the others takes its time to begin
    draws, end, numbers = random.Random(0), time.time() + 5.5, count(1)

    def another():
        return start(hammer, tmp_path, next(numbers), end)

    started = [another() for _ in range(8)]
    while time.time() < end - 1.5:
        time.sleep(draws.random() / 5)
        victim = draws.randrange(2, 8)
        started[victim].kill()
        started[victim].join()
        started[victim] = another()
    for one in started:
        one.join(90)
    sections = (tmp_path / "sections").read_text().split()
    assert len(sections) > 20
    assert set(sections) == {"0"}, "never two at once"


STRAY = [  # files that no owner wrote
    *(b"", b"\0" * 5000, b"\xff\xfe", b"null", b"[" * 900, b'{"token": {"a": 1}, "machine": null, "process": null}'),
    *(b'{"token": "../../x", "machine": "m", "process": 1}', b'{"token": "0123456789abcdef", "process": 1e999}'),
]


def test_a_missing_heartbeat_is_noticed_by_the_observers_own_clock(tmp_path, heartbeat) -> None:
    """The file of a machine whose clock is years ahead, and any other: only that it stands still counts."""
    folder = tmp_path / "locks"
    folder.mkdir()
    for n, text in enumerate(STRAY):
        (folder / f"{n}.owner").write_bytes(text)
    path = write_owner(folder)
    os.utime(path, (4e9, 4e9))
    lock, *others = (RunLock(folder, name) for name in ("run", *map(str, range(len(STRAY)))))
    for one in (lock, *others):
        assert not one.acquire()
        assert "\n" not in str(one.owner())
    assert lock.is_held() is None
    assert "process 4711 on far" in str(lock.owner())
    path.write_text(path.read_text() + " ")
    began = time.monotonic()
    until(lock.acquire, "heir")
    with lock:
        assert time.monotonic() - began >= locks.stale_s() - HEARTBEAT_S
        assert lock.owner().machine == locks.this_machine()
        assert not RunLock(folder, "run").acquire()
    for one in others:
        until(one.acquire, "heir")
        with one:
            assert not one.is_lost()
    assert [*folder.iterdir(), *tmp_path.iterdir()] == [folder]


def test_a_process_of_this_machine_that_is_gone_is_known_to_be_dead(tmp_path, heartbeat) -> None:
    """At once; unless its number now belongs to somebody else, whose heartbeat is not seen."""
    ended = start(int)
    ended.join(90)
    for number, wait in ((ended.pid, False), (os.getpid(), True)):
        write_owner(tmp_path, machine=locks.this_machine(), process=number)
        lock = RunLock(tmp_path, "run")
        assert lock.is_held() == wait
        assert lock.acquire() != wait
        if wait:
            until(lock.acquire, "heir")
        with lock:
            assert lock.is_held()
    assert list(tmp_path.iterdir()) == []


def test_an_heir_gives_way_when_the_lock_was_freed_meanwhile(tmp_path, monkeypatch) -> None:
    """Two found the owner dead; one took over, did the work and freed the lock; a third began. The second is late."""
    monkeypatch.setattr(locks, "stale_s", lambda: 0.0)
    write_owner(tmp_path)
    late, third = RunLock(tmp_path, "run"), RunLock(tmp_path, "run")
    owner = RunLock.owner

    def slow(lock: RunLock):
        found = owner(lock)
        monkeypatch.setattr(RunLock, "owner", owner)
        (tmp_path / "run.owner").unlink()  # the first heir is through
        assert third.acquire()
        return found

    monkeypatch.setattr(RunLock, "owner", slow)
    assert not late.acquire()
    assert not third.is_lost()
    with third:
        assert [path.name for path in tmp_path.iterdir()] == ["run.owner"]
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_slept_too_long_gives_way(tmp_path, monkeypatch) -> None:
    """Another machine took it for dead and trains in its place: its own result is not written over the other's."""
    store, run = RunStore(tmp_path / "runs"), quick()
    train = trainer.train
    heir = store.lock(run.fingerprint)

    def slept(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(locks, "stale_s", lambda: 0.0)
            assert heir.acquire()
        return train(*arguments)

    monkeypatch.setattr(trainer, "train", slept)
    assert store.train_unless_busy(run, "cpu") is None
    assert store.fingerprints() == []
    with heir:
        assert not heir.is_lost(), "leaving did not free what is the heir's"
    monkeypatch.undo()
    assert store.train(run, "cpu").fingerprint == run.fingerprint


def test_waiting_says_for_whom(tmp_path, monkeypatch, capsys) -> None:
    """A run that a machine far away trains: others first, then a line that names it, then its dead owner's turn."""
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr("ctrlib.store.progress.SILENCE_S", -1.0)
    store = RunStore(tmp_path / "runs")
    (store.root / ".locks").mkdir(parents=True)
    write_owner(store.root / ".locks", quick(1).fingerprint)
    records = here(store, [quick(1), quick(2)])
    assert [record.run for record in records] == [quick(1), quick(2)]
    lines = [line for line in capsys.readouterr().out.splitlines() if "] ..." not in line or "waiting" in line]
    assert lines[1].startswith("[1/2]")
    assert "waiting for 1 runs that other processes train: process 4711 on far" in lines[2]
    assert lines[-1].startswith("[2/2]")


def test_garbage_of_another_machine_is_watched_before_it_is_named(tmp_path, heartbeat, monkeypatch) -> None:
    """A dead owner's goes, a living one's stays."""
    store = RunStore(tmp_path / "runs")
    folder = store.root / ".locks"
    folder.mkdir(parents=True)
    for name in ("0000", "1111"):
        (store.root / f".writing-{name}").mkdir()
    write_owner(folder, "0000")
    living = RunLock(folder, "1111")
    with monkeypatch.context() as patch:
        patch.setattr(locks, "this_machine", lambda: "far/start")
        assert living.acquire()
    notices: list[str] = []
    with living:
        found = [one.folder.name for one in find_garbage(store, notice=notices.append)]
    assert found == [".writing-0000"]
    assert "other machines may be training 2 of these runs" in notices[0]
