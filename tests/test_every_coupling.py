"""Targets, forms, numbers of members and starts, every two of them together: one step against autograd on the losses
written out, and a training that does not know whether it runs in threads, as a graph, or in pieces."""

from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
from small import NOISY, assert_same_member, batch, checkpoints, distance, fit, make_run, member, twins, widened
from test_coupling import naive_losses
from test_execution import recorded_step
from test_resume import Cut, CutAfter

from ctrlib.config import FROZEN, Form, Target
from ctrlib.coupling import complete
from ctrlib.models.operations import FASTER
from ctrlib.store.checkpoints import Checkpoints
from ctrlib.training import loop as trainer
from ctrlib.training.step import train_step

ARCHITECTURES = ("DeepFM", "DCN", "PNN")
EKTF = {"peer_weighting": "adaptive", "teacher_weight": 1.5}


def combination(t: int, target: str, f: int, form: str) -> dict:
    """One of the 18 that hold every pair of values of two settings: sizes, starts and the rest go round."""
    one = {"target": target, "form": form, "size": 1 + (t + f) % 3, "scratch": (t + f) % 2 == 0}
    if target not in FROZEN:  # a single member has no peers but frozen ones
        one["size"] = 2 + (t + f) % 2
        one["embeddings"] = "shared" if one["scratch"] and f == t % 3 else "own"
    one["weight"] = -2.0 if (t + f) % 2 and "ensemble" not in target else 2.0
    return one | (EKTF if target in ("live", "joint") and (t + f) % 2 == 0 else {})


COMBINATIONS = [
    combination(t, target, f, form)
    for (t, target), (f, form) in product(enumerate(get_args(Target)), enumerate(get_args(Form)))
]
TRAINED = [one for n, one in enumerate(COMBINATIONS) if n % 3 == n // 3 % 3]  # one of each target


def name(one: dict) -> str:
    return "-".join(str(value) for value in one.values())


def members(size: int, **settings) -> list:
    return [member(n, architecture=ARCHITECTURES[n - 1], **settings) for n in range(1, size + 1)]


@cache
def earlier(noisy: bool) -> list:
    """States of three members that were trained before, as checkpoints and as teachers."""
    return fit(make_run(members(3, **(NOISY if noisy else {})), epochs=1)).states


def scene(one: dict, noisy: bool, **recipe) -> tuple:
    """The run of a combination and what ``train`` is given beside it: starts and teachers.

    Frozen targets are copies of the start, the members' own among them, or three teachers where there is no start.
    """
    one = dict(one)
    size, scratch, embeddings = one.pop("size"), one.pop("scratch"), one.pop("embeddings", "own")
    weight = one.pop("weight")
    settings, states, run = NOISY if noisy else {}, earlier(noisy), {}
    weights, teachers, starts = complete(size, weight), None, None
    if not scratch:
        starts = states[:size]
        run["start"] = checkpoints(size)
    if one["target"] in FROZEN:
        weights = tuple(tuple(weight * (1 + n + i) / 2 for i in range(size)) for n in range(size))
        if scratch:
            teachers = list(zip(members(3, **settings), states, strict=True))
            run["teachers"] = [{"run": "1" * 16, "member": n} for n in range(3)]
            weights = tuple((0.5, 0.0, 1.0 + n) for n in range(size))
    made = make_run(members(size, **settings), weights, coupling=one, embeddings=embeddings, **run, **recipe)
    return made, starts, teachers


@pytest.mark.parametrize("one", COMBINATIONS, ids=name)
def test_gradients_of_a_step_are_those_of_the_losses_written_out(one: dict) -> None:
    """In float64, on models with tables of ordinary size, by autograd through all members at once."""
    run, starts, teachers = scene(one, noisy=False, clip_norm=1e9)
    group, weights = widened(run, starts, teachers), run.coupling.weights
    asked = [i for i in range(len(weights[0])) if any(row[i] for row in weights)]
    assert len(group.frozen) == (len(asked) if run.coupling.target in FROZEN else 0), "only teachers that have students"
    models, shuffle = twins(group), trainer.shuffle_order(group, 0, 0, 50)
    ids, labels = batch(double=True)

    losses = train_step(group, ids, labels, True, shuffle)
    frozen = dict(zip(asked, [model(ids) for model in group.frozen], strict=False))
    columns = [frozen.get(i, torch.zeros(50).double()) for i in range(len(weights[0]))]
    logits = [model(ids) for model in models]
    expected = naive_losses(logits, labels, run.coupling, frozen=columns, shuffle=shuffle)
    torch.testing.assert_close(losses.sum(0), torch.stack(expected).detach(), rtol=1e-9, atol=1e-12)
    sum(expected).backward()
    shared = torch.stack([model.embedding.weight.grad for model in models]).mean(0)
    for n, (trainee, model) in enumerate(zip(group.trainees, models, strict=True)):
        found, gradients = ({k: p.grad for k, p in one.named_parameters()} for one in (trainee.model, model))
        if group.table:  # the first member's place holds the mean of all
            gradients["embedding.weight"] = shared if n == 0 else found["embedding.weight"]
        torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("one", TRAINED, ids=name)
def test_threads_graphs_and_interruptions_do_not_touch_the_numbers(one: dict, monkeypatch, tmp_path: Path) -> None:
    run, starts, teachers = scene(one, noisy=True, epochs=2, batch_size=110, embedding_l2=1e-3, averaging="ema")
    give = {"starts": starts, "teachers": teachers}
    plain = fit(run, **give)
    threaded = fit(run, **give, threads=3)
    with monkeypatch.context() as patch:
        patch.setitem(FASTER, "choose_step", recorded_step)
        graph = fit(run, **give)
    with pytest.raises(Cut):
        fit(run, **give, checkpoints=CutAfter(tmp_path, 2))
    resumed = fit(run, **give, checkpoints=Checkpoints(tmp_path, "this run", 1e9))
    late = run.model_copy(update={"coupling": run.coupling.model_copy(update={"start": 1.0})})
    alone = fit(late, **give)
    for n in range(len(run.members)):
        for other in (threaded, graph, resumed):
            assert_same_member(other, n, plain, n)
        assert distance(plain.states[n], alone.states[n]) > 1e-6, "the coupling must do something"
