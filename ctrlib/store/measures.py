"""Numbers that are computed from finished runs, kept beside them so that they are computed once.

A measure is a small JSON value with a name, the records it came from (by fingerprint and by the checksum of their
predictions) and its parameters. It outlives the large files: whoever has the measures of a study can make all its
tables and figures without weights, predictions or data. A measure that other code computed is computed again.

A new measure of published runs, whose predictions are not there, is computed from the same runs trained again. Where
these predict otherwise, as on another kind of machine, that is said, and the value is kept as theirs.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from ctrlib.config import digest
from ctrlib.data.files import read_sealed, write_sealed
from ctrlib.data.load import load_data
from ctrlib.errors import UserError
from ctrlib.stats import metrics
from ctrlib.stats.delong import AucCovariance, RowDifference, delong, pool_folds
from ctrlib.stats.ledger import Ledger, ledger
from ctrlib.store.code import function_code
from ctrlib.store.record import Record, storage_error
from ctrlib.store.runs import RunStore

FOLDER = ".measures"
ABOUT = ("measure", "version", "parameters", "runs")  # what a measure is of; its digest is the key
PARTS = 10  # of the test rows, by rarity
VERSION = 1  # part of the keys since the first published measures; the code has a digest of its own


def measured(
    store: RunStore,
    name: str,
    records: Sequence[Record],
    compute: Callable[[Sequence[Record]], Any],
    needs_files: bool = True,
    **parameters: Any,
) -> Any:
    """The value of ``compute(records)``, a JSON value; from the store when it was computed before, or published.

    Args:
        store: keeps it.
        name: what is measured.
        records: what it is computed from.
        compute: makes the value of the records with their files; called only when it is not there.
        needs_files: False for what is computed from the rows that the records name: no weights or predictions of theirs
            have to be here.
        parameters: JSON values that the result depends on besides the records.
    """
    code, about = function_code(compute), _about(name, parameters, records)
    kept = _kept(store, about, code)
    if kept is None and store.results and (key := digest(about)) in store.results.measures:
        if store.results.measures.code(key) not in (None, code):
            print(f"{name}: published, computed by other code than this version's", flush=True)
        return store.results.measures[key]
    if kept is None:
        whole = store.with_files(records) if needs_files else records
        trained_again = _about(name, parameters, whole)
        if trained_again != about:
            others = sum(a != b for a, b in zip(about["runs"], trained_again["runs"], strict=True))
            print(f"{name}: of {others} of {len(records)} runs trained again here, not of those published", flush=True)
            about, kept = trained_again, _kept(store, trained_again, code)
    if kept is None:
        value = json.loads(json.dumps(compute(whole)))  # the same whether it was computed or read
        path = _path(store, about)
        kept = {**about, "key": path.stem, "code": code, "value": value}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(path, kept, _checksum)
        except OSError as error:
            print(f"{name}: not kept, will be computed again: {storage_error(error, store.root)}", flush=True)
    return kept["value"]


def _about(name: str, parameters: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    runs = [[record.fingerprint, record.content["files"]["predictions.npz"]] for record in records]
    return {"measure": name, "version": VERSION, "parameters": parameters, "runs": runs}


def _path(store: RunStore, about: dict[str, Any]) -> Path:
    return store.root / FOLDER / f"{digest(about)}.json"


def _kept(store: RunStore, about: dict[str, Any], code: str) -> dict[str, Any] | None:
    """The measure in the folder of the store, None where there is none that this code computed."""
    path = _path(store, about)
    try:
        content = _read(path)
        return content if content.get("code", code) == code else None
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        print(f"damaged measure, will be computed again: {path}", flush=True)
        return None


def _checksum(content: dict[str, Any]) -> str:
    return digest([{name: content[name] for name in ABOUT}, content["value"]])


def _read(path: Path) -> dict[str, Any]:
    """What the file of a measure holds; ValueError unless it is that measure, whole."""
    content = read_sealed(path, _checksum)
    if digest({name: content[name] for name in ABOUT}) != path.stem:
        raise ValueError("it is another measure")
    return content


def stored_measures(store: RunStore) -> list[dict[str, Any]]:
    """All whole measures in the folder of a store, each with ``key``, ``value`` and the ``runs`` it came from."""
    found = []
    for path in sorted((store.root / FOLDER).glob("*.json")):
        with suppress(ValueError, OSError):
            found.append(_read(path))
    return found


def group_scores(store: RunStore, records: Sequence[Record]) -> dict[str, Any]:
    """How good the members of one group are, alone and averaged, and how much they differ.

    Returns:
        ``auc``, ``logloss``, ``valid_auc``: one value a member. ``ensemble_auc``, ``ensemble_logloss``,
        ``ensemble_valid_auc``: of the mean probability. ``churn``: mean |p_a - p_b| of each pair (N, N).
        ``reachable_auc``, ``reachable_logloss``: of the true probability, None where it is not known.
    """
    return measured(store, "group_scores", records, _group_scores)


def _group_scores(records: Sequence[Record]) -> dict[str, Any]:
    data = load_data(records[0].run.data)
    labels, truth = data.test.labels, data.test.probability
    valid = np.concatenate([record.probabilities("valid") for record in records])
    test = np.concatenate([record.probabilities("test") for record in records])
    ensemble = test.mean(axis=0)
    return {
        "auc": metrics.cohort_auc(labels, test).tolist(),
        "logloss": [metrics.logloss(labels, one) for one in test],
        "valid_auc": metrics.cohort_auc(data.valid.labels, valid).tolist(),
        "ensemble_auc": metrics.auc(labels, ensemble),
        "ensemble_logloss": metrics.logloss(labels, ensemble),
        "ensemble_valid_auc": metrics.auc(data.valid.labels, valid.mean(axis=0)),
        "churn": [[float(np.abs(a - b).mean()) for b in test] for a in test],
        "reachable_auc": None if truth is None else metrics.auc(labels, truth),
        "reachable_logloss": None if truth is None else metrics.logloss(labels, truth),
    }


def growing_ensembles(store: RunStore, records: Sequence[Record]) -> dict[str, list[float]]:
    """Test ``auc`` and ``logloss`` and ``valid_auc`` of the mean probability of the first k members, k = 1, 2, ... all
    of them."""
    return measured(store, "growing_ensembles", records, _growing_ensembles)


def _growing_ensembles(records: Sequence[Record]) -> dict[str, list[float]]:
    data = load_data(records[0].run.data)
    valid, test = (np.concatenate([record.probabilities(part) for record in records]) for part in ("valid", "test"))
    first = range(1, len(test) + 1)
    return {
        "auc": [metrics.auc(data.test.labels, test[:k].mean(axis=0)) for k in first],
        "logloss": [metrics.logloss(data.test.labels, test[:k].mean(axis=0)) for k in first],
        "valid_auc": [metrics.auc(data.valid.labels, valid[:k].mean(axis=0)) for k in first],
    }


def rarity_scores(store: RunStore, records: Sequence[Record]) -> list[dict[str, Any]]:
    """How good the members of one group are where rows are rare: the test rows in :data:`PARTS` parts by how often the
    rarest code of a row stands in the training rows, the rarest first.

    The part of a row is the number of inner quantiles of these counts that lie below its own, so that rows of one count
    stay together; a part that no row is in is left out. The code of all rare and unseen values counts as one code.

    Returns:
        For each part ``part`` (1 is the rarest), ``rows``, the ``fewest`` and ``most`` training rows of the rarest
        code, and means over the members: ``auc`` within the part, None where its rows have one label, and ``logloss``.
    """
    return measured(store, "rarity_scores", records, _rarity_scores)


def _rarity_scores(records: Sequence[Record]) -> list[dict[str, Any]]:
    data = load_data(records[0].run.data)
    probabilities, labels = np.concatenate([record.probabilities("test") for record in records]), data.test.labels
    columns = zip(data.train.ids.T, data.test.ids.T, data.field_dims, strict=True)
    rarest = np.min([np.bincount(train, minlength=dim)[test] for train, test, dim in columns], axis=0)
    part = np.searchsorted(np.quantile(rarest, np.arange(1, PARTS) / PARTS), rarest)
    found = []
    for number in np.unique(part):
        rows = part == number
        mixed = labels[rows].min() < labels[rows].max()
        score = {"part": int(number) + 1, "rows": int(rows.sum())}
        score |= {"fewest": int(rarest[rows].min()), "most": int(rarest[rows].max())}
        score["auc"] = float(metrics.cohort_auc(labels[rows], probabilities[:, rows]).mean()) if mixed else None
        score["logloss"] = float(np.mean([metrics.logloss(labels[rows], one[rows]) for one in probabilities]))
        found.append(score)
    return found


def auc_covariance(store: RunStore, records: Sequence[Record]) -> AucCovariance:
    """Test AUC of every member of the records and their covariance over the test rows (DeLong)."""

    def compute(records: Sequence[Record]) -> dict[str, Any]:
        labels = load_data(records[0].run.data).test.labels
        found = delong(labels, np.concatenate([record.logits() for record in records]))
        return {"aucs": found.aucs.tolist(), "covariance": found.covariance.tolist()}

    value = measured(store, "auc_covariance", records, compute)
    return AucCovariance(np.array(value["aucs"]), np.array(value["covariance"]))


def pooled_difference(
    store: RunStore, treated: Sequence[Sequence[Record]], controls: Sequence[Sequence[Record]]
) -> RowDifference:
    """Mean test AUC of the treated members minus that of the controls, over all groups, with the test rows' error.

    Args:
        store: keeps the measures.
        treated, controls: the records of each group, in one order of groups; the test rows of the groups are taken as
            independent, as those of the folds of one log are.
    """
    pairs = list(zip(treated, controls, strict=True))
    pooled = pool_folds([auc_covariance(store, [*mine, *others]) for mine, others in pairs])
    size = sum(len(record.run.members) for record in pairs[0][0])
    rest = pooled.aucs.size - size
    return pooled.contrast([1 / size] * size + [-1 / rest] * rest)


def excess_ledger(store: RunStore, served: Sequence[Sequence[Sequence[Record]]]) -> Ledger:
    """Bias, data variance and seed variance of the excess log loss of what is served, against the known probability.

    Args:
        store: keeps the measure.
        served: [draw of rows][seed] -> the records whose *first* members are served together, by the mean of their
            probabilities; one record stands for one model. All have the same test rows.

    Raises:
        UserError: the true probability is not known.
    """
    draws, seeds, size = len(served), len(served[0]), len(served[0][0])

    def compute(records: Sequence[Record]) -> dict[str, Any]:
        truth = load_data(records[0].run.data).test.probability
        if truth is None:
            raise UserError(f"data set {records[0].run.data.name!r}: the ledger needs the true click probability")
        if size == 1:
            logits = np.stack([record.logits()[0] for record in records])
        else:
            logits = logit([_served_together(records[n : n + size]) for n in range(0, len(records), size)])
        return asdict(ledger(truth, logits.reshape(draws, seeds, -1)))

    records = [record for draw in served for seed in draw for record in seed]
    return Ledger(**measured(store, "excess_ledger", records, compute, draws=draws, seeds=seeds, size=size))


def retraining_churn(store: RunStore, today: Sequence[Record], tomorrow: Sequence[Record]) -> dict[str, float]:
    """How what is served changes when it is trained again, and how good it is.

    Args:
        store: keeps the measure.
        today, tomorrow: the records whose first members are served together, before and after; same test rows.

    Returns:
        ``difference``: :func:`ctrlib.stats.metrics.relative_prediction_difference`. ``auc``: mean test AUC of both.
    """

    def compute(records: Sequence[Record]) -> dict[str, float]:
        labels = load_data(records[0].run.data).test.labels
        both = [_served_together(part) for part in (records[: len(today)], records[len(today) :])]
        aucs = metrics.cohort_auc(labels, np.stack(both))
        return {"difference": metrics.relative_prediction_difference(*both), "auc": float(aucs.mean())}

    return measured(store, "retraining_churn", [*today, *tomorrow], compute, today=len(today))


def _served_together(records: Sequence[Record]) -> np.ndarray:
    """The mean test probability (rows,) of the first member of each record."""
    return np.mean([record.probabilities()[0] for record in records], axis=0)


def data_facts(store: RunStore, record: Record) -> dict[str, Any]:
    """Rows, fields, codes and click rate of the data of a run, as its notebook shows them."""

    def facts(_: Sequence[Record]) -> dict[str, Any]:
        data = load_data(record.run.data)
        return {
            "train_rows": len(data.train),
            "valid_rows": len(data.valid),
            "test_rows": len(data.test),
            "fields": len(data.field_dims),
            "codes": sum(data.field_dims),
            "test_clicks": float(data.test.labels.mean()),
        }

    return measured(store, "data_facts", [record], facts)
