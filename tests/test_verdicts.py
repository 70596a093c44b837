"""Verdicts follow from intervals by the stated rule, and each claim is turned into the number it is about."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.stats.paired import paired_difference
from ctrlib.study import expectations, verdicts
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import SCORES

SMALL = np.array([-1.0, 0.0, 1.0, 0.5, -0.5]) * 1e-5  # spread of five replicates


def found(mean: float, spread: np.ndarray = SMALL):
    return paired_difference(mean + spread, 0 * spread)


@pytest.mark.parametrize(
    ("mean", "wide", "gain", "nothing"),
    [
        (0.003, 1, "supported", "contradicted"),
        (-0.003, 1, "contradicted", "supported"),
        (0.0, 1, "inconclusive", "supported"),  # within one thousandth on both sides
        (0.0, 500, "inconclusive", "inconclusive"),
        (0.0004, 1, "supported", "supported"),  # a gain, and yet next to nothing
        (0.003, 500, "inconclusive", "inconclusive"),
    ],
)
def test_the_rule(mean, wide, gain, nothing) -> None:
    difference = found(mean, wide * SMALL)
    assert verdicts.judge(difference) == gain
    assert verdicts.judge(difference, claims_nothing=True) == nothing


def test_one_group_shows_nothing() -> None:
    one = paired_difference([0.8], [0.7])
    assert verdicts.judge(one) == verdicts.judge(one, claims_nothing=True) == "inconclusive"


def table(values: dict[tuple, float], names: list[str]) -> pd.DataFrame:
    """A replicate table with five replicates: (condition, *factors) -> mean AUC."""
    rows = [
        {
            **dict(zip(names, key[1:], strict=True)),
            "condition": key[0],
            "replicate": g,
            **dict.fromkeys(SCORES, 0.5),
            "auc": mean,
        }
        for key, mean in values.items()
        for g in range(5)
    ]
    noise = np.random.default_rng(1).normal(0, 1e-5, len(rows))
    return pd.DataFrame(rows).assign(auc=lambda t: t["auc"] + noise, protocol="early_stopping")


def test_claims_about_finetuning_and_scratch() -> None:
    means = {
        (HEADLINE[0], "DCN"): 0.804, (HEADLINE[1], "DCN"): 0.80, (HEADLINE[0], "PNN"): 0.80, (HEADLINE[1], "PNN"): 0.80,
        ("mutual from scratch", "DCN"): 0.79, ("solo from scratch", "DCN"): 0.80,
        ("mutual from scratch", "PNN"): 0.79, ("solo from scratch", "PNN"): 0.80,
    }  # fmt: skip
    first, second = verdicts.of_finetuning(table(means, ["architecture"]))
    assert first.found.mean == pytest.approx(100 * 0.002 / 0.80, rel=1e-2), "relative, mean over architectures"
    assert second.found.mean == pytest.approx(-0.01, rel=1e-2)
    assert (first.verdict, second.verdict) == ("supported", "supported")


def test_claim_about_the_fifth_instance() -> None:
    means = {
        ("mutual", 4): 0.81,
        ("continued training", 4): 0.80,
        ("mutual", 5): 0.8101,
        ("continued training", 5): 0.80,
    }
    (one,) = verdicts.of_instances(table(means, ["instances"]))
    assert one.found.mean == pytest.approx(0.0001, abs=3e-5)
    assert one.verdict == "supported"
    assert verdicts.of_instances(table({("mutual", 4): 0.8, ("continued training", 4): 0.8}, ["instances"])) == []


def test_claim_about_epochs_is_about_what_peers_add_to_the_decay() -> None:
    means = {
        ("mutual", 1): 0.81,
        ("continued training", 1): 0.80,
        ("mutual", 3): 0.78,
        ("continued training", 3): 0.775,
        ("checkpoint", 0): 0.8,
    }
    replicates = table(means, ["epochs"]).assign(embedding_l2=0.0)
    (one,) = verdicts.of_epochs(replicates)
    assert one.found.mean == pytest.approx(0.005, rel=1e-2)
    assert one.verdict == "supported"


def test_claims_about_companions() -> None:
    rows = []
    rng = np.random.default_rng(2)
    for cohort, (a, b) in {"A + B": (0.80, 0.70), "A + C": (0.80, 0.75), "B + C": (0.70, 0.75)}.items():
        for g in range(5):
            for n, (name, start, other) in enumerate(zip(cohort.split(" + "), (a, b), (b, a), strict=True)):
                effect = 0.1 * (other - start) + rng.normal(0, 1e-5)  # pulled to the peer
                for condition, auc in (
                    ("checkpoint", start),
                    ("continued training", start),
                    ("mutual", start + effect),
                ):
                    about = {
                        "protocol": "early_stopping",
                        "cohort": cohort,
                        "replicate": g,
                        "member": n,
                        "architecture": name,
                    }
                    rows.append(
                        {
                            **about,
                            "condition": condition,
                            "auc": auc + (0 if condition != "checkpoint" else rng.normal(0, 1e-6)),
                        }
                    )
    rank, loss, gain = verdicts.of_companions(pd.DataFrame(rows))
    assert rank.found.mean > 0.9
    assert loss.found.mean == pytest.approx(np.mean([0.01, 0.005, 0.005]), rel=1e-2)
    assert gain.found.mean == pytest.approx(np.mean([0.01, 0.005, 0.005]), rel=1e-2)
    assert {one.verdict for one in (rank, loss, gain)} == {"supported"}


def test_the_table_names_every_claim_with_what_the_paper_says() -> None:
    findings = [verdicts._finding(n, "early_stopping", "x", found(0.01)) for n in range(len(verdicts.PAPER))]
    shown = verdicts.verdict_table(findings)
    assert list(shown["claim"]) == list(verdicts.PAPER)
    assert list(shown["paper"]) == list(verdicts.PAPER.values())


# ---- what the study itself expected ----------------------------------------------------------------------------------


def by_name(outcomes) -> dict[tuple[str, str], expectations.Outcome]:
    return {(one.expectation, one.measured): one for one in outcomes}


def test_expectations_about_finetuning() -> None:
    means = {
        ("checkpoint", "DCN"): 0.79, (HEADLINE[0], "DCN"): 0.804, (HEADLINE[1], "DCN"): 0.80,
        ("mutual from scratch", "DCN"): 0.81, ("solo from scratch", "DCN"): 0.80,
    }  # fmt: skip
    replicates = table(means, ["architecture"])
    replicates.loc[replicates["condition"] == HEADLINE[0], ["churn", "ensemble_auc"]] = 0.1, 0.6
    found = by_name(expectations.of_finetuning(replicates))
    assert [key[0] for key in found] == ["O1", "O6", "O6"]
    scratch, churn, ensemble = found.values()
    assert scratch.found.mean == pytest.approx(0.01, rel=1e-2)
    assert scratch.verdict == "met"
    assert churn.found.mean == pytest.approx(0.4)
    assert ensemble.found.mean == pytest.approx(0.1)
    assert ensemble.verdict == "contradicted", "coupled members made the better ensemble"
    (rest, *_) = expectations.of_finetuning(replicates.assign(protocol="fixed_epochs"))
    assert rest.expectation == "O2"
    assert rest.found.mean == pytest.approx(0.01 - 0.004, rel=1e-2)


def test_expectations_about_strength_and_targets() -> None:
    means = {("continued training", None, None, np.nan): 0.80, ("checkpoint", None, None, np.nan): 0.79}
    for weight, live, frozen, shuffled, scratch in ((1.0, 0.801, 0.8012, 0.79, 0.80), (20.0, 0.805, 0.80, 0.805, 0.79)):
        means |= {("mutual", "mse", "live", weight): live, ("mutual", "mse", "frozen", weight): frozen}
        means |= {("mutual", "mse", "shuffled", weight): shuffled, ("mutual", "kl", "live", weight): 0.5}
        means |= {("mutual from scratch", "mse", "live", weight): scratch}
    replicates = table(means, ["form", "target", "weight"]).assign(ensemble_auc=0.803)
    found = by_name(expectations.of_strength(replicates, "mse"))
    verdict = {key: one.verdict for key, one in found.items()}
    assert verdict == {
        ("O3", "weight 20 minus weight 1, fine-tuned, AUC"): "met",
        ("O3", "weight 20 minus weight 1, from scratch, AUC"): "contradicted",
        ("O4", "shuffled peers minus alone, weight 1, AUC"): "met",
        ("O4", "shuffled peers minus alone, weight 20, AUC"): "contradicted",
        ("O5", "frozen minus live peers, weight 1, AUC"): "met",
        ("O5", "frozen minus live peers, weight 20, AUC"): "contradicted",
        ("O7", "ensemble of checkpoints minus coupled member, fine-tuned, weight 1, AUC"): "met",
        ("O7", "ensemble of checkpoints minus coupled member, fine-tuned, weight 20, AUC"): "contradicted",
        ("O7", "ensemble of checkpoints minus coupled member, from scratch, weight 1, AUC"): "met",
        ("O7", "ensemble of checkpoints minus coupled member, from scratch, weight 20, AUC"): "met",
    }
    assert found["O3", "weight 20 minus weight 1, fine-tuned, AUC"].found.mean == pytest.approx(0.004, rel=1e-2)
    shown = expectations.outcome_table(list(found.values()))
    assert shown["expectation"].str[:2].tolist() == sorted(shown["expectation"].str[:2]), "in their order"
    assert shown["verdict"].tolist().count("contradicted") == 4
