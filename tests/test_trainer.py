"""The training loop: zero coupling is separate training, one step by hand, schedules, checkpoints, repetition."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import (
    CPU,
    NOISY,
    assert_same_member,
    batch,
    distance,
    independent_groups,
    make_run,
    member,
    one_line,
    rows,
    same_state,
    widened,
    without_time,
)

from ctrlib.config import Checkpoint
from ctrlib.coupling import complete, one_way
from ctrlib.errors import UserError
from ctrlib.fast import scores
from ctrlib.models import MODELS
from ctrlib.stats import metrics
from ctrlib.training import evaluation, reference
from ctrlib.training import loop as trainer
from ctrlib.training import step as steps
from ctrlib.training.cohort import Group, build
from ctrlib.training.dataset import Split
from ctrlib.training.loop import batch_bounds, make_group, resolve_device, train
from ctrlib.training.step import train_step


def fit(run, starts=None):
    return train(run, rows(), starts, device="cpu")


def checkpoints(trained, optimizer: str) -> dict:
    """The arguments ``start`` of a run and ``starts`` of train that go on from ``trained``."""
    start = [Checkpoint(run="0" * 16, member=n, optimizer=optimizer) for n in range(len(trained.states))]
    return {"start": start, "starts": trained.states}


def go_on(trained, optimizer: str, members, weights=None, **recipe):
    """Train on from ``trained``."""
    found = checkpoints(trained, optimizer)
    return fit(make_run(members, weights, start=found["start"], **recipe), found["starts"])


# ---- a cohort without coupling is K separate trainings --------------------------------------------------------------


def test_zero_coupling_is_separate_training_for_every_architecture_at_once() -> None:
    members = [member(n, 7 + n % 2, architecture=name, **NOISY) for n, name in enumerate(MODELS)]
    cohort = fit(make_run(members, epochs=1))
    for n, one in enumerate(members):
        assert_same_member(cohort, n, fit(make_run([one], epochs=1)), 0)


def test_zero_coupling_is_separate_training_when_members_stop_at_different_epochs() -> None:
    schedule = {"epochs": 12, "patience": 1, "keep": "best", "learning_rate": 0.02}
    members = [member(seed, order, **NOISY) for seed, order in ((1, 7), (2, 7), (3, 8), (4, 9))]
    cohort = fit(make_run(members, **schedule))
    ends = [len(without_time(cohort.history, n)) for n in range(len(members))]
    assert len(set(ends)) > 1, "the example must stop at different epochs to prove anything"
    for n, one in enumerate(members):
        assert_same_member(cohort, n, fit(make_run([one], **schedule)), 0)


def test_zero_coupling_continues_from_checkpoints_like_separate_trainings() -> None:
    members = [member(seed, 7, **NOISY) for seed in (1, 2)]
    first = fit(make_run(members))
    cohort = go_on(first, "keep", members)
    for n, one in enumerate(members):
        start = [Checkpoint(run="0" * 16, optimizer="keep")]
        assert_same_member(cohort, n, fit(make_run([one], start=start), [first.states[n]]), 0)


def test_two_coupled_groups_in_one_cohort_are_two_runs_bit_for_bit() -> None:
    members = [member(seed, order, **NOISY) for seed, order in ((1, 7), (2, 7), (3, 8), (4, 8))]
    both = fit(make_run(members, independent_groups([complete(2), complete(2, 3.0)])))
    first, second = fit(make_run(members[:2], complete(2))), fit(make_run(members[2:], complete(2, 3.0)))
    for n in range(4):
        assert_same_member(both, n, (first, second)[n // 2], n % 2)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"form": "kl", "target": "shuffled"},
        {"form": "mse_logit", "peer_weighting": "adaptive", "teacher_weight": 2.0},
    ],
    ids=str,
)
def test_a_member_without_peers_trains_as_if_alone(how) -> None:
    members = [member(seed, 7, **NOISY) for seed in (1, 2, 3)]
    cohort = fit(make_run(members, one_way(3, 2.0), coupling=how))
    alone = fit(make_run(members))
    assert distance(cohort.states[0], alone.states[0]) > 1e-4
    for n in (1, 2):
        assert same_state(cohort.states[n], alone.states[n])


@pytest.mark.parametrize(
    ("noise", "how"),
    [
        ({}, {"form": "kl"}),
        (NOISY, {"target": "joint"}),
        (NOISY, {"form": "mse_logit", "target": "ensemble"}),
        (NOISY, {"peer_weighting": "adaptive", "teacher_weight": 2.0}),
    ],
    ids=str,
)
def test_identical_peers_stay_identical_and_teach_nothing(noise, how) -> None:
    members = [member(1, 7, **noise)] * 3
    cohort = fit(make_run(members, complete(3, 5.0), coupling=how))
    alone = fit(make_run(members[:1]))
    assert {row["peer_loss"] for row in cohort.history} == {0.0}
    assert same_state(cohort.states[0], cohort.states[1])
    assert same_state(cohort.states[0], cohort.states[2])
    if how.get("form") == "kl":  # its gradient at agreement is zero but for rounding
        assert distance(cohort.states[0], alone.states[0]) < 1e-4
    else:
        assert same_state(cohort.states[0], alone.states[0])


# ---- one step, by hand ----------------------------------------------------------------------------------------------


def hand_losses(logits: list[torch.Tensor], labels: torch.Tensor, weights, frozen=None) -> list[torch.Tensor]:
    """BCE + peer MSE of each member, written with probabilities; peers are constants."""
    p = [1 / (1 + torch.exp(-z)) for z in logits]
    peers = [q.detach() for q in p] if frozen is None else [torch.sigmoid(z) for z in frozen]
    losses = []
    for n, own in enumerate(p):
        loss = -(labels * own.log() + (1 - labels) * (1 - own).log()).mean()
        for i, peer in enumerate(peers):
            loss = loss + weights[n][i] * ((own - peer) ** 2).mean()
        losses.append(loss)
    return losses


def hand_step(models, optimizers, ids, labels, weights, l2: float, clip: float, frozen=None) -> None:
    """Plain autograd, L2 over the whole tables, clipping by the norm, torch's own Adam."""
    losses = hand_losses([model(ids) for model in models], labels, weights, frozen)
    for model, optimizer, loss in zip(models, optimizers, losses, strict=True):
        optimizer.zero_grad()
        loss.backward()
        tables = [m.weight for m in model.modules() if hasattr(m, "offsets")]
        for table in tables:
            table.grad += l2 * table.data
        norm = sum((p.grad**2).sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad *= min(1.0, clip / (float(norm) + 1e-6))
        optimizer.step()


def close_models(found: Group, expected: list[torch.nn.Module], rtol: float = 1e-4, atol: float = 1e-6) -> None:
    for trainee, model in zip(found.trainees, expected, strict=True):
        ours, theirs = dict(trainee.model.named_parameters()), dict(model.named_parameters())
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("number", range(len(MODELS)), ids=MODELS)
def test_steps_equal_hand_written_steps(number) -> None:
    """Three steps in float64 on an asymmetric coupling; every other architecture with gradients that are clipped."""
    weights, clip_norm = ((0.0, 0.7, 0.3), (2.0, 0.0, 0.0), (0.0, 1.5, 0.0)), (10.0, 0.01)[number % 2]
    members = [member(seed, architecture=list(MODELS)[number]) for seed in (1, 2, 3)]
    run = make_run(members, weights, embedding_l2=0.05, clip_norm=clip_norm)
    group = widened(make_group(run, [0, 1, 2], rows(), None, CPU))
    hand = [build(one, rows(), CPU).double() for one in members]
    for trainee, model in zip(group.trainees, hand, strict=True):
        model.load_state_dict(trainee.model.state_dict())
    optimizers = [torch.optim.Adam(m.parameters(), lr=run.recipe.learning_rate, fused=False) for m in hand]
    for step in range(3):
        ids, labels = batch(50 * step, double=True)
        losses = train_step(group, ids, labels, coupled=True)
        expected = hand_losses([model(ids) for model in hand], labels, weights)
        torch.testing.assert_close(losses.sum(0), torch.stack(expected).detach())
        hand_step(hand, optimizers, ids, labels, weights, 0.05, clip_norm)
    close_models(group, hand, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("architecture", ["DeepFM", "DCN"])
def test_the_readable_trainer_is_the_trainer(architecture) -> None:
    """Two epochs in float64, alone and coupled: all losses and predictions of ``ctrlib.training.reference``."""
    torch.set_default_dtype(torch.float64)
    try:
        members = [member(seed, architecture=architecture) for seed in (1, 2, 3)]
        ids, labels = torch.from_numpy(rows().train.ids).long(), torch.from_numpy(rows().train.labels).double()
        for weight in (0.0, 5.0):
            found = fit(make_run(members, complete(3, weight)))
            hand = [build(one, rows(), CPU) for one in members]
            log = torch.tensor(reference.train_by_hand(hand, ids, labels, 7, 2, weight, 0.01, 50))
            click, peer = log[7:, 1:4].mean(0), log[7:, 4:7].mean(0)
            last = found.history[-3:]
            assert click.tolist() == pytest.approx([row["click_loss"] for row in last], rel=1e-6)
            assert peer.tolist() == pytest.approx([row["peer_loss"] for row in last], rel=1e-5, abs=1e-9)
            test = torch.from_numpy(rows().test.ids).long()
            for model, logits in zip(hand, found.test_logits, strict=True):
                np.testing.assert_allclose(model(test).detach(), logits, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


# ---- when the coupling is on, and what a frozen peer is -------------------------------------------------------------


def coupled_flags(monkeypatch, start: float, epochs: int, batch_size: int = 50) -> list[bool]:
    """For each step of a training, whether the peer loss was on."""
    flags: list[bool] = []

    def fake(group, ids, labels, coupled, shuffle):
        flags.append(coupled)
        return torch.zeros(2, len(group.trainees))

    monkeypatch.setattr(steps, "train_step", fake)
    run = make_run([member(1), member(2)], complete(2), coupling={"start": start}, epochs=epochs, batch_size=batch_size)
    fit(run)
    return flags


@pytest.mark.parametrize(("epochs", "batch_size"), [(3, 33), (1, 3)])
def test_coupling_starts_at_its_share_of_the_training(monkeypatch, epochs, batch_size) -> None:
    """``start`` = k / steps is on from step k on, for every k: rounding must not move it."""
    total = epochs * len(batch_bounds(330, batch_size))
    for k in sorted({*range(0, total + 1, max(1, total // 15)), total}):
        flags = coupled_flags(monkeypatch, k / total, epochs, batch_size)
        assert flags == [step >= k for step in range(total)], f"start {k}/{total}"


def test_coupling_that_never_starts_is_solo_and_a_late_one_is_not() -> None:
    members = [member(1), member(2)]
    alone = fit(make_run(members))
    never = fit(make_run(members, complete(2), coupling={"start": 1.0}))
    late = fit(make_run(members, complete(2), coupling={"start": 0.5}))
    for n in range(2):
        assert_same_member(never, n, alone, n)
        assert without_time(late.history, n)[0] == without_time(alone.history, n)[0]
        assert without_time(late.history, n)[1]["peer_loss"] > 0
        assert distance(late.states[n], alone.states[n]) > 1e-4


def test_frozen_peers_are_the_start_and_stay_it() -> None:
    """Steps by hand against the start's logits; no unit is dropped and no batch statistics are learnt."""
    members = [member(1, **NOISY), member(2, **NOISY)]
    first = fit(make_run(members, epochs=3))
    start = checkpoints(first, "reset")["start"]
    run = make_run([member(1), member(2)], complete(2, 4.0), start=start, coupling={"target": "frozen"})
    plain = fit(make_run([member(1), member(2)], epochs=3)).states
    group = make_group(run, [0, 1], rows(), plain, CPU)
    models = [build(one, rows(), CPU) for one in run.members]
    for model, state in zip(models, plain, strict=True):
        trainer.load_state(state, model)
    optimizers = [torch.optim.Adam(m.parameters(), lr=run.recipe.learning_rate, fused=False) for m in models]
    ids, labels = batch()
    start_logits = [model(ids).detach() for model in models]
    for _ in range(4):
        train_step(group, ids, labels, coupled=True)
        hand_step(models, optimizers, ids, labels, complete(2, 4.0), 0.0, 10.0, frozen=start_logits)
    close_models(group, models)

    group = make_group(run.model_copy(update={"members": tuple(members)}), [0, 1], rows(), first.states, CPU)
    train_step(group, ids, labels, coupled=True)
    for copy, state, logits in zip(group.frozen, first.states, first.valid_logits, strict=True):
        assert all(torch.equal(value, state[f"weights.{name}"]) for name, value in copy.state_dict().items())
        with torch.no_grad():  # as they are, in the mode in which they are asked
            found = copy(torch.from_numpy(rows().valid.ids.astype(np.int64)))
        np.testing.assert_allclose(found.numpy(), logits, rtol=1e-5, atol=1e-6)


# ---- learning-rate plateau, patience, what is kept ------------------------------------------------------------------


def with_validation(monkeypatch, aucs: list[float], members=None, weights=None, **recipe):
    """A training whose validation AUCs are ``aucs``, in the order they are asked for; test AUC plays no part."""
    values = iter(aucs)
    monkeypatch.setattr(evaluation, "auc", lambda labels, scores: next(values))
    snapshots = []
    original = trainer.end_epoch

    def watched(group, epoch, valid):
        snapshots.append([trainer.member_state(t) for t in group.trainees])
        return original(group, epoch, valid)

    monkeypatch.setattr(trainer, "end_epoch", watched)
    trained = fit(make_run(members, weights, learning_rate=0.01, **recipe))
    return trained, snapshots


def rates(trained, index: int = 0) -> list[float]:
    return [row["learning_rate"] for row in trained.history if row["member"] == index]


def test_plateau_lowers_the_rate_patience_stops_and_the_best_is_kept(monkeypatch) -> None:
    aucs = [0.60, 0.70, 0.65, 0.72, 0.71, 0.715, 0.9]  # the last is never reached
    trained, snapshots = with_validation(monkeypatch, aucs, epochs=10, patience=2, keep="best")
    assert rates(trained) == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001, 0.0001])
    assert [row["valid_auc"] for row in trained.history] == aucs[:6]
    assert trained.kept_epochs == [4]
    assert same_state(trained.states[0], snapshots[3][0])
    assert not same_state(trained.states[0], snapshots[5][0])


def test_the_rate_that_history_shows_is_the_rate_that_adam_used(monkeypatch) -> None:
    """After a plateau at factor 1e-9 nothing moves any more."""
    trained, snapshots = with_validation(
        monkeypatch, [0.7, 0.6, 0.5], epochs=3, patience=5, plateau_factor=1e-9, keep="last"
    )
    assert rates(trained) == pytest.approx([0.01, 0.01, 1e-11])
    assert distance(snapshots[0][0], snapshots[1][0]) > 1e-3
    assert distance(snapshots[1][0], snapshots[2][0]) < 1e-7


@pytest.mark.parametrize(("gain", "counts"), [(5e-7, False), (5e-6, True)])
def test_a_gain_below_the_margin_is_none(monkeypatch, gain, counts) -> None:
    trained, _ = with_validation(monkeypatch, [0.7, 0.7 + gain], epochs=2, patience=2, keep="best")
    assert trained.kept_epochs == [2 if counts else 1]


@pytest.mark.parametrize("more", [{"epochs": 3}, {"epochs": 9, "patience": 2}], ids=str)
def test_keep_last_keeps_the_last(monkeypatch, more) -> None:
    trained, snapshots = with_validation(monkeypatch, [0.9, 0.8, 0.7, 0.95], keep="last", **more)
    assert trained.kept_epochs == [3]
    assert same_state(trained.states[0], snapshots[2][0])


def test_keep_best_without_patience_trains_all_epochs_at_one_rate(monkeypatch) -> None:
    trained, snapshots = with_validation(monkeypatch, [0.6, 0.9, 0.8, 0.7], epochs=4, keep="best")
    assert trained.kept_epochs == [2]
    assert same_state(trained.states[0], snapshots[1][0])
    assert rates(trained) == [0.01] * 4


def test_a_coupled_group_has_one_schedule_but_each_member_its_best_epoch(monkeypatch) -> None:
    pairs = [(0.60, 0.80), (0.70, 0.72), (0.75, 0.70), (0.71, 0.71), (0.99, 0.99)]  # means .70 .71 .725 .71 ...
    flat = [auc for pair in pairs for auc in pair]
    trained, snapshots = with_validation(
        monkeypatch, flat, [member(1), member(2)], complete(2), epochs=9, patience=1, keep="best"
    )
    assert rates(trained, 0) == rates(trained, 1) == [0.01] * 4
    assert trained.kept_epochs == [3, 1]
    assert same_state(trained.states[0], snapshots[2][0])
    assert same_state(trained.states[1], snapshots[0][1])


def test_predictions_are_those_of_the_kept_weights() -> None:
    found = fit(make_run([member(1, **NOISY)], epochs=6, patience=3, keep="best", learning_rate=0.05))
    assert found.kept_epochs[0] < 6
    dataset = rows()
    model = build(member(1, **NOISY), dataset, CPU)
    trainer.load_state(found.states[0], model)
    model.eval()
    for split, logits in (("valid", found.valid_logits), ("test", found.test_logits)):
        with torch.no_grad():
            expected = model(torch.from_numpy(getattr(dataset, split).ids.astype(np.int64)))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[0], expected.numpy(), rtol=1e-5, atol=1e-6)
    kept = found.history[found.kept_epochs[0] - 1]
    assert kept["valid_auc"] == metrics.auc(dataset.valid.labels, found.valid_logits[0])
    assert kept["valid_auc"] == max(row["valid_auc"] for row in found.history)


def test_predictions_do_not_depend_on_how_rows_are_cut(monkeypatch) -> None:
    model, dataset = build(member(1, **NOISY), rows(), CPU), rows()
    whole = trainer.predict(model, dataset.valid)
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", 37)
    np.testing.assert_allclose(trainer.predict(model, dataset.valid), whole, rtol=1e-5, atol=1e-7)


def test_history_says_what_happened() -> None:
    seen: list[list[dict]] = []
    run = make_run([member(1), member(2)], complete(2), epochs=3)
    trained = train(run, rows(), device="cpu", on_epoch=seen.append)
    assert [row for epoch in seen for row in epoch] == trained.history
    assert [(row["epoch"], row["member"]) for row in trained.history] == [(e, n) for e in (1, 2, 3) for n in (0, 1)]
    assert all(row["seconds"] > 0 and row["peer_loss"] > 0 and row["learning_rate"] == 0.01 for row in trained.history)
    clicks = [row["click_loss"] for row in trained.history if row["member"] == 0]
    assert clicks == sorted(clicks, reverse=True)


# ---- starting from a checkpoint -------------------------------------------------------------------------------------


def test_an_epoch_from_a_kept_checkpoint_is_the_next_epoch_bit_for_bit(monkeypatch) -> None:
    """3 epochs == 2 epochs, then 1 from their checkpoint. The second run is told to count its epochs from 2, as
    batch orders and dropout masks follow from the epoch's number."""
    members, weights = [member(seed, **NOISY) for seed in (1, 2)], complete(2)
    whole = fit(make_run(members, weights, epochs=3, embedding_l2=1e-3))
    first = fit(make_run(members, weights, epochs=2, embedding_l2=1e-3))
    derive = trainer.derive_seed

    def two_epochs_later(*parts):
        at = next(i for i, part in enumerate(parts) if isinstance(part, str)) + 1
        return derive(*parts[:at], parts[at] + 2, *parts[at + 1 :])

    monkeypatch.setattr(trainer, "derive_seed", two_epochs_later)
    rest = go_on(first, "keep", members, weights, epochs=1, embedding_l2=1e-3)
    for n in range(2):
        assert same_state(rest.states[n], whole.states[n])
        assert np.array_equal(rest.test_logits[n], whole.test_logits[n])
    forgot = go_on(first, "reset", members, weights, epochs=1, embedding_l2=1e-3)
    assert distance(forgot.states[0], whole.states[0]) > 1e-4


def test_kept_state_is_restored_and_reset_state_is_empty() -> None:
    dataset, first = rows(), fit(make_run(epochs=2))
    steps = 2 * len(batch_bounds(330, 50))
    for optimizer in ("keep", "reset"):
        start = [Checkpoint(run="0" * 16, optimizer=optimizer)]
        group = make_group(make_run(start=start, learning_rate=0.003), [0], dataset, first.states, CPU)
        one = group.trainees[0]
        assert one.optimizer.param_groups[0]["lr"] == 0.003
        for name, parameter in one.model.named_parameters():
            assert torch.equal(parameter, first.states[0][f"weights.{name}"])
            state = one.optimizer.state[parameter]
            if optimizer == "reset":
                assert not any(value.any() for value in state.values())
                continue
            assert state["step"].item() == steps
            for kind in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(state[kind], first.states[0][f"adam.{kind}.{name}"])
                assert state[kind].abs().max() > 0


def test_training_on_leaves_the_checkpoint_as_it_was() -> None:
    members = [member(1, **NOISY), member(2, **NOISY)]
    first = fit(make_run(members))
    copies = [{k: v.clone() for k, v in state.items()} for state in first.states]
    for optimizer in ("keep", "reset"):
        go_on(first, optimizer, members, complete(2))
    assert all(same_state(a, b) for a, b in zip(first.states, copies, strict=True))


# ---- randomness and repetition --------------------------------------------------------------------------------------


def test_random_state_of_the_caller_is_untouched_and_does_not_matter() -> None:
    run = make_run([member(1, **NOISY), member(2, **NOISY)], complete(2), coupling={"target": "shuffled"})
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = fit(run)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(2)
    second = fit(run)
    for n in range(2):
        assert_same_member(first, n, second, n)


@pytest.mark.parametrize("changed", ["init_seed", "order_seed"])
def test_each_seed_changes_its_own_source_of_randomness(changed) -> None:
    one = member(1, 7)
    other = one.model_copy(update={changed: 11})
    a, b = fit(make_run([one], epochs=1)), fit(make_run([other], epochs=1))
    assert distance(a.states[0], b.states[0]) > 1e-4
    models = [build(m, rows(), CPU).state_dict() for m in (one, other)]
    same_start = all(torch.equal(x, y) for x, y in zip(models[0].values(), models[1].values(), strict=True))
    assert same_start == (changed == "order_seed")


FRESH = """
import hashlib, json, sys
from small import *
from ctrlib.coupling import complete
from ctrlib.models import MODELS
from ctrlib.training.loop import train
torch.set_num_threads(1)
members = [member(n, 7, architecture=name, dropout=0.3, batch_norm=True) for n, name in enumerate(MODELS)]
run = make_run(members, complete(len(members)), embedding_l2=1e-3, coupling={"target": "shuffled"})
print(digest_of(train(run, rows(), device="cpu")))
"""


def test_a_fresh_process_gives_the_same_bytes() -> None:
    here: dict = {}
    exec(compile(FRESH.replace("print(", "answer = ("), "FRESH", "exec"), here)
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )
    assert fresh.returncode == 0, fresh.stderr
    assert len(here["answer"]) == 64
    assert fresh.stdout.strip() == here["answer"]


# ---- batches --------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 500), st.integers(1, 520))
def test_batches_cover_all_rows_once_and_are_never_a_single_row(count, batch_size) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [row for first, last in bounds for row in range(first, last)] == list(range(count))
    sizes = [last - first for first, last in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size + 1
    assert count == 1 or batch_size == 1 or min(sizes) > 1


def test_batch_norm_survives_a_last_batch_of_one_row() -> None:
    assert 330 % 47 == 1
    fit(make_run([member(1, **NOISY)], batch_size=47, epochs=1))


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_batch_larger_than_the_rows_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        fit(make_run(batch_size=331))
    assert "batch_size=331: must be at most 330" in one_line(caught)
    fit(make_run(batch_size=330, epochs=1))


def test_other_rows_than_the_run_names_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        train(make_run(), replace(rows(), fingerprint="feedbeef"), device="cpu")
    assert all(word in one_line(caught) for word in ("'synthetic'", "feedbeef", rows().fingerprint))


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:99", ["'cuda:99'", "is not there", "CUDA device(s)"]),
        ("tpu", ["'tpu'", "auto, cpu, cuda"]),
        ("mps", ["'mps'", "auto, cpu, cuda"]),
        ("cuda:x", ["'cuda:x'", "auto, cpu, cuda"]),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, words) -> None:
    with pytest.raises(UserError) as caught:
        train(make_run(), rows(), device=device)
    assert all(word in one_line(caught) for word in words)


def test_devices_that_are_there() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_loss_that_is_no_number_is_said() -> None:
    """Forty cross layers at the largest learning rate overflow within a few steps."""
    wild = member(1, architecture="DCN", options={"num_cross_layers": 40})
    with pytest.raises(UserError) as caught:
        fit(make_run([wild], learning_rate=10.0))
    assert "use a learning_rate below 10" in one_line(caught)


def test_predictions_that_are_no_numbers_are_said(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "predict", lambda model, split: torch.full((len(split),), torch.nan))
    with pytest.raises(UserError) as caught:
        fit(make_run())
    assert "lower learning_rate" in one_line(caught)


def test_starts_must_come_with_the_run_that_names_them() -> None:
    states = fit(make_run(epochs=1)).states
    with pytest.raises(ValueError, match="start"):
        fit(make_run(), states)
    with pytest.raises(ValueError, match="start"):
        fit(make_run(start=[Checkpoint(run="0" * 16)]))


def test_dataset_is_read_and_never_written() -> None:
    dataset = rows()
    for split in dataset.splits().values():
        split.ids.setflags(write=False)
        split.labels.setflags(write=False)
    try:
        fit(make_run(epochs=1))
    finally:
        for split in dataset.splits().values():
            split.ids.setflags(write=True)
            split.labels.setflags(write=True)


def test_rows_may_come_from_disk(tmp_path) -> None:
    """Prepared data is memory-mapped: the numbers must not depend on that."""
    dataset, parts = rows(), {}
    for name, split in dataset.splits().items():
        np.save(tmp_path / f"{name}.npy", split.ids)
        parts[name] = Split(np.load(tmp_path / f"{name}.npy", mmap_mode="r"), split.labels)
    run = make_run()
    assert_same_member(train(run, replace(dataset, **parts), device="cpu"), 0, fit(run), 0)


def test_metrics_on_a_device_are_those_of_the_metrics_module() -> None:
    """With many ties and both zeros; the AUC to the last bit."""
    drawn = np.random.default_rng(3)
    labels = (drawn.random(5000) < 0.3).astype(np.uint8)
    for logits in (drawn.normal(size=5000), drawn.integers(-2, 3, 5000) * 0.5, np.where(labels, 0.0, -0.0)):
        logits = logits.astype(np.float32)
        auc, logloss = scores.auc_and_logloss(torch.from_numpy(labels), torch.from_numpy(logits))
        assert auc == metrics.auc(labels, logits)
        assert logloss == pytest.approx(metrics.logloss_from_logits(labels, logits), rel=1e-12)
