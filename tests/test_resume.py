"""An interrupted training ends as if it had never been interrupted: bit for bit, whatever the moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small import assert_same_member, make_run, member, rows, without_time

from ctrlib import trainer
from ctrlib.coupling import complete, independent_groups, solo
from ctrlib.resume import NEWEST, Checkpoints
from ctrlib.runs import RunStore

KILLS = int(os.environ.get("CTRLIB_KILLS", "6"))
NOISY = {"dropout": 0.3, "batch_norm": True}
SCENES = {
    "one model": ([member(1)], solo(1), {}),
    "mutual with noise": ([member(1, **NOISY), member(2, **NOISY)], complete(2), {}),
    "two groups, best epoch, falling rate": (
        [member(n, **NOISY) for n in (1, 2, 3)],
        independent_groups([complete(2), solo(1)]),
        {"patience": 2, "keep": "best", "plateau_factor": 0.5},
    ),
    "coupled late": ([member(1), member(2)], complete(2), {"coupling": {"start": 0.55}}),
    "shuffled peers": ([member(1), member(2)], complete(2), {"coupling": {"target": "shuffled"}}),
    "moving averages, two groups, best epoch": (
        [member(n, **NOISY) for n in (1, 2, 3)],
        independent_groups([complete(2), solo(1)]),
        {"averaging": "ema", "averaging_decay": 0.8, "averaging_start": 0.3, "keep": "best", "patience": 3},
    ),
    "averages of epochs, shared table": (
        [member(1, **NOISY), member(2, **NOISY)],
        complete(2),
        {"averaging": "swa", "averaging_start": 0.5, "embeddings": "shared", "embedding_l2": 1e-3},
    ),
    "one table, adaptive peers and a teacher, moving averages": (
        [member(1), member(2)],
        complete(2),
        {"coupling": {"peer_weighting": "adaptive", "teacher_weight": 1.0}, "embeddings": "shared", "averaging": "ema"},
    ),
}


class Cut(Exception):
    """The moment at which a training is cut off."""


class CutAfter(Checkpoints):
    """Puts the state away at every opportunity and stops the training after some of them."""

    def __init__(self, folder: Path, saves: int) -> None:
        super().__init__(folder, "this run", 0.0)
        self.left = saves

    def save(self, groups, at) -> None:
        super().save(groups, at)
        self.left -= 1
        if self.left == 0:
            raise Cut


def scene(name: str):
    members, weights, more = SCENES[name]
    return make_run(members, weights, epochs=4, **more)


@pytest.mark.parametrize("name", SCENES)
def test_a_training_cut_at_any_step_ends_as_if_it_were_not(name: str, tmp_path: Path) -> None:
    """Cut again and again, after 1, 2, 3, ... steps each time, so that every kind of place is met."""
    run = scene(name)
    whole = trainer.train(run, rows(), device="cpu")
    stride, finished = 1, None
    while finished is None:
        try:
            finished = trainer.train(run, rows(), device="cpu", checkpoints=CutAfter(tmp_path / "state", stride))
        except Cut:
            stride += 1
    assert stride > 4
    for n in range(len(run.members)):
        assert_same_member(finished, n, whole, n)
        assert without_time(finished.history, n) == without_time(whole.history, n)
    assert finished.kept_epochs == whole.kept_epochs


def test_steps_before_the_state_are_not_done_again(tmp_path: Path, monkeypatch) -> None:
    steps = []
    step = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", lambda *args: steps.append(1) or step(*args))
    run = scene("one model")
    with pytest.raises(Cut):
        trainer.train(run, rows(), device="cpu", checkpoints=CutAfter(tmp_path / "state", 10))
    trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path / "state", "this run", 1e9))
    assert len(steps) == 4 * 7


def test_a_state_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """Another run, device or way of computing would not go on bit for bit."""
    run = scene("one model")
    with pytest.raises(Cut):
        trainer.train(run, rows(), device="cpu", checkpoints=CutAfter(tmp_path, 10))
    whole = trainer.train(run, rows(), device="cpu")
    other = trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path, "another", 1e9))
    assert_same_member(other, 0, whole, 0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no pointer", "half a pointer", "points elsewhere"])
def test_a_damaged_state_is_said_and_not_used(tmp_path: Path, damage: str, capsys) -> None:
    run = scene("mutual with noise")
    with pytest.raises(Cut):
        trainer.train(run, rows(), device="cpu", checkpoints=CutAfter(tmp_path, 10))
    (state,) = tmp_path.glob("state-*.safetensors")
    newest, content = tmp_path / NEWEST, state.read_bytes()
    middle = len(content) // 2
    if damage == "cut":
        state.write_bytes(content[:middle])
    elif damage == "flipped":
        state.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "missing":
        state.unlink()
    elif damage == "no pointer":
        newest.unlink()
    elif damage == "half a pointer":
        newest.write_bytes(newest.read_bytes()[:20])
    else:
        (tmp_path.parent / "elsewhere.safetensors").write_bytes(content)
        newest.write_text(json.dumps({**json.loads(newest.read_text()), "file": "../elsewhere.safetensors"}))
    again = trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path, "this run", 1e9))
    assert ("damaged checkpoint" in capsys.readouterr().out) == (damage != "no pointer")
    whole = trainer.train(run, rows(), device="cpu")
    assert_same_member(again, 0, whole, 0)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctrlib.resume.write_synced", full)
    run = scene("one model")
    trained = trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path, "this run", 0.0))
    assert_same_member(trained, 0, trainer.train(run, rows(), device="cpu"), 0)
    assert "No space left" in capsys.readouterr().out
    assert not list(tmp_path.glob("state-*"))


# ---- real kills ------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_resume import scene
from ctrlib.runs import RunStore
print("ready", flush=True)
RunStore(Path(sys.argv[1]), checkpoint_s=0.0).train(scene(sys.argv[3]), "cpu")
"""


def start(root: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(root), str(Path(__file__).parent), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_killed_at_random_moments_the_run_ends_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL, also in the middle of writing a state or the record, then the same command again."""
    name = "two groups, best epoch, falling rate"
    run = scene(name)
    whole = RunStore(tmp_path / "whole").train(run, "cpu")
    chance = random.Random(int(os.environ.get("CTRLIB_SEED", "0")))
    store, kills, rounds = RunStore(tmp_path / "killed"), 0, 0
    while kills < KILLS:
        process = start(store.root, name)
        time.sleep(chance.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if (record := store.find(run)) or rounds > 40:
            compare(record or RunStore(store.root).train(run, "cpu"), whole)
            store, rounds = RunStore(tmp_path / f"killed {kills}"), 0
        rounds += 1
    compare(store.train(run, "cpu"), whole)
    assert not list(store.root.glob(".training-*"))


def compare(record, whole) -> None:
    """Weights, Adam state, logits and history are the same to the last bit."""
    for mine, reference in zip(record.states(), whole.states(), strict=True):
        assert mine.keys() == reference.keys()
        assert all(np.array_equal(mine[key].numpy(), reference[key].numpy()) for key in mine)
    assert np.array_equal(record.logits(), whole.logits())
    for n in range(len(whole.run.members)):
        assert without_time(record.history, n) == without_time(whole.history, n)
