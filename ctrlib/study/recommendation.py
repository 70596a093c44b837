"""What to do with a log, by rule from the intervals of :func:`ctrlib.study.controls.your_log`.

Everything is held against the best that needs no peer and serves one model (``best control``). What serves one model
too, and trains no more than that, comes before what costs more, where they differ by less than a thousandth of AUC.
"""

from dataclasses import dataclass

import pandas as pd

from ctrlib.stats.paired import PairedDifference
from ctrlib.study.finetuning import CONTROLS, COUPLED
from ctrlib.study.tables import LEVEL, choose_by_validation, effects_of_each, over_replicates
from ctrlib.study.verdicts import NEGLIGIBLE

WITHIN = ("protocol", "architecture")
# What could be done instead of serving the best control, the cheapest to train first.
OPTIONS = {
    "averaged weights": "averaged weights",
    "mutual learning": "best mutual",
    "distillation": "best distilled",
    "average of the models": "average",
}


def with_options(replicates: pd.DataFrame) -> pd.DataFrame:
    """The replicate table of ``your_log`` and, within each protocol and architecture, the conditions ``best control``,
    ``best mutual`` and ``best distilled``, chosen by validation, and ``average``, the ensemble of the best control."""
    table = choose_by_validation(replicates, "best control", CONTROLS, WITHIN)
    table = choose_by_validation(table, "best mutual", COUPLED, WITHIN)
    table = choose_by_validation(table, "best distilled", ["distilled"], WITHIN)
    best = table[table["condition"] == "best control"]
    average = best.assign(condition="average", auc=best["ensemble_auc"], logloss=best["ensemble_logloss"])
    return pd.concat([table, average], ignore_index=True)


def against_the_best_control(table: pd.DataFrame, value: str = "auc") -> pd.DataFrame:
    """Each of :data:`OPTIONS` minus the best control, one family: see :func:`ctrlib.study.tables.family`."""
    return effects_of_each(table, WITHIN, OPTIONS, "best control", value)


def best_architecture(table: pd.DataFrame, protocol: str) -> str:
    """The architecture whose best control has the best validation AUC, mean over replicates."""
    best = table[(table["condition"] == "best control") & (table["protocol"] == protocol)]
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

    ==============================================  =======================================================
    shown by the intervals                          recommended
    ==============================================  =======================================================
    one model is not better than chance             nothing: there is no signal to model
    no option gains                                 one model, trained to its best without peers
    an option that serves one model gains           the best of these; a cheaper one within a thousandth of it
    only the average gains                          the average of the models, and one model where that is too dear
    ==============================================  =======================================================
    """
    one = table[table["condition"] == "best control"]
    signal = over_replicates(one["auc"] - 0.5, one, LEVEL)
    if not signal.low > 0:
        why = f"its test AUC is {0.5 + signal.mean:.4f} ({_interval(signal, 0.5)}), which may be that of chance, .5"
        sentence = "Train nothing yet: no model is shown to find a signal in these rows."
        return Recommendation("nothing", sentence, (f"The best single model: {why}.", *_missed(effects, rows)))
    by_option = effects.set_index("treatment").loc[list(OPTIONS)]
    gains = by_option[by_option["verdict"] == "gain"]
    single = gains.drop("average of the models", errors="ignore")["difference"]
    reasons = tuple(
        f"{name[0].upper()}{name[1:]} against the best without peers: {_words(row)}."
        for name, row in by_option.iterrows()
    )
    served = "If you can serve several models: " + (
        "serve" if "average of the models" in gains.index else "do not serve"
    )
    served += f" the average of {instances}" + (
        "." if "average of the models" in gains.index else ", it is not shown to gain."
    )
    if not single.empty:
        action = next(name for name in single.index if single[name] > single.max() - NEGLIGIBLE)
        chosen = table.loc[table["condition"] == OPTIONS[action], "chosen"].mode()
        how = f" ({chosen.iloc[0]})" if len(chosen) else ""
        sentence = f"Serve one model, made by {action}{how}. {served}"
    elif not gains.empty:
        action = "average of the models"
        sentence = (
            f"{served} If you must serve one: train it alone, do not couple; nothing that serves one is shown to gain."
        )
    else:
        action = "one model"
        sentence = (
            "Train one model to its best and stop: do not couple, do not average; nothing tried is shown to gain."
        )
    return Recommendation(action, sentence, (*reasons, *_missed(effects, rows)))


def _missed(effects: pd.DataFrame, rows: int) -> tuple[str, ...]:
    """How large an effect would have been missed, and how many rows would show the margin of the study."""
    half = float(((effects["high"] - effects["low"]) / 2).max())
    if not half < float("inf"):
        return ("One replicate has no interval: give more time, or more rows.",)
    words = f"An effect below about {half:.4f} AUC would have been missed."
    if half > NEGLIGIBLE:
        more = rows * (half / NEGLIGIBLE) ** 2
        words += f" To see {NEGLIGIBLE:g}, the field's margin, about {float(f'{more:.1g}'):,.0f} rows would be needed."
    return (words,)


def _words(row: pd.Series) -> str:
    return f"{row['difference']:+.4f} AUC ({row['verdict']}, interval {row['low']:+.4f} to {row['high']:+.4f})"


def _interval(found: PairedDifference, shift: float) -> str:
    return f"{100 * found.level:g} % interval {shift + found.low:.4f} to {shift + found.high:.4f}"
