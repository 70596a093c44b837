"""Synthetic clicks over time: the truth is the truth of the moment, nothing comes before its time, and without time
every byte is as before (test_synthetic.py pins them)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit
from small import refused
from test_synthetic import plain_effects

from ctrlib.config import SyntheticSettings, checked
from ctrlib.data import synthetic
from ctrlib.data.synthetic import BLOCK_ROWS, generate, make_rows, make_world
from ctrlib.training.dataset import Split

SMALL = {"train_rows": 2400, "valid_rows": 400, "test_rows": 1200, "fields": 4, "largest_field": 60, "clusters": 5}
ROWS = 4000  # of all parts


def settings(**changes) -> SyntheticSettings:
    return SyntheticSettings(**{**SMALL, "pairs": 2, "triples": 1, **changes})


def parts(*splits: Split) -> list[np.ndarray]:
    """Ids, labels and probabilities of several parts, one after the other."""
    return [np.concatenate(column) for column in zip(*((s.ids, s.labels, s.probability) for s in splits), strict=True)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def plain_logit(world: synthetic.World, ids: np.ndarray, time: np.ndarray | float) -> np.ndarray:
    """The true logit of rows at a time, from the formula of :class:`ctrlib.data.synthetic.Time`."""
    at = world.time
    first = plain_effects(world, ids) - at.mean
    second = plain_effects(replace(world, first_order=at.first_order, latent=at.latent), ids) - at.shift
    turned = np.cos(at.angle * time) * first + np.sin(at.angle * time) * (at.spread * second - at.slope * first)
    return world.scale * (at.mean + turned) + world.intercept


@pytest.mark.parametrize("first", [0, 3000, BLOCK_ROWS - 100, -150])
def test_every_row_is_that_of_the_plainest_form(first) -> None:
    world = make_world(settings(drift=0.6, new_codes=0.4, split="chronological"), 2)
    found, time = make_rows(world, first, first + 200), (np.arange(first, first + 200) + 0.5) / ROWS
    assert found.probability == pytest.approx(expit(plain_logit(world, found.ids, time)), rel=1e-12)
    cuts = pairwise((first, first + 1, first + 130, first + 200))
    assert same(parts(*(make_rows(world, a, b) for a, b in cuts)), parts(found))
    if first >= 0:
        drawn = make_rows(replace(world, time=None), first, first + 200).ids
        for f, (born, stand_in) in enumerate(zip(world.time.born, world.time.stand_in, strict=True)):
            there = [code if born[code] <= t else stand_in[code] for code, t in zip(drawn[:, f], time, strict=True)]
            assert found.ids[:, f].tolist() == there


def test_rows_are_clicked_as_often_as_their_probability_says() -> None:
    """In each tenth of the log and for each tenth of the probabilities, within four standard errors."""
    asked = settings(drift=0.8, new_codes=0.3, train_rows=150_000, valid_rows=10_000, test_rows=40_000)
    rows = make_rows(make_world(asked, 3), 0, 200_000)
    tenth = np.arange(200_000) // 20_000
    for group in (tenth, np.argsort(np.argsort(rows.probability)) // 20_000):
        for one in range(10):
            p, clicks = rows.probability[group == one], rows.labels[group == one]
            assert abs(clicks.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).mean() / len(p))
    assert all(abs(rows.probability[tenth == one].mean() - 0.25) < 0.04 for one in range(10))


@pytest.mark.parametrize("drift", [0.1, 0.5, 1.0])
def test_drift_is_one_minus_the_correlation_of_first_and_last_moment(drift) -> None:
    world = make_world(settings(drift=drift), 1)
    ids = make_rows(replace(world, time=None), 0, 30_000).ids
    first, middle, last = (plain_logit(world, ids, time) for time in (0.0, 0.5, 1.0))
    assert np.corrcoef(first, last)[0, 1] == pytest.approx(1 - drift, abs=0.02)
    assert np.corrcoef(first, middle)[0, 1] == pytest.approx(np.cos(np.arccos(1 - drift) / 2), abs=0.02)
    for logit in (middle, last):
        assert logit.std() == pytest.approx(1.5, rel=0.03)
        assert logit.mean() == pytest.approx(first.mean(), abs=0.05)


def test_without_time_the_bytes_are_those_of_the_default() -> None:
    plain = generate(settings(), 3)
    chronological = generate(settings(split="chronological"), 3)
    assert same(parts(*plain.splits().values()), parts(*chronological.splits().values()))
    moved, world = make_world(settings(drift=0.5, new_codes=0.5), 3), make_world(settings(), 3)
    assert (moved.scale, moved.intercept) == (world.scale, world.intercept)
    assert same([*moved.first_order, *moved.latent], [*world.first_order, *world.latent])


def test_new_codes_come_one_by_one_and_never_before_their_time() -> None:
    world = make_world(settings(new_codes=0.3), 0)
    ids = make_rows(world, -500, ROWS).ids
    time = (np.arange(-500, ROWS) + 0.5) / ROWS
    for f, (born, stand_in) in enumerate(zip(world.time.born, world.time.stand_in, strict=True)):
        new = np.isfinite(born)
        assert new.sum() == round(0.3 * len(born))
        assert np.isneginf(born[stand_in]).all()
        assert np.all(time >= born[ids[:, f]])
        assert np.sort(born[new]) == pytest.approx((np.arange(new.sum()) + 0.5) / max(1, new.sum()))
    assert len(set(ids[time < 0][:, 3]) | set(ids[time < 0.5][:, 3])) < len(set(ids[:, 3])), (
        "some are in late rows alone"
    )
    assert make_world(settings(smallest_field=2, new_codes=0.9), 0).time.born[0].max() < 1, "one id is always there"


def test_both_splits_divide_one_log_and_the_chronological_one_by_time() -> None:
    asked = {"drift": 0.5, "new_codes": 0.2}
    log = make_rows(make_world(settings(**asked), 1), 0, ROWS)
    early = generate(settings(**asked, split="chronological"), 1).splits().values()
    assert same(parts(*early), parts(log))
    drawn = generate(settings(**asked), 1).splits().values()
    assert [len(part) for part in drawn] == [len(part) for part in early] == [2400, 400, 1200]
    for a, b in zip(parts(*drawn)[1:], parts(log)[1:], strict=True):
        assert same([np.sort(a)], [np.sort(b)])
    for part in drawn:  # of all times, in their order
        where = np.flatnonzero(np.isin(log.probability, part.probability))
        assert where.mean() == pytest.approx(ROWS / 2, rel=0.05)


@pytest.mark.parametrize("changes", [{}, {"drift": 0.5, "new_codes": 0.2}])
def test_a_lag_moves_the_training_window_and_keeps_the_test_rows(changes) -> None:
    today, before = (generate(settings(split="chronological", lag=lag, **changes), 1) for lag in (0, 0.1))
    moved = ROWS // 10
    assert same(parts(today.test), parts(before.test))
    ours, theirs = parts(today.train, today.valid), parts(before.train, before.valid)
    assert same([column[:-moved] for column in ours], [column[moved:] for column in theirs])
    assert not same(ours, theirs)
    assert today.fingerprint != before.fingerprint
    assert "lag=0.1 needs split 'chronological'" in refused(checked, SyntheticSettings, lag=0.1)
