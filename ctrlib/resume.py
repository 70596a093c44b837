"""An interrupted training goes on where it was: its whole state is put away now and then, complete or not at all.

In a folder of its own lie ``state-N.safetensors`` and ``newest.json``, which names it with its checksum and is replaced
in one move after the state is safely on disk. A kill at any moment leaves the last whole state. Since all randomness is
a function of (seeds, epoch, step), the position says where every stream of random numbers stands.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ctrlib.cohort import Group, load_state, member_state
from ctrlib.files import write_synced

NEWEST = "newest.json"


@dataclass
class Position:
    """How far a training is: all before step ``step`` of group ``group`` in epoch ``epoch`` is done (all from 0)."""

    epoch: int = 0
    group: int = 0
    step: int = 0
    losses: Tensor | None = None  # (2, K) summed over the steps that this group has done in this epoch
    epoch_seconds: float = 0.0  # that they took
    new: list[dict] = field(default_factory=list)  # history rows of the groups that are through with this epoch
    history: list[dict] = field(default_factory=list)  # of the epochs before
    seconds: float = 0.0  # that the whole training took so far


class Checkpoints:
    """The state of one training in ``folder``.

    Args:
        folder: made when there is something to put away.
        identity: what the state belongs to: the run, the device and the way of computing. A state of another identity
            would not go on bit for bit, so it is left alone and the training starts from its beginning.
        every_s: seconds between two states; a kill costs at most as much.
    """

    def __init__(self, folder: Path, identity: str, every_s: float) -> None:
        self.folder, self.identity, self.every_s = Path(folder), identity, every_s
        self._last = time.monotonic()
        self._number = 0

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._last >= self.every_s

    def save(self, groups: list[Group], at: Position) -> None:
        """Put the state away; the one before is removed once this one is whole. A full disk is said and survived."""
        from safetensors.torch import save

        self._last = time.monotonic()
        facts, tensors = snapshot(groups, at)
        content = save(tensors, metadata={"facts": json.dumps(facts)})
        name = f"state-{self._number + 1}.safetensors"
        newest = {"identity": self.identity, "file": name, "sha256": hashlib.sha256(content).hexdigest()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_synced(self.folder / name, content)
            write_synced(self.folder / f"{NEWEST}.new", json.dumps(newest).encode())
            os.replace(self.folder / f"{NEWEST}.new", self.folder / NEWEST)
        except OSError as error:
            print(f"{self.folder}: no checkpoint written ({error.strerror or error}); the training goes on", flush=True)
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
            return
        self._number += 1
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def restore(self, groups: list[Group]) -> Position:
        """Bring ``groups`` to the last state and return its position; without a usable one, the beginning."""
        from safetensors import safe_open
        from safetensors.torch import load

        try:
            pointer = (self.folder / NEWEST).read_bytes()
        except FileNotFoundError:
            return Position()
        try:
            newest = json.loads(pointer)
            path = self.folder / Path(newest["file"]).name
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != newest["sha256"] or path.name != newest["file"]:
                raise ValueError(f"{path.name} is not the state that was written")
            if newest["identity"] != self.identity:
                return Position()
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"damaged checkpoint {self.folder}: {error}; the training starts from its beginning", flush=True)
            return Position()
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
        self._number = int(newest["file"].removeprefix("state-").removesuffix(".safetensors"))
        return put_back(groups, facts, load(content))

    def clear(self) -> None:
        """Remove the folder: the training is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


def snapshot(groups: list[Group], at: Position) -> tuple[dict, dict[str, Tensor]]:
    """Everything that decides how the training goes on, as JSON values and as tensors by name."""
    tensors: dict[str, Tensor] = {}
    for trainee in (t for group in groups for t in group.trainees):
        states = {"now": member_state(trainee), "kept": trainee.kept_state or {}}
        for kind, state in states.items():
            tensors |= {f"{kind}|{trainee.index}|{name}": value.contiguous() for name, value in state.items()}
    for number, group in enumerate(groups):
        for i, average in enumerate(group.average.average if group.average else []):
            tensors[f"average|{number}|{i}"] = average.cpu().clone()
    if at.losses is not None:
        tensors["losses"] = at.losses.cpu().clone()
    facts = {
        "position": {name: value for name, value in vars(at).items() if name != "losses"},
        "groups": [
            {
                "learning_rate": group.learning_rate,
                "best_auc": group.best_auc,
                "epochs_without_gain": group.epochs_without_gain,
                "stopped": group.stopped,
                "averaged": group.average.count if group.average else 0,
                "members": [{"best_auc": t.best_auc, "kept_epoch": t.kept_epoch} for t in group.trainees],
            }
            for group in groups
        ],
    }
    return facts, tensors


def put_back(groups: list[Group], facts: dict, tensors: dict[str, Tensor]) -> Position:
    """The opposite of :func:`snapshot`."""
    for number, (group, of_group) in enumerate(zip(groups, facts["groups"], strict=True)):
        group.best_auc, group.stopped = of_group["best_auc"], of_group["stopped"]
        group.epochs_without_gain = of_group["epochs_without_gain"]
        group.set_learning_rate(of_group["learning_rate"])
        for trainee, of_member in zip(group.trainees, of_group["members"], strict=True):
            trainee.best_auc, trainee.kept_epoch = of_member["best_auc"], of_member["kept_epoch"]
            load_state(part(tensors, f"now|{trainee.index}|"), trainee.model, trainee.optimizer)
            trainee.kept_state = part(tensors, f"kept|{trainee.index}|") or None
        if group.average:
            group.average.count = of_group["averaged"]
            for i, average in enumerate(group.average.average):
                average.copy_(tensors[f"average|{number}|{i}"])
    losses = tensors.get("losses")
    device = groups[0].weights.device
    return Position(**facts["position"], losses=None if losses is None else losses.to(device))


def part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``start``, by the rest of their names."""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
