"""Rivals of the peers: what a recipe may do against overfitting that no other model is needed for.

Legend: K members of a group, B batch.
"""

import numpy as np
import torch
from torch import Tensor

from ctrlib.config import Coupling, Recipe
from ctrlib.coupling import by_row, difference
from ctrlib.training.dataset import Dataset


def added_loss(logits: Tensor, recipe: Recipe, coupling: Coupling, base_rate: float) -> Tensor | float:
    """R-Drop's term and the pull to the base rate of each member, (K,), from logits (K, B); 0.0 without either."""
    loss: Tensor | float = 0.0
    if recipe.rdrop:
        loss = loss + recipe.rdrop * rdrop_loss(logits)
    if recipe.base_rate_weight:
        target = torch.full_like(logits, base_rate)
        loss = loss + recipe.base_rate_weight * difference(logits, target, coupling.form).mean(dim=1)
    return loss


def rdrop_loss(logits: Tensor) -> Tensor:
    """Half the sum of KL(p || q) and KL(q || p), mean over the rows: (K,), from the logits (K, 2B) of a batch that
    stands twice in itself, under other dropout masks (R-Drop, Liang et al. 2021, arXiv 2106.14448)."""
    p, q = by_row(torch.sigmoid, logits).chunk(2, dim=1)
    first, second = logits.chunk(2, dim=1)
    return 0.5 * ((p - q) * (first - second)).mean(dim=1)  # of two Bernoulli laws the two KL sum to this


def logit_of_clicks(dataset: Dataset) -> float:
    """The logit of the share of clicks among the training rows, the base rate."""
    return float(torch.logit(torch.tensor(np.mean(dataset.train.labels), dtype=torch.float64)))
