"""What is inside members, as tables: against the functions that look, and the degenerate case."""

import numpy as np
import pytest
from small import make_run, member

from ctrlib.config import Coupling
from ctrlib.coupling import complete
from ctrlib.data.load import load_data
from ctrlib.models import count_parameters
from ctrlib.stats.metrics import error_overlap
from ctrlib.store.runs import RunStore
from ctrlib.study.analysis import cka_table, gradient_norms, load_members
from ctrlib.study.conditions import Condition
from ctrlib.study.inside import gradient_ratio, parameter_counts, serving_cost, similarity


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two different members, and two identical ones."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    kinds = {"differ": [member(1), member(2)], "twins": [member(1), member(1)]}
    conditions = []
    for name, pair in kinds.items():
        run = make_run(pair, complete(2))
        conditions.append(Condition(name, 1, (run,), {"protocol": "early_stopping"}, tuple(store.ensure([run]))))
    return store, conditions


def test_similarity_is_what_the_functions_say(trained) -> None:
    store, conditions = trained
    found = similarity(store, conditions).set_index("condition")
    condition = conditions[0]
    data = load_data(condition.runs[0].data)
    models = load_members(condition.records[0], data)
    layers = cka_table(models, data.test.ids).set_index("layer")["cka"]
    errors = error_overlap(data.test.labels, condition.probabilities())
    row = found.loc["differ"]
    assert row["cka_embedding"] == pytest.approx(layers["embedding"])
    assert row["cka_last_hidden"] == pytest.approx(layers["hidden 2"])
    assert row["residual_correlation"] == pytest.approx(errors.residual_correlation)
    assert row["worst_tenth"] == pytest.approx(errors.worst_overlap)
    p, q = condition.probabilities()
    assert row["churn"] == pytest.approx(np.abs(p - q).mean())


def test_twins_are_alike_in_everything(trained) -> None:
    store, conditions = trained
    twins = similarity(store, conditions).set_index("condition").loc["twins"]
    assert twins["churn"] == 0
    assert twins["worst_tenth"] == 1
    for name in ("cka_embedding", "cka_last_hidden", "residual_correlation"):
        assert twins[name] == pytest.approx(1.0)


def test_the_pull_grows_with_its_weight_and_form(trained) -> None:
    store, conditions = trained
    found = gradient_ratio(store, conditions[:1], ["mse", "kl"], [1.0, 20.0]).set_index(["form", "weight"])["ratio"]
    assert found["mse", 20.0] == pytest.approx(20 * found["mse", 1.0])
    data = load_data(conditions[0].runs[0].data)
    models = load_members(conditions[0].records[0], data)
    coupling = Coupling(weights=complete(2, 20.0), form="kl")
    norms = gradient_norms(models, coupling, data.train.ids, data.train.labels, batch_size=50)
    expected = norms[norms["part"] == "all"]["ratio"].mean()
    assert found["kl", 20.0] == pytest.approx(expected, rel=1e-5), "linear in the weight"


def test_costs_are_those_of_the_first_model(trained) -> None:
    store, conditions = trained
    data = load_data(conditions[0].runs[0].data)
    model = load_members(conditions[0].records[0], data)[0]
    found = serving_cost(store, conditions).set_index("condition")
    assert set(found.index) == {"differ", "twins"}
    assert (found["parameters"] == count_parameters(model)).all()
    assert (found["time"] > 0).all()
    counts = parameter_counts(store, conditions[0])
    assert counts == {"all": count_parameters(model), "embedding": sum(data.field_dims) * 3}
