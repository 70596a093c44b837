"""The question of this study, and what it expected before its published runs (``book/preregistration.md``, O1 to O7): a
number per replicate, and a verdict by the rule of :func:`ctrlib.study.verdicts.judge`.

What compares conditions with peers to each other is the same number against every control."""

from collections.abc import Iterator

import pandas as pd

from ctrlib.study.tables import BEST
from ctrlib.study.verdicts import AGAINST, STRONG, WEAK, Finding, Statement, finding, less, scores, with_choices

PEERS = ("peers help", "peers cost")
TARGETS = "how_strong_and_in_which_form"
QUESTION = Statement("the best with peers beats the best without", "gain", *PEERS, "main")
EXPECTED = {
    name: Statement(f"{name[:2]}: {text}", rule, above, below, page)
    for name, text, rule, above, below, page in (
        ("O1", "from scratch, peers help with early stopping", "gain", *PEERS, "main"),
        ("O2", "most of what fine-tuning gains is further training", "gain", "it is", "peers give more", "main"),
        ("O3", "a weight of 20 is better than one of 1", "gain", "20 is better", "1 is better", "main"),
        ("O4", "peers must know something about the row", "next to nothing", "shuffled peers help",
         "shuffled peers cost", TARGETS),
        ("O5", "peers need not learn", "the same", "frozen peers are better", "live peers are better", TARGETS),
        ("O6", "coupling reduces diversity", "loss", "churn rises", "churn falls", "main"),
        ("O6, ensemble", "the ensemble of coupled members is no better", "next to nothing", "it is better",
         "it is worse", "main"),
        ("O7", "the plain ensemble beats every coupled single model", "gain", "the ensemble is better",
         "the coupled model is better", "main"),
    )
}  # fmt: skip


def of_finetuning(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """The question, O1, O2 and O6, from the replicate table of ``main_comparison`` or ``finetune_mutually``, mean over
    the architectures."""
    for protocol, at in with_choices(replicates).groupby("protocol", sort=False):
        about = {"data": data, "protocol": protocol}
        tried = {
            name: f"the best of {at.loc[at['condition'] == name, 'candidates'].max():g}"
            for name in ("best mutual", BEST)
        }
        for against, control in (("checkpoint", "checkpoint"), (BEST, f"{tried[BEST]} without")):
            best = less(scores(at, "best mutual"), scores(at, against))
            what = f"{tried['best mutual']} with peers minus {control}, by validation, AUC"
            yield from finding(QUESTION, {**about, "against": against}, what, best, at)
        tuned, alone, start = (scores(at, name, weight=WEAK) for name in ("mutual", "continued training", "checkpoint"))
        if protocol == "fixed_epochs":
            rest = less(less(alone, start), less(tuned, alone))
            yield from finding(EXPECTED["O2"], about, "gain of continued training minus what peers add, AUC", rest, at)
        for against in AGAINST:
            to = {**about, "against": against}
            if protocol == "early_stopping":
                begun = less(scores(at, "mutual from scratch", weight=WEAK), scores(at, against))
                yield from finding(EXPECTED["O1"], to, f"mutual from scratch minus {against}, AUC", begun, at)
            for name, value, what, unit in (
                ("O6", "churn", "churn", "churn"),
                ("O6, ensemble", "ensemble_auc", "AUC", "AUC"),
            ):
                change = less(scores(at, "mutual", value, weight=WEAK), scores(at, against, value))
                what = f"{'' if name == 'O6' else 'ensemble of '}coupled members minus {against}, {what}"
                yield from finding(EXPECTED[name], to, what, change, at, unit)


def of_weights(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """O3 and O7, fine-tuned at the paper's rate and from scratch, from a replicate table that has both weights."""
    for protocol, at in with_choices(replicates).groupby("protocol", sort=False):
        about = {"data": data, "protocol": protocol}
        for condition, how in (("mutual", "fine-tuned"), ("mutual from scratch", "from scratch")):
            coupled = {weight: scores(at, condition, weight=weight) for weight in (WEAK, STRONG)}
            stronger = less(coupled[STRONG], coupled[WEAK])
            yield from finding(EXPECTED["O3"], about, f"weight {STRONG:g} minus {WEAK:g}, {how}, AUC", stronger, at)
            for weight, auc in coupled.items():
                for against in AGAINST:
                    gap = less(scores(at, against, "ensemble_auc"), auc)
                    what = f"ensemble of {against} minus coupled, {how}, weight {weight:g}, AUC"
                    yield from finding(EXPECTED["O7"], {**about, "against": against}, what, gap, at)


def of_targets(replicates: pd.DataFrame, data: str = "synthetic") -> Iterator[Finding]:
    """O4 and O5, from a replicate table with the factors target and weight; what was not run is left out."""
    for protocol, at in with_choices(replicates).groupby("protocol", sort=False):
        about = {"data": data, "protocol": protocol}
        for weight in (WEAK, STRONG):
            live, frozen, shuffled = (
                scores(at, "mutual", weight=weight, target=target) for target in ("live", "frozen", "shuffled")
            )
            for against in AGAINST:
                gain, what = (
                    less(shuffled, scores(at, against)),
                    f"shuffled peers minus {against}, weight {weight:g}, AUC",
                )
                yield from finding(EXPECTED["O4"], {**about, "against": against}, what, gain, at)
            what = f"frozen minus live peers, weight {weight:g}, AUC"
            yield from finding(EXPECTED["O5"], about, what, less(frozen, live), at)
