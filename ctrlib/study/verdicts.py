"""The paper's claims one by one, on each data set: what it reports, what the runs show, and a verdict by rule.

Every claim is about one number per replicate, and :func:`judge` looks at the 95 % interval of its mean alone. It is
judged twice: against the checkpoint, as the paper compares, and against the best control, which is of the checkpoint
and whatever trained on without peers the one with the best validation AUC. Each claim is judged by itself, as the
preregistration says; :func:`finding_table` adds which verdicts stand when the intervals of a claim hold together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ctrlib.stats.paired import PairedDifference, paired_difference
from ctrlib.study.finetuning import CONTROLS, rate_of
from ctrlib.study.tables import (
    BEST,
    LEVEL,
    at_each_level,
    choose_by_validation,
    differences,
    level_words,
    member_effects,
    overlap_in,
    signed,
    spoken,
    together,
    with_best,
)

# AUC below which this field's benchmark calls two results the same (BARS, issue 17). It is the one margin of the study:
# an interval of 95 % within it on both sides is two one-sided tests at 2.5 % (TOST).
NEGLIGIBLE = 1e-3
Claim = Literal["gain", "loss", "no gain", "next to nothing", "the same", "not above", "not below", "beyond"]
AGAINST = ("checkpoint", BEST)
MAIN = {"criteo_100k": "main_criteo", "frappe": "main_frappe", "ml1m": "main_ml1m", "synthetic": "main_synthetic"}
"""By data set, the experiment with its main comparison."""
FOUND = f"found against the best control, thousandths of AUC ({level_words(LEVEL)} interval, each by itself)"
WEAK, STRONG = 1.0, 20.0  # the paper's weight, and the one that a competition's runner-up used
SHALLOW = {"LR", "FM"}  # no MLP, and so far behind the others that pairs with them decide claims 4 to 6


@dataclass(frozen=True)
class Statement:
    """What is claimed: in words, the rule of :func:`judge`, what an interval above and below zero means in words, the
    experiment that shows it (``main``: those of :data:`MAIN`), and what the paper reports."""

    text: str
    rule: Claim
    above: str
    below: str
    page: str
    paper: str = ""


# What the paper reports (arXiv 2406.12087): relative gains of 0.25 to 0.66 %, four instances best, five "almost no
# impact", the best of unlike models worse and the weaker ones better, further epochs degrade.
PAPER = {
    one.text: one
    for one in (
        Statement(
            "fine-tuning together, as the paper does, lifts the AUC",
            "gain", "peers lift it", "peers lower it", "main", "+0.25 to +0.66 % relative",
        ),
        Statement(
            "from scratch, at the same weight, it does not help",
            "no gain", "peers help", "peers cost", "main", "no gain, slightly worse",
        ),
        Statement(
            "a fifth instance adds next to nothing",
            "next to nothing", "the fifth adds", "the fifth costs", "how_many_instances", "almost no impact on average",
        ),
        Statement(
            "a stronger companion gives a larger gain",
            "gain", "the further ahead the peer, the more is gained", "the further ahead the peer, the less is gained",
            "partner_matrix", "larger gains",
        ),
        Statement(
            "of unlike models the stronger loses",
            "loss", "the stronger gains", "the stronger loses", "partner_matrix", "the best model gets worse",
        ),
        Statement(
            "of unlike models the weaker gains",
            "gain", "the weaker gains", "the weaker loses", "partner_matrix", "weaker ones gain",
        ),
        Statement(
            "more epochs of it degrade",
            "loss", "it rises with the epochs", "it falls with the epochs", "how_many_epochs", "degrade",
        ),
    )
}  # fmt: skip
LIFT, SCRATCH, FIFTH, COMPANION, STRONGER, WEAKER, EPOCHS = PAPER.values()
DEEP = {one: replace(one, text=f"{one.text}, without LR and FM") for one in (COMPANION, STRONGER, WEAKER)}
"""Claims 4 to 6 without the pairs that have a model of :data:`SHALLOW`."""


@dataclass(frozen=True)
class Finding:
    """What the runs say to one claim: one number per replicate, what it measures, in which unit (``AUC``, ``churn``,
    ``%``, ``rank``), on which data set, under which protocol, against which control (none where all give the same)."""

    statement: Statement
    data: str
    protocol: str
    against: str
    measured: str
    unit: str
    values: tuple[float, ...]
    overlap: float

    def interval(self, level: float = LEVEL) -> PairedDifference:
        """The mean over replicates with its interval."""
        return paired_difference(self.values, np.zeros(len(self.values)), level, self.overlap)

    def verdict(self, level: float = LEVEL) -> str:
        """By :func:`judge`, from the interval at that level."""
        return judge(self.interval(level), self.statement.rule)

    def words(self) -> str:
        """What was found, in words that need no verdict, with mean and interval."""
        found, rule = self.interval(), self.statement
        what = rule.above if found.low > 0 else rule.below if found.high < 0 else "no difference is shown"
        within = ", within the margin" if self.unit == "AUC" and found.within(NEGLIGIBLE) else ""
        if not np.isfinite(found.low):
            return f"{what}, {self._written(found.mean)} in one replicate"
        return (
            f"{what}, {self._written(found.mean)} ({self._written(found.low)} to {self._written(found.high)}){within}"
        )

    def _written(self, value: float) -> str:
        return {"%": f"{value:+.3f} %", "rank": f"{value:+.2f}"}.get(self.unit, signed(value, milli=True))


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
    not above           below the margin                          above the margin
    not below           above the negative margin                 below it
    beyond              outside the margin, on either side        within the margin
    ==================  ========================================  ====================================
    """
    above, below, within = found.low > 0, found.high < 0, found.within(NEGLIGIBLE)
    supported, contradicted = {
        "gain": (above, below),
        "loss": (below, above),
        "no gain": (not above and (below or within), above),
        "next to nothing": (below or within, above and not within),
        "the same": (within, (above or below) and not within),
        "not above": (found.high < NEGLIGIBLE, found.low > NEGLIGIBLE),
        "not below": (found.low > -NEGLIGIBLE, found.high < -NEGLIGIBLE),
        "beyond": (found.low > NEGLIGIBLE or found.high < -NEGLIGIBLE, within),
    }[claim]
    return "supported" if supported else "contradicted" if contradicted else "inconclusive"


def finding(
    statement: Statement,
    about: dict[str, str],
    measured: str,
    values: pd.Series,
    table: pd.DataFrame,
    unit: str = "AUC",
) -> Iterator[Finding]:
    """A finding from the numbers of each replicate, averaged, made from ``table``; none from no numbers. ``about`` are
    its data, its protocol and the control where there is one."""
    if len(values):
        numbers = tuple(values.groupby("replicate").mean().astype(float))
        yield Finding(
            statement,
            **{"against": "", **about},
            measured=measured,
            unit=unit,
            values=numbers,
            overlap=overlap_in(table),
        )


def by_protocol(table: pd.DataFrame, data: str) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """The rows under each protocol, with what a finding from them is about."""
    for protocol, at in table.groupby("protocol", sort=False):
        yield {"data": data, "protocol": protocol}, at


def scores(table: pd.DataFrame, condition: str, value: str = "auc", **at: Any) -> pd.Series:
    """``value`` of a condition at the paper's rate, by architecture and replicate, empty where there is none.

    Args:
        table: a replicate table with architectures.
        condition: its name.
        value: a column.
        **at: other factors and their levels; one that the table does not have distinguishes nothing.
    """
    rows = table[table["condition"] == condition]
    for factor, level in {"rate": "lr", **at}.items():
        if factor in rows and rows[factor].notna().any():
            rows = rows[rows[factor] == level]
    return rows.set_index(["architecture", "replicate"])[value]


def less(treated: pd.Series, control: pd.Series) -> pd.Series:
    """Treated minus control of the architectures and replicates that have both."""
    return (treated - control).dropna()


def of_finetuning(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """Claims 1 and 2 at the paper's rate and weight, mean over the architectures; from the replicate table of
    ``main_comparison``."""
    for at_protocol, at in by_protocol(with_best(replicates), data):
        for against in AGAINST:
            about, control = {**at_protocol, "against": against}, scores(at, against)
            share = 100 * less(scores(at, "mutual", weight=WEAK), control) / control.mean()
            yield from finding(LIFT, about, f"mutual minus {against}, % of the latter's AUC", share, at, "%")
            begun = less(scores(at, "mutual from scratch", weight=WEAK), control)
            yield from finding(SCRATCH, about, f"mutual from scratch minus {against}, AUC", begun, at)


def of_instances(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """Claim 3, from the replicate table of ``how_many_instances``; none where four or five instances were not run."""
    for about, effect, at in _mutual(choose_by_validation(replicates, BEST, CONTROLS, ("protocol", "instances")),
                                     "instances", data):  # fmt: skip
        if {4, 5} <= set(effect):
            yield from finding(FIFTH, about, "effect of five minus of four, AUC", effect[5] - effect[4], at)


def of_companions(members: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """Claims 4 to 6, from the member table of ``partner_matrix``, over the pairs of unlike
    architectures. The best control is chosen for each member. All three also without the pairs that have a model of
    :data:`SHALLOW`."""
    effects = member_effects(members, ["protocol", "cohort"])
    one_peer = ~effects["companions"].str.contains(" + ", regex=False)
    unlike = effects[one_peer & (effects["architecture"] != effects["companions"])]
    deep = ~(unlike["architecture"].isin(SHALLOW) | unlike["companions"].isin(SHALLOW))
    for protocol, at in unlike.groupby("protocol", sort=False):
        for against, column in (("checkpoint", "over_checkpoint"), (BEST, "over_best")):
            about = {"data": data, "protocol": protocol, "against": against}
            for names, rows in (({}, at), (DEEP, at[deep[at.index]])):
                by = rows.set_index("replicate")
                ahead, ranks = by["gap"] < 0, by.groupby(level=0)
                numbers = ranks.apply(lambda part, column=column: spearmanr(part["gap"], part[column]).statistic)
                what = "rank correlation of lead and effect"
                yield from finding(names.get(COMPANION, COMPANION), about, what, numbers, at, "rank")
                for one, side, who in ((STRONGER, ahead, "stronger"), (WEAKER, ~ahead, "weaker")):
                    yield from finding(names.get(one, one), about, f"effect on the {who}, AUC", by[column][side], at)


def of_epochs(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """Claim 7, from the replicate table of ``how_many_epochs``, at the recipe's embedding L2, which is the first: how
    far mutual fine-tuning falls from the fewest to the most epochs, by itself and beyond the best control of the same
    length."""
    own = replicates[replicates["embedding_l2"] == replicates["embedding_l2"].iloc[0]]
    table = choose_by_validation(at_each_level(own, "checkpoint", "epochs"), BEST, CONTROLS, ("protocol", "epochs"))
    for about, effect, at in _mutual(table, "epochs", data):
        first, last = min(effect), max(effect)
        what = f"effect after {last:g} minus after {first:g} epochs, AUC"
        yield from finding(EPOCHS, about, what, effect[last] - effect[first], at)


def _mutual(
    table: pd.DataFrame, factor: str, data: str
) -> Iterator[tuple[dict[str, str], dict[float, pd.Series], pd.DataFrame]]:
    """By protocol and control: what is compared, the effect of mutual fine-tuning at each level of a factor, rows; at
    the paper's weight and the rate of :func:`rate_of`, where these are factors."""
    for protocol, at in table.groupby("protocol", sort=False):
        judged_at = {"weight": WEAK, "rate": rate_of(protocol)}
        for name in judged_at.keys() & set(at):
            at = at[at[name].isna() | (at[name] == judged_at[name])]
        for against in AGAINST:
            parts = {level: part for level, part in at.groupby(factor) if "mutual" in set(part["condition"])}
            effect = {level: differences(part, "mutual", against) for level, part in parts.items()}
            yield {"data": data, "protocol": protocol, "against": against}, effect, at


def finding_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per finding: claim, data, protocol, control, what was measured, mean, interval, replicates, verdict.

    ``verdict together`` is that of the interval at ``level together``, at which those of the claim hold together.
    """
    by_claim: dict[Statement, list[PairedDifference]] = {}
    for one in findings:
        by_claim.setdefault(one.statement, []).append(one.interval())
    levels, rows = {statement: together(found) for statement, found in by_claim.items()}, []
    for one in findings:
        found, level = one.interval(), levels[one.statement]
        rows.append(
            {
                "claim": one.statement.text, "data": one.data, "protocol": one.protocol, "against": one.against,
                "measured": one.measured, "unit": one.unit, "mean": found.mean, "low": found.low, "high": found.high,
                "replicates": found.replicates, "verdict": one.verdict(), "level together": level,
                "verdict together": one.verdict(level),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def verdicts_by_data(findings: Sequence[Finding], statements: Iterable[Statement], protocol: str) -> pd.DataFrame:
    """One row per statement that something was found to under a protocol, a column for each data set: its verdicts; a
    dash where there is no record."""
    findings = [one for one in findings if one.protocol == protocol]
    there, rows = _data_in(findings), []
    for statement in statements:
        mine = [one for one in findings if one.statement.text == statement.text]
        cells = {spoken(data): _counts([one for one in mine if one.data == data]) or "–" for data in there}
        if mine:
            rows.append({"claim": statement.text, **cells})
    return pd.DataFrame(rows, columns=["claim", *(spoken(data) for data in there)])


def verdicts_by_control(findings: Sequence[Finding], statements: Iterable[Statement]) -> pd.DataFrame:
    """One row per statement that something was found to, a column for each control: its verdicts under each protocol,
    and where there are several data sets on how many."""
    rows = []
    for statement in statements:
        if mine := [one for one in findings if one.statement.text == statement.text]:
            cells = {
                f"against the {against}": "; ".join(
                    f"{protocol}: {_counts(part, ' on {} of {}')}"
                    for protocol, part in _by_protocol(one for one in mine if one.against == against).items()
                )
                for against in AGAINST
            }
            rows.append({"claim": statement.text, **cells})
    return pd.DataFrame(rows, columns=["claim", *(f"against the {against}" for against in AGAINST)])


def found_table(findings: Sequence[Finding], statements: Iterable[Statement]) -> pd.DataFrame:
    """One row per statement and data set: in a sentence what was found, against the best control where that is one of
    several controls; of what nothing was found, the page that would show it."""
    rows = []
    for statement in statements:
        mine = [one for one in findings if one.statement.text == statement.text and one.against != "checkpoint"]
        for data in _data_in(mine):
            if said := _sentence([one for one in mine if one.data == data]):
                rows.append({"claim": statement.text, "data": spoken(data), FOUND: said})
        if not mine:
            rows.append(
                {
                    "claim": statement.text,
                    "data": "–",
                    FOUND: f"No record yet; the page “{spoken(statement.page)}” would show it.",
                }
            )
    return pd.DataFrame(rows)


def _data_in(findings: Iterable[Finding]) -> list[str]:
    """Their data sets, those of :data:`MAIN` first."""
    there = dict.fromkeys(one.data for one in findings)
    return [*(data for data in MAIN if data in there), *(data for data in there if data not in MAIN)]


def _by_protocol(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in findings:
        found.setdefault(spoken(one.protocol), []).append(one)
    return found


def _counts(findings: Sequence[Finding], of: str = "") -> str:
    """Their verdicts, the most frequent first: one word where all agree, else each with its number. ``of`` is the form
    in which a number and that of all follow each of several."""
    counts = pd.Series([one.verdict() for one in findings], dtype=object).value_counts()
    if of and len(findings) > 1:
        return ", ".join(word + of.format(n, len(findings)) for word, n in counts.items())
    return ", ".join(f"{n} {word}" if len(counts) > 1 else word for word, n in counts.items())


def _sentence(findings: Sequence[Finding]) -> str:
    """What was found under each protocol; of several measures the least and the largest."""
    parts = []
    for protocol, part in _by_protocol(findings).items():
        part = sorted(part, key=lambda one: np.mean(one.values))
        ends = part if len(part) == 1 else [part[0], part[-1]]
        of = "" if len(part) == 1 else " [{}]"
        said = " to ".join(one.words() + of.format(one.measured.removesuffix(", AUC")) for one in ends)
        parts.append(f"{protocol}: {said}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if parts else ""
