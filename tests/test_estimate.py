"""Estimates of time: what they count, that they are of the right size; the plan for many devices, by hand."""

import numpy as np
import pytest
from small import checkpoints, make_run, member

from ctrlib.config import Checkpoint, Run
from ctrlib.coupling import complete
from ctrlib.run import estimate
from ctrlib.run.estimate import Clock, Estimate, fleet_lines, makespan, plan_parts
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
    one = clock.estimate(make_run(epochs=1)).most
    assert clock.estimate(make_run(epochs=3)).most == pytest.approx(one + 2 * (330 + 0.35 * 200) / 50)
    pair = clock.estimate(make_run([member(1), member(2)], complete(2), epochs=1))
    assert pair.most == pytest.approx(2 * one, rel=0.01)
    assert pair.likely == pair.most, "a fixed length is what it is"
    assert len(ticking) == 1, "seeds do not make another kind of step"


def test_early_stopping_takes_the_epochs_of_the_trainings_most_alike(ticking, tmp_path) -> None:
    """In the store or published; another weight is less unlike than another architecture."""
    store = RunStore(tmp_path)
    asked = make_run(epochs=100, patience=2)
    usual = Clock(store, "cpu").epochs.likely
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
        assert epochs.likely(asked) == took[0]
        assert epochs.likely(make_run([member(1), member(2)], complete(2, 5.0), epochs=100, patience=2)) == np.mean(
            took[:2]
        )
        assert epochs.likely(make_run([member(1, architecture="DCN")], epochs=100, patience=2)) == np.mean(took)
        assert epochs.likely(make_run(epochs=1, patience=2)) == 1
        assert epochs.likely(make_run(epochs=100)) == 100
        assert "1 from records of the same data and start;" in epochs.sources() + ";"
    found = Clock(store, "cpu").estimate(asked)
    assert found.likely / found.most == pytest.approx(took[0] / 100, rel=0.2)


def test_a_plan_counts_every_run_once(ticking, tmp_path) -> None:
    store = RunStore(tmp_path)
    a, b = make_run([member(1)]), make_run([member(2)])
    c = make_run([member(1)], start=[Checkpoint(run=a.fingerprint)])
    store.ensure([a])
    held, clock = {run.fingerprint for run in (a, b, c) if store.find(run)}, Clock(store, "cpu")
    first, second, every = plan_parts({"first": [a, b], "second": [a, b, c]}, held, clock, cores=2)
    found = [(part.name, part.runs, part.trained, part.shared) for part in (first, second, every)]
    assert found == [("first", 2, 1, 0), ("second", 3, 1, 1), ("all", 3, 1, 0)]
    assert every.time == first.time + second.time
    alone = plan_parts({"first": [a, b]}, held, clock, cores=1)[0].time.most
    assert alone - estimate.NOTEBOOK_S == pytest.approx(2 * (first.time.most - estimate.NOTEBOOK_S))


def test_an_estimate_is_of_the_right_size(tmp_path) -> None:
    """Within a factor of twenty of what a training took: a unit that is wrong would be off by a thousand."""
    store = RunStore(tmp_path)
    run = make_run(epochs=60)
    found = Clock(store, "cpu").estimate(run)
    (record,) = store.ensure([run])
    assert found + found == Estimate(2 * found.likely, 2 * found.most)
    assert found.most / 20 < record.seconds + estimate.RUN_S < found.most * 20


def a_plan() -> tuple[list[Run], dict[str, float]]:
    """A cohort of 5 s, named first, that builds on two runs of 4 s and 6 s; four more of 3 s each."""
    before = [make_run([member(n)]) for n in range(6)]
    starts = [Checkpoint(run=run.fingerprint) for run in before[:2]]
    cohort = make_run([member(0), member(1)], complete(2), start=starts)
    seconds = dict(zip([run.fingerprint for run in before], [4.0, 6.0, 3.0, 3.0, 3.0, 3.0], strict=True))
    return [cohort, *before], {**seconds, cohort.fingerprint: 5.0}


def test_devices_makespan() -> None:
    runs, seconds = a_plan()
    for devices, least in ((1, 27.0), (2, 14.0), (3, 11.0), (100, 11.0)):  # two: 6 5 3 beside 4 3 3 3
        assert makespan(runs, seconds, devices) == least
    assert makespan(runs[:1], {runs[0].fingerprint: 5.0}, 8) == 5.0, "what is in the store already is not waited for"


def test_the_limit_is_named() -> None:
    few, many = fleet_lines(*a_plan(), fleets=(2, 64))
    assert few == "2 such devices: about 14 seconds, 96% busy; the limit is the number of devices"
    assert "about 11 seconds, 4% busy; the limit is the longest chain" in many
