"""The pages on the ledger and on churn: their tables."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ctrlib.stats.paired import relative_difference
from ctrlib.store.measures import excess_ledger, retraining_churn
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Condition
from ctrlib.study.retraining import ONE
from ctrlib.study.tables import effects_of_each, overlap, together

ENSEMBLE = "ensemble"
OWN_CONTROL = {"R-Drop": "dropout"}  # of all others it is one model
PARTS = ("bias", "data variance", "seed variance")


def served(conditions: Iterable[Condition]) -> Iterator[tuple[str, Condition, tuple[Record, ...]]]:
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
    condition and part, from :func:`ledger_table`; none where both are the same runs.

    A ratio of means over replicates (planted laws) with Fieller's interval
    (:func:`ctrlib.stats.paired.relative_difference`). The intervals of all rows hold together, each at ``level``.
    """
    found: list[tuple[dict[str, str], pd.Series, pd.Series]] = []
    for (protocol, name), treated in ledgers.groupby(["protocol", "condition"], sort=False):
        control = OWN_CONTROL.get(name, ONE)
        other = ledgers[(ledgers["protocol"] == protocol) & (ledgers["condition"] == control)]
        mine, theirs = (table.set_index("replicate")[[*PARTS, "excess"]] for table in (treated, other))
        for part in () if mine.equals(theirs.loc[mine.index]) else mine:
            at = {"protocol": protocol, "condition": name, "against": control, "part": part}
            found.append((at, mine[part], theirs[part]))
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


def changes(rows: Iterable[dict[str, Any]]) -> str:
    """Rows of :func:`removed` in a sentence: which parts are removed, which added, of which neither is shown."""
    said: dict[str, list[str]] = {"removes": [], "adds": [], "shows no change of": []}
    for row in rows:
        does = "removes" if row["low"] > 0 else "adds" if row["high"] < 0 else "shows no change of"
        amount = {"removes": "{:.0%} of ", "adds": "{:.0%} to "}.get(does, "").format(abs(row["share"]))
        said[does].append(f"{amount}the {row['part']}")
    return "; ".join(f"{does} {' and '.join(parts)}" for does, parts in said.items() if parts)


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
