"""What the pages say of the full runs, held against the committed records of those runs.

Each page of an experiment has a section "What the full runs showed" in plain words. Whoever changes the words, or the
records, hears here whether they still agree. Nothing is trained: what the records do not hold is an error.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctrlib.data.folders import project_root
from ctrlib.run.plan import declared_parameters, plan
from ctrlib.store import ensure
from ctrlib.store.measures import pooled_difference
from ctrlib.store.published import committed_results
from ctrlib.store.runs import RunStore
from ctrlib.study import expectations, verdicts
from ctrlib.study.arms import train_arms
from ctrlib.study.experiments import OF_OTHERS, checked_parameters, planned_arms
from ctrlib.study.finetuning import HEADLINE, RATES, arm_name
from ctrlib.study.inside import similarity
from ctrlib.study.tables import (
    compare,
    effects_by,
    effects_of_each,
    group_table,
    mean_over,
    member_effects,
    member_table,
    share_of_gap,
)

BOTH = ["equal_epochs", "own_end"]
NOWHERE = Path("/nonexistent/records only")


def settings_of(number: str):
    """Name of a page's experiment, its parameters, and a store of the committed records alone."""
    (job,) = plan(project_root(), "published", [number], {})
    p = checked_parameters(**{**declared_parameters(job.source), **job.parameters})
    store = RunStore(NOWHERE)
    store.results = committed_results()
    return job.name.partition("_")[2], p, store


@cache
def arms_of(number: str):
    """Parameters, store and arms of a page, from the committed records alone."""
    name, p, store = settings_of(number)
    planned = planned_arms(name, p)
    missing = [run for arm in planned for run in arm.runs if store.find(run) is None]
    if missing:
        pytest.fail(f"{len(missing)} runs of page {number} are not in book/results")
    return p, store, train_arms(p, store, planned)


@cache
def groups_of(number: str) -> pd.DataFrame:
    _, store, arms = arms_of(number)
    return group_table(store, arms)


def effect(number: str, treatment: str, control: str, value: str = "auc", against: dict | None = None, **at) -> float:
    """Mean paired difference under the factors ``at``; NaN where its interval holds zero (see :func:`mean_of`)."""
    found = difference(number, treatment, control, value, against, **at)
    return found.mean if found.verdict != "no difference shown" else np.nan


def mean_of(number: str, treatment: str, control: str, value: str = "auc", against: dict | None = None, **at) -> float:
    """Mean paired difference, shown or not."""
    return difference(number, treatment, control, value, against, **at).mean


def difference(number: str, treatment: str, control: str, value: str, against: dict | None, **at):
    table = groups_of(number)
    treated, control_at = table[table["arm"] == treatment], {**at, **(against or {})}
    controls = table[table["arm"] == control]
    for name, level in at.items():
        treated = treated[treated[name] == level]
    for name, level in control_at.items():
        if controls[name].notna().any():
            controls = controls[controls[name] == level]
    other = controls.assign(arm="the control")
    return compare(pd.concat([treated.assign(arm="the treatment"), other]), "the treatment", "the control", value)


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("something would be trained")

    monkeypatch.setattr(ensure, "train_task", refuse)


def test_page_01_disagreement_and_what_an_ensemble_gains() -> None:
    by = groups_of("01").groupby("protocol")[["auc", "ensemble_auc", "churn", "reachable_auc"]].mean()
    gain = by["ensemble_auc"] - by["auc"]
    assert gain["equal_epochs"] > 2 * gain["own_end"] > 0
    assert by["churn"]["equal_epochs"] > by["churn"]["own_end"]
    assert by["auc"]["equal_epochs"] < by["auc"]["own_end"] < by["ensemble_auc"]["own_end"]


def test_page_02_beside_the_control_and_beside_the_checkpoint() -> None:
    groups, factors = groups_of("02"), ["protocol", "architecture"]

    def gains(treatment: str, control: str) -> pd.DataFrame:
        return effects_by(groups, factors, treatment, control).set_index(factors)

    cells = [(rate, state) for rate in RATES for state in ("reset", "keep")]
    pairs = {cell: gains(arm_name("mutual", *cell), arm_name("solo", *cell)) for cell in cells}
    assert all((found["verdict"] == "gain").all() for found in pairs.values()), "everywhere, after the correction"
    at_full, at_tenth = (pairs[rate, "reset"]["difference"] for rate in RATES)
    assert at_full.between(0.0005, 0.002).all()
    assert at_full.drop(("equal_epochs", "FiBiNET")).max() < 0.0015
    assert (at_tenth < 0.55 * at_full).all()
    scratch = gains("mutual from scratch", "solo from scratch")
    assert [*scratch.index[scratch["verdict"] != "gain"]] == [("own_end", "FiBiNET")]
    assert scratch["difference"].drop(("own_end", "FiBiNET")).min() > 0.0005

    three, (mutual, solo) = ["DeepFM", "DCN", "PNN"], HEADLINE
    slower = gains(arm_name("solo", "lr/10", "reset"), "checkpoint")["difference"]["equal_epochs"]
    assert (slower[three] > 3 * at_full["equal_epochs"][three]).all()
    alone, together = (gains(arm, "checkpoint").loc["own_end"] for arm in (solo, mutual))
    assert (alone["difference"] < 0).all()
    back = -at_full["own_end"] / alone["difference"]
    assert (back[three] > 0.95).all()
    assert 0.4 < back["FiBiNET"] < 0.6
    assert not (together["verdict"] == "gain").any()
    mean = groups.groupby(["protocol", "architecture", "arm"])[["auc", "ensemble_auc", "churn"]].mean()
    best = mean["auc"]["own_end"].unstack("architecture").idxmax()
    assert {*best[three]} == {"mutual from scratch"}
    of_all = mean.groupby(["protocol", "arm"])["ensemble_auc"].mean().unstack("arm")
    assert (of_all[mutual] > of_all[solo]).all()
    arm = mean["churn"].unstack("arm")
    assert (arm[mutual] < arm[solo]).all()
    singles = mean["auc"].groupby(factors).max()
    assert (mean["ensemble_auc"].xs("checkpoint", level="arm") > singles).all()

    at_start = gains(solo, "checkpoint").loc["equal_epochs"]
    assert not (at_start["verdict"] == "gain").any()
    assert [*at_start.index[at_start["verdict"] == "loss"]] == ["FiBiNET"]
    slow, slow_alone = (gains(arm_name(kind, "lr/10", "reset"), "checkpoint") for kind in ("mutual", "solo"))
    assert (slow["difference"]["own_end"] > 0).all()
    assert (at_tenth["own_end"] > slow_alone["difference"]["own_end"]).all()


@pytest.mark.parametrize("protocol", BOTH)
def test_page_03_one_peer_is_enough(protocol: str) -> None:
    sizes = arms_of("03")[0].sizes
    for treatment, control in (("mutual", "solo"), ("mutual from scratch", "solo from scratch")):
        gains = {n: effect("03", treatment, control, protocol=protocol, instances=n) for n in sizes}
        assert min(gains.values()) > 0
        assert max(gains.values()) < 1.3 * min(gains.values())
    ensembles = groups_of("03").query("protocol == @protocol").groupby(["arm", "instances"])["ensemble_auc"].mean()
    for n in sizes:
        assert ensembles["mutual", n] > ensembles["solo", n]
        assert n < 5 or ensembles["mutual from scratch", n] < ensembles["solo from scratch", n]
    assert ensembles["solo"].is_monotonic_increasing


@pytest.mark.parametrize("protocol", BOTH)
def test_page_04_variety_helps_and_a_linear_model_harms(protocol: str) -> None:
    p, _, arms = arms_of("04")
    table = member_effects(member_table(arms), ["protocol", "cohort"]).query("protocol == @protocol")
    strong = [*p.architectures, "DCNv2", "FinalMLP"]
    pairs = table[table["cohort"].str.count(r"\+") == 1]
    by = pairs.groupby(["architecture", "companions"])["effect"].mean().unstack()
    assert (by.loc[strong, strong] > 0).all(axis=None)
    assert (by.loc[[*strong, "FM"], "LR"] < -0.001).all()
    assert (by.loc["LR", [*strong, "FM"]] < 0).all()
    assert by.loc[strong, "FM"].mean() < by.loc[strong, strong].to_numpy().mean() / 2
    unlike = [by.loc[a, b] > by.loc[a, a] for a in strong for b in strong if a != b]
    assert np.mean(unlike) > 0.6
    deep = pairs[pairs["architecture"].isin(strong) & pairs["companions"].isin(strong)]
    assert deep[deep["gap"] < 0]["effect"].mean() > 0, "the stronger side gains, too"
    four = table[table["cohort"].str.count(r"\+") == len(p.architectures) - 1]
    twins = [by.loc[name, name] for name in p.architectures]
    assert four.groupby("architecture")["effect"].mean().mean() > np.mean(twins)


@pytest.mark.parametrize("protocol", BOTH)
def test_page_05_a_small_gain_in_every_group(protocol: str) -> None:
    table = groups_of("05")
    at = table[table["protocol"] == protocol].pivot(index="group", columns="arm", values="auc")
    gains = at["mutual"] - at["solo"]
    assert (gains > 0).all()
    assert 0.0005 < gains.mean() < 0.0013
    assert gains.std() < 0.0002


@pytest.mark.parametrize("protocol", BOTH)
def test_page_06_both_lose_and_the_effect_grows(protocol: str) -> None:
    p, _, _ = arms_of("06")
    table = groups_of("06")
    for l2 in p.l2_levels:
        at = table[(table["protocol"] == protocol) & (table["embedding_l2"] == l2)]
        mean = at.groupby(["arm", "epochs"])["auc"].mean()
        last, first = max(p.epoch_counts), min(p.epoch_counts)
        lost = {arm: mean[arm, first] - mean[arm, last] for arm in ("solo", "mutual")}
        assert lost["mutual"] > 0
        assert 1.5 < lost["solo"] / lost["mutual"] < 3
        effects = [
            effect("06", "mutual", "solo", protocol=protocol, embedding_l2=l2, epochs=n) for n in (first, 3, last)
        ]
        assert effects == sorted(effects), "grows with the epochs"


@pytest.mark.parametrize("protocol", BOTH)
def test_page_07_the_weight_and_the_targets(protocol: str) -> None:
    at = {"protocol": protocol, "target": "live"}
    mse = {w: mean_of("07", "mutual", "solo", weight=w, form="mse", **at) for w in (0.1, 1, 5, 20, 100)}
    assert 0 < mse[0.1] < mse[1] < mse[5] < mse[20] > mse[100]
    kl = {w: mean_of("07", "mutual", "solo", weight=w, form="kl", **at) for w in (1, 5, 20, 100)}
    assert kl[1] > mse[1], "smaller weights do as much"
    assert kl[5] > kl[20] > kl[100]
    logits = {w: mean_of("07", "mutual", "solo", weight=w, form="mse_logit", **at) for w in (1, 5, 20)}
    assert logits[1] > 0 > logits[5] > logits[20]
    assert effect("07", "mutual from scratch", "solo from scratch", weight=1, form="mse", **at) > 0
    shuffled = [
        mean_of("07", "mutual", "solo", protocol=protocol, weight=w, form="mse", target="shuffled")
        for w in (1, 5, 20, 100)
    ]
    assert 0 > shuffled[0] > shuffled[1] > shuffled[2] > shuffled[3]
    for weight, live in mse.items():
        frozen = mean_of("07", "mutual", "solo", protocol=protocol, weight=weight, form="mse", target="frozen")
        assert frozen > live
    assert effect("07", "mutual", "solo", protocol=protocol, weight=100, form="mse", target="frozen") > 0


@pytest.mark.parametrize("protocol", BOTH)
def test_page_08_when_it_begins(protocol: str) -> None:
    one, strong, ensemble = {}, {}, {}
    for share in (0.0, 0.5, 0.75):
        at = {"protocol": protocol, "share": share}
        one[share] = effect("08", "mutual", "solo", weight=1, **at)
        strong[share] = effect("08", "mutual", "solo", weight=20, **at)
        ensemble[share] = mean_of("08", "mutual", "solo", "ensemble_auc", weight=20, **at)
    assert one[0.0] > 0
    assert abs(one[0.0] - one[0.5]) < 0.0002
    assert 0 < strong[0.0] < min(strong[0.5], strong[0.75])
    assert ensemble[0.0] < ensemble[0.5] < ensemble[0.75], "early strong coupling costs the ensemble most"


@pytest.mark.parametrize("protocol", BOTH)
def test_page_09_more_alike_and_twins_are_twins(protocol: str) -> None:
    _, store, arms = arms_of("09")
    table = similarity(store, arms)
    mean = table[table["protocol"] == protocol].groupby(["differ in", "arm", "epochs"]).mean(numeric_only=True)
    for differ in ("weights and order", "order"):
        alone, together = mean.loc[differ, "solo", 3], mean.loc[differ, "mutual", 3]
        assert together["residual_correlation"] > alone["residual_correlation"]
        assert together["cka_last_hidden"] > alone["cka_last_hidden"]
    assert mean_of("09", "mutual", "solo", protocol=protocol, epochs=3, **{"differ in": "nothing"}) == 0
    gains = {
        differ: effect("09", "mutual", "solo", protocol=protocol, epochs=3, **{"differ in": differ})
        for differ in ("weights and order", "order")
    }
    assert 0.75 * gains["weights and order"] < gains["order"] < gains["weights and order"]


@pytest.mark.parametrize("protocol", BOTH)
def test_page_10_a_shared_table_takes_from_the_gain(protocol: str) -> None:
    at = {"protocol": protocol}
    gains = {
        embeddings: mean_of("10", "mutual", "solo", embeddings=embeddings, **at) for embeddings in ("own", "shared")
    }
    assert gains["own"] > 2 * gains["shared"]
    assert mean_of("10", "solo", "solo", protocol=protocol, embeddings="shared", against={"embeddings": "own"}) > 0
    ektf = mean_of("10", "EKTF", "mutual", embeddings="own", **at)
    assert ektf > 0 if protocol == "equal_epochs" else ektf < 0


@pytest.mark.parametrize("protocol", BOTH)
def test_page_11_pairs_are_enough_and_rings_collapse(protocol: str) -> None:
    gains = {
        name: effect("11", "mutual", "solo", protocol=protocol, topology=name) for name in ("complete", "star", "pairs")
    }
    assert min(gains.values()) > 0.75 * gains["complete"] > 0
    assert effect("11", "mutual", "solo", protocol=protocol, topology="ring") < -0.01


@pytest.mark.parametrize("protocol", BOTH)
def test_page_12_what_does_as_much(protocol: str) -> None:
    at = {"protocol": protocol}
    mutual = effect("12", "mutual", "solo", **at)
    assert mutual > 0
    for rival in ("frozen ensemble", "offline distillation"):
        assert mean_of("12", rival, "mutual", **at) > 0
    averaged = effect("12", "averaged weights", "solo", **at)
    assert averaged > mutual if protocol == "equal_epochs" else averaged < mutual / 2
    assert mean_of("12", "self-distillation", "solo", **at) < mutual / 4
    assert mean_of("12", "wider", "solo", **at) < 0
    mean = groups_of("12").query("protocol == @protocol").groupby("arm")[["auc", "ensemble_auc"]].mean()
    assert mean["ensemble_auc"]["checkpoint"] > mean["auc"].max(), "several models served beat each single one"
    alone = mean["ensemble_auc"]["solo"]
    assert alone <= mean["auc"]["mutual"] if protocol == "equal_epochs" else alone > mean["auc"]["mutual"]


def test_page_13_a_part_of_the_gap_and_what_it_costs_on_the_way() -> None:
    groups, factors = groups_of("13"), ["protocol", "rows", "width", "logit_sd"]
    few, many = arms_of("13")[0].row_levels
    tuned = share_of_gap(groups, factors, "mutual", "solo").set_index(factors)
    end, equal = tuned.loc["own_end"], tuned.loc["equal_epochs"]
    assert (end["low"] > 0).all()
    assert 0.05 < end["share"].min() < 0.25 < end["share"].max() < 0.3
    by_width = end["share"].unstack("width")
    assert (by_width[64] > by_width[16]).all()
    effects = effects_by(groups, factors, "mutual", "solo").set_index(factors)["difference"].loc["own_end"]
    assert (effects.loc[many].reset_index(drop=True) < effects.loc[few].reset_index(drop=True)).all()
    assert end["share"].loc[many].mean() > end["share"].loc[few].mean()
    by_noise = end["share"].unstack("logit_sd")
    assert (by_noise[3.0] < by_noise[1.5]).all()
    costs, later = (equal["share"].loc[rows].unstack("logit_sd") for rows in (few, many))
    assert (costs < 0).all(axis=None)
    assert (costs[0.75] > costs[1.5]).all()
    assert (costs[1.5] > costs[3.0]).all()
    assert (equal["low"].loc[many].unstack("logit_sd")[0.75] > 0).all()
    assert (later[3.0] < 0).all()
    scratch = effects_by(groups, factors, "mutual from scratch", "solo from scratch")
    gains = scratch[(scratch["verdict"] == "gain") & (scratch["protocol"] == "own_end")]
    assert {*zip(gains["rows"], gains["logit_sd"], strict=True)} == {(many, 0.75)}
    both = pd.concat(
        [
            tuned["share"],
            share_of_gap(groups, factors, "mutual from scratch", "solo from scratch").set_index(factors)["share"],
        ],
        axis=1,
    )
    assert (both.iloc[:, 1] < both.iloc[:, 0]).sum() > 0.8 * len(both)


def page_14():
    """Group table with one size and the starting share, the same without the mixed group, and the page's parameters."""
    groups, p = groups_of("14"), arms_of("14")[0]
    usual = groups[groups["instances"] == p.instances]
    return usual, usual[~usual["cohort"].str.contains("+", regex=False)], p


def by_weight(rows: pd.DataFrame, factors: list[str], treatment: str, control: str, value: str = "auc") -> pd.DataFrame:
    """Effects of a family, found by protocol, weight of the peers and ``factors``."""
    by = ["protocol", "weight", *factors]
    return effects_by(rows, by, treatment, control, value).set_index(by).sort_index()


def test_page_14_peers_help_where_going_on_alone_does_not() -> None:
    usual, kinds, p = page_14()
    weak, strong = p.mutual_weights
    alone = effects_by(kinds, ["protocol", "cohort"], "solo", "checkpoint").set_index(["protocol", "cohort"])
    tuned = by_weight(usual, ["cohort"], "mutual", "solo")
    begun = by_weight(kinds, ["cohort"], "mutual", "checkpoint")

    assert (alone.loc["own_end", "difference"] < 0).all()
    assert {*alone.loc["own_end", "verdict"]} == {"no difference shown"}
    assert len(tuned.loc["own_end", weak]) == 5
    assert {*tuned.loc["own_end", "verdict"]} == {"gain"}
    assert tuned.loc[("own_end", weak), "difference"].between(0.0002, 0.0004).all()
    assert tuned.loc[("own_end", strong), "difference"].between(0.001, 0.0022).all()
    assert {*by_weight(usual, ["cohort"], "mutual", "solo", "ensemble_auc").loc["own_end", "verdict"]} == {"gain"}
    gained = begun.loc["own_end"].query("verdict == 'gain'")["difference"]
    assert gained.index.tolist() == [(strong, "DeepFM"), (strong, "PNN")]
    assert gained.between(0.0007, 0.0013).all()

    assert {*alone.loc["equal_epochs", "verdict"]} == {"gain"}
    assert alone.loc["equal_epochs", "difference"].between(0.01, 0.03).all()
    little = tuned.loc[("equal_epochs", weak), "difference"]
    assert little.abs().max() < 0.00015
    assert abs(little["FiBiNET"]) < 0.00002
    assert {*tuned.loc[("equal_epochs", strong), "verdict"]} == {"loss"}
    assert tuned.loc[("equal_epochs", strong), "difference"].between(-0.0045, -0.001).all()
    assert (begun.loc["equal_epochs", "difference"] > 0.01).all()

    single = kinds[kinds["protocol"] == "own_end"]
    means = single.groupby(["cohort", "arm", "weight", "share"], dropna=False)["auc"].mean()
    untouched = single[single["arm"] == "checkpoint"].groupby("cohort")["ensemble_auc"].mean()
    above = means[means > untouched.reindex(means.index.get_level_values("cohort")).to_numpy()]
    assert above.index.droplevel("share").tolist() == [("PNN", "mutual from scratch", strong)]


def test_page_14_a_tenth_of_the_rate_and_how_many() -> None:
    _, kinds, p = page_14()
    strong = p.mutual_weights[-1]
    deepfm = kinds[kinds["cohort"] == p.architecture]
    at_full, at_tenth = (
        {
            to: by_weight(deepfm, [], f"mutual{rate}", to)["difference"]["own_end", strong]
            for to in (f"solo{rate}", "checkpoint")
        }
        for rate in ("", " lr/10")
    )
    assert at_tenth["solo lr/10"] / at_full["solo"] == pytest.approx(0.5, abs=0.1)
    assert at_tenth["checkpoint"] == pytest.approx(at_full["checkpoint"], abs=0.0002)
    alone = effects_by(deepfm, ["protocol"], "solo lr/10", "checkpoint").set_index("protocol")["difference"]
    assert -0.0003 < alone["own_end"] < 0

    groups = groups_of("14")
    of_sizes = by_weight(groups[groups["cohort"] == p.architecture], ["instances"], "mutual", "solo")
    sizes = of_sizes["difference"].unstack("instances")
    assert (sizes.loc["own_end"][2] / sizes.loc["own_end"][4]).between(0.8, 1).all()
    assert sizes.loc[("equal_epochs", strong), 2] < sizes.loc[("equal_epochs", strong), 4] < 0


def test_page_14_from_scratch() -> None:
    _, kinds, p = page_14()
    weak, strong = p.mutual_weights
    arms = ("mutual from scratch", "solo from scratch")
    first = kinds[kinds["share"].isna() | (kinds["share"] == p.starts[0])]
    scratch = by_weight(first, ["cohort"], *arms)
    shown = scratch[scratch["verdict"] == "gain"].index.tolist()
    assert shown == [
        ("equal_epochs", weak, "DCN"),
        ("equal_epochs", weak, "DeepFM"),
        ("equal_epochs", weak, "PNN"),
        ("own_end", weak, "DCN"),
        ("own_end", strong, "PNN"),
    ]
    assert scratch.loc[shown[:4], "difference"].between(0.00005, 0.00025).all()
    assert scratch.loc[shown[4], "difference"] == pytest.approx(0.002, abs=0.0005)
    assert "loss" not in {*scratch["verdict"]}
    worse = by_weight(first, ["cohort"], *arms, "logloss").loc[("equal_epochs", strong)]
    assert worse.index[worse["verdict"] == "gain"].tolist() == ["FiBiNET", "PNN"]

    later = by_weight(kinds[kinds["cohort"] == p.architecture], ["share"], *arms)
    weakly = later["difference"].xs(weak, level="weight").unstack("share")
    assert (weakly.max(axis=1) - weakly.min(axis=1)).max() < 0.00002
    assert {*later.loc[(slice(None), strong), "verdict"]} == {"no difference shown"}
    _, store, trained = arms_of("14")
    for protocol in p.protocols:
        here = {"protocol": protocol, "cohort": p.architecture, "weight": strong, "share": p.starts[0]}
        at = [arm for arm in trained if all(here[name] == level for name, level in arm.factors.items() if name in here)]
        treated, control = ([arm.records for arm in at if arm.name == name] for name in arms)
        assert len(treated) == len(control) == len(p.seeds)
        assert pooled_difference(store, treated, control).low > 0


def test_page_15_losses_and_one_exception() -> None:
    groups, p = groups_of("15"), arms_of("15")[0]
    alone = groups[(groups["instances"] == p.instances) & ~groups["cohort"].str.contains("+", regex=False)]
    factors = ["protocol", "cohort", "weight"]
    tuned = effects_by(alone, factors, "mutual", "solo").set_index(factors)["difference"].unstack("cohort")
    scratch = effects_by(
        alone[alone["share"].isna() | (alone["share"] == 0)], factors, "mutual from scratch", "solo from scratch"
    )
    scratch = scratch.set_index(factors)["difference"].unstack("cohort")
    three = ["DeepFM", "DCN", "PNN"]
    weak, strong = (tuned.xs(weight, level="weight")[three] for weight in p.mutual_weights)
    assert weak.loc["equal_epochs"].round(4).eq(-0.0003).all(axis=None)
    main = effects_by(groups[groups["instances"] == p.instances], ["protocol", "cohort", "weight"], "mutual", "solo")
    shown = main[main["cohort"].isin(three) & (main["weight"] == p.mutual_weights[0])].set_index("protocol")["verdict"]
    assert {*shown["equal_epochs"]} == {"loss"}
    assert {*shown["own_end"]} == {"no difference shown"}
    sizes = effects_by(
        groups[groups["cohort"] == p.architecture], ["protocol", "weight", "instances"], "mutual", "solo"
    ).set_index(["protocol", "weight", "instances"])["difference"]
    assert (sizes.xs(p.mutual_weights[0], level="weight").abs() < 0.0006).all()
    assert sizes.groupby(["protocol", "weight"]).agg(np.ptp).max() < 0.001
    usual = alone[alone["cohort"] == p.architecture]
    slow = effects_by(usual, ["protocol", "weight"], "mutual lr/10", "solo lr/10").set_index(["protocol", "weight"])
    assert slow.loc[("own_end", 1.0), ["verdict", "P(better)"]].tolist() == ["gain", 1.0]
    assert 0.00005 < slow.loc[("own_end", 1.0), "difference"] < 0.00015
    every = [
        effects_by(usual, ["protocol", "weight"], *arms)
        for arms in (("mutual", "solo"), ("mutual lr/10", "solo lr/10"), ("mutual from scratch", "solo from scratch"))
    ]
    assert (pd.concat(every)["verdict"] == "gain").sum() == 1
    assert (strong < -0.003).all(axis=None)
    ratio = scratch.xs(20.0, level="weight")[three] / strong
    assert ((ratio > 2.7) & (ratio < 5.5)).all(axis=None)
    late = effects_by(usual, ["protocol", "weight", "share"], "mutual from scratch", "solo from scratch")
    late = late[late["weight"] == 20].set_index(["protocol", "share"])["difference"].unstack("share")
    assert (late[0.25] > late[0]).all()

    at_end = alone[alone["protocol"] == "own_end"]
    going_on = effects_by(at_end, ["cohort"], "solo", "checkpoint").set_index("cohort")["difference"]
    assert [name for name in going_on.index if going_on[name] < 0] == ["FiBiNET"]
    losses = at_end.groupby(["cohort", "arm"])["logloss"].mean().unstack("arm")
    assert (losses["solo"] > losses["checkpoint"]).all()
    best = effects_by(at_end, ["cohort", "weight"], "mutual", "solo").set_index(["cohort", "weight"])
    assert best.index[(best["verdict"] == "gain") & (best["difference"] > 0.002)].tolist() == [("FiBiNET", 20)]
    loss = at_end[(at_end["cohort"] == "FiBiNET")].groupby(["arm", "weight"], dropna=False)["logloss"].mean()
    assert 0.65 < loss["mutual", 20] / loss["solo"].item() < 0.75
    early = effects_by(alone[alone["protocol"] == "equal_epochs"], ["cohort"], "solo", "checkpoint")
    assert early.set_index("cohort")["difference"]["FiBiNET"] < 0
    assert tuned.loc[("equal_epochs", 20), "FiBiNET"] < 0

    mean = alone.groupby(["protocol", "cohort", "arm", "weight"], dropna=False)[["auc", "ensemble_auc", "churn"]].mean()
    solo = mean.xs("solo", level="arm").droplevel("weight")
    pulled = mean.xs(("mutual", 20.0), level=["arm", "weight"])
    assert (solo["ensemble_auc"] - solo["auc"] > 0.0029).all()
    assert (pulled["churn"] / solo["churn"]).between(0.4, 0.65).all()
    assert (pulled["ensemble_auc"] < solo["ensemble_auc"]).all()


def by_what_is_heard(number: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of pages 14 and 15: effects of everything that a fine-tuned model hears, against continuing alone, by protocol,
    weight and arm; and the group table they come from."""
    groups, p = groups_of(number), arms_of(number)[0]
    usual = groups[(groups["cohort"] == p.architecture) & (groups["instances"] == p.instances)]
    arms = {arm: arm for arm in ("mutual", "frozen peers", "self-distillation", "shuffled peers")}
    by = ["protocol", "weight"]
    return effects_of_each(usual, by, arms, "solo").set_index([*by, "treatment"]).sort_index(), usual


def test_page_14_what_is_heard() -> None:
    heard, usual = by_what_is_heard("14")
    p = arms_of("14")[0]
    weak, strong = p.mutual_weights
    end = heard.loc["own_end", "difference"].unstack("treatment")
    assert 1.9 < end.loc[weak, "self-distillation"] / end.loc[weak, "mutual"] < 2.3
    assert 0.55 < end.loc[strong, "self-distillation"] / end.loc[strong, "mutual"] < 0.75
    assert {*heard.loc["own_end", "verdict"].drop("shuffled peers", level="treatment")} == {"gain"}
    others = by_weight(usual, [], "frozen peers", "self-distillation").loc["own_end"]
    assert {*others["verdict"]} == {"gain"}
    assert {*others["P(better)"]} == {1}
    assert others["difference"].round(4).tolist() == [0.0002, 0.0008]
    live = by_weight(usual, [], "frozen peers", "mutual").loc["own_end"]
    assert live.loc[weak, "verdict"] == "gain"
    assert -verdicts.NEGLIGIBLE < live.loc[strong, "low"] < 0 < live.loc[strong, "high"] < verdicts.NEGLIGIBLE
    above = {
        arm: by_weight(usual, [], arm, "checkpoint").loc[("own_end", strong), "verdict"]
        for arm in ("mutual", "frozen peers", "self-distillation")
    }
    assert above == {"mutual": "gain", "frozen peers": "gain", "self-distillation": "no difference shown"}
    shuffled = heard.xs("shuffled peers", level="treatment").loc["own_end"]
    assert {*shuffled["verdict"]} == {"loss"}
    assert -0.015 < shuffled.loc[strong, "difference"] < -0.01

    early = heard.loc["equal_epochs"]
    frozen = early.loc[(slice(None), ["frozen peers", "self-distillation"]), :]
    assert "gain" not in {*frozen["verdict"]}
    ratio = frozen.loc[strong, "difference"] / early.loc[(strong, "mutual"), "difference"]
    assert ratio.between(4.5, 6).all()


def test_page_15_what_is_heard() -> None:
    heard, usual = by_what_is_heard("15")
    weak, strong = arms_of("15")[0].mutual_weights
    costs = heard["difference"].unstack("treatment")
    at_strong = costs.xs(strong, level="weight")
    assert (at_strong < 0).all(axis=None)
    for arm in ("frozen peers", "self-distillation"):
        ratio = at_strong[arm] / at_strong["mutual"]
        assert ratio["equal_epochs"] == pytest.approx(1 / 3, abs=0.04)
        assert ratio["own_end"] == pytest.approx(1 / 4, abs=0.05)
    others = by_weight(usual, [], "frozen peers", "self-distillation")
    assert {*others["verdict"]} == {"no difference shown"}
    alike = costs.xs(weak, level="weight")[["mutual", "frozen peers", "self-distillation"]]
    assert np.ptp(alike.to_numpy(), axis=1).max() < 0.0003
    assert costs["shuffled peers"].lt(costs.drop(columns="shuffled peers").min(axis=1)).all()
    for arm in ("mutual", "frozen peers", "self-distillation"):
        assert {*by_weight(usual, [], "shuffled peers", arm)["verdict"]} == {"loss"}


def test_page_16_what_stands_and_what_fell() -> None:
    page, p, store = settings_of("16")
    arms = {name: train_arms(p, store, planned_arms(name, p)) for name in OF_OTHERS[page]}
    tuned = group_table(store, arms["finetune_mutually"])
    strength = group_table(store, arms["how_strong_and_in_which_form"])
    table = verdicts.verdict_table(
        [
            *verdicts.of_finetuning(tuned),
            *verdicts.of_instances(group_table(store, arms["how_many_instances"])),
            *verdicts.of_companions(member_table(arms["mix_architectures"])),
            *verdicts.of_epochs(group_table(store, arms["how_many_epochs"])),
        ]
    )
    said = table.set_index(["claim", "protocol"])["verdict"].unstack("protocol")
    assert {claim: tuple(row[BOTH]) for claim, row in said.iterrows()} == {
        "fine-tuning together lifts the AUC": ("supported", "supported"),
        "from scratch it does not help": ("contradicted", "contradicted"),
        "a fifth instance adds next to nothing": ("supported", "supported"),
        "a stronger companion gives a larger gain": ("supported", "not shown"),
        "of unlike models the stronger loses": ("contradicted", "contradicted"),
        "of unlike models the weaker gains": ("supported", "supported"),
        "more epochs of it degrade": ("contradicted", "contradicted"),
    }
    lift = table[table["claim"] == "fine-tuning together lifts the AUC"]
    assert (lift["high"] < 0.25).all(), "per cent; the paper's smallest lift"
    own = expectations.outcome_table(
        [*expectations.of_finetuning(tuned), *expectations.of_strength(strength, p.coupling_form)]
    )
    fell = own[own["verdict"] == "contradicted"]
    assert [one.partition(":")[0] for one in fell["expectation"]] == ["O2", "O5"]
    assert {*fell["protocol"]} == {"equal_epochs"}
    pooled = mean_over(tuned, "architecture")
    finished, unfinished = pooled.query("protocol == 'own_end'"), pooled.query("protocol == 'equal_epochs'")
    beside = {arm: compare(finished, arm, "checkpoint") for arm in finished["arm"].unique()}
    slow, slow_alone = (arm_name(kind, "lr/10", "reset") for kind in ("mutual", "solo"))
    assert [beside[arm].verdict for arm in HEADLINE] == ["loss", "loss"]
    assert beside[slow].verdict == "gain"
    assert beside[slow_alone].verdict == "no difference shown"
    assert beside[slow_alone].mean < 0
    assert compare(unfinished, slow, "checkpoint").mean > 5 * compare(unfinished, slow, slow_alone).mean


def test_page_19_less_is_lost_together() -> None:
    table = groups_of("19").pivot(index="group", columns="arm", values="auc")
    assert (table["solo"] < table["checkpoint"]).all()
    assert (table["mutual"] > table["solo"]).all()
    assert (table["mutual"] - table["solo"]).mean() > 0.005
    assert (table["mutual"] > table["checkpoint"]).sum() == 2
    assert len(table) == 5
