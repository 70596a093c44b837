"""Runs on a Dask cluster of real processes, some of them killed."""

import os
import signal
import threading
from pathlib import Path

import pytest
from processes import Cluster, serve_bare_worker, start, until
from small import make_run, member, refused
from stores import here, quick
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Checkpoint, Run
from ctrlib.coupling import complete
from ctrlib.run import execute, training
from ctrlib.run.plan import plan
from ctrlib.run.training import train_planned
from ctrlib.store import dask, progress
from ctrlib.store.dask import Dask
from ctrlib.store.ensure import ensure_all
from ctrlib.store.executors import BackendLost
from ctrlib.store.record import FILES, StoreError
from ctrlib.store.runs import RunStore

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
ROOT = Path(__file__).resolve().parent.parent


def a_study() -> list[Run]:
    """Four independent trainings, and two cohorts that start from them; the cohorts come first."""
    before = [quick(n) for n in range(4)]
    cohorts = []
    for n in (0, 2):
        start = [Checkpoint(run=run.fingerprint) for run in before[n : n + 2]]
        members = [member(n), member(n + 1)]
        cohorts.append(make_run(members, complete(2), start=start, epochs=1, batch_size=165))
    return [*cohorts, *before]


def test_three_workers_one_of_them_killed(tmp_path) -> None:
    """What it had begun is given to another; the records are, bit for bit, those of one process."""
    runs, lines = a_study(), []
    killed: list[str] = []
    store = RunStore(tmp_path / "a störe")
    with Cluster(tmp_path) as cluster:

        def kill() -> None:
            killed.extend(until(lambda: cluster.lines("began"), "training")[0])
            os.kill(int(killed[1]), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        records, failed = ensure_all(store, runs, "cpu", dask=cluster.address, show=lines.append)
        began, ended = cluster.lines("began"), cluster.lines("ended")
    assert not failed
    alone = here(RunStore(tmp_path / "alone"), runs[2:] + runs[:2])
    assert sorted(records) == sorted(record.fingerprint for record in alone)
    for one in alone:
        assert [records[one.fingerprint].read(name) for name in FILES] == [one.read(name) for name in FILES]
    assert sorted(name for name, _ in ended) == sorted(run.fingerprint for run in runs), "each once"
    assert [name for name, _ in began].count(killed[0]) == 2, "what was killed was begun again"
    assert len({process for _, process in began}) == 3
    assert lines[0] == "6 runs: 0 in the store, 6 to train"
    assert any(line.startswith("[6/6] 2 DeepFM mutual") for line in lines)


def test_a_run_that_kills_workers_is_given_up(tmp_path) -> None:
    """And one that is refused fails; the others are trained, and what starts from the failed says so."""
    good = [quick(n) for n in range(3)]
    killer, refused = (make_run([member(1, hidden_units=(units,))]) for units in (13, 14))
    heir = make_run([member(1, hidden_units=(14,))], start=[Checkpoint(run=refused.fingerprint)])
    lines: list[str] = []
    with Cluster(tmp_path, allowed_failures=1) as cluster:
        runs, store = [heir, refused, killer, *good], RunStore(tmp_path / "runs")
        records, failed = ensure_all(store, runs, "cpu", dask=cluster.address, show=lines.append)
    assert sorted(records) == sorted(run.fingerprint for run in good)
    assert "workers died" in str(failed[killer.fingerprint])
    assert "fourteen is not allowed" in str(failed[refused.fingerprint])
    assert f"builds on {refused.fingerprint}" in str(failed[heir.fingerprint])
    assert sum("failed: " in line for line in lines) == 3


def test_a_scheduler_that_dies_is_said(tmp_path) -> None:
    with Cluster(tmp_path, workers=1) as cluster:

        def kill() -> None:
            until(lambda: cluster.lines("began"), "training")
            cluster.scheduler.kill()

        threading.Thread(target=kill, daemon=True).start()
        runs, store = [quick(1), quick(2)], RunStore(tmp_path / "runs")
        said = refused(ensure_all, store, runs, "cpu", dask=cluster.address, kind=BackendLost)
    assert "scheduler" in said
    assert "run the same command again" in said


def test_no_scheduler_is_said(monkeypatch) -> None:
    monkeypatch.setattr(dask, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "http://10.0.0.1:8787", "nonsense"):
        assert f"no Dask scheduler at {address!r}" in refused(Dask, address)


def test_a_worker_that_lacks_the_project_is_named(tmp_path) -> None:
    """At once, where it would take tasks and never do one."""
    with Cluster(tmp_path, workers=0) as cluster:
        cluster.workers.append(start(serve_bare_worker, cluster.address))
        store = RunStore(tmp_path / "runs")
        said = refused(ensure_all, store, [quick(1)], "cpu", dask=cluster.address, kind=BackendLost)
    assert "the Dask worker at tcp://127.0.0.1:" in said
    assert "cannot load this project" in said


def test_the_first_worker_is_waited_for_and_must_share_the_store(tmp_path, monkeypatch) -> None:
    """It writes where its own path leads: elsewhere, so that nothing arrives here."""
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)
    mine, elsewhere, root = tmp_path / "mine", tmp_path / "elsewhere", tmp_path / "runs"
    mine.mkdir()
    elsewhere.mkdir()
    root.symlink_to(elsewhere)
    with Cluster(tmp_path, workers=0) as cluster:

        def show(line: str) -> None:
            if "waiting for a Dask worker with a slot; this starts one" in line and not cluster.workers:
                root.unlink()
                root.symlink_to(mine)
                cluster.add()

        store, where = RunStore(root), cluster.address
        said = refused(ensure_all, store, [quick(1)], "cpu", dask=where, show=show, kind=StoreError)
        assert len(cluster.lines("ended")) == 1
    assert "same store" in said


def test_a_study_is_trained_and_notebooks_whose_runs_failed_are_named(tmp_path, monkeypatch) -> None:
    """One of two notebooks asks for a run that fails: the other one has all of its runs."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    jobs = plan(ROOT, str(ROOT / "tests" / "tiny.yaml"), ["01", "02"], {}, tmp_path / "out")
    good, other, bad = quick(1), quick(2), make_run([member(1)], batch_size=331)
    asked = {"01": [good, bad], "02": [good, other]}
    monkeypatch.setattr(training, "planned", lambda job: (asked[job.number], "cpu"))
    with Cluster(tmp_path, workers=1) as cluster:
        lacking = train_planned(jobs, lambda line: None, dask=cluster.address)
        assert {name for name, _ in cluster.lines("ended")} == {good.fingerprint, other.fingerprint}
    assert list(lacking) == ["01"]
    assert "1 of its 2 runs" in lacking["01"]
    assert "batch_size=331: must be at most 330" in lacking["01"]
    assert RunStore(tmp_path / "runs").fingerprints() == sorted([good.fingerprint, other.fingerprint])


def test_the_command_fails_what_lacks_runs_and_executes_the_rest(tmp_path, monkeypatch) -> None:
    asked: list[tuple] = []

    def train(jobs, line, workers, dask) -> dict[str, str]:
        asked.append((workers, dask))
        return {"01": "1 of its 8"}

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training, "train_planned", train)
    monkeypatch.setattr(execute, "execute", lambda job, *_: execute.Outcome(job, "done", 1.0))
    command = ["study", "--profile", "tests/tiny.yaml", "--out", str(tmp_path), "--only", "01", "--only", "02"]
    by_dask, by_workers = ["--dask", "tcp://there:8786"], ["--workers", "3"]
    first, _, both = (
        CliRunner().invoke(app, [*command, *more]) for more in (by_dask, by_workers, by_dask + by_workers)
    )
    assert first.exit_code == 1
    assert "error: 01_train_independent.ipynb: 1 of its 8" in first.output
    assert "02_main_synthetic done" in " ".join(first.output.split())
    assert asked == [(None, "tcp://there:8786"), (3, None)]
    assert both.exit_code == 2
    assert "give one of them" in both.output
