"""Estimates of time: what they count, that they are of the right size; runs on several devices, by hand."""

import numpy as np
import pytest
from fleet import makespan
from small import checkpoints, make_run, member

from ctrlib.config import Checkpoint
from ctrlib.coupling import complete
from ctrlib.run import estimate
from ctrlib.run.estimate import Clock, plan_parts
from ctrlib.store.published import Results, write
from ctrlib.store.runs import RunStore


@pytest.fixture
def ticking(monkeypatch):
    """Every step takes a second."""
    timed = []
    monkeypatch.setattr(estimate, "time_steps", lambda *kind: timed.append(kind) or 1.0)
    return timed


def test_time_grows_with_members_epochs_and_rows(ticking, tmp_path) -> None:
    clock = Clock(RunStore(tmp_path), "cpu")
    one = clock.seconds(make_run(epochs=1))
    assert clock.seconds(make_run(epochs=3)) == pytest.approx(one + 2 * (330 + 0.35 * 200) / 50)
    pair = clock.seconds(make_run([member(1), member(2)], complete(2), epochs=1))
    assert pair == pytest.approx(2 * one, rel=0.01)
    assert len(ticking) == 1, "seeds do not make another kind of step"


def test_early_stopping_takes_the_epochs_of_the_trainings_most_alike(ticking, tmp_path) -> None:
    """In the store or published; another weight is less unlike than another architecture."""
    store = RunStore(tmp_path)
    asked = make_run(epochs=100, patience=2)
    usual = Clock(store, "cpu").epochs
    assert usual(asked) == 20
    assert usual(make_run([member(1), member(2)], complete(2), epochs=100, patience=2)) == 28
    assert usual(make_run(epochs=100, patience=2, start=checkpoints(1))) == 4
    stopping = {"epochs": 9, "patience": 1, "keep": "best", "learning_rate": 0.05}
    pair = make_run([member(1), member(2)], complete(2), **stopping)
    other = make_run([member(1, architecture="LR")], **stopping)
    records = store.ensure([make_run(**stopping), pair, other], workers=1)
    took = [max(row["epoch"] for row in record.history) for record in records]
    write(tmp_path / "x.parquet", [("run", record.content) for record in records])
    empty = RunStore(tmp_path / "empty", results=Results(tmp_path / "x.parquet"))
    for epochs in (Clock(store, "cpu").epochs, Clock(empty, "cpu").epochs):
        assert epochs(asked) == took[0]
        other_weight = make_run([member(1), member(2)], complete(2, 5.0), epochs=100, patience=2)
        assert epochs(other_weight) == np.mean(took[:2])
        assert epochs(make_run([member(1, architecture="DCN")], epochs=100, patience=2)) == np.mean(took)
        assert epochs(make_run(epochs=1, patience=2)) == 1
        assert epochs(make_run(epochs=100)) == 100


def test_a_plan_counts_every_run_once(ticking, tmp_path) -> None:
    store = RunStore(tmp_path)
    a, b = make_run([member(1)]), make_run([member(2)])
    c = make_run([member(1)], start=[Checkpoint(run=a.fingerprint)])
    store.ensure([a])
    held, clock = {run.fingerprint for run in (a, b, c) if store.find(run)}, Clock(store, "cpu")
    first, second, every = plan_parts({"first": [a, b], "second": [a, b, c]}, held, clock, cores=2)
    assert [part[:4] for part in (first, second, every)] == [("first", 2, 1, 1), ("second", 3, 1, 1), ("all", 3, 1, 2)]
    assert every.seconds == first.seconds + second.seconds
    alone = plan_parts({"first": [a, b]}, held, clock, cores=1)[0].seconds
    assert alone - estimate.NOTEBOOK_S == pytest.approx(2 * (first.seconds - estimate.NOTEBOOK_S))


def test_an_estimate_is_of_the_right_size(tmp_path) -> None:
    """Within a factor of twenty of what a training took: a unit that is wrong would be off by a thousand."""
    store = RunStore(tmp_path)
    run = make_run(epochs=60)
    found = Clock(store, "cpu").seconds(run)
    (record,) = store.ensure([run])
    assert found / 20 < record.seconds + estimate.RUN_S < found * 20


def test_devices_makespan() -> None:
    """A cohort of 5 s, named first, that builds on two runs of 4 s and 6 s; four more of 3 s each."""
    before = [make_run([member(n)]) for n in range(6)]
    starts = [Checkpoint(run=run.fingerprint) for run in before[:2]]
    runs = [make_run([member(0), member(1)], complete(2), start=starts), *before]
    seconds = dict(zip([run.fingerprint for run in runs], [5.0, 4.0, 6.0, 3.0, 3.0, 3.0, 3.0], strict=True))
    for devices, least in ((1, 27.0), (2, 14.0), (3, 11.0), (100, 11.0)):  # two: 6 5 3 beside 4 3 3 3
        assert makespan(runs, seconds, devices) == least
    assert makespan(runs[:1], {runs[0].fingerprint: 5.0}, 8) == 5.0, "what is in the store already is not waited for"
