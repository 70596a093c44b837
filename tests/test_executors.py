"""The loop that does tasks, with an executor of threads that the tests steer; worker processes and their end."""

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from processes import PROCESSES, until

from ctrlib.errors import UserError
from ctrlib.store import executors
from ctrlib.store.executors import Backend, InProcess, Pool, Task, progress_sink, run_tasks


class Threads(Backend):
    """Two slots."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(8)

    def slots(self) -> int:
        return 2


class Log:
    """Notes what begins and what ends, and how many run at once."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def work(self, name: str) -> bool:
        with self.lock:
            self.events.append(f"{name} begins")
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        time.sleep(0.02)
        with self.lock:
            self.events.append(f"{name} ends")
            self.at_once -= 1
        return True


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    monkeypatch.setattr(executors, "POLL_S", 0.01)


def run(tasks: list[Task], backend: Backend | None = None, report=lambda line: None) -> dict[str, Exception | None]:
    return {
        task.name: error for task, error in run_tasks(tasks, backend or Threads(), report, lambda names: str(names))
    }


def test_tasks_wait_for_those_they_start_from_and_others_go_ahead() -> None:
    log = Log()
    after = {"d": {"a", "b"}, "c": {"b"}}
    tasks = [Task(name, log.work, (name,), frozenset(after.get(name, ()))) for name in "dcabefgh"]
    assert run(tasks) == dict.fromkeys("dcabefgh")
    at = log.events.index
    for name, before in after.items():
        assert all(at(f"{one} ends") < at(f"{name} begins") for one in before)
    assert log.events[:2] == ["a begins", "b begins"]
    assert log.most_at_once == 2, "as many as there are slots"
    assert len(log.events) == 16, "each once"


def test_a_failure_takes_along_only_what_starts_from_it() -> None:
    log = Log()

    def fail(name: str) -> bool:
        raise UserError("no such thing")

    tasks = [
        Task("grandchild", log.work, ("grandchild",), frozenset(["child"])),
        Task("child", log.work, ("child",), frozenset(["bad", "good"])),
        Task("bad", fail, ("bad",)),
        Task("good", log.work, ("good",)),
        Task("other", log.work, ("other",), frozenset(["good"])),
    ]
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

    tasks = [Task("busy", busy, ("busy",)), *(Task(name, log.work, (name,)) for name in "abcdefgh")]
    tasks.append(Task("heir", log.work, ("heir",), frozenset(["busy"])))
    assert run(tasks, report=reports.append) == dict.fromkeys(["busy", *"abcdefgh", "heir"])
    assert looks[1] >= 14, "eight others began before the second look"
    assert "['busy']" in reports
    assert log.events[-1] == "heir ends"


def test_in_this_process_one_after_the_other() -> None:
    log, told = Log(), []

    def work(name: str) -> bool:
        progress_sink()(name)
        return log.work(name)

    with InProcess(told.append) as backend:
        assert run([Task(name, work, (name,)) for name in "abc"], backend) == dict.fromkeys("abc")
    assert told == list("abc")
    assert log.most_at_once == 1
    assert progress_sink() is None


def interrupted(tasks: list[Task], pool: Pool) -> None:
    """Ctrl-C after the first task."""
    with pool:
        for _ in run_tasks(tasks, pool, print, str):
            raise KeyboardInterrupt


def test_ctrl_c_ends_the_workers() -> None:
    """A KeyboardInterrupt in the process that waits: its workers do not go on for nobody."""
    tasks = [Task("a", bool, (1,)), Task("b", time.sleep, (60,)), Task("c", time.sleep, (60,))]
    pool = Pool(2)
    try:
        numbers = [pool.executor.submit(os.getpid).result(90)]
        with pytest.raises(KeyboardInterrupt):
            interrupted(tasks, pool)
        until(lambda: not any(alive(number) for number in numbers), "end")
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
    assert alive(worker)
    parent.kill()
    parent.join()
    until(lambda: not alive(worker), "end")


def alive(number: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    return False
