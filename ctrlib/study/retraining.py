"""What training again changes: the ledger of the excess log loss, and the churn of what is served.

Everything here is trained from scratch, a whole retraining: initial weights, order of the rows and, where asked for,
other rows. A fine-tuning would inherit most of a checkpoint's deviations and show those of its last epochs alone.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd

from ctrlib.errors import UserError, shown
from ctrlib.stats.paired import relative_difference
from ctrlib.store.measures import excess_ledger, retraining_churn
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Condition, Replicate, Runs
from ctrlib.study.controls import RDROP, RDROP_DROPOUT, offline_distillation
from ctrlib.study.tables import effects_of_each, overlap, together

ONE, ENSEMBLE, PREDECESSOR = "one model", "ensemble", "distilled from the predecessor"
OWN_CONTROL = {"R-Drop": "dropout"}  # of all others it is one model
PARTS = ("bias", "data variance", "seed variance")


def ledger(r: Replicate) -> list[Condition]:
    """What is served, for each of ``p.rows_seeds`` draws of the replicate's rows and ``p.cohorts`` cohorts on each, all
    with seeds of their own: one model, mutual at each weight, distilled; and dropout with and without R-Drop.

    Raises:
        UserError: data whose true click probability is not known.
    """
    if r.p.dataset != "synthetic":
        raise UserError(f"dataset={shown(r.p.dataset)}: the true click probability is needed; allowed: 'synthetic'")
    conditions = []
    for n, (rows_seed, cohort) in enumerate(product(r.p.rows_seeds, range(r.p.cohorts))):
        at = replace(r.varied(rows_seed=rows_seed), cohort=n)
        noisy = at.varied(dropout=r.p.dropout or RDROP_DROPOUT).alone_for_all_epochs(1)
        found = {**retrained(at), "dropout": noisy, "R-Drop": with_recipe(noisy, rdrop=RDROP)}
        conditions += r.conditions(found, rows_seed=rows_seed, cohort=cohort)
    return conditions


def churn(r: Replicate) -> list[Condition]:
    """What is served today and, trained again with seeds of its own, tomorrow: one model, mutual at each weight,
    distilled, averaged weights, and one model distilled from that of today (Jiang et al. 2021, arXiv 2106.02654). On
    the same rows and, where synthetic clicks have a ``p.lag``, from rows that much earlier to those of tomorrow."""
    tomorrow = replace(r.varied(lag=0.0), cohort=1)
    days = {"same rows": r.varied(lag=0.0)}
    if r.p.dataset == "synthetic" and r.p.lag:
        days["a day later"] = r
    conditions, ema = [], {"averaging": "ema", "averaging_decay": r.p.averaging_decay}
    for rows, today in days.items():
        before, after = (
            {**retrained(at), "averaged weights": with_recipe(at.alone_for_all_epochs(1), **ema)}
            for at in (today, tomorrow)
        )
        before[PREDECESSOR] = before[ONE][:1]
        after[PREDECESSOR] = offline_distillation(tomorrow, before[ONE][:1], r.p.mutual_weights[-1])
        conditions += r.conditions(before, rows=rows, day=0) + r.conditions(after, rows=rows, day=1)
    return conditions


def retrained(r: Replicate) -> dict[str, Runs]:
    """From scratch: the cohort's models each alone, coupled at each weight, and one model distilled from the ensemble
    of those alone at the last weight."""
    alone = r.alone_for_all_epochs(r.p.instances)
    coupled = {f"mutual, weight {weight:g}": r.from_scratch(r.coupling(weight)) for weight in r.p.mutual_weights}
    return {ONE: alone, **coupled, "distilled": offline_distillation(r, alone, r.p.mutual_weights[-1])[:1]}


def with_recipe(runs: Runs, **changes: Any) -> Runs:
    """The same runs with other settings of the recipe."""
    return [run.model_copy(update={"recipe": run.recipe.model_copy(update=changes)}) for run in runs]


def served(conditions: Iterable[Condition]) -> Iterable[tuple[str, Condition, tuple[Record, ...]]]:
    """What is served of each condition: name, condition and the records whose first members are; of models alone one,
    and their ensemble."""
    for one in conditions:
        yield one.name, one, one.records[:1]
        if one.name == ONE:
            yield ENSEMBLE, one, one.records


def ledger_table(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per protocol, condition and replicate: the :data:`PARTS` of the excess log loss for any number of draws
    and seeds (:meth:`ctrlib.stats.ledger.Ledger.unlimited`), and the ``excess``, their sum."""
    grids: dict[tuple, dict[int, list[tuple[Record, ...]]]] = {}
    for name, one, records in served(conditions):
        grid = grids.setdefault((one.factors["protocol"], name, one.seed), {})
        grid.setdefault(one.factors["rows_seed"], []).append(records)
    rows = []
    for (protocol, name, seed), grid in grids.items():
        found = excess_ledger(store, list(grid.values())).unlimited()
        parts = dict(zip(PARTS, (found.bias, found.data_variance, found.seed_variance), strict=True))
        rows.append({"protocol": protocol, "condition": name, "replicate": seed, **parts, "excess": found.excess})
    return pd.DataFrame(rows)


def removed(ledgers: pd.DataFrame) -> pd.DataFrame:
    """Which share of each part, and of the excess, a condition removes of what its control has: one row per protocol,
    condition and part, from :func:`ledger_table`.

    A ratio of means over replicates (planted laws) with Fieller's interval
    (:func:`ctrlib.stats.paired.relative_difference`). The intervals of all rows hold together, each at ``level``.
    """
    found: list[tuple[dict[str, str], pd.Series, pd.Series]] = []
    for (protocol, name), treated in ledgers.groupby(["protocol", "condition"], sort=False):
        control = OWN_CONTROL.get(name, ONE)
        other = ledgers[(ledgers["protocol"] == protocol) & (ledgers["condition"] == control)]
        for part in () if name == ONE else (*PARTS, "excess"):
            pair = (table.set_index("replicate")[part] for table in (treated, other))
            found.append(({"protocol": protocol, "condition": name, "against": control, "part": part}, *pair))
    level = together(relative_difference(a, b.loc[a.index]) for _, a, b in found)
    rows = []
    for at, a, b in found:
        change = relative_difference(a, b.loc[a.index], level)
        rows.append({**at, "share": -change.mean, "low": -change.high, "high": -change.low, "level": level})
    return pd.DataFrame(rows)


def share_words(row: dict[str, Any]) -> str:
    """A row of :func:`removed` in percent, with its interval where there is a bounded one; unknown where the control
    has nothing to remove."""
    if not math.isfinite(row["share"]):
        return "an unknown share"
    interval = f" ({row['low']:.0%} to {row['high']:.0%})" if math.isfinite(row["low"] + row["high"]) else ""
    return f"{row['share']:.0%}{interval}"


def churn_table(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per protocol, rows, condition and replicate: the relative prediction ``difference`` between what is
    served today and tomorrow, and the mean test ``auc`` of both."""
    pairs: dict[tuple, dict[int, tuple[Record, ...]]] = {}
    about: dict[tuple, dict[str, Any]] = {}
    for name, one, records in served(conditions):
        labels = {**one.labels, "condition": name, "overlap": overlap(one)}
        day = labels.pop("day")
        key = tuple(labels.values())
        about[key] = labels
        pairs.setdefault(key, {})[day] = records
    return pd.DataFrame([{**about[key], **retraining_churn(store, pair[0], pair[1])} for key, pair in pairs.items()])


def churn_effects(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """A column of :func:`churn_table` of each condition against that of one model: a family, whose intervals hold
    together."""
    factors = [name for name in ("data", "protocol", "rows") if name in table]
    return effects_of_each(
        table, factors, {name: name for name in table["condition"].unique() if name != ONE}, ONE, value
    )
