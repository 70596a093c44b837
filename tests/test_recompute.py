"""Recorded runs are trained again, and what does not come out the same is found."""

import copy

import pytest
from small import make_run, member
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Checkpoint
from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.store.recompute import TOLERANCE, candidates, recompute
from ctrlib.store.runs import RunStore


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    """Two single runs, a cohort, and a run that starts from one of them."""
    store, settings = RunStore(tmp_path_factory.mktemp("store")), {"epochs": 1, "batch_size": 165}
    singles = [make_run([member(n)], **settings) for n in (1, 2)]
    later = make_run([member(1)], start=[Checkpoint(run=singles[0].fingerprint, optimizer="reset")], **settings)
    store.ensure([*singles, make_run([member(3), member(4)], complete(2), **settings), later], "cpu", workers=1)
    return store


def contents(store: RunStore) -> dict[str, dict]:
    return {name: copy.deepcopy(store.open(name).content) for name in store.fingerprints()}


def test_only_cheap_runs_that_begin_from_nothing_are_chosen(store) -> None:
    recorded = contents(store)
    for content in recorded.values():
        content["seconds"] = float(len(content["test"]))
    chosen = candidates(recorded)
    assert len(chosen) == 2
    assert all(run.start is None and len(run.members) == 1 for run in chosen)
    for content in recorded.values():
        content["numerics"] = 0
    with pytest.raises(UserError, match="nothing can be computed again"):
        candidates(recorded)


def test_the_same_machine_gives_the_same_bits_and_what_differs_is_found(store) -> None:
    found = list(recompute(contents(store), 9, seed=1))
    assert found
    assert all(matches and "bit for bit (same kind of machine)" in line for line, matches in found)
    assert set(recompute(contents(store), 1, 1)) <= set(found)
    for change, machine, matches in (
        (1e-9, {}, False),
        (0.5 * TOLERANCE, {"processor": "another"}, True),
        (2 * TOLERANCE, {"processor": "another"}, False),
    ):
        recorded = contents(store)
        for content in recorded.values():
            content["test"][0]["auc"] += change
            content["environment"].update(machine)
        ((line, found),) = recompute(recorded, 1, seed=2)
        assert found == matches
        assert ("DOES NOT MATCH" in line) == (not matches)


def test_the_command(store, tmp_path) -> None:
    done = CliRunner().invoke(app, ["runs", "verify", "--recompute", "2", "--store", str(store.root)])
    assert done.exit_code == 0, done.output
    assert "bit for bit" in done.output
    assert "match" in done.output.splitlines()[-1]
    empty = CliRunner().invoke(app, ["runs", "verify", "--recompute", "2", "--store", str(tmp_path)])
    assert empty.exit_code != 0
    assert "no runs are published" in empty.output
