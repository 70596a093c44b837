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
from ctrlib.data.options import PrepareOptions
from ctrlib.errors import UserError
from ctrlib.store import runs
from ctrlib.study.arms import (
    continuation,
    from_scratch,
    group_coupling,
    instances,
    mutual_finetuning,
    pretraining,
    recipe,
)
from ctrlib.study.baselines import baseline_scores, logistic_regression
from ctrlib.study.experiments import (
    EXPERIMENTS,
    Arm,
    begin,
    checked_parameters,
    group_data,
    planned_arms,
    planned_runs,
    train_arms,
)
from ctrlib.study.finetuning import HEADLINE, arm_name
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import (
    compare,
    effect_table,
    effects_by,
    group_table,
    mean_over,
    member_effects,
    member_table,
    share_of_gap,
    slope_table,
)
from ctrlib.training.dataset import Split

PROTOCOLS = pytest.mark.parametrize("protocol", ["equal_epochs", "own_end"])


def parameters(**changes) -> StudyParameters:
    return StudyParameters(
        **{
            "architecture": "DeepFM",
            "architectures": ["DeepFM", "DCN"],
            "companions": ["PNN"],
            "instances": 3,
            "sizes": [2, 3],
            "seeds": [1, 2],
            "rows": 400,
            "batch_size": 100,
            "epochs": 1,
            "max_epochs": 3,
            "embedding_dim": 2,
            "hidden_units": [4],
            "learning_rate": 0.02,
            "topologies": ["complete", "ring", "one_way"],
            "device": "cpu",
            **changes,
        }
    )


def names(found: list[Run] | tuple[Run, ...]) -> list[str]:
    return [run.fingerprint for run in found]


def checkpoints(p: StudyParameters, seed: int = 1, protocol: str = "equal_epochs") -> list[Run]:
    return pretraining(p, seed, protocol, instances(p))


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_more_instances_reuse_the_pretraining_of_fewer() -> None:
    four, five = (checkpoints(parameters(instances=n)) for n in (4, 5))
    assert names(five)[:4] == names(four)
    assert len(set(names(five))) == 5


def test_what_does_not_touch_pretraining_does_not_train_it_again() -> None:
    before = names(checkpoints(parameters()))
    for change in (
        {"mutual_weight": 3.0},
        {"coupling_form": "kl"},
        {"coupling_target": "joint"},
        {"finetune_epochs": 4},
        {"max_epochs": 9},
        {"seeds": [1]},
        {"companions": ["PNN"]},
        {"profile": "other"},
        {"device": "auto"},
    ):
        assert names(checkpoints(parameters(**change))) == before
    for change in ({"epochs": 2}, {"learning_rate": 0.01}, {"rows": 500}, {"dropout": 0.1}, {"logit_sd": 2.0}):
        assert not set(names(checkpoints(parameters(**change)))) & set(before)
    assert not set(names(checkpoints(parameters(), protocol="own_end"))) & set(before)


def test_pretraining_is_independent() -> None:
    """Own initial weights and own batch orders for each instance; nothing shared between groups, not even rows."""
    groups = [checkpoints(parameters(), seed) for seed in (1, 2)]
    members = [run.members[0] for group in groups for run in group]
    assert len({one.init_seed for one in members}) == len({one.order_seed for one in members}) == 6
    assert all(len(run.members) == 1 and run.coupling.is_solo and run.start is None for g in groups for run in g)
    assert len({run.data.fingerprint for run in groups[0]}) == 1
    assert groups[0][0].data.fingerprint != groups[1][0].data.fingerprint
    assert groups[0][0].data.fingerprint == synthetic.fingerprint(SyntheticSettings(train_rows=400), 1)


def test_no_two_members_of_a_study_share_a_seed() -> None:
    p = parameters(instances=100, seeds=list(range(1, 6)))
    members = [one for seed in p.seeds for run in checkpoints(p, seed) for one in run.members]
    shared = [
        from_scratch(p, seed, "own_end", instances(p), group_coupling(p, 100))[0].members[0].order_seed
        for seed in p.seeds
    ]
    assert len({one.init_seed for one in members}) == 500
    assert len({one.order_seed for one in members} | set(shared)) == 505


@PROTOCOLS
@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_continuation_differs_from_mutual_by_the_coupling_alone(protocol, optimizer) -> None:
    p = parameters()
    pretrained, train = checkpoints(p, 1, protocol), recipe(p, protocol, 2, 0.005)
    alone = continuation(pretrained, train, optimizer)
    (together,) = mutual_finetuning(pretrained, group_coupling(p, 3), train, optimizer)
    assert len(alone) == 3
    assert together.coupling.weights == complete(3, p.mutual_weight)
    assert len({one.order_seed for one in together.members}) == 1, "coupled members see the same batches"
    for n, run in enumerate(alone):
        assert run.coupling.is_solo
        assert run.members == together.members[n : n + 1]
        assert run.start == together.start[n : n + 1]
        assert (run.recipe, run.data) == (together.recipe, together.data)
        assert run.start[0].run == pretrained[n].fingerprint
        assert run.start[0].optimizer == optimizer
        assert run.members[0].init_seed == pretrained[n].members[0].init_seed
    found = together.recipe
    if protocol == "own_end":
        assert (found.epochs, found.patience, found.keep) == (p.max_epochs, 2, "best")
    else:
        assert (found.learning_rate, found.epochs, found.patience, found.keep) == (0.005, 2, 0, "last")


def test_finetuning_arms_are_every_combination_once() -> None:
    p = parameters(architectures=["DeepFM"], seeds=[1], protocols=["equal_epochs"])
    arms = {arm.name: arm for arm in planned_arms("finetune_mutually", p)}
    combos = [(k, r, o) for k in ("solo", "mutual") for r in ("lr", "lr/10") for o in ("reset", "keep")]
    others = {"checkpoint", "solo from scratch", "mutual from scratch", "solo from scratch, own orders"}
    assert set(arms) == {arm_name(*combo) for combo in combos} | others
    assert set(HEADLINE) <= set(arms)
    for kind, rate, optimizer in combos:
        found = arms[arm_name(kind, rate, optimizer)].runs
        assert len(found) == (3 if kind == "solo" else 1)
        for run in found:
            assert run.coupling.is_solo == (kind == "solo")
            assert run.recipe.learning_rate == pytest.approx(p.learning_rate / (10 if rate == "lr/10" else 1))
            assert {start.optimizer for start in run.start} == {optimizer}
    own, shared = arms["solo from scratch, own orders"].members, arms["solo from scratch"].members
    assert len({one.order_seed for one in own}) == 3
    assert len({one.order_seed for one in shared}) == 1
    assert [one.init_seed for one in own] == [one.init_seed for one in shared]


def test_the_parameters_of_the_coupling_arrive() -> None:
    p = parameters(mutual_weight=2.5, coupling_form="kl", coupling_target="ensemble")
    found = group_coupling(p, 3)
    assert found.weights == complete(3, 2.5)
    assert (found.form, found.target) == ("kl", "ensemble")
    assert group_coupling(p, 2, solo(2), target="shuffled").target == "shuffled"


@PROTOCOLS
def test_from_scratch_is_paired_and_as_long_as_both_phases(protocol) -> None:
    p = parameters(epochs=4, finetune_epochs=2, max_epochs=9)
    alone = from_scratch(p, 1, protocol, instances(p), None)
    (together,) = from_scratch(p, 1, protocol, instances(p), group_coupling(p, 3))
    assert [run.members[0] for run in alone] == list(together.members)
    assert len({one.order_seed for one in together.members}) == 1
    assert {run.recipe for run in alone} == {together.recipe}
    assert [one.init_seed for one in together.members] == [r.members[0].init_seed for r in checkpoints(p)]
    assert together.recipe.epochs == (9 if protocol == "own_end" else 6)


@pytest.mark.parametrize("sizes", [[2, 3], [2, 4, 5]])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_plan_is_a_full_grid_of_valid_distinct_arms(experiment, sizes) -> None:
    p = parameters(instances=4, sizes=sizes)
    arms = planned_arms(experiment, p)
    keys = [(arm.name, arm.seed, *arm.factors.items()) for arm in arms]
    assert len(set(keys)) == len(keys), "an arm is told from all others by name, group and factors"
    assert {arm.seed for arm in arms} == {1, 2}
    assert {arm.factors["protocol"] for arm in arms} == {"equal_epochs", "own_end"}
    by_group = [sorted(str(key[:1] + key[2:]) for key in keys if key[1] == seed) for seed in p.seeds]
    assert by_group[0] == by_group[1], "every group has the same arms"
    for run in {run.fingerprint: run for arm in arms for run in arm.runs}.values():
        assert Run.model_validate(run.model_dump()) == run, "also those made by changing another"
    planned = planned_runs(experiment, p)
    before: set[str] = set()
    for run in planned:
        needed = {one.run for one in (*(run.start or ()), *(run.teachers or ()))}
        assert needed <= before, "what a run starts from comes before it"
        before.add(run.fingerprint)
    assert before == {run.fingerprint for arm in arms for run in arm.runs}


def test_groups_of_growing_size_are_nested() -> None:
    p = parameters(sizes=[2, 4], seeds=[1], protocols=["own_end"])
    arms = {(arm.name, arm.factors["instances"]): arm for arm in planned_arms("how_many_instances", p)}
    for name in ("checkpoint", "solo", "solo from scratch"):
        assert names(arms[name, 4].runs)[:2] == names(arms[name, 2].runs)
    assert [start.run for start in arms["mutual", 4].runs[0].start] == names(arms["checkpoint", 4].runs)
    assert arms["mutual", 2].runs[0].coupling.weights == complete(2)


def test_mixed_cohorts_are_every_pair_and_the_main_ones_together() -> None:
    p = parameters(seeds=[1], protocols=["equal_epochs"])
    arms = {(arm.name, arm.factors["cohort"]): arm for arm in planned_arms("mix_architectures", p)}
    pairs = ["DeepFM + DeepFM", "DeepFM + DCN", "DeepFM + PNN", "DCN + DCN", "DCN + PNN", "PNN + PNN"]
    assert [cohort for name, cohort in arms if name == "mutual"] == pairs
    main = checkpoints(p)
    assert names(arms["checkpoint", "DeepFM + DeepFM"].runs) == names(main)[:2], "trained for other pages already"
    first = {names(arms["checkpoint", cohort].runs)[0] for cohort in pairs[:3]}
    assert first == {names(main)[0]}, "one checkpoint in every cohort it takes part in"
    four = planned_arms("mix_architectures", parameters(architectures=["DeepFM", "DCN", "PNN"], companions=[]))
    assert "DeepFM + DCN + PNN" in {arm.factors["cohort"] for arm in four}


def test_a_late_start_is_after_the_same_number_of_epochs_under_both_protocols() -> None:
    p = parameters(epochs=3, finetune_epochs=1, max_epochs=8, starts=[0.5], mutual_weights=[1.0], seeds=[1])
    runs = {arm.factors["protocol"]: arm.runs[0] for arm in planned_arms("when_to_couple", p) if arm.name == "mutual"}
    assert {name: run.coupling.start * run.recipe.epochs for name, run in runs.items()} == {
        "equal_epochs": 2.0,
        "own_end": 2.0,
    }


def test_twins_and_siblings() -> None:
    p = parameters(seeds=[1], protocols=["equal_epochs"], epoch_counts=[1])
    arms = {arm.factors["differ in"]: arm for arm in planned_arms("what_is_exchanged", p) if arm.name == "checkpoint"}
    seeds = {kind: [(one.init_seed, one.order_seed) for one in arm.members] for kind, arm in arms.items()}
    assert len(set(seeds["weights and order"])) == len({a for a, _ in seeds["weights and order"]}) == 3
    assert len({a for a, _ in seeds["order"]}) == 1
    assert len({b for _, b in seeds["order"]}) == 3
    assert len(set(seeds["nothing"])) == 1


def test_on_real_clicks_every_group_shares_what_can_be_shared() -> None:
    p = parameters(architecture="DCN", architectures=["DeepFM", "DCN", "PNN"], instances=3, sizes=[2, 3, 5], seeds=[1],
                   protocols=["own_end"], mutual_weights=[1.0, 20.0], starts=[0.0, 0.5])  # fmt: skip
    arms = planned_arms("real_criteo", p)
    key = [(arm.name, arm.factors["cohort"], arm.factors["instances"], arm.factors.get("weight"),
            arm.factors.get("share")) for arm in arms]  # fmt: skip
    assert len(set(key)) == len(key), "no arm twice"
    at = dict(zip(key, arms, strict=True))
    mutual = {(cohort, size) for name, cohort, size, weight, _ in at if name == "mutual" and weight == 20}
    mixed = "DeepFM + DCN + PNN"
    assert mutual == {("DCN", 3), ("DeepFM", 3), ("PNN", 3), ("DCN", 2), ("DCN", 5), (mixed, 3)}
    starts = {(cohort, share) for name, cohort, _, _, share in at if name == "mutual from scratch"}
    assert starts == {("DCN", 0.0), ("DCN", 0.5), ("DeepFM", 0.0), ("PNN", 0.0)}
    assert {cohort for name, cohort, *_ in at if name == "mutual lr/10"} == {"DCN"}
    trained = {run for arm in arms if arm.name == "checkpoint" for run in names(arm.runs)}
    begun = {start.run for run in at["mutual", mixed, 3, 1.0, None].runs for start in run.start}
    assert begun < trained, "the mixed group needs no checkpoint of its own"
    assert {one.architecture for one in at["mutual", mixed, 3, 1.0, None].members} == {"DeepFM", "DCN", "PNN"}
    five = [start.run for start in at["mutual", "DCN", 5, 1.0, None].runs[0].start]
    assert names(at["checkpoint", "DCN", 3, None, None].runs) == five[:3], "groups of growing size are nested"


def test_on_real_clicks_controls_differ_from_mutual_by_what_is_heard() -> None:
    p = parameters(architecture="DCN", architectures=["DeepFM", "DCN"], instances=3, sizes=[3], seeds=[1],
                   protocols=["own_end"], mutual_weights=[1.0, 20.0], starts=[0.0])  # fmt: skip
    arms = planned_arms("real_frappe", p)
    at = {(arm.name, arm.factors["cohort"], arm.factors.get("weight")): arm for arm in arms}
    for target, name, twin in (
        ("frozen", "frozen peers", "mutual"),
        ("shuffled", "shuffled peers", "mutual"),
        ("shuffled", "shuffled peers from scratch", "mutual from scratch"),
    ):
        assert {(cohort, weight) for arm, cohort, weight in at if arm == name} == {("DCN", 1.0), ("DCN", 20.0)}
        for weight in p.mutual_weights:
            [control], [live] = at[name, "DCN", weight].runs, at[twin, "DCN", weight].runs
            assert (live.coupling.target, control.coupling.target) == ("live", target)
            coupling = live.coupling.model_copy(update={"target": target})
            assert control == live.model_copy(update={"coupling": coupling})
    for weight in p.mutual_weights:
        own, [frozen] = at["self-distillation", "DCN", weight].runs, at["frozen peers", "DCN", weight].runs
        assert [run.coupling.weights for run in own] == [((weight,),)] * 3
        assert {run.coupling.target for run in own} == {"frozen"}
        assert tuple(run.start[0] for run in own) == frozen.start
        assert tuple(run.members[0] for run in own) == frozen.members


def test_an_unknown_experiment_is_named() -> None:
    with pytest.raises(UserError) as caught:
        planned_arms("finetune_mutualy", parameters())
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
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path))
    p, store = begin({**parameters().model_dump(), "In": [], "anything": object()})
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
    assert prints[0] == prints[2] != prints[1], "two draws serve three groups in turn"
    assert [checkpoints(p, seed)[0].data.draw for seed in p.seeds] == [0, 1, 0]
    assert len(group_data(p, 1).train) == 300
    assert group_data(p, 1).test.probability is None
    with pytest.raises(UserError) as caught:
        checked_parameters(**{**p.model_dump(), "batch_size": 301})
    assert "at most 300" in one_line(caught)


# ---- tables ----------------------------------------------------------------------------------------------------------

Study = tuple[StudyParameters, runs.RunStore, list[Arm]]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A trained mixing experiment of two groups: pairs of DeepFM and DCN."""
    p = parameters(companions=[], protocols=["equal_epochs"], test_rows=3000)
    store = runs.RunStore(tmp_path_factory.mktemp("store"))
    return p, store, train_arms(p, store, planned_arms("mix_architectures", p))


def chosen(arms: list[Arm], name: str, cohort: str, seed: int = 1) -> Arm:
    (found,) = (arm for arm in arms if (arm.name, arm.factors["cohort"], arm.seed) == (name, cohort, seed))
    return found


def test_arms_hold_their_own_records(study) -> None:
    p, _, arms = study
    assert [(arm.name, arm.seed, arm.factors, arm.runs) for arm in arms] == [
        (arm.name, arm.seed, arm.factors, arm.runs) for arm in planned_arms("mix_architectures", p)
    ]
    for arm in arms:
        assert tuple(record.run for record in arm.records) == arm.runs
        assert arm.probabilities().shape == (2, 3000)
        assert arm.probabilities("valid").shape == (2, 20_000)


def test_group_table_is_counted_by_hand(study) -> None:
    p, store, every = study
    arms = [arm for arm in every if (arm.name, arm.factors["cohort"]) == ("mutual", "DeepFM + DCN")]
    found = group_table(store, arms)
    assert list(found["group"]) == [1, 2]
    for (_, row), arm in zip(found.iterrows(), arms, strict=True):
        data = synthetic.generate(SyntheticSettings(train_rows=p.rows, test_rows=3000), arm.seed)
        truth = data.test
        logits = np.concatenate([record.logits() for record in arm.records]).astype(np.float64)
        predicted = 1 / (1 + np.exp(-logits))
        aucs = [roc_auc_score(truth.labels, q) for q in predicted]
        assert row["auc"] == pytest.approx(np.mean(aucs), abs=1e-12)
        assert row["logloss"] == pytest.approx(np.mean([log_loss(truth.labels, q) for q in predicted]), rel=1e-12)
        ensemble = sum(predicted) / 2
        assert row["ensemble_auc"] == pytest.approx(roc_auc_score(truth.labels, ensemble), abs=1e-12)
        assert row["ensemble_logloss"] == pytest.approx(log_loss(truth.labels, ensemble), rel=1e-12)
        churn = np.mean([np.mean(np.abs(a - b)) for a, b in combinations(predicted, 2)])
        assert row["churn"] == pytest.approx(churn, rel=1e-12)
        assert row["reachable_auc"] == pytest.approx(roc_auc_score(truth.labels, truth.probability), abs=1e-12)
        valid = [roc_auc_score(data.valid.labels, q) for q in arm.probabilities("valid")]
        assert row["best_of_n_auc"] == pytest.approx(aucs[int(np.argmax(valid))], abs=1e-12)
        assert row["member_epochs"] == 2 * p.finetune_epochs


def test_group_table_without_a_known_truth(prepared, tmp_path) -> None:
    p = parameters(dataset=prepared, seeds=[0], instances=2, protocols=["equal_epochs"])
    store = runs.RunStore(tmp_path / "runs")
    found = group_table(store, train_arms(p, store, planned_arms("train_independent", p)))
    assert found["reachable_auc"].isna().all()
    assert found.drop(columns="reachable_auc").notna().all(axis=None)


def test_member_table_is_one_row_per_member(study) -> None:
    p, _, arms = study
    found = member_table(arms)
    assert len(found) == len(arms) * 2
    assert not found.duplicated(["arm", "cohort", "group", "member"]).any()
    for _, row in found.iterrows():
        arm = chosen(arms, row["arm"], row["cohort"], row["group"])
        labels = group_data(p, arm.seed).test.labels
        q = arm.probabilities()[row["member"]]
        assert row["auc"] == pytest.approx(roc_auc_score(labels, q), abs=1e-12)
        assert row["logloss"] == pytest.approx(log_loss(labels, q), rel=1e-9)
        assert row["calibration"] == pytest.approx(q.mean() / labels.mean(), rel=1e-9)
        assert row["architecture"] == row["cohort"].split(" + ")[row["member"]]
        assert row["kept_epoch"] == 1


def test_member_effects_are_counted_by_hand(study) -> None:
    _, _, arms = study
    members = member_table(arms)
    auc = {(r["arm"], r["cohort"], r["group"], r["member"]): r["auc"] for _, r in members.iterrows()}
    found = member_effects(members, ["protocol", "cohort"])
    assert len(found) == 2 * 3 * 2
    for _, row in found.iterrows():
        key, n = (row["cohort"], row["group"]), row["member"]
        own, peer = auc["checkpoint", *key, n], auc["checkpoint", *key, 1 - n]
        assert row["checkpoint"] == own
        assert row["gap"] == pytest.approx(peer - own, abs=1e-15)
        assert row["effect"] == pytest.approx(auc["mutual", *key, n] - auc["solo", *key, n], abs=1e-15)
        assert row["companions"] == row["cohort"].split(" + ")[1 - n]


def test_coupling_changes_members_but_not_what_they_are_paired_with(study) -> None:
    _, _, arms = study
    for seed in (1, 2):
        pair = [chosen(arms, name, "DeepFM + DCN", seed).probabilities() for name in ("solo", "mutual")]
        assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(*pair, strict=True))
        alone = [
            chosen(arms, "solo", cohort, seed).probabilities()[0] for cohort in ("DeepFM + DCN", "DeepFM + DeepFM")
        ]
        assert np.array_equal(*alone)


def test_baseline_scores_agree_with_scikit_learn(study) -> None:
    p, store, arms = study
    arm = chosen(arms, "checkpoint", "DeepFM + DCN")
    found = baseline_scores(store, arm.records)
    data = group_data(p, 1)
    floor = roc_auc_score(data.test.labels, logistic_regression(data))
    assert found["logistic_regression_auc"] == pytest.approx(floor, abs=1e-12)
    assert found["largest_auc_difference"] < 1e-12


def test_mean_over_a_factor_stays_within_groups() -> None:
    groups = by_hand().assign(protocol="own_end", architecture="DCN")
    scores = ("ensemble_auc", "ensemble_logloss", "churn", "best_of_n_auc", "reachable_auc", "member_epochs", "seconds")
    groups = groups.assign(**dict.fromkeys(scores, 1.0))
    other = groups.assign(architecture="PNN", auc=groups["auc"] + 0.1)
    found = mean_over(pd.concat([groups, other]), "architecture").set_index(["arm", "group"])
    expected = groups.set_index(["arm", "group"])["auc"] + 0.05
    pd.testing.assert_series_equal(found["auc"].sort_index(), expected.sort_index())
    assert set(found.columns) == {"protocol", "auc", "logloss", *scores}


def test_effects_by_factor_pair_the_right_arms() -> None:
    """One control for every weight, another for each size: what the control has is matched, what it lacks is not."""
    rows = [
        {"arm": arm, "group": g, "size": size, "weight": weight, "auc": 0.7 + value + g / 100}
        for arm, size, weight, value in [
            ("solo", 2, np.nan, 0.0),
            ("solo", 3, np.nan, 0.1),
            ("mutual", 2, 1.0, 0.001),
            ("mutual", 2, 20.0, 0.002),
            ("mutual", 3, 1.0, 0.103),
        ]
        for g in range(3)
    ]
    found = effects_by(pd.DataFrame(rows), ["size", "weight"], "mutual", "solo")
    assert list(zip(found["size"], found["weight"], strict=True)) == [(2, 1.0), (2, 20.0), (3, 1.0)]
    assert found["difference"].tolist() == pytest.approx([0.001, 0.002, 0.003], abs=1e-12)
    assert found["groups"].tolist() == [3, 3, 3]


def test_share_of_gap_and_slope_are_counted_by_hand() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for level in (100, 200, 800):
        for g in range(4):
            solo, effect = 0.7 + rng.normal(0, 0.01), 0.01 + 0.002 * np.log2(level / 100) + rng.normal(0, 1e-4)
            for arm, auc in (("solo", solo), ("mutual", solo + effect)):
                rows.append({"arm": arm, "group": g, "rows": level, "kind": "x", "auc": auc, "reachable_auc": 0.8})
    groups = pd.DataFrame(rows)
    shares = share_of_gap(groups, ["kind", "rows"], "mutual", "solo").set_index("rows")
    for level, at in groups.groupby("rows"):
        mean = at.groupby("arm")["auc"].mean()
        expected = (mean["mutual"] - mean["solo"]) / (0.8 - mean["solo"])
        assert shares.loc[level, "share"] == pytest.approx(expected, rel=1e-12)
        assert shares.loc[level, "low"] < expected < shares.loc[level, "high"]
    slope = slope_table(groups, "rows", ["kind"], "mutual", "solo").iloc[0]
    wide = groups.pivot(index=["rows", "group"], columns="arm", values="auc")
    effect = (wide["mutual"] - wide["solo"]).unstack("group")
    fitted = [np.polyfit(np.log2(effect.index), effect[g], 1)[0] for g in effect]
    assert slope["slope"] == pytest.approx(np.mean(fitted), rel=1e-9)
    assert slope["verdict"] == "grows"


def by_hand() -> pd.DataFrame:
    """Three arms of four groups, in no order."""
    rng = np.random.default_rng(4)
    base = rng.normal(0.75, 0.02, 4)
    arms = {"control": base, "better": base + rng.normal(0.004, 0.001, 4), "same": base + rng.normal(0, 0.001, 4)}
    rows = [{"arm": name, "group": g, "auc": v[g], "logloss": 1 - v[g]} for name, v in arms.items() for g in range(4)]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_effect_table_is_counted_by_hand() -> None:
    groups = by_hand()
    pairs = {
        "better - control": ("better", "control"),
        "same - control": ("same", "control"),
        "same": ("same", "better"),
    }
    found = effect_table(groups, pairs).set_index("comparison")
    value = {(r["arm"], r["group"]): r["auc"] for _, r in groups.iterrows()}
    p_values = {}
    for name, (treatment, control) in pairs.items():
        a, b = ([value[arm, g] for g in range(4)] for arm in (treatment, control))
        test = stats.ttest_rel(a, b)
        interval = test.confidence_interval()
        row, p_values[name] = found.loc[name], test.pvalue
        assert row["difference"] == pytest.approx(np.mean(a) - np.mean(b), abs=1e-15)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert row["relative_%"] == pytest.approx(100 * (np.mean(a) - np.mean(b)) / np.mean(b), rel=1e-9)
        impr = 100 * ((np.mean(a) - 0.5) / (np.mean(b) - 0.5) - 1)
        assert row["RelaImpr_%"] == pytest.approx(impr, rel=1e-9)
        assert row["P(better)"] == np.mean(np.array(a) > np.array(b))
    order = sorted(p_values, key=p_values.get)
    running = 0.0
    for rank, name in enumerate(order):
        running = max(running, min(1.0, p_values[name] * (3 - rank)))
        assert found.loc[name, "p_holm"] == pytest.approx(running, rel=1e-9)
    assert found.loc["better - control", "verdict"] == "gain"
    assert found.loc["same", "verdict"] == "loss"


def test_a_verdict_survives_holm_and_intervals_stay_those_of_one_comparison() -> None:
    """A difference whose own interval excludes zero (p = 0.03) is a gain alone, and none among three such."""
    spread = np.array([-1.0, -0.5, 0.5, 1.0, 0.0])
    shift = next(x for x in np.linspace(0, 2, 2001) if stats.ttest_1samp(spread + x, 0).pvalue < 0.03)
    arms = {"control": np.zeros(5), "weak": spread + shift, "also weak": -spread - shift, "strong": spread + 20}
    groups = pd.DataFrame([{"arm": n, "group": g, "auc": 0.7 + v[g] / 1000} for n, v in arms.items() for g in range(5)])
    alone = effect_table(groups, {"weak": ("weak", "control")}).iloc[0]
    assert (alone["verdict"], alone["p_holm"]) == ("gain", pytest.approx(0.03, abs=1e-3))
    family = effect_table(groups, {name: (name, "control") for name in arms if name != "control"})
    family = family.set_index("comparison")
    assert dict(family["verdict"]) == {
        "weak": "no difference shown",
        "also weak": "no difference shown",
        "strong": "gain",
    }
    assert family.loc["weak", "p_holm"] == pytest.approx(0.06, abs=2e-3)
    assert (family.loc["weak", "low"], family.loc["weak", "high"]) == (alone["low"], alone["high"])
    lost = effect_table(groups, {"also weak": ("also weak", "control")}).iloc[0]
    assert lost["verdict"] == "loss"


def test_effect_table_of_trained_arms_uses_group_means(study) -> None:
    _, store, arms = study
    cohort = [arm for arm in arms if arm.factors["cohort"] == "DeepFM + DCN"]
    groups = group_table(store, cohort)
    found = effect_table(groups, {"c": ("mutual", "solo")}).iloc[0]
    mean = {
        name: [
            np.mean([t["auc"] for r in chosen(arms, name, "DeepFM + DCN", seed).records for t in r.content["test"]])
            for seed in (1, 2)
        ]
        for name in ("mutual", "solo")
    }
    expected = stats.ttest_rel(mean["mutual"], mean["solo"])
    assert found["difference"] == pytest.approx(np.subtract(mean["mutual"], mean["solo"]).mean(), abs=1e-12)
    assert found["p_holm"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert compare(groups, "mutual", "solo").groups == 2


def test_one_group_has_a_difference_but_no_interval() -> None:
    groups = by_hand().query("group == 0")
    row = effect_table(groups, {"c": ("better", "control")}).iloc[0]
    assert row["difference"] > 0
    assert (row["low"], row["high"], row["verdict"]) == (-math.inf, math.inf, "no difference shown")
    assert math.isnan(row["p_holm"])


def test_logloss_effects_are_its_own_differences() -> None:
    row = effect_table(by_hand(), {"c": ("better", "control")}, value="logloss").iloc[0]
    assert row["difference"] < 0
    assert row["verdict"] == "loss"


# ---- the floor -------------------------------------------------------------------------------------------------------


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


def test_architectures_are_spelled_as_the_registry_spells_them() -> None:
    """Otherwise ``fibinet`` would be its own companion, under another name."""
    p = checked_parameters(
        architecture="fibinet", architectures=["dcn", "DCN", "pnn"], companions=["FIBINET"], rows=1000
    )
    assert (p.architecture, p.architectures, p.companions) == ("FiBiNET", ("DCN", "PNN"), ("FiBiNET",))
