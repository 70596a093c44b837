"""Measures: computed once, kept with their checksum, read from committed results when the store lacks them."""

import copy
import errno
import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from small import make_run, member, refused
from stores import here
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Checkpoint
from ctrlib.coupling import complete
from ctrlib.data.load import load_data
from ctrlib.run import training
from ctrlib.store import measures
from ctrlib.store.measures import (
    FOLDER,
    auc_covariance,
    data_facts,
    group_scores,
    measured,
    pooled_difference,
    rarity_scores,
)
from ctrlib.store.published import Results, write
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore


@pytest.fixture
def trained(tmp_path):
    """A store with two members trained alone and the same two trained together."""
    store, pair = RunStore(tmp_path / "runs"), [member(1), member(2)]
    return store, here(store, [make_run([one]) for one in pair]), here(store, [make_run(pair, complete(2, 20.0))])


def test_a_measure_is_computed_once(trained) -> None:
    store, alone, _ = trained
    calls = []

    def compute(records):
        calls.append([record.fingerprint for record in records])
        return {"x": [1, 2.5], "none": None}

    for _ in range(3):
        assert measured(store, "some", alone, compute, rows=3) == {"x": [1, 2.5], "none": None}
    assert calls == [[record.fingerprint for record in alone]]
    for name, records, rows in (("some", alone, 4), ("some", alone[::-1], 3), ("other", alone, 3)):
        measured(store, name, records, compute, rows=rows)
    assert len(calls) == 4, "another parameter, order of records or name is another measure"
    for _ in range(2):
        assert measured(store, "nothing", alone, lambda _: calls.append([])) is None
    assert len(calls) == 5, "a value of None is kept as well"
    assert measured(store, "nothing", alone, lambda _: 3) == 3, "by other code it is computed again"
    assert [len(one["code"]) for one in measures.stored_measures(store)] == [16] * 5, "and takes the place of the first"


def test_scores_by_rarity_are_those_counted_row_by_row(trained) -> None:
    """Rows of one count stay together; the parts are all test rows; a part of one label has no AUC."""
    store, alone, _ = trained
    data = load_data(alone[0].run.data)
    counts = np.array(
        [min((data.train.ids[:, f] == code).sum() for f, code in enumerate(row)) for row in data.test.ids]
    )
    cuts = [np.quantile(counts, tenth / 10) for tenth in range(1, 10)]
    part = np.array([1 + sum(cut < count for cut in cuts) for count in counts])
    found = rarity_scores(store, alone)
    assert [one["part"] for one in found] == sorted(set(part))
    assert sum(one["rows"] for one in found) == len(data.test)
    for one in found:
        rows, labels = part == one["part"], data.test.labels[part == one["part"]]
        assert (one["rows"], one["fewest"], one["most"]) == (rows.sum(), counts[rows].min(), counts[rows].max())
        each = [record.probabilities()[0, rows].astype(np.float64) for record in alone]
        assert one["logloss"] == pytest.approx(np.mean([log_loss(labels, p, labels=[0, 1]) for p in each]), rel=1e-9)
        auc = np.mean([roc_auc_score(labels, p) for p in each]) if 0 < labels.mean() < 1 else None
        assert one["auc"] == (auc if auc is None else pytest.approx(auc, rel=1e-12))


def test_a_damaged_measure_is_said_and_computed_again(trained, capsys) -> None:
    store, alone, _ = trained
    value = group_scores(store, alone)
    (path,) = (store.root / FOLDER).glob("*.json")
    altered = json.loads(path.read_bytes())
    altered["value"]["ensemble_auc"] += 0.01
    for damage in (b"", b"[]", b'{"checksum": 1, "value": 2}', json.dumps(altered).encode()):
        path.write_bytes(damage)
        assert measures.stored_measures(store) == []
        assert group_scores(store, alone) == value
        assert "damaged measure" in capsys.readouterr().out
        assert group_scores(store, alone) == value
        assert "damaged" not in capsys.readouterr().out


def test_a_measure_that_cannot_be_kept_is_shown_all_the_same(trained, monkeypatch, capsys) -> None:
    store, alone, _ = trained

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measures, "write_sealed", full)
    assert group_scores(store, alone)["auc"]
    assert "group_scores: not kept, will be computed again" in capsys.readouterr().out


def test_what_is_published_says_by_which_code(trained, tmp_path, monkeypatch, capsys) -> None:
    store, alone, _ = trained
    value = group_scores(store, alone)
    runs = [record.run for record in alone]
    monkeypatch.setattr(training, "planned", lambda job: (runs, "cpu"))
    training.publish([None], store, tmp_path / "x.parquet")
    fresh = RunStore(tmp_path / "fresh", results=Results(tmp_path / "x.parquet"))
    records = fresh.ensure(runs)
    assert records[0].content["code"] == alone[0].content["code"]
    assert group_scores(fresh, records) == value
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(measures, "function_code", lambda _: "0" * 16)
    assert group_scores(fresh, records) == value
    assert "group_scores: published, computed by other code than this version's" in capsys.readouterr().out


def test_a_run_that_builds_on_other_weights_is_not_published(trained, tmp_path, monkeypatch) -> None:
    store, alone, _ = trained
    heir = make_run([member(1)], start=[Checkpoint(run=alone[0].fingerprint)])
    here(store, [heir])
    monkeypatch.setattr(training, "planned", lambda job: ([alone[0].run, heir], "cpu"))
    assert training.publish([None], store, tmp_path / "x.parquet")["run"] == 2
    elsewhere = copy.deepcopy(alone[0].content)
    elsewhere["files"]["members.safetensors"] = "0" * 64
    write(tmp_path / "y.parquet", [("run", elsewhere)])
    mixed = RunStore(store.root, results=Results(tmp_path / "y.parquet"))
    assert f"run {heir.fingerprint} builds on other weights" in refused(
        training.publish, [None], mixed, tmp_path / "y.parquet"
    )


def test_aucs_of_all_members_and_their_pooled_difference(trained) -> None:
    store, alone, together = trained
    found, again = (auc_covariance(store, [*together, *alone]) for _ in range(2))
    labels = load_data(alone[0].run.data).test.labels
    expected = [roc_auc_score(labels, one) for record in (*together, *alone) for one in record.logits()]
    assert found.aucs == pytest.approx(expected, abs=1e-12)
    assert found.covariance.shape == (4, 4)
    assert np.array_equal(again.covariance, found.covariance)
    one = pooled_difference(store, [together], [alone])
    assert one.estimate == pytest.approx(found.aucs[:2].mean() - found.aucs[2:].mean(), abs=1e-15)
    twice = pooled_difference(store, [together] * 2, [alone] * 2)
    assert twice.estimate == pytest.approx(one.estimate, abs=1e-15)
    assert twice.standard_error == pytest.approx(one.standard_error / np.sqrt(2), rel=1e-12)


def commit(store: RunStore, records, path) -> RunStore:
    """An empty store over what ``ctrlib runs publish`` writes of some records."""
    entries = [("run", record.content) for record in records]
    entries += [("measure", {"key": one["key"], "value": one["value"]}) for one in measures.stored_measures(store)]
    write(path / "results" / "x.parquet", entries)
    return RunStore(path / "empty", results=Results(path / "results"))


def test_committed_results_serve_where_nothing_is_trained(trained, tmp_path, monkeypatch) -> None:
    """Tables come from committed records and measures; no file of a record, no row of the data is touched."""
    store, alone, together = trained
    records = [*alone, *together]
    scores, facts = group_scores(store, together), data_facts(store, alone[0])
    fresh = commit(store, records, tmp_path)
    monkeypatch.setattr(measures, "load_data", lambda _: pytest.fail("no data are needed"))
    found = fresh.ensure([record.run for record in records])
    assert [record.content for record in found] == [record.content for record in records]
    assert group_scores(fresh, found[2:]) == scores
    assert data_facts(fresh, found[0]) == facts
    assert not (tmp_path / "empty").exists()
    with pytest.raises(Damaged, match="No such file"):
        found[0].logits()


def test_what_was_not_committed_trains_what_it_needs(trained, tmp_path) -> None:
    """A measure needs the predictions, a run its checkpoint; on one machine they are the same bits."""
    store, alone, together = trained
    fresh = commit(store, [*alone, *together], tmp_path)
    found = here(fresh, [record.run for record in together])
    assert group_scores(fresh, found) == group_scores(store, together)
    assert fresh.fingerprints() == [together[0].fingerprint]
    run = make_run([member(1)], start=[Checkpoint(run=alone[0].fingerprint)])
    [record], [expected] = here(fresh, [run]), here(store, [run])
    assert {*fresh.fingerprints()} == {one.fingerprint for one in (*together, alone[0], run)}
    assert np.array_equal(record.logits(), expected.logits())


def test_a_published_record_goes_before_one_trained_again(trained, tmp_path, capsys) -> None:
    """What another kind of machine published differs in the last digits; its weights are those trained here."""
    store, alone, _ = trained
    elsewhere = copy.deepcopy(alone[0].content)
    elsewhere["files"]["predictions.npz"] = "0" * 64
    elsewhere["seconds"] += 1
    write(tmp_path / "results" / "x.parquet", [("run", elsewhere)])
    both = RunStore(store.root, results=Results(tmp_path / "results"))
    run = alone[0].run
    assert both.find(run).content == elsewhere
    assert both.find(run, with_files=True).content == alone[0].content
    assert group_scores(both, [both.find(run)]) == group_scores(store, alone[:1])
    assert "of 1 of 1 runs trained again here, not of those published" in capsys.readouterr().out
    (one,) = measures.stored_measures(store)
    assert one["runs"][0][1] == alone[0].content["files"]["predictions.npz"], "kept as the measure of what it is of"


def test_pages_are_published_one_by_one(trained, tmp_path, monkeypatch) -> None:
    """From a store that has only the second page's runs; those of the first were published from another."""
    store, alone, together = trained
    first = group_scores(store, alone)
    results = commit(store, alone, tmp_path).results
    runs, path = [record.run for record in (*alone, *together)], tmp_path / "results" / "x.parquet"
    monkeypatch.setattr(training, "planned", lambda job: (runs, "cpu"))
    other = RunStore(tmp_path / "other", results=results)
    missing = training.publish([None], other, path)["missing"]
    second = group_scores(other, other.ensure([together[0].run]))
    found = training.publish([None], other, path)
    assert (missing, found["missing"], found["run"], found["measure"]) == (1, 0, 3, 2)
    fresh = RunStore(tmp_path / "fresh", results=Results(path.parent))
    assert group_scores(fresh, fresh.ensure(runs[:2])) == first
    assert group_scores(fresh, fresh.ensure(runs[2:])) == second
    assert not fresh.fingerprints()


def test_a_page_leaves_what_other_files_hold_to_them(trained, tmp_path, monkeypatch) -> None:
    store, alone, together = trained
    wanted = [[record.run for record in alone], [record.run for record in (*alone, *together)]]
    measured_first, folder = group_scores(store, alone), tmp_path / "results"
    for name, runs in zip(("first", "second"), wanted, strict=True):
        monkeypatch.setattr(training, "planned", lambda job, runs=runs: (runs, "cpu"))
        found = training.publish([None], store, folder / f"{name}.parquet")
        assert found["missing"] == 0
    own, everything = Results(folder / "second.parquet"), Results(folder)
    assert list(own.runs) == [record.fingerprint for record in together]
    assert set(everything.runs) == {record.fingerprint for record in (*alone, *together)}
    assert measured_first in everything.measures.values()
    assert measured_first not in own.measures.values()


# ---- files of results ------------------------------------------------------------------------------------------------


def entries() -> list[tuple[str, dict]]:
    """Invented results with what JSON can hold: empty lists, None, floats that are whole, large integers."""
    epoch = {"epoch": 1, "member": 0, "learning_rate": 0.01, "click_loss": 1 / 3, "peer_loss": 0.0, "valid_auc": 0.5}
    epoch |= {"valid_logloss": 5e-324, "seconds": 1e300}
    run = {"format": 1, "run": {"weights": [[0.0, 1], []], "start": None}, "history": [epoch, epoch | {"epoch": 2}]}
    run |= {"test": [{"auc": 0.1 + 0.2}], "kept_epochs": [2], "files": {"predictions.npz": "0" * 64}, "seconds": 3.0}
    values = [None, 1, 1.0, [], [[0.1, None], {"a": 2**60, "b": True}], "text"]
    found = [("run", run | {"fingerprint": "a"}), ("run", run | {"history": [], "fingerprint": "c"})]
    found += [("measure", {"key": f"key {n}", "value": value}) for n, value in enumerate(values)]
    return [*found, ("data", {"name": "mine", "draws": [{"rows": {"train": 3}, "dims": [1, 2]}]})]


def test_results_come_back_as_they_were(tmp_path) -> None:
    for name, order in (("a", entries()), ("b", entries()[::-1])):
        assert write(tmp_path / name / "x.parquet", order) == len(order)
    assert (tmp_path / "a" / "x.parquet").read_bytes() == (tmp_path / "b" / "x.parquet").read_bytes(), "one order"
    parts = [("run", "fingerprint", None), ("measure", "key", "value"), ("data", "name", "draws")]
    expected = [
        {entry[key]: entry[value] if value else entry for found, entry in entries() if found == kind}
        for kind, key, value in parts
    ]
    back = Results(tmp_path / "a")
    found = [dict(part) for part in (back.runs, back.measures, back.data)]
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True), "with the types of all numbers"


def test_damaged_results_are_refused(tmp_path) -> None:
    """Any byte, also of the checksum itself, and a file that ends early."""
    write(tmp_path / "x.parquet", entries())
    whole = (tmp_path / "x.parquet").read_bytes()
    flipped = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(0, len(whole), 97)]
    cases = [("x.parquet", damaged) for damaged in (b"", whole[:-1], *flipped)]
    for name, damaged in cases:
        (tmp_path / "x.parquet").write_bytes(whole)
        (tmp_path / name).write_bytes(damaged)
        assert f"{name}: damaged" in refused(Results, tmp_path)


def test_two_files_of_results_are_compared(trained, tmp_path) -> None:
    """By the command: what is in one alone, how far metrics are apart, other predictions of equal metrics."""
    _, alone, together = trained
    first, second, third = (copy.deepcopy(record.content) for record in (*alone, *together))
    value = {"key": "k", "value": {"auc": [0.5, 0.75], "none": None}}
    write(tmp_path / "a.parquet", [("run", first), ("run", second), ("measure", value)])
    changed = copy.deepcopy(first)
    changed["test"][0]["auc"] += 2e-4
    changed["history"][1]["valid_auc"] += 1e-4
    changed["seconds"] += 5
    other = second | {"files": second["files"] | {"predictions.npz": "0" * 64}}
    value = {"key": "k", "value": {"auc": [0.5, 0.5], "none": None}}
    write(tmp_path / "b.parquet", [("run", changed), ("run", other), ("run", third), ("measure", value)])
    done = CliRunner().invoke(app, ["runs", "diff", *(str(tmp_path / f"{name}.parquet") for name in "ab")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "runs: 2 and 3, 2 of them in both, of which 2 differ",
        f"  only in the second: {third['fingerprint']} 2 DeepFM mutual mse live from scratch, draw 0",
        f"  {second['fingerprint']} DeepFM alone from scratch, draw 0: differs at files.predictions.npz",
        f"  {first['fingerprint']} DeepFM alone from scratch, draw 0: largest difference 0.0002 at test[0].auc",
        "measures: 1 and 1, 1 of them in both, of which 1 differ",
        "  k: largest difference 0.25 at auc[1]",
        "data: 0 and 0, 0 of them in both, of which 0 differ",
    ]
    same = CliRunner().invoke(app, ["runs", "diff", *[str(tmp_path / "a.parquet")] * 2])
    assert same.output.count("0 differ") == 3
