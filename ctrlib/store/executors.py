"""Where work is done: in this process, by worker processes that are kept, or by the workers of a Dask scheduler.

All three are a ``concurrent.futures.Executor``. A :class:`Team` is one of them with what :func:`work_off` has to know
beside it: how many tasks it takes at once, what it says meanwhile, what its own failures mean. What a task does is the
caller's business.
"""

import atexit
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from ctrlib.errors import UserError

POLL_S = 0.5  # between two looks at what others do
CONNECT_S = 10
SLOT = "slot"  # the Dask resource of which a task takes one
Tell = Callable[[str], None]


class TeamLost(UserError):
    """Those who did the work are gone; what they had finished is kept."""


@dataclass(frozen=True)
class Task:
    """A piece of work: ``function(*arguments)`` returns whether it is done; if not, another process is at it.

    It begins when the tasks named in ``after`` are done.
    """

    name: str
    function: Callable[..., bool]
    arguments: tuple
    after: frozenset[str] = frozenset()


class Team:
    """An executor and what it needs; used in a ``with``. This one is the process itself: a task is done on the spot."""

    def __init__(self, tell: Tell | None = None) -> None:
        self.executor: Executor = InProcess()
        self._tell = tell

    def __enter__(self) -> "Team":
        global _tell
        _tell = self._tell
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        global _tell
        _tell = None

    def slots(self) -> int:
        """How many tasks may run at once, now."""
        return 1

    def lines(self, running: int) -> list[str]:
        """What there is to tell while ``running`` tasks run."""
        return []

    def judge(self, error: Exception) -> Exception:
        """The error of a task in the user's words; raised instead when it is the end of the whole team."""
        return error


class Pool(Team):
    """``workers`` processes of this machine, kept for the next call: a fresh one imports torch for seconds."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.executor, self._messages = worker_pool(workers)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            stop_pool(self.executor)

    def slots(self) -> int:
        return self.workers

    def lines(self, running: int) -> list[str]:
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def judge(self, error: Exception) -> Exception:
        if isinstance(error, BrokenProcessPool):
            raise TeamLost(
                "a worker process was killed, perhaps for want of memory; finished runs are kept: "
                "lower batch_size or embedding_dim, or run the same command again to go on"
            ) from None
        return error


class Dask(Team):
    """The workers of the Dask scheduler at ``address``, as many tasks on each as it has of the resource ``slot``.

    A task whose worker dies is given to another by the scheduler, which gives it up when several have died of it.

    Raises:
        UserError: distributed is not installed, or no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UserError("Dask is not installed here; `pip install 'ctrlib[dask]'` does it") from None
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"no Dask scheduler at {address!r} ({reason}); `dask scheduler` starts one and prints its address, "
                "such as tcp://10.0.0.1:8786"
            ) from None
        self.address = address
        self.executor = self._client.get_executor(resources={SLOT: 1}, pure=False, retries=0)
        self._slots, self._looked = 0, -POLL_S

    def __enter__(self) -> "Dask":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(wait=False)  # what a worker has begun it brings to its end, and it is kept
        self._client.close(timeout=CONNECT_S)

    def slots(self) -> int:
        if time.monotonic() - self._looked >= POLL_S:  # workers come and go
            try:
                workers = self._client.scheduler_info()["workers"].values()
            except OSError:
                raise self._lost() from None
            self._slots = sum(int(worker["resources"].get(SLOT, 0)) for worker in workers)
            self._looked = time.monotonic()
        return self._slots

    def lines(self, running: int) -> list[str]:
        if self._slots == 0:
            start = f"dask worker {self.address} --nthreads 1 --resources {SLOT}=1"
            return [f"waiting for a Dask worker with a {SLOT}; this starts one: {start}"]
        return [f"{running} runs in training, {self._slots} Dask slots"]

    def judge(self, error: Exception) -> Exception:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        if isinstance(error, KilledWorker):
            return UserError("several Dask workers died while they trained it, perhaps for want of memory")
        if isinstance(error, CancelledError | CommClosedError):
            raise self._lost() from None
        if isinstance(error, ImportError):
            raise TeamLost(f"a Dask worker cannot load this project ({error}); install it there too") from None
        return error

    def _lost(self) -> TeamLost:
        return TeamLost(
            f"the Dask scheduler at {self.address} is gone; finished runs are kept: run the same command again to go on"
        )


def work_off(
    tasks: list[Task], team: Team, report: Tell, waiting_line: Callable[[list[str]], str]
) -> Iterator[tuple[Task, Exception | None]]:
    """Do all tasks, as many at once as the team takes; yields each with its error, or None, when it has ended.

    A task that another process is at comes again when the others have had their turn; ``waiting_line`` says so when
    only such are left. A task whose predecessor failed fails without being tried. ``report`` gets signs of life.
    """
    waiting, busy, running = list(tasks), [], {}
    undone, failed = {task.name for task in tasks}, set()
    while waiting or busy or running:
        for task in [task for task in waiting if task.after & failed]:
            waiting.remove(task)
            failed.add(task.name)
            yield task, UserError(f"not tried, because it builds on {min(task.after & failed)}, which failed")
        ready = [task for task in waiting if not task.after & undone]
        for task in ready[: max(0, team.slots() - len(running))] if ready else []:
            waiting.remove(task)
            try:
                running[team.executor.submit(task.function, *task.arguments)] = task
            except BrokenExecutor as error:  # workers that died while they were idle
                raise team.judge(error) from None
        done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for line in team.lines(len(running)):
            report(line)
        if not running:
            if busy:
                report(waiting_line([task.name for task in busy]))
            time.sleep(POLL_S)
        for future in done:
            task = running.pop(future)
            try:
                done_now = future.result()
            except Exception as error:
                failed.add(task.name)
                yield task, team.judge(error)
                continue
            if done_now:
                undone.discard(task.name)
                yield task, None
            else:
                busy.append(task)
        if not done:
            waiting, busy = waiting + busy, []


# In this process --------------------------------------------------------------------------------------------------


class InProcess(Executor):
    """Does what is submitted at once."""

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        """A future that is already done."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they would hold the model of a failed training in memory
            future.set_exception(error)
        return future


_tell: Tell | None = None


def teller() -> Tell | None:
    """Where a task sends its signs of life; None where nobody listens, as on a Dask worker."""
    return _tell


# Worker processes -------------------------------------------------------------------------------------------------

_pools: dict[int, tuple[ProcessPoolExecutor, Any]] = {}


def worker_pool(workers: int) -> tuple[ProcessPoolExecutor, Any]:
    """The kept pool of that size, and the queue of its messages."""
    if workers not in _pools:
        context = multiprocessing.get_context("spawn")
        messages = context.SimpleQueue()
        pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(messages, os.getpid()))
        _pools[workers] = (pool, messages)
    return _pools[workers]


@atexit.register
def stop_pools() -> None:
    """End idle workers with the process that kept them."""
    for pool, _ in list(_pools.values()):
        stop_pool(pool)


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """End the workers now; unfinished runs leave nothing behind but a lock nobody holds."""
    for workers in [n for n, (kept, _) in _pools.items() if kept is pool]:
        del _pools[workers]
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def _start_worker(messages: Any, parent: int) -> None:
    global _tell
    _tell = messages.put
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent died ends at once instead of training for nobody."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# Dask workers -----------------------------------------------------------------------------------------------------


def dask_threads() -> int:
    """How many threads the Dask worker that this runs on was given."""
    from distributed import get_worker

    return get_worker().state.nthreads
