"""The page on later test rows: both splits have one log, and what is told of them is counted by hand."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.stats.paired import paired_difference
from ctrlib.study.conditions import Replicate
from ctrlib.study.drift_page import (
    AVERAGE,
    BELOW,
    CHECKPOINT,
    EFFECT,
    ORACLE,
    between_splits,
    holds,
    with_first_setting,
)
from ctrlib.study.experiments import planned_conditions
from ctrlib.study.finetuning import main_comparison
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import together

SMALL = {"rows": 400, "valid_rows": 200, "test_rows": 300, "fields": 4, "largest_field": 30, "instances": 2}


def test_both_splits_are_the_main_comparison() -> None:
    """That they divide the same rows: test_synthetic_time.py."""
    p = StudyParameters(
        **SMALL, architecture="DeepFM", seeds=[1], protocols=["early_stopping"], drift=0.3, new_codes=0.2
    )
    conditions = planned_conditions("drift", p)
    alone = main_comparison(Replicate(p.model_copy(update={"architectures": ("DeepFM",)}), 1, "early_stopping"))
    for split in ("random", "chronological"):
        at = [one for one in conditions if one.factors["split"] == split]
        assert [one.name for one in at] == [one.name for one in alone]
        assert [one.members for one in at] == [one.members for one in alone], "initial weights and orders are the same"
        (data,) = {run.data for one in at for run in one.runs}
        assert (data.synthetic.drift, data.synthetic.new_codes, data.synthetic.split) == (0.3, 0.2, split)


def test_what_changes_between_splits_is_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    levels = {"protocol": ["fixed_epochs", "early_stopping"], "split": ["random", "chronological"]}
    levels |= {"replicate": range(4), "condition": ["checkpoint", "best control", "best mutual", "average"]}
    table = pd.MultiIndex.from_product(levels.values(), names=list(levels)).to_frame(index=False)
    table = table.assign(auc=rng.random(len(table)), oracle_auc=1 + table["replicate"])
    found = between_splits(table)
    assert list(found["protocol"].unique()) == ["fixed_epochs", "early_stopping"]
    at = table.set_index(["protocol", "split", "condition", "replicate"])["auc"].sort_index()
    for protocol, part in found.groupby("protocol"):
        later, drawn = (at.loc[protocol, split] for split in ("chronological", "random"))
        by_hand = {
            CHECKPOINT: later["checkpoint"] - drawn["checkpoint"],
            ORACLE: 0 * later["checkpoint"],
            BELOW: later["checkpoint"] - drawn["checkpoint"],
            EFFECT: later["best mutual"] - later["best control"] - drawn["best mutual"] + drawn["best control"],
            AVERAGE: later["average"] - later["best control"] - drawn["average"] + drawn["best control"],
        }
        assert list(part["measure"]) == list(by_hand)
        for row in part.itertuples():
            one = paired_difference(by_hand[row.measure].to_numpy(), np.zeros(4), row.level)
            assert (row.difference, row.low, row.high) == pytest.approx((one.mean, one.low, one.high), abs=1e-12)
    assert found["level"].iloc[0] == together([paired_difference(rng.random(4), np.zeros(4))] * 8), (
        "the oracle's is zero"
    )


def test_the_first_setting_has_a_name_of_its_own() -> None:
    names = ["mutual", "mutual", "mutual", "continued training", "continued training", "best mutual"]
    table = pd.DataFrame(
        {"condition": names, "rate": ["lr", "lr", "lr/10", "lr", "lr/10", None], "weight": [1, 20, 1, None, None, None]}
    )
    expected = ["first setting", "mutual", "mutual", "continued training, first rate", *names[4:]]
    assert list(with_first_setting(table, 1.0)["condition"]) == expected


def test_whether_a_gain_holds_follows_from_three_verdicts() -> None:
    none = "no difference shown"
    assert holds("gain", "gain", "loss") == "The gain holds"
    assert holds("gain", "loss", none) == holds("gain", none, "loss") == "The gain does not hold"
    assert holds("gain", none, none) == "Inconclusive"
    assert holds(none, "gain", none) == holds("loss", "gain", "gain") == "Only later test rows show a gain"
    assert holds(none, none, none) == holds("loss", none, "gain") == "Neither division shows a gain"
