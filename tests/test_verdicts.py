"""Verdicts follow from intervals by the stated rule, and each claim is turned into the number it is about."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.stats.paired import paired_difference
from ctrlib.study import expectations, verdicts
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import SCORES

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
    """Mutual fine-tuning and continued training at each level of a factor."""
    means = {(name, level): auc for level, pair in values.items() for name, auc in zip(BOTH, pair, strict=True)}
    return table(means, [factor])


def test_claims_about_finetuning_and_scratch() -> None:
    aucs = {MUTUAL: (0.804, 0.80), CONTINUED: (0.80, 0.80), "mutual from scratch": (0.79,) * 2}
    aucs["solo from scratch"] = (0.80,) * 2
    means = {(name, kind): auc for name, pair in aucs.items() for kind, auc in zip(("DCN", "PNN"), pair, strict=True)}
    first, second = verdicts.of_finetuning(table(means, ["architecture"]))
    assert first.found.mean == pytest.approx(100 * 0.002 / 0.80, rel=1e-2), "relative, mean over architectures"
    assert second.found.mean == pytest.approx(-0.01, rel=1e-2)
    assert (first.verdict, second.verdict) == ("supported", "supported")
    shown = verdicts.verdict_table([first, second])
    assert list(zip(shown["claim"], shown["paper"], strict=True)) == list(verdicts.PAPER.items())[:2]


def test_claims_about_the_fifth_instance_and_about_what_peers_add_to_the_decay() -> None:
    fifth = verdicts.of_instances(of_two("instances", {4: (0.81, 0.80), 5: (0.8101, 0.80)}))
    decay = of_two("epochs", {1: (0.81, 0.80), 3: (0.78, 0.775)}).assign(embedding_l2=0.0)
    for [one], expected in ((fifth, 0.0001), (verdicts.of_epochs(decay), -0.005)):
        assert one.found.mean == pytest.approx(expected, rel=1e-2, abs=3e-5)
        assert one.verdict == "supported"
    assert verdicts.of_instances(of_two("instances", {4: (0.8, 0.8)})) == []


def test_claims_about_companions() -> None:
    rows, rng = [], np.random.default_rng(2)
    for cohort, aucs in {"A + B": (0.80, 0.70), "A + C": (0.80, 0.75), "B + C": (0.70, 0.75)}.items():
        for g in range(5):
            for n, (name, start, other) in enumerate(zip(cohort.split(" + "), aucs, aucs[::-1], strict=True)):
                about = {"protocol": "early_stopping", "cohort": cohort, "replicate": g, "member": n}
                effect = 0.1 * (other - start) + rng.normal(0, 1e-5)  # pulled to the peer
                found = {"checkpoint": start + rng.normal(0, 1e-6), BOTH[1]: start, "mutual": start + effect}
                rows += [{**about, "architecture": name, "condition": one, "auc": auc} for one, auc in found.items()]
    rank, loss, gain = verdicts.of_companions(pd.DataFrame(rows))
    assert rank.found.mean > 0.9
    for one, sign in ((loss, -1), (gain, 1)):
        assert sign * one.found.mean == pytest.approx(np.mean([0.01, 0.005, 0.005]), rel=1e-2)
    assert {one.verdict for one in (rank, loss, gain)} == {"supported"}


def test_expectations_about_finetuning() -> None:
    means = {("checkpoint", "DCN"): 0.79, (MUTUAL, "DCN"): 0.804, (CONTINUED, "DCN"): 0.80}
    means |= {("mutual from scratch", "DCN"): 0.81, ("solo from scratch", "DCN"): 0.80}
    replicates = table(means, ["architecture"])
    replicates.loc[replicates["condition"] == MUTUAL, ["churn", "ensemble_auc"]] = 0.1, 0.6
    found = list(expectations.of_finetuning(replicates))
    assert [(one.claim, one.verdict) for one in found] == [("O1", "met"), ("O6", "met"), ("O6", "contradicted")]
    assert [one.found.mean for one in found] == pytest.approx([0.01, -0.4, 0.1], rel=1e-2)
    rest = next(expectations.of_finetuning(replicates.assign(protocol="fixed_epochs")))
    assert (rest.claim, rest.found.mean) == ("O2", pytest.approx(0.01 - 0.004, rel=1e-2))


def test_expectations_about_strength_and_targets() -> None:
    means = {("continued training", None, None, np.nan): 0.80, ("checkpoint", None, None, np.nan): 0.79}
    for weight, live, frozen, shuffled, scratch in ((1.0, 0.801, 0.8012, 0.79, 0.80), (20.0, 0.805, 0.80, 0.805, 0.79)):
        means |= {("mutual", "mse", "live", weight): live, ("mutual", "mse", "frozen", weight): frozen}
        means |= {("mutual", "mse", "shuffled", weight): shuffled, ("mutual", "kl", "live", weight): 0.5}
        means |= {("mutual from scratch", "mse", "live", weight): scratch}
    replicates = table(means, ["form", "target", "weight"]).assign(ensemble_auc=0.803)
    shown = expectations.outcome_table(list(expectations.of_strength(replicates, "mse")))
    assert shown["expectation"].str[:2].tolist() == sorted(shown["expectation"].str[:2]), "in their order"
    ensemble = "ensemble of checkpoints minus coupled member"
    assert dict(zip(shown["measured"].str.removesuffix(", AUC"), shown["verdict"], strict=True)) == {
        "weight 20 minus weight 1, fine-tuned": "met",
        "weight 20 minus weight 1, from scratch": "contradicted",
        "shuffled peers minus continued training, weight 1": "met",
        "shuffled peers minus continued training, weight 20": "contradicted",
        "frozen minus live peers, weight 1": "met",
        "frozen minus live peers, weight 20": "contradicted",
        f"{ensemble}, fine-tuned, weight 1": "met",
        f"{ensemble}, fine-tuned, weight 20": "contradicted",
        f"{ensemble}, from scratch, weight 1": "met",
        f"{ensemble}, from scratch, weight 20": "met",
    }
    assert shown["mean"].iloc[0] == pytest.approx(0.004, rel=1e-2)
