"""Threads and graphs change when things happen, never what comes out. The graph's recording is played on the CPU."""

import threading

import numpy as np
import pytest
import torch
from small import assert_same_member, make_run, member, rows

from ctrlib.coupling import complete, independent_groups
from ctrlib.fast.graphs import GraphStep, SideBySide
from ctrlib.models import MODELS
from ctrlib.training import loop as trainer

CPU = torch.device("cpu")
NOISY = {"dropout": 0.3, "batch_norm": True}


class Recording:
    """A graph without a GPU: remembers the function and runs it again; recording runs nothing, as on a GPU."""

    def record(self, function) -> None:
        self.function = function

    def replay(self) -> None:
        self.function()


def recorded_step(group: trainer.Group) -> GraphStep:
    return GraphStep(
        lambda *batch: trainer.train_step(group, *batch),
        rows=group.recipe.batch_size,
        state=lambda: trainer.changing_tensors(group.trainees),
        generators=[trainee.dropout_generator for trainee in group.trainees],
        new_graph=Recording,
        warm_up=lambda function: function(),
    )


def test_results_come_in_the_order_of_the_members() -> None:
    started = threading.Barrier(3, timeout=30)

    def wait_for_all(n: int) -> tuple[int, int]:
        started.wait()  # three threads at once, or this never returns
        return n, torch.get_num_threads()

    each = SideBySide(3, CPU)
    try:
        assert each(wait_for_all, range(3)) == [(0, 1), (1, 1), (2, 1)]
        with pytest.raises(ZeroDivisionError):
            each(lambda n: 1 / n, [1, 0])
    finally:
        each.close()


@pytest.mark.parametrize("architecture", ["FiBiNET", "DeepFM"])
def test_threads_do_not_touch_the_numbers(architecture: str) -> None:
    members = [member(n, architecture=architecture, **NOISY) for n in (1, 2, 3)]
    run = make_run(members, complete(3), epochs=2)
    alone, threaded = trainer.train(run, rows(), device="cpu"), trainer.train(run, rows(), device="cpu", threads=3)
    for n in range(3):
        assert_same_member(threaded, n, alone, n)


def test_threads_do_not_touch_the_numbers_of_any_architecture() -> None:
    members = [member(n, architecture=name, **NOISY) for n, name in enumerate(MODELS)]
    run = make_run(members, complete(len(members)), epochs=1)
    alone, threaded = trainer.train(run, rows(), device="cpu"), trainer.train(run, rows(), device="cpu", threads=2)
    for n in range(len(members)):
        assert_same_member(threaded, n, alone, n)


@pytest.mark.parametrize(
    "coupling",
    [
        {},
        {"start": 0.3},
        {"target": "shuffled"},
        {"target": "joint", "form": "kl"},
        {"target": "ensemble"},
        {"peer_weighting": "adaptive", "teacher_weight": 1.0},
    ],
)
def test_graph_and_plain_path_train_the_same(coupling: dict, monkeypatch) -> None:
    """More than 200 steps with short last batches, dropout, two groups and a falling learning rate."""
    members = [member(n, **NOISY) for n in (1, 2, 3)]
    weights = independent_groups([complete(2), complete(1)])
    run = make_run(members, weights, coupling=coupling, epochs=32, patience=40, plateau_factor=0.5)
    plain = trainer.train(run, rows(), device="cpu")
    monkeypatch.setattr(trainer, "eager_step", recorded_step)
    graph = trainer.train(run, rows(), device="cpu")
    assert len(plain.history) == 3 * 32
    for n in range(3):
        assert_same_member(graph, n, plain, n)


def test_recording_leaves_no_trace() -> None:
    """Weights, moments, step counts and batch statistics are as before: only the replay trains."""
    group = trainer.make_group(make_run([member(1, **NOISY)]), [0], rows(), None, CPU)
    calls = []

    class Silent(Recording):
        def replay(self) -> None:
            calls.append("replay")

    step = recorded_step(group)
    step._new_graph = Silent
    before = [tensor.clone() for tensor in step._state()]
    trainer.seed_dropout(group, 0, 0)
    drawn = group.trainees[0].dropout_generator
    state = drawn.get_state()
    step(torch.from_numpy(rows().train.ids[:50].astype(np.int64)), torch.zeros(50), False, None)
    assert calls == ["replay"]
    assert torch.equal(drawn.get_state(), state)
    for old, new in zip(before, step._state(), strict=True):
        assert torch.equal(old, new)


def test_a_graph_is_recorded_once_for_each_side_of_the_start() -> None:
    made = []

    class Counted(Recording):
        def __init__(self) -> None:
            made.append(self)

    group = trainer.make_group(make_run([member(1), member(2)], complete(2)), [0, 1], rows(), None, CPU)
    step = recorded_step(group)
    step._new_graph = Counted
    ids = torch.from_numpy(rows().train.ids.astype(np.int64))
    step(ids[:7], torch.zeros(7), True, None)  # a training that goes on at the short end of an epoch
    assert not made
    for coupled in (False, False, True, True, False):
        step(ids[:50], torch.zeros(50), coupled, None)
    step(ids[:7], torch.zeros(7), True, None)  # another size: by the plain step
    assert len(made) == 2
