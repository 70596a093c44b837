"""Verdicts follow from intervals by the stated rule, and each claim is turned into the number it is about."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.stats.paired import paired_difference
from ctrlib.study import expectations, verdicts
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import BEST, SCORES

SMALL = np.array([-1.0, 0.0, 1.0, 0.5, -0.5]) * 1e-5  # spread of five replicates
MUTUAL, CONTINUED = HEADLINE
BOTH = ("mutual", "continued training")


@pytest.mark.parametrize(
    ("treatment", "words"),
    [
        (0.003 + SMALL, "supported contradicted contradicted contradicted contradicted"),
        (-0.003 + SMALL, "contradicted supported supported supported contradicted"),
        (SMALL, "inconclusive inconclusive supported supported supported"),  # within one thousandth on both sides
        (500 * SMALL, "inconclusive inconclusive inconclusive inconclusive inconclusive"),
        (0.0004 + SMALL, "supported contradicted contradicted supported supported"),  # a gain, and next to nothing
        (SMALL[:1], "inconclusive inconclusive inconclusive inconclusive inconclusive"),  # one replicate
    ],
)
def test_the_rule(treatment, words) -> None:
    difference = paired_difference(treatment, 0 * treatment)
    claims = ("gain", "loss", "no gain", "next to nothing", "the same")
    assert [verdicts.judge(difference, claim) for claim in claims] == words.split()


def table(means: dict[tuple, float], factors: list[str]) -> pd.DataFrame:
    """A replicate table with five replicates: (condition, *factors) -> mean AUC."""
    rows = [
        {
            **dict(zip(["condition", *factors], key, strict=True)),
            **dict.fromkeys(SCORES, 0.5),
            "overlap": 0.0,
            "replicate": g,
            "auc": m,
        }
        for key, m in means.items()
        for g in range(5)
    ]
    noise = np.random.default_rng(1).normal(0, 1e-5, len(rows))
    return pd.DataFrame(rows).assign(auc=lambda t: t["auc"] + noise, protocol="early_stopping")


def of_two(factor: str, values: dict[float, tuple[float, float]]) -> pd.DataFrame:
    """Mutual fine-tuning and continued training at each level of a factor, and a checkpoint worse than both."""
    means = {(name, level): auc for level, pair in values.items() for name, auc in zip(BOTH, pair, strict=True)}
    means |= {("checkpoint", level): 0.5 for level in values}
    return table(means, [factor])


def judged(findings) -> dict[tuple[str, str], verdicts.Finding]:
    """By claim and control."""
    return {(one.statement.text, one.against): one for one in findings}


def test_claims_about_finetuning_and_scratch_have_two_controls() -> None:
    """The best control is continued training, which the paper does not compare with."""
    aucs = {MUTUAL: (0.804, 0.80), CONTINUED: (0.806, 0.80), "checkpoint": (0.80, 0.79)}
    aucs |= {"mutual from scratch": (0.801,) * 2, "solo from scratch": (0.79,) * 2}
    means = {(name, kind): auc for name, pair in aucs.items() for kind, auc in zip(("DCN", "PNN"), pair, strict=True)}
    replicates = table(means, ["architecture"]).assign(valid_auc=lambda t: t["auc"])
    found = judged(verdicts.of_finetuning(replicates, "a log"))
    lift, scratch = list(verdicts.PAPER)[:2]
    expected = {(lift, "checkpoint"): 100 * 0.007 / 0.795, (lift, BEST): 100 * -0.001 / 0.803}
    expected |= {(scratch, "checkpoint"): 0.006, (scratch, BEST): -0.002}
    assert {name: one.interval().mean for name, one in found.items()} == pytest.approx(expected, rel=2e-2)
    words = ["supported", "contradicted", "contradicted", "supported"]
    assert {name: one.verdict() for name, one in found.items()} == dict(zip(expected, words, strict=True))
    shown = verdicts.claims_table(found.values(), verdicts.PAPER.values(), "a log").set_index("claim")
    assert shown.loc[scratch].tolist()[:2] == ["contradicted", "supported"]
    assert shown.loc[scratch].iloc[2].startswith("Early stopping: peers cost, -2.0")
    assert shown.loc[verdicts.EPOCHS.text].tolist() == ["–", "–", "No record; how_many_epochs would show it."]
    elsewhere = verdicts.claims_table(found.values(), verdicts.PAPER.values(), "frappe").set_index("claim")
    assert elsewhere.loc[lift].tolist() == ["–", "–", "No record; main_frappe would show it."]


def test_the_main_comparison_is_read_at_the_papers_setting_and_as_chosen() -> None:
    """Rates and weights are factors there; an architecture that was not coupled at the paper's rate does not count."""
    means = {("checkpoint", "DCN", None, np.nan): 0.80, ("continued training", "DCN", "lr", np.nan): 0.79}
    means |= {("continued training", "DCN", "lr/10", np.nan): 0.802, ("solo from scratch", "DCN", None, np.nan): 0.801}
    means |= {("mutual", "DCN", "lr", 1.0): 0.795, ("mutual", "DCN", "lr", 20.0): 0.797}
    means |= {("mutual", "DCN", "lr/10", 1.0): 0.803, ("mutual", "DCN", "lr/10", 20.0): 0.806}
    means |= {("mutual from scratch", "DCN", None, weight): 0.804 + weight / 1e5 for weight in (1.0, 20.0)}
    means |= {("checkpoint", "PNN", None, np.nan): 0.9, ("mutual", "PNN", "lr/10", 1.0): 0.91}
    replicates = table(means, ["architecture", "rate", "weight"]).assign(valid_auc=lambda t: t["auc"])
    found = judged([*verdicts.of_finetuning(replicates), *expectations.of_finetuning(replicates)])
    assert found[verdicts.LIFT.text, BEST].interval().mean == pytest.approx(100 * -0.007 / 0.851, rel=1e-2)
    asked = found[expectations.QUESTION.text, BEST]
    assert asked.measured == "the best of 6 with peers minus the best of 4 without, by validation, AUC"
    assert asked.interval().mean == pytest.approx((0.004 + 0.01) / 2, rel=1e-2)
    weights = {one.measured: one.interval().mean for one in expectations.of_weights(replicates)}
    assert weights["weight 20 minus 1, fine-tuned, AUC"] == pytest.approx(0.002, rel=1e-2)
    assert weights["weight 20 minus 1, from scratch, AUC"] == pytest.approx(0.00019, rel=0.1)


def test_claims_about_the_fifth_instance_and_about_more_epochs() -> None:
    """Where training on costs, more epochs of it degrade, also where the peers' part of the fall is a gain."""
    fifth = of_two("instances", {4: (0.81, 0.80), 5: (0.8101, 0.80)}).assign(valid_auc=lambda t: t["auc"])
    decay = of_two("epochs", {1: (0.81, 0.80), 3: (0.78, 0.76)}).assign(embedding_l2=0.0, valid_auc=lambda t: t["auc"])
    start = decay["condition"] == "checkpoint"
    decay = decay[~start | (decay["epochs"] == 1)].assign(
        epochs=lambda t: t["epochs"].where(t["condition"] != "checkpoint", 0)
    )
    kept = decay.assign(valid_auc=decay["valid_auc"].where(decay["condition"] != "checkpoint", 0.9))
    for replicates, of, expected in (
        (fifth, verdicts.of_instances, {"checkpoint": 0.0001, BEST: 0.0001}),
        (decay, verdicts.of_epochs, {"checkpoint": -0.03, BEST: 0.01}),
        (kept, verdicts.of_epochs, {"checkpoint": -0.03, BEST: -0.03}),
    ):
        found = {one.against: one.interval().mean for one in of(replicates)}
        assert found == pytest.approx(expected, rel=1e-2, abs=3e-5)
    assert [one.verdict() for one in verdicts.of_epochs(decay)] == ["supported", "contradicted"]
    assert [one.words().partition(",")[0] for one in verdicts.of_epochs(decay)][1] == "it rises with the epochs"
    assert list(verdicts.of_instances(fifth[fifth["instances"] == 4])) == []


def test_claims_about_companions() -> None:
    """Also without the pairs of a model that has no MLP, whose lead has the opposite effect here."""
    rows, rng = [], np.random.default_rng(2)
    pairs = {"A + B": (0.80, 0.70), "A + C": (0.80, 0.75), "B + C": (0.70, 0.75), "A + LR": (0.80, 0.5)}
    for cohort, aucs in pairs.items():
        for g in range(5):
            for n, (name, start, other) in enumerate(zip(cohort.split(" + "), aucs, aucs[::-1], strict=True)):
                about = {"protocol": "early_stopping", "cohort": cohort, "replicate": g, "member": n}
                effect = (-0.1 if "LR" in cohort else 0.1) * (other - start) + rng.normal(0, 1e-5)  # drawn to the peer
                found = {"checkpoint": start + rng.normal(0, 1e-6), BOTH[1]: start - 0.02, "mutual": start + effect}
                for one, auc in found.items():
                    rows.append({**about, "architecture": name, "condition": one, "auc": auc, "valid_auc": auc})
    found = judged(verdicts.of_companions(pd.DataFrame(rows)))
    rank, stronger, weaker = verdicts.DEEP.values()
    assert found[rank.text, BEST].interval().mean > 0.9
    assert found[verdicts.COMPANION.text, BEST].interval().mean < 0.5
    for one, sign in ((stronger, -1), (weaker, 1)):
        both = [found[one.text, against] for against in verdicts.AGAINST]
        assert [sign * each.interval().mean for each in both] == pytest.approx(
            [np.mean([0.01, 0.005, 0.005])] * 2, rel=1e-2
        )
        assert {each.verdict() for each in both} == {"supported"}
    assert found[verdicts.STRONGER.text, BEST].verdict() == "contradicted"
    assert found[verdicts.STRONGER.text, BEST].words().startswith("the stronger gains, +")


def test_verdicts_together_are_of_wider_intervals_and_do_not_count_what_is_identical() -> None:
    replicates = of_two("instances", {4: (0.81, 0.80), 5: (0.81, 0.80)})
    findings = list(verdicts.of_instances(replicates.assign(valid_auc=lambda t: t["auc"])))
    alone = verdicts.finding_table(findings)
    assert alone["level together"].tolist() == [0.975] * 2
    nothing = verdicts.Finding(verdicts.FIFTH, "a log", "early_stopping", BEST, "", "AUC", (0.0,) * 5, 0.0)
    assert verdicts.finding_table([*findings, nothing])["level together"].tolist() == [0.975] * 3
    wide = verdicts.Finding(verdicts.LIFT, "a log", "x", BEST, "", "%", (1.0, 2.0, 3.0, 9.0), 0.0)
    assert [wide.verdict(level) for level in (0.8, 0.95)] == ["supported", "inconclusive"]


def test_expectations_about_finetuning() -> None:
    means = {("checkpoint", "DCN"): 0.79, (MUTUAL, "DCN"): 0.804, (CONTINUED, "DCN"): 0.80}
    means |= {("mutual from scratch", "DCN"): 0.81, ("solo from scratch", "DCN"): 0.80}
    replicates = table(means, ["architecture"])
    replicates.loc[replicates["condition"] == MUTUAL, ["churn", "ensemble_auc"]] = 0.1, 0.6
    replicates.loc[replicates["condition"] == CONTINUED, "valid_auc"] = 0.9
    found = [one for one in expectations.of_finetuning(replicates) if one.against == BEST][1:]
    assert [(one.statement.text[:2], one.verdict()) for one in found] == [
        ("O1", "supported"), ("O6", "supported"), ("O6", "contradicted")]  # fmt: skip
    assert [one.interval().mean for one in found] == pytest.approx([0.01, -0.4, 0.1], rel=1e-2)
    fixed = expectations.of_finetuning(replicates.assign(protocol="fixed_epochs"))
    (rest,) = [one for one in fixed if not one.against]
    assert (rest.statement.text[:2], rest.interval().mean) == ("O2", pytest.approx(0.01 - 0.004, rel=1e-2))


def test_expectations_about_strength_and_targets() -> None:
    means = {("continued training", None, np.nan): 0.80, ("checkpoint", None, np.nan): 0.79}
    for weight, live, frozen, shuffled, scratch in ((1.0, 0.801, 0.8012, 0.79, 0.80), (20.0, 0.805, 0.80, 0.805, 0.79)):
        means |= {("mutual", "live", weight): live, ("mutual", "frozen", weight): frozen}
        means |= {("mutual", "shuffled", weight): shuffled, ("mutual from scratch", "live", weight): scratch}
    replicates = table(means, ["target", "weight"]).assign(ensemble_auc=0.803, valid_auc=lambda t: t["auc"])
    live = replicates[replicates["target"].isna() | (replicates["target"] == "live")]
    found = [*expectations.of_weights(live), *expectations.of_targets(replicates)]
    ensemble, shuffled = "ensemble of best control minus coupled", "shuffled peers minus best control"
    assert {one.measured.removesuffix(", AUC"): one.verdict() for one in found if one.against != "checkpoint"} == {
        "weight 20 minus 1, fine-tuned": "supported",
        "weight 20 minus 1, from scratch": "contradicted",
        f"{shuffled}, weight 1": "supported",
        f"{shuffled}, weight 20": "contradicted",
        "frozen minus live peers, weight 1": "supported",
        "frozen minus live peers, weight 20": "contradicted",
        f"{ensemble}, fine-tuned, weight 1": "supported",
        f"{ensemble}, fine-tuned, weight 20": "contradicted",
        f"{ensemble}, from scratch, weight 1": "supported",
        f"{ensemble}, from scratch, weight 20": "supported",
    }
    shown = verdicts.claims_table(found, expectations.EXPECTED.values(), "synthetic").set_index("claim")
    weights = shown.loc[expectations.EXPECTED["O3"].text]
    assert weights.tolist()[:2] == ["1 supported, 1 contradicted"] * 2, "the same against either control"
    assert weights.iloc[2].startswith("Early stopping: 1 is better, -9.99 (-10.00 to -9.98) [")
