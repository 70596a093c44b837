"""What a model predicts for the rows of a split, and how good that is, computed where the model is."""

import numpy as np
import torch
from torch import Tensor, nn

from ctrlib.stats import metrics
from ctrlib.training.batches import as_tensor
from ctrlib.training.dataset import Split

EVALUATION_ROWS = 8192


def score(labels: np.ndarray, logits: Tensor) -> tuple[float, float]:
    """AUC and log loss of one member, computed where its logits (N,) are."""
    if logits.is_cuda:
        return auc_and_logloss_on_device(torch.from_numpy(labels).to(logits.device), logits)
    return metrics.auc(labels, logits.numpy()), metrics.logloss_from_logits(labels, logits.numpy())


def auc_and_logloss_on_device(labels: Tensor, logits: Tensor) -> tuple[float, float]:
    """As ``metrics.auc`` (the same integers, so the same value) and ``metrics.logloss_from_logits`` on a GPU."""
    clicked = labels == 1
    positives, negatives = logits[clicked].sort().values, logits[~clicked].sort().values
    wins = torch.searchsorted(negatives, positives, right=False).sum()
    wins_and_ties = torch.searchsorted(negatives, positives, right=True).sum()
    auc = (wins + wins_and_ties).item() / (2 * len(positives) * len(negatives))
    logloss = nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double())
    return auc, logloss.item()


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> Tensor:
    """Logits of every row of a split: (N,) float32, where the model is."""
    model.eval()
    place = next(model.parameters()).device
    ids = as_tensor(split.ids)
    return torch.cat([model(part.to(place).long()) for part in ids.split(EVALUATION_ROWS)]).float()
