"""The workers of a Dask scheduler as a backend; needs the extra ``dask``."""

import importlib
import time
from concurrent.futures import CancelledError

from ctrlib.errors import UserError, shown
from ctrlib.store.executors import POLL_S, Backend, BackendLost

CONNECT_S = 10
WHERE = "as `dask scheduler` prints it when it starts one, such as tcp://10.0.0.1:8786"
SLOT = "slot"  # the Dask resource of which a task takes one


class Dask(Backend):
    """The workers of the scheduler at ``address``, as many tasks on each as it has of the resource ``slot``.

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
            raise UserError(f"no Dask scheduler at {shown(address)} ({reason}); give its address {WHERE}") from None
        self.address = address
        self.executor = self._client.get_executor(resources={SLOT: 1}, pure=False, retries=0)
        self._slots, self._looked = 0, -POLL_S
        self._known: set[str] = set()  # workers that have said that they have this project

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(wait=False)  # what a worker has begun it brings to its end, and it is kept
        self._client.close(timeout=CONNECT_S)

    def slots(self) -> int:
        if time.monotonic() - self._looked >= POLL_S:  # workers come and go
            try:
                workers = self._client.scheduler_info(n_workers=-1)["workers"]
                self._ask(workers.keys() - self._known)
            except OSError:
                raise self._lost() from None
            self._slots = sum(int(worker["resources"].get(SLOT, 0)) for worker in workers.values())
            self._looked = time.monotonic()
        return self._slots

    def _ask(self, workers: set[str]) -> None:
        """Refuse to go on with a worker that cannot load this project; without being asked it would fail silently."""
        if not workers:
            return
        answers = self._client.run(importlib.import_module, __name__, workers=list(workers), on_error="return")
        for address, answer in answers.items():
            if isinstance(answer, ImportError):
                raise BackendLost(
                    f"the Dask worker at {address} cannot load this project ({answer}); install it there too"
                )
        self._known |= workers

    def lines(self, running: int) -> list[str]:
        if self._slots == 0:
            start = f"dask worker {self.address} --nthreads 1 --resources {SLOT}=1"
            return [f"waiting for a Dask worker with a {SLOT}; this starts one: {start}"]
        return [f"{running} runs in training, {self._slots} Dask slots"]

    def explain_error(self, error: Exception) -> Exception:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        if isinstance(error, KilledWorker):
            return UserError("several Dask workers died while they trained it, perhaps for want of memory")
        if isinstance(error, CancelledError | CommClosedError):
            return self._lost()
        return error

    def _lost(self) -> BackendLost:
        return BackendLost(
            f"the Dask scheduler at {self.address} is gone; finished runs are kept: run the same command again to go on"
        )


def worker_threads() -> int:
    """How many threads the Dask worker that this runs on was given."""
    from distributed import get_worker

    return get_worker().state.nthreads
