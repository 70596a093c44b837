"""Many runs: which of them the store lacks, in which order they can be trained, and who trains them."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ctrlib.config import Precision, Run
from ctrlib.data.folders import data_root
from ctrlib.data.workers import usable_cores
from ctrlib.errors import UserError
from ctrlib.store.code import is_registered, run_code
from ctrlib.store.executors import Backend, InProcess, Pool, Task, progress_sink, run_tasks
from ctrlib.store.progress import Progress, label, print_line
from ctrlib.store.record import Record, StoreError, builds_on, storage_error
from ctrlib.store.runs import RunStore

SAME_CODE = "`ctrlib runs same-code COMMIT` finds out whether both codes give the same bits"


def ensure_all(
    store: RunStore,
    runs: Iterable[Run],
    device: str = "auto",
    workers: int | None = None,
    dask: str | None = None,
    show: Callable[[str], None] = print_line,
    with_files: bool = False,
) -> tuple[dict[str, Record], dict[str, Exception]]:
    """The records of ``runs``; what the store lacks is trained. Records and errors, both by fingerprint.

    Args:
        store: keeps them.
        runs: one that starts from another of them, or has it for a teacher, waits for it.
        device: with ``dask``, of the workers.
        workers: processes of this machine; see :func:`default_workers`.
        dask: address of a scheduler, whose workers train instead, one run on each at a time.
        show: gets the lines of progress.
        with_files: whether published records are not enough.

    Raises:
        UserError: the device does not have the precision that a run asks for; nothing was trained.
    """
    distinct = {run.fingerprint: run for run in runs}
    records = {name: record for name, run in distinct.items() if (record := store.find(run, with_files))}
    missing = _with_what_they_need(store, [run for name, run in distinct.items() if name not in records])
    failed: dict[str, Exception] = {}
    if missing or not with_files:
        show(f"{len(distinct)} runs: {len(records)} in the store, {len(missing)} to train")
        lacking = [name for name in distinct if name not in records and name in store.passed_over]
        for reason, count in Counter(store.passed_over[name] for name in lacking).items():
            hint = f"; {SAME_CODE}" if "other code" in reason else ""
            show(f"{count} of them are in the store, {reason}: they will be trained again{hint}")
    if missing:
        if not dask:
            check_precision({run.recipe.precision for run in missing}, device)
        progress = Progress(len(missing), show)
        for run, found in _train_all(store, missing, device, workers, dask, progress):
            if isinstance(found, Record):
                records[run.fingerprint] = found
                progress.finished(found)
            else:
                failed[run.fingerprint] = found
                progress.failed(run, found)
    return records, failed


def default_workers(device: str) -> int:
    """How many runs this machine trains at once unless somebody says: one on each core, or one on a GPU."""
    from ctrlib.training.loop import resolve_device

    return usable_cores() if resolve_device(device).type == "cpu" else 1


def check_precision(precisions: Iterable[Precision], device: str) -> None:
    """Refuse a precision that the device does not have, before any run takes time.

    Raises:
        UserError: tf32 without a GPU.
    """
    from ctrlib.fast.machine import arithmetic
    from ctrlib.training.loop import resolve_device

    for precision in precisions:
        with arithmetic(precision, resolve_device(device)):
            pass


def failure(runs: dict[str, Run], failed: dict[str, Exception]) -> Exception:
    """One error for the runs that failed: the first three by name. A single one keeps its kind, and so does a bug."""
    bugs = [error for error in failed.values() if not isinstance(error, UserError)]
    if bugs:
        return bugs[0]
    names = {name: label(runs[name]) if name in runs else "a run that others build on" for name in failed}
    lines = [f"{names[name]} ({name}): {error}" for name, error in list(failed.items())[:3]]
    if len(failed) == 1:
        error = next(iter(failed.values()))
        error.args = (lines[0],)
        return error
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return UserError(f"{len(failed)} runs failed, the others are in the store: {'; '.join(lines)}{more}")


def _with_what_they_need(store: RunStore, missing: list[Run]) -> list[Run]:
    """The runs to train, and with them those of which they need weights that are not here, or by other code."""
    found = {run.fingerprint: run for run in missing}
    left = list(missing)
    while left:
        for name in {stored.run for stored in builds_on(left.pop())} - found.keys():
            if needed := store.to_train_first(name):
                found[name] = needed
                left.append(needed)
    return list(found.values())


def _train_all(
    store: RunStore, missing: list[Run], device: str, workers: int | None, dask: str | None, progress: Progress
) -> Iterator[tuple[Run, Record | Exception]]:
    """Train distinct runs on the backend that is asked for; yield each with its record or its error as it ends."""
    root, threads = store.root, None
    only_here = sorted(
        {member.architecture for run in missing for member in run.members if is_registered(member.architecture)}
    )
    if dask:
        if only_here:
            raise UserError(f"{only_here[0]} was registered by this process, so no other process can train it")
        from ctrlib.store.dask import Dask

        backend: Backend = Dask(dask)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, root) from None
        root = root.resolve()
    else:
        cores = 1 if only_here else workers or default_workers(device)
        at_once = min(cores, len(missing))
        threads = cores // at_once
        backend = Pool(cores) if at_once > 1 else InProcess(progress.beat)
    data = None if isinstance(backend, InProcess) else str(data_root().absolute())
    by_name = {run.fingerprint: run for run in missing}
    tasks = [
        Task(
            name,
            train_task,
            (str(root), store.checkpoint_s, data, name, run.model_dump_json(), run_code(run), device, threads),
            frozenset(stored.run for stored in builds_on(run)) & by_name.keys(),
        )
        for name, run in by_name.items()
    ]
    with backend:
        for task, error in run_tasks(tasks, backend, progress.beat):
            if isinstance(error, StoreError):
                raise error  # all others would be trained for nothing
            yield by_name[task.name], error or _trained(store, task.name)


def train_task(
    root: str,
    checkpoint_s: float,
    data: str | None,
    fingerprint: str,
    settings: str,
    code: dict[str, str],
    device: str,
    threads: int | None,
) -> bool:
    """Train a run in whatever process this is; False while another one trains it.

    The folders come along, ``data`` unless it is this process's own, and ``threads`` unless this is a Dask worker,
    which knows them.
    """
    run = Run.model_validate_json(settings)
    if run.fingerprint != fingerprint or (mine := run_code(run)) != code:
        parts = "" if run.fingerprint != fingerprint else f" ({', '.join(p for p in code if code[p] != mine.get(p))})"
        raise UserError(f"{platform.node()}: has other code of ctrlib{parts}; install the one that asks for this run")
    if threads is None:
        from ctrlib.store.dask import worker_threads

        threads = worker_threads()
        if not Path(root).is_dir():
            raise StoreError(
                f"{platform.node()}: no folder {root}; the run store has to be on a folder that all workers see"
            )
    if data:
        os.environ["CTRLIB_DATA"] = data  # a kept worker would still have that of its start
    store = RunStore(Path(root), checkpoint_s)
    return store.train_unless_busy(run, device, threads, progress_sink()) is not None


def _trained(store: RunStore, name: str) -> Record:
    """The record that a worker has just made."""
    if not (store.root / name).is_dir():
        raise StoreError(
            f"{store.root}: run {name} was trained but is not here; workers on other machines need the same store, "
            "on a folder that all of them see under this path"
        )
    return store.open(name)
