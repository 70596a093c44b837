"""The floor: what a linear model without learned embeddings reaches on the same codes (scikit-learn)."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ctrlib.data.load import load_data
from ctrlib.stats import metrics
from ctrlib.store.measures import measured
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.training.dataset import Dataset

STRENGTHS = (
    0.003,
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
)  # C of scikit-learn to choose from: one over the weight of the L2 penalty


def logistic_regression(dataset: Dataset, penalty_weight: float = 1.0) -> np.ndarray:
    """Click probabilities (test rows,) of a logistic regression on one-hot codes, fitted on the training rows.

    Args:
        dataset: encoded rows.
        penalty_weight: strength of the L2 penalty (1/C of scikit-learn).
    """
    model = make_pipeline(
        OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=1 / penalty_weight, solver="lbfgs", max_iter=200)
    )
    model.fit(dataset.train.ids, dataset.train.labels)
    return model.predict_proba(dataset.test.ids)[:, 1]


def baseline_scores(store: RunStore, records: Sequence[Record]) -> dict[str, float]:
    """Two checks from outside on one replicate.

    Returns:
        ``logistic_regression_auc``: the floor, on the test rows. ``largest_auc_difference``: between our AUC and
        scikit-learn's, over the members; anything above rounding is an error.
    """

    def compute(records: Sequence[Record]) -> dict[str, float]:
        data = load_data(records[0].run.data)
        labels = data.test.labels
        members = np.concatenate([record.probabilities() for record in records])
        off = [abs(metrics.auc(labels, one) - float(roc_auc_score(labels, one))) for one in members]
        return {
            "logistic_regression_auc": metrics.auc(labels, logistic_regression(data)),
            "largest_auc_difference": max(off),
        }

    return measured(store, "baseline_scores", records, compute)


def linear_scores(store: RunStore, record: Record) -> dict[str, float]:
    """The logistic regression to be better than, on the rows of a record: scikit-learn's on one-hot codes, of
    :data:`STRENGTHS` the one with the best validation AUC. No run is needed but for its name.

    Returns:
        ``C``, ``valid_auc``, and on the test rows ``auc``, ``logloss`` and ``calibration`` (mean prediction over share
        of clicks).
    """

    def compute(records: Sequence[Record]) -> dict[str, float]:
        data = load_data(records[0].run.data)
        encoder = OneHotEncoder(handle_unknown="ignore").fit(data.train.ids)
        train, valid, test = (encoder.transform(part.ids) for part in (data.train, data.valid, data.test))
        found = []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, solver="newton-cg", max_iter=200).fit(train, data.train.labels)
            valid_auc = metrics.auc(data.valid.labels, model.predict_proba(valid)[:, 1])
            found.append((valid_auc, strength, model.predict_proba(test)[:, 1]))
        valid_auc, strength, predicted = max(found, key=lambda one: one[0])
        labels = data.test.labels
        return {
            "C": strength,
            "valid_auc": valid_auc,
            "auc": metrics.auc(labels, predicted),
            "logloss": metrics.logloss(labels, predicted),
            "calibration": float(predicted.mean() / labels.mean()),
        }

    return measured(store, "linear_scores", [record], compute, needs_files=False)
