"""The peer loss against the formula written as loops, its gradients, and the shapes of who listens to whom."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import logits_like

from ctrlib.config import FROZEN, Coupling, Form, Target, Topology
from ctrlib.coupling import (
    TOPOLOGIES,
    by_exam,
    click_loss,
    complete,
    connected_groups,
    difference,
    exam_score,
    independent_groups,
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
def matrices(draw, size: int, columns: int | None = None):
    """Any coupling matrix: many zeros, no symmetry; a zero diagonal, or any number of ``columns`` to hear."""
    weight = st.sampled_from([0.0, 0.0, 0.25, 1.0]) | st.floats(1e-9, 5)  # one near 1e-300 rounds to nothing
    heard = range(columns or size)
    return tuple(tuple(0.0 if i == n and columns is None else draw(weight) for i in heard) for n in range(size))


def tensor(weights) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def others(size: int, batch: int, seed: int) -> dict:
    """What the frozen targets and ``shuffled`` need."""
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    return {"frozen": logits_like(size, batch, seed + 1), "shuffle": order}


# ---- the formula, by loops ------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_difference(own: float, p_target: float, form: str) -> float:
    """d of a logit and a target probability."""
    p = sigmoid(own)
    if form == "mse":
        return (p - p_target) ** 2
    if form == "mse_logit":
        return (own - math.log(p_target / (1 - p_target))) ** 2
    return p_target * math.log(p_target / p) + (1 - p_target) * math.log((1 - p_target) / (1 - p))


def naive_peer_loss(logits, weights, form, target, frozen, shuffle) -> list[float]:
    size, batch = len(logits), len(logits[0])
    losses = []
    for n in range(size):
        loss = 0.0
        for i in range(len(weights[n])):
            for b in range(batch):
                if weights[n][i] == 0:
                    continue
                if target in ("live", "joint"):
                    p_target = sigmoid(logits[i][b])
                elif target == "frozen":
                    p_target = sigmoid(frozen[i][b])
                elif target == "frozen_ensemble":
                    heard = [j for j in range(len(frozen)) if weights[n][j] > 0]
                    p_target = sum(sigmoid(frozen[j][b]) for j in heard) / len(heard)
                elif target == "shuffled":
                    p_target = sigmoid(logits[i][shuffle[b]])
                else:
                    heard = [n] + [j for j in range(size) if weights[n][j] > 0]
                    p_target = sum(sigmoid(logits[j][b]) for j in heard) / len(heard)
                loss += weights[n][i] * naive_difference(logits[n][b], p_target, form) / batch
        losses.append(loss)
    return losses


@every_form
@every_target
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_peer_loss_is_the_formula(form, target, data) -> None:
    size, batch, seed = data.draw(sizes), data.draw(batches), data.draw(seeds)
    heard = data.draw(sizes) if target in FROZEN else None
    weights = data.draw(matrices(size, heard))
    logits, given_ = logits_like(size, batch, seed), others(heard or size, batch, seed)
    found = peer_loss(logits, tensor(weights), form, target, **given_)
    expected = naive_peer_loss(
        logits.tolist(), weights, form, target, given_["frozen"].tolist(), given_["shuffle"].tolist()
    )
    assert found.shape == (size,)
    assert found.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), batches, seeds)
def test_paper_loss_is_the_mean_over_peers_of_the_mean_squared_difference(size, batch, seed) -> None:
    """L_n = BCE_n + 1/(N-1) sum over peers of mean_b (p_i - p_n)^2, as arXiv 2406.12087 writes it."""
    logits = logits_like(size, batch, seed)
    labels = (torch.rand(batch, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    p = logits.sigmoid()
    total = click_loss(logits, labels) + peer_loss(logits, tensor(complete(size)))
    for n in range(size):
        bce = F.binary_cross_entropy(p[n], labels)
        peers = sum(F.mse_loss(p[i], p[n]) for i in range(size) if i != n) / (size - 1)
        torch.testing.assert_close(total[n], bce + peers, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(batches, seeds)
def test_kl_is_torchs_two_class_divergence(batch, seed) -> None:
    own, target = logits_like(2, batch, seed)
    found = peer_loss(torch.stack([own, target]), tensor(one_way(2)), "kl")[0]
    two = [torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], dim=1) for x in (own, target)]
    torch.testing.assert_close(found, F.kl_div(two[0], two[1], reduction="batchmean", log_target=True))


def test_mse_is_bounded_by_one_and_reached_at_opposite_certainty() -> None:
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0]])
    assert peer_loss(logits, torch.tensor(complete(2))).tolist() == pytest.approx([1, 1])


# ---- zero -----------------------------------------------------------------------------------------------------------


@every_form
@every_target
def test_solo_is_exactly_zero_with_zero_gradient(form, target) -> None:
    logits = logits_like(3, 4, 1).requires_grad_()
    loss = peer_loss(logits, tensor(solo(3)), form, target, **others(3, 4, 2))
    assert torch.equal(loss, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(loss.sum(), logits)[0], torch.zeros_like(logits))


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [target for target in TARGETS if target != "shuffled"])
def test_nothing_to_learn_when_peers_agree(form, target, dtype) -> None:
    """At moderate logits and at +-50, where probabilities are 0 or 1 in float32."""
    row = torch.tensor([-50.0, -17.0, -3.0, 0.0, 0.5, 12.0, 17.0, 50.0], dtype=dtype)
    logits = row.repeat(4, 1).requires_grad_()
    weights = torch.tensor(complete(4, 2.0), dtype=dtype)
    loss = peer_loss(logits, weights, form, target, frozen=logits.detach())
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.equal(loss, torch.zeros(4, dtype=dtype))
    if form != "kl":
        assert torch.equal(slope, torch.zeros_like(slope))
    assert slope.abs().max() <= (1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_equal_models_is_exactly_what_each_says(dtype) -> None:
    """For any number of them at any place of the batch; likewise the mean of one alone."""
    row = logits_like(1, 203, 5, scale=12.0)[0].to(dtype)
    for size in range(1, 8):
        found = mean_prediction(row.repeat(size, 1), torch.ones(2, size, dtype=torch.bool))
        assert torch.equal(found, row.repeat(2, 1))
    several = logits_like(4, 203, 6, scale=12.0).to(dtype)
    assert torch.equal(mean_prediction(several, torch.eye(4, dtype=torch.bool)), several)


@pytest.mark.parametrize("logit", [50.0, 300.0, 1000.0])
def test_the_mean_is_finite_and_right_between_opposite_certainties(logit) -> None:
    found = mean_prediction(torch.tensor([[logit], [-logit], [-logit]]), torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(math.log(1 / 2), abs=1e-4 * logit)


@every_form
@every_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_are_finite_at_extreme_logits(form, target, dtype) -> None:
    extreme = torch.tensor([[50.0, -50.0, 50.0, 0.0], [-50.0, 50.0, 50.0, 50.0], [-50.0, -50.0, 0.0, -50.0]]).to(dtype)
    logits = extreme.clone().requires_grad_()
    given_ = {"frozen": extreme.flip(1), "shuffle": torch.tensor([2, 0, 3, 1])}
    loss = peer_loss(logits, torch.tensor(complete(3), dtype=dtype), form, target, **given_)
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.isfinite(loss).all()
    assert torch.isfinite(slope).all()


def test_kl_of_opposite_certainties_is_their_distance() -> None:
    loss = difference(torch.tensor([50.0, -50.0]), torch.tensor([-50.0, 50.0]), "kl")
    assert loss.tolist() == pytest.approx([50.0, 50.0], rel=1e-6)


# ---- gradients ------------------------------------------------------------------------------------------------------


def gradients(logits, weights, form, target, **given_) -> torch.Tensor:
    """(K, K, B): entry [n, m] is the gradient of member n's peer loss in the logits of member m."""
    logits = logits.clone().requires_grad_()
    losses = peer_loss(logits, weights, form, target, **given_)
    return torch.stack([torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses])


@every_form
@pytest.mark.parametrize("target", [target for target in TARGETS if target != "joint"])
@settings(max_examples=8, deadline=None)
@given(st.integers(2, 5), batches, seeds)
def test_the_pull_reaches_only_the_member_itself(form, target, size, batch, seed) -> None:
    slopes = gradients(
        logits_like(size, batch, seed), tensor(complete(size)), form, target, **others(size, batch, seed)
    )
    for n in range(size):
        assert slopes[n, n].abs().max() > 0 or (target == "shuffled" and batch == 1)
        slopes[n, n] = 0
    assert torch.equal(slopes, torch.zeros_like(slopes))


@every_form
def test_a_joint_pull_reaches_both_ends(form) -> None:
    slopes = gradients(logits_like(3, 4, 5), tensor(complete(3)), form, "joint")
    assert (slopes.abs().amax(dim=2) > 0).all()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_analytic_gradients(data) -> None:
    """mse: 2 (p_n - p_i) p_n (1 - p_n) / B. kl: (p_n - p_i) / B. mse_logit: 2 (z_n - z_i) / B. Each weighted by A."""
    size, batch, seed = data.draw(st.integers(2, 5)), data.draw(batches), data.draw(seeds)
    weights = tensor(data.draw(matrices(size)))
    z = logits_like(size, batch, seed)
    p = z.sigmoid()
    ahead, z_ahead = p[:, None] - p[None], z[:, None] - z[None]  # (n, i, b)
    expected = {
        "mse": 2 * (weights[:, :, None] * ahead).sum(1) * p * (1 - p) / batch,
        "kl": (weights[:, :, None] * ahead).sum(1) / batch,
        "mse_logit": 2 * (weights[:, :, None] * z_ahead).sum(1) / batch,
    }
    for form, slope in expected.items():
        found = gradients(z, weights, form, "live").sum(0)
        torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-13)


@every_form
def test_gradcheck(form) -> None:
    own, fixed = logits_like(1, 6, 3)[0].requires_grad_(), logits_like(1, 6, 4)[0]
    assert torch.autograd.gradcheck(lambda x: difference(x, fixed, form), own)
    logits, weights = logits_like(3, 4, 5).requires_grad_(), tensor(((0, 0.3, 0.0), (1.2, 0, 0.5), (0.1, 0, 0)))
    assert torch.autograd.gradcheck(lambda x: peer_loss(x, weights, form, "joint"), logits)
    frozen = logits_like(3, 4, 6)
    assert torch.autograd.gradcheck(lambda x: peer_loss(x, weights, form, "frozen", frozen), logits)


@pytest.mark.parametrize("form", ["mse", "mse_logit"])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_joint_equals_doubled_weight_when_everything_is_symmetric(form, data) -> None:
    size, batch, seed = data.draw(st.integers(2, 5)), data.draw(batches), data.draw(seeds)
    upper = tensor(data.draw(matrices(size))).triu()
    weights, logits = upper + upper.T, logits_like(size, batch, seed)
    joint = gradients(logits, weights, form, "joint").sum(0)
    doubled = gradients(logits, 2 * weights, form, "live").sum(0)
    torch.testing.assert_close(joint, doubled, rtol=1e-9, atol=1e-13)


def test_joint_is_no_doubled_weight_where_the_maths_does_not_say_so() -> None:
    logits, listens = logits_like(3, 4, 7), tensor(one_way(3))
    for form, weights in (("mse", listens), ("kl", tensor(complete(3)))):
        joint = gradients(logits, weights, form, "joint").sum(0)
        assert not torch.allclose(joint, gradients(logits, 2 * weights, form, "live").sum(0), rtol=1e-3)


@every_form
@every_target
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_names_of_the_members_do_not_matter(form, target, data) -> None:
    size, batch, seed = data.draw(st.integers(2, 5)), data.draw(batches), data.draw(seeds)
    order = torch.tensor(data.draw(st.permutations(range(size))))
    weights, logits, given_ = (
        tensor(data.draw(matrices(size))),
        logits_like(size, batch, seed),
        others(size, batch, seed),
    )
    plain = peer_loss(logits, weights, form, target, **given_)
    given_["frozen"] = given_["frozen"][order]
    renamed = peer_loss(logits[order], weights[order][:, order], form, target, **given_)
    torch.testing.assert_close(renamed, plain[order], rtol=1e-9, atol=1e-13)


@every_form
def test_order_of_rows_matters_only_to_the_shuffled_control(form) -> None:
    logits, weights = logits_like(3, 6, 8), tensor(complete(3))
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    live = peer_loss(logits, weights, form)
    torch.testing.assert_close(peer_loss(logits[:, order], weights, form), live)
    shuffled = peer_loss(logits, weights, form, "shuffled", shuffle=order)
    assert not torch.isclose(shuffled, live, rtol=1e-4).any()
    torch.testing.assert_close(peer_loss(logits, weights, form, "shuffled", shuffle=torch.arange(6)), live)


def test_missing_material_is_said() -> None:
    for target in ("frozen", "frozen_ensemble", "shuffled"):
        with pytest.raises(ValueError, match=target):
            peer_loss(logits_like(2, 3, 1), tensor(complete(2)), "mse", target)


# ---- EKTF: adaptive peers and a teacher ------------------------------------------------------------------------------


def labels_like(batch: int, seed: int) -> torch.Tensor:
    return (torch.rand(batch, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def naive_ektf(logits, labels, weights, teacher_weight: float, adaptive: bool) -> list[float]:
    """The term of each member by loops over probabilities, for any graph of live peers."""
    p = [[sigmoid(z) for z in row] for row in logits]
    size, batch = len(p), len(labels)
    score = [sum(1 - abs(y - q) for y, q in zip(labels, row, strict=True)) / batch for row in p]

    def mse(row, target) -> float:
        return sum((a - b) ** 2 for a, b in zip(row, target, strict=True)) / batch

    losses = []
    for n in range(size):
        peers = [i for i in range(size) if weights[n][i] > 0]
        together = sorted({n, *peers})
        loss = 0.0
        for i in peers:
            heard = weights[n][i]
            if adaptive:
                shares = [weights[n][j] * math.exp(score[j]) for j in peers]
                heard = sum(weights[n]) * weights[n][i] * math.exp(score[i]) / sum(shares)
            loss += heard * mse(p[n], p[i])
        if peers:
            mean = [sum(p[j][b] for j in together) / len(together) for b in range(batch)]
            need = math.exp(-score[n]) / sum(math.exp(-score[j]) for j in together) * len(together) if adaptive else 1
            loss += teacher_weight * need * mse(p[n], mean)
        losses.append(loss)
    return losses


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_adaptive_peers_and_teacher_are_the_formula(data) -> None:
    size, batch, seed = data.draw(st.integers(2, 5)), data.draw(batches), data.draw(seeds)
    weights, teacher, adaptive = (
        data.draw(matrices(size)),
        data.draw(st.sampled_from([0.0, 1.0, 3.0])),
        data.draw(st.booleans()),
    )
    logits, labels = logits_like(size, batch, seed), labels_like(batch, seed)
    weighting = "adaptive" if adaptive else "fixed"
    found = peer_loss(logits, tensor(weights), labels=labels, peer_weighting=weighting, teacher_weight=teacher)
    expected = naive_ektf(logits.tolist(), labels.tolist(), weights, teacher, adaptive)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), batches, seeds)
def test_on_the_complete_graph_it_is_ektfs_loss(size, batch, seed) -> None:
    """As the paper's code has it: a mean over students of softmax-weighted peers, and a softmin-weighted teacher."""
    logits, labels = logits_like(size, batch, seed), labels_like(batch, seed)
    p = logits.sigmoid()
    score = (1 - (labels - p).abs()).mean(1)
    teacher = (torch.softmax(-score, 0) * ((p - p.mean(0)) ** 2).mean(1)).sum()
    peers = []
    for n in range(size):
        others_ = [i for i in range(size) if i != n]
        ahead = torch.softmax(torch.stack([score[i] - score[n] for i in others_]), 0)
        peers.append((ahead * torch.stack([F.mse_loss(p[n], p[i]) for i in others_])).sum())
    found = peer_loss(logits, tensor(complete(size)), labels=labels, peer_weighting="adaptive", teacher_weight=1.0)
    torch.testing.assert_close(found.mean(), teacher + torch.stack(peers).mean(), rtol=1e-9, atol=1e-12)


@every_form
@pytest.mark.parametrize("weighting", ["fixed", "adaptive"])
def test_gradient_of_adaptive_peers_and_teacher_is_that_of_constant_weights(form, weighting) -> None:
    """Against autograd on the loss with every weight, peer and teacher a constant; none into another member."""
    logits, labels, weights = logits_like(3, 6, 4), labels_like(6, 4), tensor(((0, 1, 2), (0.5, 0, 0), (0, 0, 0)))
    how = {"labels": labels, "peer_weighting": weighting, "teacher_weight": 2.0}
    found = gradients(logits, weights, form, "live", **how)
    for n in range(3):
        own = logits[n].clone().requires_grad_()
        peers = [i for i in range(3) if weights[n, i] > 0]
        score = exam_score(logits, labels)
        heard = by_exam(weights, score)[n] if weighting == "adaptive" else weights[n]
        loss = sum((heard[i] * difference(own, logits[i], form).mean() for i in peers), 0 * own.sum())
        if peers:
            together = torch.tensor([n, *peers])
            mean = logits[together].sigmoid().mean(0).logit()
            need = torch.softmax(-score[together], 0)[0] * len(together) if weighting == "adaptive" else 1
            loss = loss + 2.0 * need * difference(own, mean, form).mean()
        torch.testing.assert_close(found[n, n], torch.autograd.grad(loss, own)[0], rtol=1e-7, atol=1e-12)
        found[n, n] = 0
    assert torch.equal(found, torch.zeros_like(found))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_adaptive_weights_keep_each_rows_sum_and_prefer_the_better(data) -> None:
    size = data.draw(st.integers(2, 6))
    weights = tensor(data.draw(matrices(size)))
    score = torch.rand(size, generator=torch.Generator().manual_seed(data.draw(seeds)), dtype=torch.float64)
    found = by_exam(weights, score)
    torch.testing.assert_close(found.sum(1), weights.sum(1))
    assert torch.equal(found > 0, weights > 0)
    torch.testing.assert_close(by_exam(weights, torch.full_like(score, 0.3)), weights)
    everyone = by_exam(tensor(complete(size)), score)
    best, worst = score.argmax(), score.argmin()
    listener = next((n for n in range(size) if n not in (best, worst)), None)
    if listener is not None:
        assert everyone[listener, best] >= everyone[listener, worst]


@every_form
def test_identical_peers_are_taught_exactly_nothing(form) -> None:
    logits = logits_like(1, 61, 2).float().repeat(3, 1).requires_grad_()
    how = {"labels": labels_like(61, 2).float(), "peer_weighting": "adaptive", "teacher_weight": 3.0}
    loss = peer_loss(logits, torch.tensor(complete(3)), form, **how)
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.equal(loss, torch.zeros(3))
    assert torch.equal(slope[0], slope[1])
    assert torch.equal(slope[0], slope[2])
    assert slope.abs().max() <= (1e-6 if form == "kl" else 0)


# ---- who listens to whom --------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.floats(0, 1e3))
def test_complete_shares_the_weight_evenly(size, weight) -> None:
    rows = complete(size, weight)
    for n, row in enumerate(rows):
        assert row[n] == 0
        assert all(row[i] == weight / (size - 1) for i in range(size) if i != n)
        assert sum(row) == pytest.approx(weight if size > 1 else 0)


def test_shapes_written_out() -> None:
    assert solo(2) == ((0.0, 0.0), (0.0, 0.0))
    assert ring(3, 0.5) == ((0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (0.5, 0.0, 0.0))
    assert star(3) == ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    assert one_way(3) == ((0.0, 0.5, 0.5), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert pairs(4, 2.0) == independent_groups([complete(2, 2.0), complete(2, 2.0)])
    assert pairs(3) == independent_groups([complete(2), solo(1)])
    assert independent_groups([complete(2), solo(1), ring(2, 3.0)]) == (
        (0.0, 1.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 3.0),
        (0.0, 0.0, 0.0, 3.0, 0.0),
    )
    assert complete(2) == ring(2) == star(2)


def test_every_topology_has_its_shape() -> None:
    assert tuple(TOPOLOGIES) == get_args(Topology)
    for name, make in TOPOLOGIES.items():
        assert make.__name__ == name


@pytest.mark.parametrize("make", TOPOLOGIES.values())
@pytest.mark.parametrize("size", range(1, 7))
def test_every_listener_hears_the_same_total(make, size) -> None:
    """Shapes differ in who is heard, not in how loud: each row that listens sums to the weight."""
    rows = make(size, 3.0)
    Coupling(weights=rows)  # square, zero diagonal, nothing negative
    for n, row in enumerate(rows):
        assert row[n] == 0
        assert not any(row) or sum(row) == pytest.approx(3.0)


def naive_groups(weights) -> list[list[int]]:
    """Components of the undirected graph, by relabelling until nothing changes."""
    label = list(range(len(weights)))
    for _ in label:
        for n, row in enumerate(weights):
            for i, weight in enumerate(row):
                if weight:
                    label[n] = label[i] = min(label[n], label[i])
    return sorted([n for n in range(len(label)) if label[n] == name] for name in set(label))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.data())
def test_connected_groups_are_the_components(size, data) -> None:
    edges = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=2 * size))
    weights = tuple(tuple(float((n, i) in edges and n != i) for i in range(size)) for n in range(size))
    groups = connected_groups(weights)
    assert groups == naive_groups(weights)
    assert sorted(n for group in groups for n in group) == list(range(size))


def test_connected_groups_of_the_shapes() -> None:
    assert connected_groups(solo(3)) == [[0], [1], [2]]
    for make in (complete, ring, star, one_way):
        assert connected_groups(make(4)) == [[0, 1, 2, 3]]
    assert connected_groups(independent_groups([complete(2), solo(2), ring(3)])) == [[0, 1], [2], [3], [4, 5, 6]]
    assert connected_groups(complete(3, 0.0)) == [[0], [1], [2]]  # listening with weight zero is not listening
    assert connected_groups(pairs(5)) == [[0, 1], [2, 3], [4]]
    assert connected_groups(((1.0, 0.0), (0.0, 1.0))) == [[0], [1]]  # each listens to its own frozen copy


def test_who_hears_the_same_teacher_belongs_together() -> None:
    assert connected_groups(((1.0, 1.0, 0.0, 0.0),), teachers=True) == [[0]]
    weights = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.5, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    assert connected_groups(weights, teachers=True) == [[0, 3], [1], [2]]
    assert connected_groups(((0.0, 1.0), (1.0, 0.0)), teachers=True) == [[0], [1]]
