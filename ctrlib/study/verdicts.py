"""The paper's claims one by one: what it reports, what the runs show with an interval, and a verdict by rule.

The rule looks at the interval only. Every claim is turned into one number per replicate that should be above zero if
the claim is right: *supported* when the whole interval is above zero, *contradicted* when it is below, *inconclusive*
when it contains zero. A claim that there is *no* gain is contradicted by an interval above zero that reaches beyond
:data:`NEGLIGIBLE`, and supported by one below zero, or by one that lies within :data:`NEGLIGIBLE` on both sides.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ctrlib.stats.paired import PairedDifference, paired_difference
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import LEVEL, differences, mean_over, member_effects

NEGLIGIBLE = 1e-3  # AUC; two honest runs of one setting differ by as much (BARS, issue 17)

# What the paper reports (arXiv 2406.12087): relative gains of 0.25 to 0.66 %, four instances best, five "almost no
# impact", the best of unlike models worse and the weaker ones better, further epochs degrade.
PAPER = {
    "fine-tuning together lifts the AUC": "+0.25 to +0.66 % relative",
    "from scratch it does not help": "no gain, slightly worse",
    "a fifth instance adds next to nothing": "almost no impact on average",
    "a stronger companion gives a larger gain": "larger gains",
    "of unlike models the stronger loses": "the best model gets worse",
    "of unlike models the weaker gains": "weaker ones gain",
    "more epochs of it degrade": "degrade",
}


@dataclass(frozen=True)
class Finding:
    """What the runs say to one claim: a number per replicate in words, over replicates, and the verdict."""

    claim: str
    protocol: str
    measured: str
    found: PairedDifference
    verdict: str


def judge(found: PairedDifference, claims_nothing: bool = False) -> str:
    """``supported``, ``contradicted`` or ``inconclusive``; see the head of this file."""
    if not np.isfinite(found.low):
        return "inconclusive"
    if claims_nothing:
        if found.low > 0 and found.high > NEGLIGIBLE:
            return "contradicted"
        return "supported" if found.high < 0 or found.within(NEGLIGIBLE) else "inconclusive"
    return {"gain": "supported", "loss": "contradicted"}.get(found.verdict, "inconclusive")


def over_replicates(values: pd.Series) -> PairedDifference:
    """One number per replicate against zero."""
    values = values.to_numpy(dtype=np.float64)
    return paired_difference(values, np.zeros_like(values), LEVEL)


def of_finetuning(replicates: pd.DataFrame) -> list[Finding]:
    """Claims 1 and 2, from the replicate table of ``finetune_mutually``, averaged over the architectures."""
    findings = []
    for protocol, at in mean_over(replicates, "architecture").groupby("protocol", sort=False):
        control = at[at["condition"] == HEADLINE[1]]["auc"].mean()
        relative = 100 * differences(at, *HEADLINE) / control
        findings.append(_finding(0, protocol, "mutual minus continued training, % of the latter's AUC", relative))
        scratch = differences(at, "mutual from scratch", "solo from scratch")
        findings.append(_finding(1, protocol, "mutual minus solo from scratch, AUC", scratch, claims_nothing=True))
    return findings


def of_instances(replicates: pd.DataFrame) -> list[Finding]:
    """Claim 3, from the replicate table of ``how_many_instances``; none where four or five instances were not run."""
    findings = []
    for protocol, at in replicates.groupby("protocol", sort=False):
        effect = _effects(at, "instances")
        if {4, 5} <= set(effect):
            step = effect[5] - effect[4]
            findings.append(_finding(2, protocol, "effect of five minus of four, AUC", step, claims_nothing=True))
    return findings


def of_companions(members: pd.DataFrame) -> list[Finding]:
    """Claim 4, from the member table of ``mix_architectures``, over the pairs of unlike architectures."""
    effects = member_effects(members, ["protocol", "cohort"])
    one_peer = ~effects["companions"].str.contains(" + ", regex=False)
    unlike = effects[one_peer & (effects["architecture"] != effects["companions"])]
    findings = []
    for protocol, at in unlike.groupby("protocol", sort=False):
        rank = at.groupby("replicate")[["gap", "effect"]].apply(lambda t: spearmanr(t["gap"], t["effect"]).statistic)
        ahead = at["gap"] < 0
        stronger, weaker = (at[side].groupby("replicate")["effect"].mean() for side in (ahead, ~ahead))
        findings += [
            _finding(3, protocol, "rank correlation of lead and effect", rank),
            _finding(4, protocol, "loss of the stronger, AUC", -stronger),
            _finding(5, protocol, "gain of the weaker, AUC", weaker),
        ]
    return findings


def of_epochs(replicates: pd.DataFrame) -> list[Finding]:
    """Claim 5, from the replicate table of ``how_many_epochs``: the fall of mutual fine-tuning beyond that of continued
    training."""
    plain = replicates[replicates["embedding_l2"] == replicates["embedding_l2"].min()]
    findings = []
    for protocol, at in plain[plain["epochs"] > 0].groupby("protocol", sort=False):
        effect = _effects(at, "epochs")
        first, last = min(effect), max(effect)
        what = f"effect after {first} minus after {last} epochs, AUC"
        findings.append(_finding(6, protocol, what, effect[first] - effect[last]))
    return findings


def _effects(replicates: pd.DataFrame, factor: str) -> dict[float, pd.Series]:
    return {level: differences(part, "mutual", "continued training") for level, part in replicates.groupby(factor)}


def _finding(number: int, protocol: str, measured: str, values: pd.Series, claims_nothing: bool = False) -> Finding:
    found = over_replicates(values)
    return Finding(list(PAPER)[number], protocol, measured, found, judge(found, claims_nothing))


def finding_table(findings: list[Finding]) -> pd.DataFrame:
    """One row per finding: claim, protocol, what was measured, mean, interval, replicates, verdict."""
    rows = [
        {
            **{name: getattr(one, name) for name in ("claim", "protocol", "measured")},
            **{name: getattr(one.found, name) for name in ("mean", "low", "high", "replicates")},
            "verdict": one.verdict,
        }
        for one in findings
    ]
    return pd.DataFrame(rows)


def verdict_table(findings: list[Finding]) -> pd.DataFrame:
    """One row per claim and protocol: the claim, what the paper reports, what was measured, interval, verdict."""
    table = finding_table(findings)
    table.insert(1, "paper", table["claim"].map(PAPER))
    return table
