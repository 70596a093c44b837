"""Rivals of the peers: what a recipe may do against overfitting without another model.

Legend: K members of a group, B batch, F fields, D embedding dimension, C codes of all fields.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ctrlib.config import Coupling, Recipe, derive_seed
from ctrlib.coupling import by_row, difference
from ctrlib.models.layers import EMBEDDING_STD, embedding_parameters
from ctrlib.models.operations import plain_forms
from ctrlib.training.cohort import Trainee, the_table
from ctrlib.training.dataset import Dataset


def added_loss(logits: Tensor, recipe: Recipe, coupling: Coupling, base_rate: float) -> Tensor | float:
    """R-Drop's term and the distance to the base rate of each member, (K,), from logits (K, B); 0.0 without either."""
    loss: Tensor | float = 0.0
    if recipe.rdrop:
        loss = loss + recipe.rdrop * rdrop_loss(logits)
    if recipe.base_rate_weight:
        target = torch.full_like(logits, base_rate)
        loss = loss + recipe.base_rate_weight * difference(logits, target, coupling.form).mean(dim=1)
    return loss


def rdrop_loss(logits: Tensor) -> Tensor:
    """``(KL(p || q) + KL(q || p)) / 2``, mean over the rows: (K,), from the logits (K, 2B) of a batch that stands twice
    in itself, under other dropout masks (R-Drop, Liang et al. 2021, arXiv 2106.14448)."""
    p, q = by_row(torch.sigmoid, logits).chunk(2, dim=1)
    first, second = logits.chunk(2, dim=1)
    return 0.5 * ((p - q) * (first - second)).mean(dim=1)  # of two Bernoulli laws the two KL sum to this


def logit_of_clicks(dataset: Dataset) -> float:
    """The logit of the share of clicks among the training rows, the base rate."""
    return float(torch.logit(torch.tensor(np.mean(dataset.train.labels), dtype=torch.float64)))


def draw_tables_afresh(trainees: list[Trainee], epoch: int) -> None:
    """MEDA (Fan et al. 2024, arXiv 2407.01607): whatever has a row per code, embeddings and first-order weights, is
    drawn as at the beginning, from the member's seed and the epoch, and its Adam begins anew; all else stays."""
    for trainee in reversed(trainees):  # so that a table of all is the first one's, as at the beginning
        drawn = torch.Generator().manual_seed(derive_seed(trainee.member.init_seed, "tables", epoch))
        for table in embedding_parameters(trainee.model):
            table.data.copy_(torch.empty(table.shape).normal_(std=EMBEDDING_STD, generator=drawn))
            for value in trainee.optimizer.state[table].values():
                value.zero_()


def count_codes(dataset: Dataset) -> Tensor:
    """How often each code of all fields is in the training rows: (C,) int64, the fields one after the other."""
    columns = zip(dataset.train.ids.T, dataset.field_dims, strict=True)
    return torch.cat([torch.from_numpy(np.bincount(column, minlength=dim)) for column, dim in columns])


def keep_embeddings(trainee: Trainee) -> None:
    """Let a member remember the embeddings of each batch, which :func:`slope_penalty` differentiates by."""
    table = the_table(trainee, "gradient_penalty")
    table.register_forward_hook(lambda module, ids, out: setattr(trainee, "embeddings", out))


def plain_forward(ids: Tensor) -> Callable[[nn.Module], Tensor]:
    """A :data:`ctrlib.training.cohort.Forward` whose logits can be differentiated twice."""

    def logits_of(model: nn.Module) -> Tensor:
        with plain_forms():
            return model(ids)

    return logits_of


def slope_penalty(trainee: Trainee, output: Tensor, ids: Tensor, code_counts: Tensor) -> Tensor:
    """``mean_b sum_f |dz_b / de_bf|^2 / (1 + n_bf)`` of one member from its logits ``output`` (B,).

    n_bf is the number of training rows that hold the code of row b in field f: rare codes shall not move a logit far.
    With batch norm the slopes are those of the batch's summed logit.
    """
    (slopes,) = torch.autograd.grad(output.sum(), trainee.embeddings, create_graph=True)  # (B, F, D)
    counts = code_counts[ids + the_table(trainee, "gradient_penalty").offsets]
    return (slopes.square().sum(2) / (1 + counts)).sum(1).mean()
