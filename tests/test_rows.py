"""Batches are the rows asked for, wherever the rows are."""

import numpy as np
import psutil
import pytest
import torch
from small import CPU, rows

from ctrlib.fast import batches
from ctrlib.fast.batches import NearBatches, mapped_file
from ctrlib.training.batches import BatchSource
from ctrlib.training.dataset import Split


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
