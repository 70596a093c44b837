"""An interrupted training goes on where it was: its whole state is saved now and then, complete or not at all.

In a folder of its own lie ``state-N.safetensors`` and ``newest.json``, which names it with its checksum and is replaced
in one move after the state is safely on disk. A kill at any moment leaves the last whole state. Since all randomness is
a function of (seeds, epoch, step), the position says where every stream of random numbers stands.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from ctrlib.data.files import parse_json, read_plain, remove, write_synced
from ctrlib.errors import first_problem
from ctrlib.store.content import HISTORY
from ctrlib.training.cohort import Group, check_state, load_state, member_state
from ctrlib.training.loop import Position

NEWEST = "newest.json"
STATE = re.compile(r"state-[0-9]{1,18}\.safetensors")


class Checkpoints:
    """The state of one training in ``folder``, see :class:`ctrlib.training.loop.Checkpoints`.

    Args:
        folder: made when there is something to save.
        identity: what the state belongs to: the run, the device and the way of computing. A state of another identity
            would not go on bit for bit, so it is left alone and the training starts from its beginning.
        every_s: seconds between two states; a kill costs at most as much.
    """

    def __init__(self, folder: Path, identity: str, every_s: float) -> None:
        self.folder, self.identity, self.every_s = Path(folder), identity, every_s
        self._last = time.monotonic()
        self._number = 0

    def after_step(self, groups: list[Group], position: Position) -> None:
        """Save the state where it is time."""
        if time.monotonic() - self._last >= self.every_s:
            self.save(groups, position)

    def save(self, groups: list[Group], at: Position) -> None:
        """Save the state; the one before is removed once this one is whole. A full disk is said and survived."""
        from safetensors.torch import save

        self._last = time.monotonic()
        facts, tensors = save_state(groups, at)
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
                remove(self.folder / name)
            return
        self._number += 1
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                with contextlib.suppress(OSError):
                    remove(old)

    def restore(self, groups: list[Group]) -> Position:
        """Bring ``groups`` to the last state and return its position; without a usable one, the beginning."""
        if not self.folder.exists():
            return Position()
        try:
            newest, facts, tensors = read_state(self.folder)
            if newest is None or newest["identity"] != self.identity:
                return Position()
            check(groups, facts, tensors)
        except ValueError as error:
            print(f"damaged checkpoint {self.folder}: {error}; the training starts from its beginning", flush=True)
            self.clear()
            return Position()
        self._number = int(newest["file"].removeprefix("state-").removesuffix(".safetensors"))
        return restore_state(groups, facts, tensors)

    def clear(self) -> None:
        """Remove the folder: the training is over."""
        with contextlib.suppress(OSError):
            remove(self.folder)


def read_state(folder: Path) -> tuple[dict | None, dict, dict[str, Tensor]]:
    """Pointer, facts and tensors of the last state in ``folder``, its checksum compared; (None, {}, {}) without one.

    Raises ValueError: it cannot be read or is not what was written.
    """
    from safetensors.torch import load

    if folder.is_symlink():
        raise ValueError("the folder is a link")
    if not os.path.lexists(folder / NEWEST):
        return None, {}, {}
    newest = parse_json(_content(folder, NEWEST))
    if not isinstance(newest, dict) or not all(isinstance(newest.get(k), str) for k in ("identity", "file", "sha256")):
        raise ValueError(f"{NEWEST} is not what was written")
    if not STATE.fullmatch(newest["file"]):
        raise ValueError(f"{newest['file'][:100]!r} is no name of a state")
    content = _content(folder, newest["file"])
    if hashlib.sha256(content).hexdigest() != newest["sha256"]:
        raise ValueError(f"{newest['file']} is not the state that was written")
    try:
        tensors = load(content)
        head = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = parse_json(head["__metadata__"]["facts"])
    except Exception as error:  # safetensors raises kinds of its own
        raise ValueError(f"{newest['file']} is no state ({' '.join(str(error).split())[:100]})") from None
    return newest, facts, tensors


def _content(folder: Path, name: str) -> bytes:
    """The bytes of a file; ValueError if it cannot be read."""
    try:
        return read_plain(folder / name)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror or error})") from None


def check(groups: list[Group], facts: dict, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless a state is one of these groups, so that it is restored as a whole or not at all."""
    own = facts_of(groups, Position())
    if not alike(facts, own):
        raise ValueError("the state is that of another training")
    at = facts["position"]
    try:
        HISTORY.validate_python([*at["history"], *at["new"]])
    except ValidationError as error:
        raise ValueError(f"the history is not one, {first_problem(error)}") from None
    if min(at["epoch"], at["group"], at["step"]) < 0:
        raise ValueError("the state is at no place of a training")
    for trainee in (t for group in groups for t in group.trainees):
        kept = part(tensors, f"kept|{trainee.index}|")
        for state in [part(tensors, f"now|{trainee.index}|"), *([kept] if kept else [])]:
            check_state(state, trainee)
    members = sum(len(group.trainees) for group in groups)
    if "losses" in tensors and (tensors["losses"].dim() != 2 or tensors["losses"].shape[1] > members):
        raise ValueError("the losses are of other members")


def alike(value: object, own: object) -> bool:
    """Whether two JSON values have the same keys and types all through; an empty list is like any other list."""
    if isinstance(own, dict):
        return isinstance(value, dict) and value.keys() == own.keys() and all(alike(value[k], own[k]) for k in own)
    if isinstance(own, list):
        same_length = isinstance(value, list) and len(own) in (0, len(value))
        return same_length and all(map(alike, value, own))
    return type(value) is type(own)


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
    return facts_of(groups, at), tensors


def facts_of(groups: list[Group], at: Position) -> dict:
    """The part of :func:`save_state` that is JSON."""
    return {
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
