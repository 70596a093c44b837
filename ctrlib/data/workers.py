"""How many threads work on arrays."""

import os

MOST_THREADS = 8  # reading and writing in order keep more of them waiting


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
