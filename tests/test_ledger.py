"""What training again changes: the ledger splits exactly and counts one member of a cohort, churn is what it says."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit, rel_entr
from small import SETTINGS, make_run, member, refused, rows
from stores import here

from ctrlib.config import StoredMember, SyntheticSettings
from ctrlib.coupling import complete
from ctrlib.data import synthetic
from ctrlib.data.load import data_settings
from ctrlib.stats.ledger import Ledger, ledger
from ctrlib.stats.metrics import relative_prediction_difference
from ctrlib.stats.paired import relative_difference
from ctrlib.store.measures import excess_ledger, retraining_churn
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Condition, Replicate
from ctrlib.study.experiments import planned_conditions
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.retraining import ONE, PREDECESSOR
from ctrlib.study.retraining_page import ENSEMBLE, PARTS, changes, ledger_table, removed


def kl(p, q) -> float:
    """Mean KL divergence of Bernoulli laws, the plain way."""
    return float((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean())


@pytest.fixture
def models():
    """True probabilities (N,) and the logits (3, 4, N) of models that deviate by draw and by seed."""
    rng = np.random.default_rng(3)
    truth = rng.normal(-1, 1.5, 500)
    by_draw = truth * 0.8 + rng.normal(0, 0.7, (3, 1, 500))
    return expit(truth), by_draw + rng.normal(0, 0.9, (3, 4, 500))


def test_bias_and_variances_add_up_exactly_around_mean_logits_and_not_around_mean_probabilities(models) -> None:
    truth, logits = models
    found = ledger(truth, logits)
    of_all = np.mean([kl(truth, expit(one)) for draw in logits for one in draw])
    assert found.excess == pytest.approx(of_all, abs=1e-9)
    centre, of_draws = expit(logits.mean((0, 1))), expit(logits.mean(1))
    assert found.bias == pytest.approx(kl(truth, centre), abs=1e-9)
    assert found.data_variance == pytest.approx(np.mean([kl(centre, q) for q in of_draws]), abs=1e-9)
    seeds = [kl(q, expit(z)) for q, models in zip(of_draws, logits, strict=True) for z in models]
    assert found.seed_variance == pytest.approx(np.mean(seeds), abs=1e-9)
    one = ledger(truth, logits[:1])  # two levels: mean KL(p* || p_s) = KL(p* || q) + mean KL(q || p_s)
    assert one.data_variance == pytest.approx(0, abs=1e-12)
    assert one.bias == pytest.approx(kl(truth, of_draws[0]), abs=1e-9)
    mean = expit(logits[0]).mean(0)
    off = kl(truth, mean) + np.mean([kl(mean, expit(z)) for z in logits[0]])
    assert abs(off - np.mean([kl(truth, expit(z)) for z in logits[0]])) > 1e-3


def test_the_account_for_any_number_of_models_has_the_same_sum_and_does_not_depend_on_their_number() -> None:
    rng, truth = np.random.default_rng(0), np.full(4000, 0.3)
    law = Ledger(0.2**2, 0.2**2, 0.3**2, 1, 1)  # squared deviations of logits; the KL is p (1 - p) / 2 times them
    for draws, seeds in ((2, 2), (5, 3)):
        z = logit(0.3) + 0.2 + rng.normal(0, 0.2, (draws, 1, 4000)) + rng.normal(0, 0.3, (draws, seeds, 4000))
        plain = ledger(truth, z)
        found = plain.unlimited()
        assert found.excess == pytest.approx(plain.excess, abs=1e-12)
        for part in ("bias", "data_variance", "seed_variance"):
            assert getattr(found, part) == pytest.approx(0.5 * 0.21 * getattr(law, part), rel=0.15)
        assert plain.seed_variance < found.seed_variance
    assert "2 or more" in refused(ledger(truth, z[:1]).unlimited)


def test_the_ledger_refuses_what_is_no_grid_of_models(models) -> None:
    truth, logits = models
    assert "(draws, seeds, 500)" in refused(ledger, truth, logits[0])
    assert "finite" in refused(ledger, truth, np.where(logits == logits.max(), np.inf, logits))


def test_other_rows_are_of_the_same_law_and_the_default_renames_nothing() -> None:
    small = SyntheticSettings(train_rows=4000, valid_rows=100, test_rows=500, fields=4, largest_field=6)
    assert synthetic.fingerprint(small, 1) == synthetic.fingerprint(small.model_copy(update={"rows_seed": 0}), 1)
    usual, other = (synthetic.generate(small.model_copy(update={"rows_seed": seed}), 1) for seed in (0, 5))
    for part in ("train", "valid"):
        assert not np.array_equal(getattr(usual, part).ids, getattr(other, part).ids)
    assert usual.test.ids.tobytes() == other.test.ids.tobytes()
    assert usual.test.labels.tobytes() == other.test.labels.tobytes()
    law = {tuple(ids): p for ids, p in zip(usual.train.ids, usual.train.probability, strict=True)}
    shared = [
        (law[key], p)
        for ids, p in zip(other.train.ids, other.train.probability, strict=True)
        if (key := tuple(ids)) in law
    ]
    assert len(shared) > 1000
    assert all(a == b for a, b in shared)


def test_relative_prediction_difference_is_that_of_the_rows() -> None:
    assert relative_prediction_difference([0.1, 0.4], [0.3, 0.4]) == pytest.approx((0.2 / 0.2 + 0) / 2)
    assert relative_prediction_difference([0, 0], [0, 1]) == 1.0
    assert "1 and 2" in refused(relative_prediction_difference, [0.1], [0.1, 0.2])


def test_of_a_coupled_cohort_one_member_counts_and_an_ensemble_averages_probabilities(tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    alone = here(store, [make_run([member(n)]) for n in range(4)])
    pair = here(store, [make_run([member(n, 7), member(n + 9, 7)], complete(2, 5.0)) for n in range(4)])
    truth = rows().test.probability
    first = np.stack([record.logits()[0] for record in pair]).reshape(2, 2, -1)
    assert excess_ledger(store, [[pair[:1], pair[1:2]], [pair[2:3], pair[3:]]]) == ledger(truth, first)
    together = np.stack([(alone[n].probabilities()[0] + alone[n + 1].probabilities()[0]) / 2 for n in (0, 2)])
    assert excess_ledger(store, [[alone[:2]], [alone[2:]]]) == ledger(truth, logit(together)[:, None])
    grid = [
        Condition(ONE, 1, (), {"protocol": "fixed_epochs", "rows_seed": n // 2, "cohort": n % 2}, records=(record,))
        for n, record in enumerate(alone)
    ]
    plain = excess_ledger(store, [[alone[:1], alone[1:2]], [alone[2:3], alone[3:]]])
    assert plain == ledger(truth, np.stack([record.logits()[0] for record in alone]).reshape(2, 2, -1))
    (row,) = ledger_table(store, grid).query("condition == @ONE").to_dict("records")
    assert [row[part] for part in PARTS] == [*astuple(plain.unlimited())[:3]]
    found = retraining_churn(store, alone[:2], alone[2:])
    assert found["difference"] == pytest.approx((2 * abs(together[0] - together[1]) / together.sum(0)).mean())


def parameters(**changes) -> StudyParameters:
    size = {"rows": 600, "valid_rows": 200, "test_rows": 400, "fields": 4, "largest_field": 20, "batch_size": 200}
    model = {"architecture": "DeepFM", "embedding_dim": 2, "hidden_units": [4], "learning_rate": 0.02}
    rest = {"instances": 2, "seeds": [1, 2], "epochs": 1, "mutual_weights": [1, 20], "protocols": ["fixed_epochs"]}
    return StudyParameters(**{**size, **model, **rest, "device": "cpu", **changes})


def test_every_cohort_of_the_ledger_has_seeds_of_its_own_and_every_draw_rows_of_its_own() -> None:
    p = parameters(rows_seeds=[0, 4], cohorts=3)
    planned = planned_conditions("ledger", p)
    for name in ("one model", "mutual, weight 20"):
        found = [one for one in planned if one.name == name]
        seeds = [(m.init_seed, m.order_seed) for one in found for m in one.members]
        assert len({seed for seed, _ in seeds}) == len(seeds) == 2 * 2 * 3 * 2
        assert len({run.data.fingerprint for one in found for run in one.runs}) == 4
    first = next(one for one in planned if one.name == ONE)
    assert first.runs == tuple(Replicate(p, 1, "fixed_epochs").pretraining(epochs=2)), "those of the other pages"
    dropout, rdrop = (next(one.runs[0] for one in planned if one.name == name) for name in ("dropout", "R-Drop"))
    assert dropout.model_copy(update={"recipe": rdrop.recipe}) == rdrop
    assert "rows_seeds=[0]" in refused(planned_conditions, "ledger", p.model_copy(update={"rows_seeds": (0,)}))
    assert "'synthetic'" in refused(planned_conditions, "ledger", p.model_copy(update={"dataset": "criteo"}))


def test_shares_removed_are_ratios_of_means_over_laws_against_the_right_control() -> None:
    rng, names = np.random.default_rng(1), (ONE, ENSEMBLE, "dropout", "R-Drop")
    of_each = [
        pd.DataFrame(size + rng.random((5, 4)), columns=[*PARTS, "excess"]).assign(condition=name, replicate=range(5))
        for name, size in zip(names, (4, 2, 3, 1), strict=True)
    ]
    ledgers = pd.concat(of_each, ignore_index=True).assign(protocol="early_stopping")
    found = removed(ledgers)
    assert len(found) == 3 * 4
    of = {name: part.set_index("replicate") for name, part in ledgers.groupby("condition")}
    for row in found.to_dict("records"):
        control = "dropout" if row["condition"] == "R-Drop" else ONE
        expected = relative_difference(of[row["condition"]][row["part"]], of[control][row["part"]], 1 - 0.05 / 12)
        assert (row["share"], row["low"], row["high"]) == (-expected.mean, -expected.high, -expected.low)
        assert row["against"] == control
    same = ledgers[ledgers["condition"] == ONE].assign(condition="dropout")
    alone = removed(pd.concat([ledgers[ledgers["condition"].isin([ONE, ENSEMBLE])], same]))
    assert set(alone["condition"]) == {ENSEMBLE}, "the same runs under two names"


def test_what_is_removed_and_added_is_said_by_the_interval() -> None:
    parts = [("bias", -2.56, -4.7, -1.3), ("data variance", 0.4, 0.2, 0.6), ("seed variance", 0.1, -0.1, 0.3)]
    rows = [dict(zip(("part", "share", "low", "high"), one, strict=True)) for one in parts]
    assert changes(rows) == (
        "removes 40% of the data variance; adds 256% to the bias; shows no change of the seed variance"
    )


def test_churn_compares_today_with_tomorrow_and_tomorrow_follows_todays_model() -> None:
    p = parameters(split="chronological", lag=0.1, drift=0.2, rows=1000)
    planned = planned_conditions("churn", p)
    by = {(one.factors["rows"], one.factors["day"], one.name): one for one in planned if one.seed == 1}
    for kind in ("same rows", "a day later"):
        for name in (ONE, "mutual, weight 20", "distilled", "averaged weights"):
            today, tomorrow = by[kind, 0, name], by[kind, 1, name]
            assert {m.init_seed for m in today.members}.isdisjoint(m.init_seed for m in tomorrow.members)
            same = today.runs[0].data.fingerprint == tomorrow.runs[0].data.fingerprint
            assert same == (kind == "same rows")
        (follower,) = by[kind, 1, PREDECESSOR].runs
        assert by[kind, 0, PREDECESSOR].runs == by[kind, 0, ONE].runs[:1]
        assert [teacher.run for teacher in follower.teachers] == [by[kind, 0, ONE].runs[0].fingerprint]
    assert by["same rows", 1, ONE].runs == by["a day later", 1, ONE].runs
    assert {one.factors["rows"] for one in planned_conditions("churn", parameters())} == {"same rows"}


def test_a_teacher_may_have_seen_other_rows_of_the_law_and_none_of_another(tmp_path) -> None:
    store, one = RunStore(tmp_path / "runs"), make_run([member(1)], epochs=1)
    here(store, [one])
    coupling = {"weights": ((5.0,),), "target": "frozen_ensemble"}
    student = make_run(
        [member(2)], coupling.pop("weights"), coupling=coupling, teachers=[StoredMember(run=one.fingerprint)], epochs=1
    )
    for change, draw, allowed in (({"rows_seed": 3}, 0, True), ({"logit_sd": 2.0}, 0, False), ({}, 1, False)):
        other = data_settings("synthetic", draw, SETTINGS.model_copy(update=change))
        moved = student.model_copy(update={"data": other})
        if allowed:
            assert here(store, [moved])
        else:
            assert "other data" in refused(here, store, [moved])
