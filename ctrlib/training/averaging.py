"""Averages of the weights along a training, evaluated and kept in place of the weights themselves.

``ema``: exponential moving average over the steps. ``swa``: equal average of the weights at the ends of the epochs
(Izmailov et al. 2018, arXiv 1803.05407, here at the recipe's own learning rates). Both begin after a share of the
training; until then the plain weights are evaluated. Training goes on from the plain weights all the time.

Everything with a fraction is averaged, the means and variances of batch norms among it, where the paper computes those
anew. (``torch.optim.swa_utils.AveragedModel`` would average a model's index buffers, too, or no buffer at all.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctrlib.config import Recipe


def has_begun(at: int, total: int, share: float) -> bool:
    """Whether step (or epoch) ``at``, from 0, lies behind ``share`` of ``total``; rounding does not move it."""
    return at >= share * total - 1e-6


class WeightAverage:
    """The ``average``, over ``count`` moments, of ``weights``, tensors that the training changes in place."""

    def __init__(self, weights: list[Tensor], recipe: Recipe) -> None:
        real = [tensor.detach() for tensor in weights if tensor.is_floating_point()]
        self.weights = [] if recipe.averaging == "none" else real
        self.average = [tensor.clone() for tensor in self.weights]
        self.recipe, self.count = recipe, 0

    def after_step(self, step: int, steps: int) -> None:
        """Step ``step`` of ``steps`` is done (from 0, counted through all epochs)."""
        if self.recipe.averaging == "ema" and has_begun(step, steps, self.recipe.averaging_start):
            self._add(1 - self.recipe.averaging_decay if self.count else 1.0)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Epoch ``epoch`` of ``epochs`` is done (from 0)."""
        if self.recipe.averaging == "swa" and has_begun(epoch, epochs, self.recipe.averaging_start):
            self._add(1 / (self.count + 1))

    def _add(self, share: float) -> None:
        torch._foreach_lerp_(self.average, self.weights, share)  # as torch's own swa_utils does
        self.count += 1

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
