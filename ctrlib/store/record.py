"""A finished run on disk: what its files hold, and how they are read without trusting them."""

import errno
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.config import Run, StoredMember
from ctrlib.data.files import Irregular, read_plain
from ctrlib.errors import UserError
from ctrlib.store.content import read_logits, read_states

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

    def logits(self, split: str = "test") -> np.ndarray:
        """Logits (K, rows) float32 of the kept weights on ``valid`` or ``test``."""
        shape = (len(self.run.members), self.content["rows"][split])
        return self._read("predictions.npz", lambda content: read_logits(content, split, shape))

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (K, rows) float64."""
        return 1 / (1 + np.exp(-self.logits(split).astype(np.float64)))

    def states(self) -> list[dict]:
        """Weights and Adam state of each member (see :data:`ctrlib.training.loop.State`)."""
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


def storage_error(error: OSError, root: Path) -> StoreError:
    """What a full or forbidden disk means for the user, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{root}: no space left on the disk; the finished runs are safe, free some space and go on")
    return StoreError(
        f"{root}: cannot use the run store ({error.strerror or error}); set CTRLIB_RUNS to another folder"
    )
