"""Execute notebooks with papermill, each in a process of its own; executed copies are put in place when complete."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path

from ctrlib.run.kernels import KERNEL_ENVIRONMENT, warm_kernels
from ctrlib.run.plan import Job

KERNEL_START_S = 180
STOP_S = 5


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``done``, ``unchanged`` or ``failed`` (with the error in one line)."""

    job: Job
    state: str
    seconds: float
    error: str = ""


_running: set[subprocess.Popen] = set()
_stopped: set[subprocess.Popen] = set()


def execute_all(jobs: list[Job], root: Path, on_line: Callable[[str], None], at_once: int) -> Iterator[Outcome]:
    """Execute notebooks, ``at_once`` of them side by side; their outcomes, as they come. Those up to date first.

    ``on_line`` gets each line that a notebook prints, after its number; it is called from several threads.
    """
    todo = [job for job in jobs if not job.is_done()]
    yield from (Outcome(job, "unchanged", 0.0) for job in jobs if job not in todo)
    with contextlib.ExitStack() as stack:
        environment = {}
        if len(todo) > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ctrlib-"))
            environment = stack.enter_context(warm_kernels(Path(folder)))
        pool = stack.enter_context(ThreadPoolExecutor(at_once))

        def one(job: Job) -> Outcome:
            return execute(job, root, lambda line: on_line(f"{job.number}: {line}"), environment)

        futures = [pool.submit(one, job) for job in todo]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while wait(futures, timeout=0.1).not_done:  # one may just be starting
                stop(*_running)
            raise


def execute(job: Job, root: Path, on_line: Callable[[str], None], environment: dict[str, str] | None = None) -> Outcome:
    """Execute one notebook, whether its executed copy is up to date or not.

    papermill runs in a process of its own, so that Ctrl-C ends it and its kernel, in one line.
    ``on_line`` gets each line that the notebook prints, as it comes; ``environment`` is added to this process's.
    """
    began = time.monotonic()
    running = job.output.with_suffix(".running.ipynb")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    for old in (running, job.failed_copy):
        old.unlink(missing_ok=True)
    task = {"source": str(job.source), "output": str(running), "parameters": job.parameters, "cwd": str(root)}
    command = [sys.executable, "-c", "from ctrlib.run.execute import papermill_process; papermill_process()"]
    environment = {**os.environ, **KERNEL_ENVIRONMENT, **(environment or {})}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "encoding": "utf-8"}
        child = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)
        _running.add(child)
        try:
            with child.stdin:
                json.dump(task, child.stdin)
            for line in child.stdout:
                if line.strip():
                    on_line(line.strip())
            child.wait()
        except BaseException:
            stop(child)
            running.unlink(missing_ok=True)
            raise
        finally:
            _running.discard(child)
        if child in _stopped:
            running.unlink(missing_ok=True)
            return Outcome(job, "failed", time.monotonic() - began, "stopped")
        errors.seek(0)
        error = last_line(errors.read()) if child.returncode else ""
    return finalize_notebook(job, running, error, time.monotonic() - began)


def papermill_process() -> None:
    """The process of :func:`execute`: one task as JSON on stdin, printed lines on stdout, the error on stderr."""
    import papermill
    from traitlets.config import Config

    task = json.load(sys.stdin)
    folder = tempfile.TemporaryDirectory(prefix="ctrlib-")
    # Sockets in a folder: a free TCP port may be taken by another kernel before this one has it.
    sockets = {"transport": "ipc", "connection_file": f"{folder.name}/kernel.json"} if os.name == "posix" else {}
    try:
        papermill.execute_notebook(
            task["source"],
            task["output"],
            parameters=task["parameters"],
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            start_timeout=KERNEL_START_S,
            cwd=task["cwd"],
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            config=Config(KernelManager=sockets),
        )
    except Exception as failure:  # a failed cell, a dead kernel and a broken file come as many kinds
        kind = "" if type(failure).__name__ == "PapermillExecutionError" else f"{type(failure).__name__}: "
        print(kind + last_line(str(failure)), file=sys.stderr)
        sys.exit(1)


def stop(*children: subprocess.Popen) -> None:
    """End papermills, their kernels and the kernels' workers; nothing writes once this is over."""
    import psutil

    family = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    _stopped.update(children)
    for child in children:
        child.terminate()  # the kernel notices that its parent died, the workers notice that the kernel did
    for process in psutil.wait_procs(family, timeout=STOP_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=STOP_S)
    for child in children:
        child.wait()


def finalize_notebook(job: Job, running: Path, error: str, seconds: float) -> Outcome:
    """Give an executed notebook its final name: that of the output, with the job's key, or that of a failed copy.

    The injected parameters are folded, and what names folders of this machine is dropped.
    """
    import nbformat

    if not running.exists():
        return Outcome(job, "failed", seconds, error or "the notebook left no output")
    notebook = nbformat.read(running, as_version=4)
    states = [cell.metadata.get("papermill", {}).get("status", "completed") for cell in notebook.cells]
    if not error and {*states} != {"completed"}:
        error = "a cell ended the kernel's work (sys.exit?) before the notebook was through"
    if error:
        running.replace(job.failed_copy)
        return Outcome(job, "failed", seconds, error)
    notebook.metadata.pop("widgets", None)
    facts = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path", "environment_variables"):
        facts.pop(name, None)
    notebook.metadata["ctrlib"] = {**job.made_of(), "seconds": round(seconds, 1)}
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
    nbformat.write(notebook, running)
    running.replace(job.output)
    return Outcome(job, "done", seconds)


def last_line(text: str) -> str:
    """The last line that says something, without terminal colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
