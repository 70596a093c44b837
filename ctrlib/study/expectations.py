"""What this study expected before its published runs (``book/preregistration.md``, O1 to O7): a number per group that
is above zero if the expectation is right, and a verdict by the rule of :mod:`ctrlib.study.verdicts`.

Three of them expect *no* effect; theirs is a difference that has to lie within the margin, or on the harmless side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from ctrlib.stats.paired import PairedDifference
from ctrlib.study.finetuning import HEADLINE
from ctrlib.study.tables import differences, mean_over
from ctrlib.study.verdicts import NEGLIGIBLE, in_columns, judge, over_groups

WEAK, STRONG = 1.0, 20.0  # the paper's weight, and the one that a competition's runner-up used

EXPECTED = {
    "O1": "from scratch, peers help when every arm runs to its own end",
    "O2": "most of what fine-tuning gains is further training",
    "O3": "a weight of 20 is better than one of 1",
    "O4": "peers must know something about the row",
    "O5": "peers need not learn",
    "O6": "coupling spends diversity",
    "O7": "the plain ensemble beats every coupled single model",
}


@dataclass(frozen=True)
class Outcome:
    """One number that an expectation is about, over groups: what it is in words, interval, and the verdict."""

    expectation: str
    protocol: str
    measured: str
    found: PairedDifference
    verdict: str


def of_finetuning(groups: pd.DataFrame) -> Iterator[Outcome]:
    """O1, O2 and O6, from the group table of ``finetune_mutually``, averaged over the architectures."""
    mutual, solo = HEADLINE
    for protocol, at in mean_over(groups, "architecture").groupby("protocol", sort=False):
        if protocol == "own_end":
            scratch = differences(at, "mutual from scratch", "solo from scratch")
            yield _more("O1", protocol, "mutual minus solo from scratch, AUC", scratch)
        else:
            rest = differences(at, solo, "checkpoint") - differences(at, mutual, solo)
            yield _more("O2", protocol, "gain of continuing alone minus what peers add, AUC", rest)
        churn = -differences(at, mutual, solo, "churn")
        yield _more("O6", protocol, "churn after continuing alone minus after mutual fine-tuning", churn)
        ensemble = differences(at, mutual, solo, "ensemble_auc")
        yield _no_more("O6", protocol, "ensemble of coupled minus of continued members, AUC", ensemble)


def of_strength(groups: pd.DataFrame, form: str) -> Iterator[Outcome]:
    """O3, O4, O5 and O7, from the group table of ``how_strong_and_in_which_form``; what was not run is left out."""
    for protocol, part in groups.groupby("protocol", sort=False):
        by_arm = part.set_index(["arm", "group"])
        alone, averaged = by_arm.loc["solo", "auc"], by_arm.loc["checkpoint", "ensemble_auc"]
        kinds = part[part["form"] == form].set_index("group").groupby(["arm", "target", "weight"])["auc"]
        scores = dict(iter(kinds))
        for arm, what in (("mutual", "fine-tuned"), ("mutual from scratch", "from scratch")):
            weak, strong = (scores.get((arm, "live", weight)) for weight in (WEAK, STRONG))
            if weak is not None and strong is not None:
                yield _more("O3", protocol, f"weight {STRONG:g} minus weight {WEAK:g}, {what}, AUC", strong - weak)
            for weight, coupled in ((WEAK, weak), (STRONG, strong)):
                if coupled is not None:
                    what_of = f"ensemble of checkpoints minus coupled member, {what}, weight {weight:g}, AUC"
                    yield _more("O7", protocol, what_of, averaged - coupled)
        for weight in (WEAK, STRONG):
            live, frozen, shuffled = (
                scores.get(("mutual", target, weight)) for target in ("live", "frozen", "shuffled")
            )
            if shuffled is not None:
                yield _no_more("O4", protocol, f"shuffled peers minus alone, weight {weight:g}, AUC", shuffled - alone)
            if frozen is not None and live is not None:
                yield _the_same("O5", protocol, f"frozen minus live peers, weight {weight:g}, AUC", frozen - live)


def outcome_table(outcomes: list[Outcome]) -> pd.DataFrame:
    """One row per outcome, in the order of the expectations."""
    rows = [
        {
            "expectation": f"{one.expectation}: {EXPECTED[one.expectation]}",
            "protocol": one.protocol,
            "measured": one.measured,
            **in_columns(one.found),
            "verdict": one.verdict,
        }
        for one in sorted(outcomes, key=lambda one: one.expectation)
    ]
    return pd.DataFrame(rows)


WORDS = {"supported": "met", "contradicted": "contradicted", "not shown": "not shown"}


def _more(expectation: str, protocol: str, measured: str, values: pd.Series) -> Outcome:
    found = over_groups(values)
    return Outcome(expectation, protocol, measured, found, WORDS[judge(found)])


def _no_more(expectation: str, protocol: str, measured: str, values: pd.Series) -> Outcome:
    found = over_groups(values)
    return Outcome(expectation, protocol, measured, found, WORDS[judge(found, claims_nothing=True)])


def _the_same(expectation: str, protocol: str, measured: str, values: pd.Series) -> Outcome:
    """Met when the interval lies within the margin; contradicted when it does not and excludes zero."""
    found = over_groups(values)
    word = "met" if found.within(NEGLIGIBLE) else "contradicted" if found.low > 0 or found.high < 0 else "not shown"
    return Outcome(expectation, protocol, measured, found, word)
