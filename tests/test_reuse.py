"""What is kept is used for what it was made of: its rows, its code, its trainings."""

import numpy as np
import pytest
from raw_files import table_lines, write_lines
from small import make_run, member, one_line

from ctrlib.data import sources
from ctrlib.data.load import data_settings, load_data
from ctrlib.data.options import PrepareOptions
from ctrlib.errors import UserError
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
    with pytest.raises(UserError) as caught:
        group_scores(store, [record])
    words = one_line(caught)
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
