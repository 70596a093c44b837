"""Rivals of the peers: each training against one written by hand, in float64, with plain autograd and torch's Adam."""

import copy

import pytest
import torch
from small import (
    CPU,
    assert_same_member,
    batch,
    checkpoints,
    distance,
    fit,
    make_run,
    member,
    refused,
    rows,
    use_distinct_ids,
)
from test_coupling import naive_difference, naive_losses
from test_execution import recorded_step

from ctrlib.config import Run, derive_seed
from ctrlib.coupling import complete
from ctrlib.models import operations
from ctrlib.models.layers import Dropout
from ctrlib.training.cohort import build
from ctrlib.training.loop import make_group
from ctrlib.training.rivals import draw_tables_afresh


@pytest.fixture
def double() -> None:
    """Models, gradients and Adam in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def row_by_row(model: torch.nn.Module, ids: torch.Tensor, rarity: torch.Tensor) -> torch.Tensor:
    """The penalty by the slope of each row's logit in the whole table, of which it reads one row a field."""
    total = 0.0
    for row in ids:
        (slope,) = torch.autograd.grad(model(row[None]).sum(), model.embedding.weight, create_graph=True)
        at = row + model.embedding.offsets
        total = total + (rarity[at] * slope[at].square().sum(1)).sum()
    return total / len(ids)


def first_input(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What the MLP of a DeepFM or a PNN reads."""
    vectors = model.embedding(ids)
    pairs = [(vectors[:, i] * vectors[:, j]).sum(1) for i in range(4) for j in range(i + 1, 4)]
    return torch.cat([vectors.flatten(1), *([torch.stack(pairs, 1)] if type(model).__name__ == "PNN" else [])], dim=1)


def by_hand(run: Run) -> list[torch.nn.Module]:
    """The members after the whole training of a run, one step after the other, as the formulas are written."""
    recipe, coupling, size = run.recipe, run.coupling, len(run.members)
    ids, clicks = torch.from_numpy(rows().train.ids).long(), torch.from_numpy(rows().train.labels).double()
    models, masks = [build(one, rows(), CPU).train() for one in run.members], [torch.Generator() for _ in range(size)]
    for model, mask in zip(models, masks, strict=True):
        for module in model.modules():
            if isinstance(module, Dropout):
                module.generator = mask
    heads = [copy.deepcopy(model.mlp.layers[-2]) if coupling.head == "auxiliary" else None for model in models]
    weights = [
        [*model.parameters(), *(head.parameters() if head else ())] for model, head in zip(models, heads, strict=True)
    ]
    adams = [torch.optim.Adam(own, lr=recipe.learning_rate, fused=False) for own in weights]
    counts = [torch.bincount(column, minlength=dim) for column, dim in zip(ids.T, rows().field_dims, strict=True)]
    rarity = 1 / (1 + torch.cat(counts).double())
    for epoch in range(recipe.epochs):
        if recipe.meda and epoch:
            for n, one in enumerate(run.members):
                drawn = torch.Generator().manual_seed(derive_seed(one.init_seed, "tables", epoch))
                for name, value in models[n].named_parameters():
                    if name in ("embedding.weight", "first_order.weight"):
                        value.data.copy_(1e-4 * torch.randn(value.shape, generator=drawn))
                        adams[n].state[value] = {}
        order = torch.Generator().manual_seed(derive_seed(run.members[0].order_seed, "order", epoch))
        for step, which in enumerate(torch.randperm(len(ids), generator=order).split(recipe.batch_size)):
            for one, mask in zip(run.members, masks, strict=True):
                mask.manual_seed(derive_seed(one.init_seed, one.order_seed, "dropout", epoch, step))
            labels = (1 - recipe.label_smoothing) * clicks[which] + recipe.label_smoothing / 2
            batch = ids[torch.cat([which, which])] if recipe.rdrop else ids[which]
            if (epoch * STEPS + step) % coupling.refresh == 0:
                seen = [copy.deepcopy(model).eval() for model in models]
            halves = [model(batch).split(len(which)) for model in models]  # one of them without R-Drop
            given_ = {"frozen": [model(ids[which]) for model in seen]} if coupling.refresh > 1 else {}
            if coupling.head == "auxiliary":
                hidden = [model.mlp.layers[:-2](first_input(model, ids[which])) for model in models]
                given_["own"] = [head(units)[:, 0] for head, units in zip(heads, hidden, strict=True)]
            losses = [0.0] * size
            for part in zip(*halves, strict=True):
                for n, loss in enumerate(naive_losses(list(part), labels, coupling, **given_)):
                    pull = naive_difference(part[n], clicks.mean(), coupling.form)
                    losses[n] = losses[n] + (loss + recipe.base_rate_weight * pull) / len(halves[n])
            for n, passes in enumerate(halves):
                if recipe.rdrop:
                    p, q = (logits.sigmoid() for logits in passes)
                    losses[n] = losses[n] + recipe.rdrop * (kl(p, q) + kl(q, p)) / 2
                if recipe.gradient_penalty:
                    losses[n] = losses[n] + recipe.gradient_penalty * row_by_row(models[n], ids[which], rarity)
            for adam, loss in zip(adams, losses, strict=True):
                adam.zero_grad()
                loss.backward(retain_graph=True)
            for adam in adams:
                adam.step()
    return models


STEPS = 7  # of an epoch: 330 rows, 50 in a batch
DROPOUT = [member(n, dropout=0.3) for n in (1, 2)]
RANDOM = [member(n, architecture=name, random_embeddings=0.1) for n, name in ((1, "DCN"), (2, "DeepFM"))]
PLAIN, MLPS = ([member(1), member(2, architecture=name)] for name in ("DCN", "PNN"))
RIVALS = {
    "label smoothing": (PLAIN, {"label_smoothing": 0.25}),
    "base rate": (PLAIN, {"base_rate_weight": 5.0}),
    "base rate, kl": (PLAIN, {"base_rate_weight": 5.0, "coupling": {"form": "kl"}}),
    "R-Drop": (DROPOUT, {"rdrop": 3.0}),
    "R-Drop, smoothing, base rate": (DROPOUT, {"rdrop": 0.5, "label_smoothing": 0.125, "base_rate_weight": 2.0}),
    "stale peers": (PLAIN, {"coupling": {"refresh": 5}, "weights": complete(2, 9.0)}),
    "stale peers, R-Drop": (DROPOUT, {"rdrop": 1.0, "coupling": {"refresh": 3}}),
    "auxiliary head, adaptive": (
        MLPS,
        {
            "coupling": {"head": "auxiliary", "peer_weighting": "adaptive", "teacher_weight": 3.0},
            "weights": complete(2),
        },
    ),
    "auxiliary head": (MLPS, {"coupling": {"head": "auxiliary"}, "weights": ((0.0, 20.0), (5.0, 0.0))}),
    "auxiliary head, stale peers, kl": (
        MLPS,
        {"coupling": {"head": "auxiliary", "form": "kl", "refresh": 2}, "weights": complete(2, 5.0)},
    ),
    "random embeddings": (RANDOM, {"label_smoothing": 0.25}),
    "MEDA": (PLAIN, {"meda": True}),
    **{
        f"penalty, {name}": ([member(1, architecture=name), member(2)], {"gradient_penalty": 300.0, "epochs": 1})
        for name in ("DeepFM", "PNN", "DCN", "DCNv2", "FiBiNET", "AutoInt", "FinalMLP", "FM")
    },
}


RIVAL = {"coupling", "label_smoothing", "base_rate_weight", "rdrop", "meda", "gradient_penalty"}


@pytest.mark.parametrize("name", RIVALS)
def test_a_training_is_the_one_written_out(name: str, double, monkeypatch) -> None:
    """The first member has a peer, the second none; by hand with the plain forms alone."""
    members, settings = RIVALS[name]
    settings = {"epochs": 3, "clip_norm": 1e9, "weights": ((0.0, 2.0), (0.0, 0.0)), **settings}
    run, without = (make_run(members, **s) for s in (settings, {k: v for k, v in settings.items() if k not in RIVAL}))
    found, plain = fit(run), fit(without)
    monkeypatch.setattr(operations, "FASTER", {})
    for n, model in enumerate(by_hand(run)):
        for key, value in model.state_dict().items():
            torch.testing.assert_close(found.states[n][f"weights.{key}"], value, rtol=1e-5, atol=1e-8)
        assert distance(found.states[n], plain.states[n]) > 1e-4


@pytest.mark.parametrize("name", sorted(RIVAL - {"coupling", "rdrop", "meda"}))
def test_next_to_no_strength_is_plain_training_bit_for_bit(name: str, monkeypatch) -> None:
    """Of the penalty too, where the plain training takes the plain forms as well."""
    monkeypatch.setattr(operations, "FASTER", {})
    trained = [fit(make_run(**more)) for more in ({}, {name: 1e-30})]
    for one in trained:
        one.history = [{**row, "peer_loss": 0.0} for row in one.history]
    assert_same_member(trained[0], 0, trained[1], 0)


def test_all_together_in_threads_and_as_a_graph(monkeypatch) -> None:
    run = make_run(DROPOUT, complete(2), rdrop=1.0, meda=True, gradient_penalty=50.0, label_smoothing=0.1)
    plain, threaded = fit(run), fit(run, threads=2)
    monkeypatch.setitem(operations.FASTER, "choose_step", recorded_step)
    graph = fit(run)
    for n in range(2):
        assert_same_member(threaded, n, plain, n)
        assert_same_member(graph, n, plain, n)


def test_peers_that_are_never_looked_at_again_are_frozen_ones() -> None:
    """The far end of the axis, bit for bit; the other, a look at every step, is the live peer."""
    states = fit(make_run(PLAIN)).states
    never, frozen, often, live = (
        fit(make_run(PLAIN, complete(2, 5.0), start=checkpoints(2), coupling=coupling), states)
        for coupling in ({"refresh": 1000}, {"target": "frozen"}, {"refresh": 2}, {})
    )
    for n in range(2):
        assert_same_member(never, n, frozen, n)
        assert 1e-6 < distance(often.states[n], live.states[n]) < distance(never.states[n], live.states[n])


def test_a_head_that_is_never_pulled_changes_nothing_and_none_is_kept() -> None:
    """Bit for bit; with peers the served head learns from labels alone, what it reads from both."""
    never, plain = (
        fit(make_run(DROPOUT, complete(2, 20.0), coupling={"start": 1.0, "head": head}))
        for head in ("auxiliary", "served")
    )
    for n in range(2):
        assert_same_member(never, n, plain, n)
    group = make_group(make_run(MLPS, complete(2), coupling={"head": "auxiliary"}), [0, 1], rows(), None, CPU)
    alone = make_group(make_run(MLPS), [0, 1], rows(), None, CPU)
    for one, coupled in ((group, True), (alone, False)):
        one.step(*batch(), coupled)
    for trainee, other in zip(group.trainees, alone.trainees, strict=True):
        found, expected = (dict(one.model.named_parameters()) for one in (trainee, other))
        last = f"mlp.layers.{trainee.model.mlp.hidden_depth}.weight"
        assert torch.equal(found[last].grad, expected[last].grad)
        assert not torch.equal(found["mlp.layers.0.weight"].grad, expected["mlp.layers.0.weight"].grad)
    run = make_run([member(1), member(2, architecture="DCN")], complete(2), coupling={"head": "auxiliary"})
    assert "DCN has no hidden units that end in a logit" in refused(fit, run)


@pytest.mark.parametrize("settings", [{"coupling": {"head": "auxiliary"}}, {"rdrop": 1.0}], ids=str)
def test_from_distinct_ids_it_is_the_same_training(settings: dict, monkeypatch) -> None:
    members = [one.model_copy(update={"dropout": 0.3 if "rdrop" in settings else 0.0}) for one in MLPS]
    run = make_run(members, complete(2, 5.0), epochs=1, **settings)
    plain = fit(run)
    use_distinct_ids(monkeypatch)
    other = fit(run)
    assert (plain.products, other.products.count("once per distinct id")) == (other.products.rpartition(", ")[0], 1)
    for n in range(2):
        assert distance(plain.states[n], other.states[n]) < 1e-4


def test_the_very_first_epoch_keeps_its_tables_and_that_from_a_checkpoint_does_not() -> None:
    first, plain = fit(make_run(epochs=1, meda=True)), fit(make_run(epochs=1))
    assert_same_member(first, 0, plain, 0)
    start = checkpoints(1)
    fresh, kept = (fit(make_run(start=start, epochs=1, meda=meda, learning_rate=1e-9), first.states) for meda in (1, 0))
    assert distance(kept.states[0], first.states[0]) < 1e-6
    assert distance(fresh.states[0], first.states[0]) > 1e-3


@pytest.mark.parametrize("distinct", [False, True])
def test_random_embeddings_stay_as_they_were_drawn(distinct: bool, monkeypatch) -> None:
    """Bit for bit, whatever pulls at tables: decay, averages, ways back, peers; all else learns, first order too."""
    if distinct:
        use_distinct_ids(monkeypatch)
    members = [*RANDOM, member(3, architecture="PNN", random_embeddings=0.5)]
    more = {"embedding_l2": 0.1, "averaging": "ema", "patience": 1, "cuts": 1, "keep": "best", "epochs": 4}
    run = make_run(members, complete(3, 5.0), **more)
    found = fit(run)
    again = fit(run.model_copy(update={"start": tuple(checkpoints(3))}), found.states)
    for n, one in enumerate(members):
        usual, drawn = (build(m, rows(), CPU).state_dict() for m in (member(n + 1, architecture=one.architecture), one))
        table = drawn.pop("embedding.weight")
        torch.testing.assert_close(table, usual["embedding.weight"] * one.random_embeddings / 1e-4)
        for state in (found.states[n], again.states[n]):
            assert torch.equal(state["weights.embedding.weight"], table)
            assert not any(state[f"adam.{kind}.embedding.weight"].any() for kind in ("step", "exp_avg", "exp_avg_sq"))
        for key, value in drawn.items():
            assert torch.equal(value, usual[key])
            assert not torch.equal(found.states[n][f"weights.{key}"], value)


def test_a_table_of_all_is_drawn_as_the_first_members() -> None:
    run = make_run([member(1), member(2)], complete(2), embeddings="shared")
    group = make_group(run, [0, 1], rows(), None, CPU)
    alone = make_group(make_run([member(1)]), [0], rows(), None, CPU)
    for one in (group, alone):
        draw_tables_afresh(one.trainees, 3)
    for trainee in group.trainees:
        assert torch.equal(trainee.model.embedding.weight, alone.trainees[0].model.embedding.weight)


def test_the_penalty_needs_one_table_of_embeddings() -> None:
    assert "LR has 0 embedding tables" in refused(fit, make_run([member(architecture="LR")], gradient_penalty=1.0))
