"""The line that says what a page was made from: facts of the run records, in words, as text."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctrlib.store import environment
from ctrlib.store.environment import source_commit
from ctrlib.study import experiments, notebook
from ctrlib.study.experiments import planned_conditions, published_by_data, published_conditions
from ctrlib.study.notebook import hardware, humanize, provenance
from ctrlib.study.pages import published_parameters
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import effects_by, member_table

CPU = {"processor": "Fast *CPU* <b>9</b>", "device": "cpu", "torch": "2.13.0"}
GPU = {"processor": "Fast CPU", "device": "NVIDIA H100", "torch": "2.13.0+cu130"}


def condition(*records: tuple[str, float, str, dict], seed: int = 1) -> SimpleNamespace:
    contents = [
        {"seconds": s, "finished": day + "T10:00:00Z", "environment": where, "run": {"data": {"name": "synthetic"}}}
        for _, s, day, where in records
    ]
    pairs = zip(records, contents, strict=True)
    found = [SimpleNamespace(fingerprint=one[0], content=content) for one, content in pairs]
    return SimpleNamespace(experiment="", records=found, factors={}, seed=seed)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(notebook, "say", lines.append)
    return lines


def test_a_run_of_several_conditions_counts_once(said: list[str]) -> None:
    p = StudyParameters(profile="quick", seeds=(1, 2, 3))
    one, two, three = ("a", 100.0, "2026-11-02", CPU), ("b", 200.0, "2026-11-05", CPU), ("c", 1200.0, "2026-11-03", GPU)
    provenance(p, [condition(one, two), condition(one, three, seed=3)])
    (line,) = said
    assert "profile *quick*, data *synthetic clicks*, 2 replicates" in line
    assert "; trained here: 3 runs with 25 minutes of training, trained 2026-11-02 to 2026-11-05" in line
    assert line.count("Fast") == 1
    assert "NVIDIA H100, torch 2.13.0&#43;cu130" in line


def test_one_day_is_one_date_and_names_are_text(said: list[str]) -> None:
    provenance(StudyParameters(profile="my *own*", seeds=(1,)), [condition(("a", 3.0, "2026-11-02", CPU))])
    assert "1 replicate; trained here: 1 run with 3 seconds of training, trained 2026-11-02;" in said[0]
    assert "my &#42;own&#42;" in said[0]
    assert "<b>" not in said[0]
    assert "*CPU*" not in said[0]


def test_a_data_set_is_published_when_no_record_is_lacking(monkeypatch) -> None:
    (found,) = published_by_data("is_it_noise").values()
    runs = {record.fingerprint: record.content for one in found for record in one.records}
    lacking = SimpleNamespace(runs={name: content for name, content in runs.items() if name != next(iter(runs))})
    monkeypatch.setattr(experiments, "committed_results", lambda: lacking)
    assert published_by_data("is_it_noise") == published_by_data("no_such_page") == {}


def test_other_parameters_are_named_and_the_published_effects_stand_beside(said: list[str], monkeypatch) -> None:
    """On the published records themselves: three of the replicates that page 05 has."""
    shown: list = []
    monkeypatch.setattr(notebook, "display", lambda bundle, raw: shown.append(bundle))
    theirs = published_parameters("is_it_noise")
    _, published = published_conditions(planned_conditions("is_it_noise", theirs))
    notebook.show_published(theirs, published)
    assert said == shown == []
    provenance(theirs, published)
    assert "; published records: " in said.pop()
    p = theirs.model_copy(update={"seeds": theirs.seeds[:3], "profile": "mine"})
    notebook.show_published(p, [one for one in published if one.seed in p.seeds])
    few, seeds = (", ".join(map(str, one.seeds)) for one in (p, theirs))
    assert said == [f"*Other than on the published page:* seeds {few} (published: {seeds})."]
    means = member_table(published).groupby(["protocol", "condition", "replicate"], as_index=False)["auc"].mean()
    for table in (means[means["replicate"].isin(p.seeds)], means):
        for value in effects_by(table, ["protocol"], "mutual", "continued training")["difference"]:
            assert f"{value:+.4f} (" in shown[0]["text/html"]
    assert shown[0]["text/html"].count("mutual minus continued training") == len(theirs.protocols)


def test_other_parameters_of_a_page_with_several_data_sets() -> None:
    theirs = published_parameters("couplings")
    recipes = {label: dict(recipe) for label, recipe in theirs.per_dataset.items()}
    recipes["criteo_100k"]["batch_size"] = 500
    for changes, said in (
        ({}, []),
        ({"per_dataset": recipes}, ["batch_size on Criteo 500 (published: 1000)"]),
        ({"datasets": ("criteo_100k",)}, ["data sets Criteo (published: synthetic clicks, Criteo)"]),
    ):
        assert notebook.other_parameters(theirs.model_copy(update=changes), theirs) == said


def test_hardware_and_time_in_words() -> None:
    """The device or else the processor; the largest unit of which there are two."""
    assert hardware(GPU) == "NVIDIA H100, torch 2.13.0+cu130"
    assert hardware({}) == "cpu, torch unknown"
    assert [humanize(seconds) for seconds in (0.4, 119, 120, 7199, 7200, 2e5)] == [
        "0 seconds", "119 seconds", "2 minutes", "120 minutes", "2 hours", "2 days"
    ]  # fmt: skip


def test_version_is_the_commit_of_the_project_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "file").write_text("1")
    monkeypatch.delenv("CTRLIB_COMMIT", raising=False)
    monkeypatch.setattr(environment, "project_root", lambda: tmp_path)
    assert source_commit() == ""
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    commit = git("rev-parse", "--short", "HEAD")
    assert source_commit() == commit
    (tmp_path / "file").write_text("2")
    assert source_commit() == commit + "+"
    monkeypatch.setattr(environment, "project_root", lambda: inside)  # within somebody else's repository
    assert source_commit() == ""
    monkeypatch.setenv("CTRLIB_COMMIT", "abc1234")  # a copy whose maker knows better
    assert source_commit() == "abc1234"
