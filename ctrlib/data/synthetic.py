"""Clicks with a known probability: the embedded data of the study.

Each row has a latent cluster. A field's id is drawn from a Zipf law; in half of the cells it is shifted by an
amount that belongs to the row's cluster, which makes the fields (weakly) dependent.
The true logit is the sum of first-order effects, of planted pairs (dot products of rank-3 latent vectors) and of
planted triples, scaled to ``logit_sd``; an intercept sets the click rate. The label is a coin with that probability.
Because the probability is known, so are the best reachable AUC and log loss (:mod:`ctrlib.metrics`).

Rows are made in blocks of fixed size, each from its own counter-based stream, so the bytes of a row depend on the
settings and the row number alone, never on how many rows are asked for at a time.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ctrlib.config import SyntheticSettings, derive_seed, digest
from ctrlib.data.table import Dataset, Split

GENERATOR_VERSION = 1
BLOCK_ROWS = 65_536
LATENT_RANK = 3
PAIR_SCALE, TRIPLE_SCALE, FIRST_ORDER_SCALE = 0.8, 0.35, 0.35
PILOT_BLOCK = 2**40  # a block no data set reaches: it fixes scale and intercept of the logit


@dataclass(frozen=True)
class World:
    """What is planted: everything of the generator that is not a row."""

    field_dims: np.ndarray  # (F,)
    id_thresholds: list[np.ndarray]  # per field, cumulative Zipf law
    cluster_shift: np.ndarray  # (clusters, F)
    first_order: list[np.ndarray]  # per field (ids,)
    latent: list[np.ndarray]  # per field (ids, LATENT_RANK)
    pairs: np.ndarray  # (pairs, 2) fields
    triples: np.ndarray  # (triples, 3) fields
    seed: int
    scale: float = 1.0
    intercept: float = 0.0


def make_world(settings: SyntheticSettings, draw: int) -> World:
    """Plant effects for one draw; scale and intercept come from a pilot block of rows."""
    seed = derive_seed("synthetic", GENERATOR_VERSION, settings.seed, draw)
    rng = np.random.default_rng(seed)
    dims = np.geomspace(settings.smallest_field, settings.largest_field, settings.fields).round().astype(np.int64)
    laws = [np.cumsum(np.arange(1, dim + 1) ** -settings.zipf) for dim in dims]
    every_pair = np.stack(np.triu_indices(settings.fields, 1), axis=1)
    world = World(
        field_dims=dims,
        id_thresholds=[law / law[-1] for law in laws],
        cluster_shift=rng.integers(0, dims, size=(settings.clusters, settings.fields)),
        first_order=[rng.normal(0, FIRST_ORDER_SCALE, dim) for dim in dims],
        latent=[rng.normal(0, 1, (dim, LATENT_RANK)) for dim in dims],
        pairs=every_pair[rng.choice(len(every_pair), min(settings.pairs, len(every_pair)), replace=False)],
        triples=np.array([rng.choice(settings.fields, 3, replace=False) for _ in range(settings.triples)]).reshape(
            -1, 3
        ),
        seed=seed,
    )
    raw = _raw_logit(world, _draw_ids(world, PILOT_BLOCK)[0])
    scale = settings.logit_sd / raw.std()
    intercept = brentq(lambda shift: expit(scale * raw + shift).mean() - settings.click_rate, -50, 50)
    return World(**{**world.__dict__, "scale": float(scale), "intercept": float(intercept)})


def _draw_ids(world: World, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (BLOCK_ROWS, F) of one block and the uniform numbers (BLOCK_ROWS,) that its labels will use."""
    rng = np.random.Generator(np.random.Philox(key=[world.seed, block]))
    fields = len(world.field_dims)
    cluster = rng.integers(0, len(world.cluster_shift), BLOCK_ROWS)
    shifted = rng.random((BLOCK_ROWS, fields)) < 0.5
    position = rng.random((BLOCK_ROWS, fields))
    ids = np.empty((BLOCK_ROWS, fields), dtype=np.int64)
    for f, thresholds in enumerate(world.id_thresholds):
        ids[:, f] = np.searchsorted(thresholds, position[:, f])
    ids = (ids + shifted * world.cluster_shift[cluster]) % world.field_dims
    return ids, rng.random(BLOCK_ROWS)


def _raw_logit(world: World, ids: np.ndarray) -> np.ndarray:
    """The planted effects of rows ``ids`` (N, F), before scale and intercept: (N,)."""
    latent = [table[ids[:, f]] for f, table in enumerate(world.latent)]
    logit = sum(table[ids[:, f]] for f, table in enumerate(world.first_order))
    for a, b in world.pairs:
        logit = logit + PAIR_SCALE * (latent[a] * latent[b]).sum(axis=1)
    for a, b, c in world.triples:
        logit = logit + TRIPLE_SCALE * (latent[a] * latent[b] * latent[c]).sum(axis=1)
    return logit


def make_rows(world: World, start: int, stop: int) -> Split:
    """Rows ``start`` ... ``stop`` - 1 of the endless table of ``world``, with their true probabilities."""
    ids, labels, probability = [], [], []
    for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
        first = block * BLOCK_ROWS
        part = slice(max(start - first, 0), min(stop - first, BLOCK_ROWS))
        block_ids, coin = _draw_ids(world, block)
        p = expit(world.scale * _raw_logit(world, block_ids[part]) + world.intercept)
        ids.append(block_ids[part].astype(np.int32))
        labels.append((coin[part] < p).astype(np.uint8))
        probability.append(p)
    return Split(np.concatenate(ids), np.concatenate(labels), np.concatenate(probability))


def fingerprint(settings: SyntheticSettings, draw: int) -> str:
    """Names the rows without making them: they follow from the settings alone."""
    return digest({"synthetic": settings.model_dump(), "draw": draw, "version": GENERATOR_VERSION})


def generate(settings: SyntheticSettings, draw: int = 0) -> Dataset:
    """The data set of one draw: its own planted effects and its own rows. Same settings and draw, same bytes."""
    world = make_world(settings, draw)
    ends = np.cumsum([0, settings.train_rows, settings.valid_rows, settings.test_rows])
    train, valid, test = (make_rows(world, int(a), int(b)) for a, b in pairwise(ends))
    return Dataset(
        name="synthetic",
        draw=draw,
        field_names=tuple(f"field_{f:02d}" for f in range(settings.fields)),
        field_dims=tuple(int(dim) for dim in world.field_dims),
        train=train,
        valid=valid,
        test=test,
        fingerprint=fingerprint(settings, draw),
    )
