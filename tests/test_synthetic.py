"""The embedded data: its truth is the truth, its bytes never depend on how they are asked for, it is hard to learn."""

import hashlib
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import entr, expit, logit
from scipy.stats import chisquare
from sklearn.metrics import mutual_info_score
from small import refused

from ctrlib.config import SyntheticSettings
from ctrlib.data import prepared as table
from ctrlib.data import synthetic
from ctrlib.data.synthetic import BLOCK_ROWS, generate, make_rows, make_world
from ctrlib.stats import metrics

DEFAULT = SyntheticSettings()
SMALL = SyntheticSettings(
    train_rows=400, valid_rows=300, test_rows=200, fields=4, largest_field=30, clusters=5, pairs=2, triples=1
)


@pytest.fixture(scope="module")
def world() -> synthetic.World:
    return make_world(SMALL, 0)


@pytest.fixture(scope="module")
def default_world() -> synthetic.World:
    return make_world(DEFAULT, 1)


def same_rows(a: table.Split, b: table.Split) -> bool:
    pairs = ((a.ids, b.ids), (a.labels, b.labels), (a.probability, b.probability))
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def joined(parts: list[table.Split]) -> table.Split:
    columns = [(p.ids, p.labels, p.probability) for p in parts]
    return table.Split(*(np.concatenate(values) for values in zip(*columns, strict=True)))


def test_true_probability_reaches_what_it_promises() -> None:
    """AUC and log loss of the truth against their expectation, in standard errors from 60 fresh sets of labels."""
    z_auc, z_logloss = [], []
    for draw in range(8):
        split = make_rows(make_world(SMALL, draw), 0, 20_000)
        p, rng = split.probability, np.random.default_rng(draw)
        spread = np.std([metrics.auc(rng.random(len(p)) < p, p) for _ in range(60)], ddof=1)
        z_auc.append((metrics.auc(split.labels, p) - metrics.expected_auc(p)) / spread)
        exact = np.sqrt((p * (1 - p) * logit(p) ** 2).sum()) / len(p)
        entropy = (entr(p) + entr(1 - p)).mean()  # no model can expect less
        z_logloss.append((metrics.logloss(split.labels, p) - entropy) / exact)
    for z in (z_auc, z_logloss):
        assert np.abs(z).max() < 3
        assert abs(np.mean(z)) < 3 / np.sqrt(len(z))
        assert 0.3 < np.std(z) < 2


@pytest.mark.parametrize(("click_rate", "logit_sd"), [(0.02, 0.5), (0.02, 2.5), (0.6, 2.5)])
def test_click_rate_and_spread_are_as_asked(click_rate, logit_sd) -> None:
    asked = SMALL.model_copy(update={"click_rate": click_rate, "logit_sd": logit_sd})
    split = make_rows(make_world(asked, 2), 0, 2 * BLOCK_ROWS)
    p = split.probability
    assert p.mean() == pytest.approx(click_rate, rel=0.03)
    assert abs(split.labels.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).mean() / len(p))
    assert logit(p).std() == pytest.approx(logit_sd, rel=0.03)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 2 * BLOCK_ROWS) | st.sampled_from([BLOCK_ROWS - 1, BLOCK_ROWS]), min_size=3, max_size=5))
def test_any_slicing_gives_the_same_rows(cuts) -> None:
    world = make_world(SMALL, 0)
    cuts = sorted(set(cuts))
    parts = [make_rows(world, a, b) for a, b in pairwise(cuts)]
    if parts:
        assert same_rows(joined(parts), make_rows(world, cuts[0], cuts[-1]))


# Each with the SHA-256 (first 16 digits) of ids and labels of PINNED_ROWS and the sum of their probabilities, as the
# first version of the generator made them. Published results rest on these bytes: they change with a new
# GENERATOR_VERSION or not at all. Probabilities may differ in their last digits from machine to machine.
FEW = {"fields": 4, "largest_field": 30, "clusters": 5, "pairs": 2, "triples": 1}
WIDE = {"fields": 5, "largest_field": 1_000_000, "smallest_field": 3, "zipf": 0, "clusters": 1, "pairs": 3}
STEEP = {"fields": 6, "largest_field": 5000, "zipf": 3, "clusters": 7, "pairs": 0, "triples": 0}
PINNED = [
    ({}, 0, "70ea6f4fdfb10f77", 691.2792128186185),
    ({}, 1, "b951b3222efd4ee2", 669.5803536563524),
    (FEW, 0, "98b0d0eb9aa3f343", 664.1451003082744),
    (WIDE, 1, "1298d1c0486cdf11", 662.1805300173369),
    (STEEP, 1, "346285aa3e2100ae", 662.5112043272),
]
PINNED_ROWS = [(0, 1000), (BLOCK_ROWS - 700, BLOCK_ROWS + 900), (2**35, 2**35 + 50)]


@pytest.mark.parametrize(("changes", "draw", "expected", "clicks"), PINNED)
def test_bytes_are_those_of_the_first_version(changes, draw, expected, clicks) -> None:
    assert synthetic.GENERATOR_VERSION == 1
    world = make_world(SyntheticSettings(**changes), draw)
    parts = joined([make_rows(world, a, b) for a, b in PINNED_ROWS])
    found, done = hashlib.sha256(), 0
    for a, b in PINNED_ROWS:
        part = slice(done, done := done + b - a)
        found.update(parts.ids[part].tobytes() + parts.labels[part].tobytes())
    assert found.hexdigest()[:16] == expected
    assert parts.probability.sum() == pytest.approx(clicks, rel=1e-9)


def plain_effects(world: synthetic.World, ids: np.ndarray) -> np.ndarray:
    """The planted effects of rows (N, F), before scale and intercept, in their plainest form."""
    raw = np.zeros(len(ids))
    for f, effect in enumerate(world.first_order):
        raw = raw + effect[ids[:, f]]
    for scale, groups in ((synthetic.PAIR_SCALE, world.pairs), (synthetic.TRIPLE_SCALE, world.triples)):
        for group in groups:
            product = 1.0
            for f in group:
                product = product * world.latent[f][ids[:, f]]
            raw = raw + scale * (product[:, 0] + product[:, 1] + product[:, 2])
    return raw


def plain_block(world: synthetic.World, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The generator in its plainest form: ids, uniform numbers for the labels and raw logit of a whole block."""
    rng = np.random.Generator(np.random.Philox(key=[world.seed, block]))
    shape = (BLOCK_ROWS, len(world.field_dims))
    cluster = rng.integers(0, len(world.cluster_shift), BLOCK_ROWS)
    shifted, position = rng.random(shape) < 0.5, rng.random(shape)
    ids = np.stack([np.searchsorted(law, position[:, f]) for f, law in enumerate(world.id_thresholds)], axis=1)
    ids = (ids + shifted * world.cluster_shift[cluster]) % world.field_dims
    return ids, rng.random(BLOCK_ROWS), plain_effects(world, ids)


PLAIN = [
    {"fields": 20, "largest_field": 20_000, "pairs": 40, "triples": 9},
    {"fields": 5, "largest_field": 3000, "zipf": 3.0, "clusters": 1},
    {"fields": 4, "smallest_field": 2, "largest_field": 40, "zipf": 0.0, "pairs": 0, "triples": 0},
]


@pytest.mark.parametrize("changes", PLAIN)
def test_every_bit_is_that_of_the_plainest_form(changes) -> None:
    world = make_world(SyntheticSettings(**changes), 6)
    ids, coin, raw = plain_block(world, 2)
    p = expit(world.scale * raw + world.intercept)
    plain = table.Split(ids.astype(np.int32), (coin < p).astype(np.uint8), p)
    assert same_rows(make_rows(world, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS), plain)
    logit_sd = SyntheticSettings(**changes).logit_sd
    assert world.scale == logit_sd / plain_block(world, synthetic.PILOT_BLOCK)[2].std()


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_number_of_threads_does_not_change_rows(world, workers) -> None:
    span = (BLOCK_ROWS // 2, 4 * BLOCK_ROWS + 17)
    assert same_rows(make_rows(world, *span, workers=workers), make_rows(world, *span))
    assert same_rows(generate(SMALL, 3, workers).test, generate(SMALL, 3).test)


def test_no_rows_are_empty_arrays_and_impossible_ones_are_refused(world) -> None:
    for start in (0, 7, BLOCK_ROWS, 2**35 + 3):
        none, one = make_rows(world, start, start), make_rows(world, start, start + 1)
        assert (none.ids.shape, none.labels.shape, none.probability.shape) == ((0, SMALL.fields), (0,), (0,))
        assert same_rows(joined([none, one, none]), one)
        assert [a.dtype for a in (none.ids, none.labels, none.probability)] == [np.int32, np.uint8, np.float64]
    for arguments, words in {(5, 4): "rows 5 to 4", (-1, 4): "rows -1 to 4", (0, 4, 0): "1 or more, got 0"}.items():
        assert words in refused(make_rows, world, *arguments)


def test_memory_is_the_result_and_little_more(default_world) -> None:
    tracemalloc.start()
    split = make_rows(default_world, 0, 1_500_000, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(array.nbytes for array in (split.ids, split.labels, split.probability)) + 15e6


def test_sizes_do_not_change_rows() -> None:
    """More test rows are more rows, not other rows; parts follow each other without overlap."""
    for count in (200, 900):
        made = generate(SMALL.model_copy(update={"test_rows": count}), 3)
        whole = make_rows(make_world(SMALL, 3), 0, 700 + count)
        assert same_rows(joined([made.train, made.valid, made.test]), whole)


def test_ids_follow_their_law(default_world) -> None:
    """Half of the cells have Zipf's law, the other half the same law moved by a cluster's amount."""
    split = make_rows(default_world, 0, 100_000)
    for field, size in enumerate(default_world.field_dims):
        zipf = np.arange(1, size + 1) ** -DEFAULT.zipf
        zipf /= zipf.sum()
        moved = np.mean([np.roll(zipf, shift) for shift in default_world.cluster_shift[:, field]], axis=0)
        seen = np.bincount(split.ids[:, field], minlength=size)
        assert chisquare(seen, len(split) * (zipf + moved) / 2).pvalue > 1e-4
    largest = np.sort(seen)[::-1]
    assert largest[:30].sum() > 0.4 * len(split), "a tenth of the ids has many rows"
    assert np.median(largest) < 0.7 * len(split) / size, "most ids have few"


@pytest.mark.parametrize("clusters", [DEFAULT.clusters, 4])
def test_fields_are_correlated(clusters) -> None:
    """Mutual information of pairs of fields against the same columns with the rows of one shuffled."""
    ids = make_rows(make_world(DEFAULT.model_copy(update={"clusters": clusters}), 1), 0, 60_000).ids
    rng = np.random.default_rng(0)
    for a, b in ((2, 7), (3, 6), (4, 5), (8, 9)):
        together = mutual_info_score(ids[:, a], ids[:, b])
        controls = [mutual_info_score(ids[:, a], rng.permutation(ids[:, b])) for _ in range(5)]
        assert together > max(controls)
        assert together - np.mean(controls) > 10 * np.std(controls)
        assert b > 7 or together > 1.5 * max(controls)  # in the largest fields the controls' own bias is most of it
