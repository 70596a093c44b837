"""Clicks with a known probability: the embedded data of the study.

Each row has a latent cluster. A field's id is drawn from a Zipf law; in half of the cells it is shifted by an
amount that belongs to the row's cluster, which makes the fields (weakly) dependent.
The true logit is the sum of first-order effects, of planted pairs (dot products of rank-3 latent vectors) and of
planted triples, scaled to ``logit_sd``; an intercept sets the click rate. The label is a coin with that probability.
Because the probability is known, so are the best possible AUC and log loss (:mod:`ctrlib.stats.metrics`).

Rows may have a time (:class:`Time`): then the planted effects drift, new ids appear, and the known probability is that
of the row at its time. At time 0 the law is the one without time.

Rows are made in blocks of fixed size, each from its own counter-based stream, so the bytes of a row depend on the
settings and the row number alone, never on how many rows are asked for at a time, nor on how many threads make them.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ctrlib.config import SyntheticSettings, derive_seed, digest
from ctrlib.data.workers import MOST_THREADS, usable_cores
from ctrlib.errors import UserError
from ctrlib.training.dataset import Dataset, Split

GENERATOR_VERSION = 1
BLOCK_ROWS = 65_536
LATENT_RANK = 3
PAIR_SCALE, TRIPLE_SCALE, FIRST_ORDER_SCALE = 0.8, 0.35, 0.35
PILOT_BLOCK = 2**40  # a block no data set reaches: it fixes scale and intercept of the logit
BLOCKS = 2**41  # rows before row 0 lie in the blocks counted back from here

CHUNK_ROWS = 8192  # rows of a block made together: a column of them, and what is gathered for it, stays in cache
MOST_CELLS = 2**14  # cells in the lookup of a field's ids, at most
ROWS_PER_THREAD = 500_000  # fewer rows are made before more threads would have paid for themselves


@dataclass(frozen=True)
class Time:
    """What changes over the log of a world, whose row r of R is at time t = (r + 1/2) / R; earlier rows at t < 0.

    With raw logits A and B of a row, from the planted effects and from others of their kind, the raw logit at time t is

        m + cos(angle t) (A - m) + sin(angle t) (spread (B - shift) - slope (A - m)).

    What stands beside the sine has on the pilot rows mean 0, the standard deviation of A and no correlation with it.
    So the logit's mean and spread stay, and the logits of a row at times t and s have correlation cos(angle (t - s)).

    An id of a field that is not there yet is replaced by the one that stands in for it, which is there all the time.
    """

    rows: int  # R
    angle: float  # radians from time 0 to time 1
    born: list[np.ndarray]  # per field (ids,): the time an id appears, -inf for those that are always there
    stand_in: list[np.ndarray]  # per field (ids,): the id in its place until then
    first_order: list[np.ndarray]  # those of B, as in World
    latent: list[np.ndarray]
    mean: float = 0.0  # m
    spread: float = 0.0
    shift: float = 0.0
    slope: float = 0.0


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
    time: Time | None = None  # None: rows have no time


def field_dims(settings: SyntheticSettings) -> np.ndarray:
    """Ids of each field, (F,): from the smallest to the largest, growing geometrically."""
    return np.geomspace(settings.smallest_field, settings.largest_field, settings.fields).round().astype(np.int64)


def make_world(settings: SyntheticSettings, draw: int) -> World:
    """Plant effects for one draw; scale and intercept come from a pilot block of rows."""
    from scipy.optimize import brentq
    from scipy.special import expit

    seed = derive_seed("synthetic", GENERATOR_VERSION, settings.seed, draw)
    rng = np.random.default_rng(seed)
    dims = field_dims(settings)
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
    raw = _pilot(world)
    scale = settings.logit_sd / raw.std()
    intercept = brentq(lambda shift: expit(scale * raw + shift).mean() - settings.click_rate, -50, 50)
    time = _make_time(settings, world, raw) if settings.drift or settings.new_codes or settings.lag else None
    return World(**{**world.__dict__, "scale": float(scale), "intercept": float(intercept), "time": time})


def _pilot(world: World) -> np.ndarray:
    """The raw logits of the pilot block, (BLOCK_ROWS,), without time."""
    raw = np.empty(BLOCK_ROWS)
    _make_block(_plan(world), PILOT_BLOCK, 0, np.empty((BLOCK_ROWS, len(world.field_dims)), dtype=np.int32), raw)
    return raw


def _make_time(settings: SyntheticSettings, world: World, raw: np.ndarray) -> Time:
    """What changes over the log, from streams of its own; ``raw`` is the pilot block's logit at time 0."""
    rng = np.random.default_rng(derive_seed("new codes", world.seed))
    born, stand_in = [], []
    for dim in world.field_dims:
        new = min(round(settings.new_codes * dim), dim - 1)
        order = rng.permutation(dim)  # the new ids as they appear, at even distances; then those of all times
        born.append(np.full(dim, -np.inf))
        born[-1][order[:new]] = (np.arange(new) + 0.5) / max(new, 1)
        stand_in.append(np.arange(dim))
        stand_in[-1][order[:new]] = rng.choice(order[new:], new)
    rng = np.random.default_rng(derive_seed("drift", world.seed))
    other = {
        "first_order": [rng.normal(0, FIRST_ORDER_SCALE, dim) for dim in world.field_dims],
        "latent": [rng.normal(0, 1, (dim, LATENT_RANK)) for dim in world.field_dims],
    }
    rows = settings.train_rows + settings.valid_rows + settings.test_rows
    time = Time(rows, float(np.arccos(1 - settings.drift)), born, stand_in, **other)
    if not settings.drift:
        return time
    second, centred = _pilot(replace(world, **other)), raw - raw.mean()
    slope = (second * centred).sum() / (centred * centred).sum()
    spread = raw.std() / (second - slope * centred).std()
    numbers = {"mean": raw.mean(), "spread": spread, "shift": second.mean(), "slope": spread * slope}
    return replace(time, **{name: float(number) for name, number in numbers.items()})


@dataclass(frozen=True)
class _Field:
    """One field of a world as tables to look up.

    An id is the number of ``thresholds`` below a uniform number. Cut [0, 1) into C equal cells: a cell without a
    threshold has one id, a cell with one threshold has two, and the few numbers in crowded cells are searched for.
    C is a power of two, so the cell of a number is exact.
    """

    dim: int
    thresholds: np.ndarray  # (dim,)
    lowest: np.ndarray  # (C,) int64: smallest id in the cell, -1 if the cell is crowded
    border: np.ndarray  # (C,): the id is one more above it
    shift: np.ndarray  # (clusters,)
    first_order: np.ndarray  # (dim,)
    latent: np.ndarray | None  # (LATENT_RANK, dim); None where no interaction is planted


@dataclass(frozen=True)
class _Plan:
    """A world made ready for making rows."""

    seed: int
    clusters: int
    fields: list[_Field]
    pairs: list[list[int]]
    triples: list[list[int]]
    time: Time | None
    other: "_Plan | None"  # the effects that the planted ones drift to


def _plan(world: World) -> _Plan:
    interacting = {*world.pairs.ravel().tolist(), *world.triples.ravel().tolist()}
    fields = []
    for f, thresholds in enumerate(world.id_thresholds):
        dim = len(thresholds)
        cells = min(1 << (8 * dim).bit_length(), MOST_CELLS)
        below = np.searchsorted(thresholds, np.arange(cells + 1) / cells)
        lowest, crowded = below[:-1].astype(np.int64), np.diff(below) > 1
        border = thresholds[lowest]
        lowest[crowded], border[crowded] = -1, np.inf
        latent = np.ascontiguousarray(world.latent[f].T) if f in interacting else None
        shift = np.ascontiguousarray(world.cluster_shift[:, f], dtype=np.int64)
        fields.append(_Field(dim, thresholds, lowest, border, shift, world.first_order[f], latent))
    time, other = world.time, None
    if time is not None and time.angle:
        other = _plan(replace(world, first_order=time.first_order, latent=time.latent, time=None))
    pairs, triples = world.pairs.tolist(), world.triples.tolist()
    return _Plan(world.seed, len(world.cluster_shift), fields, pairs, triples, time, other)


def _make_block(plan: _Plan, block: int, start: int, ids: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Rows ``start`` ... ``start + N - 1`` of one block.

    Args:
        ids: (N, F) int32, to be filled.
        logit: (N,) float64, to be filled with the planted effects before scale and intercept.

    Returns:
        The uniform numbers (N,) that the labels will use.
    """
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, block % BLOCKS]))
    fields, stop = len(plan.fields), start + len(ids)
    # The stream is one of whole blocks: clusters, then all shifts, all positions, all coins.
    cluster = rng.integers(0, plan.clusters, BLOCK_ROWS)
    shifted = np.empty((BLOCK_ROWS, fields), dtype=bool)
    for first in range(0, BLOCK_ROWS, CHUNK_ROWS):
        np.less(rng.random((CHUNK_ROWS, fields)), 0.5, out=shifted[first : first + CHUNK_ROWS])
    for first in range(0, BLOCK_ROWS, CHUNK_ROWS):
        position = rng.random((CHUNK_ROWS, fields))
        low, high = max(first, start), min(first + CHUNK_ROWS, stop)
        if low < high:
            codes = _ids(plan, position[low - first : high - first], shifted[low:high], cluster[low:high])
            if plan.time is not None:
                time = (block * BLOCK_ROWS + np.arange(low, high) + 0.5) / plan.time.rows
                for code, born, stand_in in zip(codes, plan.time.born, plan.time.stand_in, strict=True):
                    np.copyto(code, stand_in.take(code), where=born.take(code) > time)
            for f, code in enumerate(codes):  # far faster than to assign codes.T at once
                ids[low - start : high - start, f] = code
            raw = _raw_logit(plan, codes)
            logit[low - start : high - start] = raw if plan.other is None else _drifted(plan, codes, raw, time)
    return rng.random(BLOCK_ROWS)[start:stop]


def _ids(plan: _Plan, position: np.ndarray, shifted: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Ids (F, N) int64 from ``position`` and ``shifted`` (N, F) and ``cluster`` (N,)."""
    position, shifted = np.ascontiguousarray(position.T), np.ascontiguousarray(shifted.T)
    codes = np.empty(position.shape, dtype=np.int64)
    for field, where, moved, code in zip(plan.fields, position, shifted, codes, strict=True):
        cell = (where * len(field.lowest)).astype(np.int64)
        # Every index is in range; with mode="clip", take writes to its target without a copy in between.
        field.lowest.take(cell, out=code, mode="clip")
        code += where > field.border.take(cell)
        crowded = np.flatnonzero(code < 0)
        code[crowded] = np.searchsorted(field.thresholds, where[crowded])
        code += field.shift.take(cluster) * moved
        # Code modulo dim for codes below 2 dim: without sign, a difference below zero is larger than any code.
        unsigned = code.view(np.uint64)
        np.minimum(unsigned, unsigned - np.uint64(field.dim), out=unsigned)
    return codes


def _raw_logit(plan: _Plan, codes: np.ndarray) -> np.ndarray:
    """The planted effects of rows with ids ``codes`` (F, N), before scale and intercept: (N,).

    The order of the sums is part of the bytes of a data set.
    """
    logit = np.zeros(codes.shape[1])
    latent = {}  # (LATENT_RANK, N) each
    for f, (field, code) in enumerate(zip(plan.fields, codes, strict=True)):
        logit += field.first_order.take(code)
        if field.latent is not None:
            latent[f] = np.stack([column.take(code) for column in field.latent])
    for a, b in plan.pairs:
        logit += PAIR_SCALE * (latent[a] * latent[b]).sum(axis=0)
    for a, b, c in plan.triples:
        logit += TRIPLE_SCALE * (latent[a] * latent[b] * latent[c]).sum(axis=0)
    return logit


def _drifted(plan: _Plan, codes: np.ndarray, raw: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The raw logits (N,) of rows with ids ``codes`` (F, N) and ``raw`` logits at time 0, at their ``time`` (N,); see
    :class:`Time`."""
    at, centred = plan.time, raw - plan.time.mean
    away = at.spread * (_raw_logit(plan.other, codes) - at.shift) - at.slope * centred
    return at.mean + np.cos(at.angle * time) * centred + np.sin(at.angle * time) * away


def make_rows(world: World, start: int, stop: int, workers: int | None = None) -> Split:
    """Rows ``start`` ... ``stop`` - 1 of the endless table of ``world``, with their true probabilities.

    Memory holds the result and a few megabytes per thread. ``start == stop`` gives empty arrays.

    Args:
        world: what is planted.
        start: first row, 0 or more; where rows have a time, earlier ones are below 0.
        stop: one past the last row, ``start`` or more.
        workers: threads; None stands for one below a million rows, and from there on for as many as there are
            cores, up to 8. The rows do not depend on it.

    Raises:
        UserError: for other rows or fewer than one worker.
    """
    from scipy.special import expit

    if start > stop or (start < 0 and world.time is None):
        raise UserError(f"rows {start} to {stop}; allowed: 0 <= start <= stop")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be 1 or more, got {workers}")
    rows = stop - start
    count = workers or max(1, min(usable_cores(), MOST_THREADS, rows // ROWS_PER_THREAD))
    plan = _plan(world)
    ids = np.empty((rows, len(plan.fields)), dtype=np.int32)
    labels = np.empty(rows, dtype=np.uint8)
    probability = np.empty(rows)

    def fill(block: int) -> None:
        first = max(block * BLOCK_ROWS, start)
        part = slice(first - start, min((block + 1) * BLOCK_ROWS, stop) - start)
        p = probability[part]
        coin = _make_block(plan, block, first - block * BLOCK_ROWS, ids[part], p)
        p *= world.scale
        p += world.intercept
        expit(p, out=p)
        np.less(coin, p, out=labels[part].view(bool))

    blocks = range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)) if rows else ()
    with ThreadPoolExecutor(min(count, max(1, len(blocks)))) as pool:
        list(pool.map(fill, blocks))
    return Split(ids, labels, probability)


def fingerprint(settings: SyntheticSettings, draw: int) -> str:
    """Names the rows without making them: they follow from the settings alone."""
    return digest({"synthetic": settings.model_dump(), "draw": draw, "version": GENERATOR_VERSION})


def generate(settings: SyntheticSettings, draw: int = 0, workers: int | None = None) -> Dataset:
    """The data set of one draw: its own planted effects and its own rows. Same settings and draw, same bytes.

    The rows of a log with time are those of all parts together, in their order. A chronological split cuts them into
    training, validation and test rows, with ``lag`` each of the first two that share of the log earlier; a random
    split draws them. Without time rows are exchangeable, and the first are for training.

    With another ``rows_seed`` the training and validation rows are others of the same law; the test rows stay, so that
    models of different rows are judged, and compared, on the same ones.

    ``workers`` is the number of threads, see :func:`make_rows`: by default parts of less than a million rows use
    one, because whoever trains on them may be one of many processes.
    """
    world = make_world(settings, draw)
    learnt = world
    if settings.rows_seed:
        learnt = replace(world, seed=derive_seed("synthetic rows", world.seed, settings.rows_seed))
    ends = [int(end) for end in np.cumsum([0, settings.train_rows, settings.valid_rows, settings.test_rows])]
    spans = list(pairwise(ends))
    if world.time is not None and settings.split == "random":
        log = make_rows(world, 0, ends[-1], workers)
        others = log if learnt is world else make_rows(learnt, 0, ends[-1], workers)
        drawn = np.random.default_rng(derive_seed("split", world.seed)).permutation(ends[-1])
        parts = [np.sort(drawn[a:b]) for a, b in spans]
        train, valid, test = (
            Split(rows.ids[part], rows.labels[part], rows.probability[part])
            for rows, part in zip((others, others, log), parts, strict=True)
        )
    else:
        earlier = round(settings.lag * ends[-1])
        laws = ((learnt, earlier), (learnt, earlier), (world, 0))
        train, valid, test = (
            make_rows(law, a - back, b - back, workers) for (law, back), (a, b) in zip(laws, spans, strict=True)
        )
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
