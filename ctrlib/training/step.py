"""One training step of a group of members on one batch.

It has two halves that are each member's own business, forward and update, and one place between them where the
members meet: the K logits of the batch, from which both losses and their gradients follow (:func:`train_step`).

Legend: K members of a group, B batch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ctrlib.config import Recipe
from ctrlib.coupling import click_loss, peer_loss
from ctrlib.models.layers import embedding_parameters
from ctrlib.models.operations import has_faster_form
from ctrlib.training.cohort import Forward, Group, Step, Trainee
from ctrlib.training.dataset import Dataset
from ctrlib.training.rivals import added_loss, slope_penalty


@has_faster_form
def choose_forward(group: Group, dataset: Dataset) -> tuple[Forward, str]:
    """How the models of a group, its frozen teachers among them, compute logits of a data set's batches; in words."""
    return lambda ids: lambda model: model(ids), ""


@has_faster_form
def choose_step(group: Group) -> Step:
    """The training step of a group as one function of a batch."""
    return partial(train_step, group)


def train_step(group: Group, ids: Tensor, labels: Tensor, coupled: bool, shuffle: Tensor | None = None) -> Tensor:
    """One step of every member of the group on one batch; returns click and peer loss (2, K), detached.

    What a recipe adds to the click loss beside the peers (:func:`ctrlib.training.rivals.added_loss`) counts with them.
    """
    recipe = group.recipe
    if recipe.rdrop:  # two passes at once
        shuffle = None if shuffle is None else torch.cat([shuffle, shuffle + len(ids)])
        ids, labels = ids.repeat(2, 1), labels.repeat(2)
    logits_of = group.forward(ids)
    outputs, penalties = zip(*group.each(lambda one: forward(one, logits_of, ids, group), group.trainees), strict=True)
    logits = torch.stack([output.detach() for output in outputs]).requires_grad_()  # (K, B): members meet here
    smoothing = recipe.label_smoothing
    click = click_loss(logits, labels + smoothing * (0.5 - labels) if smoothing else labels)
    peer = torch.zeros_like(click)
    if coupled:
        frozen = group.each(torch.no_grad()(logits_of), group.frozen)
        frozen_logits = torch.stack(frozen) if frozen else None  # (T, B)
        peer = peer_loss(
            logits, group.coupling, weights=group.weights, frozen=frozen_logits, shuffle=shuffle, labels=labels
        )
    peer = peer + added_loss(logits, recipe, group.coupling, group.base_rate)
    (click + peer).sum().backward()
    work = list(zip(group.trainees, outputs, logits.grad, penalties, strict=True))
    group.each(lambda part: update(*part, recipe), work)
    if group.table:
        group.table.step()
    if recipe.gradient_penalty:
        peer = peer + torch.stack(penalties)
    return torch.stack([click, peer]).detach()


def forward(
    trainee: Trainee, logits_of: Callable[[nn.Module], Tensor], ids: Tensor, group: Group
) -> tuple[Tensor, Tensor | None]:
    """A member's logits (B,) and its gradient penalty, if any.

    Both by one thread: in what order gradients are added up on the way back is decided thread by thread.
    """
    output, weight = logits_of(trainee.model), group.recipe.gradient_penalty
    return output, weight * slope_penalty(trainee, output, ids, group.code_counts) if weight else None


def update(trainee: Trainee, output: Tensor, gradient: Tensor, penalty: Tensor | None, recipe: Recipe) -> None:
    """Back from the logits' gradient (B,), and from a penalty of the member's own, through one model; embedding L2
    (dense, as FuxiCTR), clipping, Adam.

    The gradient of a shared table is left where it is, for all members together (:class:`SharedTable`).
    """
    trainee.model.zero_grad(set_to_none=True)
    if penalty is None:
        output.backward(gradient)
    else:
        torch.autograd.backward([output, penalty], [gradient, torch.ones_like(penalty)])
    if recipe.embedding_l2:
        for table in embedding_parameters(trainee.model):
            table.grad.add_(table.detach(), alpha=recipe.embedding_l2)
    clip_gradients(list(trainee.model.parameters()), recipe.clip_norm)
    trainee.optimizer.step()


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients so that their norm is at most ``max_norm``, as ``clip_grad_norm_``.

    On a CPU gradients within the norm are left alone, where ``clip_grad_norm_`` would multiply all of them by 1.
    """
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm.is_cuda or not norm + 1e-6 <= max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
