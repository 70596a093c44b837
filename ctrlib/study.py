"""The study: notebooks x parameters, executed by papermill into a build folder.

Everything is checked before anything runs: profile, notebook numbers, parameter names (papermill itself only warns
of an unknown one) and values. A notebook whose text, parameters, data and code did not change since it was executed
is not executed again; a failed one leaves ``NN_name.failed.ipynb`` and the others go on.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctrlib.config import Run, digest, read_yaml
from ctrlib.errors import UserError, shown, unknown

if TYPE_CHECKING:
    from ctrlib.runs import RunStore

KERNEL_START_S = 180
STOP_S = 5
KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # whatever the shell says, figures go into the notebook
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no debugger warnings in the outputs
    "TQDM_DISABLE": "1",  # bars of other libraries would be frozen widgets on a page
}


@dataclass(frozen=True)
class Job:
    """One notebook with its parameters and the place of its executed copy."""

    number: str
    source: Path
    output: Path
    parameters: dict[str, Any]
    key: str

    @property
    def name(self) -> str:
        """File name without ending."""
        return self.source.stem

    @property
    def failed_copy(self) -> Path:
        """Where a failed execution is left to look at."""
        return self.output.with_suffix(".failed.ipynb")

    def is_done(self) -> bool:
        """Whether a whole executed copy with this key exists."""
        if not self.output.exists():
            return False
        import nbformat

        try:
            return nbformat.read(self.output, as_version=4).metadata.get("ctrlib", {}).get("key") == self.key
        except Exception:  # nbformat raises many kinds for a damaged file; damaged means: execute again
            return False


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``done``, ``unchanged`` or ``failed`` (with the error in one line)."""

    job: Job
    state: str
    seconds: float
    error: str = ""


def find_notebooks(root: Path) -> dict[str, Path]:
    """The notebooks by number, in reading order."""
    found = {path.name[:2]: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise UserError(f"{root / 'notebooks'}: no notebooks here; start ctrlib inside the project folder")
    return found


def find_profile(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """A profile's parameters: section ``all`` and one section per notebook number.

    ``profile`` is the name of a file in ``notebooks/profiles`` or a path to a YAML file.
    """
    folder = root / "notebooks" / "profiles"
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else folder / f"{profile}.yaml"
    if not path.is_file():
        raise unknown("profile", profile, sorted(p.stem for p in folder.glob("*.yaml")))
    try:
        content = read_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise UserError(f"{path}: must hold sections (all, 01, 02, ...) of parameter: value lines")
    return {str(section): dict(part) for section, part in content.items()}


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values in the cell tagged ``parameters``; values are literals."""
    import ast

    import nbformat

    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{notebook}: has {len(cells)} cells tagged 'parameters'; exactly one is needed")
    try:
        lines = ast.parse(cells[0].source).body
        targets = [line.target if isinstance(line, ast.AnnAssign) else line.targets[0] for line in lines]
        return {target.id: ast.literal_eval(line.value) for target, line in zip(targets, lines, strict=True)}
    except (SyntaxError, ValueError, AttributeError):
        raise UserError(f"{notebook}: the parameters cell may only hold lines of `name = literal`") from None


def read_overrides(assignments: list[str]) -> dict[str, Any]:
    """``name=value`` texts from the command line; values are read as YAML (5, 1e-4, [1, 2], DCN)."""
    overrides = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {shown(text)}: must be name=value, as in --set instances=5")
        try:
            overrides[name.strip()] = read_value(value)
        except ValueError as error:
            raise UserError(f"--set {shown(text)}: {shown(value)} cannot be read as a value ({error})") from None
    return overrides


def read_value(text: str) -> Any:
    """A YAML value; 1e-4, which YAML 1.1 takes for text, is a number."""
    value = read_yaml(text)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def plan(root: Path, profile: str, only: list[str], overrides: dict[str, Any], out: Path | None = None) -> list[Job]:
    """Check everything and return the jobs, in order; nothing runs.

    Raises:
        UserError: unknown profile, notebook, parameter (with the nearest name) or a value out of range.
    """
    notebooks = find_notebooks(root)
    numbers = [number.zfill(2) for number in only] or list(notebooks)
    for number in numbers:
        if number not in notebooks:
            raise unknown("notebook", number, notebooks)
    sections = find_profile(root, profile)
    for section in sections:
        if section != "all" and section not in notebooks:
            raise unknown(f"section in profile {profile}", section, ["all", *notebooks])
    declared = {number: declared_parameters(notebooks[number]) for number in notebooks}
    for name in overrides:
        if not any(name in declared[number] for number in numbers):
            raise unknown("parameter", name, sorted(set().union(*(declared[number] for number in numbers))))
    for name in sections.get("all", {}):
        if not any(name in parameters for parameters in declared.values()):
            raise unknown(f"parameter in profile {profile}", name, sorted(set().union(*declared.values())))
    label = Path(profile).stem
    suffix = "".join(f"+{name}={value}" for name, value in overrides.items())
    folder = out or root / "_build" / "study" / re.sub(r"[^\w.=+-]+", "_", label + suffix)[:120]
    return [
        make_job(root, number, notebooks[number], declared[number], sections, label, overrides, folder)
        for number in numbers
    ]


def make_job(
    root: Path,
    number: str,
    notebook: Path,
    declared: dict[str, Any],
    sections: dict[str, dict[str, Any]],
    label: str,
    overrides: dict[str, Any],
    folder: Path,
) -> Job:
    """One notebook with what the profile and the command line say of its parameters, checked."""
    from ctrlib.experiments import checked_parameters

    own = sections.get(number, {})
    for name in own:
        if name not in declared:
            raise unknown(f"parameter in section {number} of profile {label}", name, declared)
    asked = {"profile": label, **sections.get("all", {}), **own, **overrides}
    parameters = {name: value for name, value in asked.items() if name in declared}
    checked_parameters(**{**declared, **parameters})  # before any kernel starts
    key = digest(
        {
            "notebook": hashlib.sha256(notebook.read_bytes()).hexdigest(),
            "parameters": parameters,
            "code": code_digest(),
            "data": data_digest({**declared, **parameters}.get("dataset", "synthetic")),
            "benchmarks": benchmark_digest(root) if "benchmark" in declared else "",
        }
    )
    return Job(number, notebook, folder / notebook.name, parameters, key)


def code_digest() -> str:
    """Hash of ctrlib's source: executed notebooks are those of this code."""
    package = Path(__file__).parent
    return digest({str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in sorted(package.rglob("*.py"))})


def benchmark_digest(root: Path) -> str:
    """Hash of the benchmark records and of what makes tables of them."""
    files = sorted([*(root / "benchmarks").glob("*.py"), *(root / "benchmarks" / "results").glob("*.json")])
    return digest({str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in files})


def data_digest(dataset: str) -> str:
    """Hash of the draws of a prepared data set; the synthetic data follow from the parameters."""
    if dataset == "synthetic":
        return ""
    from ctrlib.experiments.arms import data_draws

    return digest(data_draws(dataset))


def planned(job: Job) -> tuple[list[Run], str]:
    """The runs that a notebook will ask for, and the device it asks for."""
    from ctrlib.experiments import checked_parameters, planned_runs

    parameters = checked_parameters(**{**declared_parameters(job.source), **job.parameters})
    return planned_runs(job.name.partition("_")[2], parameters), parameters.device


def train_planned(
    jobs: list[Job], on_line: Callable[[str], None], workers: int | None = None, dask: str | None = None
) -> dict[str, str]:
    """Train what the notebooks will ask for and the store lacks, so that they only have to read it.

    A run that fails stops neither the others nor the notebooks that do without it.

    Args:
        jobs: those that are up to date ask for nothing.
        on_line: gets the lines of progress.
        workers: processes of this machine; all cores unless told.
        dask: address of a scheduler, whose workers train instead.

    Returns:
        By notebook number, one line for each notebook that cannot be executed because runs of it are not there.

    Raises:
        UserError: no scheduler answers, or the store cannot be used.
    """
    from ctrlib.executors import TeamLost, stop_pools
    from ctrlib.progress import label
    from ctrlib.runs import open_store

    wanted = {job.number: planned(job) for job in jobs if not job.is_done()}
    by_device: dict[str, list[Run]] = {}
    for runs, device in wanted.values():
        by_device.setdefault(device, []).extend(runs)
    store = open_store()
    reasons: dict[str, Exception] = {}
    lost: Exception | None = None
    for device, runs in by_device.items():
        try:
            reasons |= store.ensure_all(runs, device, workers, dask, on_line)[1] if runs else {}
        except TeamLost as error:
            lost = error
    stop_pools()  # the notebooks need the memory
    lines = {}
    for number, (runs, _) in wanted.items():
        if missing := [run for run in runs if store.find(run) is None]:
            why = reasons.get(missing[0].fingerprint, lost)
            first = f"{label(missing[0])}: {type(why).__name__}: {last_line(str(why))}"
            lines[number] = f"{len(missing)} of its {len(runs)} runs were not trained; the first, {first}"
    return lines


def publish(jobs: list[Job], store: "RunStore", path: Path) -> dict[str, int]:
    """Write what the pages of these jobs are made of to ``path``: run records, measures and facts about data sets.

    What was published before stays, so that a store need not hold it any more: pages can be published one by one.

    Returns:
        How many there are of each kind, and under ``missing`` how many runs of the plan are not trained yet.
    """
    from ctrlib.experiments.arms import data_draws
    from ctrlib.measures import stored_measures
    from ctrlib.results import write

    runs = {run.fingerprint: run for job in jobs for run in planned(job)[0]}
    records = {name: record for name, run in runs.items() if (record := store.find(run))}
    measures = dict(store.results.measures) if store.results else {}
    for one in stored_measures(store):
        if {name for name, _ in one["runs"]} <= records.keys():
            measures[one["key"]] = one["value"]
    names = sorted({run.data.name for run in runs.values() if run.data.synthetic is None})
    entries = [("run", record.content) for record in records.values()]
    entries += [("measure", {"key": key, "value": value}) for key, value in measures.items()]
    entries += [("data", {"name": name, "draws": data_draws(name)}) for name in names]
    write(path, entries)
    return {"run": len(records), "measure": len(measures), "data": len(names), "missing": len(runs) - len(records)}


def execute(job: Job, root: Path, on_line: Callable[[str], None]) -> Outcome:
    """Execute one notebook aside and move it into place when whole; ``unchanged`` when it already stands there.

    papermill runs in a process of its own, so that Ctrl-C ends it here, in one line, and takes its kernel along.
    ``on_line`` gets each line that the notebook prints, as it comes.
    """
    if job.is_done():
        return Outcome(job, "unchanged", 0.0)
    began = time.monotonic()
    running = job.output.with_suffix(".running.ipynb")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    for old in (running, job.failed_copy):
        old.unlink(missing_ok=True)
    task = {"source": str(job.source), "output": str(running), "parameters": job.parameters, "cwd": str(root)}
    command = [sys.executable, "-c", "from ctrlib.study import papermill_process; papermill_process()"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **KERNEL_ENVIRONMENT},
            start_new_session=True,
        )
        try:
            child.stdin.write(json.dumps(task))
            child.stdin.close()
            for line in child.stdout:
                if line.strip():
                    on_line(line.strip())
            child.wait()
        except BaseException:
            stop(child)
            running.unlink(missing_ok=True)
            raise
        errors.seek(0)
        error = last_line(errors.read()) if child.returncode else ""
    return settle(job, running, error, time.monotonic() - began)


def papermill_process() -> None:
    """The other end of :func:`execute`: one task as JSON on stdin, printed lines on stdout, the error on stderr."""
    import papermill

    task = json.load(sys.stdin)
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
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else each kernel warns of its local TCP port
        )
    except Exception as failure:  # a failed cell, a dead kernel and a broken file come as many kinds
        kind = "" if type(failure).__name__ == "PapermillExecutionError" else f"{type(failure).__name__}: "
        print(kind + last_line(str(failure)), file=sys.stderr)
        sys.exit(1)


def stop(child: subprocess.Popen) -> None:
    """End papermill, its kernel and the kernel's workers, and wait until they are gone: nothing writes afterwards."""
    import psutil

    try:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    child.terminate()  # the kernel notices that its parent died, the workers notice that the kernel did
    for process in psutil.wait_procs(family, timeout=STOP_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=STOP_S)
    child.wait()


def settle(job: Job, running: Path, error: str, seconds: float) -> Outcome:
    """Decide whether an execution is whole, and give the notebook its final name."""
    import nbformat

    if not running.exists():
        return Outcome(job, "failed", seconds, error or "the notebook left no output")
    notebook = nbformat.read(running, as_version=4)
    if not error and notebook.metadata.get("papermill", {}).get("exception"):
        error = "a cell ended the kernel's work (sys.exit?) before the notebook was through"
    if error:
        running.replace(job.failed_copy)
        return Outcome(job, "failed", seconds, error)
    finish(notebook, job, seconds)
    nbformat.write(notebook, running)
    running.replace(job.output)
    return Outcome(job, "done", seconds)


def finish(notebook: Any, job: Job, seconds: float) -> None:
    """Mark a whole execution with its key, fold the injected cell, drop what names this machine's folders."""
    notebook.metadata.pop("widgets", None)
    facts = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path", "environment_variables"):
        facts.pop(name, None)
    notebook.metadata["ctrlib"] = {"key": job.key, "seconds": round(seconds, 1)}
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")


def last_line(text: str) -> str:
    """The last line that says something, without terminal colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
