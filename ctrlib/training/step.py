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
    made = group.each(lambda trainee: forward(trainee, logits_of, ids, group), group.trainees)
    outputs, heads, penalties = zip(*made, strict=True)
    logits = torch.stack([output.detach() for output in outputs]).requires_grad_()  # (K, B): members meet here
    pulled = logits if heads[0] is None else torch.stack([head.detach() for head in heads]).requires_grad_()
    smoothing = recipe.label_smoothing
    click = click_loss(logits, labels + smoothing * (0.5 - labels) if smoothing else labels)
    peer = torch.zeros_like(click)
    if coupled:
        frozen = group.each(torch.no_grad()(logits_of), group.frozen)
        given = {"frozen": torch.stack(frozen) if frozen else None, "shuffle": shuffle, "labels": labels}  # (T, B)
        peer = peer_loss(logits, group.coupling, weights=group.weights, own=pulled, **given)
    peer = peer + added_loss(logits, recipe, group.coupling, group.base_rate)
    (click + peer).sum().backward()
    back = [(outputs, logits.grad)]
    if pulled is not logits:
        back.append((heads, pulled.grad if coupled else torch.zeros_like(pulled)))
    if recipe.gradient_penalty:
        back.append((penalties, torch.ones_like(peer)))
        peer = peer + torch.stack(penalties)
    work = [(trainee, [(ends[n], slopes[n]) for ends, slopes in back]) for n, trainee in enumerate(group.trainees)]
    group.each(lambda part: update(*part, recipe), work)
    if group.table:
        group.table.step()
    return torch.stack([click, peer]).detach()


def forward(
    trainee: Trainee, logits_of: Callable[[nn.Module], Tensor], ids: Tensor, group: Group
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A member's logits (B,) on a batch; those of its auxiliary head and its gradient penalty, where it has them.

    By one thread: in what order gradients are added up on the way back is decided thread by thread.
    """
    output, head, penalty = logits_of(trainee.model), None, None
    if group.coupling.head == "auxiliary":
        head = trainee.model.auxiliary_head(trainee.hidden).squeeze(1)
    if group.recipe.gradient_penalty:
        penalty = group.recipe.gradient_penalty * slope_penalty(trainee, output, ids, group.code_counts)
    return output, head, penalty


def update(trainee: Trainee, back: list[tuple[Tensor, Tensor]], recipe: Recipe) -> None:
    """Back from the gradients in what :func:`forward` gave through one model; embedding L2 (dense, as FuxiCTR),
    clipping, Adam.

    The gradient of a shared table is left where it is, for all members together (:class:`SharedTable`).
    """
    for parameter in trainee.parameters:
        parameter.grad = None
    torch.autograd.backward(*zip(*back, strict=True))
    if recipe.embedding_l2:
        for table in (one for one in embedding_parameters(trainee.model) if one.requires_grad):
            table.grad.add_(table.detach(), alpha=recipe.embedding_l2)
    clip_gradients(trainee.parameters, recipe.clip_norm)
    trainee.optimizer.step()


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients so that their norm is at most ``max_norm``, as ``clip_grad_norm_``.

    On a CPU gradients within the norm are left alone, where ``clip_grad_norm_`` would multiply all of them by 1.
    """
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm.is_cuda or not norm + 1e-6 <= max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
