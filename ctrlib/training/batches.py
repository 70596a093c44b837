"""Training rows where a step can reach them: in memory, in a mapped file or on the GPU."""

import mmap

import numpy as np
import torch
from torch import Tensor

from ctrlib.training.dataset import Split

LARGE_FILE = 2 << 30  # bytes; the pages of a larger code file are let go now and then
LET_GO_EVERY = 5  # batches: with one row the system maps many of its neighbours
DEVICE_SHARE = 0.5  # of the GPU's free memory that codes may take


class Rows:
    """The rows of a split, taken batch by batch in any order.

    On the CPU the codes are used where they are, so that a mapped file is read as it is needed and several processes
    share it. On a GPU they are copied there once (int32); where they do not fit, each batch is copied from pinned
    memory while the GPU works on the one before.

    Attributes:
        device: where batches are.
        order_device: where the numbers of the rows of a batch must be.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self.device = device
        self._ids = as_tensor(split.ids)  # (N, F) int32
        self._labels = torch.from_numpy(np.asarray(split.labels, dtype=np.float32))  # (N,)
        self.resident = device.type != "cuda" or fits(self._ids, device)
        self.order_device = device if self.resident else torch.device("cpu")
        if self.resident:
            self._ids, self._labels = self._ids.to(device), self._labels.to(device)
        self._file = mapped_file(split.ids) if device.type == "cpu" and split.ids.nbytes > LARGE_FILE else None
        self._taken = 0

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, F) int64 and labels (B,) float32 of the rows numbered ``which`` (B,), on ``device``."""
        ids, labels = self._ids.index_select(0, which), self._labels.index_select(0, which)
        if not self.resident:
            ids = ids.pin_memory().to(self.device, non_blocking=True)
            labels = labels.pin_memory().to(self.device, non_blocking=True)
        self._let_go()
        return ids.long(), labels  # index_add_ in the embedding's backward is 2 to 3 times slower with int32 (CPU)

    def _let_go(self) -> None:
        """Unmap the pages read so far; the system keeps them cached as long as it has room."""
        self._taken += 1
        if self._file is not None and self._taken % LET_GO_EVERY == 0:
            self._file.madvise(mmap.MADV_DONTNEED)


def as_tensor(ids: np.ndarray) -> Tensor:
    """An array as a tensor that shares its memory; a read-only one is copied, because torch could write to it."""
    return torch.from_numpy(ids if ids.flags.writeable else ids.copy())


def mapped_file(ids: np.ndarray) -> mmap.mmap | None:
    """The file mapping behind an array, if that is what it is."""
    while ids is not None and not isinstance(ids, mmap.mmap):
        ids = getattr(ids, "_mmap", None) or getattr(ids, "base", None)
    return ids


def fits(ids: Tensor, device: torch.device) -> bool:
    """Whether the codes leave enough of the GPU's memory to the models."""
    free, _ = torch.cuda.mem_get_info(device)
    return ids.nbytes <= DEVICE_SHARE * free
