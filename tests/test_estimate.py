"""Estimates of time: what they count, and that they are of the right size."""

import pytest
from small import make_run, member

from ctrlib.config import Checkpoint
from ctrlib.coupling import complete
from ctrlib.run import estimate
from ctrlib.run.estimate import Clock, Estimate, early_stopping_share, plan_parts
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


def test_early_stopping_takes_the_share_that_earlier_trainings_took(ticking, tmp_path) -> None:
    store = RunStore(tmp_path)
    assert early_stopping_share(store) == estimate.EARLY_STOPPING_SHARE
    (record,) = store.ensure([make_run(epochs=9, patience=1, keep="best", learning_rate=0.05)])
    share = max(row["epoch"] for row in record.history) / 9
    assert early_stopping_share(store) == pytest.approx(share)
    found = Clock(store, "cpu").estimate(make_run(epochs=100, patience=2))
    assert found.likely / found.most == pytest.approx(share, rel=0.02)


def test_a_plan_counts_every_run_once(ticking, tmp_path) -> None:
    store = RunStore(tmp_path)
    a, b = make_run([member(1)]), make_run([member(2)])
    c = make_run([member(1)], start=[Checkpoint(run=a.fingerprint)])
    store.ensure([a])
    first, second, every = plan_parts({"first": [a, b], "second": [a, b, c]}, store, Clock(store, "cpu"), cores=2)
    found = [(part.name, part.runs, part.trained, part.shared) for part in (first, second, every)]
    assert found == [("first", 2, 1, 0), ("second", 3, 1, 1), ("all", 3, 1, 0)]
    assert every.time == first.time + second.time
    alone = plan_parts({"first": [a, b]}, store, Clock(store, "cpu"), cores=1)[0].time.most
    assert alone - estimate.NOTEBOOK_S == pytest.approx(2 * (first.time.most - estimate.NOTEBOOK_S))


def test_an_estimate_is_of_the_right_size(tmp_path) -> None:
    """Within a factor of twenty of what a training took: a unit that is wrong would be off by a thousand."""
    store = RunStore(tmp_path)
    run = make_run(epochs=60)
    found = Clock(store, "cpu").estimate(run)
    (record,) = store.ensure([run])
    assert found + found == Estimate(2 * found.likely, 2 * found.most)
    assert found.most / 20 < record.seconds + estimate.RUN_S < found.most * 20
