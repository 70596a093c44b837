"""Runs on a Dask cluster of real processes, some of them killed, some on hosts of their own."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from processes import Cluster, until
from small import make_run, member, one_line
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Checkpoint, Run
from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.run import execute, training
from ctrlib.run.plan import plan
from ctrlib.run.training import train_planned
from ctrlib.store import dask, progress
from ctrlib.store.dask import Dask
from ctrlib.store.ensure import ensure_all
from ctrlib.store.executors import BackendLost
from ctrlib.store.record import Record, StoreError
from ctrlib.store.runs import RunStore

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
ROOT = Path(__file__).resolve().parent.parent


def quick(seed: int, **settings) -> Run:
    return make_run([member(seed)], epochs=1, batch_size=165, **settings)


def a_study() -> list[Run]:
    """Four independent trainings, and two cohorts that start from them; the cohorts come first."""
    before = [quick(n) for n in range(4)]
    cohorts = [
        make_run(
            [member(2 * n), member(2 * n + 1)],
            complete(2),
            start=[Checkpoint(run=run.fingerprint) for run in before[2 * n : 2 * n + 2]],
            epochs=1,
            batch_size=165,
        )
        for n in range(2)
    ]
    return [*cohorts, *before]


def assert_equal_records(records: dict[str, Record], runs: list[Run], folder: Path) -> None:
    """The records are, bit for bit, those of one process."""
    alone = RunStore(folder / "alone").ensure(runs[2:] + runs[:2], device="cpu", workers=1)
    assert sorted(records) == sorted(record.fingerprint for record in alone)
    for one in alone:
        for name in ("members.safetensors", "predictions.npz"):
            assert (records[one.fingerprint].folder / name).read_bytes() == (one.folder / name).read_bytes()


def kill_the_first(cluster: Cluster) -> list[str]:
    """SIGKILL to the worker that begins the first training, as it begins; returns (after a while) its line."""
    killed: list[str] = []

    def kill() -> None:
        killed.extend(until(lambda: cluster.lines("began"), "training")[0])
        os.kill(int(killed[1]), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    return killed


def test_three_workers_one_of_them_killed(tmp_path) -> None:
    runs = a_study()
    store = RunStore(tmp_path / "a störe")
    lines: list[str] = []
    with Cluster(tmp_path) as cluster:
        killed = kill_the_first(cluster)
        records, failed = ensure_all(store, runs, "cpu", dask=cluster.address, show=lines.append)
        began, ended = cluster.lines("began"), cluster.lines("ended")
    assert not failed
    assert_equal_records(records, runs, tmp_path)
    assert sorted(name for name, *_ in ended) == sorted(run.fingerprint for run in runs), "each once"
    assert [name for name, *_ in began].count(killed[0]) == 2, "what was killed was begun again"
    assert len({process for _, process, _ in began}) == 3
    assert lines[0] == "6 runs: 0 in the store, 6 to train"
    assert any(line.startswith("[6/6] 2 DeepFM mutual") for line in lines)
    assert list((store.root / ".locks").iterdir()) == [], "nobody has a lock"


def hosts_possible() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.fixture
def hosts():
    """Three network namespaces on one bridge, and the address of this one on it."""
    if not hosts_possible():
        pytest.skip("hosts of their own need root and the command `ip`")
    names = [f"ctr{os.getpid() % 10000}{letter}" for letter in "abc"]
    bridge, net = f"ctrb{os.getpid() % 10000}", f"10.213.{os.getpid() % 250}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        try:
            ip("link", "add", bridge, "type", "bridge")
            ip("addr", "add", f"{net}.1/24", "dev", bridge)
            ip("link", "set", bridge, "up")
            for n, name in enumerate(names):
                ip("netns", "add", name)
                ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", f"{name}v", "master", bridge, "up")
                ip("-n", name, "addr", "add", f"{net}.{n + 2}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"hosts of their own are not possible here: {error.stderr.strip()}")
        yield names, f"{net}.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def test_three_hosts_one_of_them_lost(tmp_path, hosts) -> None:
    """No host sees the processes of another, so the lost one's lock is freed by its missing heartbeat."""
    names, address = hosts
    runs = a_study()
    with Cluster(tmp_path, hosts=names, address=address) as cluster:
        killed = kill_the_first(cluster)
        records, failed = ensure_all(RunStore(tmp_path / "shared"), runs, "cpu", dask=cluster.address)
        began, ended = cluster.lines("began"), cluster.lines("ended")
    assert not failed
    assert_equal_records(records, runs, tmp_path)
    assert sorted(name for name, *_ in ended) == sorted(run.fingerprint for run in runs), "each once"
    assert [name for name, *_ in began].count(killed[0]) == 2, "what was killed was begun again"
    assert {host for *_, host in began} == set(names)
    assert killed[2] not in {host for _, process, host in ended if process == killed[1]}


def test_a_run_that_kills_workers_is_given_up(tmp_path) -> None:
    """And one that is refused fails; the others are trained, and what starts from the failed says so."""
    good = [quick(n) for n in range(3)]
    killer, refused = (make_run([member(1, hidden_units=(units,))]) for units in (13, 14))
    heir = make_run([member(1, hidden_units=(14,))], start=[Checkpoint(run=refused.fingerprint)])
    lines: list[str] = []
    with Cluster(tmp_path, allowed_failures=1) as cluster:
        store = RunStore(tmp_path / "runs")
        records, failed = ensure_all(
            store, [heir, refused, killer, *good], "cpu", dask=cluster.address, show=lines.append
        )
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
        with pytest.raises(BackendLost) as caught:
            ensure_all(RunStore(tmp_path / "runs"), [quick(1), quick(2)], "cpu", dask=cluster.address)
    assert "scheduler" in one_line(caught)
    assert "run the same command again" in one_line(caught)


def test_no_scheduler_is_said(monkeypatch) -> None:
    monkeypatch.setattr(dask, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(UserError) as caught:
            Dask(address)
        assert address in one_line(caught)


def test_the_first_worker_is_waited_for_and_must_share_the_store(tmp_path, monkeypatch) -> None:
    """It writes where its own path leads: elsewhere, so that nothing arrives here; then there is no such folder."""
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    root = tmp_path / "runs"
    root.symlink_to(there)
    with Cluster(tmp_path, workers=0) as cluster:
        for parted, words in ((lambda: None, "same store"), (lambda: there.rename(tmp_path / "gone"), "no folder")):
            added = []

            def show(line: str, parted=parted, added=added) -> None:
                if "waiting for a Dask worker with a slot; this starts one" in line and not added:
                    root.unlink()
                    root.symlink_to(here)
                    parted()
                    added.append(cluster.add())
                    cluster.workers += added

            with pytest.raises(StoreError) as caught:
                ensure_all(RunStore(root), [quick(len(words))], "cpu", dask=cluster.address, show=show)
            assert words in one_line(caught)
            added[0].kill()
            added[0].join()
            root.unlink()
            root.symlink_to(there)
    assert len(cluster.lines("ended")) == 1


# ---- the study -------------------------------------------------------------------------------------------------------


def test_a_study_is_trained_by_dask_and_its_notebooks_find_everything(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    jobs = plan(ROOT, str(ROOT / "tests" / "tiny.yaml"), ["01", "05"], {}, tmp_path / "out")
    lines: list[str] = []
    with Cluster(tmp_path) as cluster:
        assert train_planned(jobs, lines.append, dask=cluster.address) == {}
    wanted = [run.fingerprint for job in jobs for run in training.planned(job)[0]]
    assert wanted
    assert RunStore(tmp_path / "runs").fingerprints() == sorted(set(wanted))


def test_notebooks_whose_runs_failed_are_named(tmp_path, monkeypatch) -> None:
    """One of two notebooks asks for a run that fails: the other one has all of its runs."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "runs"))
    jobs = plan(ROOT, str(ROOT / "tests" / "tiny.yaml"), ["01", "02"], {}, tmp_path / "out")
    good, bad = quick(1), make_run([member(1)], batch_size=331)
    asked = {"01": [good, bad], "02": [good]}
    monkeypatch.setattr(training, "planned", lambda job: (asked[job.number], "cpu"))
    lacking = train_planned(jobs, lambda line: None, workers=1)
    assert list(lacking) == ["01"]
    assert "1 of its 2 runs" in lacking["01"]
    assert "batch_size=331: must be at most 330" in lacking["01"]


def test_the_command_fails_what_lacks_runs_and_executes_the_rest(tmp_path, monkeypatch) -> None:
    asked: list[tuple] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        training,
        "train_planned",
        lambda jobs, line, workers, dask: asked.append((workers, dask)) or {"01": "1 of its 8"},
    )
    monkeypatch.setattr(execute, "execute", lambda job, root, line: execute.Outcome(job, "done", 1.0))
    command = ["study", "--profile", "tests/tiny.yaml", "--out", str(tmp_path), "--only", "01", "--only", "02"]
    result = CliRunner().invoke(app, [*command, "--dask", "tcp://there:8786"])
    assert result.exit_code == 1
    assert "error: 01_train_independent.ipynb: 1 of its 8" in result.output
    assert "02_finetune_mutually   done" in result.output
    CliRunner().invoke(app, [*command, "--workers", "3"])
    assert asked == [(None, "tcp://there:8786"), (3, None)]
    both = CliRunner().invoke(app, [*command, "--workers", "3", "--dask", "tcp://there:8786"])
    assert both.exit_code == 2
    assert "give one of them" in both.output
