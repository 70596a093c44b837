"""An interrupted training goes on where it was: its whole state is saved now and then, complete or not at all.

The state is one file, which begins with its checksum and is replaced in one move, so a kill at any moment leaves the
last whole one. Since all randomness is a function of (seeds, epoch, step), the position says where every stream of
random numbers stands.
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from ctrlib.data.files import remove, replace_file
from ctrlib.store.record import Damaged, read_file
from ctrlib.training.cohort import Group, load_state, member_state
from ctrlib.training.loop import Position

STATE = "state"


class Checkpoints:
    """The state of one training in ``folder``, see :class:`ctrlib.training.loop.Checkpoints`.

    Args:
        folder: made when there is something to save.
        identity: what the state belongs to: the run, the code, the device and the way of computing. A state of another
            identity would not go on bit for bit, so the training starts from its beginning.
        every_s: seconds between two states; a kill costs at most as much.
    """

    def __init__(self, folder: Path, identity: str, every_s: float) -> None:
        self.folder, self.identity, self.every_s = Path(folder), identity, every_s
        self._last = time.monotonic()

    def after_step(self, groups: list[Group], position: Position) -> None:
        """Save the state where it is time."""
        if time.monotonic() - self._last >= self.every_s:
            self.save(groups, position)

    def save(self, groups: list[Group], at: Position) -> None:
        """Save the state in the place of the one before. A full disk is said and survived."""
        from safetensors.torch import save

        self._last = time.monotonic()
        facts, tensors = save_state(groups, at)
        text = json.dumps({"identity": self.identity, **facts}).encode()
        content = save({**tensors, "facts": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / STATE, hashlib.sha256(content).digest() + content)
        except OSError as error:
            print(f"{self.folder}: no checkpoint written ({error.strerror or error}); the training goes on", flush=True)

    def restore(self, groups: list[Group]) -> Position:
        """Bring ``groups`` to the last state and return its position; without a usable one, the beginning."""
        if not (self.folder / STATE).exists():
            return Position()
        try:
            facts, tensors = read_state(self.folder / STATE)
        except Damaged as damage:
            print(f"damaged checkpoint, the training starts from its beginning: {damage}", flush=True)
            self.clear()
            return Position()
        return restore_state(groups, facts, tensors) if facts["identity"] == self.identity else Position()

    def clear(self) -> None:
        """Remove the folder: the training is over."""
        with contextlib.suppress(OSError):
            remove(self.folder)


def read_state(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Facts and tensors of a saved state.

    Raises:
        Damaged: it is not what was written.
    """
    from safetensors.torch import load

    content = read_file(path)
    checksum, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != checksum:
        raise Damaged(f"{path}: its checksum is not that of its content")
    tensors = load(content)
    return json.loads(tensors.pop("facts").numpy().tobytes()), tensors


def save_state(groups: list[Group], at: Position) -> tuple[dict, dict[str, Tensor]]:
    """Everything that decides how the training goes on, as JSON values and as tensors by name."""
    tensors: dict[str, Tensor] = {}
    for trainee in (t for group in groups for t in group.trainees):
        states = {"now": member_state(trainee), "kept": trainee.kept_state or {}}
        for kind, state in states.items():
            tensors |= {f"{kind}|{trainee.index}|{name}": value.contiguous() for name, value in state.items()}
    for number, group in enumerate(groups):
        for i, average in enumerate(group.average.average):
            tensors[f"average|{number}|{i}"] = average.cpu().clone()
        for i, peer in enumerate(group.stale):
            tensors |= {f"stale|{number}|{i}|{k}": value.cpu().clone() for k, value in peer.state_dict().items()}
    if at.losses is not None:
        tensors["losses"] = at.losses.cpu().clone()
    facts = {
        "position": {name: value for name, value in vars(at).items() if name != "losses"},
        "groups": [
            {
                "learning_rate": group.learning_rate,
                "best_auc": group.best_auc,
                "epochs_without_gain": group.epochs_without_gain,
                "cuts": group.cuts,
                "stopped": group.stopped,
                "averaged": group.average.count,
                "members": [{"best_auc": t.best_auc, "kept_epoch": t.kept_epoch} for t in group.trainees],
            }
            for group in groups
        ],
    }
    return facts, tensors


def restore_state(groups: list[Group], facts: dict, tensors: dict[str, Tensor]) -> Position:
    """The opposite of :func:`save_state`."""
    for number, (group, of_group) in enumerate(zip(groups, facts["groups"], strict=True)):
        group.best_auc, group.stopped = of_group["best_auc"], of_group["stopped"]
        group.epochs_without_gain, group.cuts = of_group["epochs_without_gain"], of_group["cuts"]
        group.set_learning_rate(of_group["learning_rate"])
        for trainee, of_member in zip(group.trainees, of_group["members"], strict=True):
            trainee.best_auc, trainee.kept_epoch = of_member["best_auc"], of_member["kept_epoch"]
            load_state(part(tensors, f"now|{trainee.index}|"), trainee.model, trainee.optimizer)
            trainee.kept_state = part(tensors, f"kept|{trainee.index}|") or None
        group.average.count = of_group["averaged"]
        for i, average in enumerate(group.average.average):
            average.copy_(tensors[f"average|{number}|{i}"])
        for i, peer in enumerate(group.stale):
            peer.load_state_dict(part(tensors, f"stale|{number}|{i}|"))
    losses = tensors.get("losses")
    device = groups[0].weights.device
    return Position(**facts["position"], losses=None if losses is None else losses.to(device))


def part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``start``, by the rest of their names."""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
