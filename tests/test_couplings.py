"""The paper's first experiments, the weight of either sign, the ways to couple: what their conditions are made of."""

import numpy as np
import pandas as pd
import pytest
from small import refused
from test_experiments import PROTOCOLS, parameters, replicate

from ctrlib.config import Run
from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.study import couplings, figures
from ctrlib.study.conditions import changed
from ctrlib.study.tables import PEERS, choose_by_validation, three_ways


def by_label(conditions, *names: str) -> dict:
    """Conditions by name and the values of some factors."""
    found = {(one.name, *(one.factors[name] for name in names if name in one.factors)): one for one in conditions}
    assert len(found) == len(conditions)
    return found


@PROTOCOLS
def test_in_the_papers_first_experiments_one_of_the_fibinets_is_replaced(protocol: str) -> None:
    r = replicate(parameters(instances=4), protocol=protocol)
    at = by_label(couplings.paper_fibinet(r), "cohort", "rate", "weight")
    like, mixed = (at["checkpoint", name].runs for name in ("FiBiNET", "FiBiNET + DCN"))
    assert [run.members[0].architecture for run in (*like, *mixed)] == ["FiBiNET"] * 7 + ["DCN"]
    assert like[:3] == mixed[:3]
    rates, rate = (3, "lr/10") if protocol == "early_stopping" else (2, "lr")
    assert len(at) == 2 * (1 + rates + 2)
    for name in ("FiBiNET", "FiBiNET + DCN"):
        for weight in (1.0, 20.0):
            (run,) = at["mutual", name, rate, weight].runs
            assert run.coupling.weights == complete(4, weight)
            assert [start.run for start in run.start] == [one.fingerprint for one in at["checkpoint", name].runs]
            assert {run.recipe} == {one.recipe for one in at["continued training", name, rate].runs}


def test_a_weight_may_be_negative_and_not_zero() -> None:
    r = replicate(parameters(mutual_weights=[-20.0, 3.0]))
    at = by_label(couplings.weights(r), "rate", "weight")
    for weight in (-20.0, 3.0):
        assert at["mutual", "lr", weight].runs[0].coupling.weights == complete(3, weight)
        scratch = at["mutual from scratch", weight].runs[0]
        assert (scratch.coupling.weights, scratch.start) == (complete(3, weight), None)
    tuned = couplings.weights(r.varied(ways=("fine-tuned",)))
    assert {one.name for one in at.values()} - {one.name for one in tuned} == {
        "solo from scratch",
        "mutual from scratch",
    }
    assert "negative weight" in refused(r.coupling, -1.0, target="frozen_ensemble", kind=UserError)


@PROTOCOLS
def test_couplings_differ_in_what_their_name_says_alone(protocol: str) -> None:
    p = parameters(mutual_weight=5.0, refreshes=[3], starts=[0, 2], batch_size=100)
    r = replicate(p, protocol=protocol)
    at = by_label([one for one in couplings.couplings(r) if "coupling" in one.factors], "coupling")
    fine = {key[1]: one.runs[0].coupling for key, one in at.items() if key[0] == "mutual" and len(one.runs) == 1}
    live = fine.pop("live")
    assert live == r.coupling(5.0)
    changed = {name: {k: v for k, v in one.model_dump().items() if v != getattr(live, k)} for name, one in fine.items()}
    assert changed.pop("frozen ensemble") == {"target": "frozen_ensemble", "weights": ((5 / 3,) * 3,) * 3}
    assert changed == {
        "live, weight 1": {"weights": complete(3)},
        "auxiliary head": {"head": "auxiliary"},
        "every 3 steps": {"refresh": 3},
        "every epoch": {"refresh": 4},  # 400 rows
        "frozen": {"target": "frozen"},
        "shuffled": {"target": "shuffled"},
    }
    assert [run.coupling.weights for run in at["mutual", "self-anchor"].runs] == [((5.0,),)] * 3
    late = at["mutual from scratch", "live after 2 epochs"].runs[0]
    assert late.coupling.start * late.recipe.epochs == pytest.approx(2)
    own, shared = (at["mutual from scratch", name].runs[0] for name in ("EKTF", "EKTF, shared embeddings"))
    assert shared == own.model_copy(update={"embeddings": "shared"})
    assert all(Run.model_validate(run.model_dump()) == run for one in at.values() for run in one.runs)


@PROTOCOLS
def test_random_embeddings_are_all_that_tells_the_kinds_apart(protocol: str) -> None:
    r = replicate(parameters(), protocol=protocol)
    at = by_label(couplings.random_embeddings(r), "embeddings", "weight")
    assert len(at) == 6
    for key, one in at.items():
        assert {member.random_embeddings for member in one.members} == {
            0.0 if key[1] == "learned" else couplings.SPREAD
        }
        learned = at[key[0], "learned", *key[2:]].runs
        assert changed(one.runs, {"random_embeddings": 0.0}) == changed(learned, {"random_embeddings": 0.0})
    if protocol == "early_stopping":
        assert list(at["alone", "learned"].runs) == r.pretraining(["DCN"] * 3), "trained for other pages as well"


def test_the_best_control_is_subtracted_from_every_treatment() -> None:
    """By hand, with a best control that is another one in each replicate."""
    auc = {
        ("checkpoint", None, None): [0.70, 0.80, 0.75],
        ("continued training", "lr", None): [0.71, 0.79, 0.74],
        ("solo from scratch", None, None): [0.60, 0.60, 0.60],
        ("mutual", "lr", -1.0): [0.72, 0.81, 0.77],
        ("mutual", "lr", 2.0): [0.70, 0.79, 0.70],
        ("mutual from scratch", None, 2.0): [0.75, 0.70, 0.71],
    }
    rows = [(*key, n, value, value) for key, values in auc.items() for n, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["condition", "rate", "weight", "replicate", "auc", "valid_auc"])
    table = table.assign(data="d", protocol="e", overlap=0.0)
    controls = ["checkpoint", "continued training", "solo from scratch"]
    table = choose_by_validation(table, "best control", controls, ["data", "protocol"])
    found = three_ways(table, ["data", "protocol", "rate", "weight"], PEERS | {"absent": ("absent", "checkpoint")})
    best = np.array([0.71, 0.80, 0.75])
    treated, without = [key for key in auc if "mutual" in key[0]], dict(PEERS.values())
    rows = list(zip(found["treatment"], found["weight"], strict=True))
    assert rows == [("fine-tuned", -1), ("fine-tuned", 2), ("from scratch", 2)]
    np.testing.assert_allclose(found["difference"], [np.mean(auc[key] - best) for key in treated])
    own = [np.mean(auc[key]) - np.mean(auc[without[key[0]], key[1], None]) for key in treated]
    np.testing.assert_allclose(found["over_alone"], own)
    np.testing.assert_allclose(found["over_checkpoint"], [np.mean(auc[key]) - 0.75 for key in treated])
    assert found["level"].nunique() == 1
    assert found["level"].iloc[0] == pytest.approx(1 - 0.05 / 3), "one family"


def test_measures_stand_in_a_panel_for_each_data_set_along_weights_of_either_sign() -> None:
    at = {"weight": [-20.0, -1.0, 1.0, 20.0] * 2, "data": ["a"] * 4 + ["b"] * 4}
    table = pd.DataFrame({**at, "difference": np.arange(8) / 1000, "low": -0.01, "high": [0.01, np.inf] * 4})
    figure = figures.measures_along({"members": table, "their ensemble": table}, "weight", "data", "weight")
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    for ax, first in zip(figure.axes, (0, 4), strict=True):
        assert (ax.get_xscale(), list(ax.get_xticks())) == ("symlog", [-20, -1, 1, 20])
        for line in (container.lines[0] for container in ax.containers):
            assert line.get_xdata() == pytest.approx(at["weight"][:4], rel=0.05), "beside each other"
            assert line.get_ydata() == pytest.approx(range(first, first + 4))
    assert len(figures.attached_table(figure)) == 16
