"""Real processes for the tests, forked from a server that has imported everything once; a Dask cluster made of them."""

import asyncio
import ctypes
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "torch._dynamo",
        "ctrlib.training.loop",
        "ctrlib.store.runs",
        "safetensors.torch",
        "distributed",
        "pytest",
        "small",
    ]
)
LIMIT_S = 90
CLONE_NEWNET, CLONE_NEWUTS = 0x40000000, 0x04000000


def start(target: Callable, *arguments) -> multiprocessing.Process:
    started = PROCESSES.Process(target=target, args=arguments, daemon=True)
    started.start()
    return started


def until(condition: Callable[[], object], what: str) -> object:
    """Wait for a condition and return what it gave."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)
    return found


def on_machine(name: str) -> None:
    """From now on this process looks like one of another machine, whose processes nobody else can see."""
    from ctrlib.store import locks

    locks.this_machine = lambda: f"{name}/start"


def enter_host(name: str) -> None:
    """Move this process into the network namespace ``name``, with a host name of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) or libc.unshare(CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), "cannot enter the namespace")
    socket.sethostname(name)


# ---- Dask ------------------------------------------------------------------------------------------------------------


def serve_scheduler(answer, host: str, allowed_failures: int) -> None:
    import dask
    from distributed import Scheduler

    dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures})

    async def serve() -> None:
        async with Scheduler(host=host, port=0, dashboard=False) as scheduler:
            answer.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


def serve_worker(address: str, log: str, host: str | None, heartbeat_s: float, slots: int) -> None:
    """A Dask worker that notes the beginning and the end of every training, and takes its time in between.

    A run whose first member has 13 hidden units kills it; one of 14 fails.
    """
    from distributed import Worker

    from ctrlib.errors import UserError
    from ctrlib.store import locks
    from ctrlib.training import loop as trainer

    os.environ.pop("CTRLIB_RUNS", None)
    os.environ["CTRLIB_DATA"] = "/nowhere"  # the task has to bring it along
    locks.HEARTBEAT_S = heartbeat_s
    if host:
        enter_host(host)
    train = trainer.train

    def note(what: str, run) -> None:
        with open(log, "a") as file:
            file.write(f"{what} {run.fingerprint} {os.getpid()} {socket.gethostname()}\n")

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

    async def serve() -> None:
        async with Worker(address, nthreads=1, resources={"slot": slots}, dashboard=False) as worker:
            await worker.finished()

    asyncio.run(serve())


class Cluster:
    """A scheduler and workers, each a process; ``hosts`` are network namespaces, one for each worker."""

    def __init__(self, folder: Path, workers: int = 3, hosts=(), address: str = "127.0.0.1", allowed_failures: int = 3):
        self.log = folder / "trainings"
        self.hosts = list(hosts) or [None] * workers
        receive, send = PROCESSES.Pipe(duplex=False)
        self.scheduler = start(serve_scheduler, send, address, allowed_failures)
        assert receive.poll(LIMIT_S)
        self.address = receive.recv()
        self.workers = [self.add(host) for host in self.hosts]

    def add(self, host: str | None = None, slots: int = 1) -> multiprocessing.Process:
        heartbeat_s = 0.2 if host else 60.0  # on one machine nobody has to wait for heartbeats
        return start(serve_worker, self.address, str(self.log), host, heartbeat_s, slots)

    def lines(self, what: str) -> list[list[str]]:
        """The noted beginnings (``began``) or ends (``ended``) of trainings: fingerprint, process, host."""
        if not self.log.exists():
            return []
        return [line.split()[1:] for line in self.log.read_text().splitlines() if line.startswith(what)]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.join()
