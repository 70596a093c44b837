"""Equal tuning: the same settings for every condition, chosen by validation AUC alone, compared on other rows."""

import numpy as np
import pandas as pd
import pytest
from small import refused

from ctrlib.config import Run
from ctrlib.store.runs import RunStore, open_store
from ctrlib.study import experiments, tuning, tuning_page
from ctrlib.study.conditions import Condition, Replicate
from ctrlib.study.parameters import TUNED, StudyParameters
from ctrlib.study.tables import replicate_table

SMALL = {"rows": 300, "valid_rows": 200, "test_rows": 200, "fields": 4, "largest_field": 20, "batch_size": 100}
MODELS = {"architecture": "DeepFM", "embedding_dim": 2, "hidden_units": [4], "learning_rate": 0.02, "instances": 2}
PLAN = {"seeds": [1, 2], "tuning_seeds": [7, 8], "tuned": TUNED, "search_size": 2, "epochs": 1, "device": "cpu"}


def parameters(**changes) -> StudyParameters:
    return StudyParameters(**{**SMALL, **MODELS, **PLAN, "protocols": ["fixed_epochs"], **changes})


def test_settings_cover_each_range_evenly_and_follow_from_the_seed() -> None:
    p = parameters(search_size=16, search_l2=[0, 1e-5, 1e-4, 1e-3])
    settings = pd.DataFrame(tuning.search_settings(p))
    for place in ("rate", "weight"):
        assert sorted((settings[place] * 16).astype(int)) == list(range(16))
    for level, count in (("embedding_l2", 4), ("dropout", 8), ("batch_norm", 8)):
        assert set(settings[level].value_counts()) == {count}
    assert tuning.search_settings(p) == settings.to_dict("records")
    assert tuning.search_settings(p.model_copy(update={"search_seed": 1})) != settings.to_dict("records")
    more = {"search_size": 4, "search_seed": 1, "search_l2": [1e-2]}
    both = tuning.search_settings(p.model_copy(update={"search_more": more}))
    assert both[:16] == settings.to_dict("records")
    assert both[16:] == tuning.search_settings(parameters(**more))


def test_every_condition_makes_its_own_of_the_same_settings_within_its_ranges() -> None:
    p = parameters(search_size=16, search_rates=[1e-3, 1e-1], search_weights=[1, 100])
    settings = tuning.search_settings(p)
    by_rate = np.argsort([one["rate"] for one in settings])
    for name in TUNED:
        own = [tuning.own_setting(name, p, one) for one in settings]
        assert all(set(one) == set(tuning.untuned_setting(name, p)) for one in own), "tuned is what was set before"
        rates = np.array([own[n]["learning_rate"] for n in by_rate])
        low, high = (1e-3, 1e-1) if name in tuning.FROM_SCRATCH else (2e-4, 2e-2)
        assert (np.diff(rates) >= 0).all()
        assert low <= rates[0] < 1.6 * low
        assert high / 1.6 < rates[-1] <= high
        least = 0.2 if name == "R-Drop" else 0.0
        assert [one["dropout"] for one in own] == [one["dropout"] or least for one in settings]


def test_what_starts_from_checkpoints_starts_from_one_model_and_differs_by_its_setting() -> None:
    r = Replicate(parameters(dropout=0.1), 1, "fixed_epochs")
    one = {run.fingerprint for run in r.pretraining()}
    own = {"learning_rate": 0.005, "dropout": 0.3, "weight": 2.0}
    for name in ("continued training", "mutual", "R-Drop", "MEDA"):
        runs = tuning.trainings(name, r, own, 2)
        assert [start.run for run in runs for start in run.start] == [run.fingerprint for run in r.pretraining()][:2]
        assert {member.dropout for run in runs for member in run.members} == {0.3}
        assert {run.recipe.learning_rate for run in runs} == {0.005}
        assert {run.recipe.rdrop for run in runs} == {2.0 if name == "R-Drop" else 0.0}
        assert {run.recipe.meda for run in runs} == {name == "MEDA"}
        assert all(Run.model_validate(run.model_dump()) == run for run in runs)
    scratch = {**own, "embedding_l2": 1e-4, "batch_norm": True}
    for name in ("mutual from scratch", "distilled"):
        runs = tuning.trainings(name, r, scratch, 2)
        assert all(run.start is None and run.recipe.embedding_l2 == 1e-4 for run in runs)
        assert {sum(row) for run in runs for row in run.coupling.weights} == {2.0}
        assert {teacher.run for run in runs for teacher in run.teachers or ()} == (
            one if name == "distilled" else set()
        )


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> list[list[Condition]]:
    """The plans of one study, each made once the runs of the one before are there; last its trained conditions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        found, p = [], parameters()
        here = lambda store, runs, **_: ensure(store, runs, "cpu", workers=1)  # noqa: E731, without other processes
        ensure = RunStore.ensure
        patch.setattr(RunStore, "ensure", here)
        plan = experiments.planned_conditions
        patch.setattr(experiments, "planned_conditions", lambda *asked: found.append(plan(*asked)) or found[-1])
        found.append(experiments.train_stages("equal_tuning", p, open_store()))
        yield found


def test_a_plan_grows_by_what_the_records_decide(stages) -> None:
    searches, fresh = (
        [[one for one in plan if one.seed in seeds] for plan in stages[:3]] for seeds in ((7, 8), (1, 2))
    )
    assert [len(plan) for plan in searches] == [8, 8 + 2 + 2 * 6 * 2, 8 + 2 + 2 * 6 * 2], (
        "a recipe and a search, then all"
    )
    assert [len(plan) for plan in fresh] == [14, 14, 28], "untuned until all is found"


def test_the_choice_is_by_validation_alone_and_its_rows_are_in_no_comparison(stages) -> None:
    p, store = parameters(), open_store()
    conditions = stages[-1]
    tuned = {one.name: one for one in conditions if one.factors.get("setting") == "tuned" and one.seed == 1}
    start = Replicate(p, 1, "fixed_epochs").varied(**tuning.choose(store, "one model", p, "fixed_epochs"))
    for name in TUNED:
        search = [one for one in conditions if one.name == name and one.seed in (7, 8)]
        scores: dict[tuple, list[float]] = {}
        for one in search:
            key = tuple((k, v) for k, v in one.factors.items() if k != "protocol")
            scores.setdefault(key, []).append(np.mean(one.records[0].valid_aucs))
        best = dict(max(scores, key=lambda key: sum(scores[key])))
        made = tuning.trainings(name, start if name != "one model" else Replicate(p, 1, "fixed_epochs"), best, 2)
        assert list(tuned[name].runs) == made
    compared = {run.data.fingerprint for one in conditions if "setting" in one.factors for run in one.runs}
    assert not compared & {run.data.fingerprint for one in conditions if one.seed in (7, 8) for run in one.runs}


def test_tables_say_what_was_chosen_and_what_flips(stages) -> None:
    table = replicate_table(open_store(), stages[-1])
    searches = tuning_page.search_table(table)
    assert set(searches["condition"]) == {"recipe", *TUNED}
    assert (searches["candidates"] == 2).all()
    best = searches[searches["chosen"]].set_index("condition")["valid_auc"]
    pd.testing.assert_series_equal(best, searches.groupby("condition", sort=False)["valid_auc"].max())
    assert list(tuning_page.recipes(searches, parameters())["in_use"]) == [False]
    best = searches[(searches["condition"] == "recipe") & searches["chosen"]].iloc[0]
    used = {name: best[name] for name in ("learning_rate", "embedding_l2", "dropout", "batch_norm")}
    assert list(tuning_page.recipes(searches, parameters(**used))["in_use"]) == [True]
    both = tuning_page.tuned_beside_untuned(tuning_page.compared(table), TUNED[2:])
    assert list(both["treatment"]) == list(TUNED[2:])
    at = table[(table["setting"] == "tuned") & (table["replicate"] == 2)].set_index("condition")
    control = at.loc[at.loc[list(tuning.CONTROLS), "valid_auc"].idxmax(), "auc"]
    first = table[(table["setting"] == "tuned") & (table["replicate"] == 1)].set_index("condition")
    other = first.loc[first.loc[list(tuning.CONTROLS), "valid_auc"].idxmax(), "auc"]
    expected = (at.loc["mutual", "auc"] - control + first.loc["mutual", "auc"] - other) / 2
    assert both.set_index("treatment").loc["mutual", "difference_tuned"] == pytest.approx(expected, abs=1e-12)
    assert list(both["flips"]) == list(both["verdict_untuned"] != both["verdict_tuned"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [7, 9]}, ["seeds=[7, 9]", "7 has the rows of 7"]),
        ({"tuned": TUNED[:1] + TUNED[2:]}, ["lacks 'continued training'"]),
    ],
)
def test_what_would_be_no_comparison_is_refused(changes: dict, words: list[str]) -> None:
    message = refused(experiments.planned_conditions, "equal_tuning", parameters(**changes))
    assert all(word in message for word in words)
