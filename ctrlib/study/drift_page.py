"""The page on drift: its tables of the main comparison with test rows of all times or the latest."""

import pandas as pd

from ctrlib.study.finetuning import CONTROLS, COUPLED
from ctrlib.study.tables import choose_by_validation, effects_by

WITHIN = ("protocol", "architecture", "split")
CHECKPOINT, ORACLE, BELOW = "AUC of the checkpoint", "oracle AUC", "checkpoint minus oracle"
EFFECT, AVERAGE = "best mutual minus best control", "average minus best control"


def with_best(replicates: pd.DataFrame) -> pd.DataFrame:
    """The replicate table of :func:`drift` and, within each protocol and split, ``best control`` and ``best mutual``,
    chosen by validation, and ``average``, the ensemble of the best control."""
    table = choose_by_validation(replicates, "best control", CONTROLS, WITHIN)
    table = choose_by_validation(table, "best mutual", COUPLED, WITHIN)
    best = table[table["condition"] == "best control"]
    return pd.concat([table, best.assign(condition="average", auc=best["ensemble_auc"])], ignore_index=True)


def between_splits(table: pd.DataFrame) -> pd.DataFrame:
    """The chronological minus the random split, paired over replicates, a family: one row per protocol and ``measure``.

    Measures: test AUC of the checkpoint, oracle AUC of the test rows, the one minus the other (what time costs a model
    beyond other test rows), and how the effects of peers and average against the best control change.

    Args:
        table: :func:`with_best`.
    """
    names = ("checkpoint", "best control", "best mutual", "average")
    key = ["protocol", "replicate", "split"]
    auc = table[table["condition"].isin(names)].pivot(index=key, columns="condition", values="auc")
    oracle = table.groupby(key, sort=False)["oracle_auc"].first()
    measures = {
        CHECKPOINT: auc["checkpoint"],
        ORACLE: oracle,
        BELOW: auc["checkpoint"] - oracle,
        EFFECT: auc["best mutual"] - auc["best control"],
        AVERAGE: auc["average"] - auc["best control"],
    }
    rows = [values.rename("auc").reset_index().assign(measure=name) for name, values in measures.items()]
    told = pd.concat(rows).rename(columns={"split": "condition"})
    found, order = (
        effects_by(told, ["protocol", "measure"], "chronological", "random"),
        list(table["protocol"].unique()),
    )
    return found.sort_values("protocol", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def with_first_setting(table: pd.DataFrame, weight: float) -> pd.DataFrame:
    """The table of :func:`with_best` in which mutual fine-tuning at ``weight`` and the rate of the pretraining, the
    paper's setting where the weight is 1, and continued training at that rate have names of their own."""
    names, at_first = table["condition"].copy(), table["rate"] == "lr"
    names[(names == "mutual") & at_first & (table["weight"] == weight)] = "first setting"
    names[(names == "continued training") & at_first] = "continued training, first rate"
    return table.assign(condition=names)


def holds(drawn: str, later: str, change: str) -> str:
    """Whether a gain holds for later test rows, from three verdicts by interval: of the effect under the random and the
    chronological split, and of the change between them."""
    if drawn != "gain":
        return "Only later test rows show a gain" if later == "gain" else "No gain is shown that could hold"
    if later == "gain":
        return "It holds"
    return "It does not hold" if "loss" in (later, change) else "Inconclusive"
