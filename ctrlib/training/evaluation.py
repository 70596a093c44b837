"""What a model predicts for the rows of a split, and how good that is."""

import numpy as np
import torch
from torch import Tensor, nn

from ctrlib.models.operations import has_faster_form
from ctrlib.training.auc import auc, logloss_from_logits
from ctrlib.training.batches import as_tensor
from ctrlib.training.dataset import Split

EVALUATION_ROWS = 8192


@has_faster_form
def score(labels: np.ndarray, logits: Tensor) -> tuple[float, float]:
    """AUC and log loss of one member from its logits (N,)."""
    on_cpu = logits.cpu().numpy()
    return auc(labels, on_cpu), logloss_from_logits(labels, on_cpu)


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> Tensor:
    """Logits of every row of a split: (N,) float32, where the model is."""
    model.eval()
    place = next(model.parameters()).device
    ids = as_tensor(split.ids)
    return torch.cat([model(part.to(place).long()) for part in ids.split(EVALUATION_ROWS)]).float()
