"""Every page gives the numbers that its expectations are about, from records of its own runs."""

import numpy as np
import pytest

from ctrlib.store.runs import open_store
from ctrlib.study.expectations import EXPECTED, SOURCES
from ctrlib.study.experiments import SEARCHES, planned_conditions, train_conditions, train_stages
from ctrlib.study.verdicts import FIFTH, MAIN, PAPER

CONDITIONAL = {EXPECTED["E14"].text, FIFTH.text}  # where live peers cost something; where five models were trained


@pytest.mark.parametrize("experiment", SOURCES)
def test_a_page_gives_a_number_a_replicate_for_each_of_its_statements(experiment, tiny_study, monkeypatch) -> None:
    """From what the smallest study has trained, whose numbers mean nothing."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tiny_study["root"] / "runs"))
    (job,) = (one.job for one in tiny_study["outcomes"].values() if one.job.name.partition("_")[2] == experiment)
    p, store = job.settings, open_store()
    train = train_stages if experiment in SEARCHES else None
    every = train(experiment, p, store) if train else train_conditions(p, store, planned_conditions(experiment, p))
    found = []
    for label, at in p.each().items():
        mine = [one for one in every if one.factors.get("data", "") == label]
        found += SOURCES[experiment](store, at, mine, "synthetic")
    page = "main" if experiment in MAIN.values() else experiment
    names = {name for name, one in EXPECTED.items() if one.page == page}
    wanted = {EXPECTED[name].text for name in names} | {text for text, one in PAPER.items() if one.page == page}
    lacking = wanted - CONDITIONAL - {one.statement.text for one in found}
    if page == "main" and not p.stopping_rules:
        lacking -= {EXPECTED["E9"].text}
    assert not lacking
    for one in found:
        assert len(one.values) == 2
        assert np.isfinite(one.values).all(), one
