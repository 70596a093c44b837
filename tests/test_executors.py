"""The loop that does tasks, with an executor of threads that the tests steer; worker processes and their end."""

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest
from processes import PROCESSES, is_alive, until

from ctrlib.errors import UserError
from ctrlib.store import executors
from ctrlib.store.executors import Backend, Pool, Task, run_tasks


class Threads(Backend):
    """Two slots."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(8)

    def slots(self) -> int:
        return 2


class Log:
    """Notes what begins and what ends."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def work(self, name: str) -> bool:
        self.events.append(f"{name} begins")
        time.sleep(0.02)
        self.events.append(f"{name} ends")
        return True

    def most_at_once(self) -> int:
        return max(accumulate(1 if event.endswith("begins") else -1 for event in self.events))


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    monkeypatch.setattr(executors, "POLL_S", 0.01)


def run(tasks: list[Task], report=lambda line: None) -> dict[str, Exception | None]:
    return {task.name: error for task, error in run_tasks(tasks, Threads(), report)}


def named(names: str | list[str], function: Callable[[str], bool], **after: set[str]) -> list[Task]:
    """A task of each name, which it is called with."""
    return [Task(name, function, (name,), frozenset(after.get(name, ()))) for name in names]


def test_a_machine_without_shared_memory_is_named_in_one_line(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(UserError, match=r"^/dev/shm: Read-only file system, .* --workers 1$"):
        Pool(3)


def test_tasks_wait_for_those_they_start_from_and_others_go_ahead() -> None:
    log = Log()
    after = {"d": {"a", "b"}, "c": {"b"}}
    assert run(named("dcabefgh", log.work, **after)) == dict.fromkeys("dcabefgh")
    at = log.events.index
    for name, before in after.items():
        assert all(at(f"{one} ends") < at(f"{name} begins") for one in before)
    assert log.events[:2] == ["a begins", "b begins"]
    assert log.most_at_once() == 2, "as many as there are slots"
    assert len(log.events) == 16, "each once"


def test_a_failure_takes_along_only_what_starts_from_it() -> None:
    log = Log()

    def work(name: str) -> bool:
        if name == "bad":
            raise UserError("no such thing")
        return log.work(name)

    after = {"grandchild": {"child"}, "child": {"bad", "good"}, "other": {"good"}}
    tasks = named(["grandchild", "child", "bad", "good", "other"], work, **after)
    errors = run(tasks)
    assert [name for name, error in errors.items() if error is None] == ["good", "other"]
    assert str(errors["bad"]) == "no such thing"
    assert "builds on bad" in str(errors["child"])
    assert "builds on child" in str(errors["grandchild"])
    assert {event.split()[0] for event in log.events} == {"good", "other"}


def test_what_others_are_at_comes_when_the_rest_had_its_turn() -> None:
    log, looks, reports = Log(), [], []

    def busy(name: str) -> bool:
        looks.append(len(log.events))
        return len(looks) > 3

    tasks = named(["busy"], busy) + named([*"abcdefgh", "heir"], log.work, heir={"busy"})
    assert run(tasks, report=reports.append) == dict.fromkeys(["busy", *"abcdefgh", "heir"])
    assert looks[1] >= 14, "eight others began before the second look"
    assert "waiting for 1 runs that other processes train" in reports
    assert log.events[-1] == "heir ends"


def interrupt_after_one(tasks: list[Task], pool: Pool) -> None:
    with pool:
        for _ in run_tasks(tasks, pool, print):
            raise KeyboardInterrupt


def test_ctrl_c_ends_the_workers() -> None:
    """A KeyboardInterrupt in the process that waits: its workers do not go on for nobody."""
    pool = Pool(2)
    try:
        worker = pool.executor.submit(os.getpid).result(90)
        with pytest.raises(KeyboardInterrupt):
            interrupt_after_one([Task("a", bool, (1,)), Task("b", time.sleep, (60,))], pool)
        until(lambda: not is_alive(worker), "end")
    finally:
        executors.stop_pools()


def keep_workers(answer) -> None:
    """A process with a pool at work."""
    pool = Pool(1)
    answer.send(pool.executor.submit(os.getpid).result(90))
    pool.executor.submit(time.sleep, 60).result()


def test_workers_end_with_a_parent_that_is_killed() -> None:
    receive, send = PROCESSES.Pipe(duplex=False)
    parent = PROCESSES.Process(target=keep_workers, args=(send,))
    parent.start()
    assert receive.poll(90)
    worker = receive.recv()
    assert is_alive(worker)
    parent.kill()
    parent.join()
    until(lambda: not is_alive(worker), "end")
