"""The page on drift: its tables of the main comparison with test rows of all times or the latest."""

import pandas as pd

from ctrlib.study.tables import effects_by

WITHIN = ("protocol", "architecture", "split")
CHECKPOINT, ORACLE, BELOW = "AUC of the checkpoint", "oracle AUC", "checkpoint minus oracle"
EFFECT, AVERAGE = "best mutual minus best control", "average minus best control"


def between_splits(table: pd.DataFrame) -> pd.DataFrame:
    """The chronological minus the random split, paired over replicates, a family: one row per protocol and ``measure``.

    Measures: test AUC of the checkpoint, oracle AUC of the test rows, the one minus the other (what time costs a model
    beyond other test rows), and how the effects of peers and average against the best control change.

    Args:
        table: of :func:`ctrlib.study.tables.with_best` within :data:`WITHIN` and ``with_average``.
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
    found = effects_by(told, ["protocol", "measure"], "chronological", "random")
    order = list(table["protocol"].unique())
    return found.sort_values("protocol", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def with_first_setting(table: pd.DataFrame, weight: float) -> pd.DataFrame:
    """The table with names of their own for mutual fine-tuning at ``weight`` and the rate of the pretraining, which at
    weight 1 is the paper's setting, and for continued training at that rate."""
    names, at_first = table["condition"].copy(), table["rate"] == "lr"
    names[(names == "mutual") & at_first & (table["weight"] == weight)] = "first setting"
    names[(names == "continued training") & at_first] = "continued training, first rate"
    return table.assign(condition=names)


def holds(drawn: str, later: str, change: str) -> str:
    """Whether a gain holds for later test rows, from three verdicts by interval: of the effect under the random and the
    chronological split, and of the change between them."""
    if drawn != "gain":
        return "Only later test rows show a gain" if later == "gain" else "Neither division shows a gain"
    if later == "gain":
        return "The gain holds"
    return "The gain does not hold" if "loss" in (later, change) else "Inconclusive"
