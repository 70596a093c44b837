"""An interrupted training ends as if it had never been interrupted: bit for bit, whatever the moment."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from processes import start
from small import NOISY, assert_same_member, independent_groups, make_run, member, rows, without_time

from ctrlib.config import Run
from ctrlib.coupling import complete, solo
from ctrlib.store.checkpoints import Checkpoints
from ctrlib.store.record import FILES
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer
from ctrlib.training import step as steps

EVERY_CHANGE = int(os.environ.get("CTRLIB_KILLS", "6")) >= 100  # else at some of the changes of files
HEAD = {"head": "auxiliary"}
SCENES = {
    "one model": ([member(1)], solo(1), {}),
    "two groups, best epoch, falling rate, moving averages": (
        [member(n, **NOISY) for n in (1, 2, 3)],
        independent_groups([complete(2), solo(1)]),
        {"patience": 2, "keep": "best", "plateau_factor": 0.5, "averaging": "ema"},
    ),
    "coupled late, and negatively, to shuffled peers": (
        [member(1, **NOISY), member(2, **NOISY)],
        complete(2, -1.0),
        {"coupling": {"start": 0.55, "target": "shuffled"}},
    ),
    "R-Drop, smoothed labels, the base rate and stale peers": (
        [member(1, **NOISY), member(2, **NOISY)],
        complete(2),
        {"rdrop": 1.0, "label_smoothing": 0.1, "base_rate_weight": 2.0, "coupling": {"refresh": 5, **HEAD}},
    ),
    "back to the best epoch, shared table drawn afresh, a teacher, a penalty": (
        [member(1, **NOISY), member(2, **NOISY)],
        complete(2),
        {
            **{"learning_rate": 0.3, "patience": 1, "cuts": 2, "keep": "best", "averaging": "ema"},
            **{"embeddings": "shared", "coupling": {"teacher_weight": 1.0, **HEAD}},
            **{"meda": True, "gradient_penalty": 10.0},
        },
    ),
}


class Cut(Exception):
    """The moment at which a training is cut off."""


class CutAfter(Checkpoints):
    """Saves its state after each step (the end of an epoch is one too), and stops the training after so many."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder, "this run", 0.0)
        self.left = steps

    def after_step(self, groups, position) -> None:
        super().after_step(groups, position)
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


def test_a_state_of_another_run_is_left_alone(tmp_path: Path) -> None:
    """It would not go on bit for bit. (Damaged states: test_damage.)"""
    run = scene("one model")
    with pytest.raises(Cut):
        trainer.train(run, rows(), device="cpu", checkpoints=CutAfter(tmp_path, 10))
    whole = trainer.train(run, rows(), device="cpu")
    other = trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path, "another", 1e9))
    assert_same_member(other, 0, whole, 0)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctrlib.data.files.write_synced", full)
    run = scene("one model")
    trained = trainer.train(run, rows(), device="cpu", checkpoints=Checkpoints(tmp_path, "this run", 0.0))
    assert_same_member(trained, 0, trainer.train(run, rows(), device="cpu"), 0)
    assert "No space left" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


STEP = steps.train_step
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def count_steps(log: Path) -> None:
    """From now on each training step of this process leaves a byte in ``log``, a kill notwithstanding."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    steps.train_step = lambda *arguments: os.write(file, b".") and STEP(*arguments)


def die_at(point: int, root: Path, log: Path, run: Run) -> None:
    """Train, and be killed at the ``point``-th change of a file: before it, with half of it written, with all of it."""
    count_steps(log)
    passed, fsync = [0], os.fsync

    def die(half: int | None = None) -> None:
        passed[0] += 1
        if passed[0] == point:
            if half is not None:
                os.ftruncate(half, os.fstat(half).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and str(root) in str(arguments[0]) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            die()

    def dying_fsync(file: int) -> None:
        die(half=file)
        die()
        fsync(file)

    os.fsync = dying_fsync
    sys.addaudithook(watch)
    RunStore(root, checkpoint_s=0.0).train(run, "cpu")


def test_killed_at_a_change_of_a_file_the_run_ends_bit_for_bit(tmp_path: Path, monkeypatch) -> None:
    """SIGKILL, then the same command again (CTRLIB_KILLS=100: at every change). It costs one unsaved step at most."""
    monkeypatch.setattr(steps, "train_step", STEP)
    members = [member(1, **NOISY), member(2, **NOISY)]
    size = {"epochs": 3, "batch_size": 165} if EVERY_CHANGE else {"epochs": 1, "batch_size": 330}
    run = make_run(members, complete(2), **size)
    count_steps(tmp_path / "whole steps")
    whole = RunStore(tmp_path / "whole").train(run, "cpu")
    point, killed = 1, True
    while killed:
        point += 1 if EVERY_CHANGE else 8
        root, log = tmp_path / f"{point}", tmp_path / f"{point} steps"
        process = start(die_at, point, root, log, run)
        process.join(90)
        assert process.exitcode in (0, -signal.SIGKILL)
        killed = process.exitcode != 0
        count_steps(log)
        store = RunStore(root, checkpoint_s=0.0)
        again = store.train(run, "cpu")
        assert [again.read(name) for name in FILES] == [whole.read(name) for name in FILES]
        for n in range(2):
            assert without_time(again.history, n) == without_time(whole.history, n)
        assert store.verify(run.fingerprint)
        assert [path.name for path in root.iterdir() if path.name != ".locks"] == [run.fingerprint]
        twice = log.stat().st_size - (tmp_path / "whole steps").stat().st_size
        assert 0 <= twice <= killed
        shutil.rmtree(root)
    assert point > 20
