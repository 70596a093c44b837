"""From parameters to runs (what is paired, what is reused) and from records to tables (against counting by hand)."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from small import one_line

from ctrlib.config import Run, SyntheticSettings
from ctrlib.coupling import complete, solo
from ctrlib.data import sources, synthetic
from ctrlib.data.load import load_data
from ctrlib.data.options import PrepareOptions
from ctrlib.errors import UserError
from ctrlib.store import runs
from ctrlib.study.baselines import baseline_scores, logistic_regression
from ctrlib.study.conditions import Condition, Replicate, continued_training, mutual_finetuning
from ctrlib.study.experiments import (
    EXPERIMENTS,
    begin,
    checked_parameters,
    planned_conditions,
    planned_runs,
    train_conditions,
)
from ctrlib.study.finetuning import HEADLINE, condition_name
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import (
    compare,
    effect_table,
    effects_by,
    mean_over,
    member_effects,
    member_table,
    replicate_table,
    share_of_gap,
    slope_table,
)
from ctrlib.training.dataset import Split

PROTOCOLS = pytest.mark.parametrize("protocol", ["fixed_epochs", "early_stopping"])


def parameters(**changes) -> StudyParameters:
    small = {"rows": 400, "batch_size": 100, "embedding_dim": 2, "hidden_units": [4], "learning_rate": 0.02}
    cohort = {"architecture": "DeepFM", "architectures": ["DeepFM", "DCN"], "companions": ["PNN"], "instances": 3}
    rest = {"sizes": [2, 3], "seeds": [1, 2], "epochs": 1, "max_epochs": 3, "device": "cpu"}
    topologies = ["complete", "ring", "one_way"]
    return StudyParameters(**{**small, **cohort, **rest, "topologies": topologies, **changes})


def names(found) -> list[str]:
    return [run.fingerprint for run in found]


def replicate(p: StudyParameters | None = None, seed: int = 1, protocol: str = "fixed_epochs") -> Replicate:
    return Replicate(p or parameters(), seed, protocol)


def checkpoints(p: StudyParameters | None = None, seed: int = 1, protocol: str = "fixed_epochs") -> list[Run]:
    return replicate(p, seed, protocol).pretraining()


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_what_does_not_touch_pretraining_does_not_train_it_again() -> None:
    before = names(checkpoints())
    assert names(checkpoints(parameters(instances=5)))[:3] == before
    for change in (
        {"mutual_weight": 3.0, "coupling_form": "kl", "coupling_target": "joint"},
        {"finetune_epochs": 4, "max_epochs": 9},
        {"seeds": [1], "companions": ["DCN"], "profile": "other", "device": "auto"},
    ):
        assert names(checkpoints(parameters(**change))) == before
    for change in ({"epochs": 2}, {"learning_rate": 0.01}, {"rows": 500}, {"dropout": 0.1}, {"logit_sd": 2.0}):
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
    assert [len({run.data.fingerprint for run in one}) for one in found] == [1] * 5
    assert len({one[0].data.fingerprint for one in found}) == 5
    assert found[0][0].data.fingerprint == synthetic.fingerprint(SyntheticSettings(train_rows=400), 1)


@PROTOCOLS
@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_continued_training_differs_from_mutual_by_the_coupling_alone(protocol, optimizer) -> None:
    p = parameters()
    r = replicate(p, 1, protocol)
    pretrained, train = r.pretraining(), r.recipe(2, 0.005)
    alone = continued_training(pretrained, train, optimizer)
    (together,) = mutual_finetuning(pretrained, r.coupling(), train, optimizer)
    assert len(alone) == 3
    assert together.coupling.weights == complete(3, p.mutual_weight)
    assert len({one.order_seed for one in together.members}) == 1, "coupled members see the same batches"
    for n, run in enumerate(alone):
        assert run.coupling.is_solo
        assert (run.members, run.start) == (together.members[n : n + 1], together.start[n : n + 1])
        assert (run.recipe, run.data) == (together.recipe, together.data)
        assert (run.start[0].run, run.start[0].optimizer) == (pretrained[n].fingerprint, optimizer)
        assert run.members[0].init_seed == pretrained[n].members[0].init_seed
    found = together.recipe
    if protocol == "early_stopping":
        assert (found.epochs, found.patience, found.keep) == (p.max_epochs, 2, "best")
    else:
        assert (found.learning_rate, found.epochs, found.patience, found.keep) == (0.005, 2, 0, "last")


def test_fine_tuning_is_every_combination_once() -> None:
    p = parameters(architectures=["DeepFM"], seeds=[1], protocols=["fixed_epochs"])
    conditions = {one.name: one for one in planned_conditions("finetune_mutually", p)}
    kinds = ("continued training", "mutual")
    combos = [(k, r, o) for k in kinds for r in ("lr", "lr/10") for o in ("reset", "keep")]
    others = {"checkpoint", "solo from scratch", "mutual from scratch", "solo from scratch, own orders"}
    assert set(conditions) == {condition_name(*combo) for combo in combos} | others
    assert set(HEADLINE) <= set(conditions)
    for kind, rate, optimizer in combos:
        found = conditions[condition_name(kind, rate, optimizer)].runs
        assert len(found) == (1 if kind == "mutual" else 3)
        for run in found:
            assert run.coupling.is_solo == (kind != "mutual")
            assert run.recipe.learning_rate == pytest.approx(p.learning_rate / (10 if rate == "lr/10" else 1))
            assert {start.optimizer for start in run.start} == {optimizer}
    own, shared = (conditions[f"solo from scratch{kind}"].members for kind in (", own orders", ""))
    assert [len({one.order_seed for one in members}) for members in (own, shared)] == [3, 1]
    assert [one.init_seed for one in own] == [one.init_seed for one in shared]


def test_the_parameters_of_the_coupling_arrive() -> None:
    r = replicate(parameters(mutual_weight=2.5, coupling_form="kl", coupling_target="ensemble"))
    found = r.coupling()
    assert (found.weights, found.form, found.target) == (complete(3, 2.5), "kl", "ensemble")
    assert r.coupling(solo(2), target="shuffled").target == "shuffled"
    assert r.coupling(20.0, size=4).weights == complete(4, 20.0)


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
    assert {one.seed for one in conditions} == {1, 2}
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


def test_cohorts_of_growing_size_are_nested() -> None:
    p = parameters(sizes=[2, 4], seeds=[1], protocols=["early_stopping"])
    at = {(one.name, one.factors["instances"]): one for one in planned_conditions("how_many_instances", p)}
    for name in ("checkpoint", "continued training", "solo from scratch"):
        assert names(at[name, 4].runs)[:2] == names(at[name, 2].runs)
    assert [start.run for start in at["mutual", 4].runs[0].start] == names(at["checkpoint", 4].runs)
    assert at["mutual", 2].runs[0].coupling.weights == complete(2)


def test_mixed_cohorts_are_every_pair_and_the_main_ones_together() -> None:
    p = parameters(seeds=[1], protocols=["fixed_epochs"])
    at = {(one.name, one.factors["cohort"]): one for one in planned_conditions("mix_architectures", p)}
    pairs = ["DeepFM + DeepFM", "DeepFM + DCN", "DeepFM + PNN", "DCN + DCN", "DCN + PNN", "PNN + PNN"]
    assert [cohort for name, cohort in at if name == "mutual"] == pairs
    main = checkpoints(p)
    assert names(at["checkpoint", "DeepFM + DeepFM"].runs) == names(main)[:2], "trained for other pages already"
    first = {names(at["checkpoint", cohort].runs)[0] for cohort in pairs[:3]}
    assert first == {names(main)[0]}, "one checkpoint in every cohort it takes part in"
    four = planned_conditions("mix_architectures", parameters(architectures=["DeepFM", "DCN", "PNN"], companions=[]))
    assert "DeepFM + DCN + PNN" in {one.factors["cohort"] for one in four}


def test_a_late_start_is_after_the_same_number_of_epochs_under_both_protocols() -> None:
    p = parameters(epochs=3, finetune_epochs=1, max_epochs=8, starts=[0.5], mutual_weights=[1.0], seeds=[1])
    found = [one.runs[0] for one in planned_conditions("when_to_couple", p) if one.name == "mutual"]
    assert [run.coupling.start * run.recipe.epochs for run in found] == [2.0, 2.0]


def test_identical_copies_and_siblings() -> None:
    p = parameters(seeds=[1], protocols=["fixed_epochs"], epoch_counts=[1])
    found = [one for one in planned_conditions("what_is_exchanged", p) if one.name == "checkpoint"]
    seeds = {one.factors["differ in"]: [(m.init_seed, m.order_seed) for m in one.members] for one in found}
    kinds = {kind: tuple(len(set(column)) for column in zip(*pairs, strict=True)) for kind, pairs in seeds.items()}
    assert kinds == {"weights and order": (3, 3), "order": (1, 3), "nothing": (1, 1)}


def real_clicks(experiment: str, **changes) -> tuple[StudyParameters, dict]:
    p = parameters(architecture="DCN", instances=3, seeds=[1], protocols=["early_stopping"],
                   mutual_weights=[1.0, 20.0], **changes)  # fmt: skip
    wanted = ("cohort", "instances", "weight", "coupling start")
    found = planned_conditions(experiment, p)
    at = {(one.name, *(one.factors.get(factor) for factor in wanted)): one for one in found}
    assert len(at) == len(found), "no condition twice"
    return p, at


def test_on_real_clicks_every_cohort_shares_what_can_be_shared() -> None:
    mixed = "DeepFM + DCN + PNN"
    _, at = real_clicks("real_criteo", architectures=mixed.split(" + "), sizes=[2, 3, 5], starts=[0.0, 0.5])
    mutual = {(cohort, size) for name, cohort, size, weight, _ in at if name == "mutual" and weight == 20}
    assert mutual == {("DCN", 3), ("DeepFM", 3), ("PNN", 3), ("DCN", 2), ("DCN", 5), (mixed, 3)}
    starts = {(cohort, share) for name, cohort, _, _, share in at if name == "mutual from scratch"}
    assert starts == {("DCN", 0.0), ("DCN", 0.5), ("DeepFM", 0.0), ("PNN", 0.0)}
    assert {cohort for name, cohort, *_ in at if name == "mutual lr/10"} == {"DCN"}
    trained = {run for key, one in at.items() if key[0] == "checkpoint" for run in names(one.runs)}
    together = at["mutual", mixed, 3, 1.0, None]
    assert {start.run for run in together.runs for start in run.start} < trained, "no checkpoint of its own"
    assert {one.architecture for one in together.members} == {"DeepFM", "DCN", "PNN"}
    five = [start.run for start in at["mutual", "DCN", 5, 1.0, None].runs[0].start]
    assert names(at["checkpoint", "DCN", 3, None, None].runs) == five[:3], "cohorts of growing size are nested"


def test_on_real_clicks_controls_differ_from_mutual_by_the_coupling_target() -> None:
    p, found = real_clicks("real_frappe", architectures=["DeepFM", "DCN"], sizes=[3], starts=[0.0])
    at = {(name, cohort, weight): one for (name, cohort, _, weight, _), one in found.items()}
    for target, name, twin in (
        ("frozen", "frozen peers", "mutual"),
        ("shuffled", "shuffled peers", "mutual"),
        ("shuffled", "shuffled peers from scratch", "mutual from scratch"),
    ):
        assert {key[1:] for key in at if key[0] == name} == {("DCN", 1.0), ("DCN", 20.0)}
        for weight in p.mutual_weights:
            [control], [live] = at[name, "DCN", weight].runs, at[twin, "DCN", weight].runs
            assert (live.coupling.target, control.coupling.target) == ("live", target)
            coupling = live.coupling.model_copy(update={"target": target})
            assert control == live.model_copy(update={"coupling": coupling})
    for weight in p.mutual_weights:
        own, [frozen] = at["self-anchor", "DCN", weight].runs, at["frozen peers", "DCN", weight].runs
        assert [(run.coupling.weights, run.coupling.target) for run in own] == [(((weight,),), "frozen")] * 3
        assert tuple(run.start[0] for run in own) == frozen.start
        assert tuple(run.members[0] for run in own) == frozen.members


def test_an_unknown_experiment_is_named() -> None:
    with pytest.raises(UserError) as caught:
        planned_conditions("finetune_mutualy", parameters())
    assert "Did you mean 'finetune_mutually'" in one_line(caught)
    assert planned_runs("speed", parameters()) == []


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "DeepFN"}, ["'DeepFN'", "Did you mean 'DeepFM'"]),
        ({"companions": ["DCN", "PNNN"]}, ["'PNNN'", "Did you mean 'PNN'"]),
        ({"device": "cuda:99"}, ["'cuda:99'", "is not there"]),
        ({"device": "gpu"}, ["'gpu'", "auto, cpu, cuda"]),
        ({"device": "cpu", "precision": "tf32"}, ["'tf32'", "needs a GPU", "fp32, bf16"]),
        ({"batch_size": 401}, ["batch_size=401", "at most 400", "'synthetic'"]),
        ({"dataset": "synthetik"}, ["'synthetik'", "Did you mean 'synthetic'"]),
        ({"instances": 1}, ["instances=1", "greater than or equal to 2"]),
        ({"architectures": ["DCN", "DeepFN"]}, ["'DeepFN'", "Did you mean 'DeepFM'"]),
        ({"sizes": [2, 2]}, ["sizes [2, 2] repeat"]),
        ({"protocols": ["own_end"]}, ["'own_end' is now called 'early_stopping'"]),
    ],
)
def test_parameters_that_cannot_be_are_refused_before_anything_runs(monkeypatch, tmp_path, changes, words) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError) as caught:
        begin({**parameters().model_dump(), **changes})
    assert all(word in one_line(caught) for word in words)
    assert list(tmp_path.iterdir()) == []


def test_begin_gives_parameters_and_the_store(monkeypatch, tmp_path) -> None:
    """Architectures are spelled as the registry does: otherwise ``fibinet`` would be its own companion."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path))
    spelled = {"architecture": "deepfm", "architectures": ["DeepFM", "deepfm", "dcn"], "companions": ["pnn"]}
    p, store = begin({**parameters().model_dump(), **spelled, "In": [], "anything": object()})
    assert p == parameters()
    assert store.root == tmp_path


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
    prints = [checkpoints(p, seed)[0].data.fingerprint for seed in p.seeds]
    assert prints[0] == prints[2] != prints[1], "two draws serve three replicates in turn"
    assert [checkpoints(p, seed)[0].data.draw for seed in p.seeds] == [0, 1, 0]
    assert len(load_data(replicate(p).data).train) == 300
    assert load_data(replicate(p).data).test.probability is None
    with pytest.raises(UserError) as caught:
        checked_parameters(**{**p.model_dump(), "batch_size": 301})
    assert "at most 300" in one_line(caught)


# ---- tables ----------------------------------------------------------------------------------------------------------

Study = tuple[StudyParameters, runs.RunStore, list[Condition]]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A trained mixing experiment of two replicates: pairs of DeepFM and DCN."""
    p = parameters(companions=[], protocols=["fixed_epochs"], test_rows=3000)
    store = runs.RunStore(tmp_path_factory.mktemp("store"))
    return p, store, train_conditions(p, store, planned_conditions("mix_architectures", p))


def chosen(conditions: list[Condition], name: str, cohort: str, seed: int = 1) -> Condition:
    (found,) = (one for one in conditions if (one.name, one.factors["cohort"], one.seed) == (name, cohort, seed))
    return found


def test_conditions_hold_their_own_records(study) -> None:
    p, _, conditions = study
    planned = planned_conditions("mix_architectures", p)
    assert [(one.labels, one.runs) for one in conditions] == [(one.labels, one.runs) for one in planned]
    for one in conditions:
        assert tuple(record.run for record in one.records) == one.runs
        assert one.probabilities().shape == (2, 3000)
        assert one.probabilities("valid").shape == (2, 20_000)
    for seed in (1, 2):  # coupling changes members, and not what they are paired with
        pair = [chosen(conditions, name, "DeepFM + DCN", seed).probabilities() for name in ("checkpoint", "mutual")]
        assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(*pair, strict=True))
        cohorts = ("DeepFM + DCN", "DeepFM + DeepFM")
        alone = [chosen(conditions, "continued training", one, seed).probabilities()[0] for one in cohorts]
        assert np.array_equal(*alone)


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
        churn = np.mean([np.mean(np.abs(a - b)) for a, b in combinations(predicted, 2)])
        assert {name: row.pop(name) for name in one.labels} == one.labels
        assert row.pop("seconds") > 0
        assert row == pytest.approx({
            "auc": np.mean(aucs), "logloss": np.mean([log_loss(labels, q) for q in predicted]),
            "ensemble_auc": roc_auc_score(labels, ensemble), "ensemble_logloss": log_loss(labels, ensemble),
            "churn": churn, "best_of_n_auc": aucs[int(np.argmax(valid))],
            "oracle_auc": roc_auc_score(labels, data.test.probability), "member_epochs": 2 * p.finetune_epochs,
        }, rel=1e-12)  # fmt: skip


def test_replicate_table_without_a_known_truth(prepared, tmp_path) -> None:
    p = parameters(dataset=prepared, seeds=[0], instances=2, protocols=["fixed_epochs"])
    store = runs.RunStore(tmp_path / "runs")
    found = replicate_table(store, train_conditions(p, store, planned_conditions("train_independent", p)))
    assert found["oracle_auc"].isna().all()
    assert found.drop(columns="oracle_auc").notna().all(axis=None)


def test_members_and_their_effects_are_counted_by_hand(study) -> None:
    p, _, conditions = study
    members = member_table(conditions)
    assert len(members) == len(conditions) * 2
    key = ["condition", "cohort", "replicate", "member"]
    assert not members.duplicated(key).any()
    for row in members.to_dict("records"):
        condition = chosen(conditions, row["condition"], row["cohort"], row["replicate"])
        labels = load_data(replicate(p, condition.seed).data).test.labels
        q = condition.probabilities()[row["member"]]
        assert row["auc"] == pytest.approx(roc_auc_score(labels, q), abs=1e-12)
        assert row["logloss"] == pytest.approx(log_loss(labels, q), rel=1e-9)
        assert row["calibration"] == pytest.approx(q.mean() / labels.mean(), rel=1e-9)
        assert row["architecture"] == row["cohort"].split(" + ")[row["member"]]
        assert row["kept_epoch"] == 1
    auc = members.set_index(key)["auc"]
    found = member_effects(members, ["protocol", "cohort"])
    assert len(found) == 2 * 3 * 2
    for row in found.to_dict("records"):
        at, n = (row["cohort"], row["replicate"]), row["member"]
        own, peer = auc["checkpoint", *at, n], auc["checkpoint", *at, 1 - n]
        assert row["checkpoint"] == own
        assert row["gap"] == pytest.approx(peer - own, abs=1e-15)
        effect = auc["mutual", *at, n] - auc["continued training", *at, n]
        assert row["effect"] == pytest.approx(effect, abs=1e-15)
        assert row["companions"] == row["cohort"].split(" + ")[1 - n]


def test_mean_over_a_factor_stays_within_replicates() -> None:
    replicates = by_hand().assign(protocol="early_stopping", architecture="DCN")
    scores = ("ensemble_auc", "ensemble_logloss", "churn", "best_of_n_auc", "oracle_auc", "member_epochs", "seconds")
    replicates = replicates.assign(**dict.fromkeys(scores, 1.0))
    other = replicates.assign(architecture="PNN", auc=replicates["auc"] + 0.1)
    found = mean_over(pd.concat([replicates, other]), "architecture").set_index(["condition", "replicate"])
    expected = replicates.set_index(["condition", "replicate"])["auc"] + 0.05
    pd.testing.assert_series_equal(found["auc"].sort_index(), expected.sort_index())
    assert set(found.columns) == {"protocol", "auc", "logloss", *scores}


def test_effects_by_factor_pair_the_right_conditions() -> None:
    """One control for every weight, another for each size: what the control has is matched, what it lacks is not."""
    values = {("solo", 2, np.nan): 0.0, ("solo", 3, np.nan): 0.1, ("mutual", 2, 1.0): 0.001, ("mutual", 2, 20.0): 0.002,
              ("mutual", 3, 1.0): 0.103}  # fmt: skip
    rows = [
        {"condition": condition, "replicate": g, "size": size, "weight": weight, "auc": 0.7 + value + g / 100}
        for (condition, size, weight), value in values.items()
        for g in range(3)
    ]
    found = effects_by(pd.DataFrame(rows), ["size", "weight"], "mutual", "solo")
    assert list(zip(found["size"], found["weight"], strict=True)) == [(2, 1.0), (2, 20.0), (3, 1.0)]
    assert found["difference"].tolist() == pytest.approx([0.001, 0.002, 0.003], abs=1e-12)
    assert found["replicates"].tolist() == [3, 3, 3]


def test_share_of_gap_and_slope_are_counted_by_hand() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for level in (100, 200, 800):
        for g in range(4):
            solo, effect = 0.7 + rng.normal(0, 0.01), 0.01 + 0.002 * np.log2(level / 100) + rng.normal(0, 1e-4)
            at = {"replicate": g, "rows": level, "kind": "x", "oracle_auc": 0.8}
            rows += [{**at, "condition": "solo", "auc": solo}, {**at, "condition": "mutual", "auc": solo + effect}]
    replicates = pd.DataFrame(rows)
    shares = share_of_gap(replicates, ["kind", "rows"], "mutual", "solo").set_index("rows")
    for level, at in replicates.groupby("rows"):
        mean = at.groupby("condition")["auc"].mean()
        expected = (mean["mutual"] - mean["solo"]) / (0.8 - mean["solo"])
        assert shares.loc[level, "share"] == pytest.approx(expected, rel=1e-12)
        assert shares.loc[level, "low"] < expected < shares.loc[level, "high"]
    slope = slope_table(replicates, "rows", ["kind"], "mutual", "solo").iloc[0]
    wide = replicates.pivot(index=["rows", "replicate"], columns="condition", values="auc")
    effect = (wide["mutual"] - wide["solo"]).unstack("replicate")
    fitted = [np.polyfit(np.log2(effect.index), effect[g], 1)[0] for g in effect]
    assert slope["slope"] == pytest.approx(np.mean(fitted), rel=1e-9)
    assert slope["verdict"] == "grows"


def by_hand() -> pd.DataFrame:
    """Three conditions of four replicates, in no order."""
    rng = np.random.default_rng(4)
    base = rng.normal(0.75, 0.02, 4)
    found = {"control": base, "better": base + rng.normal(0.004, 0.001, 4), "same": base + rng.normal(0, 0.001, 4)}
    rows = [
        {"condition": name, "replicate": g, "auc": v[g], "logloss": 1 - v[g]}
        for name, v in found.items()
        for g in range(4)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_effect_table_is_counted_by_hand() -> None:
    replicates = by_hand()
    pairs = {"better - control": ("better", "control"), "same - control": ("same", "control")}
    pairs["same"] = ("same", "better")
    found = effect_table(replicates, pairs).set_index("comparison")
    value = replicates.set_index(["condition", "replicate"])["auc"]
    p_values = {}
    for name, pair in pairs.items():
        a, b = ([value[condition, g] for g in range(4)] for condition in pair)
        test = stats.ttest_rel(a, b)
        interval = test.confidence_interval()
        row, p_values[name] = found.loc[name], test.pvalue
        assert row["difference"] == pytest.approx(np.mean(a) - np.mean(b), abs=1e-15)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert row["relative_%"] == pytest.approx(100 * (np.mean(a) - np.mean(b)) / np.mean(b), rel=1e-9)
        impr = 100 * ((np.mean(a) - 0.5) / (np.mean(b) - 0.5) - 1)
        assert row["RelaImpr_%"] == pytest.approx(impr, rel=1e-9)
        assert row["P(better)"] == np.mean(np.array(a) > np.array(b))
    running = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        running = max(running, min(1.0, p_values[name] * (3 - rank)))
        assert found.loc[name, "p_holm"] == pytest.approx(running, rel=1e-9)
    assert found.loc["better - control", "verdict"] == "gain"
    assert found.loc["same", "verdict"] == "loss"
    of_logloss = effect_table(replicates, {"c": ("better", "control")}, value="logloss").iloc[0]
    assert of_logloss["difference"] < 0
    one = effect_table(replicates.query("replicate == 0"), {"c": ("better", "control")}).iloc[0]
    assert (one["low"], one["high"], one["verdict"]) == (-math.inf, math.inf, "no difference shown")
    assert one["difference"] > 0
    assert math.isnan(one["p_holm"])


def test_a_verdict_survives_holm_and_intervals_stay_those_of_one_comparison() -> None:
    """A difference whose own interval excludes zero (p = 0.03) is a gain alone, and none among three such."""
    spread = np.array([-1.0, -0.5, 0.5, 1.0, 0.0])
    shift = next(x for x in np.linspace(0, 2, 2001) if stats.ttest_1samp(spread + x, 0).pvalue < 0.03)
    found = {"control": np.zeros(5), "weak": spread + shift, "also weak": -spread - shift, "strong": spread + 20}
    replicates = pd.DataFrame(
        [{"condition": n, "replicate": g, "auc": 0.7 + v[g] / 1000} for n, v in found.items() for g in range(5)]
    )
    alone = effect_table(replicates, {"weak": ("weak", "control")}).iloc[0]
    assert (alone["verdict"], alone["p_holm"]) == ("gain", pytest.approx(0.03, abs=1e-3))
    family = effect_table(replicates, {name: (name, "control") for name in found if name != "control"})
    family = family.set_index("comparison")
    assert family["verdict"].tolist() == ["no difference shown", "no difference shown", "gain"]
    assert family.loc["weak", "p_holm"] == pytest.approx(0.06, abs=2e-3)
    assert (family.loc["weak", "low"], family.loc["weak", "high"]) == (alone["low"], alone["high"])
    assert effect_table(replicates, {"also weak": ("also weak", "control")}).iloc[0]["verdict"] == "loss"


def test_effects_of_trained_conditions_use_the_means_of_their_members(study) -> None:
    _, store, conditions = study
    cohort = [one for one in conditions if one.factors["cohort"] == "DeepFM + DCN"]
    found = compare(replicate_table(store, cohort), "mutual", "continued training")
    mean = member_table(cohort).groupby(["condition", "replicate"])["auc"].mean()
    expected = stats.ttest_rel(mean["mutual"], mean["continued training"])
    assert found.mean == pytest.approx((mean["mutual"] - mean["continued training"]).mean(), abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.replicates == 2


# ---- the floor -------------------------------------------------------------------------------------------------------


def test_baseline_scores_agree_with_scikit_learn(study) -> None:
    p, store, conditions = study
    found = baseline_scores(store, chosen(conditions, "checkpoint", "DeepFM + DCN").records)
    data = load_data(replicate(p).data)
    floor = roc_auc_score(data.test.labels, logistic_regression(data))
    assert found["logistic_regression_auc"] == pytest.approx(floor, abs=1e-12)
    assert found["largest_auc_difference"] < 1e-12


def test_logistic_regression_is_scikit_learns_on_one_hot_codes() -> None:
    settings = SyntheticSettings(train_rows=400, valid_rows=100, test_rows=200, fields=4, largest_field=20)
    data = synthetic.generate(settings, 0)
    sizes = np.array(data.field_dims)

    def one_hot(split: Split) -> np.ndarray:
        wide = np.zeros((len(split), sizes.sum()))
        for row, codes in enumerate(split.ids + np.cumsum([0, *sizes[:-1]])):
            wide[row, codes] = 1
        return wide

    known = one_hot(data.train).any(axis=0)  # an id that training lacks must count for nothing
    model = LogisticRegression(C=0.5, tol=1e-8, max_iter=2000).fit(one_hot(data.train)[:, known], data.train.labels)
    expected = model.predict_proba(one_hot(data.test)[:, known])[:, 1]
    found = logistic_regression(data, penalty_weight=2.0)
    assert found.shape == (200,)
    np.testing.assert_allclose(found, expected, atol=1e-2)  # lbfgs stops a little earlier there
    assert roc_auc_score(data.test.labels, found) > 0.55
