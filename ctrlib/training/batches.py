"""Training rows, taken batch by batch in any order."""

import numpy as np
import torch
from torch import Tensor

from ctrlib.models.operations import has_faster_form
from ctrlib.training.dataset import Split


class BatchSource:
    """The rows of a split where they are: a mapped file is read as it is needed, and several processes share it.

    Attributes:
        device: where batches go.
        order_device: where the numbers of the rows of a batch must be.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self.device, self.order_device = device, torch.device("cpu")
        self.ids = as_tensor(split.ids)  # (N, F) int32
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.float32))  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, F) int64 and labels (B,) float32 of the rows numbered ``which`` (B,), on ``device``."""
        ids, labels = (part.to(self.device, non_blocking=True) for part in self.take(which))
        return ids.long(), labels  # index_add_ in the embedding's backward is 2 to 3 times slower with int32 (CPU)

    def take(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """The same rows where they are, codes as they are."""
        return self.ids.index_select(0, which), self.labels.index_select(0, which)


@has_faster_form
def batch_source(split: Split, device: torch.device) -> BatchSource:
    """The rows of a split for training on ``device``."""
    return BatchSource(split, device)


def as_tensor(ids: np.ndarray) -> Tensor:
    """An array as a tensor that shares its memory; a read-only one is copied, because torch could write to it."""
    return torch.from_numpy(ids if ids.flags.writeable else ids.copy())
