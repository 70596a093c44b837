"""Where tasks are done: in this process, by worker processes that are kept, or by Dask (:mod:`ctrlib.store.dask`).

A :class:`Backend` is a ``concurrent.futures.Executor`` with what :func:`run_tasks` has to know beside it: how many
tasks it takes at once, what it says meanwhile, what its own failures mean. What a task does is the caller's business.
"""

import atexit
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from ctrlib.errors import UserError

POLL_S = 0.5  # between two looks at what others do
Sink = Callable[[str], None]

_sink: Sink | None = None


class BackendLost(UserError):
    """The workers are gone; what they had finished is kept."""


@dataclass(frozen=True)
class Task:
    """A piece of work: ``function(*arguments)`` returns whether it is done; if not, another process is at it.

    It begins when the tasks named in ``after`` are done.
    """

    name: str
    function: Callable[..., bool]
    arguments: tuple
    after: frozenset[str] = frozenset()


def progress_sink() -> Sink | None:
    """Where a task sends its signs of life; None where nobody listens, as on a Dask worker."""
    return _sink


class Backend:
    """Something that does tasks; used in a ``with``."""

    executor: Executor

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def slots(self) -> int:
        """How many tasks may run at once, now."""
        return 1

    def lines(self, running: int) -> list[str]:
        """What there is to tell while ``running`` tasks run."""
        return []

    def explain_error(self, error: Exception) -> Exception:
        """The error of a task in the user's words; :class:`BackendLost` when it is the end of the whole backend."""
        return error


class InProcess(Backend):
    """This process: a task is done when it is submitted, and sends its signs of life to ``sink``."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.executor = _AtOnce()
        self._own_sink = sink

    def __enter__(self) -> "InProcess":
        global _sink
        _sink = self._own_sink
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        global _sink
        _sink = None


class _AtOnce(Executor):
    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they would hold the model of a failed training in memory
            future.set_exception(error)
        return future


class Pool(Backend):
    """``workers`` processes of this machine, kept for the next call: a fresh one imports torch for seconds."""

    def __init__(self, workers: int) -> None:
        global _kept
        if _kept is None or _kept.size != workers:
            stop_pools()
            _kept = _Workers(workers)
        self.executor = _kept

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            stop_pools()

    def slots(self) -> int:
        return self.executor.size

    def lines(self, running: int) -> list[str]:
        found = []
        while not self.executor.messages.empty():
            found.append(self.executor.messages.get())
        return found

    def explain_error(self, error: Exception) -> Exception:
        if not isinstance(error, BrokenExecutor):
            return error
        return BackendLost(
            "a worker process was killed, perhaps for want of memory; finished runs are kept: "
            "lower batch_size or embedding_dim, or run the same command again to go on"
        )


class _Workers(ProcessPoolExecutor):
    """Processes that begin afresh, send ``messages``, and end with the process that started them."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            self.size, self.messages = workers, context.SimpleQueue()
            super().__init__(workers, context, initializer=_start_worker, initargs=(self.messages,))
        except OSError as error:  # their locks are files there
            problem = f"/dev/shm: {error.strerror or error}, and several workers need it"
            raise UserError(f"{problem}; allowed: one that can be written, or --workers 1") from None


_kept: _Workers | None = None


@atexit.register
def stop_pools() -> None:
    """End the workers that are kept, at the latest with this process; what they have not finished is begun again."""
    global _kept
    if _kept:
        processes = list((_kept._processes or {}).values())
        _kept.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        _kept = None


def _start_worker(messages: Any) -> None:
    global _sink
    _sink = messages.put
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End at once when the parent dies, instead of training for nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run_tasks(tasks: list[Task], backend: Backend, report: Sink) -> Iterator[tuple[Task, Exception | None]]:
    """Do all tasks, as many at once as the backend takes; yields each with its error, or None, when it has ended.

    A task that another process is at comes again when the others have had their turn. A task whose predecessor failed
    fails without being tried. ``report`` gets signs of life.

    Raises:
        BackendLost: the backend cannot go on.
    """
    waiting, busy, running = list(tasks), [], {}
    undone, failed = {task.name for task in tasks}, set()
    while waiting or busy or running:
        for task in [task for task in waiting if task.after & failed]:
            waiting.remove(task)
            failed.add(task.name)
            yield task, UserError(f"not tried, because it builds on {min(task.after & failed)}, which failed")
        ready = [task for task in waiting if not task.after & undone]
        for task in ready[: max(0, backend.slots() - len(running))] if ready else []:
            waiting.remove(task)
            running[_submitted(task, backend)] = task
        done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for line in backend.lines(len(running)):
            report(line)
        if not running:
            if busy:
                report(f"waiting for {len(busy)} runs that other processes train")
            time.sleep(POLL_S)
        for future in done:
            task = running.pop(future)
            error = _error(future, backend)
            if error or future.result():
                undone.discard(task.name)
                failed |= {task.name} if error else set()
                yield task, error
            else:
                busy.append(task)
        if not done:
            waiting, busy = waiting + busy, []


def _submitted(task: Task, backend: Backend) -> Future:
    try:
        return backend.executor.submit(task.function, *task.arguments)
    except BrokenExecutor as error:  # workers that died while they were idle
        raise backend.explain_error(error) from None


def _error(future: Future, backend: Backend) -> Exception | None:
    """What went wrong in a task that has ended, in the user's words."""
    try:
        future.result()
    except Exception as error:
        explained = backend.explain_error(error)
        if isinstance(explained, BackendLost):
            raise explained from None
        return explained
    return None
