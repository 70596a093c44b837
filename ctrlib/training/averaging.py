"""The exponential moving average of the weights over the steps, evaluated and kept in place of the weights themselves.

Training goes on from the plain weights. Everything with a fraction is averaged, the means and variances of batch norms
among it. (``torch.optim.swa_utils.AveragedModel`` would average a model's index buffers, too, or no buffer at all.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctrlib.config import Recipe


class WeightAverage:
    """The ``average``, over ``count`` steps, of ``weights``, tensors that the training changes in place."""

    def __init__(self, weights: list[Tensor], recipe: Recipe) -> None:
        real = [tensor.detach() for tensor in weights if tensor.is_floating_point()]
        self.weights = [] if recipe.averaging == "none" else real
        self.average = [tensor.clone() for tensor in self.weights]
        self.share, self.count = 1 - recipe.averaging_decay, 0

    def after_step(self) -> None:
        """A step of training is done."""
        if self.weights:
            torch._foreach_lerp_(self.average, self.weights, self.share if self.count else 1.0)  # as torch's swa_utils
            self.count += 1

    def restart(self) -> None:
        """Go on from the weights as they are now."""
        for average, weight in zip(self.average, self.weights, strict=True):
            average.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the weights are the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self.count == 0:
            return
        for weight, average in zip(self.weights, self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
