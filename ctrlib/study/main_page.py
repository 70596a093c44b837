"""What the pages of the main comparison share: what peers give beyond the best that needs no peer, on one data set.

Best control and best mutual learning are chosen by validation in each replicate
(:func:`ctrlib.study.tables.with_best`). The effects of the main table are one family; the answer is read there.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from ctrlib.store.measures import pooled_difference
from ctrlib.store.runs import RunStore
from ctrlib.study import figures
from ctrlib.study.conditions import Condition
from ctrlib.study.finetuning import BY_RULE, PAPERS_OWN
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import (
    PEERS,
    bounds,
    by_appearance,
    effects_against,
    effects_by,
    rarity_table,
    signed,
    spoken,
    three_ways,
    with_best,
)
from ctrlib.study.verdicts import NEGLIGIBLE

SAME = "same without peers"
MUTUAL = {"paper's own": (PAPERS_OWN[0], PAPERS_OWN[1]), "chosen": ("best mutual", SAME)}  # and each without its peers
LOOK = {  # of the figure: condition, score, marker
    "best control": ("best control", "auc", {"color": figures.GREY}),
    "mutual, chosen": ("best mutual", "auc", {"color": figures.PALETTE[0]}),
    "mutual, paper's own": (PAPERS_OWN[0], "auc", {"color": figures.PALETTE[4], "marker": "s"}),
    "ensemble of the checkpoints": ("checkpoint", "ensemble_auc", {"color": figures.REFERENCE, "marker": "D"}),
    "of the best control": ("best control", "ensemble_auc", {"edgecolors": figures.GREY, "marker": "D"}),
    "of the mutual": ("best mutual", "ensemble_auc", {"edgecolors": figures.PALETTE[0], "marker": "D"}),
}


def levels(table: pd.DataFrame) -> list[str]:
    """The factors within which a choice is made and a row of the page stands."""
    return [name for name in ("setting", "data", "architecture", "protocol") if name in table]


def with_sides(replicates: pd.DataFrame, p: StudyParameters) -> pd.DataFrame:
    """The replicate table with ``best control``, ``best mutual`` and :data:`SAME`: of what was chosen as best mutual,
    the training that differs by the peers alone. The column ``setting`` says data (where there are several),
    architecture and protocol in words, and which architectures have peers at one rate only."""
    several = "data" in replicates and replicates["data"].nunique() > 1
    replicates = replicates.assign(setting=[
        f"{row['data']}, " * several + f"{row['architecture']}, {spoken(row['protocol'])}"
        + ", one rate" * (row["architecture"] in p.one_rate)
        for row in replicates.assign(data=replicates.get("data")).to_dict("records")
    ])  # fmt: skip
    table, within = with_best(replicates, levels(replicates)), [*levels(replicates), "replicate", "rate"]
    chosen = replicates.loc[table.loc[table["condition"] == "best mutual", "row"].astype(int)]
    wanted = chosen[within].assign(condition=chosen["condition"].map(dict(PEERS.values())))
    same = wanted.merge(replicates, how="left", on=[*within, "condition"]).assign(condition=SAME, rate=None)
    return pd.concat([table, same], ignore_index=True)


def peers_beyond(table: pd.DataFrame) -> pd.DataFrame:
    """The family of the page: mutual learning at the paper's own setting and as chosen, against three controls."""
    return by_appearance(three_ways(table, levels(table), MUTUAL), ["setting"])


def answer(effects: pd.DataFrame, architecture: str) -> str:
    """What peers give one architecture beyond the best that needs none, as chosen, a clause a protocol: they *help* or
    *do harm* where the interval excludes zero, and where it lies within the margin that is *less than a thousandth*;
    else they *make no difference of a thousandth* (within the margin) or *are not shown to help*."""
    rows, clauses = effects[(effects["architecture"] == architecture) & (effects["treatment"] == "chosen")], []
    for row in rows.to_dict("records"):
        small = row["low"] > -NEGLIGIBLE and row["high"] < NEGLIGIBLE
        if verb := {"gain": "help", "loss": "do harm"}.get(row["verdict"]):
            verb += ", by less than a thousandth" * small
        else:
            verb = "make no difference of a thousandth" if small else "are not shown to help"
        interval = f"{100 * row['level']:.4g} % interval {bounds(row)}"
        where = spoken(row["protocol"]) + f" ({row.get('data')})" * bool(rows["protocol"].duplicated().any())
        clauses.append(f"under {where} peers {verb}, {signed(row['difference'])} AUC ({interval})")
    clauses.append(f"{int(rows['replicates'].min())} replicates")
    return f"Beyond the best that needs no peer, {architecture}: {'; '.join(clauses)}."


def candidates(table: pd.DataFrame) -> str:
    """Among how many each side was chosen, in words."""
    chosen = table[table["candidates"].notna()].drop_duplicates(["setting", "condition"])
    counts = chosen.pivot(index="setting", columns="condition", values="candidates").loc[chosen["setting"].unique()]
    words = (f"{of} {int(row['best control'])} and {int(row['best mutual'])}" for of, row in counts.iterrows())
    return f"Chosen by validation among so many without peers and with them: {'; '.join(words)}."


def dumbbells(table: pd.DataFrame) -> Axes:
    """Best control, mutual learning and ensembles minus the checkpoint, a row a setting."""
    at = dict(iter(table.set_index(["setting", "replicate"]).groupby("condition")))
    parts = [
        (at[condition][score] - at["checkpoint"]["auc"]).rename("difference").reset_index().assign(what=what)
        for what, (condition, score, _) in LOOK.items()
    ]
    look = {what: marker for what, (_, _, marker) in LOOK.items()}
    return figures.dumbbells(pd.concat(parts), look, ("best control", "mutual, chosen"))


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over replicates of the checkpoint, the best control and mutual learning, in each setting."""
    names = ["checkpoint", "best control", *(names[0] for names in MUTUAL.values())]
    scores = ["auc", "logloss", "calibration", "ensemble_auc", "ensemble_logloss", "churn"]
    mean = table[table["condition"].isin(names)].groupby(["setting", "condition"], sort=False)[scores].mean()
    return mean.loc[list(table["setting"].unique())].reset_index()


def rarity_effects(
    store: RunStore, conditions: Sequence[Condition], table: pd.DataFrame, architecture: str, value: str = "auc"
) -> pd.DataFrame:
    """Best mutual minus best control of one architecture in each part of the test rows by rarity, a family."""
    sides = table[table["condition"].isin(["best control", "best mutual"]) & (table["architecture"] == architecture)]
    parts = rarity_table(store, conditions, sides[["setting", "condition", "replicate", "overlap", "row"]])
    return effects_by(parts, ["setting", "part"], "best mutual", "best control", value)


def by_rule(table: pd.DataFrame) -> pd.DataFrame:
    """From scratch under each rule of stopping: mutual minus alone, and minus the checkpoint, a family."""
    mutual, alone, checkpoint = BY_RULE
    controls = {"alone from scratch": alone, "the checkpoint": checkpoint}
    return effects_against(table, ["setting", "stopping", "weight"], mutual, controls)


def over_all_rows(store: RunStore, conditions: Sequence[Condition], table: pd.DataFrame) -> pd.DataFrame:
    """Best mutual minus best control over all test rows by DeLong's test, for replicates that share no test row."""
    rows = []
    for setting, part in table.groupby("setting", sort=False):
        sides = (part[part["condition"] == name]["row"] for name in ("best mutual", "best control"))
        found = pooled_difference(store, *([conditions[int(row)].records for row in side] for side in sides))
        bounds = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p_value}
        rows.append({"setting": setting, **bounds})
    return pd.DataFrame(rows)
