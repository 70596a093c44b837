"""The training loop: zero coupling is separate training, one step by hand, schedules, checkpoints, repetition."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import answer_of
from small import (
    CPU,
    NOISY,
    assert_same_member,
    batch,
    checkpoints,
    digest_of,
    distance,
    fit,
    independent_groups,
    logits_of,
    make_run,
    member,
    refused,
    rows,
    same_state,
    twins,
    widened,
    without_time,
)
from test_coupling import naive_losses
from torch import nn

from ctrlib.coupling import complete, one_way, solo
from ctrlib.fast import scores
from ctrlib.models import MODELS
from ctrlib.stats import metrics
from ctrlib.training import evaluation, reference
from ctrlib.training import loop as trainer
from ctrlib.training import step as steps
from ctrlib.training.cohort import build
from ctrlib.training.loop import batch_bounds, make_group, resolve_device, train
from ctrlib.training.step import train_step

EKTF = {"peer_weighting": "adaptive", "teacher_weight": 2.0}


def go_on(trained, optimizer: str, members, weights=None, **recipe):
    """Train on from ``trained``."""
    start = checkpoints(len(members), optimizer)
    return fit(make_run(members, weights, start=start, **recipe), trained.states)


# ---- a cohort without coupling is K separate trainings --------------------------------------------------------------

PAIRS = [member(seed, order, **NOISY) for seed, order in ((1, 7), (2, 7), (3, 8), (4, 8))]
ALONE = {
    "every architecture": (
        [member(n, 7 + n % 2, architecture=name, **NOISY) for n, name in enumerate(MODELS)],
        [solo(1)] * len(MODELS),
        {"epochs": 1},
    ),
    "ends at different epochs": (
        PAIRS,
        [solo(1)] * 4,
        {"epochs": 12, "patience": 1, "keep": "best", "learning_rate": 0.02},
    ),
    "two coupled groups": (PAIRS, [complete(2), complete(2, 3.0)], {}),
}


@pytest.mark.parametrize("name", ALONE)
def test_groups_of_a_cohort_are_separate_trainings_bit_for_bit(name) -> None:
    """The cohort with its members side by side in threads, the others in turn."""
    members, groups, recipe = ALONE[name]
    cohort, first = fit(make_run(members, independent_groups(groups), **recipe), threads=3), 0
    if name == "ends at different epochs":
        assert len({len(without_time(cohort.history, n)) for n in range(4)}) > 1, "or it proves nothing"
    for weights in groups:
        alone = fit(make_run(members[first : first + len(weights)], weights, **recipe))
        for n in range(len(weights)):
            assert_same_member(cohort, first + n, alone, n)
        first += len(weights)


@pytest.mark.parametrize("how", [{"form": "kl", "target": "shuffled"}, {"form": "mse_logit", **EKTF}], ids=str)
def test_a_member_without_peers_trains_as_if_alone(how) -> None:
    members = [member(seed, 7, **NOISY) for seed in (1, 2, 3)]
    cohort = fit(make_run(members, one_way(3, 2.0), coupling=how))
    alone = fit(make_run(members))
    assert distance(cohort.states[0], alone.states[0]) > 1e-4
    for n in (1, 2):
        assert same_state(cohort.states[n], alone.states[n])


@pytest.mark.parametrize("how", [{"target": "joint"}, {"form": "mse_logit", "target": "ensemble"}, EKTF], ids=str)
def test_identical_peers_stay_identical_and_teach_nothing(how) -> None:
    cohort = fit(make_run([member(1, 7, **NOISY)] * 3, complete(3, 5.0), coupling=how))
    alone = fit(make_run([member(1, 7, **NOISY)]))
    assert {row["peer_loss"] for row in cohort.history} == {0.0}
    assert all(same_state(state, alone.states[0]) for state in cohort.states)


# ---- one step, by hand ----------------------------------------------------------------------------------------------


def hand_step(models, optimizer, ids, labels, coupling, l2: float, clip: float) -> list[torch.Tensor]:
    """Plain autograd, L2 over the whole tables, clipping by the norm of a member's gradient, torch's own Adam. What
    several models have in common moves along the mean of their gradients. Returns the losses."""
    losses, parts = naive_losses([model(ids) for model in models], labels, coupling), {}
    for model, loss in zip(models, losses, strict=True):
        own = list(model.parameters())
        gradients = dict(zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True))
        for table in (module.weight for module in model.modules() if hasattr(module, "offsets")):
            gradients[table] = gradients[table] + l2 * table.data
        norm = float(sum((gradient**2).sum() for gradient in gradients.values()).sqrt())
        assert (norm > clip) == (clip < 1), "clipped or not, as the case says"
        for parameter, gradient in gradients.items():
            parts.setdefault(parameter, []).append(gradient * min(1.0, clip / (norm + 1e-6)))
    for parameter, several in parts.items():
        parameter.grad = sum(several) / len(several)
    optimizer.step()
    return losses


STEPS = [([name] * 3, "own", (100.0, 0.01)[n % 2]) for n, name in enumerate(MODELS)]
STEPS += [(["DeepFM", "FiBiNET", "DCN"], "shared", clip_norm) for clip_norm in (10.0, 0.01)]


@pytest.mark.parametrize(("architectures", "embeddings", "clip_norm"), STEPS, ids=str)
def test_steps_equal_hand_written_steps(architectures, embeddings, clip_norm) -> None:
    """Three steps in float64 on an asymmetric coupling; a shared table is literally one module in all models."""
    members = [member(seed, architecture=name) for seed, name in enumerate(architectures, 1)]
    weights = ((0.0, 0.75, 0.25), (2.0, 0.0, 0.0), (0.0, 1.5, 0.0))
    run = make_run(members, weights, embedding_l2=0.05, clip_norm=clip_norm, embeddings=embeddings)
    group = widened(run)
    models = twins(group)
    if embeddings == "shared":
        for model in models:
            model.embedding = models[0].embedding
    optimizer = torch.optim.Adam({p for model in models for p in model.parameters()}, lr=0.01, fused=False)
    for ids, labels in (batch(50 * step, double=True) for step in range(3)):
        losses = train_step(group, ids, labels, coupled=True)
        expected = hand_step(models, optimizer, ids, labels, run.coupling, 0.05, clip_norm)
        torch.testing.assert_close(losses.sum(0), torch.stack(expected).detach())
    for trainee, model in zip(group.trainees, models, strict=True):
        found, expected = (dict(one.named_parameters()) for one in (trainee.model, model))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


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


# ---- one table for all members ---------------------------------------------------------------------------------------


def shared(members, **more):
    """A run whose members, all coupled, share one table."""
    return make_run(members, complete(len(members)), embeddings="shared", **more)


@pytest.mark.parametrize(("noise", "start"), [(NOISY, 0.0), ({}, 0.0), (NOISY, 1.0)], ids=str)
def test_equal_members_with_one_table_are_one_model_bit_for_bit(noise, start) -> None:
    """Their mean gradient is each one's own, so decay and clipping act as for one model alone; coupled or not."""
    recipe = {"embedding_l2": 1e-3, "clip_norm": 0.3}
    run = shared([member(1, **noise)] * 2, coupling={"start": start}, **recipe)
    found, alone = fit(run), fit(make_run([member(1, **noise)], **recipe))
    for n in range(2):
        assert_same_member(found, n, alone, 0)


def test_the_table_begins_as_the_first_members() -> None:
    group = make_group(shared([member(5), member(2)]), [0, 1], rows(), None, CPU)
    for trainee in group.trainees:
        own, first = (build(one, rows(), CPU) for one in (trainee.member, member(5)))
        assert torch.equal(trainee.model.embedding.weight, first.embedding.weight)
        assert torch.equal(trainee.model.first_order.weight, own.first_order.weight)


def test_tables_that_cannot_be_one_are_refused(monkeypatch) -> None:
    class Bare(nn.Module):
        def __init__(self, field_dims, embedding_dim, hidden_units, dropout, batch_norm) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

    monkeypatch.setitem(MODELS, "Bare", Bare)
    pair = [member(1), member(2)]
    for run, starts, words in (
        (shared(pair, start=checkpoints(2, "reset")), fit(make_run(pair)).states, "bring different tables"),
        (shared([member(1), member(2, architecture="Bare")]), None, "Bare has 0 embedding tables"),
    ):
        assert words in refused(fit, run, starts)


# ---- when the coupling is on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 9, 13, 14])
def test_coupling_starts_at_its_share_of_the_training(monkeypatch, k) -> None:
    """``start`` = k / steps is on from step k on; test_averaging.py has the rule itself for every k."""
    flags: list[bool] = []

    def fake(group, ids, labels, coupled, shuffle):
        flags.append(coupled)
        return torch.zeros(2, len(group.trainees))

    monkeypatch.setattr(steps, "train_step", fake)
    fit(make_run([member(1), member(2)], complete(2), coupling={"start": k / 14}))
    assert flags == [step >= k for step in range(14)]


def test_coupling_that_never_starts_is_solo() -> None:
    never, alone = (fit(make_run(PAIRS[:2], complete(2), coupling={"start": 1.0})), fit(make_run(PAIRS[:2])))
    for n in range(2):
        assert_same_member(never, n, alone, n)


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


@pytest.mark.parametrize(
    ("aucs", "recipe", "kept", "rates"),
    [
        # a plateau lowers the rate, patience stops, and the best is kept; the last is never reached
        ([0.6, 0.7, 0.65, 0.72, 0.71, 0.715, 0.9], {"epochs": 10, "patience": 2}, 4, [0.01] * 3 + [1e-3] * 2 + [1e-4]),
        ([0.7, 0.7 + 5e-7], {"epochs": 2, "patience": 2}, 1, [0.01] * 2),  # so small a gain is none
        ([0.7, 0.7 + 5e-6], {"epochs": 2, "patience": 2}, 2, [0.01] * 2),
        ([0.6, 0.9, 0.8, 0.7], {"epochs": 4}, 2, [0.01] * 4),  # without patience all epochs at one rate
        ([0.9, 0.8, 0.7], {"epochs": 3, "keep": "last"}, 3, [0.01] * 3),
        ([0.9, 0.8, 0.7, 0.95], {"epochs": 9, "patience": 2, "keep": "last"}, 3, [0.01, 0.01, 1e-3]),
    ],
    ids=str,
)
def test_the_rate_falls_training_stops_and_an_epoch_is_kept(monkeypatch, aucs, recipe, kept, rates) -> None:
    trained, snapshots = with_validation(monkeypatch, aucs, **{"keep": "best", **recipe})
    assert [row["learning_rate"] for row in trained.history] == pytest.approx(rates)
    assert [row["valid_auc"] for row in trained.history] == aucs[: len(rates)]
    assert trained.kept_epochs == [kept]
    assert [same_state(trained.states[0], one[0]) for one in snapshots] == [n + 1 == kept for n in range(len(rates))]


@pytest.mark.parametrize("more", [{}, {"embeddings": "shared"}, {"averaging": "ema"}], ids=str)
def test_two_epochs_in_a_row_without_gain_go_back_to_the_groups_best(monkeypatch, more) -> None:
    """``cuts`` times; the epoch kept is the group's, though a member had a better one of its own."""
    pairs = [(0.6, 0.6), (0.6, 0.8), (0.7, 0.6), (0.65, 0.6), (0.7, 0.71), (0.6, 0.6), (0.6, 0.6), (0.9, 0.9)]
    flat, members = [auc for pair in pairs for auc in pair], [member(1, **NOISY), member(2, **NOISY)]
    recipe = {"epochs": 20, "patience": 2, "cuts": 1, "keep": "best", "plateau_factor": 1e-9, **more}
    trained, before = with_validation(monkeypatch, flat, members, complete(2), **recipe)
    rates = [0.01] * 4 + [1e-11] * 3  # means .6 .7 .65 .625, back to .7, .705 .6 .6: the end
    assert [row["learning_rate"] for row in trained.history[::2]] == pytest.approx(rates)
    assert trained.kept_epochs == [5, 5]
    for n in range(2):
        assert same_state(trained.states[n], before[4][n])
        tables = [one[n]["weights.embedding.weight"] for one in before]  # at the rate after the cut nothing moves
        assert torch.allclose(tables[4], tables[1], atol=1e-6)
        assert (tables[3] - tables[1]).abs().max() > 1e-3


def test_going_back_is_starting_again_from_the_kept_state(monkeypatch) -> None:
    """Weights and Adam's state: the epoch after a cut is, bit for bit, an epoch from the checkpoint of the best."""
    recipe = {"epochs": 3, "patience": 1, "cuts": 1, "keep": "best", "plateau_factor": 0.5}
    with monkeypatch.context() as patched:
        trained, _ = with_validation(patched, [0.7, 0.6, 0.8], **recipe)
    assert trained.kept_epochs == [3]
    first = fit(make_run(epochs=1))
    two_epochs_later(monkeypatch)
    again = go_on(first, "keep", members=[member()], epochs=1, learning_rate=0.005)
    assert same_state(trained.states[0], again.states[0])


def two_epochs_later(monkeypatch) -> None:
    """Trainings count their epochs from 2: batch orders and dropout masks follow from the epoch's number."""
    derive = trainer.derive_seed

    def later(*parts):
        at = next(i for i, part in enumerate(parts) if isinstance(part, str)) + 1
        return derive(*parts[:at], parts[at] + 2, *parts[at + 1 :])

    monkeypatch.setattr(trainer, "derive_seed", later)


@pytest.mark.parametrize("embeddings", ["own", "shared"])
def test_a_coupled_group_has_one_schedule_but_each_member_its_best_epoch(monkeypatch, embeddings) -> None:
    """And so different states of a table that they had in common; each can be used alone."""
    pairs = [(0.60, 0.80), (0.70, 0.72), (0.75, 0.70), (0.71, 0.71), (0.99, 0.99)]  # means .70 .71 .725 .71 ...
    flat, members = [auc for pair in pairs for auc in pair], [member(1, **NOISY), member(2, **NOISY)]
    recipe = {"epochs": 9, "patience": 1, "keep": "best", "embeddings": embeddings}
    trained, snapshots = with_validation(monkeypatch, flat, members, complete(2), **recipe)
    assert [row["learning_rate"] for row in trained.history] == [0.01] * 8
    assert trained.kept_epochs == [3, 1]
    for n, epoch in enumerate((2, 0)):
        assert same_state(trained.states[n], snapshots[epoch][n])
        expected = logits_of(members[n], trained.states[n], rows().test.ids)
        np.testing.assert_allclose(trained.test_logits[n], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "recipe",
    [
        {"epochs": 6, "learning_rate": 0.05},
        # so fast a rate is soon past its best, on any machine
        {"epochs": 12, "learning_rate": 0.2, "averaging": "ema", "averaging_decay": 0.8},
    ],
    ids=["plain", "averaged"],
)
def test_what_is_validated_predicted_and_kept_are_the_same_weights(recipe) -> None:
    found = fit(make_run([member(1, **NOISY)], patience=3, keep="best", **recipe))
    assert found.kept_epochs[0] < len(found.history)
    for split, logits in ((rows().valid, found.valid_logits), (rows().test, found.test_logits)):
        assert logits.dtype == np.float32
        expected = logits_of(member(1, **NOISY), found.states[0], split.ids)
        np.testing.assert_allclose(logits[0], expected, rtol=1e-5, atol=1e-6)
    kept = found.history[found.kept_epochs[0] - 1]
    assert kept["valid_auc"] == metrics.auc(rows().valid.labels, found.valid_logits[0])
    assert kept["valid_auc"] == max(row["valid_auc"] for row in found.history)


def test_predictions_do_not_depend_on_how_rows_are_cut(monkeypatch) -> None:
    model, dataset = build(member(1, **NOISY), rows(), CPU), rows()
    whole = trainer.predict(model, dataset.valid)
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", 37)
    np.testing.assert_allclose(trainer.predict(model, dataset.valid), whole, rtol=1e-5, atol=1e-7)


# ---- starting from a checkpoint -------------------------------------------------------------------------------------


@pytest.mark.parametrize("embeddings", ["own", "shared"])
def test_an_epoch_from_a_kept_checkpoint_is_the_next_epoch_bit_for_bit(monkeypatch, embeddings) -> None:
    """3 epochs == 2 epochs, then 1 from their checkpoint, which stays as it was."""
    run = {"members": PAIRS[:2], "weights": complete(2), "embeddings": embeddings, "embedding_l2": 1e-3}
    whole, first = (fit(make_run(**run, epochs=epochs)) for epochs in (3, 2))
    copies = [{k: v.clone() for k, v in state.items()} for state in first.states]
    two_epochs_later(monkeypatch)
    rest, forgot = (go_on(first, optimizer, **run, epochs=1) for optimizer in ("keep", "reset"))
    for n in range(2):
        assert same_state(rest.states[n], whole.states[n])
        assert np.array_equal(rest.test_logits[n], whole.test_logits[n])
        assert distance(forgot.states[n], whole.states[n]) > 1e-4
        assert same_state(first.states[n], copies[n])


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_kept_state_is_restored_and_reset_state_is_empty(optimizer) -> None:
    (state,) = fit(make_run()).states
    run = make_run(start=checkpoints(1, optimizer), learning_rate=0.003)
    (one,) = make_group(run, [0], rows(), [state], CPU).trainees
    assert one.optimizer.param_groups[0]["lr"] == 0.003
    for name, parameter in one.model.named_parameters():
        assert torch.equal(parameter, state[f"weights.{name}"])
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            stored = state[f"adam.{kind}.{name}"]
            assert stored.any()
            found = one.optimizer.state[parameter].get(kind, torch.zeros_like(stored))
            assert torch.equal(found, stored if optimizer == "keep" else torch.zeros_like(stored))


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
    pair = [member(1, 7), member(1, 7).model_copy(update={changed: 11})]
    a, b = (fit(make_run([one], epochs=1)) for one in pair)
    assert distance(a.states[0], b.states[0]) > 1e-4
    tables = [build(one, rows(), CPU).embedding.weight for one in pair]
    assert torch.equal(*tables) == (changed == "order_seed")


def bytes_of_all() -> tuple[int, str]:
    """Something that differs from one Python to the next, and a digest of a training of all architectures."""
    members = [member(n, 7, architecture=name, **NOISY) for n, name in enumerate(MODELS)]
    run = make_run(members, complete(len(members)), embedding_l2=1e-3, coupling={"target": "shuffled"})
    return hash("some text"), digest_of(fit(run))


def test_another_process_gives_the_same_bytes() -> None:
    (hashed, there), (hashed_here, here) = answer_of(bytes_of_all), bytes_of_all()
    assert hashed != hashed_here or "PYTHONHASHSEED" in os.environ, "the same Python proves less"
    assert len(here) == 64
    assert there == here


# ---- batches --------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(1, 500), st.integers(1, 520))
def test_batches_cover_all_rows_once_and_are_never_a_single_row(count, batch_size) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [row for first, last in bounds for row in range(first, last)] == list(range(count))
    sizes = [last - first for first, last in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size + 1
    assert count == 1 or batch_size == 1 or min(sizes) > 1


# ---- what is refused ------------------------------------------------------------------------------------------------


WILD = member(1, architecture="DCN", options={"num_cross_layers": 40})  # overflows within a few steps at a high rate
REFUSED = {
    "batch": (lambda: fit(make_run(batch_size=331)), ["batch_size=331: must be at most 330"]),
    "rows": (
        lambda: train(make_run(), replace(rows(), fingerprint="feedbeef"), device="cpu"),
        ["'synthetic'", "feedbeef", rows().fingerprint],
    ),
    "absent device": (lambda: resolve_device("cuda:99"), ["'cuda:99'", "is not there", "CUDA device(s)"]),
    "unknown device": (lambda: train(make_run(), rows(), device="tpu"), ["'tpu'", "auto, cpu, cuda"]),
    "known to torch alone": (lambda: resolve_device("mps"), ["'mps'", "auto, cpu, cuda"]),
    "no number of a device": (lambda: resolve_device("cuda:x"), ["'cuda:x'", "auto, cpu, cuda"]),
    "loss": (lambda: fit(make_run([WILD], learning_rate=10.0)), ["use a learning_rate below 10"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line(case) -> None:
    call, words = REFUSED[case]
    said = refused(call)
    assert all(word in said for word in words)


def test_predictions_that_are_no_numbers_are_said(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "predict", lambda model, split: torch.full((len(split),), torch.nan))
    assert "lower learning_rate" in refused(fit, make_run())


def test_starts_must_come_with_the_run_that_names_them() -> None:
    states = fit(make_run(epochs=1)).states
    for run, starts in ((make_run(), states), (make_run(start=checkpoints(1)), None)):
        with pytest.raises(ValueError, match="start"):
            fit(run, starts)


def test_metrics_on_a_device_are_those_of_the_metrics_module() -> None:
    """With many ties and both zeros; the AUC to the last bit."""
    drawn = np.random.default_rng(3)
    labels = (drawn.random(5000) < 0.3).astype(np.uint8)
    for logits in (drawn.normal(size=5000), drawn.integers(-2, 3, 5000) * 0.5, np.where(labels, 0.0, -0.0)):
        logits = logits.astype(np.float32)
        auc, logloss = scores.auc_and_logloss(torch.from_numpy(labels), torch.from_numpy(logits))
        assert auc == metrics.auc(labels, logits)
        assert logloss == pytest.approx(metrics.logloss_from_logits(labels, logits), rel=1e-12)
