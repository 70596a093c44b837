"""One measurement = one child process, pinned to its cores, with what else the machine did meanwhile."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 900
LONGER = {"encode": 6 * 3600, "command": 2 * 3600}  # jobs that measure several times in one process, or wait for more
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")


def usable_cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_child(job: str, arguments: dict, cores: int = 1) -> dict:
    """Run ``job`` of :mod:`benchmarks.jobs` in a process of its own on the last ``cores`` cores.

    Returns:
        What the job returned (``value``, ``unit``, ``detail``) with ``peak_mb``, or ``error`` in one line; beside it
        ``cores``, ``seconds`` of the whole process, ``rivals_busy`` (share of its own cores that other processes
        took meanwhile), ``others_busy`` (busy share of the other cores, None where there are none) and ``load_1min``
        when it began.
    """
    chosen = usable_cores()[-cores:]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(cores)), "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    load = os.getloadavg()[0]
    before, own, began = busy_seconds(), children_seconds(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        order = {"job": job, "arguments": arguments, "cores": chosen, "answer": str(answer)}
        command = [sys.executable, "-m", "benchmarks.child", json.dumps(order)]
        limit = LONGER.get(job, LIMIT_SECONDS)
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = child.communicate(timeout=limit)
            if answer.exists():
                result = json.loads(answer.read_text())
            else:
                result = {"error": f"the process ended with code {child.returncode}: {last_line(errors)}"}
        except subprocess.TimeoutExpired:
            result = {"error": f"not finished after {limit} s"}
        finally:
            if child.poll() is None:
                end_with_children(child)
    seconds = time.perf_counter() - began
    if "error" in result:
        result["error"] = result["error"].replace(str(ROOT), ".")  # a result file names no folder of its maker
    busy = {core: after - before[core] for core, after in busy_seconds().items()}
    others = [busy[core] for core in busy if core not in chosen]
    rivals = sum(busy[core] for core in chosen) - (children_seconds() - own)
    return {
        **result,
        "cores": chosen,
        "seconds": round(seconds, 2),
        "rivals_busy": share(rivals, seconds * len(chosen)),
        "others_busy": share(sum(others), seconds * len(others)) if others else None,
        "load_1min": round(load, 2),
    }


def end_with_children(child: subprocess.Popen) -> None:
    """Kill a process and all that it has started, so that nothing goes on beside the next measurement."""
    family = [*psutil.Process(child.pid).children(recursive=True), child]
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    child.wait()


def memory_mb(pid: int) -> tuple[float, float | None]:
    """MB (of 10^6 bytes) that a process and all that it has started hold now: resident, and proportional, which counts
    shared pages once (None where the system does not say)."""
    resident, proportional = 0, 0
    with suppress(psutil.Error):
        for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error):  # one that has just ended
                memory = one.memory_full_info()
                resident += memory.rss
                proportional += getattr(memory, "pss", 0)
    return resident / 1e6, proportional / 1e6 or None


def share(part: float, whole: float) -> float:
    """``part`` of ``whole``, within 0 and 1 whatever the clocks' rounding."""
    return round(min(1.0, max(0.0, part / whole)), 3)


def children_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def busy_seconds() -> dict[int, float]:
    """Per core, the seconds it was not idle since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return {core: sum(t) - t.idle - getattr(t, "iowait", 0.0) for core, t in enumerate(times)}


def last_line(text: str) -> str:
    """The last line of an error message, shortened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no message"
