"""The heart of the study: who learns from whom, and the peer loss.

A coupling is a matrix ``A``: row n holds the weights of the peers from which member n learns.

    loss of member n = BCE_n + sum_i A[n, i] * mean over the batch of d(prediction n, target i)

With ``A = complete(N, 1)`` (every entry 1/(N-1)), d the squared difference of probabilities and live, detached
peers this is the loss of Yilmaz & Aldemir 2024 (arXiv 2406.12087). Training without peers is ``A = 0``. Live peers
are the members themselves: A is K x K and its diagonal is zero. Frozen ones are T models that no longer learn: A is
K x T.

Legend: K members, T targets, B batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ctrlib.config import TOPOLOGIES, Coupling, Form, Target, Weights, complete, one_way, pairs, ring, solo, star  # noqa: F401


def connected_groups(weights: Weights, teachers: bool = False) -> list[list[int]]:
    """Members linked by weights, directly or through others; they share a learning-rate schedule.

    With ``teachers`` the columns are no members: students of one teacher belong together.
    """
    size = len(weights)
    first = size if teachers else 0  # the number that stands for column 0
    groups: list[set[int]] = []
    for n, row in enumerate(weights):
        linked = {n} | {first + i for i, weight in enumerate(row) if weight}
        touching = [group for group in groups if group & linked]
        groups = [group for group in groups if not group & linked] + [linked.union(*touching)]
    return sorted(sorted(n for n in group if n < size) for group in groups)


def click_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each member: logits (K, B) and labels (K, B) or (B,) -> (K,)."""
    labels = labels.expand_as(logits)
    return torch.stack([F.binary_cross_entropy_with_logits(z, y) for z, y in zip(logits, labels, strict=True)])


def by_row(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """An element-wise ``function`` of ``values`` (..., B), one row at a time.

    On a whole (K, B) tensor the last digit of a number depends on where in the tensor it stands, because vector
    instructions and their remainders round differently. Row by row a member's numbers do not depend on its cohort.
    """
    rows = values.reshape(-1, values.shape[-1])
    return torch.stack([function(row) for row in rows]).reshape(values.shape)


def difference(own: Tensor, target: Tensor, form: Form) -> Tensor:
    """Element-wise d(own, target) of two logit tensors (..., B) whose shapes broadcast.

    ``mse``: squared difference of probabilities. ``mse_logit``: of logits. ``kl``: KL(target || own) of the two
    Bernoulli laws, both the click and the no-click half, whose gradient in the own logit is p_own - p_target.
    """
    if form == "mse":
        return (by_row(torch.sigmoid, own) - by_row(torch.sigmoid, target)) ** 2
    if form == "mse_logit":
        return (own - target) ** 2
    click = by_row(torch.sigmoid, target) * (by_row(F.logsigmoid, target) - by_row(F.logsigmoid, own))
    no_click = by_row(torch.sigmoid, -target) * (by_row(F.logsigmoid, -target) - by_row(F.logsigmoid, -own))
    return click + no_click


def peer_targets(
    logits: Tensor, weights: Tensor, target: Target, frozen: Tensor | None, shuffle: Tensor | None
) -> Tensor:
    """The logits each member is drawn to, as (1, T, B) or (K, 1, B): entry [n, i] is the target of n from peer i.

    ``live``: the peers as they are in this step, detached (the paper). ``joint``: not detached, so the gradient
    reaches both. ``frozen``: copies of the start or teachers, ``frozen`` (T, B). ``shuffled``: live, but rows permuted
    within the batch by ``shuffle`` (B,), a negative control that keeps each peer's distribution. ``ensemble``: the
    detached mean probability of the member and its peers, the same for each of them.
    ``frozen_ensemble``: the mean probability of the member's frozen teachers, itself not among them.
    """
    if target == "joint":
        return logits[None]
    if target in ("frozen", "frozen_ensemble"):
        if frozen is None:
            raise ValueError(f"target {target!r} needs the frozen logits")
        return frozen[None] if target == "frozen" else mean_prediction(frozen, weights > 0)[:, None]
    if target == "ensemble":
        return mean_prediction(logits.detach(), with_itself(weights))[:, None]
    if target == "shuffled":
        if shuffle is None:
            raise ValueError("target 'shuffled' needs a permutation of the batch")
        logits = logits[..., shuffle]
    return logits.detach()[None]


def with_itself(weights: Tensor) -> Tensor:
    """The members in a member's mean: itself and its peers, (K, K) bool."""
    return (weights > 0) | torch.eye(len(weights), dtype=torch.bool, device=weights.device)


def mean_prediction(logits: Tensor, chosen: Tensor) -> Tensor:
    """The logit (K, B) of the mean probability of T models (T, B), for each member of those ``chosen`` (K, T).

    log(sum p) - log(sum (1 - p)) on the log scale: exact where probabilities are so near 0 or 1 that they round. One
    of the models is factored out of both sums, so that the mean of equal models is exactly what each of them says.
    A row without any gets some number, for a weight of zero to remove.
    """
    base = chosen.int().argmax(dim=1)  # the first of each row
    left_out = torch.where(chosen | ~chosen.any(dim=1, keepdim=True), 0.0, -torch.inf).to(logits.dtype)[:, :, None]
    click, no_click = by_row(F.logsigmoid, logits), by_row(F.logsigmoid, -logits)
    clicks = torch.logsumexp(click[None] - click[base][:, None] + left_out, dim=1)
    no_clicks = torch.logsumexp(no_click[None] - no_click[base][:, None] + left_out, dim=1)
    return logits[base] + (clicks - no_clicks)


def peer_loss(
    logits: Tensor,
    coupling: Coupling,
    *,
    weights: Tensor | None = None,
    frozen: Tensor | None = None,
    shuffle: Tensor | None = None,
    labels: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """The coupling term of each member, whatever the coupling's start.

    With ``adaptive`` peers and ``teacher_weight`` 1 on the complete graph this is the loss of EKTF (Li et al. 2024,
    arXiv 2411.16122 v1;
    code: github.com/salmon1802/KDEF, src/EKTF.py), times K, as EKTF takes the mean of the members' losses. What
    differs: EKTF lets gradients pass through the weights of peers and teacher and flips one label in twenty at
    random, neither of which is done here; its teacher is the mean of the members' logits, here it is their mean
    probability, as in the study's ensembles.

    Args:
        logits: (K, B) of all members on one batch.
        coupling: form of the distance (:func:`difference`), target (:func:`peer_targets`) and the two settings of
            EKTF. ``peer_weighting="adaptive"`` shares each row's sum of A anew in every batch
            (:func:`reweight_by_accuracy`). ``teacher_weight`` weighs the distance to the detached mean probability of
            the member and its peers, for whoever has peers; with ``adaptive`` it is larger for members that do badly.
        weights: (K, T) matrix A where logits are; that of the coupling unless given, of its rows and columns or some.
        frozen: (T, B) logits of the frozen teachers, for the frozen targets, or (K, B) of peers seen a while ago.
        shuffle: (B,) permutation, for target ``shuffled``.
        labels: (B,), for ``adaptive`` weights.
        own: (K, B) logits that get the gradient, of auxiliary heads; ``logits`` themselves unless given.

    Returns:
        (K,): ``sum_i A[n, i] * mean_b d(logits[n], target[n, i])``, plus the teacher's term where there is one.

    Raises:
        ValueError: the target or the weighting needs something that is not given.
    """
    if weights is None:
        weights = torch.tensor(coupling.weights, dtype=logits.dtype, device=logits.device)
    own, accuracy = logits if own is None else own, None
    if coupling.peer_weighting == "adaptive":
        if labels is None:
            raise ValueError("peer_weighting 'adaptive' needs the labels")
        accuracy = peer_accuracy(logits, labels)
    target = coupling.target if coupling.refresh == 1 else "frozen"  # until the next look at the peers
    targets = peer_targets(logits, weights, target, frozen, shuffle)
    distance = difference(own[:, None], targets, coupling.form).mean(dim=2)  # (K, T), or (K, 1) for the ensembles
    loss = ((weights if accuracy is None else reweight_by_accuracy(weights, accuracy)) * distance).sum(dim=1)
    if coupling.teacher_weight:
        mean = mean_prediction(logits.detach(), with_itself(weights))
        distance = difference(own, mean, coupling.form).mean(dim=1)
        loss = loss + coupling.teacher_weight * teaching_need(weights, accuracy) * distance
    return loss


def peer_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """How well each member does on a batch: the mean probability that it gives to what happened, (K,), detached."""
    p = by_row(torch.sigmoid, logits.detach())
    return torch.stack([(1 - (labels - row).abs()).mean() for row in p])


def reweight_by_accuracy(weights: Tensor, score: Tensor) -> Tensor:
    """A with each row's sum shared anew: entry [n, i] in proportion to ``A[n, i] * exp(score[i])``.

    On the complete graph that is EKTF's softmax over the peers' scores, times the row's sum.
    """
    shares = weights * (score - score.max()).exp()
    total = shares.sum(dim=1, keepdim=True)
    return shares * torch.where(total > 0, weights.sum(dim=1, keepdim=True) / total, 0.0)


def teaching_need(weights: Tensor, score: Tensor | None) -> Tensor:
    """How strongly the mean teaches each member, (K,): 0 for those without peers, else 1 or, with scores, the
    member's share in the softmin over itself and its peers, times their number (so 1 on average)."""
    has_peers = weights.any(dim=1)
    if score is None:
        return has_peers.to(weights.dtype)
    together = with_itself(weights)
    need = (score.min() - score).exp()
    return torch.where(has_peers, need * together.sum(dim=1) / (together * need).sum(dim=1), 0.0)
