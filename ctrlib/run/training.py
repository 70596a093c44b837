"""Train what a plan of notebooks asks for, and publish the records."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ctrlib.config import Run
from ctrlib.errors import UserError
from ctrlib.run.execute import last_line
from ctrlib.run.plan import Job, planned, uncollected

if TYPE_CHECKING:
    from ctrlib.store.record import Record
    from ctrlib.store.runs import RunStore


def train_planned(
    jobs: list[Job], on_line: Callable[[str], None], workers: int | None = None, dask: str | None = None
) -> dict[str, str]:
    """Train what the notebooks will ask for and the store lacks, so that they only have to read it.

    What the records of a search decide is planned, and trained, after it. A run that fails stops neither the others
    nor the notebooks that do without it.

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
    if not (todo := [job for job in jobs if not job.is_done()]):
        return {}
    from ctrlib.store.ensure import ensure_all
    from ctrlib.store.executors import BackendLost, stop_pools
    from ctrlib.store.progress import label
    from ctrlib.store.runs import open_store
    from ctrlib.study.experiments import SEARCHES

    wanted: dict[str, tuple[list[Run], str]] = {}
    store, asked = open_store(), set[str]()
    reasons: dict[str, Exception] = {}
    lost: Exception | None = None
    while todo:
        with uncollected():
            wanted |= {job.number: planned(job) for job in todo}
        by_device: dict[str, list[Run]] = {}
        for runs, device in wanted.values():
            by_device.setdefault(device, []).extend(run for run in runs if run.fingerprint not in asked)
        for device, runs in by_device.items():
            try:
                reasons |= ensure_all(store, runs, device, workers, dask, on_line)[1] if runs else {}
            except BackendLost as error:
                lost = error
        new = {run.fingerprint for runs in by_device.values() for run in runs}
        asked |= new
        todo = [job for job in todo if new and not lost and job.name.partition("_")[2] in SEARCHES]
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

    What the file holds already stays, so that a store need not hold it any more. What other files in its folder hold is
    left to them, so that pages that share runs can be published one by one.

    Returns:
        How many there are of each kind, and under ``missing`` how many runs of the plan are not trained yet.
    """
    from ctrlib.store.measures import stored_measures
    from ctrlib.store.published import Results, data_draws, write

    runs = {run.fingerprint: run for job in jobs for run in planned(job)[0]}
    records = {name: record for name, run in runs.items() if (record := store.find(run))}
    refuse_mixed(records)
    known = Results(path).measures if path.is_file() else {}
    measures = {key: {"key": key, "value": known[key], "code": known.code(key)} for key in known}
    predictions = {name: record.content["files"]["predictions.npz"] for name, record in records.items()}
    for one in stored_measures(store):
        if all(predictions.get(name) == checksum for name, checksum in one["runs"]):
            measures[one["key"]] = {name: one.get(name) for name in ("key", "value", "code")}
    names = sorted({run.data.name for run in runs.values() if run.data.synthetic is None})
    entries = [("run", record.fingerprint, record.content) for record in records.values()]
    entries += [("measure", key, one) for key, one in measures.items()]
    entries += [("data", name, {"name": name, "draws": data_draws(name)}) for name in names]
    others = Results(path.parent, without=path)
    elsewhere = {"run": others.runs, "measure": others.measures, "data": {}}
    entries = [(kind, name, content) for kind, name, content in entries if name not in elsewhere[kind]]
    write(path, [(kind, content) for kind, _, content in entries])
    counts = {kind: sum(one[0] == kind for one in entries) for kind in ("run", "measure", "data")}
    return {**counts, "missing": len(runs) - len(records)}


def refuse_mixed(records: dict[str, "Record"]) -> None:
    """Refuse to publish a run that started from, or learned from, other weights than those published with it."""
    for record in records.values():
        for name, checksum in record.content.get("weights", {}).items():
            if name in records and records[name].content["files"]["members.safetensors"] != checksum:
                raise UserError(
                    f"run {record.fingerprint} builds on other weights than run {name} has in what is published, "
                    "perhaps from another kind of machine; publish runs that were trained together"
                )
