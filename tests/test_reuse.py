"""What is kept is used for what it was made of: its rows, its records."""

import shutil

import nbformat
import numpy as np
import pytest
from pages import ROOT
from raw_files import table_lines, write_lines
from small import make_run, member, refused

from ctrlib.data import sources
from ctrlib.data.load import data_settings, load_data
from ctrlib.data.options import PrepareOptions
from ctrlib.run.execute import finalize_notebook
from ctrlib.run.plan import plan, planned
from ctrlib.stats.metrics import auc
from ctrlib.store.measures import group_scores
from ctrlib.store.runs import RunStore


@pytest.fixture
def renamed(tmp_path, monkeypatch):
    """A store with a run on the data set shop, whose rows are named shop_2025 now, while shop has others."""
    for folder, names in (("before", {"shop": 0}), ("now", {"shop": 1, "shop_2025": 0})):
        for name, seed in names.items():
            raw = write_lines(tmp_path / f"{folder}_{name}.csv", table_lines(400, seed))
            sources.prepare(name, raw, tmp_path / folder, PrepareOptions(label="label"))
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "before"))
    store = RunStore(tmp_path / "runs")
    (record,) = store.ensure([make_run([member(1)]).model_copy(update={"data": data_settings("shop", 0)})])
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "now"))
    return store, record


def test_rows_of_another_fingerprint_are_refused(renamed) -> None:
    store, record = renamed
    words = refused(group_scores, store, [record])
    assert "data set 'shop' (draw 0) now holds other rows" in words
    assert record.run.data.fingerprint in words


def test_a_record_is_measured_on_the_rows_that_were_asked_for(renamed) -> None:
    store, record = renamed
    data = data_settings("shop_2025", 0)
    (found,) = store.ensure([record.run.model_copy(update={"data": data})])
    assert found.fingerprint == record.fingerprint, "a name is no part of a run"
    score = group_scores(store, [found])["auc"]
    assert score == pytest.approx([auc(load_data(data).test.labels, found.logits()[0])])
    assert not np.array_equal(load_data(data).test.labels, load_data(data_settings("shop", 0)).test.labels)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A function that plans page 01, or another; a copy of it counts as executed; a project with a store of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    results = tmp_path / "book" / "results" / "published.parquet"
    results.parent.mkdir(parents=True)
    results.write_bytes(b"some")
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "data"))

    def job(page="01", **settings):
        return plan(tmp_path, str(ROOT / "tests" / "tiny.yaml"), [page], settings)[0]

    def execute(**settings):
        one = job(**settings)
        one.output.parent.mkdir(parents=True, exist_ok=True)
        running = one.output.with_suffix(".running.ipynb")
        nbformat.write(nbformat.read(one.source, as_version=4), running)
        assert finalize_notebook(one, running, "", 1.0).state == "done"
        assert job(**settings).is_done()
        return lambda: job(**settings).is_done()

    return execute, job, tmp_path


def test_a_page_is_out_of_date_when_a_record_or_a_published_one_changes(executed) -> None:
    execute, job, project = executed
    run = planned(job())[0][0]
    record = project / "runs" / run.fingerprint / "run.json"
    done = execute()
    record.parent.mkdir(parents=True)
    record.write_bytes(b"a record")
    assert not done()
    done = execute()
    record.write_bytes(b"another")
    assert not done()
    done = execute()
    shutil.rmtree(record.parent)
    assert not done()
    done = execute()
    (project / "book" / "results" / "published.parquet").unlink()
    assert not done()


def test_a_page_of_several_data_sets_is_out_of_date_when_one_is_prepared_anew(executed) -> None:
    execute, _, project = executed

    def prepare(seed):
        raw = write_lines(project / f"{seed}.csv", table_lines(4000, seed))
        sources.prepare("shop", raw, project / "data", PrepareOptions(label="label"))

    prepare(0)
    done = execute(page="20", datasets=["synthetic", "shop"])
    assert done()
    prepare(1)
    assert not done()
