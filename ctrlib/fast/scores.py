"""AUC and log loss where the logits are."""

import numpy as np
import torch
from torch import Tensor, nn

from ctrlib.models.operations import PLAIN


def score(labels: np.ndarray, logits: Tensor) -> tuple[float, float]:
    """As the plain form; logits on a GPU stay there."""
    if logits.is_cuda:
        return auc_and_logloss(torch.from_numpy(labels).to(logits.device), logits)
    return PLAIN["score"](labels, logits)


def auc_and_logloss(labels: Tensor, logits: Tensor) -> tuple[float, float]:
    """AUC (from the same integers as the plain form, so the same value) and log loss of tensors (N,) on one device."""
    clicked = labels == 1
    positives, negatives = logits[clicked].sort().values, logits[~clicked].sort().values
    wins = torch.searchsorted(negatives, positives, right=False).sum()
    wins_and_ties = torch.searchsorted(negatives, positives, right=True).sum()
    auc = (wins + wins_and_ties).item() / (2 * len(positives) * len(negatives))
    logloss = nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double())
    return auc, logloss.item()
