"""From parameters to runs (what is paired, what is reused) and from records to tables (against counting by hand)."""

import math
import re
from collections import Counter
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from small import refused

from ctrlib.config import Run, SyntheticSettings
from ctrlib.coupling import complete
from ctrlib.data import sources, synthetic
from ctrlib.data.load import load_data
from ctrlib.data.options import PrepareOptions
from ctrlib.store import runs
from ctrlib.study import controls, finetuning
from ctrlib.study.baselines import STRENGTHS, baseline_scores, linear_scores, logistic_regression
from ctrlib.study.conditions import Condition, Replicate, continued_training, mutual_finetuning
from ctrlib.study.experiments import (
    EXPERIMENTS,
    SEARCHES,
    begin,
    checked_parameters,
    planned_conditions,
    planned_runs,
    train_conditions,
)
from ctrlib.study.finetuning import RATES
from ctrlib.study.pages import asked_parameters
from ctrlib.study.parameters import Rival, StudyParameters
from ctrlib.study.tables import (
    compare,
    differences,
    family,
    member_effects,
    member_table,
    over_replicates,
    replicate_table,
    sides_of_pairs,
    slope_table,
    three_ways,
    training_cost,
)
from ctrlib.training.dataset import Dataset

PROTOCOLS = pytest.mark.parametrize("protocol", ["fixed_epochs", "early_stopping"])


def parameters(**changes) -> StudyParameters:
    small = {"rows": 400, "batch_size": 100, "embedding_dim": 2, "hidden_units": [4], "learning_rate": 0.02}
    cohort = {"architecture": "DeepFM", "architectures": ["DeepFM", "DCN"], "companions": ["PNN"], "instances": 3}
    rest = {"sizes": [2, 3], "seeds": [1, 2], "epochs": 1, "max_epochs": 3, "device": "cpu"}
    return StudyParameters(**{**small, **cohort, **rest, **changes})


def replicate(p: StudyParameters | None = None, seed: int = 1, protocol: str = "fixed_epochs") -> Replicate:
    return Replicate(p or parameters(), seed, protocol)


def checkpoints(*arguments, **named) -> list[Run]:
    return replicate(*arguments, **named).pretraining()


def names(found) -> list[str]:
    return [run.fingerprint for run in found]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_what_does_not_touch_pretraining_does_not_train_it_again() -> None:
    before = names(checkpoints())
    assert names(checkpoints(parameters(instances=5)))[:3] == before
    for change in (
        {"mutual_weight": 3.0, "coupling_form": "kl"},
        {"finetune_epochs": 4, "max_epochs": 9},
        {"seeds": [1], "companions": ["DCN"], "profile": "other", "device": "auto"},
    ):
        assert names(checkpoints(parameters(**change))) == before
    for change in ({"epochs": 2}, {"learning_rate": 0.01}, {"rows": 500}, {"dropout": 0.1}):
        assert not set(names(checkpoints(parameters(**change)))) & set(before)
    assert not set(names(checkpoints(protocol="early_stopping"))) & set(before)


def test_pretraining_is_independent() -> None:
    """Own initial weights and own batch orders for each instance; nothing shared between replicates, not even rows."""
    p = parameters(instances=100, seeds=list(range(1, 6)))
    found = [checkpoints(p, seed) for seed in p.seeds]
    members = [run.members[0] for one in found for run in one]
    shared = [replicate(p, seed).from_scratch(None)[0].members[0].order_seed for seed in p.seeds]
    assert len({one.init_seed for one in members}) == 500
    assert len({one.order_seed for one in members} | set(shared)) == 505
    assert all(len(run.members) == 1 and run.coupling.is_solo and run.start is None for one in found for run in one)
    (first, *others) = ({run.data.fingerprint for run in one} for one in found)
    assert first == {synthetic.fingerprint(SyntheticSettings(train_rows=400), 1)}
    assert [len(one) for one in others] == [1] * 4
    assert len(first.union(*others)) == 5


@PROTOCOLS
@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_continued_training_differs_from_mutual_by_the_coupling_alone(protocol, optimizer) -> None:
    p = parameters(mutual_weight=2.5, coupling_form="kl")
    r = replicate(p, 1, protocol)
    pretrained, train = r.pretraining(), r.recipe(2, 0.005)
    alone = continued_training(pretrained, train, optimizer)
    (together,) = mutual_finetuning(pretrained, r.coupling(), train, optimizer)
    found = together.coupling
    assert (found.weights, found.form) == (complete(3, 2.5), "kl")
    assert len(alone) == 3
    assert len({one.order_seed for one in together.members}) == 1, "coupled members see the same batches"
    for n, run in enumerate(alone):
        assert run.coupling.is_solo
        assert (run.members, run.start) == (together.members[n : n + 1], together.start[n : n + 1])
        assert (run.recipe, run.data) == (together.recipe, together.data)
        assert (run.start[0].run, run.start[0].optimizer) == (pretrained[n].fingerprint, optimizer)
        assert run.members[0].init_seed == pretrained[n].members[0].init_seed
    found, fixed = together.recipe, protocol == "fixed_epochs"
    expected = (2, 0, "last") if fixed else (p.max_epochs, 2, "best")
    assert (found.epochs, found.patience, found.keep) == expected
    assert found.learning_rate == 0.005


@PROTOCOLS
def test_from_scratch_is_paired_and_as_long_as_both_phases(protocol) -> None:
    r = replicate(parameters(epochs=4, finetune_epochs=2, max_epochs=9), 1, protocol)
    alone = r.from_scratch(None)
    (together,) = r.from_scratch(r.coupling())
    assert [run.members[0] for run in alone] == list(together.members)
    assert len({one.order_seed for one in together.members}) == 1
    assert {run.recipe for run in alone} == {together.recipe}
    assert [one.init_seed for one in together.members] == [run.members[0].init_seed for run in r.pretraining()]
    assert together.recipe.epochs == (9 if protocol == "early_stopping" else 6)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_plan_is_a_full_grid_of_valid_distinct_conditions(experiment) -> None:
    p = parameters(instances=4, sizes=[2, 4, 5])
    conditions = planned_conditions(experiment, p)
    keys = [(one.name, one.seed, *one.factors.items()) for one in conditions]
    assert len(set(keys)) == len(keys), "a condition is told from all others by name, replicate and factors"
    assert {one.seed for one in conditions} == {1, 2, *(p.tuning_seeds if experiment in SEARCHES else ())}
    assert {one.factors["protocol"] for one in conditions} == {"fixed_epochs", "early_stopping"}
    by_seed = [sorted(str(key[:1] + key[2:]) for key in keys if key[1] == seed) for seed in p.seeds]
    assert by_seed[0] == by_seed[1], "every replicate has the same conditions"
    before: set[str] = set()
    for run in planned_runs(experiment, p):
        assert Run.model_validate(run.model_dump()) == run, "also those made by changing another"
        assert {one.run for one in (*(run.start or ()), *(run.teachers or ()))} <= before, (
            "what it starts from is first"
        )
        before.add(run.fingerprint)
    assert before == {run.fingerprint for one in conditions for run in one.runs}


def test_cohorts_share_their_checkpoints() -> None:
    p = parameters(sizes=[2, 4], seeds=[1], protocols=["early_stopping"], mutual_weights=[1, 20])
    found = planned_conditions("how_many_instances", p)
    at = {(one.name, *(v for name, v in one.factors.items() if name != "protocol")): one for one in found}
    alone = [("checkpoint",), ("solo from scratch",), *(("continued training", rate) for rate in RATES)]
    for name, *rate in alone:
        assert names(at[name, 4, *rate].runs)[:2] == names(at[name, 2, *rate].runs), (
            "cohorts of growing size are nested"
        )
    assert len(at) == 2 * (len(alone) + 2)
    mutual = at["mutual", 4, "lr/10", 1].runs[0]
    assert [start.run for start in mutual.start] == names(at["checkpoint", 4].runs)
    assert mutual.recipe == at["continued training", 4, "lr/10"].runs[0].recipe
    assert at["mutual", 2, "lr/10", 20].runs[0].coupling.weights == complete(2, 20)
    mixed = [one for one in planned_conditions("partner_matrix", p) if one.name == "checkpoint"]
    pairs = ["DeepFM + DeepFM", "DeepFM + DCN", "DeepFM + PNN", "DCN + DCN", "DCN + PNN", "PNN + PNN"]
    assert [one.factors["cohort"] for one in mixed] == pairs
    main = names(checkpoints(p, protocol="early_stopping"))
    assert names(mixed[0].runs) == main[:2], "trained for other pages already"
    assert {names(one.runs)[0] for one in mixed[:3]} == {main[0]}, "one checkpoint in every cohort it takes part in"
    four = planned_conditions("partner_matrix", parameters(architectures=["DeepFM", "DCN", "PNN"], companions=[]))
    assert "DeepFM + DCN + PNN" in {one.factors["cohort"] for one in four}


@PROTOCOLS
def test_more_epochs_of_fine_tuning_at_each_rate_from_the_same_checkpoints(protocol: str) -> None:
    """The recipe's embedding L2 and the rate at which a claim is judged come first, whatever else is compared."""
    p = parameters(embedding_l2=1e-3, l2_levels=[0.0], rates=["lr", "lr/10"], epoch_counts=[1, 3])
    found = finetuning.how_many_epochs(replicate(p, protocol=protocol))
    assert list(dict.fromkeys(one.factors["embedding_l2"] for one in found)) == [1e-3, 0.0]
    rates = dict.fromkeys(one.factors["rate"] for one in found if "rate" in one.factors)
    assert list(rates) == (["lr/10", "lr"] if protocol == "early_stopping" else ["lr", "lr/10"])
    starts = {one.factors["embedding_l2"]: names(one.runs) for one in found if one.name == "checkpoint"}
    for one in (one for one in found if one.name != "checkpoint"):
        assert [start.run for run in one.runs for start in run.start] == starts[one.factors["embedding_l2"]]
        (recipe,) = {run.recipe for run in one.runs}
        expected = (one.factors["epochs"], 0.02 * RATES[one.factors["rate"]], one.factors["embedding_l2"], 0)
        assert (recipe.epochs, recipe.learning_rate, recipe.embedding_l2, recipe.patience) == expected


def test_several_data_sets_are_one_after_the_other_each_by_its_own_parameters() -> None:
    each = {"small": {"dataset": "synthetic", "rows": 500, "seeds": [4, 5]}, "synthetic": {"seeds": [1, 2]}}
    several = parameters(datasets=["small", "synthetic"], per_dataset=each)
    found = planned_conditions("is_it_noise", several)
    small = planned_conditions("is_it_noise", parameters(rows=500, seeds=[4, 5]))
    usual = planned_conditions("is_it_noise", parameters(seeds=[1, 2]))
    assert [one.runs for one in found] == [one.runs for one in small + usual]
    labels = ["small"] * len(small) + ["synthetic"] * len(usual)
    assert [one.factors.pop("data") for one in found] == labels
    assert [one.labels for one in found] == [one.labels for one in small + usual]
    for slip, words in (({"row": 5}, "rows"), ({"rows": 5}, "rows=5: must be greater")):
        wrong = parameters(datasets=["small"], per_dataset={"small": {**each["small"], **slip}})
        assert re.search(f"per_dataset, small: .*{words}", refused(planned_conditions, "is_it_noise", wrong))


def test_a_profile_says_a_recipe_once_for_each_data_set() -> None:
    sections = {
        "all": {"epochs": 9, "rows": 5},
        "data": {"shop": {"rows": 7, "epochs": 8}, "big": {"dataset": "synthetic", "rows": 6}},
    }
    declared = {"dataset": "synthetic", "rows": 1, "epochs": 1}
    assert asked_parameters(sections, "01", declared) == {"rows": 5, "epochs": 9}
    for own, expected in (
        ({"dataset": "shop"}, {"dataset": "shop", "rows": 7, "epochs": 8}),
        ({"dataset": "shop", "rows": 2}, {"dataset": "shop", "rows": 2, "epochs": 8}),
        ({"dataset": "big"}, {"dataset": "synthetic", "rows": 6, "epochs": 9}),
    ):
        assert asked_parameters({**sections, "01": own}, "01", declared) == expected
    several = {"datasets": ["big"], "per_dataset": {}}
    own = {"01": {"datasets": ["shop", "other"], "per_dataset": {"shop": {"rows": 3}}}}
    assert asked_parameters(sections, "01", several) == {"per_dataset": {"big": sections["data"]["big"]}}
    found = asked_parameters({**sections, **own}, "01", several)["per_dataset"]
    assert found == {"shop": {"rows": 3, "epochs": 8}, "other": {}}


@PROTOCOLS
def test_rivals_are_a_grid_of_valid_and_distinct_conditions(protocol: str) -> None:
    """At each rate each rival once, those with a weight at each weight, MEDA at the initial rate alone; only what a
    name says differs from continued training; base rates and coupling of one distance."""
    p = parameters(mutual_weights=[1.0, 20.0], embedding_l2=1e-5, coupling_form="kl", rivals=get_args(Rival))
    found = controls.rivals(replicate(p, protocol=protocol))
    labels = [tuple(one.labels.items()) for one in found]
    assert len(set(labels)) == len(labels) == 2 + 2 * (7 + 2 * 3) + 2
    every = names(run for one in found if one.name != "rate cut" for run in one.runs)
    assert len(set(every)) == len(every), "no two conditions are one"
    for run in (run for one in found for run in one.runs):
        assert Run.model_validate(run.model_dump()) == run
        assert run.start is None or {one.run for one in run.start} <= set(every)
    changed = {}
    for one in (one for one in found if "rate" in one.factors):
        base = replicate(p, protocol=protocol).recipe(learning_rate={"lr": 0.02, "lr/10": 0.002}[one.factors["rate"]])
        for run in one.runs:
            new = {k: v for k, v in run.recipe.model_dump().items() if v != getattr(base, k)}
            changed.setdefault((one.name, one.factors.get("weight")), set()).add(tuple(new.items()))
    weighted = {(name, weight): {()} for name in ("mutual", "self-anchor") for weight in (1.0, 20.0)}
    weighted |= {("base rate", weight): {(("base_rate_weight", weight),)} for weight in (1.0, 20.0)}
    assert changed == weighted | {
        ("continued training", None): {()},
        ("rate cut", None): {()},
        ("continued training, dropout", None): {()},
        ("embedding L2 tenfold", None): {(("embedding_l2", 1e-4),)},
        ("gradient penalty", None): {(("gradient_penalty", 0.3),)},
        ("label smoothing", None): {(("label_smoothing", 0.1),)},
        ("MEDA", None): {(("meda", True),)},
        ("averaged weights", None): {(("averaging", "ema"), ("averaging_decay", 0.99))},
        ("R-Drop", None): {(("rdrop", 1.0),)},
    }
    few = controls.rivals(replicate(parameters(rivals=["rate cut"], dropout=0.1), protocol=protocol))
    assert {one.name for one in few} == {"checkpoint", "continued training", "rate cut", "mutual"}
    usual = {
        one.name: names(one.runs) for one in controls.rivals(replicate(parameters(dropout=0.1), protocol=protocol))
    }
    assert "MEDA" not in usual
    assert usual["checkpoint, dropout"] == usual["checkpoint"], "where all have dropout its controls are those of all"


@pytest.mark.parametrize("settings", [1, 2, 4])
def test_whatever_is_served_is_chosen_among_equally_many(settings: int) -> None:
    """From scratch all at the same settings, of which the first is the recipe; teachers and starts are of that one."""
    p = parameters(sizes=[2, 5], mutual_weights=[1, 20], submodels=[2, 3], embedding_l2=1e-5, settings=settings)
    found = controls.serving_frontier(replicate(p, protocol="early_stopping"))
    counts = Counter(one.name for one in found)
    assert counts == dict.fromkeys(
        ["one model", "width x2", "width x4", "TabM 2", "TabM 3", "distilled", "mutual"], settings
    )
    scratch = [one for one in found if one.name != "mutual"]
    grid = [(0.02, 1e-5), (0.02 / 3, 1e-5), (0.02, 1e-4), (0.02 / 3, 1e-4)][:settings]
    for name in set(counts) - {"mutual"}:
        recipes = [one.runs[0].recipe for one in scratch if one.name == name]
        assert [one.learning_rate for one in recipes] == pytest.approx([rate for rate, _ in grid])
        assert [one.embedding_l2 for one in recipes] == pytest.approx([l2 for _, l2 in grid])
        of_one = {len(one.runs) for one in scratch if one.name == name}
        assert of_one == {5 if name == "one model" else 1}
    base = names(found[0].runs)
    assert {tuple(one.run for one in run.teachers) for c in found for run in c.runs if run.teachers} == {tuple(base)}
    assert {tuple(one.run for one in run.start) for c in found for run in c.runs if run.start} == {tuple(base[:3])}
    members = {one.name: one.members[0] for one in found}
    assert (members["width x4"].embedding_dim, members["width x4"].hidden_units) == (8, (16,))
    assert [members[f"TabM {size}"].options for size in (2, 3)] == [{"num_submodels": size} for size in (2, 3)]


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_begin_gives_parameters_and_the_store(monkeypatch, tmp_path) -> None:
    """Architectures are spelled as the registry does: otherwise ``fibinet`` would be its own companion."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path))
    spelled = {"architecture": "deepfm", "architectures": ["DeepFM", "deepfm", "dcn"], "companions": ["pnn"]}
    p, store = begin({**parameters().model_dump(), **spelled, "In": [], "anything": object()})
    assert p == parameters()
    assert store.root == tmp_path
    assert "Did you mean 'main_criteo'" in refused(planned_conditions, "main_crito", p)
    assert planned_runs("speed", p) == []


@pytest.fixture
def prepared(monkeypatch, tmp_path) -> str:
    """A prepared data set ``mine`` with two draws of 300, 100 and 100 rows."""
    made = synthetic.generate(SyntheticSettings(train_rows=500, fields=3)).train
    lines = [",".join(map(str, (label, *ids))) for label, ids in zip(made.labels, made.ids, strict=True)]
    (tmp_path / "raw.csv").write_text("\n".join(["label,a,b,c", *lines]))
    options = PrepareOptions(draws=2, shares=(0.6, 0.2, 0.2))
    sources.prepare("mine", tmp_path / "raw.csv", tmp_path, options)
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path))
    return "mine"


def test_prepared_data_gives_each_group_one_of_its_draws(prepared) -> None:
    p = parameters(dataset=prepared, seeds=[0, 1, 2])
    assert checked_parameters(**p.model_dump()) == p
    data = [checkpoints(p, seed)[0].data for seed in p.seeds]
    assert [one.draw for one in data] == [0, 1, 0]
    assert data[0].fingerprint == data[2].fingerprint != data[1].fingerprint, "two draws serve three replicates"
    assert len(load_data(data[1]).train) == 300
    assert load_data(data[1]).test.probability is None
    assert "at most 300" in refused(checked_parameters, **{**p.model_dump(), "batch_size": 301})


# ---- tables ----------------------------------------------------------------------------------------------------------

Study = tuple[StudyParameters, runs.RunStore, list[Condition]]


def trained(p: StudyParameters, store: runs.RunStore, experiment: str) -> list[Condition]:
    store.ensure(planned_runs(experiment, p), workers=1)
    return train_conditions(p, store, planned_conditions(experiment, p))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A trained mixing experiment of two replicates: pairs of DeepFM and DCN."""
    p = parameters(companions=[], protocols=["fixed_epochs"], test_rows=3000)
    store = runs.RunStore(tmp_path_factory.mktemp("store"))
    return p, store, trained(p, store, "partner_matrix")


def chosen(conditions: list[Condition], name: str, cohort: str, seed: int = 1, rate: str = "lr") -> Condition:
    key = (name, cohort, seed)
    mine = [one for one in conditions if (one.name, one.factors["cohort"], one.seed) == key]
    (found,) = (one for one in mine if one.factors.get("rate", rate) == rate)
    return found


def test_conditions_hold_their_own_records(study) -> None:
    p, _, conditions = study
    planned = planned_conditions("partner_matrix", p)
    assert [(one.labels, one.runs) for one in conditions] == [(one.labels, one.runs) for one in planned]
    for one in conditions:
        assert tuple(record.run for record in one.records) == one.runs
        assert one.probabilities().shape == (2, 3000)
        assert one.probabilities("valid").shape == (2, 20_000)


def test_replicate_table_is_counted_by_hand(study) -> None:
    p, store, every = study
    conditions = [one for one in every if (one.name, one.factors["cohort"]) == ("mutual", "DeepFM + DCN")]
    found = replicate_table(store, conditions)
    assert list(found["replicate"]) == [1, 2]
    for row, one in zip(found.to_dict("records"), conditions, strict=True):
        data = synthetic.generate(SyntheticSettings(train_rows=p.rows, test_rows=3000), one.seed)
        labels = data.test.labels
        logits = np.concatenate([record.logits() for record in one.records]).astype(np.float64)
        predicted = 1 / (1 + np.exp(-logits))
        aucs, ensemble = [roc_auc_score(labels, q) for q in predicted], sum(predicted) / 2
        valid = [roc_auc_score(data.valid.labels, q) for q in one.probabilities("valid")]
        assert row.pop("seconds") > 0
        assert row.pop("overlap") == 0
        assert {name: row.pop(name) for name in one.labels} == one.labels
        assert row == pytest.approx({
            "auc": np.mean(aucs), "valid_auc": np.mean(valid),
            "logloss": np.mean([log_loss(labels, q) for q in predicted]),
            "calibration": np.mean([q.mean() / labels.mean() for q in predicted]),
            "ensemble_auc": roc_auc_score(labels, ensemble), "ensemble_logloss": log_loss(labels, ensemble),
            "churn": np.mean(np.abs(predicted[0] - predicted[1])), "best_of_n_auc": aucs[int(np.argmax(valid))],
            "oracle_auc": roc_auc_score(labels, data.test.probability), "member_epochs": 2 * p.finetune_epochs,
        }, rel=1e-12)  # fmt: skip


def test_replicate_table_without_a_known_truth(prepared, tmp_path) -> None:
    p = parameters(dataset=prepared, seeds=[0], instances=2, protocols=["fixed_epochs"])
    store = runs.RunStore(tmp_path / "runs")
    found = replicate_table(store, trained(p, store, "train_independent"))
    assert found["oracle_auc"].isna().all()
    assert found.drop(columns="oracle_auc").notna().all(axis=None)


def test_members_and_their_effects_are_counted_by_hand(study) -> None:
    p, _, conditions = study
    members = member_table(conditions)
    assert len(members) == len(conditions) * 2
    told, key = members.fillna({"rate": "lr"}), ["condition", "rate", "cohort", "replicate", "member"]
    auc, valid_auc = (told.set_index(key)[n] for n in ("auc", "valid_auc"))
    assert auc.index.is_unique
    for row in told.to_dict("records"):
        condition = chosen(conditions, row["condition"], row["cohort"], row["replicate"], row["rate"])
        data, n = load_data(replicate(p, condition.seed).data), row["member"]
        assert row["auc"] == pytest.approx(roc_auc_score(data.test.labels, condition.probabilities()[n]), abs=1e-12)
        valid = roc_auc_score(data.valid.labels, condition.probabilities("valid")[n])
        assert row["valid_auc"] == pytest.approx(valid, abs=1e-9)
        assert (row["architecture"], row["kept_epoch"]) == (row["cohort"].split(" + ")[n], 1)
    found = member_effects(members, ["protocol", "cohort"])
    assert len(found) == 2 * 3 * 2
    controls_of = [("checkpoint", "lr"), ("continued training", "lr"), ("continued training", "lr/10")]
    for row in found.to_dict("records"):
        at, n = (row["cohort"], row["replicate"]), row["member"]
        own, peer = auc["checkpoint", "lr", *at, n], auc["checkpoint", "lr", *at, 1 - n]
        mutual = auc["mutual", "lr", *at, n]
        effect = mutual - auc["continued training", "lr", *at, n]
        assert (row["checkpoint"], row["gap"], row["effect"]) == pytest.approx((own, peer - own, effect), abs=1e-15)
        best = max(controls_of, key=lambda one: valid_auc[*one, *at, n])
        over = mutual - np.array([auc[*best, *at, n], own])
        assert [row["over_best"], row["over_checkpoint"]] == pytest.approx(over, abs=1e-15)
        assert row["companions"] == row["cohort"].split(" + ")[1 - n]
        assert row["candidates"] == 3


def test_the_sides_of_pairs_are_means_of_members_and_keep_their_effects(study) -> None:
    effects = member_effects(member_table(study[2]), ["protocol", "cohort"])
    effects = effects.assign(side=np.where(effects["gap"] < 0, "stronger", "weaker"))
    found = three_ways(sides_of_pairs(effects, ["side"]), ["side"]).set_index("side")
    means = (
        effects.groupby(["side", "replicate"])[["over_best", "effect", "over_checkpoint"]].mean().groupby("side").mean()
    )
    for side, expected in means.iterrows():
        row = found.loc[side, ["difference", "over_alone", "over_checkpoint"]]
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_cost_of_so_many_models() -> None:
    rows = [("checkpoint", 2, 20, 8.0), ("checkpoint", 2, 24, 12.0), ("mutual", 2, 6, 2.0), ("mutual", 2, 10, 4.0)]
    table = pd.DataFrame(rows, columns=["condition", "instances", "member_epochs", "seconds"]).assign(data="a log")
    (found,) = training_cost(table, ["data"]).to_dict("records")
    assert found == {"data": "a log", "instances": 2, "epochs_of_checkpoints": 22, "epochs_of_fine-tuning": 8,
                     "seconds_over_one": 13 / 5}  # fmt: skip


def test_a_slope_is_counted_by_hand() -> None:
    rng, levels = np.random.default_rng(3), np.array([100, 200, 800])
    solo = 0.7 + rng.normal(0, 0.01, (3, 4))
    effect = 0.01 + 0.002 * np.log2(levels / 100)[:, None] + rng.normal(0, 1e-4, (3, 4))
    rows = [
        {"replicate": g, "rows": level, "kind": "x", "condition": name, "auc": auc[n, g]}
        for name, auc in {"solo": solo, "mutual": solo + effect}.items()
        for n, level in enumerate(levels)
        for g in range(4)
    ]
    replicates = pd.DataFrame(rows)
    slope = slope_table(replicates, "rows", ["kind"], "mutual", "solo").iloc[0]
    assert slope["slope"] == pytest.approx(np.polyfit(np.log2(levels), effect, 1)[0].mean(), rel=1e-9)
    assert slope["verdict"] == "grows"


def replicates_of(aucs: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = [(name, g, auc, 1 - auc) for name, values in aucs.items() for g, auc in enumerate(values)]
    return pd.DataFrame(rows, columns=["condition", "replicate", "auc", "logloss"])


def named(replicates: pd.DataFrame, pairs: dict, value: str = "auc") -> pd.DataFrame:
    """A family of comparisons by name."""
    return family([({"comparison": name}, replicates, pair) for name, pair in pairs.items()], value).set_index(
        "comparison"
    )


def test_a_family_is_counted_by_hand() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(0.75, 0.02, 4)
    aucs = {"control": base, "better": base + rng.normal(0.004, 0.001, 4), "same": base + rng.normal(0, 0.001, 4)}
    replicates = replicates_of(aucs).sample(frac=1, random_state=1)  # in no order
    pairs = [("better", "control"), ("same", "control"), ("same", "better")]
    found = named(replicates, {" - ".join(pair): pair for pair in pairs})
    value = replicates.sort_values("replicate").groupby("condition")["auc"].agg(list)
    p_values = {}
    for pair in pairs:
        a, b = (np.array(value[name]) for name in pair)
        test, row = stats.ttest_rel(a, b), found.loc[" - ".join(pair)]
        p_values[row.name] = test.pvalue
        assert row["difference"] == pytest.approx((a - b).mean(), abs=1e-15)
        assert row["level"] == pytest.approx(1 - 0.05 / 3)
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(1 - 0.05 / 3)), rel=1e-9)
        assert row["relative_%"] == pytest.approx(100 * (a.mean() / b.mean() - 1), rel=1e-9)
        assert row["RelaImpr_%"] == pytest.approx(100 * ((a.mean() - 0.5) / (b.mean() - 0.5) - 1), rel=1e-9)
        assert row["P(better)"] == np.mean(a > b)
    ranked = sorted(p_values, key=p_values.get)
    expected = np.maximum.accumulate([min(1.0, p_values[name] * (3 - rank)) for rank, name in enumerate(ranked)])
    assert found.loc[ranked, "p_holm"].to_numpy() == pytest.approx(expected, rel=1e-9)
    assert found.loc["better - control", "verdict"] == "gain"
    assert named(replicates, {"c": pairs[0]}, value="logloss").iloc[0]["difference"] < 0
    one = named(replicates.query("replicate == 0"), {"c": pairs[0]}).iloc[0]
    assert (one["low"], one["high"], one["verdict"]) == (-math.inf, math.inf, "no difference shown")
    assert one["difference"] > 0
    assert math.isnan(one["p_holm"])


def test_a_verdict_is_read_from_the_interval_beside_it_and_copies_do_not_count() -> None:
    """A difference whose own interval excludes zero (p = 0.03) is a gain alone, and none among three such."""
    spread = np.array([-1.0, -0.5, 0.5, 1.0, 0.0])
    shift = stats.t.isf(0.03 / 2, 4) * spread.std(ddof=1) / math.sqrt(5)
    found = {"control": np.zeros(5), "weak": spread + shift, "also weak": -spread - shift, "strong": spread + 20}
    replicates = replicates_of({name: 0.7 + values / 1000 for name, values in {**found, "copy": np.zeros(5)}.items()})
    pairs = {name: (name, "control") for name in (*found, "copy") if name != "control"}
    assert [named(replicates, {name: pairs[name]}).iloc[0]["verdict"] for name in ("weak", "also weak")] == [
        "gain",
        "loss",
    ]
    three = named(replicates, pairs)
    assert three["verdict"].tolist() == ["no difference shown", "no difference shown", "gain", "identical"]
    assert three["level"].tolist() == pytest.approx([1 - 0.05 / 3] * 4), "the copy does not count"
    shown = {"gain": three["low"] > 0, "loss": three["high"] < 0}
    for verdict, rows in shown.items():
        assert (rows == (three["verdict"] == verdict)).all()


def test_replicates_that_share_rows_widen_every_interval() -> None:
    """Ten folds, tested on a tenth and trained on eight tenths: by the root of 1 + 10 / 8."""
    rng = np.random.default_rng(0)
    aucs = {"control": rng.normal(0.75, 0.01, 10), "treated": rng.normal(0.752, 0.01, 10)}
    own = replicates_of(aucs)
    folds = own.assign(overlap=1 / 8)
    for make in (
        lambda t: compare(t, "treated", "control"),
        lambda t: over_replicates(differences(t, "treated", "control"), t),
    ):
        apart, shared = make(own), make(folds)
        assert (shared.high - shared.low) / (apart.high - apart.low) == pytest.approx(1.5)
        assert shared.p_value > apart.p_value
    assert named(folds, {"c": ("treated", "control")}).iloc[0]["low"] == compare(folds, "treated", "control").low


# ---- the floor -------------------------------------------------------------------------------------------------------


def one_hot(data: Dataset) -> list[np.ndarray]:
    """The codes of training, validation and test rows, made one-hot by hand."""
    return [
        np.hstack([np.eye(size)[ids] for size, ids in zip(data.field_dims, part.ids.T, strict=True)])
        for part in data.splits().values()
    ]


def test_baseline_scores_agree_with_scikit_learn(study) -> None:
    p, store, conditions = study
    found = baseline_scores(store, chosen(conditions, "checkpoint", "DeepFM + DCN").records)
    data = load_data(replicate(p).data)
    train, _, test = one_hot(data)
    model = LogisticRegression(tol=1e-8, max_iter=2000).fit(train, data.train.labels)
    expected = model.predict_proba(test)[:, 1]
    np.testing.assert_allclose(logistic_regression(data), expected, atol=1e-2)  # lbfgs stops a little earlier there
    floor = roc_auc_score(data.test.labels, logistic_regression(data))
    assert found["logistic_regression_auc"] == pytest.approx(floor, abs=1e-12)
    assert found["largest_auc_difference"] < 1e-12


def test_the_logistic_regression_to_be_better_than_is_the_one_that_validation_prefers(study, tmp_path) -> None:
    """By another solver, on codes that are made one-hot by hand; no file of the record, and no training, is needed."""
    _, _, conditions = study
    record, store = chosen(conditions, "checkpoint", "DeepFM + DCN").records[0], runs.RunStore(tmp_path)
    found, data = linear_scores(store, record), load_data(record.run.data)
    assert store.fingerprints() == []
    train, valid, test = one_hot(data)
    fits = [LogisticRegression(C=one, tol=1e-6, max_iter=2000).fit(train, data.train.labels) for one in STRENGTHS]
    scores = [roc_auc_score(data.valid.labels, one.predict_proba(valid)[:, 1]) for one in fits]
    assert found["valid_auc"] == pytest.approx(max(scores), abs=1e-4)
    assert scores[STRENGTHS.index(found["C"])] == pytest.approx(max(scores), abs=1e-4)
    predicted = fits[STRENGTHS.index(found["C"])].predict_proba(test)[:, 1]
    assert found["auc"] == pytest.approx(roc_auc_score(data.test.labels, predicted), abs=1e-3)
    assert found["logloss"] == pytest.approx(log_loss(data.test.labels, predicted), abs=1e-3)
    assert found["calibration"] == pytest.approx(predicted.mean() / data.test.labels.mean(), abs=1e-3)
