"""Every target, form, number of members and start: one step against autograd on losses written out, and a training that
does not know whether it runs in threads, as a graph, or in pieces."""

from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from small import assert_same_member, distance, make_run, member, rows
from test_execution import recorded_step
from test_resume import Cut, CutAfter

from ctrlib.config import FROZEN, Checkpoint, Form, Target
from ctrlib.coupling import complete
from ctrlib.models import embedding_parameters
from ctrlib.store.checkpoints import Checkpoints
from ctrlib.training import cohort
from ctrlib.training import loop as trainer
from ctrlib.training.step import train_step

CPU = torch.device("cpu")
NOISY = {"dropout": 0.3, "batch_norm": True}
ARCHITECTURES = ("DeepFM", "DCN", "PNN")
FORMS, TARGETS = get_args(Form), get_args(Target)
EKTF = {"peer_weighting": "adaptive", "teacher_weight": 1.5}

COMBINATIONS = [
    {"target": target, "form": form, "size": size, "scratch": scratch}
    for target, form, size, scratch in product(TARGETS, FORMS, (1, 2, 3), (True, False))
    if target in FROZEN or size > 1  # a single member has nobody to hear but frozen models
]
COMBINATIONS += [
    {"target": target, "form": form, "size": size, "scratch": scratch, **EKTF}
    for target, form, size, scratch in product(("live", "joint"), FORMS, (2, 3), (True, False))
]
COMBINATIONS += [
    {"target": target, "form": "mse", "size": 3, "scratch": True, "embeddings": "shared", **more}
    for target, more in (("live", EKTF), ("joint", {}), ("ensemble", {}), ("shuffled", {}))
]


def name(one: dict) -> str:
    return "-".join(str(value) for value in one.values())


every_combination = pytest.mark.parametrize("one", COMBINATIONS, ids=name)
TRAINED = [one for one in COMBINATIONS if one["form"] == "mse" and one["size"] != 2]  # forms and sizes ran above


def members(size: int, **settings) -> list:
    return [member(n, architecture=ARCHITECTURES[n - 1], **settings) for n in range(1, size + 1)]


@cache
def earlier(noisy: bool) -> list:
    """States of three members that were trained before, as checkpoints and as teachers."""
    return trainer.train(make_run(members(3, **(NOISY if noisy else {})), epochs=1), rows(), device="cpu").states


def scene(one: dict, noisy: bool, **recipe) -> tuple:
    """The run of a combination and what ``train`` is given beside it: starts and teachers.

    Frozen targets listen to copies of the start, their own among them, or to three teachers where there is no start.
    """
    one = dict(one)
    size, scratch, embeddings = one.pop("size"), one.pop("scratch"), one.pop("embeddings", "own")
    settings = NOISY if noisy else {}
    states = earlier(noisy)
    weights = complete(size, 2.0)
    teachers = starts = None
    run = {}
    if not scratch:
        starts = states[:size]
        run["start"] = [Checkpoint(run="0" * 16, member=n, optimizer="keep") for n in range(size)]
    if one["target"] in FROZEN:
        weights = tuple(tuple(1.0 + n + i for i in range(size)) for n in range(size))
        if scratch:
            teachers = list(zip(members(3, **settings), states, strict=True))
            run["teachers"] = [{"run": "1" * 16, "member": n} for n in range(3)]
            weights = tuple((0.5, 0.0, 1.0 + n) for n in range(size))
    made = make_run(members(size, **settings), weights, coupling=one, embeddings=embeddings, **run, **recipe)
    return made, starts, teachers


# ---- one step --------------------------------------------------------------------------------------------------------


def naive_distance(z, p_target, form):
    p = torch.sigmoid(z)
    if form == "mse":
        return ((p - p_target) ** 2).mean()
    if form == "mse_logit":
        return ((z - torch.logit(p_target)) ** 2).mean()
    return (p_target * (p_target / p).log() + (1 - p_target) * ((1 - p_target) / (1 - p)).log()).mean()


def naive_losses(z: list, frozen: list, labels, run, shuffle) -> list:
    """Each member's loss in probabilities, peer by peer, as a page of a paper would write it."""
    how, weights = run.coupling, run.coupling.weights
    p = [torch.sigmoid(one) for one in z]
    said = [torch.sigmoid(one).detach() for one in (frozen or z)]
    score = [(1 - (labels - one.detach()).abs()).mean() for one in p]
    losses = []
    for n, row in enumerate(weights):
        loss = -(labels * p[n].log() + (1 - labels) * (1 - p[n]).log()).mean()
        heard = [i for i, weight in enumerate(row) if weight]
        together = [i for i in range(len(said)) if i in heard or (i == n and how.target not in FROZEN)]
        mean = sum(said[i] for i in together) / len(together)
        shares = {i: row[i] * (score[i].exp() if how.peer_weighting == "adaptive" else 1) for i in heard}
        for i in heard:
            target = {"joint": p[i] if not frozen else None, "ensemble": mean, "frozen_ensemble": mean}.get(
                how.target, said[i]
            )
            if how.target == "shuffled":
                target = said[i][shuffle]
            loss = loss + sum(row) * shares[i] / sum(shares.values()) * naive_distance(z[n], target, how.form)
        if how.teacher_weight:
            need = 1
            if how.peer_weighting == "adaptive":
                need = len(together) * (-score[n]).exp() / sum((-score[i]).exp() for i in together)
            loss = loss + how.teacher_weight * need * naive_distance(z[n], mean, how.form)
        losses.append(loss)
    return losses


@every_combination
def test_gradients_of_a_step_are_those_of_the_losses_written_out(one: dict) -> None:
    """In float64, on models with tables of ordinary size, by autograd through all members at once."""
    run, starts, teachers = scene(one, noisy=False, clip_norm=1e9)
    dataset = rows()
    size = len(run.members)
    group = trainer.make_group(run, list(range(size)), dataset, starts, CPU, teachers=teachers)
    heard = [i for i in range(len(run.coupling.weights[0])) if any(row[i] for row in run.coupling.weights)]
    if run.coupling.target in FROZEN:
        assert len(group.frozen) == len(heard), "a teacher that nobody hears is not asked"
    for model in group.frozen:
        model.double()
    generator = torch.Generator().manual_seed(3)
    models = []
    for trainee in group.trainees:
        trainee.model.double()
        with torch.no_grad():
            for table in embedding_parameters(trainee.model):
                table.copy_(0.5 * torch.randn(table.shape, generator=generator))
        trainee.optimizer = cohort.make_adam(trainee.model, 0.01)
    if group.table:
        group.table = cohort.share_table(group.trainees, 0.01, from_scratch=True)
    for trainee in group.trainees:
        models.append(cohort.build(trainee.member, dataset, CPU).double())
        models[-1].load_state_dict(trainee.model.state_dict())
    group.weights = group.weights.double()
    ids = torch.from_numpy(dataset.train.ids[:50].astype(np.int64))
    labels = torch.from_numpy(dataset.train.labels[:50].astype(np.float64))
    shuffle = trainer.shuffle_order(group, 0, 0, 50)

    losses = train_step(group, ids, labels, True, shuffle)
    frozen = dict(zip(heard, [model(ids) for model in group.frozen], strict=False))
    columns = [frozen.get(i, torch.zeros(50).double()) for i in range(len(run.coupling.weights[0]))] if frozen else []
    expected = naive_losses([model(ids) for model in models], columns, labels, run, shuffle)
    torch.testing.assert_close(losses.sum(0), torch.stack(expected).detach(), rtol=1e-9, atol=1e-12)
    sum(expected).backward()
    shared = [model.embedding.weight.grad for model in models]
    for n, (trainee, model) in enumerate(zip(group.trainees, models, strict=True)):
        for (name_, found), reference in zip(trainee.model.named_parameters(), model.parameters(), strict=True):
            gradient = reference.grad
            if group.table and name_ == "embedding.weight":
                if n > 0:
                    continue  # the first member's place holds the mean of all
                gradient = torch.stack(shared).mean(0)
            torch.testing.assert_close(found.grad, gradient, rtol=1e-7, atol=1e-10, msg=f"member {n} {name_}")


# ---- a training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", TRAINED, ids=name)
def test_threads_graphs_and_interruptions_do_not_touch_the_numbers(one: dict, monkeypatch, tmp_path: Path) -> None:
    run, starts, teachers = scene(one, noisy=True, epochs=2, batch_size=110, embedding_l2=1e-3, averaging="ema")
    give = {"starts": starts, "teachers": teachers, "device": "cpu"}
    plain = trainer.train(run, rows(), **give)
    threaded = trainer.train(run, rows(), **give, threads=3)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "eager_step", recorded_step)
        graph = trainer.train(run, rows(), **give)
    with pytest.raises(Cut):
        trainer.train(run, rows(), **give, checkpoints=CutAfter(tmp_path, 2))
    resumed = trainer.train(run, rows(), **give, checkpoints=Checkpoints(tmp_path, "this run", 1e9))
    alone = trainer.train(
        run.model_copy(update={"coupling": run.coupling.model_copy(update={"start": 1.0})}), rows(), **give
    )
    for n in range(len(run.members)):
        for other in (threaded, graph, resumed):
            assert_same_member(other, n, plain, n)
        assert distance(plain.states[n], alone.states[n]) > 1e-6, "the coupling must do something"
