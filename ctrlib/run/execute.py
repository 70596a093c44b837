"""Execute notebooks with papermill, each in a kernel of its own; executed copies are put in place when complete."""

import contextlib
import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ctrlib.run.kernels import KERNEL_ENVIRONMENT, warm_kernels
from ctrlib.run.plan import Job

KERNEL_START_S = 180


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``done``, ``unchanged`` or ``failed`` (with the error in one line)."""

    job: Job
    state: str
    seconds: float
    error: str = ""


def execute_all(jobs: list[Job], root: Path, on_line: Callable[[str], None], at_once: int) -> Iterator[Outcome]:
    """Execute notebooks, ``at_once`` of them side by side; their outcomes, as they come. Those up to date first.

    ``on_line`` gets each line that a notebook prints, after its number; it is called from several threads. Ctrl-C ends
    all kernels and leaves no half-executed copy.
    """
    import psutil

    todo = [job for job in jobs if not job.is_done()]
    yield from (Outcome(job, "unchanged", 0.0) for job in jobs if job not in todo)
    with contextlib.ExitStack() as stack:
        before = set(psutil.Process().children(recursive=True))
        stack.enter_context(contextlib.chdir(root))
        stack.enter_context(mock.patch.dict(os.environ, KERNEL_ENVIRONMENT))
        if len(todo) > 1:
            stack.enter_context(warm_kernels())
        pool = stack.enter_context(ThreadPoolExecutor(at_once))

        def one(job: Job) -> Outcome:
            return execute(job, lambda line: on_line(f"{job.number}: {line}"))

        futures = {pool.submit(one, job): job for job in todo}
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            unfinished = [job for future, job in futures.items() if not future.done()]
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):  # one may just be starting
                for process in set(psutil.Process().children(recursive=True)) - before:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                time.sleep(0.2)
            for job in unfinished:
                job.failed_copy.unlink(missing_ok=True)
            raise


def execute(job: Job, on_line: Callable[[str], None]) -> Outcome:
    """Execute one notebook in the current folder, whether its executed copy is up to date or not.

    ``on_line`` gets each line that the notebook prints, as it comes.
    """
    import papermill
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is in the outcome
    began, error = time.monotonic(), ""
    running = job.output.with_suffix(".running.ipynb")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    for old in (running, job.failed_copy):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ctrlib-") as folder:
        # Sockets in a folder: a free TCP port may be taken by another kernel before this one has it.
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"} if os.name == "posix" else {}
        try:
            papermill.execute_notebook(
                str(job.source),
                str(running),
                parameters=job.parameters,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=Lines(on_line),
                start_timeout=KERNEL_START_S,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
                config=Config(KernelManager=sockets),
            )
        except Exception as failure:  # a failed cell, a dead kernel and a broken file come as many kinds
            kind = "" if type(failure).__name__ == "PapermillExecutionError" else f"{type(failure).__name__}: "
            error = kind + last_line(str(failure))
    return finalize_notebook(job, running, error, time.monotonic() - began)


class Lines(io.TextIOBase):
    """A file that hands on each line that is written to it."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line, self.rest = on_line, ""

    def write(self, text: str) -> None:
        """Hand on the lines that are whole now."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.on_line(line.strip())


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
