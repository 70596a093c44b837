"""What to do with a log, by rule from the intervals of :func:`ctrlib.study.controls.your_log`.

Everything is held against the best that needs no peer and serves one model (``best control``). What serves one model
too, and trains no more than that, comes before what costs more, where they differ by less than a thousandth of AUC.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ctrlib.store.record import Record
from ctrlib.study.conditions import Condition
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import (
    BEST,
    LEVEL,
    choose_by_validation,
    effect_row,
    effects_of_each,
    in_words,
    over_replicates,
    with_average,
    with_best,
)
from ctrlib.study.verdicts import NEGLIGIBLE

WITHIN = ("protocol", "architecture")
# What could be done instead of serving the best control, the cheapest to train first.
OPTIONS = {
    "averaged weights": "averaged weights",
    "mutual learning": "best mutual",
    "distillation": "best distilled",
    "average of the models": "average",
}
FEW_REPLICATES = 5  # Student's factor is large below


def with_options(replicates: pd.DataFrame) -> pd.DataFrame:
    """The replicate table of ``your_log`` with the conditions of :func:`ctrlib.study.tables.with_best`, ``best
    distilled``, also chosen by validation, and ``average``, the ensemble of the best control."""
    return with_average(choose_by_validation(with_best(replicates), "best distilled", ["distilled"], WITHIN))


def against_the_best_control(table: pd.DataFrame, value: str = "auc") -> pd.DataFrame:
    """Each of :data:`OPTIONS` minus the best control, one family: see :func:`ctrlib.study.tables.family`."""
    return effects_of_each(table, WITHIN, OPTIONS, BEST, value)


def best_architecture(table: pd.DataFrame, protocol: str) -> str:
    """The architecture whose best control has the best validation AUC, mean over replicates."""
    best = table[(table["condition"] == BEST) & (table["protocol"] == protocol)]
    return best.groupby("architecture", sort=False)["valid_auc"].mean().idxmax()


@dataclass(frozen=True)
class Recommendation:
    """What to do: a key of :data:`OPTIONS`, ``one model`` or ``nothing``; in a sentence, with the reasons."""

    action: str
    sentence: str
    reasons: tuple[str, ...]


def recommend(table: pd.DataFrame, effects: pd.DataFrame, instances: int, rows: int) -> Recommendation:
    """The recommendation for one protocol and architecture.

    Args:
        table: its part of :func:`with_options`.
        effects: its part of :func:`against_the_best_control`.
        instances: models in a cohort.
        rows: all rows of the log that were used.

    =======================================  =============================================================
    shown by the intervals                   recommended
    =======================================  =============================================================
    one model is not better than chance      nothing: there is no signal to model
    an option that serves one model gains    the best of these; a cheaper one within a thousandth of it
    only the average gains                   the average of the models; one model where that is too dear
    no option gains a thousandth             one model
    none gains, but one may                  one model, and more time or rows for a verdict
    =======================================  =============================================================
    """
    one = table[table["condition"] == BEST]
    signal = over_replicates(one["auc"] - 0.5, one, LEVEL)
    missed = _missed(effects, rows)
    if not signal.low > 0:
        interval = f"{100 * LEVEL:g} % interval {0.5 + signal.low:.4f} to {0.5 + signal.high:.4f}"
        reason = f"The best single model has test AUC {0.5 + signal.mean:.4f} ({interval}); chance has .5."
        return Recommendation(
            "nothing", "Train nothing yet: no model is shown to find a signal here.", (reason, missed)
        )
    by_option = effects.set_index("treatment").loc[list(OPTIONS)]
    scores = (
        f"The best without peers has validation AUC {one['valid_auc'].mean():.4f} and test AUC {one['auc'].mean():.4f}."
    )
    options = (
        f"{name[0].upper()}{name[1:]} against the best without peers, in AUC: {in_words(row)}."
        for name, row in by_option.iterrows()
    )
    reasons = (scores, *options, missed)
    gains = by_option.loc[by_option["verdict"] == "gain", "difference"]
    single = gains.drop("average of the models", errors="ignore")
    average = f"the average of {instances}"
    if not single.empty:
        action = next(name for name in single.index if single[name] > single.max() - NEGLIGIBLE)
        how = table.loc[table["condition"] == OPTIONS[action], "chosen"].mode()
        sentence = f"Serve one model, made by {action}{f' ({how.iloc[0]})' if len(how) else ''}. "
        gained = "average of the models" in gains
        sentence += f"If you can serve several: {average}." if gained else f"Do not serve {average}: no gain is shown."
    elif not gains.empty:
        action = "average of the models"
        sentence = (
            f"If you can serve several models, serve {average}. If you must serve one, train it alone and do not "
        )
        sentence += "couple: nothing that serves one is shown to gain."
    else:
        action, open_ones = "one model", by_option.loc[by_option["high"] > NEGLIGIBLE, "high"]
        if open_ones.empty:
            sentence = "Train one model to its best: do not couple, do not average. "
            sentence += f"Nothing tried gains as much as {NEGLIGIBLE:g} of AUC."
        else:
            most = ", ".join(f"{name} {high:+.4f}" for name, high in open_ones.items())
            sentence = "Not decided yet: nothing is shown to gain. Until it is, serve one model. The most that may be "
            sentence += f"gained: {most}."
    return Recommendation(action, sentence, reasons)


def over_baselines(at: pd.DataFrame, linear: dict[int, float], divisions: int) -> str:
    """In words, what the best without peers gains over the baseline with the best mean test AUC.

    Args:
        at: the part of :func:`with_options` for one protocol and architecture.
        linear: the test AUC of logistic regression, by replicate.
        divisions: of the rows; with one, all replicates have the same test rows and the same logistic regression.
    """
    rows = [{"condition": "logistic regression", "replicate": n, "auc": auc} for n, auc in linear.items()]
    table = pd.concat([at, pd.DataFrame(rows)])
    baselines = table[table["condition"].isin(["FM", "logistic regression"])]
    best = baselines.groupby("condition")["auc"].mean().idxmax()
    found = effect_row(table, BEST, best)
    said = in_words(found) if divisions > 1 else f"{found['difference']:+.4f} (one division of the rows, no interval)"
    return f"The best without peers against {best}, the best baseline, in AUC: {said}."


@dataclass(frozen=True)
class Answer:
    """The recommendation for a log, and for which protocol and architecture it is given.

    Attributes:
        at: their part of :func:`with_options`.
    """

    protocol: str
    architecture: str
    at: pd.DataFrame
    recommendation: Recommendation


def answer(p: StudyParameters, table: pd.DataFrame, rows: int) -> Answer:
    """What to do: for the last protocol and the architecture that is best there.

    Args:
        p: the parameters.
        table: see :func:`with_options`.
        rows: all rows of the log that were used.
    """
    protocol = p.protocols[-1]
    architecture = best_architecture(table, protocol)
    at, effects = (
        one[(one["protocol"] == protocol) & (one["architecture"] == architecture)]
        for one in (table, against_the_best_control(table))
    )
    return Answer(protocol, architecture, at, recommend(at, effects, p.instances, rows))


def recommended_models(
    conditions: Sequence[Condition], table: pd.DataFrame, recommended: Recommendation
) -> list[tuple[Record, int]]:
    """The models to serve, (record, member) each, of the first replicate: all of the best control for the average, else
    the one with the best validation AUC of what is recommended.

    Args:
        conditions: trained, in the order of the replicate table.
        table: the part of :func:`with_options` for one protocol and architecture.
        recommended: what is recommended there.
    """
    first = table[table["replicate"] == table["replicate"].min()].set_index("condition")
    chosen = conditions[int(first.loc[OPTIONS.get(recommended.action, "best control"), "row"])]
    members = [(record, n) for record in chosen.records for n in range(len(record.run.members))]
    if recommended.action == "average of the models":
        return members
    return [max(members, key=lambda one: one[0].valid_aucs[one[1]])]


def _missed(effects: pd.DataFrame, rows: int) -> str:
    """How large an effect would have been missed, and how many rows would show the margin of the study."""
    half, replicates = float(((effects["high"] - effects["low"]) / 2).max()), int(effects["replicates"].max())
    if not half < float("inf"):
        return "One replicate has no interval: more time gives more."
    words = f"An effect below about {half:.4f} AUC would have been missed."
    if half > NEGLIGIBLE and replicates < FEW_REPLICATES:
        words += f" With {replicates} replicates every interval is wide: more time gives more."
    elif half > NEGLIGIBLE:
        more = float(f"{rows * (half / NEGLIGIBLE) ** 2:.1g}")
        words += f" To see {NEGLIGIBLE:g}, the margin of the field, about {more:,.0f} rows would be needed."
    return words
