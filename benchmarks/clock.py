"""Measuring inside a child process: time per training step, peak memory."""

import gc
import resource
import sys
import threading
import time
from pathlib import Path

import psutil


class StepClock:
    """Notes the time whenever any optimizer of the process has made a step.

    From one note to the next a training does everything that belongs to a step: it fetches a batch, goes forward and
    backward and updates the weights. It works for any library whose optimizer is torch's.
    """

    def __init__(self) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.stamps: list[float] = []
        self._wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        self._hook = register_optimizer_step_post_hook(self._note)

    def close(self) -> None:
        """Note nothing more."""
        self._hook.remove()

    def _note(self, *_) -> None:
        self._wait()
        self.stamps.append(time.perf_counter())

    def seconds_per_step(self, warm: int) -> float:
        """Mean time between steps, the first ``warm`` steps left out."""
        if len(self.stamps) <= warm:
            raise RuntimeError(f"{len(self.stamps)} steps seen, more than {warm} needed")
        return (self.stamps[-1] - self.stamps[warm - 1]) / (len(self.stamps) - warm)


def peak_mb() -> float:
    """The most memory (resident, MB of 10^6 bytes) that this process has held since it started its program.

    Linux's VmHWM starts anew with the program; ``ru_maxrss`` may still remember the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fresh_device() -> None:
    """What an earlier job left behind does not count for the next one in the same process."""
    import torch

    gc.collect()
    torch.set_float32_matmul_precision("highest")
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_of(device: str) -> dict[str, float]:
    """``peak_mb`` of a job on a GPU: the most memory that torch has held there, MB; nothing on a CPU."""
    import torch

    return {} if device == "cpu" else {"peak_mb": round(torch.cuda.max_memory_allocated(device) / 1e6, 1)}


def best_seconds(work, repeats: int = 3, at_least: float = 0.1) -> float:
    """Least time of one call of ``work`` over ``repeats`` series that each last about ``at_least`` seconds."""
    began = time.perf_counter()
    work()
    if time.perf_counter() - began > 1:  # a first call this long tells enough
        calls, repeats = 1, 2
    else:
        began = time.perf_counter()
        work()
        calls = max(1, int(at_least / max(time.perf_counter() - began, 1e-9)))
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - began) / calls)
    return best


class LargestMemory:
    """The largest resident size of this process, mapped files included, while the block runs (MB of 10^6 bytes)."""

    def __enter__(self) -> "LargestMemory":
        self.largest_mb = 0.0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while True:
            self.largest_mb = max(self.largest_mb, psutil.Process().memory_info().rss / 1e6)
            if self._over.wait(0.05):
                return

    def __exit__(self, *_) -> None:
        self._over.set()
        self._watcher.join()
