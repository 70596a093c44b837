"""A finished run on disk: how its record is written, what its files hold, how they are read.

    run.json             settings, history, test metrics, environment, wall time, checksums
    members.safetensors  weights and Adam state of every member
    predictions.npz      validation and test logits, float32 (K, rows)

Each file has a checksum, so that what was damaged is never used. Weights are safetensors and predictions plain arrays:
nothing that could execute code is ever loaded.
"""

import errno
import hashlib
import io
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctrlib.config import NUMERICS_VERSION, Run, StoredMember
from ctrlib.data.files import remove, seal, sync, unseal, write_synced
from ctrlib.errors import UserError, first_problem, shown
from ctrlib.store.code import run_code

if TYPE_CHECKING:
    from ctrlib.training.dataset import Dataset
    from ctrlib.training.loop import Trained

FORMAT = 1
FILES = ("members.safetensors", "predictions.npz")
NAME = re.compile("[0-9a-f]{16}")  # of a record's folder; whatever else lies in a store is somebody else's


class StoreError(UserError):
    """The store cannot be used: no run can be kept, so there is no point in training others."""


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

    @property
    def valid_aucs(self) -> list[float]:
        """Validation AUC of each member at the epoch that counts."""
        aucs = {(row["member"], row["epoch"]): row["valid_auc"] for row in self.history}
        return [aucs[kept] for kept in enumerate(self.content["kept_epochs"])]

    def logits(self, split: str = "test") -> np.ndarray:
        """Logits (K, rows) float32 of the kept weights on ``valid`` or ``test``."""
        with np.load(io.BytesIO(self.read("predictions.npz"))) as arrays:
            return arrays[split]

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (K, rows) float64."""
        return 1 / (1 + np.exp(-self.logits(split).astype(np.float64)))

    def states(self) -> list[dict]:
        """Weights and Adam state of each member (see :data:`ctrlib.training.loop.State`)."""
        from safetensors.torch import load

        states: list[dict] = [{} for _ in self.run.members]
        for name, tensor in load(self.read("members.safetensors")).items():
            member, _, key = name.partition("|")
            states[int(member)][key] = tensor
        return states

    def read(self, name: str) -> bytes:
        """The bytes of one of :data:`FILES`; :class:`Damaged` unless they are those that were written."""
        path = self.folder / name
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != self.content["files"][name]:
            raise Damaged(f"{path}: its checksum is not the one recorded when it was written")
        return content


def write_record(
    root: Path,
    run: Run,
    trained: "Trained",
    dataset: "Dataset",
    environment: dict[str, Any],
    weights: dict[str, str] | None = None,
) -> Record:
    """Write the record of ``run`` into the store at ``root``: aside first, and renamed into place when it is whole.

    The caller holds the lock of the run and knows that no record of it that counts is there. ``weights`` are the
    checksums of the weights that it started from or learned from, by run.

    Raises:
        StoreError: the disk is full or forbids it; what was there before is as it was.
    """
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
        "seconds": trained.seconds,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment,
        "code": run_code(run),
        "weights": weights or {},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    final, aside = root / run.fingerprint, root / f".writing-{run.fingerprint}"
    try:
        remove(aside)  # left by a process that was killed
        aside.mkdir(parents=True)
        for name, data in files.items():
            write_synced(aside / name, data)
        write_synced(aside / "run.json", seal(content, indent=1).encode())
        sync(aside)
        remove(final)  # only a damaged or outdated record can be here
        aside.rename(final)
        sync(root)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise storage_error(error, root) from None
    return Record(final, run, content)


def read_record(folder: Path) -> Record:
    """The record in a folder, which is named by its fingerprint; its run.json is checked, its other files are not.

    Raises:
        UserError: a record of another format, which is never overwritten.
        Damaged: run.json is missing, cut or altered.
    """
    path = folder / "run.json"
    try:
        content = unseal(read_file(path))  # alike in every format
    except ValueError as error:
        raise Damaged(f"{path}: not a whole run record ({error})") from None
    if (version := content.get("format")) != FORMAT:
        raise UserError(
            f"{path}: format {shown(version)}; this ctrlib reads format {FORMAT}: use the ctrlib that wrote it, "
            "or another store (CTRLIB_RUNS)"
        )
    try:
        run = Run.model_validate(content["run"])
    except ValueError as error:
        raise Damaged(f"{path}: settings that this ctrlib does not know ({first_problem(error)})") from None
    current = content["numerics"] == NUMERICS_VERSION
    if content["fingerprint"] != folder.name or (current and run.fingerprint != folder.name):
        raise Damaged(f"{path}: is the record of another run")
    return Record(folder, run, content)


def builds_on(run: Run) -> list[StoredMember]:
    """The members of earlier runs that a run starts from or learns from."""
    return [*(run.start or ()), *(run.teachers or ())]


def test_metrics(logits: np.ndarray, labels: np.ndarray) -> list[dict]:
    """AUC, log loss and calibration ratio of each member on the test rows."""
    from ctrlib.stats import metrics

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


def read_file(path: Path) -> bytes:
    """The bytes of a file of a record; one that cannot be read is damage, unless it is the user's to permit it."""
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from None


def storage_error(error: OSError, root: Path) -> StoreError:
    """What a full or forbidden disk means for the user, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{root}: no space left on the disk; the finished runs are safe, free some space and go on")
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename:
        return StoreError(
            f"{error.filename}: is closed to this user; whoever made it can open it to a group "
            f"(chmod -R g+w {root}, and umask 002 before the next study), or set CTRLIB_RUNS to another folder"
        )
    return StoreError(
        f"{root}: cannot use the run store ({error.strerror or error}); set CTRLIB_RUNS to another folder"
    )
