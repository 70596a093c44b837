"""The heart of the study: who learns from whom, and the peer loss.

A coupling is a K x K matrix ``A``: row n says how much member n listens to each peer; its diagonal is zero.

    loss of member n = BCE_n + sum_i A[n, i] * mean over the batch of d(prediction n, target i)

With ``A = complete(N, 1)`` (every entry 1/(N-1)), d the squared difference of probabilities and live, detached
peers this is the loss of Yilmaz & Aldemir 2024 (arXiv 2406.12087). Solo training is ``A = 0``.

Legend: K members, B batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ctrlib.config import Form, Target, Weights


def solo(size: int) -> Weights:
    """Nobody listens: K separate trainings."""
    return tuple((0.0,) * size for _ in range(size))


def complete(size: int, weight: float = 1.0) -> Weights:
    """Everybody listens to everybody, ``weight`` shared evenly among the N - 1 peers (the paper: weight 1)."""
    if size < 2:
        return solo(size)
    return tuple(tuple(0.0 if i == n else weight / (size - 1) for i in range(size)) for n in range(size))


def ring(size: int, weight: float = 1.0) -> Weights:
    """Member n listens to member n + 1 alone, the last one to the first."""
    return tuple(tuple(weight if i == (n + 1) % size and i != n else 0.0 for i in range(size)) for n in range(size))


def star(size: int, weight: float = 1.0) -> Weights:
    """Member 0 listens to all others evenly; each other member listens to member 0 alone."""
    return tuple(
        tuple(0.0 if i == n else weight / (size - 1) if n == 0 else weight * (i == 0) for i in range(size))
        for n in range(size)
    )


def one_way(size: int, weight: float = 1.0) -> Weights:
    """Only member 0 listens, to all others evenly: distillation into one student."""
    return tuple(tuple(weight / (size - 1) if n == 0 and i else 0.0 for i in range(size)) for n in range(size))


def independent_groups(groups: list[Weights]) -> Weights:
    """Several cohorts in one: a block-diagonal matrix, no listening between groups."""
    total = sum(len(group) for group in groups)
    rows, before = [], 0
    for group in groups:
        rows += [(0.0,) * before + row + (0.0,) * (total - before - len(row)) for row in group]
        before += len(group)
    return tuple(rows)


def connected_groups(weights: Weights) -> list[list[int]]:
    """Members that hear of each other, directly or through others; they share a learning-rate schedule."""
    groups: list[set[int]] = []
    for n, row in enumerate(weights):
        linked = {n} | {i for i, weight in enumerate(row) if weight}
        touching = [group for group in groups if group & linked]
        groups = [group for group in groups if not group & linked] + [linked.union(*touching)]
    return sorted(sorted(group) for group in groups)


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
    """The logits each member is pulled to, as (1, K, B) or (K, 1, B): entry [n, i] is what n hears from peer i.

    ``live``: the peers as they are in this step, detached (the paper). ``joint``: not detached, so a pull reaches
    both ends. ``frozen``: copies of the start, ``frozen`` (K, B). ``shuffled``: live, but rows permuted within the
    batch by ``shuffle`` (B,), a negative control that keeps each peer's distribution. ``ensemble``: the detached
    mean probability of the member and the peers it listens to, whichever peer is asked.
    """
    if target == "joint":
        return logits[None]
    if target == "frozen":
        if frozen is None:
            raise ValueError("target 'frozen' needs the frozen logits")
        return frozen[None]
    logits = logits.detach()
    if target == "live":
        return logits[None]
    if target == "shuffled":
        if shuffle is None:
            raise ValueError("target 'shuffled' needs a permutation of the batch")
        return logits[None][..., shuffle]
    return mean_prediction(logits, weights)[:, None]


def mean_prediction(logits: Tensor, weights: Tensor) -> Tensor:
    """The logit (K, B) of the mean probability of each member and the peers it listens to.

    log(sum p) - log(sum (1 - p)) on the log scale: exact where probabilities are so near 0 or 1 that they round.
    """
    listens = (weights > 0) | torch.eye(len(weights), dtype=torch.bool, device=logits.device)
    left_out = torch.where(listens, 0.0, -torch.inf).to(logits.dtype)[:, :, None]  # (K, K, 1)
    click = torch.logsumexp(by_row(F.logsigmoid, logits)[None] + left_out, dim=1)
    no_click = torch.logsumexp(by_row(F.logsigmoid, -logits)[None] + left_out, dim=1)
    return click - no_click


def peer_loss(
    logits: Tensor,
    weights: Tensor,
    form: Form = "mse",
    target: Target = "live",
    frozen: Tensor | None = None,
    shuffle: Tensor | None = None,
) -> Tensor:
    """The coupling term of each member.

    Args:
        logits: (K, B) of all members on one batch.
        weights: (K, K) matrix A, on the same device and of the same dtype.
        form: what "different" means, see :func:`difference`.
        target: what peers are taken to say, see :func:`peer_targets`.
        frozen: (K, B) logits of the frozen copies, for target ``frozen``.
        shuffle: (B,) permutation, for target ``shuffled``.

    Returns:
        (K,): ``sum_i A[n, i] * mean_b d(logits[n], target[n, i])``.
    """
    targets = peer_targets(logits, weights, target, frozen, shuffle)
    distance = difference(logits[:, None], targets, form).mean(dim=2)  # (K, K), or (K, 1) for the ensemble
    return (weights * distance).sum(dim=1)
