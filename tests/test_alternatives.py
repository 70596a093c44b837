"""Rivals of mutual learning and what else could be served: what validation chooses, and the tables, by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ctrlib.data.load import load_data
from ctrlib.store.runs import RunStore
from ctrlib.study.alternatives import (
    against_the_average,
    frontier_table,
    on_the_frontier,
    served_options,
    with_rivals,
)
from ctrlib.study.conditions import Condition, Replicate
from ctrlib.study.controls import serving_frontier
from ctrlib.study.experiments import train_conditions
from ctrlib.study.figures import attached_table, effects, frontier
from ctrlib.study.notebook import outcome
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import effects_against, effects_of_each

Served = tuple[list[Condition], pd.DataFrame]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    """Trained conditions of two replicates, three models to average, two settings each; and their table."""
    tiny = {"rows": 400, "valid_rows": 300, "test_rows": 500, "batch_size": 100, "embedding_dim": 2, "epochs": 1}
    model = {"architecture": "DeepFM", "hidden_units": [4], "learning_rate": 0.02, "submodels": [3], "device": "cpu"}
    p = StudyParameters(**tiny, **model, instances=2, sizes=[2, 3], settings=2, mutual_weights=[1, 20])
    store, data = RunStore(tmp_path_factory.mktemp("store")), {"data": "here"}
    found = [one for seed in (1, 2) for one in serving_frontier(Replicate(p, seed, "fixed_epochs"))]
    store.ensure([run for one in found for run in one.runs if not (run.start or run.teachers)], workers=1)
    conditions = train_conditions(p, store, [replace(one, factors=one.factors | data) for one in found])
    return conditions, served_options(store, conditions, p.sizes)


def test_what_is_served_is_chosen_by_validation_and_scored_by_hand(served: Served) -> None:
    """Averages are of the first k models; nothing of a choice comes from the test rows."""
    conditions, table = served
    sizes = {"average of 2": 2, "average of 3": 3}
    expected = ["one model", "width x2", "width x4", "TabM 3", "distilled", "mutual", *sizes]
    assert [table["condition"].tolist().count(name) for name in expected] == [2] * len(expected) == [len(table) / 8] * 8
    for row in table.itertuples():
        source = "one model" if row.condition in sizes else row.condition
        offered = [one for one in conditions if (one.name, one.seed) == (source, row.replicate)]
        rows = load_data(offered[0].runs[0].data)
        scores = []
        for one in offered:
            valid, test = (one.probabilities(part)[: sizes.get(row.condition)] for part in ("valid", "test"))
            if row.condition in sizes:
                valid, test = (part.sum(axis=0, keepdims=True) / len(part) for part in (valid, test))
            scores.append([
                np.mean([roc_auc_score(rows.valid.labels, p) for p in valid]),
                np.mean([roc_auc_score(rows.test.labels, p) for p in test]),
                np.mean([log_loss(rows.test.labels, p) for p in test]),
            ])  # fmt: skip
        best = max(range(2), key=lambda n: scores[n][0])
        assert [row.valid_auc, row.auc, row.logloss] == pytest.approx(scores[best], rel=1e-12)
        assert row.chosen.endswith(offered[best].factors["setting"])
        assert row.candidates == 2


def test_multiply_adds_are_those_of_the_products(served: Served) -> None:
    """Ten fields, embeddings of 2 and one hidden layer of 4; K submodels pass K times through its matrix."""
    cost = served[1].groupby("condition")["multiply_adds"].first().to_dict()
    plain, tabm = 10 * 2 * 4 + 4, 3 * (10 * 2 * 4 + 4)
    wide = {f"width x{k}": 10 * (2 * k) * (4 * k) + 4 * k for k in (2, 4)}
    averages = {f"average of {k}": k * plain for k in (2, 3)}
    assert cost == {"one model": plain, "mutual": plain, "distilled": plain, "TabM 3": tabm, **wide, **averages}
    against = against_the_average(served[1]).set_index("option")["against"].to_dict()
    three = dict.fromkeys(("width x2", "width x4", "TabM 3"), "average of 3")
    assert against == {"mutual": "one model", "distilled": "one model", **three}


def test_the_frontier_is_what_nothing_beats_at_no_more_cost(served: Served) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        cost, score = rng.integers(1, 6, 8), rng.integers(0, 5, 8)
        naive = [
            not any((c <= cost[n] and s > score[n]) or (c < cost[n] and s == score[n])
                    for c, s in zip(cost, score, strict=True))
            for n in range(8)
        ]  # fmt: skip
        assert on_the_frontier(cost, score).tolist() == naive
    table = frontier_table(served[1])
    assert table["multiply_adds"].is_monotonic_increasing
    best = [(name, table[name].idxmax() if name == "auc" else table[name].idxmin()) for name in ("auc", "logloss")]
    assert all(table.loc[at, f"{name}_frontier"] for name, at in best), "the best of all is on it, whatever it costs"
    drawn = frontier(table)
    assert [ax.get_xscale() for ax in drawn.axes] == ["log"] * 2
    words = {text.get_text() for ax in drawn.axes for text in ax.texts}
    assert words == {"one model", "width x2", "width x4", "TabM 3", "distilled", "mutual", "2"}, (
        "of averages those of 2, 4, 8, ... models"
    )


def rivals_table(rng: np.random.Generator) -> pd.DataFrame:
    """Three replicates on two data sets, of which one has MEDA."""
    names = [("checkpoint", None, np.nan), ("MEDA", "lr", np.nan)]
    names += [(name, rate, np.nan) for name in ("continued training", "label smoothing") for rate in ("lr", "lr/10")]
    names += [(name, rate, w) for name in ("mutual", "self-anchor") for rate in ("lr", "lr/10") for w in (1.0, 20.0)]
    keys = [(d, *one, n) for d in ("a", "b") for one in names for n in range(3) if (d, one[0]) != ("b", "MEDA")]
    table = pd.DataFrame(keys, columns=["data", "condition", "rate", "weight", "replicate"])
    drawn = {name: rng.uniform(0.5, 1, len(table)) for name in ("valid_auc", "auc")}
    return table.assign(protocol="early_stopping", **drawn)


def test_rivals_are_chosen_by_validation_alone_and_counted() -> None:
    table = rivals_table(np.random.default_rng(1))
    found, rivals = with_rivals(table)
    assert rivals == ["label smoothing", "self-anchor", "MEDA"]
    best = found[found["chosen"].notna()].set_index(["data", "condition"])
    assert best[["rate", "weight"]].isna().all(axis=None), "the control of another row is found by neither"
    words = "self-anchor, rate lr(/10)?, weight (1|20)"
    assert best.loc[("a", "best self-anchor"), "chosen"].str.fullmatch(words).all()
    counts = {"best control": 3, "best mutual": 4, "best of the rivals": 7, "best label smoothing": 2, "best MEDA": 1}
    for name, count in {**counts, "best self-anchor": 4}.items():
        assert best.loc[("a", name), "candidates"].tolist() == [count] * 3
    assert best.loc[("b", "best of the rivals"), "candidates"].tolist() == [6] * 3
    for (data, name), part in best.groupby(level=[0, 1]):
        kinds = {"best control": ["checkpoint", "continued training"], "best of the rivals": rivals}
        offered = table[(table["data"] == data) & table["condition"].isin(kinds.get(name, [name[5:]]))]
        for row in part.itertuples():
            mine = offered[offered["replicate"] == row.replicate]
            assert row.auc == mine.loc[mine["valid_auc"].idxmax(), "auc"]
    other, _ = with_rivals(table.assign(auc=1 - table["auc"]))
    pd.testing.assert_series_equal(other["chosen"], found["chosen"])


def test_where_a_rival_is_missing_there_is_no_row() -> None:
    found, rivals = with_rivals(rivals_table(np.random.default_rng(2)))
    within, best = ["data", "protocol"], {name: f"best {name}" for name in rivals}
    against = effects_against(found, within, "best mutual", best)
    of_each = effects_of_each(found, within, best, "best control")
    for table, column in ((against, "against"), (of_each, "treatment")):
        rows = set(zip(table["data"], table[column], strict=True))
        assert rows == {(data, name) for data in "ab" for name in rivals} - {("b", "MEDA")}
    drawn = attached_table(effects(found, {name: (best[name], "best control") for name in rivals}, by="data"))
    assert set(zip(drawn["data"], drawn["comparison"], strict=True)) == rows


def test_an_outcome_names_where_and_how_much_by_protocol() -> None:
    shown = "no difference shown"
    rows = [("log_a", "fixed_epochs", 0.002, 0.001, 0.003, "gain"), ("ml1m", "fixed_epochs", 0.0, -0.001, 0.001, shown)]
    rows += [("synthetic_200k", "early_stopping", -0.002, -0.003, -0.001, "loss")]
    columns = ["data", "protocol", "difference", "low", "high", "verdict"]
    table = pd.DataFrame(rows, columns=columns).assign(level=0.975)
    first = "Early stopping: less on synthetic clicks (-2.00, -3.00 to -1.00)."
    second = (
        "Fixed epochs: more on log a (+2.00, +1.00 to +3.00); neither is shown on MovieLens (+0.00, -1.00 to +1.00)."
    )
    assert outcome(table, "more", "less").startswith(f"{first} {second} Intervals: 97.5 %")
    assert outcome(table.iloc[2:]).startswith("Early stopping: loss on")
