"""The loop that does tasks, with an executor of threads that the tests steer; worker processes and their end."""

import errno
import os
import time
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


def test_a_machine_without_shared_memory_is_named_in_one_line(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(UserError, match=r"^/dev/shm: Read-only file system, .* --workers 1$"):
        Pool(3)


def test_tasks_wait_for_those_they_start_from_and_others_go_ahead(monkeypatch) -> None:
    monkeypatch.setattr(executors, "POLL_S", 0.01)
    events: list[tuple[str, int]] = []

    def work(name: str) -> bool:
        events.append((name, 1))
        time.sleep(0.02)
        events.append((name, -1))
        return True

    after = {"d": {"a", "b"}, "c": {"b"}}
    tasks = [Task(name, work, (name,), frozenset(after.get(name, ()))) for name in "dcabefgh"]
    assert {task.name: error for task, error in run_tasks(tasks, Threads(), print)} == dict.fromkeys("dcabefgh")
    for name, before in after.items():
        assert all(events.index((one, -1)) < events.index((name, 1)) for one in before)
    assert events[:2] == [("a", 1), ("b", 1)]
    assert max(accumulate(change for _, change in events)) == 2, "as many as there are slots"
    assert len(events) == 16, "each once"


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
