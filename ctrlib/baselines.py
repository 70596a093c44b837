"""The floor: what a linear model without learned embeddings reaches on the same codes (scikit-learn)."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ctrlib.data.table import Dataset


def logistic_regression(dataset: Dataset, penalty_weight: float = 1.0) -> np.ndarray:
    """Click probabilities (test rows,) of a logistic regression on one-hot codes, fitted on the training rows.

    Args:
        dataset: encoded rows.
        penalty_weight: strength of the L2 penalty (1/C of scikit-learn).
    """
    model = make_pipeline(
        OneHotEncoder(handle_unknown="ignore"),
        LogisticRegression(C=1 / penalty_weight, solver="lbfgs", max_iter=200),
    )
    model.fit(dataset.train.ids, dataset.train.labels)
    return model.predict_proba(dataset.test.ids)[:, 1]
