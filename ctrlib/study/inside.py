"""What is inside trained members, as tables: how alike they are, how hard peers pull, what serving costs.

These measures need the weights of the members; their results are kept beside the records
(:mod:`ctrlib.store.measures`).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ctrlib.config import Coupling, Form
from ctrlib.coupling import complete
from ctrlib.data.load import load_data
from ctrlib.models import count_parameters, embedding_parameters
from ctrlib.stats import metrics
from ctrlib.store.measures import group_scores, measured
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import cka_table, gradient_norms, inference_cost, load_member, load_members
from ctrlib.study.arms import Arm

CKA_ROWS = 2000  # test rows that layers are compared on
GRADIENT_ROWS = 4000  # training rows that gradients are taken on
SERVED_ROWS = 4096


def similarity(store: RunStore, arms: Iterable[Arm]) -> pd.DataFrame:
    """One row per arm and group: churn, CKA of the embeddings and of the last hidden layer (debiased), correlation of
    the residuals and overlap of the worst tenth of the rows; means over pairs of members."""
    rows = []
    for arm in arms:
        found = measured(store, "similarity", arm.records, _similarity, rows=CKA_ROWS)
        churn = np.array(group_scores(store, arm.records)["churn"])
        pairs = churn[np.triu_indices(len(churn), 1)]
        rows.append({**arm.factors, "arm": arm.name, "group": arm.seed, "churn": float(pairs.mean()), **found})
    return pd.DataFrame(rows)


def _similarity(records: Sequence[Record]) -> dict[str, float]:
    data = load_data(records[0].run.data)
    models = [model for record in records for model in load_members(record, data)]
    layers = cka_table(models, data.test.ids[:CKA_ROWS]).set_index("layer")["cka"]
    hidden = [name for name in layers.index if name.startswith("hidden")]
    errors = metrics.error_overlap(data.test.labels, np.concatenate([record.probabilities() for record in records]))
    return {
        "cka_embedding": float(layers["embedding"]),
        "cka_last_hidden": float(layers[hidden[-1]]) if hidden else None,
        "residual_correlation": errors.residual_correlation,
        "worst_tenth": errors.worst_overlap,
    }


def gradient_ratio(
    store: RunStore, arms: Iterable[Arm], forms: Sequence[Form], weights: Sequence[float]
) -> pd.DataFrame:
    """One row per arm, group, form and weight: norm of the peer loss's gradient over that of the click loss's, over all
    parameters, and the cosine between the two, means over members and batches of training rows."""
    rows = []
    for arm in arms:
        for form in forms:
            found = measured(
                store,
                "gradient_ratio",
                arm.records,
                partial(_gradient_ratio, form),
                form=form,
                rows=GRADIENT_ROWS,
            )
            about = {**arm.factors, "arm": arm.name, "group": arm.seed, "form": form}
            # the peer loss is linear in its weight, so one pass serves every weight
            rows += [
                {**about, "weight": float(weight), "ratio": weight * found["ratio"], "cosine": found["cosine"]}
                for weight in weights
            ]
    return pd.DataFrame(rows)


def _gradient_ratio(form: Form, records: Sequence[Record]) -> dict[str, float]:
    data = load_data(records[0].run.data)
    models = [model for record in records for model in load_members(record, data)]
    coupling = Coupling(weights=complete(len(models)), form=form)
    batch_size = min(records[0].run.recipe.batch_size, len(data.train))
    rows = slice(0, max(GRADIENT_ROWS, batch_size))
    table = gradient_norms(models, coupling, data.train.ids[rows], data.train.labels[rows], batch_size)
    whole = table[table["part"] == "all"]
    return {"ratio": float(whole["ratio"].mean()), "cosine": float(whole["cosine"].mean())}


def parameter_counts(store: RunStore, arm: Arm) -> dict[str, int]:
    """Numbers in the first model of an arm: ``all``, and those of its ``embedding`` table alone."""
    return measured(store, "parameter_counts", arm.records[:1], _parameter_counts)


def _parameter_counts(records: Sequence[Record]) -> dict[str, int]:
    model = load_member(records[0], 0, load_data(records[0].run.data))
    tables = embedding_parameters(model)
    return {"all": count_parameters(model), "embedding": max(table.numel() for table in tables)}


def serving_cost(store: RunStore, arms: Iterable[Arm]) -> pd.DataFrame:
    """One row per arm name: parameters, multiply-adds a row and measured time of its first model when it answers."""
    first = {arm.name: arm.records[:1] for arm in reversed(list(arms))}
    rows = [{"arm": name, **measured(store, "serving_cost", one, _serving_cost)} for name, one in first.items()]
    return pd.DataFrame(rows)


def _serving_cost(records: Sequence[Record]) -> dict[str, Any]:
    data = load_data(records[0].run.data)
    found = inference_cost(load_member(records[0], 0, data), data.test.ids[:SERVED_ROWS])
    names = {"parameters": "parameters", "multiply_adds": "multiply_adds", "milliseconds": "time"}
    return {name: found[key] for key, name in names.items()}
