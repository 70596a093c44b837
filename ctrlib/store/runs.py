"""The run store: each run trained once, kept whole, checked before it is used.

A store is a folder with one folder per fingerprint:

    run.json             settings, history, test metrics, environment, wall time, checksums
    members.safetensors  weights and Adam state of every member
    predictions.npz      validation and test logits, float32 (K, rows)

A record is written aside and renamed when whole; one lock per run keeps two processes from training it twice. The state
of an unfinished training lies in ``.training-FINGERPRINT`` (:mod:`ctrlib.store.checkpoints`) until its record is there.
Weights are safetensors and predictions plain arrays: nothing that could execute code is ever loaded.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ctrlib.config import NUMERICS_VERSION, Data, Member, Run, StoredMember, digest
from ctrlib.data.files import parse_json, remove, write_synced
from ctrlib.data.folders import data_root, store_root
from ctrlib.data.load import load_data
from ctrlib.data.workers import usable_cores
from ctrlib.errors import UserError, shown
from ctrlib.store.content import check_content
from ctrlib.store.environment import environment, loaded_commit
from ctrlib.store.executors import POLL_S, Dask, Pool, Task, Team, Tell, dask_threads, teller, work_off
from ctrlib.store.locks import RunLock
from ctrlib.store.progress import Progress, epoch_line, label, print_line, progress_line
from ctrlib.store.published import Results, committed_results
from ctrlib.store.record import (
    FILES,
    FORMAT,
    NAME,
    Damaged,
    Record,
    StoreError,
    builds_on,
    read_file,
    storage_error,
    test_metrics,
)

CHECKPOINT_S = 60.0  # seconds of training that an interruption may cost


class RunStore:
    """The records below one folder; :func:`open_store` opens the project's own.

    With committed ``results``, a run that is not in the folder counts as trained when it is among them. Such a record
    has everything but its files; it is trained again only when somebody needs these.
    """

    def __init__(
        self, root: Path, checkpoint_s: float = CHECKPOINT_S, results: Results | None = None, says_damage: bool = True
    ) -> None:
        if re.match("[A-Za-z][A-Za-z0-9+.-]+:/", str(root)):  # C:/ is a drive
            raise UserError(
                f"{root}: the run store must be a folder, which may be shared over the network; object stores have no "
                "locks and cannot rename a folder in one step"
            )
        self.root = Path(root)
        self.checkpoint_s = checkpoint_s
        self.results = results
        self._healthy: set[str] = set()
        self._says_damage, self._said = says_damage, set[str]()

    def fingerprints(self) -> list[str]:
        """Names of all records, healthy or not."""
        try:
            found = list(self.root.iterdir()) if self.root.exists() else []
        except OSError as error:
            raise storage_error(error, self.root) from None
        return sorted(path.name for path in found if NAME.fullmatch(path.name) and not path.is_file())

    def name(self, beginning: str) -> str:
        """The one fingerprint that is ``beginning``, or else begins with it; :class:`UserError` if there is no one."""
        if NAME.fullmatch(beginning) and (self.root / beginning).is_dir():
            return beginning  # without a look at all the others, which for each of ten thousand runs takes hours
        found = [name for name in self.fingerprints() if name.startswith(beginning)]
        if beginning in found:
            return beginning
        if len(found) != 1:
            what = f"{len(found)} runs begin with" if found else "no run"
            raise UserError(f"{what} {beginning!r} in {self.root}; `ctrlib runs list` shows them")
        return found[0]

    def open(self, fingerprint: str) -> Record:
        """The record of a fingerprint (or of an unambiguous beginning of one); its run.json is checked.

        Raises:
            UserError: no such record, or one of another format, which is never overwritten.
            Damaged: run.json is missing, cut or altered.
        """
        folder = self.root / self.name(fingerprint)
        path = folder / "run.json"
        raw = read_file(path)
        try:
            content = parse_json(raw)
            checksum, version = content.pop("checksum"), content["format"]
            whole = digest(content) == checksum  # computed alike in every format
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Damaged(f"{path}: not a whole run record") from None
        if not whole:
            raise Damaged(f"{path}: its checksum is not the one recorded when it was written")
        if version != FORMAT:
            raise UserError(
                f"{path}: format {shown(version)}; this ctrlib reads format {FORMAT}: use the ctrlib that wrote it, "
                "or another store (CTRLIB_RUNS)"
            )
        try:
            run = Run.model_validate(content["run"])
            check_content(content, len(run.members), FILES)
        except (KeyError, ValueError, TypeError):
            raise Damaged(f"{path}: not a whole run record") from None
        current = content["numerics"] == NUMERICS_VERSION
        if content["fingerprint"] != folder.name or (current and run.fingerprint != folder.name):
            raise Damaged(f"{path}: is the record of another run")
        return Record(folder, run, content)

    def verify(self, fingerprint: str) -> Record:
        """Open a record and check every file of it; :class:`Damaged` names the first that is wrong."""
        record = self.open(fingerprint)
        for name in FILES:
            record._checked(name)
        return record

    def find(self, run: Run, whole: bool = False) -> Record | None:
        """The healthy record of ``run``, or None when it has to be trained; damage is said, then trained again.

        Unless it must be ``whole``, with weights and predictions, a published record will do. It goes before the one in
        the folder, which may come from another kind of machine: what is published stays one set of numbers, also where
        some of its runs had to be trained again for their weights.
        """
        name = run.fingerprint
        if not whole and (published := self._published(run)):
            return published
        try:
            if not (self.root / name).is_dir():
                return None
        except OSError as error:
            raise storage_error(error, self.root) from None
        try:
            record = self.open(name) if name in self._healthy else self.verify(name)
        except Damaged as damage:
            if self._says_damage and str(damage) not in self._said:
                print(f"damaged record, will be trained again: {damage}", flush=True)
            self._said.add(str(damage))
            return None
        self._healthy.add(name)
        return record

    def _published(self, run: Run) -> Record | None:
        """The published record of a run: all but its files."""
        content = self.results.runs.get(run.fingerprint) if self.results else None
        return Record(self.root / run.fingerprint, run, content) if content else None

    def whole(self, records: Iterable[Record]) -> list[Record]:
        """The records with their files; those that only have been published are trained again."""
        return self.ensure([record.run for record in records], whole=True)

    def save(self, run: Run, trained, dataset, seconds: float, environment: dict) -> Record:
        """Write a record aside and rename it into place when whole."""
        from safetensors.torch import save

        tensors = {f"{n}|{key}": v.contiguous() for n, state in enumerate(trained.states) for key, v in state.items()}
        arrays = io.BytesIO()
        np.savez(arrays, valid=trained.valid_logits, test=trained.test_logits)
        files = {"members.safetensors": save(tensors), "predictions.npz": arrays.getvalue()}
        content = {
            "format": FORMAT,
            "numerics": NUMERICS_VERSION,
            "fingerprint": run.fingerprint,
            "run": run.model_dump(mode="json"),
            "history": trained.history,
            "kept_epochs": trained.kept_epochs,
            "test": test_metrics(trained.test_logits, dataset.test.labels),
            "rows": {split: len(getattr(dataset, split)) for split in ("train", "valid", "test")},
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "environment": environment,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        final = self.root / run.fingerprint
        aside = self.root / f".writing-{run.fingerprint}"
        try:
            remove(aside)  # left by a process that was killed: the caller holds the lock
            aside.mkdir(parents=True)
            for name, data in files.items():
                write_synced(aside / name, data)
            write_synced(aside / "run.json", json.dumps({**content, "checksum": digest(content)}, indent=1).encode())
            remove(final)  # only a damaged record can be here: the caller holds the lock and found none
            aside.rename(final)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise storage_error(error, self.root) from None
        return Record(final, run, content)

    def train(self, run: Run, device: str = "auto", threads: int = 1, tell: Tell | None = None) -> Record:
        """The record of ``run``: from the store if it is there, else trained now, by this process alone.

        ``threads`` share the members of a cohort on a CPU; ``tell`` gets a line now and then that says how far it is.
        """
        while (record := self.train_unless_busy(run, device, threads, tell)) is None:
            time.sleep(POLL_S)
        return record

    def train_unless_busy(
        self, run: Run, device: str = "auto", threads: int = 1, tell: Tell | None = None
    ) -> Record | None:
        """As :meth:`train`, but None at once while another process, here or elsewhere, trains ``run``."""
        lock = self.lock(run.fingerprint)
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            if not lock.acquire():
                return None
        except OSError as error:
            raise storage_error(error, self.root) from None
        with lock:
            if record := self.find(run, whole=True):
                shutil.rmtree(self._training(run), ignore_errors=True)  # left by a kill just after the record
                return record
            return self._train(run, device, threads, tell, lock)

    def _training(self, run: Run) -> Path:
        """Where the state of an unfinished training lies."""
        return self.root / f".training-{run.fingerprint}"

    def _train(self, run: Run, device: str, threads: int, tell: Tell | None, lock: RunLock) -> Record | None:
        import torch

        from ctrlib.fast import install
        from ctrlib.fast.machine import release_memory
        from ctrlib.store.checkpoints import Checkpoints
        from ctrlib.training.loop import resolve_device, train

        install()
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the cores are shared out among runs and members, so the numbers do not know them
        try:
            starts = teachers = None
            if run.start is not None:
                starts = [self._checkpoint(start)[1] for start in run.start]
            if run.teachers is not None:
                teachers = [self._checkpoint(teacher, run.data) for teacher in run.teachers]
            dataset = load_data(run.data)
            place = resolve_device(device)
            identity = f"{run.fingerprint} {environment(place)}"
            checkpoints = Checkpoints(self._training(run), identity, self.checkpoint_s)
            on_epoch = on_progress = None
            if tell:
                on_epoch = lambda rows: tell(epoch_line(run, rows))  # noqa: E731
                on_progress = lambda epoch, share: tell(progress_line(run, epoch, share))  # noqa: E731
            trained = train(run, dataset, starts, device, on_epoch, on_progress, threads, checkpoints, teachers)
            if lock.is_lost():  # this process slept, and another one took it for dead and trains in its place
                return None
            about = {**environment(place), "products": trained.products, "threads": threads, "commit": loaded_commit()}
            record = self.save(run, trained, dataset, trained.seconds, about)
            checkpoints.clear()
            return record
        finally:
            torch.set_num_threads(before)
            release_memory()

    def _checkpoint(self, stored: StoredMember, data: Data | None = None) -> tuple[Member, dict]:
        """Settings and state of a member of an earlier run; where ``data`` is given, it must be what that run saw."""
        record = self.open(stored.run)
        last = len(record.run.members) - 1
        if stored.member > last:
            raise UserError(f"run {stored.run} has no member {stored.member}; allowed: 0 to {last}")
        if data is not None and data.fingerprint != record.run.data.fingerprint:
            raise UserError(f"run {stored.run} saw other data than this run, so its members cannot teach here")
        return record.run.members[stored.member], record.states()[stored.member]

    def ensure(
        self, runs: Iterable[Run], device: str = "auto", workers: int | None = None, whole: bool = False
    ) -> list[Record]:
        """The records of ``runs``, in their order; what the store lacks is trained, each distinct run once.

        On the CPU, runs are trained by ``workers`` processes (all cores unless told); where there are fewer runs than
        cores, the members of a cohort share those that are left. Neither touches the numbers. A GPU takes the runs
        one after the other unless ``workers`` processes are to share it. Progress is printed.

        Raises:
            UserError: runs failed; it says which, after the others have been trained.
        """
        runs = list(runs)
        records, failed = self.ensure_all(runs, device, workers, whole=whole)
        if failed:
            raise failure({run.fingerprint: run for run in runs}, failed)
        return [records[run.fingerprint] for run in runs]

    def ensure_all(
        self,
        runs: Iterable[Run],
        device: str = "auto",
        workers: int | None = None,
        dask: str | None = None,
        show: Tell = print_line,
        whole: bool = False,
    ) -> tuple[dict[str, Record], dict[str, Exception]]:
        """As :meth:`ensure`, but what failed is returned: records and errors, both by fingerprint.

        Args:
            runs: one that starts from another of them, or has it for a teacher, waits for it.
            device: with ``dask``, of the workers.
            workers: processes of this machine; see :func:`side_by_side`.
            dask: address of a scheduler, whose workers train instead, one run on each at a time.
            show: gets the lines of progress.
            whole: whether published records are not enough.

        Raises:
            UserError: the device does not have the precision that a run asks for; nothing was trained.
        """
        distinct = {run.fingerprint: run for run in runs}
        records = {name: record for name, run in distinct.items() if (record := self.find(run, whole))}
        missing = self._with_what_they_need([run for name, run in distinct.items() if name not in records])
        failed: dict[str, Exception] = {}
        if missing or not whole:
            show(f"{len(distinct)} runs: {len(records)} in the store, {len(missing)} to train")
        if missing:
            if not dask:
                check_precision(missing, device)
            progress = Progress(len(missing), show)
            for run, found in self._train_all(missing, device, workers, dask, progress):
                if isinstance(found, Record):
                    records[run.fingerprint] = found
                    progress.finished(found)
                else:
                    failed[run.fingerprint] = found
                    progress.failed(run, found)
        return records, failed

    def _with_what_they_need(self, missing: list[Run]) -> list[Run]:
        """The runs to train, and before them those of which they need weights that only have been published."""
        found = {run.fingerprint: run for run in missing}
        left = list(missing)
        while left:
            run = left.pop()
            for stored in builds_on(run):
                content = self.results.runs.get(stored.run) if self.results else None
                if content and stored.run not in found and not (self.root / stored.run).is_dir():
                    found[stored.run] = needed = Run.model_validate(content["run"])
                    left.append(needed)
        return list(found.values())

    def _train_all(
        self, missing: list[Run], device: str, workers: int | None, dask: str | None, progress: Progress
    ) -> Iterator[tuple[Run, Record | Exception]]:
        """Train distinct runs by whom there is, and yield each with its record or its error as it ends."""
        root, threads = self.root, None
        if dask:
            team: Team = Dask(dask)
            root = self._make_root().resolve()
        else:
            cores = workers or side_by_side(device)
            workers = min(cores, len(missing))
            threads = cores // workers
            team = Pool(workers) if workers > 1 else Team(progress.beat)
        by_name = {run.fingerprint: run for run in missing}
        data = None if type(team) is Team else str(data_root().absolute())
        place = (str(root), self.checkpoint_s, data)
        tasks = [
            Task(
                name,
                train_task,
                (*place, name, run.model_dump_json(), device, threads),
                frozenset(stored.run for stored in builds_on(run)) & by_name.keys(),
            )
            for name, run in by_name.items()
        ]
        with team:
            for task, error in work_off(tasks, team, progress.beat, self._waiting_line):
                if isinstance(error, StoreError):
                    raise error  # all others would be trained for nothing
                yield by_name[task.name], error or self._trained(task.name)

    def _waiting_line(self, names: list[str]) -> str:
        """Who trains what there is to wait for."""
        owners = []
        for name in names:
            with contextlib.suppress(OSError):
                owners.append(str(self.lock(name).owner() or "a process that did not say its name"))
        found = ", ".join(dict.fromkeys(owners))
        return f"waiting for {len(names)} runs that other processes train: {found}"

    def _trained(self, name: str) -> Record:
        """The record that a worker has just made."""
        if not (self.root / name).is_dir():
            raise StoreError(
                f"{self.root}: run {name} was trained but is not here; workers on other machines need the same store, "
                "on a folder that all of them see under this path"
            )
        return self.open(name)

    def _make_root(self) -> Path:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.root) from None
        return self.root

    def lock(self, fingerprint: str) -> RunLock:
        """The lock of a run; its folder is made by :meth:`train_unless_busy`."""
        return RunLock(self.root / ".locks", fingerprint)


def open_store() -> RunStore:
    """The project's own store, with the results that are published in it."""
    return RunStore(store_root(), results=committed_results())


def train_task(
    root: str,
    checkpoint_s: float,
    data: str | None,
    fingerprint: str,
    settings: str,
    device: str,
    threads: int | None,
) -> bool:
    """Train a run in whatever process this is; False while another one trains it.

    The folders come along, ``data`` unless it is this process's own, and ``threads`` unless this is a Dask worker,
    which knows them.
    """
    run = Run.model_validate_json(settings)
    if threads is None:
        threads = dask_threads()
        if run.fingerprint != fingerprint:
            raise UserError(f"{platform.node()}: has another version of ctrlib; install the one that asks for this run")
        if not Path(root).is_dir():
            raise StoreError(
                f"{platform.node()}: no folder {root}; the run store has to be on a folder that all workers see"
            )
    if data:
        os.environ["CTRLIB_DATA"] = data  # a kept worker would still have that of its start
    store = RunStore(Path(root), checkpoint_s, says_damage=False)  # whoever asked for the run has said it
    return store.train_unless_busy(run, device, threads, teller()) is not None


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


def side_by_side(device: str) -> int:
    """How many runs this machine trains at once unless somebody says: one on each core, or one on a GPU."""
    from ctrlib.training.loop import resolve_device

    return usable_cores() if resolve_device(device).type == "cpu" else 1


def check_precision(runs: Iterable[Run], device: str) -> None:
    """Refuse runs whose precision the device does not have, before any of them takes time.

    Raises:
        UserError: tf32 without a GPU.
    """
    from ctrlib.fast.machine import arithmetic
    from ctrlib.training.loop import resolve_device

    for precision in {run.recipe.precision for run in runs}:
        with arithmetic(precision, resolve_device(device)):
            pass
