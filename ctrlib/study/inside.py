"""What is inside trained members, as tables: how alike they are, how strong the peers' gradient is, what serving costs.

These measures need the weights of the members; their results are kept beside the records
(:mod:`ctrlib.store.measures`), under the names and parameters given to :func:`measured`.
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
from ctrlib.stats.metrics import error_overlap
from ctrlib.store.measures import group_scores, measured
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import cka_table, gradient_norms, inference_cost, load_members
from ctrlib.study.conditions import Condition
from ctrlib.study.tables import mean_churn

CKA_ROWS = 2000  # test rows that layers are compared on
GRADIENT_ROWS = 4000  # training rows that gradients are taken on
SERVED_ROWS = 4096


def similarity(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition and replicate: churn, CKA of the embeddings and of the last hidden layer (debiased),
    correlation of the residuals and overlap of the worst tenth of the rows; means over pairs of members."""
    rows = []
    for one in conditions:
        found = measured(store, "similarity", one.records, _similarity, rows=CKA_ROWS)
        churn = mean_churn(group_scores(store, one.records)["churn"])
        rows.append({**one.labels, "churn": churn, **found})
    return pd.DataFrame(rows)


def _similarity(records: Sequence[Record]) -> dict[str, float]:
    data = load_data(records[0].run.data)
    models = [model for record in records for model in load_members(record, data)]
    layers = cka_table(models, data.test.ids[:CKA_ROWS]).set_index("layer")["cka"]
    hidden = [name for name in layers.index if name.startswith("hidden")]
    errors = error_overlap(data.test.labels, np.concatenate([record.probabilities() for record in records]))
    return {
        "cka_embedding": float(layers["embedding"]),
        "cka_last_hidden": float(layers[hidden[-1]]) if hidden else None,
        "residual_correlation": errors.residual_correlation,
        "worst_tenth": errors.worst_overlap,
    }


def gradient_ratio(
    store: RunStore, conditions: Iterable[Condition], forms: Sequence[Form], weights: Sequence[float]
) -> pd.DataFrame:
    """One row per condition, replicate, form and weight: norm of the peer loss's gradient over that of the click
    loss's, over all parameters, and the cosine between the two, means over members and batches of training rows."""
    rows = []
    for one in conditions:
        for form in forms:
            compute = partial(_gradient_ratio, form)
            found = measured(store, "gradient_ratio", one.records, compute, form=form, rows=GRADIENT_ROWS)
            rows += [  # the peer loss is linear in its weight, so one pass serves every weight
                {
                    **one.labels,
                    "form": form,
                    "weight": float(weight),
                    "ratio": weight * found["ratio"],
                    "cosine": found["cosine"],
                }
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


def parameter_counts(store: RunStore, condition: Condition) -> dict[str, int]:
    """Numbers in the first model of a condition: ``all``, and those of its ``embedding`` table."""

    def count(records: Sequence[Record]) -> dict[str, int]:
        model = load_members(records[0], load_data(records[0].run.data))[0]
        tables = embedding_parameters(model)
        return {"all": count_parameters(model), "embedding": max(table.numel() for table in tables)}

    return measured(store, "parameter_counts", condition.records[:1], count)


def serving_cost(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition name: parameters, multiply-adds a row and measured time of its first model."""

    def cost(records: Sequence[Record]) -> dict[str, Any]:
        data = load_data(records[0].run.data)
        found = inference_cost(load_members(records[0], data)[0], data.test.ids[:SERVED_ROWS])
        return {
            "parameters": found["parameters"],
            "multiply_adds": found["multiply_adds"],
            "time": found["milliseconds"],
        }

    first = {one.name: one.records[:1] for one in reversed(list(conditions))}
    return pd.DataFrame(
        [{"condition": name, **measured(store, "serving_cost", one, cost)} for name, one in first.items()]
    )
