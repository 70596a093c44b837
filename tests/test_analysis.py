"""A look inside members: hooks against passes by hand, CKA against its Gram form, gradients against autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CPU, make_run, member, refused, rows, widen

from ctrlib.config import Coupling
from ctrlib.coupling import click_loss, complete, one_way, peer_loss, solo
from ctrlib.data.load import load_data
from ctrlib.models import MODELS, count_parameters, embedding_parameters
from ctrlib.stats.metrics import error_overlap
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import (
    cka_table,
    gradient_norms,
    hidden_layers,
    inference_cost,
    linear_cka,
    load_members,
    unbiased_hsic,
)
from ctrlib.study.conditions import Condition
from ctrlib.study.inside import gradient_ratio, parameter_counts, serving_cost, similarity
from ctrlib.training.cohort import build

MIXED = [member(n, architecture=name) for n, name in enumerate(("DeepFM", "FiBiNET", "FinalMLP", "LR"))]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A stored mutual run of unlike members, one of them without hidden layers."""
    run = make_run(MIXED, complete(4, 20.0), batch_size=30)
    return RunStore(tmp_path_factory.mktemp("store")).train(run, device="cpu")


def some_ids() -> np.ndarray:
    return rows().test.ids[:90]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


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


def test_hidden_layers_of_a_model_are_those_of_its_forward_pass(record, monkeypatch) -> None:
    monkeypatch.setattr("ctrlib.study.analysis.EVALUATION_ROWS", 40)  # 90 rows are three batches
    model, ids = load_members(record, rows())[0], torch.from_numpy(some_ids().astype(np.int64))
    flat = model.embedding(ids).flatten(1)
    first = model.mlp.layers[0](flat).relu()
    second = model.mlp.layers[3](first).relu()
    found = hidden_layers(model, some_ids())
    assert list(found) == ["embedding", "hidden 1", "hidden 2"]
    for values, expected in zip(found.values(), (flat, first, second), strict=True):
        torch.testing.assert_close(values, expected)
        assert not values.requires_grad


@pytest.mark.parametrize("architecture", MODELS)
def test_hidden_layers_of_every_architecture(architecture) -> None:
    model = built(architecture, dropout=0.5, batch_norm=True).train()
    before, found = values_of(model), hidden_layers(model, some_ids())
    fields, towers = len(rows().field_dims), 2 if architecture == "FinalMLP" else 1
    widths = {"embedding": 3 * fields, "hidden 1": 8 * towers, "hidden 2": 5 * towers}
    no_mlp = ("FM", "FinalNet", "FCN", "RankMixer", "TabM-DeepFM")
    layers = [] if architecture == "LR" else ["embedding"] if architecture in no_mlp else list(widths)
    assert {name: tuple(values.shape) for name, values in found.items()} == {k: (90, widths[k]) for k in layers}
    assert all((values >= 0).all() for name, values in found.items() if name != "embedding")
    assert all(torch.equal(a, hidden_layers(model, some_ids())[name]) for name, a in found.items())
    assert unchanged(model, before)


def gram_unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012 by loops over distinct rows: the four-point estimator, term by term, times N (N-3)."""
    n, k, m = len(x), x @ x.T, y @ y.T
    two = sum(k[i, j] * m[i, j] for i in range(n) for j in range(n) if i != j)
    four = sum(k[i, j] for i in range(n) for j in range(n) if i != j)
    four *= sum(m[i, j] for i in range(n) for j in range(n) if i != j)
    three = sum(k[i, j] * m[j, q] for i in range(n) for j in range(n) for q in range(n) if i != j and j != q)
    return two + four / ((n - 1) * (n - 2)) - 2 / (n - 2) * three


@settings(max_examples=25)
@given(count=st.integers(4, 9), widths=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 999))
def test_cka_is_its_gram_form_and_sees_neither_scale_nor_shift(count, widths, seed) -> None:
    x, y = normal(count, widths[0], seed=seed) + 3, normal(count, widths[1], seed=seed + 1000) - 1
    assert unbiased_hsic(x, y) == pytest.approx(gram_unbiased_hsic(x, y), rel=1e-8, abs=1e-9)
    expected = gram_unbiased_hsic(x, y) / np.sqrt(gram_unbiased_hsic(x, x) * gram_unbiased_hsic(y, y))
    for other in (y, 1e-4 * y, y + 5, -y, np.hstack([y, np.full((count, 2), 0.1)])):
        assert linear_cka(x, other) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_what_cannot_be_compared_or_measured(record) -> None:
    for constant in (np.zeros((9, 3)), np.full((9, 3), 0.1)):
        assert np.isnan(linear_cka(constant, normal(9, 3)))
    batches = ([built("LR")], Coupling(weights=solo(1)), rows().test.ids, rows().test.labels)
    for function, given_, words in (
        (linear_cka, (normal(9, 3), normal(8, 3)), "got 9 and 8"),
        (linear_cka, (normal(3, 3), normal(3, 3)), "4 or more rows"),
        (linear_cka, (normal(9), normal(9, 3)), "(rows, width), got shape (9,)"),
        (cka_table, (load_members(record, rows())[:1], some_ids()), "got 1"),
        (gradient_norms, (*batches, 0), "batch_size=0: must be 1 to 150"),
        (gradient_norms, (*batches, 151), "batch_size=151: must be 1 to 150"),
    ):
        assert words in refused(function, *given_)


def test_cka_table_averages_over_pairs_and_leaves_out_what_a_member_lacks(record) -> None:
    models = load_members(record, rows())
    table = cka_table(models, some_ids()).set_index("layer")
    assert list(table.index) == ["embedding", "hidden 1", "hidden 2"]
    held = [hidden_layers(model, some_ids()) for model in models[:3]]  # the fourth has no such layers
    pairs = [(0, 1), (0, 2), (1, 2)]
    for layer, row in table.iterrows():
        values = [linear_cka(held[a][layer], held[b][layer]) for a, b in pairs]
        assert row.to_dict() == pytest.approx({"cka": np.mean(values)})


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
    table = gradient_norms(models, coupling, ids, labels, 40).set_index(["member", "part"])
    assert len(table) == 9

    def gradients(kind: str, first: int) -> list[dict[str, torch.Tensor]]:
        """Of each member over one batch of 40 rows, by part of its parameters."""
        batch = torch.from_numpy(ids[first : first + 40].astype(np.int64))
        clicked = torch.from_numpy(labels[first : first + 40].astype(np.float32))
        logits = torch.stack([model(batch) for model in models])
        loss = click_loss(logits, clicked) if kind == "click" else peer_loss(logits, coupling, labels=clicked)
        found = []
        for model in models:
            tables = {id(one) for one in embedding_parameters(model)}
            parameters = sorted(model.parameters(), key=lambda one: id(one) not in tables)
            own = torch.autograd.grad(loss.sum(), parameters, retain_graph=True)
            own = [gradient.flatten().double() for gradient in own]
            n = len(tables)
            found.append({"all": torch.cat(own), "embedding": torch.cat(own[:n]), "dense": torch.cat(own[n:])})
        return found

    batches = [(gradients("click", first), gradients("peer", first)) for first in (0, 40)]  # 20 rows are left over
    for (n, name), row in table.iterrows():
        click, peer = ([batch[n][name] for batch in kind] for kind in zip(*batches, strict=True))
        assert row["click"] == pytest.approx(np.mean([g.norm().item() for g in click]), rel=1e-4)
        assert row["peer"] == pytest.approx(np.mean([g.norm().item() for g in peer]), rel=1e-4)
        assert row["ratio"] == pytest.approx(row["peer"] / row["click"])
        cosines = [(a @ b / a.norm() / b.norm()).item() for a, b in zip(click, peer, strict=True)]
        assert row["cosine"] == pytest.approx(np.mean(cosines), rel=1e-3, abs=1e-5)


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
        assert table["cosine"].isna().all()
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
    """Two different members, and two identical ones."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    kinds = {"differ": [member(1), member(2)], "twins": [member(1), member(1)]}
    conditions = []
    for name, pair in kinds.items():
        run = make_run(pair, complete(2))
        conditions.append(Condition(name, 1, (run,), {"protocol": "early_stopping"}, tuple(store.ensure([run]))))
    return store, conditions


def test_similarity_is_what_the_functions_say_and_twins_are_alike(trained) -> None:
    store, conditions = trained
    found = similarity(store, conditions).set_index("condition").drop(columns=["replicate", "protocol"])
    condition, data = conditions[0], load_data(conditions[0].runs[0].data)
    models = load_members(condition.records[0], data)
    layers = cka_table(models, data.test.ids).set_index("layer")["cka"]
    errors = error_overlap(data.test.labels, condition.probabilities())
    p, q = condition.probabilities()
    expected = {"cka_embedding": layers["embedding"], "cka_last_hidden": layers["hidden 2"]}
    expected |= {"residual_correlation": errors.residual_correlation, "worst_tenth": errors.worst_overlap}
    expected |= {"churn": np.abs(p - q).mean()}
    assert found.loc["differ"].to_dict() == pytest.approx(expected)
    assert found.loc["twins"].to_dict() == pytest.approx({**dict.fromkeys(expected, 1.0), "churn": 0})


def test_the_pull_grows_with_its_weight_and_form(trained) -> None:
    store, conditions = trained
    found = gradient_ratio(store, conditions[:1], ["mse", "kl"], [1.0, 20.0]).set_index(["form", "weight"])["ratio"]
    assert found["mse", 20.0] == pytest.approx(20 * found["mse", 1.0])
    data = load_data(conditions[0].runs[0].data)
    models = load_members(conditions[0].records[0], data)
    coupling = Coupling(weights=complete(2, 20.0), form="kl")
    norms = gradient_norms(models, coupling, data.train.ids, data.train.labels, batch_size=50)
    expected = norms[norms["part"] == "all"]["ratio"].mean()
    assert found["kl", 20.0] == pytest.approx(expected, rel=1e-5), "linear in the weight"


def test_costs_are_those_of_the_first_model(trained) -> None:
    store, conditions = trained
    data = load_data(conditions[0].runs[0].data)
    model = load_members(conditions[0].records[0], data)[0]
    found = serving_cost(store, conditions).set_index("condition")
    assert set(found.index) == {"differ", "twins"}
    assert (found["parameters"] == count_parameters(model)).all()
    assert (found["time"] > 0).all()
    counts = parameter_counts(store, conditions[0])
    assert counts == {"all": count_parameters(model), "embedding": sum(data.field_dims) * 3}
