"""A look inside members: gradients against plain backward passes, costs against counts."""

import numpy as np
import pytest
import torch
from small import CPU, make_run, member, refused, rows, widen

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, complete, one_way, peer_loss, solo
from ctrlib.data.load import load_data
from ctrlib.models import count_parameters
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import gradient_norms, gradient_ratio, inference_cost, load_members, serving_cost
from ctrlib.study.conditions import Condition
from ctrlib.training.cohort import build

MIXED = [member(n, architecture=name) for n, name in enumerate(("DeepFM", "FiBiNET", "FinalMLP", "LR"))]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A stored mutual run of unlike members, one of them without hidden layers."""
    run = make_run(MIXED, complete(4, 20.0), batch_size=30)
    return RunStore(tmp_path_factory.mktemp("store")).train(run, device="cpu")


def built(architecture: str, seed: int = 1, **settings) -> torch.nn.Module:
    model = build(member(seed, architecture=architecture, **settings), rows(), CPU)
    widen(model, torch.Generator().manual_seed(seed))
    return model.eval()


def values_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def unchanged(model: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    """Whether the model trains, and holds the values and nothing else: no gradient, no hook."""
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    return all(torch.equal(a, b) for a, b in zip(before, values_of(model), strict=True))


def test_a_loaded_member_predicts_what_the_record_holds(record) -> None:
    ids = torch.from_numpy(rows().test.ids.astype(np.int64))
    for n, model in enumerate(load_members(record, rows())):
        assert not model.training
        np.testing.assert_allclose(model(ids).detach(), record.logits("test")[n], rtol=1e-5, atol=1e-6)


COUPLINGS = [
    {},
    {"form": "kl"},
    {"form": "mse_logit", "target": "ensemble"},
    {"target": "joint"},
    {"peer_weighting": "adaptive", "teacher_weight": 2.0},
]


@pytest.mark.parametrize("settings", COUPLINGS, ids=str)
def test_gradient_norms_are_those_of_plain_backward_passes(settings) -> None:
    coupling = Coupling(weights=((0.0, 2.0, 1.0), (0.5, 0.0, 0.0), (0.0, 3.0, 0.0)), **settings)
    models = [built(name, n) for n, name in enumerate(("DeepFM", "DCNv2", "LR"))]
    ids, labels = rows().test.ids[:100], rows().test.labels[:100]
    norms = {"click": [], "peer": []}
    for first in (0, 40):  # 20 rows are left over
        batch = torch.from_numpy(ids[first : first + 40].astype(np.int64))
        clicked = torch.from_numpy(labels[first : first + 40].astype(np.float32))
        logits = torch.stack([model(batch) for model in models])
        losses = {"click": click_loss(logits, clicked), "peer": peer_loss(logits, coupling, labels=clicked)}
        for kind, loss in losses.items():
            gradients = [torch.autograd.grad(loss.sum(), [*one.parameters()], retain_graph=True) for one in models]
            norms[kind].append([torch.cat([each.flatten().double() for each in own]).norm() for own in gradients])
    expected = {kind: np.mean(of_batches, axis=0) for kind, of_batches in norms.items()}
    found = gradient_norms(models, coupling, ids, labels, 40)
    for kind, values in expected.items():
        np.testing.assert_allclose(found[kind], values, rtol=1e-4)
    np.testing.assert_allclose(found["ratio"], expected["peer"] / expected["click"], rtol=1e-4)


def test_gradient_norms_need_a_whole_batch() -> None:
    batches = ([built("LR")], Coupling(weights=solo(1)), rows().test.ids, rows().test.labels)
    for size in (0, 151):
        assert f"batch_size={size}: must be 1 to 150" in refused(gradient_norms, *batches, size)


def test_nobody_is_pulled_by_peers_where_nobody_listens_or_all_agree() -> None:
    split, pair = rows().test, [built("DCN", 1), built("FM", 2)]
    for models, weights in (
        (pair, solo(2)),
        ([built("DCN", 4), built("DCN", 4)], complete(2, 100.0)),
        (pair[:1], solo(1)),
    ):
        table = gradient_norms(models, Coupling(weights=weights), split.ids, split.labels, 50)
        assert (table["click"] > 0).all()
        assert (table["peer"] == 0).all()
    table = gradient_norms(pair, Coupling(weights=one_way(2)), split.ids, split.labels, 50)
    assert ((table["peer"] > 0) == (table["member"] == 0)).all()


def test_gradient_norms_leave_the_models_as_they_are() -> None:
    models = [built(name, dropout=0.5, batch_norm=True).train() for name in ("DCN", "PNN")]
    before, given_ = [values_of(model) for model in models], (rows().test.ids, rows().test.labels, 50)
    first, again = (gradient_norms(models, Coupling(weights=complete(2)), *given_) for _ in range(2))
    assert first.equals(again)
    assert all(map(unchanged, models, before))


def test_a_pass_is_timed_as_often_as_asked_and_the_median_counts(monkeypatch) -> None:
    clock = iter([0, 9, 10, 11, 20, 22, 30, 36])  # the first pass of 9 s is not counted, then 1, 2 and 6 s
    monkeypatch.setattr("ctrlib.study.analysis.time.perf_counter", lambda: next(clock))
    cost = inference_cost(built("LR"), rows().test.ids[:100], repeats=3)
    assert cost["milliseconds"] == pytest.approx(2000 * 1000 / 100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two conditions of two members."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    runs = {seed: make_run([member(seed), member(seed + 1)], complete(2)) for seed in (1, 3)}
    return store, [Condition("mutual", seed, (run,), {}, tuple(store.ensure([run]))) for seed, run in runs.items()]


def test_the_pull_of_a_weight_is_so_many_times_that_of_weight_one(trained) -> None:
    store, conditions = trained
    found = gradient_ratio(store, conditions).set_index("replicate")["ratio"]
    assert list(found.index) == [1, 3]
    data = load_data(conditions[0].runs[0].data)
    models, batch_size = load_members(conditions[0].records[0], data), conditions[0].runs[0].recipe.batch_size
    coupling = Coupling(weights=complete(2, 20.0))
    norms = gradient_norms(models, coupling, data.train.ids, data.train.labels, batch_size)
    assert 20 * found[1] == pytest.approx(norms["ratio"].mean(), rel=1e-5)


def test_costs_are_those_of_the_first_model(trained) -> None:
    store, conditions = trained
    model = load_members(conditions[0].records[0], load_data(conditions[0].runs[0].data))[0]
    (found,) = serving_cost(store, conditions).to_dict("records")
    assert (found["condition"], found["parameters"]) == ("mutual", count_parameters(model))
    assert found["time"] > 0
