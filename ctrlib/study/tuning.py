"""Equal tuning: the same search for every condition, chosen by validation AUC alone, compared on other replicates.

A search trains a condition on the tuning replicates with each of ``p.search_size`` settings. They are a random search
in the form of a Latin hypercube (McKay, Beckman and Conover 1979): each of the equal parts of a range has one setting,
and each level of a list as many as any other. Conditions that start from checkpoints start from the tuned single model
and search learning rate, dropout and weight only. What was chosen is read from the records of the search, so a plan
has the runs that depend on it once these are there.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ctrlib.config import Protocol, checked
from ctrlib.errors import UserError, shown
from ctrlib.store.runs import RunStore, open_store
from ctrlib.study.conditions import Condition, Replicate, Runs, changed, continued_training, mutual_finetuning
from ctrlib.study.controls import RDROP, RDROP_DROPOUT, offline_distillation
from ctrlib.study.finetuning import RATES
from ctrlib.study.parameters import StudyParameters

Setting = dict[str, Any]
CONTROLS = ("one model", "continued training")
FROM_SCRATCH = ("one model", "mutual from scratch", "distilled")
WEIGHTED = ("mutual from scratch", "mutual", "distilled", "R-Drop")
RDROP_WEIGHTS = (0.1, 10.0)  # of R-Drop's term; its paper takes 1 to 5
SEARCH_MEMBERS = 2  # of mutual conditions in a search, where the others have one model


def search_settings(p: StudyParameters) -> list[Setting]:
    """The settings of a search, by ``p.search_seed``, the same for all conditions, each of which has its own from them;
    then those of a second search, as ``p.search_more`` changes the first.

    ``rate`` and ``weight`` in [0, 1] are places in a range; ``embedding_l2``, ``dropout`` and ``batch_norm`` levels.
    """
    draw, size = np.random.default_rng(p.search_seed), p.search_size
    places = (draw.permutation(size) + draw.random(size)) / size
    levels = {"embedding_l2": p.search_l2, "dropout": p.search_dropouts, "batch_norm": (False, True)}
    columns = {name: draw.permutation(np.resize(values, size)) for name, values in levels.items()}
    columns |= {"rate": places, "weight": (draw.permutation(size) + draw.random(size)) / size}
    found = [{name: column[n].item() for name, column in columns.items()} for n in range(size)]
    if not p.search_more:
        return found
    wider = {**p.model_dump(), **p.search_more, "search_more": {}}
    return found + search_settings(checked(StudyParameters, **wider))


def own_setting(name: str, p: StudyParameters, setting: Setting) -> Setting:
    """What condition ``name`` makes of a setting of the search, under the parameters of its start.

    From scratch the learning rates are ``p.search_rates``; from checkpoints the range of :data:`RATES` below that of
    the checkpoints. R-Drop cannot do without dropout and has :data:`RDROP_DROPOUT` where the others have none.
    """
    rates = p.search_rates if name in FROM_SCRATCH else (p.learning_rate * min(RATES.values()), p.learning_rate)
    own = {"learning_rate": _between(*rates, setting["rate"]), "dropout": setting["dropout"]}
    if name == "R-Drop":
        own["dropout"] = own["dropout"] or RDROP_DROPOUT
    if name in FROM_SCRATCH:
        own |= {level: setting[level] for level in ("embedding_l2", "batch_norm")}
    if name in WEIGHTED:
        own["weight"] = _between(*(RDROP_WEIGHTS if name == "R-Drop" else p.search_weights), setting["weight"])
    return own


def _between(low: float, high: float, place: float) -> float:
    """The number at a ``place`` in [0, 1] of a logarithmic range, with two digits, as a profile can hold it."""
    return float(f"{low * (high / low) ** place:.2g}")


def untuned_setting(name: str, p: StudyParameters) -> Setting:
    """What condition ``name`` has without a search: the recipe of the data set, ``p.mutual_weight``."""
    own = {"learning_rate": p.learning_rate, "dropout": p.dropout}
    if name in FROM_SCRATCH:
        own |= {"embedding_l2": p.embedding_l2, "batch_norm": p.batch_norm}
    if name == "R-Drop":
        return {**own, "dropout": p.dropout or RDROP_DROPOUT, "weight": RDROP}
    return {**own, "weight": p.mutual_weight} if name in WEIGHTED else own


def trainings(name: str, start: Replicate, own: Setting, size: int) -> Runs:
    """``size`` members of a condition with a setting of its own.

    ``start`` is the replicate under the recipe of one model, whose ``p.instances`` checkpoints are the start of
    ``continued training``, ``mutual``, ``R-Drop`` and ``MEDA``, and the teachers of ``distilled``.
    """
    at = start.varied(**{key: value for key, value in own.items() if key != "weight"})
    names, weight = [at.p.architecture] * size, own.get("weight")
    if name == "one model":
        return at.pretraining(names)
    if name == "mutual from scratch":
        return at.from_scratch(at.coupling(weight, size), names)
    if name == "distilled":
        return offline_distillation(at, start.pretraining(), weight)[:size]
    pretrained, train = start.pretraining(names), at.recipe()
    changes = {"R-Drop": {"rdrop": weight}, "MEDA": {"meda": True}}
    if name == "mutual":
        runs = mutual_finetuning(pretrained, at.coupling(weight, size), train)
    else:
        runs = continued_training(pretrained, train)
    return changed(runs, {"dropout": at.p.dropout}, **changes.get(name, {}))


def searched(name: str, start: Replicate) -> list[tuple[Setting, Runs]]:
    """Each setting of the search and its trainings on one replicate; equal ones once."""
    size = SEARCH_MEMBERS if "mutual" in name else 1
    found = []
    for setting in search_settings(start.p):
        if (own := own_setting(name, start.p, setting)) not in [known for known, _ in found]:
            found.append((own, trainings(name, start, own, size)))
    return found


def choose(store: RunStore, name: str, p: StudyParameters, protocol: Protocol) -> Setting | None:
    """The setting of a condition with the best mean validation AUC over the tuning replicates, the first of equals;
    None while a run of the search is not in the store. ``p`` holds the recipe of its start."""
    each = [searched(name, Replicate(p, seed, protocol)) for seed in p.tuning_seeds]
    best: tuple[float, Setting | None] = (-np.inf, None)
    for at in zip(*each, strict=True):
        records = [store.find(run) for _, runs in at for run in runs]
        if None in records:
            return None
        best = max(
            best, (float(np.mean([np.mean(one.valid_aucs) for one in records])), at[0][0]), key=lambda pair: pair[0]
        )
    return best[1]


def recipe_search(r: Replicate) -> list[Condition]:
    """``recipe``: one model, trained with early stopping with each setting of the search, which are the factors."""
    stopping = replace(r, protocol="early_stopping")
    return [
        one for own, runs in searched("one model", stopping) for one in stopping.conditions({"recipe": runs}, **own)
    ]


def equal_tuning(r: Replicate) -> list[Condition]:
    """On a tuning replicate the search of each condition of ``p.tuned``, and the checkpoints that it starts from. On
    another each condition with the setting of the parameters and, where all searches are trained, with the one that
    was chosen: the factor ``setting``. Beside the searches stands that of the recipe, see :func:`recipe_search`.
    """
    store, conditions = open_store(), []
    single = choose(store, "one model", r.p, r.protocol)
    start = r if single is None else r.varied(**single)
    if r.seed in r.p.tuning_seeds:
        conditions += recipe_search(r) if r.protocol == r.p.protocols[0] else []
        conditions += r.conditions({"checkpoint": start.pretraining()}) if single else []
        for name in r.p.tuned if single else ("one model",):
            for own, runs in searched(name, r if name == "one model" else start):
                conditions += r.conditions({name: runs}, **own)
        return conditions
    for name in r.p.tuned:
        found = {name: trainings(name, r, untuned_setting(name, r.p), r.p.instances)}
        conditions += r.conditions(found, setting="untuned")
    own = {
        name: choose(store, name, r.p if name == "one model" else start.p, r.protocol) for name in r.p.tuned if single
    }
    if own and None not in own.values():
        for name in own:
            conditions += r.conditions({name: trainings(name, start, own[name], r.p.instances)}, setting="tuned")
    return conditions


def need_fresh_replicates(p: StudyParameters) -> None:
    """Raise :class:`UserError` where a tuning replicate is compared too, or a condition that others need is not tuned.

    Two seeds can stand for one draw of a prepared data set, so it is their data that must differ.
    """
    if missing := [name for name in CONTROLS if name not in p.tuned]:
        raise UserError(f"tuned={shown(list(p.tuned))} lacks {missing[0]!r}; allowed: lists that hold it")
    draws = {Replicate(p, seed, p.protocols[0]).data.fingerprint: seed for seed in p.tuning_seeds}
    for seed in p.seeds:
        if (same := draws.get(Replicate(p, seed, p.protocols[0]).data.fingerprint)) is not None:
            raise UserError(f"seeds={shown(list(p.seeds))}: {seed} has the rows of {same}, a tuning replicate")
