"""``ctrlib decide``: from a file to a report that opens from disk, and on from there."""

import io
import json
import re
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ctrlib.cli import main
from ctrlib.data import encode, folders
from ctrlib.publish.slides import ExecutedPages
from ctrlib.run import decide
from ctrlib.store.runs import RunStore
from ctrlib.study.experiments import checked_parameters
from ctrlib.study.parameters import StudyParameters

SMALL = ("embedding_dim=2", "hidden_units=[4]", "instances=2", "mutual_weights=[20]", "max_epochs=3", "device=cpu")
OPTIONS = ["--label", "clicked", "--save", *(part for text in SMALL for part in ("--set", text))]


def write_log(path: Path, rows: int = 900) -> Path:
    rng = np.random.default_rng(0)
    site, hour = rng.integers(0, 6, rows), rng.integers(0, 4, rows)
    clicked = rng.random(rows) < 0.2 + 0.1 * site
    pd.DataFrame(
        {"clicked": clicked.astype(int), "site": [f"s{n}" for n in site], "hour": [f"h{n}" for n in hour]}
    ).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def decided(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder and the lines of the command, called twice with the same file."""
    folder = tmp_path_factory.mktemp("own log")
    log, lines = write_log(folder / "shop.csv"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLIB_RUNS", str(folder / "runs"))
        patch.setenv("CTRLIB_DATA", str(folder / "data"))
        for _ in range(2):
            said = io.StringIO()
            with redirect_stdout(said):
                main_ok(["decide", str(log), "--minutes", "0.5", "--out", str(folder / "out"), *OPTIONS])
            lines.append(said.getvalue())
    return folder, lines


def parameters(changed: dict) -> StudyParameters:
    return checked_parameters(**decide.own_parameters(folders.project_root(), "synthetic", changed))


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def test_the_report_says_what_the_rule_says_and_needs_nothing_else(decided) -> None:
    folder, lines = decided
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    sentence = ExecutedPages(folder / "out").value("your_log", "recommendation")
    assert sentence in page
    assert all(sentence in said for said in lines)
    assert "<h1>Should the models of shop be coupled?</h1>" in page
    assert "Exercise" not in page
    assert page.count("<svg") == 1
    assert re.search(r"<figcaption>.*average of the models [+-]", page)
    assert "&amp;#" not in page, "nothing is escaped twice"
    links = re.findall(r'(?:href|src)="([^"#]+)', page)
    assert links
    assert all((folder / "out" / link).is_file() for link in links)


def test_its_tables_are_those_of_the_runs(decided) -> None:
    """The best control and the options by hand, from the scores of all runs in the report's own data."""
    folder, _ = decided
    tables = [pd.read_csv(path) for path in sorted((folder / "out" / "data").glob("table-*.csv"))]
    effects = next(table for table in tables if "treatment" in table and table["difference"].abs().max() < 0.5)
    chosen = next(table for table in tables if "chosen" in table)
    best = {name: part.set_index("replicate")["auc"] for name, part in chosen.groupby("condition")}
    found = effects.set_index("treatment")["difference"]
    for option, name in {"mutual learning": "best mutual", "distillation": "best distilled"}.items():
        assert found[option] == pytest.approx((best[name] - best["best control"]).mean(), abs=1e-8)
    scores = next(table for table in tables if "served" in table).set_index("condition")
    assert found["average of the models"] == pytest.approx(
        scores.loc["average of the models", "auc"] - scores.loc["best without peers", "auc"], abs=1e-8
    )
    assert scores.loc["one model", "auc"] > 0.6, "the signal is strong"


def test_what_was_trained_is_not_trained_again(decided) -> None:
    _, (first, second) = decided
    assert len(re.findall("training replicate [0-9] of DeepFM", first)) >= decide.LEAST_REPLICATES
    seen = set(re.findall("training replicate ([0-9]) of DeepFM", first))
    assert not seen & set(re.findall("training replicate ([0-9]) of DeepFM", second))
    assert "recipe: rate" in second


def clock(seconds: float) -> SimpleNamespace:
    """One by which each member of a run takes so long."""
    return SimpleNamespace(seconds=lambda run: seconds * len(run.members))


def test_fewer_minutes_leave_fewer_rows_in_steps_and_never_few(monkeypatch) -> None:
    monkeypatch.setattr(decide, "default_workers", lambda device: 4)
    p = parameters({"rows": 800_000, "valid_rows": 100_000, "test_rows": 100_000})
    cuts = [decide.rows_that_fit(p, clock(40.0), 60 * minutes) for minutes in (1e6, 30, 20, 10, 0.5)]
    assert {one for one, _ in cuts} == {1_000_000}
    assert cuts[0][1] == 1_000_000
    assert {fit for _, fit in cuts[1:]} <= set(decide.CUTS)
    assert cuts[1][1] > cuts[-1][1] == min(decide.CUTS)
    few = parameters({"rows": 8000, "valid_rows": 1000, "test_rows": 1000})
    assert decide.rows_that_fit(few, clock(40.0), 30) == (10_000, 10_000)


def test_three_replicates_are_trained_and_more_while_there_is_time(monkeypatch, tmp_path) -> None:
    said, trained = [], []
    monkeypatch.setattr(decide, "Clock", lambda *_: clock(1.0))
    monkeypatch.setattr(decide, "ensure_all", lambda store, runs, *_, **__: trained.append(len(runs)) or ({}, {}))
    arguments = RunStore(tmp_path), parameters({}), said.append, print
    found = decide.train_until(time.monotonic() + 1, *arguments)
    assert found == ({"seeds": [0, 1, 2], "architectures": ["DeepFM"]}, "2 replicates, DCN")
    assert "replicates 1 to 3 take about" in said[0]
    assert len(trained) == 3
    found = decide.train_until(time.monotonic() + 1e6, *arguments)
    assert found == ({"seeds": [0, 1, 2, 3, 4], "architectures": ["DeepFM", "DCN"]}, "")
    assert len(trained) == 3 + 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop.csv", "--label", "clicked", "--set", "seeds=[1]"], "this command chooses it"),
        (["shop.csv", "--label", "bought"], "bought"),
        (["nothing_there"], "nothing_there"),
        (["synthetic", "--label", "clicked"], "is for raw files"),
        (["clics.csv", "--label", "clicked"], "clics.csv: no such file"),
        (["synthetic", "--set", "instnces=3"], "Did you mean 'instances'"),
        (["synthetic", "--save"], "synthetic"),
        (["shop.csv", "--label", "clicked", "--out", "book/shop"], "is where the pages of the book are"),
        (["-", "--label", "clicked"], "-: can be read only once"),
        (["shop folder", "--label", "bought"], "bought"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "parts").mkdir()
    log = write_log(tmp_path / "shop.csv")
    write_log(tmp_path / "parts" / "shop.csv")
    named = {"shop.csv": str(log), "shop folder": str(tmp_path / "parts")}
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as ended:
        main(["decide", *(named.get(part, part) for part in arguments)])
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in message
    assert message.startswith("error: ")
    assert not Path("decide_shop").exists()


def test_saved_models_score_new_rows_as_they_scored_the_test_rows(decided, monkeypatch, tmp_path) -> None:
    """Without a label, in another order of columns; a site that training did not show counts as unseen."""
    folder, _ = decided
    monkeypatch.setenv("CTRLIB_DATA", str(folder / "data"))
    log = pd.read_csv(folder / "shop.csv")
    new = pd.concat([log.drop(columns="clicked"), pd.DataFrame({"site": ["never seen"], "hour": ["h1"]})])
    new[["hour", "site"]].to_csv(tmp_path / "new.csv", index=False)
    main_ok(["predict", str(folder / "out" / "model"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "p.csv")])
    scored = pd.read_csv(tmp_path / "p.csv")["probability"]
    command = ["predict", str(folder / "out" / "model"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "kept.csv")]
    main_ok([*command, "--keep", "s*"])
    kept = pd.read_csv(tmp_path / "kept.csv")
    assert list(kept) == ["site", "probability"]
    assert kept["site"].tolist() == new["site"].tolist()
    assert kept["probability"].tolist() == scored.tolist()
    with pytest.raises(SystemExit):
        main([*command, "--keep", "seite"])
    assert len(scored) == len(new)
    content = json.loads((folder / "out" / "model" / "model.json").read_text())
    store = RunStore(folder / "runs")
    known = np.mean([store.open(name).probabilities()[n] for name, n in content["runs"]], axis=0)
    test_rows = encode.divide(encode.random_order(len(log), 0), (0.8, 0.1, 0.1)) == 2
    np.testing.assert_allclose(scored[:-1][test_rows], known, atol=1e-6)
    by_site = scored[:-1].groupby(log["site"]).mean()
    assert by_site.min() < scored.iloc[-1] < by_site.max()
