"""The run store: each run trained once, kept whole, checked before it is used.

A store is a folder with one folder per fingerprint (:mod:`ctrlib.store.record`). One lock per run keeps two processes
from training it twice: a file lock of the system, which is free again as soon as its process has ended, however it
ended. The state of an unfinished training lies in ``.training-FINGERPRINT`` (:mod:`ctrlib.store.checkpoints`) until its
record is there.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctrlib.config import Data, Member, Run, StoredMember
from ctrlib.data.folders import need_folder_path, store_root
from ctrlib.data.load import load_data, same_codes
from ctrlib.errors import UserError
from ctrlib.store.code import other_parts, run_code
from ctrlib.store.environment import environment, loaded_commit
from ctrlib.store.progress import epoch_line, progress_line
from ctrlib.store.published import Results, committed_results
from ctrlib.store.record import FILES, NAME, Damaged, Record, builds_on, read_record, storage_error, write_record

CHECKPOINT_S = 60.0  # seconds of training that an interruption may cost
POLL_S = 0.5  # between two looks at a run that another process trains


class RunStore:
    """The records below one folder; :func:`open_store` opens the project's own.

    With committed ``results``, a run that is not in the folder counts as trained when it is among them. Such a record
    has everything but its files; it is trained again only when somebody needs these.
    """

    def __init__(self, root: Path, checkpoint_s: float = CHECKPOINT_S, results: Results | None = None) -> None:
        need_folder_path(root)
        self.root = Path(root)
        self.checkpoint_s = checkpoint_s
        self.results = results
        self.passed_over: dict[str, str] = {}  # the records that do not count, and why
        self._healthy: set[str] = set()

    # Looking --------------------------------------------------------------------------------------------------------

    def fingerprints(self) -> list[str]:
        """Names of all records, healthy or not."""
        try:
            with os.scandir(self.root) as found:
                return sorted(entry.name for entry in found if NAME.fullmatch(entry.name) and not entry.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, self.root) from None

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
        """The record of a fingerprint (or of an unambiguous beginning of one), as :func:`read_record` gives it.

        Raises:
            UserError: no such record, or one of another format.
            Damaged: run.json is missing, cut or altered.
        """
        return read_record(self.root / self.name(fingerprint))

    def verify(self, fingerprint: str) -> Record:
        """Open a record and check every file of it; :class:`Damaged` names the first that is wrong."""
        record = self.open(fingerprint)
        for name in FILES:
            record.read(name)
        return record

    def find(self, run: Run, with_files: bool = False, verify: bool = True) -> Record | None:
        """The record of ``run``, or None when it has to be trained.

        What is damaged does not count, nor what other code trained, or from other weights than those of its checkpoints
        and teachers now: ``passed_over`` says why. Records made before there were digests of the code count, and pages
        say so. Without ``verify``, as for a plan, the checksums of weights and predictions are not compared.

        Unless weights and predictions are needed, a published record will do. It goes before the one in the folder,
        which may come from another kind of machine: what is published stays one set of numbers, also where some of its
        runs had to be trained again for their weights.
        """
        name = run.fingerprint
        if not with_files and self.results and name in self.results.runs:
            return Record(self.root / name, run, self.results.runs[name])
        try:
            if not (self.root / name).is_dir():
                return None
        except OSError as error:
            raise storage_error(error, self.root) from None
        try:
            record = self.verify(name) if verify and name not in self._healthy else self.open(name)
        except Damaged as damage:
            self.passed_over[name] = f"damaged ({damage})"
            return None
        if verify:
            self._healthy.add(name)
        if reason := self._why_outdated(record.content):
            self.passed_over[name] = reason
            return None
        self.passed_over.pop(name, None)
        return replace(record, run=run)  # its rows may lie under another name now

    def _why_outdated(self, content: dict[str, Any]) -> str:
        """Why a healthy record does not count, empty if it does."""
        if parts := other_parts(content.get("code", {})):
            return f"by other code ({', '.join(parts)})"
        for name, checksum in content.get("weights", {}).items():
            if (self.root / name).is_dir() and not self._has_weights(name, checksum):
                return "from other weights than their checkpoints or teachers have now"
        return ""

    def _has_weights(self, name: str, checksum: str) -> bool:
        """Whether a record counts and has the weights of that checksum."""
        try:
            content = self.open(name).content
        except Damaged:
            return False
        return content["files"][FILES[0]] == checksum and not self._why_outdated(content)

    def to_train_first(self, name: str) -> Run | None:
        """The run of that name if its weights have to be trained before they can be used; None where they are here."""
        if (self.root / name).is_dir():
            with suppress(Damaged):
                record = self.open(name)
                return record.run if self._why_outdated(record.content) else None
        elif self.results and name in self.results.runs:
            return Run.model_validate(self.results.runs[name]["run"])
        return None

    # Training one run -----------------------------------------------------------------------------------------------

    def train(
        self, run: Run, device: str = "auto", threads: int = 1, tell: Callable[[str], None] | None = None
    ) -> Record:
        """The record of ``run``: from the store if it is there, else trained now, by this process alone.

        ``threads`` share the members of a cohort on a CPU; ``tell`` gets a line now and then that says how far it is.
        """
        while (record := self.train_unless_busy(run, device, threads, tell)) is None:
            time.sleep(POLL_S)
        return record

    def train_unless_busy(
        self, run: Run, device: str = "auto", threads: int = 1, tell: Callable[[str], None] | None = None
    ) -> Record | None:
        """As :meth:`train`, but None at once while another process, here or elsewhere, trains ``run``."""
        with self.locked(run.fingerprint) as mine:
            if not mine:
                return None
            if record := self.find(run, with_files=True):
                shutil.rmtree(self._training(run), ignore_errors=True)  # left by a kill just after the record
                return record
            return self._train(run, device, threads, tell)

    @contextmanager
    def locked(self, fingerprint: str) -> Iterator[bool]:
        """Hold the lock of a run meanwhile; False where another process holds it."""
        folder = self.root / ".locks"
        lock = FileLock(folder / fingerprint)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=0)
        except OSError as error:
            raise storage_error(error, self.root) from None
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def _training(self, run: Run) -> Path:
        """Where the state of an unfinished training lies."""
        return self.root / f".training-{run.fingerprint}"

    def _train(self, run: Run, device: str, threads: int, tell: Callable[[str], None] | None) -> Record:
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
            weights = {stored.run: self.open(stored.run).content["files"][FILES[0]] for stored in builds_on(run)}
            if run.start is not None:
                starts = [self._checkpoint(start)[1] for start in run.start]
            if run.teachers is not None:
                teachers = [self._checkpoint(teacher, run.data) for teacher in run.teachers]
            dataset = load_data(run.data)
            place = resolve_device(device)
            identity = f"{run.fingerprint} {run_code(run)} {environment(place)}"
            checkpoints = Checkpoints(self._training(run), identity, self.checkpoint_s)
            on_epoch = tell and (lambda rows: tell(epoch_line(run, rows)))
            on_progress = tell and (lambda epoch, share: tell(progress_line(run, epoch, share)))
            trained = train(run, dataset, starts, device, on_epoch, on_progress, threads, checkpoints, teachers)
            about = {**environment(place), "products": trained.products, "threads": threads, "commit": loaded_commit()}
            record = write_record(self.root, run, trained, dataset, about, weights)
            checkpoints.clear()
            return record
        finally:
            torch.set_num_threads(before)
            release_memory()

    def _checkpoint(self, stored: StoredMember, data: Data | None = None) -> tuple[Member, dict]:
        """Settings and state of a member of an earlier run; where ``data`` is given, codes must mean what they meant
        to that run."""
        record = self.open(stored.run)
        if reason := self._why_outdated(record.content):
            raise UserError(f"run {stored.run}, whose weights are needed, was trained {reason}: train it again first")
        last = len(record.run.members) - 1
        if stored.member > last:
            raise UserError(f"run {stored.run} has no member {stored.member}; allowed: 0 to {last}")
        if data is not None and not same_codes(data, record.run.data):
            raise UserError(f"run {stored.run} saw other data than this run, so its members cannot teach here")
        return record.run.members[stored.member], record.states()[stored.member]

    # Training many runs (ctrlib.store.ensure) -----------------------------------------------------------------------

    def ensure(
        self, runs: Iterable[Run], device: str = "auto", workers: int | None = None, with_files: bool = False
    ) -> list[Record]:
        """The records of ``runs``, in their order; what the store lacks is trained, each distinct run once.

        On the CPU, runs are trained by ``workers`` processes (all cores unless told); where there are fewer runs than
        cores, the members of a cohort share those that are left. Neither touches the numbers. A GPU takes the runs
        one after the other unless ``workers`` processes are to share it. Progress is printed.

        Raises:
            UserError: runs failed; it says which, after the others have been trained.
        """
        from ctrlib.store.ensure import ensure_all, failure

        runs = list(runs)
        records, failed = ensure_all(self, runs, device, workers, with_files=with_files)
        if failed:
            raise failure({run.fingerprint: run for run in runs}, failed)
        return [records[run.fingerprint] for run in runs]

    def with_files(self, records: Iterable[Record]) -> list[Record]:
        """The records with their files; those that only have been published are trained again."""
        return self.ensure([record.run for record in records], with_files=True)


def open_store() -> RunStore:
    """The project's own store, with the results that are published in it."""
    return RunStore(store_root(), results=committed_results())
