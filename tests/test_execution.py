"""Threads, graphs and files change when things happen, never what comes out. A recording is played on the CPU."""

import threading

import numpy as np
import psutil
import pytest
import torch
from small import CPU, NOISY, assert_same_member, batch, fit, independent_groups, make_run, member, rows

from ctrlib.coupling import complete
from ctrlib.fast import batches
from ctrlib.fast.batches import NearBatches, mapped_file
from ctrlib.fast.graphs import GraphStep, SideBySide, changing_tensors
from ctrlib.models.operations import FASTER
from ctrlib.training import loop as trainer
from ctrlib.training.batches import BatchSource
from ctrlib.training.cohort import Group
from ctrlib.training.dataset import Split
from ctrlib.training.step import train_step


class Recording:
    """A graph without a GPU: remembers the function and runs it again; recording runs nothing, as on a GPU."""

    def record(self, function) -> None:
        self.function = function

    def replay(self) -> None:
        self.function()


def recorded_step(group: Group, new_graph=Recording) -> GraphStep:
    return GraphStep(
        lambda *given: train_step(group, *given),
        rows=group.recipe.batch_size,
        state=lambda: changing_tensors(group.trainees),
        generators=[trainee.dropout_generator for trainee in group.trainees],
        new_graph=new_graph,
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


def test_graph_and_plain_path_train_the_same(monkeypatch) -> None:
    """With short last batches, dropout, two groups, a falling learning rate, and peers that are shuffled and late."""
    members, weights = [member(n, **NOISY) for n in (1, 2, 3)], independent_groups([complete(2), complete(1)])
    late = {"start": 0.3, "target": "shuffled"}
    run = make_run(members, weights, coupling=late, epochs=8, patience=40, plateau_factor=0.5)
    plain = fit(run)
    monkeypatch.setitem(FASTER, "choose_step", recorded_step)
    graph = fit(run)
    assert len({row["learning_rate"] for row in plain.history}) > 1, "or it proves less"
    for n in range(3):
        assert_same_member(graph, n, plain, n)


def test_a_graph_is_recorded_once_for_each_side_of_the_start() -> None:
    made = []
    group = trainer.make_group(make_run([member(1), member(2)], complete(2)), [0, 1], rows(), None, CPU)
    step = recorded_step(group, lambda: made.append(Recording()) or made[-1])
    step(*batch(count=7), True, None)  # the short end of an epoch, at which a training goes on: by the plain step
    assert not made
    for coupled in (False, False, True, True, False):
        step(*batch(), coupled, None)
    assert len(made) == 2


@pytest.mark.parametrize(("source", "place"), [(BatchSource, "memory"), (BatchSource, "file"), (NearBatches, "file")])
def test_a_batch_is_the_rows_asked_for(tmp_path, source, place: str) -> None:
    split = rows().train
    np.save(tmp_path / "ids.npy", split.ids)
    if place == "file":
        split = Split(np.load(tmp_path / "ids.npy", mmap_mode="c"), split.labels)
    which = torch.randperm(len(split))[:60]
    ids, labels = source(split, CPU).batch(which)
    assert (ids.dtype, labels.dtype) == (torch.int64, torch.float32)
    np.testing.assert_array_equal(ids.numpy(), split.ids[which.numpy()])
    np.testing.assert_array_equal(labels.numpy(), split.labels[which.numpy()])


def test_codes_in_memory_are_not_copied() -> None:
    split = rows().train
    assert BatchSource(split, CPU).ids.data_ptr() == split.ids.ctypes.data


def test_pages_of_a_large_file_are_let_go(tmp_path, monkeypatch) -> None:
    """An epoch over a mapped file leaves little of it in this process, and reads the same rows."""
    monkeypatch.setattr(batches, "LARGE_FILE", 0)
    monkeypatch.setattr(batches, "LET_GO_EVERY", 5)
    codes = np.arange(20_000_000, dtype=np.int32).reshape(-1, 40)
    np.save(tmp_path / "ids.npy", codes)
    split = Split(np.load(tmp_path / "ids.npy", mmap_mode="c"), np.zeros(len(codes), dtype=np.uint8))
    assert mapped_file(split.ids) is not None
    taken = NearBatches(split, CPU)
    before = psutil.Process().memory_info().shared
    for which in torch.randperm(len(codes)).split(10_000):
        ids, _ = taken.batch(which)
        assert torch.equal(ids[:, 0], which * 40)
    assert psutil.Process().memory_info().shared - before < 30e6
    assert mapped_file(codes) is None
