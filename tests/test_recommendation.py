"""The best without peers and with them, chosen by validation among equally many, and the rule that recommends."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.study.conditions import Replicate
from ctrlib.study.controls import your_log
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.recommendation import (
    against_the_best_control,
    best_architecture,
    over_baselines,
    recommend,
    with_options,
)
from ctrlib.study.tables import effects_against

HERE = {"protocol": "early_stopping", "architecture": "DeepFM"}


def replicate(protocol: str = "early_stopping", **changes) -> Replicate:
    small = {"rows": 400, "batch_size": 100, "architectures": ["DeepFM"], "instances": 3, "mutual_weights": [1, 20]}
    return Replicate(StudyParameters(**{**small, **changes}), 1, protocol)


def test_early_stopping_cuts_from_scratch_and_goes_on_at_one_rate() -> None:
    """The rule of earlier records starts its cuts again in fine-tuning; fixed epochs know neither."""
    for stopping, cuts in {"converged": (2, 0), "fuxictr": (None, None)}.items():
        found = your_log(replicate(stopping=stopping))
        tuned = [run.recipe for one in found for run in one.runs if run.start]
        fresh = [run.recipe for one in found for run in one.runs if not run.start]
        assert ({recipe.cuts for recipe in fresh}, {recipe.cuts for recipe in tuned}) == ({cuts[0]}, {cuts[1]})
        assert sorted({recipe.learning_rate for recipe in tuned}) == pytest.approx([1e-5, 1e-4, 1e-3])
        assert {(recipe.patience, recipe.keep) for recipe in (*tuned, *fresh)} == {(2, "best")}
    fixed = [run.recipe for one in your_log(replicate("fixed_epochs")) for run in one.runs]
    assert {(recipe.patience, recipe.cuts, recipe.keep) for recipe in fixed} == {(0, None, "last")}


def rows_of(values: dict[tuple, list[tuple[float, float]]], **more) -> pd.DataFrame:
    """A replicate table: (condition, rate, weight) -> for each replicate (validation AUC, test AUC)."""
    return pd.DataFrame([
        {**HERE, "condition": name, "rate": rate, "weight": weight, "replicate": n, "valid_auc": valid, "auc": auc,
         "logloss": 1 - auc, "ensemble_auc": auc + 0.004, "ensemble_logloss": 0.99 - auc, **more}
        for (name, rate, weight), pairs in values.items() for n, (valid, auc) in enumerate(pairs)
    ])  # fmt: skip


def test_against_several_controls_is_one_family_and_each_has_its_own() -> None:
    """Continued training is that of the same rate; the checkpoint has none and serves all."""
    rng = np.random.default_rng(1)
    noisy = {
        name: [(0.7, 0.7 + shift + rng.normal(0, 1e-4)) for _ in range(4)]
        for name, shift in {
            ("checkpoint", None, np.nan): 0.0, ("continued training", "lr", np.nan): -0.02,
            ("continued training", "lr/10", np.nan): 0.01, ("mutual", "lr", 1.0): 0.03, ("mutual", "lr/10", 1.0): 0.03,
        }.items()
    }  # fmt: skip
    controls = {"same rate": "continued training", "checkpoint": "checkpoint"}
    found = effects_against(rows_of(noisy), ["architecture", "rate", "weight"], "mutual", controls)
    shown = {(row.rate, row.against): row.difference for row in found.itertuples()}
    expected = {
        ("lr", "same rate"): 0.05,
        ("lr/10", "same rate"): 0.02,
        ("lr", "checkpoint"): 0.03,
        ("lr/10", "checkpoint"): 0.03,
    }
    assert shown == pytest.approx(expected, abs=1e-3)
    assert found["level"].tolist() == pytest.approx([1 - 0.05 / 4] * 4)


def decided(single: float = 0.75, spread: float = 1e-4, replicates: int = 5, **gains: float):
    """The recommendation where one model has test AUC ``single`` and the options gain that much over it."""
    rng, base = np.random.default_rng(0), np.linspace(-1, 1, replicates) * spread
    named = {"averaged": "averaged weights", "mutual": "mutual", "distilled": "distilled"}

    def pairs(gain: float) -> list[tuple[float, float]]:
        return [(0.7 + gain, single + gain + shift + rng.normal(0, spread)) for shift in base]

    values = {("checkpoint", None, np.nan): pairs(0.0)}
    values |= {(name, None, np.nan): pairs(gains.get(key, 0.0)) for key, name in named.items()}
    table = rows_of(values)
    table["ensemble_auc"] = table["auc"] + gains.get("average", 0.0) + rng.normal(0, spread, len(table))
    table = with_options(table)
    assert best_architecture(table, "early_stopping") == "DeepFM"
    return recommend(table, against_the_best_control(table), 3, 1000)


@pytest.mark.parametrize(
    ("settings", "action", "words"),
    [
        ({"single": 0.5, "spread": 0.01}, "nothing", "no model is shown to find a signal"),
        ({"spread": 1e-5}, "one model", "Nothing tried gains as much as 0.001 of AUC."),
        ({"spread": 1e-3}, "one model", "Not decided yet: nothing is shown to gain."),
        ({"average": 0.01}, "average of the models", "serve the average of 3. If you must serve one, train it alone"),
        ({"mutual": 0.01, "average": 0.01}, "mutual learning", "made by mutual learning (mutual). If you can"),
        ({"mutual": 0.01, "distilled": 0.0105}, "mutual learning", "Do not serve the average of 3: no gain"),
        ({"mutual": 0.01, "distilled": 0.02}, "distillation", "made by distillation"),
        ({"averaged": 0.0097, "mutual": 0.01}, "averaged weights", "made by averaged weights"),
        ({"mutual": -0.01, "spread": 1e-5}, "one model", "do not couple, do not average"),
    ],
    ids=str,
)
def test_what_is_recommended_follows_from_the_intervals(settings, action, words) -> None:
    found = decided(**settings)
    assert found.action == action
    assert words in found.sentence


def test_the_best_without_peers_stands_beside_the_best_baseline() -> None:
    pairs = [(0.7, 0.71), (0.7, 0.73)]
    at = with_options(rows_of({(name, None, np.nan): pairs for name in ("checkpoint", "mutual", "distilled")}))
    at = pd.concat([at, rows_of({("FM", None, np.nan): [(0.6, 0.61), (0.6, 0.63)]})])
    found = over_baselines(at, {0: 0.59, 1: 0.60}, 2)
    assert found.startswith(
        "The best without peers against FM, the best baseline, in AUC: +0.1000 (gain, 95 % interval"
    )
    one = over_baselines(at, {0: 0.7, 1: 0.7}, 1)
    assert one.endswith(
        "against logistic regression, the best baseline, in AUC: +0.0200 (one division of the rows, no interval)."
    )


def test_what_was_missed_is_said_in_auc_and_in_rows_or_replicates() -> None:
    close, wide, few = (
        decided(**more).reasons[-1] for more in ({"spread": 1e-5}, {"spread": 2e-3}, {"spread": 2e-3, "replicates": 3})
    )
    assert close.endswith("would have been missed.")
    assert "the margin of the field, about" in wide
    assert few.endswith("With 3 replicates every interval is wide: more time gives more.")
    assert decided(replicates=1).reasons[-1].startswith("One replicate has no interval")
