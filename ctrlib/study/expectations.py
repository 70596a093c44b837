"""What this study expected before its published runs (``book/preregistration.md``, O1 to O7): a number per replicate,
and a verdict by the rule of :func:`ctrlib.study.verdicts.judge`."""

from collections.abc import Iterator

import pandas as pd

from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import differences, mean_over, over_replicates
from ctrlib.study.verdicts import Claim, Finding, finding_table, judge

WEAK, STRONG = 1.0, 20.0  # the paper's weight, and the one that a competition's runner-up used

EXPECTED = {
    "O1": "from scratch, peers help when every condition trains with early stopping",
    "O2": "most of what fine-tuning gains is further training",
    "O3": "a weight of 20 is better than one of 1",
    "O4": "peers must know something about the row",
    "O5": "peers need not learn",
    "O6": "coupling reduces diversity",
    "O7": "the plain ensemble beats every coupled single model",
}
WORDS = {"supported": "met", "contradicted": "contradicted", "inconclusive": "inconclusive"}


def of_finetuning(replicates: pd.DataFrame) -> Iterator[Finding]:
    """O1, O2 and O6, from the replicate table of ``finetune_mutually``, averaged over the architectures."""
    mutual, continued = HEADLINE
    for protocol, at in mean_over(replicates, "architecture").groupby("protocol", sort=False):
        if protocol == "early_stopping":
            scratch = differences(at, "mutual from scratch", "solo from scratch")
            yield _outcome("O1", protocol, "mutual minus solo from scratch, AUC", scratch, at)
        else:
            rest = differences(at, continued, "checkpoint") - differences(at, mutual, continued)
            yield _outcome("O2", protocol, "gain of continued training minus what peers add, AUC", rest, at)
        churn = differences(at, mutual, continued, "churn")
        yield _outcome(
            "O6", protocol, "churn after mutual fine-tuning minus after continued training", churn, at, "loss"
        )
        ensemble = differences(at, mutual, continued, "ensemble_auc")
        yield _outcome(
            "O6", protocol, "ensemble of coupled minus of continued members, AUC", ensemble, at, "next to nothing"
        )


def of_strength(replicates: pd.DataFrame, form: str) -> Iterator[Finding]:
    """O3, O4, O5 and O7, from the replicate table of ``how_strong_and_in_which_form``; what was not run is left out."""
    for protocol, part in replicates.groupby("protocol", sort=False):
        by_condition = part.set_index(["condition", "replicate"])
        continued, averaged = (
            by_condition.loc["continued training", "auc"],
            by_condition.loc["checkpoint", "ensemble_auc"],
        )
        kinds = part[part["form"] == form].set_index("replicate").groupby(["condition", "target", "weight"])["auc"]
        scores = dict(iter(kinds))
        for condition, what in (("mutual", "fine-tuned"), ("mutual from scratch", "from scratch")):
            weak, strong = (scores.get((condition, "live", weight)) for weight in (WEAK, STRONG))
            if weak is not None and strong is not None:
                measured = f"weight {STRONG:g} minus weight {WEAK:g}, {what}, AUC"
                yield _outcome("O3", protocol, measured, strong - weak, part)
            for weight, coupled in ((WEAK, weak), (STRONG, strong)):
                if coupled is not None:
                    measured = f"ensemble of checkpoints minus coupled member, {what}, weight {weight:g}, AUC"
                    yield _outcome("O7", protocol, measured, averaged - coupled, part)
        for weight in (WEAK, STRONG):
            live, frozen, shuffled = (
                scores.get(("mutual", target, weight)) for target in ("live", "frozen", "shuffled")
            )
            if shuffled is not None:
                measured = f"shuffled peers minus continued training, weight {weight:g}, AUC"
                yield _outcome("O4", protocol, measured, shuffled - continued, part, "next to nothing")
            if frozen is not None and live is not None:
                measured = f"frozen minus live peers, weight {weight:g}, AUC"
                yield _outcome("O5", protocol, measured, frozen - live, part, "the same")


def outcome_table(outcomes: list[Finding]) -> pd.DataFrame:
    """One row per outcome, in the order of the expectations."""
    table = finding_table(sorted(outcomes, key=lambda one: one.claim))
    return table.assign(claim=[f"{name}: {EXPECTED[name]}" for name in table["claim"]]).rename(
        columns={"claim": "expectation"}
    )


def _outcome(
    expectation: str, protocol: str, measured: str, values: pd.Series, table: pd.DataFrame, claim: Claim = "gain"
) -> Finding:
    found = over_replicates(values, table)
    return Finding(expectation, protocol, measured, found, WORDS[judge(found, claim)])
