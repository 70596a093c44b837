"""The things to try: what their scripts compute is what ctrlib computes, and they answer to the keyboard."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import needs_browser, texts, visit

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, complete, peer_loss
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


def test_without_scripts_there_are_words_and_the_figure(built_book, browse):
    async def task(tab):
        await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        try:
            await tab.send("Page.navigate", url=(built_book / "book" / "loss.html").as_uri())
            await tab.until("document.readyState === 'complete' && !!document.querySelector('[data-play]')")
            return await tab.evaluate("['[data-play]', '.math'].map(e => document.querySelector(e).innerText)")
        finally:
            await tab.send("Emulation.setScriptExecutionDisabled", value=False)

    shown, formula = browse(task)
    assert "needs a browser that runs scripts" in shown
    assert formula.strip()
