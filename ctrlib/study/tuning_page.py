"""The page on equal tuning: its tables."""

from collections.abc import Sequence

import pandas as pd

from ctrlib.study.notebook import where
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import bounds, choose_by_validation, effects_of_each, signed
from ctrlib.study.tuning import CONTROLS


def search_table(replicates: pd.DataFrame) -> pd.DataFrame:
    """Each condition's search, one row for each of its settings: mean validation and test AUC over the tuning
    replicates, and whether it is the ``chosen`` one. ``candidates`` says among how many.

    Args:
        replicates: see :func:`ctrlib.study.tables.replicate_table`; those with a ``setting`` are no search.
    """
    searches = replicates[replicates["learning_rate"].notna()]
    at = [name for name in ("data", "protocol", "condition") if name in searches]
    own = ["learning_rate", "embedding_l2", "dropout", "batch_norm", "weight"]
    table = searches.groupby([*at, *own], sort=False, dropna=False, as_index=False)[["valid_auc", "auc"]].mean()
    scores = table.groupby(at, sort=False)["valid_auc"]
    return table.assign(candidates=scores.transform("size"), chosen=table.index.isin(scores.idxmax()))


def recipes(searches: pd.DataFrame, p: StudyParameters) -> pd.DataFrame:
    """One row per data set: the recipe that the search found best, its rank by test AUC, and whether it is ``in_use``.

    Args:
        searches: see :func:`search_table`.
        p: of the page; what is in use are the parameters of each data set.
    """
    found = searches[searches["condition"] == "recipe"]
    at = ["data"] if "data" in found else ["protocol"]
    ranks = found.groupby(at, sort=False)["auc"].rank(ascending=False).astype(int)
    table = found.assign(rank_by_test=ranks)[found["chosen"]].drop(
        columns=["protocol", "condition", "weight", "chosen"]
    )
    each = [p.on(label) for label in table["data"]] if "data" in found else [p]
    names = ("learning_rate", "embedding_l2", "dropout", "batch_norm")
    rows = zip(table.to_dict("records"), each, strict=True)
    return table.assign(in_use=[all(row[name] == getattr(one, name) for name in names) for row, one in rows])


def compared(replicates: pd.DataFrame) -> pd.DataFrame:
    """The replicates that nothing was searched on, untuned and tuned by ``setting``, and in each the ``best control``:
    the one of :data:`CONTROLS` with the better validation AUC."""
    fresh = replicates[replicates["setting"].notna()].dropna(axis="columns", how="all")
    within = [name for name in ("data", "protocol", "setting") if name in fresh]
    return choose_by_validation(fresh, "best control", CONTROLS, within)


def tuned_beside_untuned(fresh: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """One row per data set, protocol and condition: its AUC minus that of the best control, untuned and tuned, with
    intervals that hold together, both verdicts, and whether the verdict ``flips``.

    Args:
        fresh: see :func:`compared`.
        conditions: the family.
    """
    at = [name for name in ("data", "protocol") if name in fresh]
    effects = effects_of_each(fresh, [*at, "setting"], {name: name for name in conditions}, "best control")
    columns = [*at, "treatment", "difference", "low", "high", "level", "verdict"]
    halves = [effects.loc[effects["setting"] == setting, columns] for setting in ("untuned", "tuned")]
    table = halves[0].merge(halves[1].drop(columns="level"), on=[*at, "treatment"], suffixes=("_untuned", "_tuned"))
    return table.assign(flips=table["verdict_untuned"] != table["verdict_tuned"])


def effects_in_words(effects: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`tuned_beside_untuned` as a reader sees them, in thousandths: each effect with its interval, and
    one verdict where tuning does not change it."""
    shown = effects[[name for name in ("data", "protocol", "treatment") if name in effects]].copy()
    for setting in ("untuned", "tuned"):
        ends = {name: effects[f"{name}_{setting}"] for name in ("difference", "low", "high")}
        rows = pd.DataFrame(ends).to_dict("records")
        shown[setting] = [f"{signed(row['difference'], milli=True)} ({bounds(row, milli=True)})" for row in rows]
    pairs = zip(effects["verdict_untuned"], effects["verdict_tuned"], strict=True)
    return shown.assign(verdict=[before if before == after else f"{before} → {after}" for before, after in pairs])


def searches_in_words(searches: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`search_table` or :func:`recipes` with what was trained and its setting in one column each."""
    words = {
        "learning_rate": "rate {:g}",
        "embedding_l2": "L2 {:g}",
        "dropout": "dropout {:g}",
        "weight": "weight {:g}",
    }
    about, settings = [name for name in ("data", "protocol", "condition") if name in searches], []
    for row in searches.to_dict("records"):
        said = [form.format(row[name]) for name, form in words.items() if name in row and row[name] == row[name]]
        settings.append(", ".join([*said, *["batch norm"] * (row["batch_norm"] is True)]))
    trained = [where(*levels) for levels in searches[about].itertuples(index=False)]
    return pd.DataFrame({"trained": trained, "setting": settings, **searches[["valid_auc", "auc", "candidates"]]})
