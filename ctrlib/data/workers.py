"""Threads for work on blocks of arrays (NumPy lets others run while it computes), with results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

MOST_THREADS = 8  # reading and writing in order keep more of them waiting

In = TypeVar("In")
Out = TypeVar("Out")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """``count`` threads; with one, everything is done on the spot. Use it in a ``with``."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """``map`` that works a few items ahead; memory holds no more of them than that."""
        if not self._pool:
            yield from map(work, items)
            return
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > self.count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def all_of(self, work: Callable[[In], Any], items: Iterable[In]) -> list[Any]:
        """``map`` that waits for everything."""
        return list(self._pool.map(work, items) if self._pool else map(work, items))
