"""What the pages say of the full runs, held against the committed records of those runs.

Each page of an experiment has a section "What the full runs showed" in plain words. Whoever changes the words, or the
records, hears here whether they still agree. Nothing is trained: what the records do not hold is an error.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctrlib.config import Run
from ctrlib.data.folders import project_root
from ctrlib.run.plan import declared_parameters, plan
from ctrlib.store import ensure
from ctrlib.store.published import committed_results
from ctrlib.store.runs import RunStore
from ctrlib.study import verdicts
from ctrlib.study.expectations import EXPECTED, published_findings, published_pages
from ctrlib.study.experiments import checked_parameters, planned_conditions, train_conditions
from ctrlib.study.main_page import peers_beyond, with_sides
from ctrlib.study.tables import BEST, compare, replicate_table
from ctrlib.study.tuning_page import compared, tuned_beside_untuned

FIXED, STOPPED = BOTH = ["fixed_epochs", "early_stopping"]
CONTINUED = "continued training"
MUTUAL = ("mutual", CONTINUED)
PROTOCOLS = pytest.mark.parametrize("protocol", BOTH)


def records_only() -> RunStore:
    """A store of the committed records alone."""
    return RunStore(Path("/nonexistent/records only"), results=committed_results())


def settings_of(number: str):
    """Name of a page's experiment, its parameters, and a store of the committed records alone."""
    (job,) = plan(project_root(), "published", [number], {})
    p = checked_parameters(**{**declared_parameters(job.source), **job.parameters})
    return job.name.partition("_")[2], p, records_only()


def test_settings_of_earlier_records_are_read_and_keep_their_names() -> None:
    records = committed_results().runs
    for name in list(records)[::20]:
        assert Run.model_validate(records[name]["run"]).fingerprint == name


@cache
def conditions_of(number: str):
    """Parameters, store and conditions of a page, from the committed records alone."""
    name, p, store = settings_of(number)
    planned = planned_conditions(name, p)
    missing = [run for condition in planned for run in condition.runs if store.find(run) is None]
    if missing:
        pytest.fail(f"{len(missing)} runs of page {number} are not in book/results")
    return p, store, train_conditions(p, store, planned)


@cache
def replicates_of(number: str) -> pd.DataFrame:
    _, store, conditions = conditions_of(number)
    return replicate_table(store, conditions)


def difference(number: str, treatment: str, control: str, value: str = "auc", against: dict | None = None, **at):
    """Paired difference under the factors ``at``, the control's changed by ``against`` where it has them."""
    table = replicates_of(number)
    treated, controls = (table[table["condition"] == name] for name in (treatment, control))
    for name, level in at.items():
        treated = treated[treated[name] == level]
    for name, level in {**at, **(against or {})}.items():
        if controls[name].notna().any():
            controls = controls[controls[name] == level]
    both = pd.concat([treated.assign(condition="the treatment"), controls.assign(condition="the control")])
    return compare(both, "the treatment", "the control", value)


def mean_of(*asked, **at) -> float:
    """Mean paired difference, shown or not."""
    return difference(*asked, **at).mean


def effect(*asked, **at) -> float:
    """Mean paired difference; NaN where its interval holds zero."""
    found = difference(*asked, **at)
    return found.mean if found.verdict != "no difference shown" else np.nan


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("something would be trained")

    monkeypatch.setattr(ensure, "train_task", refuse)


def test_page_01_disagreement_and_what_an_ensemble_gains() -> None:
    by = replicates_of("01").groupby("protocol")[["auc", "ensemble_auc", "churn", "oracle_auc"]].mean()
    gain = by["ensemble_auc"] - by["auc"]
    assert gain[FIXED] > 2 * gain[STOPPED] > 0
    assert by["churn"][FIXED] > by["churn"][STOPPED]
    assert by["auc"][FIXED] < by["auc"][STOPPED] < by["ensemble_auc"][STOPPED]


def test_the_readmes_picture_is_of_these_records() -> None:
    """``python -m benchmarks.readme_picture`` draws it anew."""
    sys.path.insert(0, str(project_root()))
    from benchmarks.readme_picture import made_of, picture

    drawn = (project_root() / "book" / "_static" / "effects.png").read_bytes()
    assert b"Description\0" + made_of(picture()).encode() in drawn


MAIN_PAGES = {"criteo_100k": "14", "frappe": "15", "ml1m": "13", "synthetic": "02"}


@cache
def sides_of(number: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of a main comparison its replicate table with both sides, and its effects."""
    table = with_sides(replicates_of(number), conditions_of(number)[0])
    return table, peers_beyond(table).set_index(["treatment", "architecture", "protocol"]).sort_index()


@pytest.mark.parametrize("data", MAIN_PAGES)
def test_the_readme_on_the_main_comparisons(data: str) -> None:
    """At the paper's own setting no gain is shown, and the average of the checkpoints gains more than the peers."""
    table, effects = sides_of(MAIN_PAGES[data])
    assert "gain" not in set(effects.loc["paper's own", "verdict"])
    mean = table[table["protocol"] == STOPPED].groupby(["setting", "condition"])[["auc", "ensemble_auc"]].mean()
    averages, chosen = (mean.xs(name, level="condition") for name in ("checkpoint", "best mutual"))
    assert (averages["ensemble_auc"] > chosen["auc"]).all()


def test_what_the_lesson_tells_of_three_controls() -> None:
    """Under fixed epochs nearly all of the gain over the checkpoint is further training; after convergence an epoch at
    the full rate harms, and the peers take away a part of it."""
    fixed = sides_of("13")[1].loc[("paper's own", "DeepFM", FIXED)]
    assert fixed["over_checkpoint"].item() > 0.005 > 20 * fixed["over_alone"].item() > 0
    for number in ("13", "14"):
        stopped = sides_of(number)[1].loc[("paper's own", "DeepFM", STOPPED)]
        assert stopped["over_alone"].item() > 0.0005 > -0.002 > stopped["over_checkpoint"].item()


def test_the_readme_on_what_peers_add() -> None:
    """Chosen by validation, one to two thousandths; the average of the checkpoints two to four times as much."""
    for number in MAIN_PAGES.values():
        table, effects = sides_of(number)
        chosen = effects.loc[[("chosen", "DeepFM", STOPPED)]].iloc[0]
        assert chosen["verdict"] == "gain"
        assert 0.001 < chosen["difference"] < 0.002
        mean = table[table["setting"] == chosen["setting"]].groupby("condition")[["auc", "ensemble_auc"]].mean()
        average = mean.loc["checkpoint", "ensemble_auc"] - mean.loc["checkpoint", "auc"]
        assert 1.7 < average / chosen["over_checkpoint"] < 3.5
        own = effects.loc[[("paper's own", "DeepFM", STOPPED)]].iloc[0]
        assert own["over_checkpoint"] < 0 < own["over_alone"]
        assert own["verdict"] == "loss"


def test_the_readme_on_equal_tuning() -> None:
    """Tuned by the same search as the best control, peers are shown to gain on MovieLens alone."""
    effects = tuned_beside_untuned(compared(replicates_of("30")), ["mutual from scratch", "mutual"])
    gains = effects[effects["verdict_tuned"] == "gain"]
    assert gains[["data", "treatment"]].to_numpy().tolist() == [["ml1m", "mutual"]]


def test_page_16_the_verdicts_that_readers_take_away() -> None:
    """By data set, with early stopping: the paper's first two claims against the best control, E1 and E3."""
    found = verdicts.finding_table(published_findings(records_only(), published_pages()))
    stopped = found[(found["protocol"] == STOPPED) & found["against"].isin(["", BEST])]
    shown = stopped.pivot_table(index="claim", columns="data", values="verdict", aggfunc="first")[[*MAIN_PAGES]]
    assert shown.loc[[*list(verdicts.PAPER)[:2], EXPECTED["E1"].text, EXPECTED["E3"].text]].to_dict("list") == {
        "criteo_100k": ["contradicted", "inconclusive", "supported", "supported"],
        "frappe": ["contradicted", "supported", "contradicted", "supported"],  # a gain where none was expected
        "ml1m": ["contradicted", "inconclusive", "supported", "supported"],
        "synthetic": ["contradicted", "contradicted", "supported", "supported"],
    }


def test_page_19_less_is_lost_together() -> None:
    table = replicates_of("19").pivot(index="replicate", columns="condition", values="auc")
    assert (table[CONTINUED] < table["checkpoint"]).all()
    assert (table["mutual"] > table[CONTINUED]).all()
    assert (table["mutual"] - table[CONTINUED]).mean() > 0.005
    assert (table["mutual"] > table["checkpoint"]).sum() == 2
    assert len(table) == 5
