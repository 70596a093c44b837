"""The things to try: what their scripts compute is what ctrlib computes, and they answer to the keyboard."""

import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import needs_browser, texts, visit

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, complete, peer_loss
from ctrlib.models import FM
from ctrlib.stats import metrics

pytestmark = needs_browser
STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>
<link rel="stylesheet" href="{static}/play.css"></head><body><main><div class="play" data-play="{name}"></div></main>
<script src="{static}/play.js"></script><script src="{static}/play_{name}.js"></script></body></html>"""
RANDOM = np.random.default_rng(5)


@pytest.fixture
def stage(tmp_path):
    """A page with nothing but one thing to try, by its name."""

    def make(name):
        path = tmp_path / f"{name}.html"
        path.write_text(PAGE.format(static=STATIC.as_uri(), name=name), encoding="utf-8")
        return path

    return make


def by_torch(own, peer, label, weight, form):
    """The same numbers by ctrlib and autograd, for the first of two members."""
    logits = torch.tensor([[own], [peer]], dtype=torch.float64, requires_grad=True)
    losses = {
        "click": click_loss(logits, torch.tensor([label], dtype=torch.float64)),
        "peer": peer_loss(logits, Coupling(weights=complete(2, weight), form=form)),
    }
    gradients = {f"{name}Gradient": torch.autograd.grad(loss.sum(), logits)[0][0] for name, loss in losses.items()}
    return {name: float(value) for name, value in {**{k: v[0] for k, v in losses.items()}, **gradients}.items()}


def test_coupling_is_that_of_ctrlib(stage, browse):
    """Loss and gradients, for random logits, labels and weights."""
    cases = [
        [*RANDOM.normal(scale=3, size=2), int(RANDOM.integers(2)), float(RANDOM.choice([0.5, 1, 20])), form]
        for form in ("mse", "mse_logit", "kl")
        for _ in range(25)
    ]
    (found,) = browse(visit(stage("coupling"), f"{json.dumps(cases)}.map(one => play.coupling.loss(...one))"))
    for case, one in zip(cases, found, strict=True):
        assert one == pytest.approx(by_torch(*case), rel=1e-9, abs=1e-12), case


def test_measures_are_those_of_ctrlib(stage, browse):
    """AUC with ties, log loss, calibration; accuracy by counting; the area under the drawn curve is the AUC."""
    labels = (RANDOM.random(60) < 0.3).astype(int)
    scores = RANDOM.integers(1, 15, 60) / 15.5
    parts = json.dumps([scores[labels == 1].tolist(), scores[labels == 0].tolist()])
    names = "auc(c, o)", "logloss(c, o)", "calibration(c, o)", "accuracy(c, o, 0.5)", "roc(c, o)"
    asked = f"(([c, o]) => [{', '.join(f'play.auc.{name}' for name in names)}])({parts})"
    ((*found, curve),) = browse(visit(stage("auc"), asked))
    auc = metrics.auc(labels, scores)
    accuracy = ((scores >= 0.5) == labels).mean()
    assert found == pytest.approx([auc, metrics.logloss(labels, scores), scores.mean() / labels.mean(), accuracy])
    x, y = np.transpose(curve)
    assert np.trapezoid(y, x) == pytest.approx(auc)


def flat(model, of=lambda parameter: parameter):
    """The numbers of a factorization machine in the order of the page's script."""
    parameters = (model.embedding.weight, model.first_order.weight, model.first_order.bias)
    return torch.cat([of(parameter).detach().flatten() for parameter in parameters]).tolist()


@pytest.mark.parametrize("target", ["live", "frozen"])
def test_training_is_that_of_ctrlib(stage, browse, target):
    """Losses and gradients of three factorization machines in three steps of Adam, and where these lead."""
    dims, weight, models = (3, 5, 4), 20.0, [FM((3, 5, 4), 2).double() for _ in range(3)]
    for parameter in (parameter for model in models for parameter in model.parameters()):
        parameter.data = torch.from_numpy(RANDOM.normal(scale=0.5, size=parameter.shape))
    frozen = deepcopy(models[::-1]) if target == "frozen" else []
    ids, labels = RANDOM.integers(0, dims, size=(9, 3)), RANDOM.integers(0, 2, 9).astype(float)
    stacked = (ids + models[0].embedding.offsets.numpy()).flatten().tolist()
    start = [[flat(model) for model in cohort] for cohort in (models, frozen)]

    expected, optimizer = [], torch.optim.Adam([p for model in models for p in model.parameters()], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        logits = torch.stack([model(torch.from_numpy(ids)) for model in models])
        given = {"frozen": torch.stack([model(torch.from_numpy(ids)) for model in frozen]).detach()} if frozen else {}
        click = click_loss(logits, torch.from_numpy(labels))
        peer = peer_loss(logits, Coupling(weights=complete(3, weight), target=target), **given)
        (click + peer).sum().backward()
        gradients = [flat(model, lambda parameter: parameter.grad) for model in models]
        expected.append(
            [[*parts, *g] for parts, g in zip(torch.stack([click, peer], 1).tolist(), gradients, strict=True)]
        )
        optimizer.step()

    asked = f"""(([models, frozen]) => {{
      play.train.rate = 0.01;
      const step = () => play.train.step(models, {stacked}, {labels.tolist()}, {weight}, frozen.length ? frozen : null);
      const steps = [0, 1, 2].map(() => step().map((one) => [one.click, one.peer, ...one.gradient]));
      return [steps, models.map((model) => [...model.parameters])];
    }})({json.dumps(start)}.map((cohort) => cohort.map((parameters) => ({{
      ...play.train.model({list(dims)}, 2, 0), parameters: Float64Array.from(parameters) }}))))"""
    ((steps, ends),) = browse(visit(stage("train"), asked))
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ends, [flat(model) for model in models], rtol=0, atol=1e-5)


def test_the_law_and_its_auc(stage, browse):
    """About one row in four is clicked; AUC with ties; a coupling without weight, or before its start, is none."""
    data = "(({ labels, logits }) => [[...labels], [...logits].map(Math.round)])(play.train.data(3).test)"
    auc = f"(([labels, scores]) => play.train.auc(labels, scores))({data})"
    run = "[...play.train.run({ size: 2, frozen: false, draw: 1, weight: 0, start: 0, ...%s })].filter(Boolean)"
    runs = [f"play.train.epochs = 2, {run % change}" for change in ("{}", "{ weight: 50, start: 1 }")]
    (labels, scores), found, silent, late = browse(visit(stage("train"), data, auc, *runs))
    assert np.mean(labels) == pytest.approx(0.25, abs=0.04)
    assert found == pytest.approx(metrics.auc(labels, scores))
    assert [one["coupled"] == one["alone"] for one in (*silent, *late)] == [True, True, True, False]
    assert all(one["alone"] < one["average"] < one["oracle"] for one in silent)


CELLS, STATUS = texts("tbody td"), texts("[role=status]")
THIRD_SLIDER = "document.querySelectorAll('input[type=range]')[2].focus()"


def test_two_models_move_by_keyboard(stage, browse):
    largest_weight = (THIRD_SLIDER, "End")
    moved = ("document.querySelector('button').click()", texts("output"))
    steps = (CELLS, STATUS, *largest_weight, CELLS, STATUS, *moved)
    before, words, _, after, more, _, moved = browse(visit(stage("coupling"), *steps))
    assert before[4:6] == ["+0.2000", "+0.2300"]
    assert before[:2] == after[:2], "the click loss does not know the weight"
    assert before[6:8] != after[6:8]
    assert words != more
    assert float(moved[0]) != 0.2


def test_adding_to_every_logit_leaves_the_auc(stage, browse):
    active = "(e => [e.dataset.dot, e.getAttribute('aria-valuenow')])(document.activeElement)"
    dot = "document.querySelector('[data-dot][tabindex=\"0\"]').focus()"
    drag = ("ArrowDown", *["PageUp"] * 4)
    steps = (CELLS, THIRD_SLIDER, *["ArrowRight"] * 10, CELLS, dot, *drag, active, CELLS)
    first, _, more, _, (name, value), dragged = browse(visit(stage("auc"), *steps))
    assert more[0] == first[0]
    assert more[4] != first[4], "log loss"
    assert more[6] != first[6], "calibration"
    assert name in ("0.1", "1.1")
    assert dragged[0] != more[0]
    assert 0 < float(value) < 1


def test_models_are_trained_by_keyboard_in_seconds(stage, browse):
    """The largest training takes a quarter of ten seconds of this processor, and it can be stopped."""
    trained = "document.querySelector('[data-trained]')?.dataset.trained"

    async def task(tab):
        await tab.send("Performance.enable", timeDomain="threadTicks")  # the clock of the page's own thread
        await tab.open(stage("train"))
        for key in ("Tab", "End", *["Tab"] * 5, "Enter"):  # most models, then past weight, start, peers and draw
            await tab.press(key)
        await tab.until(trained, seconds=120)
        spent = {one["name"]: one["value"] for one in (await tab.send("Performance.getMetrics"))["metrics"]}
        await tab.send("Performance.disable")
        assert tab.problems == []
        words, cells = await tab.evaluate(f"[{STATUS}[0], {CELLS}]")
        await tab.evaluate("document.querySelector('[data-trained]').removeAttribute('data-trained')")
        for key in ("Enter", "Tab", "Enter"):
            await tab.press(key)
        epochs = await tab.until(trained)
        return words, cells, spent["TaskDuration"], epochs, await tab.evaluate(STATUS)

    words, cells, seconds, epochs, stopped = browse(task)
    aucs = [float(number) for number in re.findall(r"0\.\d+", words)]
    assert words.startswith("After epoch 15 one of 5 coupled models")
    assert [f"{aucs[n]:.3f}" for n in (0, 2, 3)] == [cells[n] for n in (0, 4, 6)]
    assert aucs[1] == pytest.approx(float(cells[0]) - float(cells[2]), abs=0.0011)
    assert float(cells[2]) < float(cells[4]) < float(cells[6])
    assert seconds < 2.5, "a phone is about four times slower"
    assert int(epochs) < 15
    assert stopped[0].startswith("Stopped.")


def test_without_scripts_there_are_words_and_the_figure(built_book, browse):
    async def task(tab):
        await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        try:
            await tab.send("Page.navigate", url=(built_book / "book" / "loss.html").as_uri())
            await tab.until("document.readyState === 'complete' && !!document.querySelector('[data-play]')")
            return await tab.evaluate(
                "['[data-play=train]', '[data-play=coupling]', '.math'].map(e => document.querySelector(e).innerText)"
            )
        finally:
            await tab.send("Emulation.setScriptExecutionDisabled", value=False)

    *shown, formula = browse(task)
    assert all("needs a browser that runs scripts" in words for words in shown)
    assert formula.strip()
