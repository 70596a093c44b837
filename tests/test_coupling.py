"""The peer loss against the formula written as loops, its gradients, and the shapes of who listens to whom."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from small import independent_groups

from ctrlib.config import FROZEN, Coupling, Form, PeerWeighting, Target, Topology
from ctrlib.coupling import (
    TOPOLOGIES,
    click_loss,
    complete,
    connected_groups,
    difference,
    mean_prediction,
    one_way,
    pairs,
    peer_loss,
    ring,
    solo,
    star,
)

FORMS = get_args(Form)
TARGETS = get_args(Target)
every_form = pytest.mark.parametrize("form", FORMS)
every_target = pytest.mark.parametrize("target", TARGETS)
sizes = st.integers(1, 5)
batches = st.integers(1, 7)
seeds = st.integers(0, 10_000)


@st.composite
def matrices(draw, size: int, columns: int | None = None, signed: bool = False):
    """Any coupling matrix: many zeros, no symmetry; a zero diagonal, or any number of ``columns`` of teachers."""
    weight = st.sampled_from([0.0, 0.0, 0.25, 1.0]) | st.floats(1e-9, 5)  # one near 1e-300 rounds to nothing
    weight |= st.floats(-5, -1e-9) if signed else st.nothing()
    peers = range(columns or size)
    return tuple(tuple(0.0 if i == n and columns is None else draw(weight) for i in peers) for n in range(size))


def tensor(weights) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def logits_like(size: int, batch: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    """Random logits (K, B) in float64, none beyond 4 times ``scale``."""
    values = torch.randn(size, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * values).clamp(-4 * scale, 4 * scale)


def labels_like(batch: int, seed: int) -> torch.Tensor:
    return (torch.rand(batch, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def loss_of(logits, weights, form="mse", target="live", peer_weighting="fixed", teacher_weight=0.0, **given_):
    """The peer loss under a coupling of these settings; ``weights`` a tuple of tuples."""
    how = {"form": form, "target": target, "peer_weighting": peer_weighting, "teacher_weight": teacher_weight}
    return peer_loss(logits, Coupling(weights=weights, **how), **given_)


def others(size: int, batch: int, seed: int) -> dict:
    """What the frozen targets and ``shuffled`` need."""
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    return {"frozen": logits_like(size, batch, seed + 1), "shuffle": order}


# ---- the formula, written out ---------------------------------------------------------------------------------------


def naive_difference(z: torch.Tensor, p_target: torch.Tensor, form: str) -> torch.Tensor:
    """Mean over the batch of d between a logit and a target probability."""
    p = torch.sigmoid(z)
    if form == "mse":
        return ((p - p_target) ** 2).mean()
    if form == "mse_logit":
        return ((z - torch.logit(p_target)) ** 2).mean()
    return (p_target * (p_target / p).log() + (1 - p_target) * ((1 - p_target) / (1 - p)).log()).mean()


def naive_losses(logits: list[torch.Tensor], labels: torch.Tensor, how: Coupling, **given_) -> list[torch.Tensor]:
    """Click and peer loss of each member together."""
    peer = naive_peer_loss(logits, how, labels=labels, **given_)
    return [F.binary_cross_entropy(z.sigmoid(), labels) + one for z, one in zip(logits, peer, strict=True)]


def naive_peer_loss(z, how: Coupling, frozen=None, shuffle=None, labels=None, own=None) -> list[torch.Tensor]:
    """Each member's peer loss in probabilities, peer by peer, as a paper would write it; autograd may go through it."""
    own = z if own is None else own
    p = [torch.sigmoid(one) for one in z]
    elsewhere = how.target in FROZEN or how.refresh > 1
    said = [torch.sigmoid(one).detach() for one in (frozen if elsewhere else z)]
    adaptive = how.peer_weighting == "adaptive"
    score = [(1 - (labels - one.detach()).abs()).mean() for one in p] if adaptive else []
    losses = []
    for n, row in enumerate(how.weights):
        loss = 0 * z[n].sum()
        peers = [i for i, weight in enumerate(row) if weight]
        together = peers if how.target in FROZEN else sorted({n, *peers})
        mean = sum(said[i] for i in together) / max(1, len(together))
        shares = {i: row[i] * score[i].exp() for i in peers} if adaptive else {}
        for i in peers:
            if how.target == "joint":
                target = p[i]
            elif how.target in ("ensemble", "frozen_ensemble"):
                target = mean
            else:
                target = said[i][shuffle] if how.target == "shuffled" else said[i]
            share = sum(row) * shares[i] / sum(shares.values()) if adaptive else row[i]
            loss = loss + share * naive_difference(own[n], target, how.form)
        if how.teacher_weight and peers:
            need = len(together) * (-score[n]).exp() / sum((-score[i]).exp() for i in together) if adaptive else 1
            loss = loss + how.teacher_weight * need * naive_difference(own[n], mean, how.form)
        losses.append(loss)
    return losses


@every_form
@every_target
@settings(max_examples=25)
@given(st.data())
def test_peer_loss_is_the_formula(form, target, data) -> None:
    size, batch, seed = data.draw(sizes), data.draw(batches), data.draw(seeds)
    columns = data.draw(sizes) if target in FROZEN else None
    how, means = {"form": form, "target": target}, "ensemble" in target
    if target in ("live", "joint"):
        how["peer_weighting"] = data.draw(st.sampled_from(get_args(PeerWeighting)))
        how["teacher_weight"] = data.draw(st.sampled_from([0.0, 1.0, 3.0]))
        means = how["peer_weighting"] == "adaptive" or how["teacher_weight"] > 0
    how["weights"] = data.draw(matrices(size, columns, signed=not means))
    coupling, logits = Coupling(**how), logits_like(size, batch, seed)
    given_ = {**others(columns or size, batch, seed), "labels": labels_like(batch, seed)}
    found = peer_loss(logits, coupling, **given_)
    expected = naive_peer_loss(list(logits), coupling, **given_)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-7, atol=1e-9)


@settings(max_examples=20)
@given(st.integers(2, 6), batches, seeds)
def test_paper_loss_is_the_mean_over_peers_of_the_mean_squared_difference(size, batch, seed) -> None:
    """L_n = BCE_n + 1/(N-1) sum over peers of mean_b (p_i - p_n)^2, as arXiv 2406.12087 writes it."""
    logits, labels = logits_like(size, batch, seed), labels_like(batch, seed)
    p = logits.sigmoid()
    total = click_loss(logits, labels) + loss_of(logits, complete(size))
    for n in range(size):
        peers = sum(F.mse_loss(p[i], p[n]) for i in range(size) if i != n) / (size - 1)
        torch.testing.assert_close(total[n], F.binary_cross_entropy(p[n], labels) + peers, rtol=1e-9, atol=1e-12)


# ---- zero -----------------------------------------------------------------------------------------------------------


@every_form
@every_target
def test_solo_is_exactly_zero_with_zero_gradient(form, target) -> None:
    logits = logits_like(3, 4, 1).requires_grad_()
    loss = loss_of(logits, solo(3), form, target, **others(3, 4, 2))
    assert torch.equal(loss, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(loss.sum(), logits)[0], torch.zeros_like(logits))


AGREEING = [{"target": target} for target in TARGETS if target != "shuffled"]
AGREEING += [{"peer_weighting": "adaptive", "teacher_weight": 3.0}]


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", AGREEING, ids=str)
def test_nothing_to_learn_when_peers_agree(form, how, dtype) -> None:
    """At moderate logits and at +-50, where probabilities are 0 or 1 in float32; nor do they part by rounding."""
    row = torch.cat([torch.tensor([-50.0, -17.0, -3.0, 0.0, 0.5, 12.0, 17.0, 50.0]), logits_like(1, 61, 2)[0]])
    logits = row.to(dtype).repeat(4, 1).requires_grad_()
    given_ = {"frozen": logits.detach(), "labels": labels_like(69, 2).to(dtype)}
    loss = loss_of(logits, complete(4, 2.0), form, **how, **given_)
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.equal(loss, torch.zeros(4, dtype=dtype))
    assert torch.equal(slope, slope[:1].expand(4, -1))
    assert slope.abs().max() <= ((1e-6 if dtype == torch.float32 else 1e-12) if form == "kl" else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_equal_models_is_exactly_what_each_says(dtype) -> None:
    """For any number of them at any place of the batch; likewise the mean of one alone."""
    row = logits_like(1, 203, 5, scale=12.0)[0].to(dtype)
    for size in range(1, 8):
        found = mean_prediction(row.repeat(size, 1), torch.ones(2, size, dtype=torch.bool))
        assert torch.equal(found, row.repeat(2, 1))
    several = logits_like(4, 203, 6, scale=12.0).to(dtype)
    assert torch.equal(mean_prediction(several, torch.eye(4, dtype=torch.bool)), several)


@pytest.mark.parametrize("logit", [50.0, 1000.0])
def test_opposite_certainties_have_a_finite_mean_and_distance(logit) -> None:
    found = mean_prediction(torch.tensor([[logit], [-logit], [-logit]]), torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(math.log(1 / 2), abs=1e-4 * logit)
    loss = difference(torch.tensor([logit, -logit]), torch.tensor([-logit, logit]), "kl")
    assert loss.tolist() == pytest.approx([logit, logit], rel=1e-6)


@every_form
@every_target
def test_loss_and_gradient_are_finite_at_extreme_logits(form, target) -> None:
    extreme = torch.tensor([[50.0, -50.0, 50.0, 0.0], [-50.0, 50.0, 50.0, 50.0], [-50.0, -50.0, 0.0, -50.0]])
    logits = extreme.clone().requires_grad_()
    given_ = {"frozen": extreme.flip(1), "shuffle": torch.tensor([2, 0, 3, 1])}
    loss = loss_of(logits, complete(3), form, target, **given_)
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.isfinite(loss).all()
    assert torch.isfinite(slope).all()


def test_missing_material_is_said() -> None:
    for name, how in (
        *((target, {"target": target}) for target in ("frozen", "frozen_ensemble", "shuffled")),
        ("adaptive", {"peer_weighting": "adaptive"}),
    ):
        with pytest.raises(ValueError, match=name):
            loss_of(logits_like(2, 3, 1), complete(2), **how)


# ---- EKTF: adaptive peers and a teacher ------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(2, 6), batches, seeds)
def test_on_the_complete_graph_it_is_ektfs_loss(size, batch, seed) -> None:
    """As the paper's code has it: a mean over students of softmax-weighted peers, and a softmin-weighted teacher."""
    logits, labels = logits_like(size, batch, seed), labels_like(batch, seed)
    p = logits.sigmoid()
    score = (1 - (labels - p).abs()).mean(1)
    expected = (torch.softmax(-score, 0) * ((p - p.mean(0)) ** 2).mean(1)).sum()
    for n in range(size):
        peers = [i for i in range(size) if i != n]
        ahead = torch.softmax(score[peers] - score[n], 0)
        expected = expected + (ahead * ((p[n] - p[peers]) ** 2).mean(1)).sum() / size
    found = loss_of(logits, complete(size), labels=labels, peer_weighting="adaptive", teacher_weight=1.0)
    torch.testing.assert_close(found.mean(), expected, rtol=1e-9, atol=1e-12)


# ---- who listens to whom --------------------------------------------------------------------------------------------


def test_shapes_written_out() -> None:
    assert solo(2) == ((0.0, 0.0), (0.0, 0.0))
    assert ring(3, 0.5) == ((0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (0.5, 0.0, 0.0))
    assert star(3) == ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    assert one_way(3) == ((0.0, 0.5, 0.5), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert pairs(4, 2.0) == independent_groups([complete(2, 2.0), complete(2, 2.0)])
    assert pairs(3) == independent_groups([complete(2), solo(1)])
    assert complete(4, 3.0)[1] == (1.0, 0.0, 1.0, 1.0)
    assert complete(2) == ring(2) == star(2)


@pytest.mark.parametrize("name", get_args(Topology))
@pytest.mark.parametrize("size", range(1, 7))
def test_whoever_has_peers_has_the_whole_weight(name, size) -> None:
    """Topologies differ in who is whose peer: each row that has any sums to the weight."""
    rows = TOPOLOGIES[name](size, 3.0)
    Coupling(weights=rows)  # square, zero diagonal
    assert all(not any(row) or sum(row) == pytest.approx(3.0) for row in rows)


@settings(max_examples=200)
@given(st.integers(1, 9), st.data())
def test_connected_groups_are_the_components(size, data) -> None:
    """Listening to one's own frozen copy, or with weight zero, connects nobody."""
    edges = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=2 * size))
    weights = tuple(tuple(float((n, i) in edges) for i in range(size)) for n in range(size))
    label = connected_components(np.array(weights), directed=False)[1].tolist()
    expected = [[n for n in range(size) if label[n] == one] for one in set(label)]
    assert connected_groups(weights) == sorted(expected)


def test_students_of_one_teacher_belong_together() -> None:
    assert connected_groups(((1.0, 1.0, 0.0, 0.0),), teachers=True) == [[0]]
    weights = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.5, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    assert connected_groups(weights, teachers=True) == [[0, 3], [1], [2]]
    assert connected_groups(((0.0, 1.0), (1.0, 0.0)), teachers=True) == [[0], [1]]
