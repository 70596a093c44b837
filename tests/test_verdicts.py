"""Verdicts follow from intervals by the stated rule, and each claim is turned into the number it is about."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest

from ctrlib.stats.paired import paired_difference
from ctrlib.study import verdicts
from ctrlib.study.tables import BEST, SCORES

SMALL = np.array([-1.0, 0.0, 1.0, 0.5, -0.5]) * 1e-5  # spread of five replicates
BOTH = MUTUAL, CONTINUED = ("mutual", "continued training")


@pytest.mark.parametrize(
    ("treatment", "words"),
    [
        (0.003 + SMALL, "+ - - - - - + +"),
        (-0.003 + SMALL, "- + + + - + - +"),
        (SMALL, "? ? + + + + + -"),  # within one thousandth on both sides
        (500 * SMALL, "? ? ? ? ? ? ? ?"),
        (0.0004 + SMALL, "+ - - + + + + -"),  # a gain, and next to nothing
        (SMALL[:1], "? ? ? ? ? ? ? ?"),  # one replicate
    ],
)
def test_the_rule(treatment, words) -> None:
    """Supported, contradicted, inconclusive, by each rule."""
    signs = {"supported": "+", "contradicted": "-", "inconclusive": "?"}
    difference = paired_difference(treatment, 0 * treatment)
    assert [signs[verdicts.judge(difference, claim)] for claim in get_args(verdicts.Claim)] == words.split()


def table(means: dict[tuple, float], factors: list[str]) -> pd.DataFrame:
    """A replicate table with five replicates: (condition, *factors) -> mean AUC."""
    rows = [(*key, g, mean) for key, mean in means.items() for g in range(5)]
    made = pd.DataFrame(rows, columns=["condition", *factors, "replicate", "auc"])
    noise = np.random.default_rng(1).normal(0, 1e-5, len(rows))
    scores = dict.fromkeys(SCORES, 0.5) | {"overlap": 0.0, "auc": made["auc"] + noise}
    return made.assign(**scores, protocol="early_stopping")


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
    found = judged(verdicts.of_finetuning(replicates, "frappe"))
    lift, scratch = list(verdicts.PAPER)[:2]
    expected = {(lift, "checkpoint"): 100 * 0.007 / 0.795, (lift, BEST): 100 * -0.001 / 0.803}
    expected |= {(scratch, "checkpoint"): 0.006, (scratch, BEST): -0.002}
    assert {name: one.interval().mean for name, one in found.items()} == pytest.approx(expected, rel=2e-2)
    words = ["supported", "contradicted", "contradicted", "supported"]
    assert {name: one.verdict() for name, one in found.items()} == dict(zip(expected, words, strict=True))
    statements = verdicts.PAPER.values()
    by_control = verdicts.verdicts_by_control([*found.values()], statements).set_index("claim")
    said = [f"early stopping: {word}" for word in ("supported", "contradicted")]
    assert by_control.loc[[lift, scratch]].to_numpy().tolist() == [said, said[::-1]]
    shown = verdicts.verdicts_by_data([found[lift, BEST], found[scratch, BEST]], statements, "early_stopping")
    assert dict(shown.to_numpy()) == {lift: "contradicted", scratch: "supported"}
    assert shown.columns[1] == "Frappe"
    said = verdicts.found_table([*found.values()], statements).set_index("claim")
    assert said.loc[scratch].iloc[1].startswith("Early stopping: peers cost, -2.0")
    assert said.loc[verdicts.EPOCHS.text].tolist() == ["–", "No record yet; the page “how many epochs” would show it."]


def test_the_main_comparison_is_read_at_the_papers_setting() -> None:
    """Rates and weights are factors there; an architecture that was not coupled at the paper's rate does not count."""
    means = {("checkpoint", "DCN", None, np.nan): 0.80, ("continued training", "DCN", "lr", np.nan): 0.79}
    means |= {("continued training", "DCN", "lr/10", np.nan): 0.802, ("solo from scratch", "DCN", None, np.nan): 0.801}
    means |= {("mutual", "DCN", "lr", 1.0): 0.795, ("mutual", "DCN", "lr", 20.0): 0.797}
    means |= {("mutual", "DCN", "lr/10", 1.0): 0.803, ("mutual", "DCN", "lr/10", 20.0): 0.806}
    means |= {("mutual from scratch", "DCN", None, weight): 0.804 + weight / 1e5 for weight in (1.0, 20.0)}
    means |= {("checkpoint", "PNN", None, np.nan): 0.9, ("mutual", "PNN", "lr/10", 1.0): 0.91}
    replicates = table(means, ["architecture", "rate", "weight"]).assign(valid_auc=lambda t: t["auc"])
    found = judged(verdicts.of_finetuning(replicates))
    assert found[verdicts.LIFT.text, BEST].interval().mean == pytest.approx(100 * -0.007 / 0.851, rel=1e-2)


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


def test_claims_are_judged_at_the_papers_weight_and_at_one_rate() -> None:
    """Whatever else was compared; the best control is chosen among all rates, and L2 is that of the recipe."""
    means = {("checkpoint", size, None, np.nan): 0.7 for size in (4, 5)}
    means |= {("continued training", size, rate, np.nan): 0.8 for size in (4, 5) for rate in ("lr", "lr/10")}
    means |= {("mutual", 4, "lr/10", 1.0): 0.81, ("mutual", 4, "lr/10", 20.0): 0.9}
    means |= {("mutual", 5, "lr/10", 1.0): 0.813, ("mutual", 5, "lr/10", 20.0): 0.8}
    fifth = table(means, ["instances", "rate", "weight"]).assign(valid_auc=lambda t: t["auc"])
    means = {("checkpoint", 0, None): 0.7, ("continued training", 1, "lr"): 0.72, ("continued training", 2, "lr"): 0.6}
    means |= {("continued training", epochs, "lr/10"): 0.71 for epochs in (1, 2)}
    means |= {("mutual", 1, "lr"): 0.8, ("mutual", 2, "lr"): 0.9, ("mutual", 1, "lr/10"): 0.74}
    means |= {("mutual", 2, "lr/10"): 0.735}
    own = table(means, ["epochs", "rate"]).assign(valid_auc=lambda t: t["auc"], embedding_l2=1e-3)
    other = own.assign(auc=0.5, embedding_l2=0.0)
    for of, replicates, expected in (
        (verdicts.of_instances, fifth, {"checkpoint": 0.003, BEST: 0.003}),
        (verdicts.of_epochs, pd.concat([own, other]), {"checkpoint": -0.005, BEST: 0.005}),
    ):
        found = {one.against: one.interval().mean for one in of(replicates)}
        assert found == pytest.approx(expected, abs=5e-5)
    assert list(verdicts.of_instances(fifth[fifth["weight"] != 1])) == []


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
                    rate = None if one == "checkpoint" else "lr/10"
                    about |= {"architecture": name, "condition": one, "rate": rate}
                    rows.append({**about, "auc": auc, "valid_auc": auc})
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
