"""The run store: each run trained once, kept whole, checked before it is used.

A store is a folder with one folder per fingerprint:

    run.json             settings, history, test metrics, environment, wall time, checksums
    members.safetensors  weights and Adam state of every member
    predictions.npz      validation and test logits, float32 (K, rows)

A record is written aside and renamed when whole; one lock per run keeps two processes from training it twice. The state
of an unfinished training lies in ``.training-FINGERPRINT`` (:mod:`ctrlib.resume`) until its record is there.
Weights are safetensors and predictions plain arrays: nothing that could execute code is ever loaded.
"""

import atexit
import errno
import hashlib
import io
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ctrlib.config import NUMERICS_VERSION, Checkpoint, Data, Run, SyntheticSettings, data_root, digest
from ctrlib.data.workers import usable_cores
from ctrlib.errors import UserError, shown
from ctrlib.files import Irregular, parse_json, read_plain, remove, write_synced
from ctrlib.stored import check_content, read_logits, read_states

FORMAT = 1
FILES = ("members.safetensors", "predictions.npz")
NAME = re.compile("[0-9a-f]{16}")  # of a record's folder; whatever else lies in a store is somebody else's
HEARTBEAT_S = 10.0
POLL_S = 0.5  # between two looks at what other processes do
CHECKPOINT_S = 60.0  # seconds of training that an interruption may cost
Tell = Callable[[str], None]


class Damaged(UserError):
    """A record that is not what was written: named in one line, never read."""


@dataclass(frozen=True)
class Record:
    """A finished run in a store."""

    folder: Path
    run: Run
    content: dict[str, Any]  # run.json

    @property
    def fingerprint(self) -> str:
        """The run's name."""
        return self.content["fingerprint"]

    @property
    def history(self) -> list[dict]:
        """One row per epoch and member."""
        return self.content["history"]

    @property
    def seconds(self) -> float:
        """Wall time of the training."""
        return self.content["seconds"]

    def logits(self, split: str = "test") -> np.ndarray:
        """Logits (K, rows) float32 of the kept weights on ``valid`` or ``test``."""
        shape = (len(self.run.members), self.content["rows"][split])
        return self._read("predictions.npz", lambda content: read_logits(content, split, shape))

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (K, rows) float64."""
        return 1 / (1 + np.exp(-self.logits(split).astype(np.float64)))

    def states(self) -> list[dict]:
        """Weights and Adam state of each member (see :data:`ctrlib.trainer.State`)."""
        return self._read("members.safetensors", lambda content: read_states(content, len(self.run.members)))

    def _read(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        """What ``parse`` makes of a file whose checksum agrees."""
        try:
            return parse(self._checked(name))
        except ValueError as error:
            raise Damaged(f"{self.folder / name}: not what a run record holds ({error})") from None

    def _checked(self, name: str) -> bytes:
        """The bytes of one file, after their checksum agreed."""
        path = self.folder / name
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != self.content["files"][name]:
            raise Damaged(f"{path}: its checksum is not the one recorded when it was written")
        return content


class RunStore:
    """The records below one folder; ``RunStore(store_root())`` is the project's own."""

    def __init__(self, root: Path, checkpoint_s: float = CHECKPOINT_S) -> None:
        self.root = Path(root)
        self.checkpoint_s = checkpoint_s
        self._healthy: set[str] = set()
        self._said: set[str] = set()  # about damage

    def fingerprints(self) -> list[str]:
        """Names of all records, healthy or not."""
        try:
            found = list(self.root.iterdir()) if self.root.exists() else []
        except OSError as error:
            raise storage_error(error, self.root) from None
        return sorted(path.name for path in found if NAME.fullmatch(path.name) and not path.is_file())

    def name(self, beginning: str) -> str:
        """The one fingerprint that is ``beginning``, or else begins with it; :class:`UserError` if there is no one."""
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

    def find(self, run: Run) -> Record | None:
        """The healthy record of ``run``, or None when it has to be trained; damage is said, then trained again."""
        name = run.fingerprint
        try:
            if not (self.root / name).is_dir():
                return None
        except OSError as error:
            raise storage_error(error, self.root) from None
        try:
            record = self.open(name) if name in self._healthy else self.verify(name)
        except Damaged as damage:
            if str(damage) not in self._said:
                print(f"damaged record, will be trained again: {damage}", flush=True)
            self._said.add(str(damage))
            return None
        self._healthy.add(name)
        return record

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
        """As :meth:`train`, but None at once while another process trains ``run``.

        The lock belongs to the operating system, which frees it with the process that held it, however that ended.
        """
        lock = FileLock(self.root / ".locks" / f"{run.fingerprint}.lock")
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            held = lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise storage_error(error, self.root) from None
        with held:
            if record := self.find(run):
                shutil.rmtree(self._training(run), ignore_errors=True)  # left by a kill just after the record
                return record
            return self._train(run, device, threads, tell)

    def _training(self, run: Run) -> Path:
        """Where the state of an unfinished training lies."""
        return self.root / f".training-{run.fingerprint}"

    def _train(self, run: Run, device: str, threads: int, tell: Tell | None) -> Record:
        import torch

        from ctrlib.machine import release_memory
        from ctrlib.resume import Checkpoints
        from ctrlib.trainer import resolve_device, train

        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the cores are shared out among runs and members, so the numbers do not know them
        try:
            starts = None
            if run.start is not None:
                starts = [self._checkpoint(start) for start in run.start]
            dataset = load_data(run.data)
            place = resolve_device(device)
            identity = f"{run.fingerprint} {environment(place)}"
            checkpoints = Checkpoints(self._training(run), identity, self.checkpoint_s)
            on_epoch = on_progress = None
            if tell:
                on_epoch = lambda rows: tell(epoch_line(run, rows))  # noqa: E731
                on_progress = lambda epoch, share: tell(progress_line(run, epoch, share))  # noqa: E731
            trained = train(run, dataset, starts, device, on_epoch, on_progress, threads, checkpoints)
            about = {**environment(place), "products": trained.products, "threads": threads}
            record = self.save(run, trained, dataset, trained.seconds, about)
            checkpoints.clear()
            return record
        finally:
            torch.set_num_threads(before)
            release_memory()

    def _checkpoint(self, start: Checkpoint) -> dict:
        """The state of the member that a checkpoint names."""
        record = self.open(start.run)
        last = len(record.run.members) - 1
        if start.member > last:
            raise UserError(f"run {start.run} has no member {start.member} to start from; allowed: 0 to {last}")
        return record.states()[start.member]

    def ensure(self, runs: Iterable[Run], device: str = "auto", workers: int | None = None) -> list[Record]:
        """The records of ``runs``, in their order; what the store lacks is trained, each distinct run once.

        On the CPU, runs are trained by ``workers`` processes (all cores unless told); where there are fewer runs than
        cores, the members of a cohort share those that are left. Neither touches the numbers. A GPU takes the runs
        one after the other. Progress is printed.
        """
        runs = list(runs)
        distinct = {run.fingerprint: run for run in runs}
        records = {name: record for name, run in distinct.items() if (record := self.find(run))}
        missing = [run for name, run in distinct.items() if name not in records]
        print(f"{len(distinct)} runs: {len(records)} in the store, {len(missing)} to train", flush=True)
        if missing:
            from ctrlib.trainer import resolve_device

            on_cpu = resolve_device(device).type == "cpu"
            cores = (workers or usable_cores()) if on_cpu else 1
            workers = min(cores, len(missing))
            train = self._train_in_pool if workers > 1 else self._train_here
            progress = Progress(len(missing))
            for record in train(missing, device, workers, cores // workers, progress):
                records[record.fingerprint] = record
                progress.finished(record)
        return [records[run.fingerprint] for run in runs]

    def _train_here(self, runs, device: str, _workers: int, threads: int, progress: "Progress") -> Iterator[Record]:
        left = list(runs)
        while left:
            busy = []
            for run in left:
                record = self.train_unless_busy(run, device, threads, progress.beat)
                if record is None:
                    busy.append(run)
                else:
                    yield record
            if len(busy) == len(left):
                progress.beat(f"waiting for {len(busy)} runs that other processes train")
                time.sleep(POLL_S)
            left = busy

    def _train_in_pool(self, runs, device: str, workers: int, threads: int, progress: "Progress") -> Iterator[Record]:
        pool, messages = worker_pool(workers)
        place = (str(self.root), self.checkpoint_s, str(data_root()))

        def submit(run: Run) -> Future:
            return pool.submit(_train_in_worker, *place, run.model_dump_json(), device, threads)

        try:
            waiting = {submit(run): run for run in runs}
            busy: list[Run] = []
            while waiting or busy:
                done, _ = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
                while not messages.empty():
                    progress.beat(messages.get())
                for future in done:
                    run, name = waiting.pop(future), future.result()
                    if name is None:
                        busy.append(run)
                    else:
                        yield self.open(name)
                if busy and not done:
                    if not waiting:
                        progress.beat(f"waiting for {len(busy)} runs that other processes train")
                        time.sleep(POLL_S)
                    waiting |= {submit(run): run for run in busy}
                    busy = []
        except BrokenProcessPool:
            stop_pool(pool)
            raise UserError(
                "a worker process was killed, perhaps for want of memory; finished runs are kept: "
                "lower batch_size or embedding_dim, or run the same command again to go on"
            ) from None
        except BaseException:
            stop_pool(pool)
            raise


class Progress:
    """Lines that say how far a batch of runs is: one per finished run, and a sign of life every few seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began, self.last = total, 0, time.monotonic(), time.monotonic()

    def finished(self, record: Record) -> None:
        """Count a finished run and print it with the time that is left."""
        self.done += 1
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        aucs = " ".join(f"{test['auc']:.4f}" for test in record.content["test"][:4])
        to_go = f", about {left:.0f} s to go" if self.done < self.total else ""
        self._print(f"[{self.done}/{self.total}] {label(record.run)}: AUC {aucs}, {record.seconds:.1f} s{to_go}")

    def beat(self, text: str) -> None:
        """Print ``text`` if nothing was printed for a while."""
        if time.monotonic() - self.last > HEARTBEAT_S:
            self._print(f"[{self.done}/{self.total}] ... {text}")

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        print(text, flush=True)


def label(run: Run) -> str:
    """A run in a few words: its members, how they are coupled, where they start."""
    names = [member.architecture for member in run.members]
    cohort = " + ".join(
        f"{names.count(name)} {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    kind = "solo" if run.coupling.is_solo else f"mutual {run.coupling.form} {run.coupling.target}"
    start = "from scratch" if run.start is None else "from checkpoints"
    return f"{cohort} {kind} {start}, draw {run.data.draw}"


def epoch_line(run: Run, rows: list[dict]) -> str:
    """The sign of life of a run in training."""
    auc = np.mean([row["valid_auc"] for row in rows])
    return f"{label(run)}: epoch {rows[0]['epoch']} of at most {run.recipe.epochs}, validation AUC {auc:.4f}"


def progress_line(run: Run, epoch: int, share: float) -> str:
    """The sign of life within an epoch."""
    return f"{label(run)}: epoch {epoch} of at most {run.recipe.epochs}, {share:.0%} of its steps"


def test_metrics(logits: np.ndarray, labels: np.ndarray) -> list[dict]:
    """AUC, log loss and calibration ratio of each member on the test rows."""
    from ctrlib import metrics

    rows = []
    for member in logits:
        p = 1 / (1 + np.exp(-member.astype(np.float64)))
        rows.append(
            {
                "auc": metrics.auc(labels, member),
                "logloss": metrics.logloss_from_logits(labels, member),
                "calibration": float(p.mean() / np.mean(labels)),
            }
        )
    return rows


def data_settings(name: str, draw: int, synthetic: SyntheticSettings | None = None) -> Data:
    """The :class:`Data` of a run: looks up (synthetic: computes) the fingerprint of the rows."""
    if name == "synthetic":
        from ctrlib.data.synthetic import fingerprint

        synthetic = synthetic or SyntheticSettings()
        return Data(name=name, draw=draw, synthetic=synthetic, fingerprint=fingerprint(synthetic, draw))
    found = _load_cached(name, draw, None, str(data_root()))
    return Data(name=name, draw=draw, fingerprint=found.fingerprint)


def load_data(data: Data):
    """The rows that ``data`` names (the last two are kept in memory)."""
    return _load_cached(data.name, data.draw, data.synthetic, str(data_root()))


@lru_cache(maxsize=2)
def _load_cached(name: str, draw: int, synthetic: SyntheticSettings | None, root: str):
    from ctrlib.data.sources import load

    return load(name, draw=draw, data_dir=Path(root), synthetic=synthetic)


def environment(device) -> dict:
    """What the numbers may depend on beyond the settings, and what the time does: versions, machine, chosen paths."""
    import torch

    from ctrlib.machine import keep_freed_memory

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.platform(),
        "processor": processor_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "keeps_freed_memory": keep_freed_memory(),
    }


def processor_name() -> str:
    """The processor in words, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_file(path: Path) -> bytes:
    """The bytes of a file of a record; a missing file is damage, a forbidden one the user's to mend."""
    try:
        if path.parent.is_symlink():
            raise Irregular("the folder of the record is a link")
        return read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"{path}: the file is missing") from None
    except Irregular as error:
        raise Damaged(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def storage_error(error: OSError, root: Path) -> UserError:
    """What a full or forbidden disk means for the user, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{root}: no space left on the disk; the finished runs are safe, free some space and go on")
    return UserError(f"{root}: cannot use the run store ({error.strerror or error}); set CTRLIB_RUNS to another folder")


# Worker processes ------------------------------------------------------------------------------------------------

_messages = None  # in a worker: the queue to the process that shows progress
_pools: dict[int, tuple[ProcessPoolExecutor, Any]] = {}


def worker_pool(workers: int) -> tuple[ProcessPoolExecutor, Any]:
    """A pool that is kept for the next call, because a fresh process imports torch for seconds."""
    if workers not in _pools:
        context = multiprocessing.get_context("spawn")
        messages = context.SimpleQueue()
        pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(messages, os.getpid()))
        _pools[workers] = (pool, messages)
    return _pools[workers]


@atexit.register
def stop_pools() -> None:
    """End idle workers with the process that kept them."""
    for pool, _ in list(_pools.values()):
        stop_pool(pool)


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """End the workers now; unfinished runs leave nothing behind but a lock nobody holds."""
    for workers in [n for n, (kept, _) in _pools.items() if kept is pool]:
        del _pools[workers]
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def _start_worker(messages: Any, parent: int) -> None:
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent died ends at once instead of training for nobody."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _train_in_worker(root: str, checkpoint_s: float, data: str, run: str, device: str, threads: int) -> str | None:
    """The fingerprint of a run that is in the store now; None while another process trains it."""
    os.environ["CTRLIB_DATA"] = data  # a kept worker would still have that of its start
    store = RunStore(Path(root), checkpoint_s)
    record = store.train_unless_busy(Run.model_validate_json(run), device, threads, _messages.put)
    return record.fingerprint if record else None
