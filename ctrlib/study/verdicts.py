"""The paper's claims one by one: what it reports, what the runs show with an interval, and a verdict by rule.

Every claim is about one number per replicate, and :func:`judge` looks at the 95 % interval of its mean alone. Each
claim is judged by itself, as the preregistration says; the intervals of the claims do not hold together.
"""

from dataclasses import dataclass
from typing import Literal

import pandas as pd
from scipy.stats import spearmanr

from ctrlib.stats.paired import PairedDifference
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import differences, mean_over, member_effects, over_replicates

# AUC below which this field's benchmark calls two results the same (BARS, issue 17). It is the one margin of the study:
# an interval within it on both sides is two one-sided tests at 2.5 % (TOST).
NEGLIGIBLE = 1e-3
Claim = Literal["gain", "loss", "no gain", "next to nothing", "the same"]

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


def judge(found: PairedDifference, claim: Claim = "gain") -> str:
    """``supported``, ``contradicted`` or, otherwise, ``inconclusive``, by the interval.

    ==================  ========================================  ====================================
    claim               supported                                 contradicted
    ==================  ========================================  ====================================
    gain                above zero                                below zero
    loss                below zero                                above zero
    no gain             below zero, or within the margin          above zero, however little
    next to nothing     below zero, or within the margin          above zero and not within the margin
    the same            within the margin                         excludes zero and not within it
    ==================  ========================================  ====================================
    """
    above, below, within = found.low > 0, found.high < 0, found.within(NEGLIGIBLE)
    supported, contradicted = {
        "gain": (above, below),
        "loss": (below, above),
        "no gain": (not above and (below or within), above),
        "next to nothing": (below or within, above and not within),
        "the same": (within, (above or below) and not within),
    }[claim]
    return "supported" if supported else "contradicted" if contradicted else "inconclusive"


def of_finetuning(replicates: pd.DataFrame) -> list[Finding]:
    """Claims 1 and 2, from the replicate table of ``finetune_mutually``, averaged over the architectures."""
    findings = []
    for protocol, at in mean_over(replicates, "architecture").groupby("protocol", sort=False):
        control = at[at["condition"] == HEADLINE[1]]["auc"].mean()
        relative = 100 * differences(at, *HEADLINE) / control
        findings.append(_finding(0, protocol, "mutual minus continued training, % of the latter's AUC", relative, at))
        scratch = differences(at, "mutual from scratch", "solo from scratch")
        findings.append(_finding(1, protocol, "mutual minus solo from scratch, AUC", scratch, at, "no gain"))
    return findings


def of_instances(replicates: pd.DataFrame) -> list[Finding]:
    """Claim 3, from the replicate table of ``how_many_instances``; none where four or five instances were not run."""
    findings = []
    for protocol, at in replicates.groupby("protocol", sort=False):
        effect = _effects(at, "instances")
        if {4, 5} <= set(effect):
            step = effect[5] - effect[4]
            findings.append(_finding(2, protocol, "effect of five minus of four, AUC", step, at, "next to nothing"))
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
            _finding(3, protocol, "rank correlation of lead and effect", rank, at),
            _finding(4, protocol, "effect on the stronger, AUC", stronger, at, "loss"),
            _finding(5, protocol, "effect on the weaker, AUC", weaker, at),
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
        what = f"effect after {last} minus after {first} epochs, AUC"
        findings.append(_finding(6, protocol, what, effect[last] - effect[first], at, "loss"))
    return findings


def _effects(replicates: pd.DataFrame, factor: str) -> dict[float, pd.Series]:
    return {level: differences(part, "mutual", "continued training") for level, part in replicates.groupby(factor)}


def _finding(
    number: int, protocol: str, measured: str, values: pd.Series, table: pd.DataFrame, claim: Claim = "gain"
) -> Finding:
    found = over_replicates(values, table)
    return Finding(list(PAPER)[number], protocol, measured, found, judge(found, claim))


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
