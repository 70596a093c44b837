"""What to hold mutual learning against, as tables: its rivals, and what else could be served for the price.

The tables have a column ``data``, the data set. Every choice is made in each replicate by validation AUC.
"""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ctrlib.store.measures import growing_ensembles
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import serving_cost
from ctrlib.study.conditions import Condition
from ctrlib.study.finetuning import CONTROLS
from ctrlib.study.parameters import Rival
from ctrlib.study.tables import by_factors, choose_by_validation, family, overlap, replicate_table, spoken

WITHIN = ("data", "protocol")
CHOSEN = "best "  # before the name of a condition: that one at its best rate, weight or setting


def with_rivals(replicates: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The replicate table of :func:`ctrlib.study.controls.rivals` with what validation chooses, and the rivals in it.

    Chosen are ``best control``, of the checkpoint and continued training at each rate; ``best mutual``, at its rate and
    weight; ``best of the rivals``; and each rival by itself, ``best ...``, at its rate and weight. The column
    ``candidates`` says of how many.
    """
    there = set(replicates["condition"])
    rivals = [name for name in get_args(Rival) if name in there]
    offered = {"control": CONTROLS, "of the rivals": rivals}
    offered |= {name: [name] for name in ("mutual", *rivals)}
    for name, candidates in offered.items():
        replicates = choose_by_validation(replicates, CHOSEN + name, candidates, WITHIN)
    return replicates, rivals


def favourites(table: pd.DataFrame) -> str:
    """From :func:`with_rivals`: the rival that was the best by validation in most replicates, by data set, over both
    protocols."""
    chosen = table[table["condition"] == CHOSEN + "of the rivals"]
    kinds = chosen.assign(kind=chosen["chosen"].str.partition(", ")[0]).groupby("data", sort=False)["kind"]
    most = kinds.agg(lambda names: names.value_counts().index[0])
    return ", ".join(f"{name} on {spoken(data)}" for data, name in most.items())


def served_options(store: RunStore, conditions: Iterable[Condition], sizes: Sequence[int]) -> pd.DataFrame:
    """One row per replicate and thing to serve, from :func:`ctrlib.study.controls.serving_frontier`.

    What was trained, and the ``average of K`` of the first K models for each K of ``sizes``, at the setting with the
    best validation AUC (``chosen``, of ``candidates``): test ``auc`` and ``logloss``, means over members where not
    averaged, and ``multiply_adds`` of one row in matrix products, see :func:`ctrlib.study.analysis.inference_cost`.
    """
    conditions = list(conditions)
    averages = []
    for one in (one for one in conditions if one.name == "one model"):
        scores = growing_ensembles(store, one.records)
        for k in sizes:
            of_k = {name: values[k - 1] for name, values in scores.items()}
            averages.append({**one.labels, "condition": f"average of {k}", **of_k, "overlap": overlap(one)})
    table = pd.concat([replicate_table(store, conditions), pd.DataFrame(averages)], ignore_index=True)
    options = list(dict.fromkeys(table["condition"]))
    for name in options:
        table = choose_by_validation(table, CHOSEN + name, [name], WITHIN)
    table = table[table["condition"].str.startswith(CHOSEN)].drop(columns="setting")
    table["condition"] = table["condition"].str.removeprefix(CHOSEN)
    costs = {}
    for data in dict.fromkeys(table["data"]):
        found = serving_cost(store, [one for one in conditions if one.factors["data"] == data])
        costs |= {(data, name): cost for name, cost in zip(found["condition"], found["multiply_adds"], strict=True)}
    table["multiply_adds"] = [
        costs[data, "one model"] * int(name.split()[-1]) if name.startswith("average of ") else costs[data, name]
        for data, name in zip(table["data"], table["condition"], strict=True)
    ]
    return table.reset_index(drop=True)


def on_the_frontier(cost: ArrayLike, score: ArrayLike) -> np.ndarray:
    """Whether nothing else scores as high at no more cost, of each of several options (N,); of two that are alike in
    both, both are."""
    cost, score = np.asarray(cost, dtype=np.float64), np.asarray(score, dtype=np.float64)
    no_worse = (cost <= cost[:, None]) & (score >= score[:, None])
    return ~(no_worse & ((cost < cost[:, None]) | (score > score[:, None]))).any(axis=1)


def frontier_table(options: pd.DataFrame) -> pd.DataFrame:
    """One row per data set, protocol and option, the cheapest first: its multiply-adds, the means over replicates of
    AUC and log loss, whether it is on the frontier of either (``auc_frontier``, ``logloss_frontier``), and
    ``candidates``."""
    mean = options.groupby([*WITHIN, "condition"], sort=False, as_index=False)[
        ["multiply_adds", "auc", "logloss", "candidates"]
    ].mean()
    parts = []
    for _, part in by_factors(mean, WITHIN):
        marks = {
            "auc_frontier": on_the_frontier(part["multiply_adds"], part["auc"]),
            "logloss_frontier": on_the_frontier(part["multiply_adds"], -part["logloss"]),
        }
        parts.append(part.assign(**marks).sort_values("multiply_adds", kind="stable"))
    return pd.concat(parts, ignore_index=True).astype({"candidates": int})


def against_the_average(options: pd.DataFrame) -> pd.DataFrame:
    """What is not an average against the average of most models that costs no more multiply-adds, or against
    ``one model``: a family, see :func:`ctrlib.study.tables.family`. The column ``against`` names it."""
    rows = []
    for about, part in by_factors(options, WITHIN):
        costs = part.groupby("condition", sort=False)["multiply_adds"].first()
        plain = costs[[name == "one model" or name.startswith("average of ") for name in costs.index]]
        for name in costs.index.difference(plain.index, sort=False):
            affordable = plain[plain <= costs[name]]
            against = affordable.idxmax() if len(affordable) else "one model"
            rows.append(({**about, "option": name, "against": against}, part, (name, against)))
    return family(rows)
