"""The study: notebooks x parameters, executed by papermill into a build folder.

Everything is checked before anything runs: profile, notebook numbers, parameter names (papermill itself only warns
of an unknown one) and values, which need no second look where an executed copy has the same. A notebook whose text,
parameters, data, code and records did not change since it was executed is not executed again; a failed one leaves
``NN_name.failed.ipynb`` and the others go on.
"""

import gc
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ctrlib.config import Run, digest
from ctrlib.data.folders import store_root
from ctrlib.errors import UserError, shown, unknown
from ctrlib.study.pages import asked_parameters, book_notebooks, declared_parameters, find_notebooks, find_profile
from ctrlib.study.parameters import StudyParameters, read_yaml


@dataclass(frozen=True)
class Job:
    """One notebook with its parameters and the place of its executed copy.

    Attributes:
        number: the first two digits of its name.
        source: the notebook as it is written.
        output: its executed copy.
        declared: the parameters that the notebook declares, with their defaults.
        parameters: those that differ from them.
        key: hash of text, parameters, code, data and published results.
    """

    number: str
    source: Path
    output: Path
    declared: dict[str, Any]
    parameters: dict[str, Any]
    key: str

    @property
    def name(self) -> str:
        """File name without ending."""
        return self.source.stem

    @property
    def failed_copy(self) -> Path:
        """Where a failed execution is kept."""
        return self.output.with_suffix(".failed.ipynb")

    @cached_property
    def settings(self) -> StudyParameters:
        """All its parameters, checked."""
        from ctrlib.study.experiments import checked_parameters, need_comparison

        p = checked_parameters(**{**self.declared, **self.parameters})
        for at in p.each().values():
            need_comparison(self.name.partition("_")[2], at)
        return p

    def made_of(self) -> dict[str, Any]:
        """All that an executed copy is made of: the key and, by run, the hash of its record in the store."""
        from ctrlib.store.runs import open_store

        store = open_store()
        published = store.results.runs if store.results else {}
        names = [run.fingerprint for run in planned(self)[0] if run.fingerprint not in published]
        return {"key": self.key, "records": record_digests(store.root, names)}

    @cached_property
    def copy(self) -> dict[str, Any]:
        """What the executed copy says that it was made of, if its key is that of this job; else empty."""
        try:
            made_of = json.loads(self.output.read_text(encoding="utf-8"))["metadata"]["ctrlib"]
            return made_of if made_of["key"] == self.key and isinstance(made_of["records"], dict) else {}
        except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
            return {}

    def is_done(self) -> bool:
        """Whether a whole executed copy exists that is made of what is there now; nothing is planned for this."""
        self.__dict__.pop("copy", None)
        return bool(self.copy) and record_digests(store_root(), self.copy["records"]) == self.copy["records"]


def record_digests(store: Path, names: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 of the record of each run in a store, None where there is none."""
    paths = {name: store / name / "run.json" for name in sorted(names)}
    try:
        return {n: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None for n, p in paths.items()}
    except OSError as error:
        raise UserError(f"{store}: cannot be read ({error.strerror or error})") from None


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
    numbers = [number.strip().zfill(2) for text in only for number in text.split(",")] or list(book_notebooks(root))
    require("notebook", numbers, notebooks)
    sections = find_profile(root, profile)
    require(f"section in profile {profile}", sections, ["all", "data", *notebooks])
    declared = {number: declared_parameters(notebooks[number]) for number in notebooks}
    require("parameter", overrides, sorted(set().union(*(declared[number] for number in numbers))))
    require(f"parameter in profile {profile}", sections.get("all", {}), sorted(set().union(*declared.values())))
    label = Path(profile).stem
    for number in numbers:
        require(f"parameter in section {number} of profile {label}", sections.get(number, {}), declared[number])
    suffix = "".join(f"+{name}={value}" for name, value in overrides.items())
    folder = out or root / "_build" / "study" / re.sub(r"[^\w.=+-]+", "_", label + suffix)[:120]
    common, jobs = common_digests(root), []
    for number in numbers:
        labelled = {**sections, "all": {"profile": label, **sections.get("all", {})}}
        parameters = asked_parameters(labelled, number, declared[number], overrides)
        output = folder / notebooks[number].name
        jobs.append(make_job(root, notebooks[number], output, declared[number], parameters, common))
    for job in jobs:
        if not job.copy:
            _ = job.settings  # refused before anything runs
    return jobs


def require(kind: str, names: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse the first name that is not allowed."""
    for name in names:
        if name not in allowed:
            raise unknown(kind, name, allowed)


def common_digests(root: Path) -> dict[str, str]:
    """Hashes of what all executed copies are made of: this code, and the published results."""
    code = files_digest(Path(__file__).parent.parent, "**/*.py")
    return {"code": code, "results": files_digest(root / "book" / "results", "*.parquet")}


def make_job(
    root: Path, notebook: Path, output: Path, declared: dict[str, Any], parameters: dict[str, Any], common: dict
) -> Job:
    """One notebook with its parameters; ``declared`` are those it has, ``common`` hashes that all share."""
    job = Job(notebook.name[:2], notebook, output, declared, parameters, "")
    settings = {**declared, **parameters}
    names = {settings.get("dataset", "synthetic")}
    if "datasets" in declared or not all(isinstance(name, str) for name in names):
        names = {at.dataset for at in job.settings.each().values()}  # refuses them
    if "benchmark" in declared:
        common = {**common, "benchmarks": files_digest(root / "benchmarks", "*.py", "results/*.json")}
    text, data = hashlib.sha256(notebook.read_bytes()).hexdigest(), [data_digest(name) for name in sorted(names)]
    return replace(job, key=digest({**common, "notebook": text, "parameters": parameters, "data": data}))


def files_digest(folder: Path, *patterns: str) -> str:
    """Hash of the files below a folder whose paths match one of ``patterns``, but for what Python keeps of its own."""
    found = (path for pattern in patterns for path in folder.glob(pattern))
    files = sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)
    return digest({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


def data_digest(dataset: str) -> str:
    """Hash of the draws of a prepared data set; the synthetic data follow from the parameters."""
    if dataset == "synthetic":
        return ""
    from ctrlib.store.published import data_draws

    return digest(data_draws(dataset))


def planned(job: Job) -> tuple[list[Run], str]:
    """The distinct runs that a notebook trains or reads, and the device that trains them."""
    from ctrlib.study.experiments import planned_runs

    return planned_runs(job.name.partition("_")[2], job.settings), job.settings.device


@contextmanager
def uncollected() -> Iterator[None]:
    """Meanwhile nobody looks for garbage: among thousands of runs, which all stay, it takes as long as to plan them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
