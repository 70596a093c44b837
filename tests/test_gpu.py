"""On a GPU: the graph against the plain path, the GPU against the CPU, rows that do not fit. Skipped without one.

On a GPU rows of a table are added up in any order, so two trainings part in the last digit, and batch norm with dropout
makes much of it in models as small as these. Where two paths are compared, torch is told to keep one order.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small import NOISY, independent_groups, make_run, member, rows
from test_resume import Cut, CutAfter

from ctrlib.config import Run
from ctrlib.coupling import complete
from ctrlib.fast import batches
from ctrlib.models import MODELS
from ctrlib.models.layers import BilinearInteraction
from ctrlib.models.operations import FASTER, PLAIN
from ctrlib.stats.metrics import auc
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer
from ctrlib.training.loop import Trained

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # has to be there before the first product
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
EPOCHS = 30  # of seven steps, the last of them short


@pytest.fixture(autouse=True)
def one_order() -> Iterator[None]:
    """Sums in the same order every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(run: Run, **more) -> Trained:
    return trainer.train(run, rows(), device="cuda", **more)


def assert_close(a: Trained, b: Trained) -> None:
    """Losses of every epoch and member; the predictions to three digits more than they are shown with."""
    for mine, other in zip(a.history, b.history, strict=True):
        assert (mine["epoch"], mine["member"]) == (other["epoch"], other["member"])
        for name in ("click_loss", "peer_loss"):
            assert mine[name] == pytest.approx(other[name], rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(a.test_logits, b.test_logits, rtol=1e-3, atol=1e-3)


NOISY_GROUPS = {  # dropout, batch norm, two groups and a falling learning rate
    "members": [member(n, **NOISY) for n in (1, 2, 3)],
    "weights": independent_groups([complete(2), complete(1)]),
    "patience": 40,
    "plateau_factor": 0.5,
}
RUNS = {name: {"members": [member(n, architecture=name) for n in (1, 2, 3)], "weights": complete(3)} for name in MODELS}
RUNS |= {
    "late": {**NOISY_GROUPS, "coupling": {"start": 0.3}},
    "shuffled": {**NOISY_GROUPS, "coupling": {"target": "shuffled", "form": "kl"}},
    "adaptive": {**NOISY_GROUPS, "coupling": {"peer_weighting": "adaptive", "teacher_weight": 1.0}},
    "rivals": {
        "members": [member(n, **NOISY) for n in (1, 2)],
        "weights": complete(2, -1.0),
        **{"rdrop": 1.0, "label_smoothing": 0.1, "base_rate_weight": 1.0, "meda": True, "gradient_penalty": 10.0},
    },
    "stale peers and a second head": {**NOISY_GROUPS, "coupling": {"refresh": 3, "head": "auxiliary"}},
    "averages, decay and a shared table": {
        "members": [member(1), member(2)],
        "weights": complete(2),
        "averaging": "ema",
        "averaging_decay": 0.9,
        "embedding_l2": 1e-4,
        "embeddings": "shared",
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_graph_and_plain_path_give_the_same_losses(name: str, monkeypatch) -> None:
    run = make_run(**RUNS[name], epochs=EPOCHS)
    graph = on_gpu(run)
    monkeypatch.setitem(FASTER, "choose_step", PLAIN["choose_step"])
    assert_close(graph, on_gpu(run))


@pytest.mark.parametrize("architecture", list(MODELS))
def test_gpu_and_cpu_train_the_same_model(architecture: str) -> None:
    """Other orders of addition, so other last digits, and Adam makes more of them; not another result."""
    run = make_run([member(n, architecture=architecture) for n in (1, 2)], complete(2), epochs=2)
    here, there = trainer.train(run, rows(), device="cpu"), on_gpu(run)
    assert not any(tensor.is_cuda for state in there.states for tensor in state.values())
    for mine, other in zip(here.history, there.history, strict=True):
        assert mine["click_loss"] == pytest.approx(other["click_loss"], rel=1e-4)
    labels = rows().test.labels
    for n in range(2):
        assert auc(labels, here.test_logits[n]) == pytest.approx(auc(labels, there.test_logits[n]), abs=2e-3)


@pytest.mark.parametrize("kind", ["field_interaction", "field_each", "field_all"])
@pytest.mark.parametrize(("fields", "dim", "batch"), [(2, 16, 1), (5, 32, 70), (39, 16, 130), (9, 64, 64)])
def test_pairs_on_the_chip(kind: str, fields: int, dim: int, batch: int) -> None:
    """Two blocks beside their plain form in float64: values and all gradients, to the last digits of float32."""
    from ctrlib.fast.gpu import BilinearPairs

    torch.manual_seed(0)
    blocks = [BilinearInteraction(fields, dim, kind).double() for _ in range(2)]
    vectors = [torch.randn(batch, fields, dim, dtype=torch.float64, requires_grad=True) for _ in blocks]
    out = torch.cat([block(v) for block, v in zip(blocks, vectors, strict=True)], 1).flatten(1)
    direction = torch.randn_like(out)
    inputs = [vectors[0], blocks[0].weight, vectors[1], blocks[1].weight]
    plain = [out, *torch.autograd.grad(out, inputs, direction)]
    blocks = [block.float().cuda() for block in blocks]
    vectors = [v.detach().float().cuda().requires_grad_() for v in vectors]
    own = [vectors[0], blocks[0].weight, vectors[1], blocks[1].weight]
    fast = BilinearPairs.apply(vectors[0], blocks[0].matrices(), vectors[1], blocks[1].matrices())
    gradients = torch.autograd.grad(fast, own, direction.float().cuda())
    for mine, exact in zip([fast, *gradients], plain, strict=True):
        assert float((mine.cpu() - exact).norm()) <= 3e-6 * float(exact.norm())


@pytest.mark.parametrize("shape", [(1000, 16), (1000, 7), (1000,)])
def test_rows_of_a_table(shape: tuple[int, ...]) -> None:
    """Read exactly; gradients of a row that is read often are added up."""
    from ctrlib.fast.gpu import TakeRows

    table = torch.randn(shape, device="cuda", requires_grad=True)
    rows = torch.randint(0, 50, (3333,), device="cuda")
    taken = TakeRows.apply(table, rows)
    assert torch.equal(taken, table[rows])
    direction = torch.randn_like(taken)
    (mine,) = torch.autograd.grad(taken, table, direction)
    (exact,) = torch.autograd.grad(table.double()[rows], table, direction.double())
    torch.testing.assert_close(mine, exact.float(), rtol=1e-4, atol=1e-5)


def test_rows_that_do_not_fit_are_fetched_batch_by_batch(monkeypatch) -> None:
    run = make_run([member(1), member(2)], complete(2), epochs=EPOCHS)
    resident = on_gpu(run)
    monkeypatch.setattr(batches, "fits", lambda *_: False)
    assert_close(on_gpu(run), resident)


@pytest.mark.parametrize("stride", [6, 7, 10])
def test_a_training_cut_on_a_gpu_goes_on(stride: int, tmp_path: Path) -> None:
    """Also at the short last batch of an epoch."""
    run = make_run([member(n, **NOISY) for n in (1, 2)], complete(2), epochs=EPOCHS)
    whole, cut = on_gpu(run), None
    while cut is None:
        try:
            cut = on_gpu(run, checkpoints=CutAfter(tmp_path / "state", stride))
        except Cut:
            continue
    assert_close(cut, whole)


def test_processes_may_share_a_gpu(tmp_path: Path) -> None:
    """What a run gives does not depend on how many share the card."""
    runs = [make_run([member(n)], epochs=2) for n in (1, 2, 3)]
    alone = RunStore(tmp_path / "alone").ensure(runs, "cuda")
    shared = RunStore(tmp_path / "shared").ensure(runs, "cuda", workers=3)
    for mine, other in zip(shared, alone, strict=True):
        np.testing.assert_allclose(mine.logits(), other.logits(), rtol=1e-3, atol=1e-3)
        assert mine.content["environment"]["device"] == other.content["environment"]["device"]


def test_half_digits_train() -> None:
    """tf32 and bf16 are choices; they may cost digits, not the training."""
    labels = rows().test.labels
    scores = {}
    for precision in ("fp32", "tf32", "bf16"):
        trained = on_gpu(make_run([member(1, hidden_units=(64, 64))], epochs=4, precision=precision))
        scores[precision] = auc(labels, trained.test_logits[0])
        assert np.isfinite(trained.test_logits).all()
    assert max(scores.values()) - min(scores.values()) < 0.02
