"""What this study expected before the second set of runs (``book/preregistration.md``, E1 to E14), from the published
records: a number per replicate, and a verdict by the rule of :func:`ctrlib.study.verdicts.judge`.

:func:`published_findings` reads these and the paper's claims from the published records of each page; nothing is
trained. What rests on architectures that a page trains in part is left out, as the preregistration says.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from ctrlib.store.runs import RunStore
from ctrlib.study import drift_page, tuning_page
from ctrlib.study.alternatives import served_options, with_rivals
from ctrlib.study.conditions import Condition
from ctrlib.study.experiments import published_by_data
from ctrlib.study.finetuning import BY_RULE
from ctrlib.study.main_page import RIVAL, rarity_sides, with_sides
from ctrlib.study.pages import published_parameters
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.retraining import ONE
from ctrlib.study.retraining_page import ENSEMBLE, churn_table, ledger_table
from ctrlib.study.tables import (
    BEST,
    PEERS,
    data_name,
    member_table,
    over_replicates,
    replicate_table,
    with_best,
)
from ctrlib.study.verdicts import (
    MAIN,
    STRONG,
    Finding,
    Statement,
    by_protocol,
    finding,
    less,
    of_companions,
    of_epochs,
    of_finetuning,
    of_instances,
    scores,
)

HELP = ("peers give more", "peers give less")
EXPECTED = {
    text.partition(":")[0]: Statement(text, rule, above, below, page)
    for text, rule, above, below, page in (
        ("E1: peers give something beyond the best control, on Frappe nothing", "gain", *HELP, "main"),
        ("E2: under fixed epochs most of the gain is further training", "gain", "it is", "it is not", "main"),
        ("E3: the ensemble of the untouched checkpoints beats the coupled model", "gain", "it does",
         "the coupled model is better", "main"),
        ("E4: something without peers does as well", "not above", *HELP, "rivals"),
        ("E5: a frozen ensemble teaches as well as live peers", "not below", "the ensemble teaches more",
         "live peers teach more", "serving_frontier"),
        ("E6: negative weights lower the members", "loss", "they rise", "they fall", "weights"),
        ("E6, ensemble: negative weights do not raise the ensemble", "no gain", "it rises", "it falls", "weights"),
        ("E7: most of what peers remove is seed variance", "gain", "it is", "it is not", "ledger"),
        ("E8: a coupled model changes less than a single one when trained again", "loss", "it changes more",
         "it changes less", "churn"),
        ("E8, ensemble: a coupled model changes more than an ensemble when trained again", "gain", "it changes more",
         "it changes less", "churn"),
        ("E9: the rule of stopping changes the effect by more than a thousandth", "beyond",
         "FuxiCTR's rule makes it larger", "FuxiCTR's rule makes it smaller", "main"),
        ("E10: rows with rare codes gain more", "gain", "they gain more", "they gain less", "main"),
        ("E11: with random embeddings the gain of coupling vanishes", "the same", *HELP, "couplings"),
        ("E11, ensemble: with random embeddings the gain of the ensemble stays", "gain", "it gains", "it loses",
         "couplings"),
        ("E12: equal tuning makes the effect smaller", "loss", "it is larger", "it is smaller", "equal_tuning"),
        ("E13: later test rows do not change the sign of the effect", "gain", "the sign stays", "the sign changes",
         "drift"),
        ("E14: an auxiliary head removes the losses at weight 20", "gain", "it helps", "it costs more", "couplings"),
    )
}  # fmt: skip
NOT_ON_FRAPPE = replace(EXPECTED["E1"], rule="no gain")  # the one data set where no gain was expected
DECILES = 3  # of the test rows by rarity, at either end
TABLES = Callable[[RunStore, StudyParameters, list[Condition], str], Iterator[Finding]]


def published_pages() -> dict[tuple[str, str], list[Condition]]:
    """By experiment and label of the data set the conditions whose records are published, all or none."""
    return {
        (experiment, label): conditions
        for experiment in SOURCES
        for label, conditions in published_by_data(experiment).items()
    }


def published_findings(store: RunStore, pages: dict[tuple[str, str], list[Condition]]) -> list[Finding]:
    """The findings of :func:`published_pages`; worlds of synthetic clicks of any size are one data set."""
    found: list[Finding] = []
    for (experiment, label), conditions in pages.items():
        p = published_parameters(experiment)
        found += SOURCES[experiment](store, p.on(label) if label in p.datasets else p, conditions, data_name(label))
    return found


def of_main(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """Claims 1 and 2, E1 to E3, E9 and E10, from the main comparison of one data set; none of rows that are divided
    otherwise than on the page."""
    if data not in MAIN:
        return
    replicates = replicate_table(store, conditions)
    yield from of_finetuning(replicates, data)
    table = with_sides(replicates, p)
    whole = [one for one in p.architectures if one not in (*p.without_scratch, *p.one_rate)]
    for about, at in by_protocol(table[table["architecture"].isin(whole)], data):
        best, mutual, start = (scores(at, name) for name in (BEST, "best mutual", "checkpoint"))
        if about["protocol"] == "early_stopping":
            statement = NOT_ON_FRAPPE if data == "frappe" else EXPECTED["E1"]
            yield from finding(statement, about, f"best mutual minus {BEST}, AUC", less(mutual, best), at)
        else:
            rest = less(less(best, start), less(mutual, best))
            yield from finding(EXPECTED["E2"], about, "gain without peers minus what peers add, AUC", rest, at)
        gap = less(scores(at, "checkpoint", "ensemble_auc"), mutual)
        yield from finding(EXPECTED["E3"], about, "ensemble of the checkpoints minus best mutual, AUC", gap, at)
    yield from of_rules(table, data)
    parts = rarity_sides(store, conditions, table, p.architectures[0])
    for about, at in by_protocol(parts, data):
        wide = at.pivot(index=["replicate", "part"], columns="condition", values="auc")
        effect = less(wide["best mutual"], wide[BEST]).unstack("part")
        rarest, frequent = (effect.iloc[:, span].mean(axis=1) for span in (slice(DECILES), slice(-DECILES, None)))
        what = f"effect in the {DECILES} rarest minus the {DECILES} most frequent tenths, AUC"
        yield from finding(EXPECTED["E10"], about, what, less(rarest, frequent), at)


def of_rules(table: pd.DataFrame, data: str) -> Iterator[Finding]:
    """E9, at each weight, from a replicate table whose conditions of :data:`BY_RULE` were trained."""
    mutual, alone, _ = BY_RULE
    for weight in table.loc[table["condition"] == mutual, "weight"].unique():
        effect = {
            rule: less(scores(at, mutual, weight=weight), scores(at, alone))
            for rule, at in table[table["condition"].isin((mutual, alone))].groupby("stopping")
        }
        change = less(effect["fuxictr"], effect["converged"])
        what = f"effect from scratch by FuxiCTR's rule minus by ours, weight {weight:g}, AUC"
        yield from finding(EXPECTED["E9"], {"data": data, "protocol": "early_stopping"}, what, change, table)


def minus(table: pd.DataFrame, treated: str, control: str, statement: Statement, data: str) -> Iterator[Finding]:
    """From a replicate table, of a statement about the AUC of one condition minus that of another."""
    for about, at in by_protocol(table, data):
        auc = at.set_index(["condition", "replicate"])["auc"]
        yield from finding(statement, about, f"{treated} minus {control}, AUC", less(auc[treated], auc[control]), at)


def of_weights(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E6, at each negative weight, fine-tuned and from scratch."""
    table = replicate_table(store, conditions)
    for (about, at), (way, (mutual, alone)) in product(by_protocol(table, data), PEERS.items()):
        treated = at[(at["condition"] == mutual) & (at["weight"] < 0)]
        for weight, rows in treated.groupby("weight"):
            own = at[at["condition"] == alone]
            if way == "fine-tuned":
                own = own[own["rate"] == rows["rate"].iloc[0]]
            for name, value, what in (("E6", "auc", "members"), ("E6, ensemble", "ensemble_auc", "their ensemble")):
                change = less(*(side.set_index("replicate")[value] for side in (rows, own)))
                said = f"{what} at weight {weight:g} minus without peers, {way}, AUC"
                yield from finding(EXPECTED[name], about, said, change, at)


def of_ledger(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E7, at each weight."""
    for about, at in by_protocol(ledger_table(store, conditions), data):
        parts = at.set_index(["condition", "replicate"])[["seed variance", "excess"]]
        for weight in p.mutual_weights:
            gone = parts.loc[ONE] - parts.loc[f"mutual, weight {weight:g}"]
            rest = gone["seed variance"] - gone["excess"] / 2
            what = f"seed variance removed minus half of the excess removed, weight {weight:g}"
            yield from finding(EXPECTED["E7"], about, what, rest, at, "log loss")


def of_churn(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E8, for the same rows and for those of a day later, at each weight."""
    table = churn_table(store, conditions)
    for (protocol, rows), at in table.groupby(["protocol", "rows"], sort=False):
        churn = at.set_index(["condition", "replicate"])["difference"]
        for weight, (name, other) in product(p.mutual_weights, (("E8", ONE), ("E8, ensemble", ENSEMBLE))):
            change = less(churn[f"mutual, weight {weight:g}"], churn[other])
            what = f"churn of mutual minus {other}, weight {weight:g}, {rows}"
            yield from finding(EXPECTED[name], {"data": data, "protocol": protocol}, what, change, at, "churn")


def of_couplings(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E11, at each weight; and E14 where live peers cost something beside the best control."""
    for about, at in by_protocol(replicate_table(store, conditions), data):
        random = at[at["embeddings"] == "random"]
        alone = random[random["condition"] == "alone"].set_index("replicate")
        for weight, rows in random[random["condition"] == "coupled"].groupby("weight"):
            effect = less(rows.set_index("replicate")["auc"], alone["auc"])
            yield from finding(EXPECTED["E11"], about, f"coupled minus alone, weight {weight:g}, AUC", effect, at)
        gain = less(alone["ensemble_auc"], alone["auc"])
        yield from finding(EXPECTED["E11, ensemble"], about, "ensemble minus one model, AUC", gain, at)
        best = scores(with_best(at.assign(architecture=""), ["protocol"]), BEST).droplevel("architecture")
        auc = at.set_index(["coupling", "replicate"])["auc"]
        if p.mutual_weight == STRONG and over_replicates(less(auc["live"], best), at).high < 0:
            gain = less(auc["auxiliary head"], auc["live"])
            yield from finding(EXPECTED["E14"], about, "auxiliary minus served head, AUC", gain, at)


def of_tuning(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E12."""
    for about, at in by_protocol(tuning_page.compared(replicate_table(store, conditions)), data):
        auc = at.set_index(["setting", "condition", "replicate"])["auc"].sort_index()
        untuned, tuned = (less(auc[one, "mutual"], auc[one, BEST]) for one in ("untuned", "tuned"))
        yield from finding(EXPECTED["E12"], about, "tuned minus untuned effect, AUC", less(tuned, untuned), at)


def of_drift(store: RunStore, p: StudyParameters, conditions: list[Condition], data: str) -> Iterator[Finding]:
    """E13: the effect on later test rows, times the sign of the mean effect under a random division."""
    table = with_best(replicate_table(store, conditions), drift_page.WITHIN)
    for about, at in by_protocol(table, data):
        auc = at.set_index(["split", "condition", "replicate"])["auc"].sort_index()
        drawn, later = (less(auc[split, "best mutual"], auc[split, BEST]) for split in ("random", "chronological"))
        what = "effect on later test rows, times the sign of that on rows of all times, AUC"
        yield from finding(EXPECTED["E13"], about, what, later * np.sign(drawn.mean()), at)


SOURCES: dict[str, TABLES] = {
    **dict.fromkeys(MAIN.values(), of_main),
    "how_many_instances": lambda store, p, conditions, data: of_instances(replicate_table(store, conditions), data),
    "partner_matrix": lambda store, p, conditions, data: of_companions(member_table(conditions), data),
    "how_many_epochs": lambda store, p, conditions, data: of_epochs(replicate_table(store, conditions), data),
    "rivals": lambda store, p, conditions, data: minus(
        with_rivals(replicate_table(store, conditions))[0], "best mutual", RIVAL, EXPECTED["E4"], data
    ),
    "serving_frontier": lambda store, p, conditions, data: minus(
        served_options(store, conditions, p.sizes), "distilled", "mutual", EXPECTED["E5"], data
    ),
    "weights": of_weights,
    "ledger": of_ledger,
    "churn": of_churn,
    "couplings": of_couplings,
    "equal_tuning": of_tuning,
    "drift": of_drift,
}
"""By experiment, the findings of one data set of its page."""
