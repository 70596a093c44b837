"""Real processes for the tests, forked from a server that has imported everything once; a Dask cluster made of them."""

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["torch._dynamo", "ctrlib.data.sources", "ctrlib.stats.metrics", "ctrlib.store.dask", "safetensors.torch"]
PROCESSES.set_forkserver_preload([*PRELOADED, "distributed", "pytest", "stores"])
LIMIT_S = 90


def start(target: Callable, *arguments) -> multiprocessing.Process:
    started = PROCESSES.Process(target=target, args=arguments, daemon=True)
    started.start()
    return started


def answer_of(function: Callable, *arguments) -> Any:
    """What a function returns in a process of its own; what it raises there is raised here."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = start(_answer, send, function, arguments)
    try:
        assert receive.poll(LIMIT_S)
        answer = receive.recv()
    finally:
        process.kill()
        process.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _answer(send: Any, function: Callable, arguments: tuple) -> None:
    try:
        answer = function(*arguments)
    except BaseException as error:
        answer = error
    send.send(answer)


def as_nobody(folder: Path, function: Callable, *arguments) -> Any:
    """Call it in ``folder`` and without root's rights; with relative paths, as the folders above may be closed too."""
    os.chdir(folder)
    if os.geteuid() == 0:
        os.seteuid(65534)
    return function(*arguments)


def until(condition: Callable[[], object], what: str) -> object:
    """Wait for a condition and return what it gave."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)
    return found


def is_alive(process: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


# ---- Dask ------------------------------------------------------------------------------------------------------------


def serve_scheduler(answer, allowed_failures: int) -> None:
    import dask
    from distributed import Scheduler

    dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures})

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            answer.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


async def work(address: str) -> None:
    """A Dask worker with one slot, until it is told to go."""
    from distributed import Worker

    async with Worker(address, nthreads=1, resources={"slot": 1}, dashboard=False) as worker:
        await worker.finished()


def serve_worker(address: str, log: str) -> None:
    """A Dask worker that notes the beginning and the end of every training, and takes its time in between.

    A run whose first member has 13 hidden units kills it; one of 14 fails.
    """
    from ctrlib.errors import UserError
    from ctrlib.training import loop as trainer

    os.environ.pop("CTRLIB_RUNS", None)
    os.environ["CTRLIB_DATA"] = "/nowhere"  # the task has to bring it along
    train = trainer.train

    def note(what: str, run) -> None:
        with open(log, "a") as file:
            file.write(f"{what} {run.fingerprint} {os.getpid()}\n")

    def noted(run, *rest):
        note("began", run)
        time.sleep(0.3)
        if run.members[0].hidden_units == (13,):
            os.kill(os.getpid(), 9)
        if run.members[0].hidden_units == (14,):
            raise UserError("fourteen is not allowed")
        trained = train(run, *rest)
        note("ended", run)
        return trained

    trainer.train = noted
    asyncio.run(work(address))


def serve_bare_worker(address: str) -> None:
    """A Dask worker in whose Python this project is not installed."""
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "ctrlib"]:
        sys.modules[name] = None
    asyncio.run(work(address))


class Cluster:
    """A scheduler and workers, each a process."""

    def __init__(self, folder: Path, workers: int = 3, allowed_failures: int = 3):
        self.log = folder / "trainings"
        receive, send = PROCESSES.Pipe(duplex=False)
        self.scheduler = start(serve_scheduler, send, allowed_failures)
        assert receive.poll(LIMIT_S)
        self.address = receive.recv()
        self.workers: list[multiprocessing.Process] = []
        for _ in range(workers):
            self.add()

    def add(self) -> None:
        self.workers.append(start(serve_worker, self.address, str(self.log)))

    def lines(self, what: str) -> list[list[str]]:
        """The noted beginnings (``began``) or ends (``ended``) of trainings: fingerprint and process."""
        if not self.log.exists():
            return []
        return [line.split()[1:] for line in self.log.read_text().splitlines() if line.startswith(what)]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.join()
