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

from ctrlib import runs
from ctrlib.baselines import logistic_regression
from ctrlib.config import StudyParameters, SyntheticSettings
from ctrlib.coupling import complete, pairs
from ctrlib.data import synthetic, table
from ctrlib.data.table import Dataset, Split
from ctrlib.errors import UserError
from ctrlib.experiments import (
    Arm,
    arm_name,
    begin,
    checked_parameters,
    compare,
    continuation,
    effect_table,
    finetuning_arms,
    from_scratch,
    group_data,
    group_table,
    member_table,
    mixed_arms,
    mixed_cohorts,
    mutual_finetuning,
    partner_effects,
    pretraining,
    train_arms,
)


def parameters(**changes) -> StudyParameters:
    return StudyParameters(
        **{
            "architecture": "DeepFM",
            "companions": ["DCN"],
            "instances": 3,
            "seeds": [1, 2],
            "rows": 400,
            "batch_size": 100,
            "epochs": 1,
            "embedding_dim": 2,
            "hidden_units": [4],
            "learning_rate": 0.02,
            "device": "cpu",
            **changes,
        }
    )


def names(found: list) -> list[str]:
    return [run.fingerprint for run in found]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_more_instances_reuse_the_pretraining_of_fewer() -> None:
    four, five = (pretraining(parameters(instances=n), 1) for n in (4, 5))
    assert names(five)[:4] == names(four)
    assert len(set(names(five))) == 5


def test_what_does_not_touch_pretraining_does_not_train_it_again() -> None:
    before = names(pretraining(parameters(), 1))
    for change in (
        {"mutual_weight": 3.0},
        {"coupling_form": "kl"},
        {"coupling_target": "joint"},
        {"coupling_start": 0.5},
        {"topology": "ring"},
        {"embeddings": "shared"},
        {"finetune_epochs": 4},
        {"seeds": [1]},
        {"companions": ["PNN"]},
        {"profile": "other"},
        {"device": "auto"},
    ):
        assert names(pretraining(parameters(**change), 1)) == before
    for change in ({"epochs": 2}, {"learning_rate": 0.01}, {"rows": 500}, {"protocol": "own_end"}, {"dropout": 0.1}):
        assert not set(names(pretraining(parameters(**change), 1))) & set(before)


def test_spelling_of_an_architecture_does_not_matter() -> None:
    assert names(pretraining(parameters(architecture="deepfm"), 1)) == names(pretraining(parameters(), 1))


def test_pretraining_is_independent() -> None:
    """Own initial weights and own batch orders for each instance; nothing shared between groups, not even rows."""
    groups = [pretraining(parameters(), seed) for seed in (1, 2)]
    members = [run.members[0] for group in groups for run in group]
    assert len({one.init_seed for one in members}) == len({one.order_seed for one in members}) == 6
    assert all(len(run.members) == 1 and run.coupling.is_solo and run.start is None for g in groups for run in g)
    assert len({run.data.fingerprint for run in groups[0]}) == 1
    assert groups[0][0].data.fingerprint != groups[1][0].data.fingerprint
    assert groups[0][0].data.fingerprint == synthetic.fingerprint(SyntheticSettings(train_rows=400), 1)


def test_no_two_members_of_a_study_share_a_seed() -> None:
    p = parameters(instances=100, seeds=list(range(1, 6)))
    members = [one for seed in p.seeds for run in pretraining(p, seed) for one in run.members]
    shared = [from_scratch(p, seed, True)[0].members[0].order_seed for seed in p.seeds]
    assert len({one.init_seed for one in members}) == 500
    assert len({one.order_seed for one in members} | set(shared)) == 505


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_continuation_differs_from_mutual_by_the_coupling_alone(optimizer) -> None:
    p = parameters()
    pretrained = pretraining(p, 1)
    alone = continuation(p, pretrained, 0.005, optimizer)
    (together,) = mutual_finetuning(p, pretrained, 0.005, optimizer)
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
    assert (together.recipe.learning_rate, together.recipe.epochs) == (0.005, p.finetune_epochs)
    assert (together.recipe.keep, together.recipe.patience) == ("last", 0)


def test_finetuning_arms_are_every_combination_once() -> None:
    p = parameters()
    arms = finetuning_arms(p, pretraining(p, 1))
    combos = [(k, r, o) for k in ("solo", "mutual") for r in ("lr", "lr/10") for o in ("reset", "keep")]
    assert set(arms) == {arm_name(*combo) for combo in combos}
    assert len(arms) == 8
    for kind, rate, optimizer in combos:
        found = arms[arm_name(kind, rate, optimizer)]
        assert len(found) == (3 if kind == "solo" else 1)
        for run in found:
            assert run.coupling.is_solo == (kind == "solo")
            assert run.recipe.learning_rate == pytest.approx(p.learning_rate / (10 if rate == "lr/10" else 1))
            assert {start.optimizer for start in run.start} == {optimizer}
    every = [name for found in arms.values() for name in names(found)]
    assert len(set(every)) == len(every) == 4 * 3 + 4


def test_the_parameters_of_the_coupling_arrive() -> None:
    p = parameters(mutual_weight=2.5, coupling_form="kl", coupling_target="ensemble")
    (together,) = mutual_finetuning(p, pretraining(p, 1), 0.01, "reset")
    assert together.coupling.weights == complete(3, 2.5)
    assert (together.coupling.form, together.coupling.target) == ("kl", "ensemble")
    p = parameters(instances=4, topology="pairs", coupling_start=0.5, embeddings="shared", mutual_weight=2.0)
    for (run,) in (from_scratch(p, 1, mutual=True), mutual_finetuning(p, pretraining(p, 1), 0.01, "reset")):
        assert run.coupling.weights == pairs(4, 2.0)
        assert run.coupling.start == 0.5
        assert run.embeddings == ("own" if run.start else "shared"), "checkpoints bring tables of their own"
    assert {run.embeddings for run in from_scratch(p, 1, mutual=False)} == {"own"}


@pytest.mark.parametrize("protocol", ["equal_epochs", "own_end"])
def test_from_scratch_is_paired_and_as_long_as_both_phases(protocol) -> None:
    p = parameters(epochs=4, finetune_epochs=2, protocol=protocol)
    alone, (together,) = from_scratch(p, 1, mutual=False), from_scratch(p, 1, mutual=True)
    assert [run.members[0] for run in alone] == list(together.members)
    assert len({one.order_seed for one in together.members}) == 1
    assert {run.recipe for run in alone} == {together.recipe}
    assert [one.init_seed for one in together.members] == [r.members[0].init_seed for r in pretraining(p, 1)]
    recipe = together.recipe
    if protocol == "own_end":
        assert (recipe.epochs, recipe.patience, recipe.keep) == (4, 2, "best")
    else:
        assert (recipe.epochs, recipe.patience, recipe.keep) == (6, 0, "last")


def test_hosts_of_mixed_cohorts_are_the_pretrained_instances() -> None:
    p = parameters(companions=["DCN", "PNN", "deepfm"])
    assert mixed_cohorts(p) == {
        "DeepFM": ["DeepFM"] * 3,
        "DCN": ["DeepFM", "DeepFM", "DCN"],
        "PNN": ["DeepFM", "DeepFM", "PNN"],
    }
    before, after = mixed_arms(p, 1)
    pure = names(pretraining(p, 1))
    assert names(before["before|DeepFM"]) == pure
    for guest in ("DCN", "PNN"):
        assert names(before[f"before|{guest}"])[:2] == pure[:2], "the hosts are not trained again"
        assert before[f"before|{guest}"][2].members[0].architecture == guest
        (together,) = after[f"mutual|{guest}"]
        assert [start.run for start in together.start] == names(before[f"before|{guest}"])
        assert [one.architecture for one in together.members] == ["DeepFM", "DeepFM", guest]
        assert names(after[f"solo|{guest}"])[:2] == names(after["solo|DeepFM"])[:2], "their solo control is shared"
    assert set(after) == {f"{way}|{guest}" for way in ("solo", "mutual") for guest in ("DeepFM", "DCN", "PNN")}
    distinct = {name for found in before.values() for name in names(found)}
    assert len(distinct) == 3 + 2


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
        ({"instanses": 4}, ["'instanses'", "Did you mean 'instances'"]),
    ],
)
def test_parameters_that_cannot_be_are_refused_before_anything_runs(monkeypatch, tmp_path, changes, words) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError) as caught:
        begin(**{**parameters().model_dump(), **changes})
    assert all(word in one_line(caught) for word in words)
    assert list(tmp_path.iterdir()) == []


def test_begin_gives_parameters_and_the_store(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path))
    p, store = begin(**parameters().model_dump())
    assert p == parameters()
    assert store.root == tmp_path


@pytest.fixture
def prepared(monkeypatch, tmp_path) -> str:
    """A prepared data set ``mine`` with two draws of 300, 100 and 100 rows."""
    settings = SyntheticSettings(train_rows=300, valid_rows=100, test_rows=100, fields=3)
    draws = []
    for draw in (0, 1):
        made = synthetic.generate(settings, draw)
        parts = {name: Split(part.ids, part.labels) for name, part in made.splits().items()}
        draws.append(
            (Dataset("mine", draw, made.field_names, made.field_dims, fingerprint="", **parts), pd.DataFrame())
        )

    class Vocabulary:
        def write_parquet(self, file) -> None:
            file.write(b"none")

    table.save(tmp_path, "mine", [(dataset, Vocabulary()) for dataset, _ in draws], {"kind": "table"})
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path))
    return "mine"


def test_prepared_data_gives_each_group_one_of_its_draws(prepared) -> None:
    p = parameters(dataset=prepared, seeds=[0, 1, 2])
    assert checked_parameters(**p.model_dump()) == p
    prints = [pretraining(p, seed)[0].data.fingerprint for seed in p.seeds]
    assert prints[0] == prints[2] != prints[1], "two draws serve three groups in turn"
    assert [pretraining(p, seed)[0].data.draw for seed in p.seeds] == [0, 1, 0]
    assert len(group_data(p, 1).train) == 300
    assert group_data(p, 1).test.probability is None
    with pytest.raises(UserError) as caught:
        checked_parameters(**{**p.model_dump(), "batch_size": 301})
    assert "at most 300" in one_line(caught)


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A trained mixing experiment of two groups: parameters and arms by name."""
    p = parameters()
    store = runs.RunStore(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.os, "cpu_count", lambda: 1)  # train in this process
        before, after = {}, {}
        for seed in p.seeds:
            first, second = mixed_arms(p, seed)
            before |= {(name, seed): found for name, found in first.items()}
            after |= {(name, seed): found for name, found in second.items()}
        arms = train_arms(p, store, before) + train_arms(p, store, after)
    return p, {(arm.name, arm.seed): arm for arm in arms}


def test_arms_hold_their_own_records(study) -> None:
    p, arms = study
    assert len(arms) == 2 * 6
    for (name, seed), arm in arms.items():
        assert isinstance(arm, Arm)
        assert arm.probabilities().shape == (3, 50_000)
        assert arm.probabilities("valid").shape == (3, 20_000)
        first, second = mixed_arms(p, seed)
        assert [record.run for record in arm.records] == {**first, **second}[name]


def test_group_table_is_counted_by_hand(study) -> None:
    p, every = study
    arms = {key: arm for key, arm in every.items() if arm.name in ("before|DeepFM", "mutual|DCN")}
    found = group_table(p, list(arms.values()))
    assert list(zip(found["arm"], found["group"], strict=True)) == list(arms)
    for (_, row), arm in zip(found.iterrows(), arms.values(), strict=True):
        truth = synthetic.generate(SyntheticSettings(train_rows=p.rows), arm.seed).test
        logits = np.concatenate([record.logits() for record in arm.records]).astype(np.float64)
        predicted = 1 / (1 + np.exp(-logits))
        assert row["auc"] == pytest.approx(np.mean([roc_auc_score(truth.labels, q) for q in predicted]), abs=1e-12)
        assert row["logloss"] == pytest.approx(np.mean([log_loss(truth.labels, q) for q in predicted]), rel=1e-12)
        ensemble = sum(predicted) / 3
        assert row["ensemble_auc"] == pytest.approx(roc_auc_score(truth.labels, ensemble), abs=1e-12)
        assert row["ensemble_logloss"] == pytest.approx(log_loss(truth.labels, ensemble), rel=1e-12)
        churn = np.mean([np.mean(np.abs(a - b)) for a, b in combinations(predicted, 2)])
        assert row["churn"] == pytest.approx(churn, rel=1e-12)
        assert row["reachable_auc"] == pytest.approx(roc_auc_score(truth.labels, truth.probability), abs=1e-12)


def test_group_table_without_a_known_truth(prepared, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runs.os, "cpu_count", lambda: 1)
    p = parameters(dataset=prepared, seeds=[0], instances=2)
    arms = train_arms(p, runs.RunStore(tmp_path / "runs"), {("before", 0): pretraining(p, 0)})
    found = group_table(p, arms)
    assert found["reachable_auc"].isna().all()
    assert found.drop(columns="reachable_auc").notna().all(axis=None)


def test_member_table_is_one_row_per_member(study) -> None:
    p, arms = study
    found = member_table(list(arms.values()))
    assert len(found) == len(arms) * 3
    assert not found.duplicated(["arm", "group", "member"]).any()
    for _, row in found.iterrows():
        arm = arms[row["arm"], row["group"]]
        labels = group_data(p, arm.seed).test.labels
        q = arm.probabilities()[row["member"]]
        assert row["auc"] == pytest.approx(roc_auc_score(labels, q), abs=1e-12)
        assert row["logloss"] == pytest.approx(log_loss(labels, q), rel=1e-9)
        assert row["calibration"] == pytest.approx(q.mean() / labels.mean(), rel=1e-9)
        guest = row["arm"].split("|")[1]
        assert row["architecture"] == (guest if row["member"] == 2 else "DeepFM")
        assert row["kept_epoch"] == 1


def test_partner_effects_are_counted_by_hand(study) -> None:
    _, arms = study
    members = member_table(list(arms.values()))
    auc = {(r["arm"], r["group"], r["member"]): r["auc"] for _, r in members.iterrows()}
    found = partner_effects(members)
    assert len(found) == 2 * 2 * 3
    for _, row in found.iterrows():
        guest, group, n = row["guest"], row["group"], row["member"]
        own = auc[f"before|{guest}", group, n]
        peers = [auc[f"before|{guest}", group, i] for i in range(3) if i != n]
        assert row["before"] == own
        assert row["gap"] == pytest.approx(sum(peers) / 2 - own, abs=1e-15)
        effect = auc[f"mutual|{guest}", group, n] - auc[f"solo|{guest}", group, n]
        assert row["effect"] == pytest.approx(effect, abs=1e-15)
        assert row["role"] == ("guest" if n == 2 else "host")
        assert row["architecture"] == (guest if n == 2 else "DeepFM")
    for _, cohort in found.groupby(["guest", "group"]):
        assert cohort["gap"].sum() == pytest.approx(0, abs=1e-12), "gaps of a cohort cancel"


def test_coupling_changes_members_but_not_what_they_are_paired_with(study) -> None:
    _, arms = study
    for seed in (1, 2):
        solo, mutual = arms["solo|DCN", seed].probabilities(), arms["mutual|DCN", seed].probabilities()
        assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(solo, mutual, strict=True))
        hosts = [arms[f"solo|{guest}", seed].probabilities()[:2] for guest in ("DeepFM", "DCN")]
        assert np.array_equal(*hosts)


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
    p, arms = study
    groups = group_table(p, [arm for arm in arms.values() if arm.name in ("mutual|DCN", "solo|DCN")])
    found = effect_table(groups, {"c": ("mutual|DCN", "solo|DCN")}).iloc[0]
    mean = {
        way: [
            np.mean([t["auc"] for r in arms[f"{way}|DCN", seed].records for t in r.content["test"]]) for seed in (1, 2)
        ]
        for way in ("mutual", "solo")
    }
    expected = stats.ttest_rel(mean["mutual"], mean["solo"])
    assert found["difference"] == pytest.approx(np.subtract(mean["mutual"], mean["solo"]).mean(), abs=1e-12)
    assert found["p_holm"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert compare(groups, "mutual|DCN", "solo|DCN").groups == 2


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
    p = checked_parameters(architecture="fibinet", companions=["dcn", "DCN", "FIBINET"], rows=1000)
    assert (p.architecture, p.companions) == ("FiBiNET", ("DCN", "FiBiNET"))
    assert list(mixed_cohorts(p)) == ["FiBiNET", "DCN"]
