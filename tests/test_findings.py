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
from ctrlib.study.inside import similarity
from ctrlib.study.main_page import peers_beyond, with_sides
from ctrlib.study.tables import BEST, compare, replicate_table

FIXED, STOPPED = BOTH = ["fixed_epochs", "early_stopping"]
CONTINUED = "continued training"
MUTUAL = ("mutual", CONTINUED)
SCRATCH = ("mutual from scratch", "solo from scratch")
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


@PROTOCOLS
def test_page_07_the_weight_and_the_targets(protocol: str) -> None:
    at = {"protocol": protocol, "form": "mse"}
    mse, kl, logits, frozen, shuffled = (
        {w: mean_of("07", *MUTUAL, weight=w, form=form, target=target, protocol=protocol) for w in weights}
        for form, target, weights in (
            ("mse", "live", (0.1, 1, 5, 20, 100)),
            ("kl", "live", (1, 5, 20, 100)),
            ("mse_logit", "live", (1, 5, 20)),
            ("mse", "frozen", (0.1, 1, 5, 20, 100)),
            ("mse", "shuffled", (1, 5, 20, 100)),
        )
    )
    assert 0 < mse[0.1] < mse[1] < mse[5] < mse[20] > mse[100]
    assert kl[1] > mse[1], "smaller weights do as much"
    assert kl[5] > kl[20] > kl[100]
    assert logits[1] > 0 > logits[5] > logits[20]
    assert 0 > shuffled[1] > shuffled[5] > shuffled[20] > shuffled[100]
    assert all(frozen[weight] > live for weight, live in mse.items())
    assert effect("07", *SCRATCH, weight=1, target="live", **at) > 0
    assert effect("07", *MUTUAL, weight=100, target="frozen", **at) > 0


@PROTOCOLS
def test_page_08_when_it_begins(protocol: str) -> None:
    starts = [{"protocol": protocol, "coupling start": epochs} for epochs in (0, 3, 4.5)]
    one, strong = ([effect("08", "mutual", "solo", weight=weight, **at) for at in starts] for weight in (1, 20))
    ensemble = [mean_of("08", "mutual", "solo", "ensemble_auc", weight=20, **at) for at in starts]
    assert one[0] > 0
    assert abs(one[0] - one[1]) < 0.0002
    assert 0 < strong[0] < min(strong[1:])
    assert ensemble[0] < ensemble[1] < ensemble[2], "early strong coupling costs the ensemble most"


@PROTOCOLS
def test_page_09_more_alike_and_twins_are_twins(protocol: str) -> None:
    _, store, conditions = conditions_of("09")
    table = similarity(store, conditions)
    mean = table[table["protocol"] == protocol].groupby(["differ in", "condition", "epochs"]).mean(numeric_only=True)
    at, gains = {"protocol": protocol, "epochs": 3}, {}
    for differ in ("weights and order", "order"):
        alike = mean.loc[differ].xs(3, level="epochs")[["residual_correlation", "cka_last_hidden"]]
        assert (alike.loc["mutual"] > alike.loc[CONTINUED]).all()
        gains[differ] = effect("09", *MUTUAL, **at, **{"differ in": differ})
    assert 0.75 * gains["weights and order"] < gains["order"] < gains["weights and order"]
    assert mean_of("09", *MUTUAL, **at, **{"differ in": "nothing"}) == 0


@PROTOCOLS
def test_page_10_a_shared_table_takes_from_the_gain(protocol: str) -> None:
    at = {"protocol": protocol}
    separate, shared = (mean_of("10", "mutual", "solo", embeddings=name, **at) for name in ("separate", "shared"))
    assert separate > 2 * shared
    assert mean_of("10", "solo", "solo", embeddings="shared", against={"embeddings": "separate"}, **at) > 0
    ektf = mean_of("10", "EKTF", "mutual", embeddings="separate", **at)
    assert ektf > 0 if protocol == FIXED else ektf < 0


@PROTOCOLS
def test_page_11_pairs_are_enough_and_rings_collapse(protocol: str) -> None:
    gains = {name: effect("11", *MUTUAL, protocol=protocol, topology=name) for name in ("complete", "star", "pairs")}
    assert min(gains.values()) > 0.75 * gains["complete"] > 0
    assert effect("11", *MUTUAL, protocol=protocol, topology="ring") < -0.01


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
