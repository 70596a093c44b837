"""Training rows where a step can reach them: in memory, in a mapped file or on the GPU."""

import mmap

import numpy as np
import torch
from torch import Tensor

from ctrlib.training.batches import BatchSource
from ctrlib.training.dataset import Split

LARGE_FILE = 2 << 30  # bytes; the pages of a larger code file are let go now and then
LET_GO_EVERY = 5  # batches: with one row the system maps many of its neighbours
DEVICE_SHARE = 0.5  # of the GPU's free memory that codes may take


class NearBatches(BatchSource):
    """As the plain one. Of a large mapped file it keeps few pages in memory; on a GPU the codes are copied there once
    (int32) or, where they do not fit, each batch from pinned memory while the GPU works on the one before."""

    def __init__(self, split: Split, device: torch.device) -> None:
        super().__init__(split, device)
        self.resident = device.type != "cuda" or fits(self.ids, device)
        if self.resident:
            self.order_device = device
            self.ids, self.labels = self.ids.to(device), self.labels.to(device)
        self._file = mapped_file(split.ids) if device.type == "cpu" and split.ids.nbytes > LARGE_FILE else None
        self._taken = 0

    def take(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BatchSource`."""
        ids, labels = super().take(which)
        if not self.resident:
            ids, labels = ids.pin_memory(), labels.pin_memory()
        self._taken += 1
        if self._file is not None and self._taken % LET_GO_EVERY == 0:
            self._file.madvise(mmap.MADV_DONTNEED)  # unmapped; the system keeps them cached as long as it has room
        return ids, labels


def mapped_file(ids: np.ndarray) -> mmap.mmap | None:
    """The file mapping behind an array, if that is what it is."""
    while ids is not None and not isinstance(ids, mmap.mmap):
        ids = getattr(ids, "_mmap", None) or getattr(ids, "base", None)
    return ids


def fits(ids: Tensor, device: torch.device) -> bool:
    """Whether the codes leave enough of the GPU's memory to the models."""
    free, _ = torch.cuda.mem_get_info(device)
    return ids.nbytes <= DEVICE_SHARE * free
