"""One question for one log: what pays? A recipe is sought, as much is trained as the time allows, a report is made.

The plan comes from rates measured here: a few steps are timed to see how many rows fit, the search of the recipe says
how long one training takes, the first replicate how long a replicate takes. All runs are kept in the run store, so the
same command with more minutes goes on where this one ended.
"""

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ctrlib.config import Run
from ctrlib.errors import UserError
from ctrlib.run.estimate import COUPLED, EPOCHS, Clock
from ctrlib.run.execute import execute_all
from ctrlib.run.plan import common_digests, make_job, require
from ctrlib.run.predict import save_models
from ctrlib.store.ensure import default_workers, ensure_all
from ctrlib.store.progress import humanize, label
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Replicate, data_shape
from ctrlib.study.experiments import checked_parameters, planned_conditions, planned_runs, train_conditions
from ctrlib.study.pages import declared_parameters, find_notebooks
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.recommendation import (
    against_the_best_control,
    best_architecture,
    recommend,
    recommended_models,
    with_options,
)
from ctrlib.study.tables import replicate_table

NUMBER = "22"  # of the notebook
ARCHITECTURES = ("DeepFM", "DCN")
MOST_REPLICATES, LEAST_REPLICATES = 5, 3
CUTS = (60_000, 100_000, 200_000, 500_000)  # rows to cut a log to; fewer save nothing: an epoch has fifty steps anyway
NOTEBOOK_S = 30.0
RATES, PENALTIES = (1e-3, 5e-3), (0.0, 1e-5, 1e-4, 1e-3)  # of the search: learning rate, L2 on the embeddings


def own_parameters(root: Path, dataset: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the notebook for a data set, the recipe's among them, before anything is trained.

    Raises:
        UserError: an unknown parameter or a value out of range.
    """
    declared = declared_parameters(find_notebooks(root)[NUMBER])
    require("parameter", overrides, declared)
    asked = {**declared, "profile": "own log", "dataset": dataset, "seeds": [0], "batch_size": 2, **overrides}
    if "batch_size" not in overrides:  # at least fifty steps an epoch
        asked["batch_size"] = max(20, min(1000, shape_of(checked_parameters(**asked))[0] // 50))
    checked_parameters(**asked)
    return asked


def shape_of(p: StudyParameters) -> tuple[int, int, int]:
    """Rows of train, valid and test of the first replicate."""
    return data_shape(Replicate(p, p.seeds[0], p.protocols[0]).data)[:3]


def rows_that_fit(asked: dict[str, Any], minutes: float, clock: Clock) -> tuple[int, int]:
    """All rows of the data set, and how many of them, all or one of :data:`CUTS`, leave time for the fewest replicates
    and the search; if none do, the fewest that are worth a cut. Steps, so that a second time finds what the first has
    trained."""
    p = checked_parameters(**asked)
    rows = sum(shape_of(p))
    singles = len(RATES) * len(PENALTIES) + LEAST_REPLICATES * relative_cost(planned_runs("your_log", p))
    one = clock.estimate(search_runs(p)[0][1]).likely
    needed = one * singles / default_workers(p.device)
    fit = rows * (60 * minutes - NOTEBOOK_S) / needed
    return rows, rows if fit >= rows else min(rows, max((cut for cut in CUTS if cut <= fit), default=CUTS[0]))


def search_runs(p: StudyParameters) -> list[tuple[dict[str, float], Run]]:
    """One model of the first architecture on the first replicate's rows for each setting of the recipe."""
    found = []
    for rate, penalty in product(RATES, PENALTIES):
        setting = {"learning_rate": rate, "embedding_l2": penalty}
        at = p.model_copy(update=setting)
        [run] = Replicate(at, p.seeds[0], "early_stopping").pretraining(p.architectures[:1])
        found.append((setting, run))
    return found


def relative_cost(runs: list[Run]) -> float:
    """How many trainings of one model from scratch these runs are worth in time."""
    share = EPOCHS["fine-tuning"] / EPOCHS["from scratch"]
    return sum(
        len(run.members) * (share if run.start else 1.0) * (1.0 if run.coupling.is_solo else COUPLED) for run in runs
    )


def search(store: RunStore, p: StudyParameters, show: Callable[[str], None]) -> pd.DataFrame:
    """The settings of the recipe with the validation AUC and the seconds of one model each; the best first."""
    settings = search_runs(p)
    records, errors = ensure_all(store, [run for _, run in settings], p.device, show=show)
    if not records:
        raise UserError(f"no setting of the recipe could be trained; the first: {next(iter(errors.values()))}")
    rows = [
        {**setting, "valid_auc": max(row["valid_auc"] for row in record.history), "seconds": record.seconds}
        for setting, run in settings
        if (record := records.get(run.fingerprint))
    ]
    return pd.DataFrame(rows).sort_values("valid_auc", ascending=False, kind="stable", ignore_index=True)


class Training:
    """Trains replicate by replicate and knows, from how long the earlier ones took, how long the next will.

    Args:
        store: keeps the runs.
        p: the parameters; its first architecture comes first.
        one_s: seconds of one training of one model, from the search.
        say: gets a line for each replicate.
        show: gets the lines of progress.
    """

    def __init__(
        self,
        store: RunStore,
        p: StudyParameters,
        one_s: float,
        say: Callable[[str], None],
        show: Callable[[str], None],
    ) -> None:
        self.store, self.p, self.say, self.show = store, p, say, show
        self.single_s = one_s / default_workers(p.device)  # of the clock on the wall
        self.trained, self.took = 0.0, 0.0  # single trainings' worth, and seconds

    def until(self, ends: float) -> tuple[dict[str, Any], str]:
        """Train until the next replicate would end after ``ends`` (of :func:`time.monotonic`), but three at least; then
        further architectures that fit whole. The parameters of what is trained, and what was left out, in words."""
        first, *others = dict.fromkeys([*self.p.architectures, *ARCHITECTURES])
        seeds: list[int] = []
        while len(seeds) < MOST_REPLICATES:
            if len(seeds) >= LEAST_REPLICATES and time.monotonic() + self.seconds(first, len(seeds)) > ends:
                break
            self.replicate(first, len(seeds))
            seeds.append(len(seeds))
        architectures = [first]
        for other in others:
            if time.monotonic() + sum(self.seconds(other, seed) for seed in seeds) > ends:
                break
            for seed in seeds:
                self.replicate(other, seed)
            architectures.append(other)
        more = MOST_REPLICATES - len(seeds)
        left = [f"{more} replicate{'s' * (more > 1)}"] * (more > 0)
        left += [name for name in others if name not in architectures]
        return {"seeds": seeds, "architectures": architectures}, ", ".join(left)

    def seconds(self, architecture: str, seed: int) -> float:
        """How long a replicate takes from now on, without what the store has."""
        missing = [run for run in self.runs(architecture, seed) if self.store.find(run) is None]
        single = self.took / self.trained if self.trained else self.single_s
        return relative_cost(missing) * single

    def runs(self, architecture: str, seed: int) -> list[Run]:
        """The runs of one replicate of one architecture."""
        return planned_runs("your_log", self.p.model_copy(update={"architectures": (architecture,), "seeds": (seed,)}))

    def replicate(self, architecture: str, seed: int) -> None:
        """Train one.

        Raises:
            UserError: a run of it failed.
        """
        runs, began = self.runs(architecture, seed), time.monotonic()
        missing = [run for run in runs if self.store.find(run) is None]
        if not missing:
            return
        self.say(f"training replicate {seed + 1} of {architecture}, about {humanize(self.seconds(architecture, seed))}")
        errors = ensure_all(self.store, runs, self.p.device, show=self.show)[1]
        if errors:
            raise UserError(f"{architecture}, replicate {seed + 1}: {next(iter(errors.values()))}")
        self.trained, self.took = self.trained + relative_cost(missing), self.took + time.monotonic() - began


def execute(root: Path, asked: dict[str, Any], output: Path) -> Path:
    """Execute the notebook with these parameters as ``output``, unless that is up to date; ``output``.

    Raises:
        UserError: it failed.
    """
    source = find_notebooks(root)[NUMBER]
    declared = declared_parameters(source)
    parameters = {name: value for name, value in asked.items() if value != declared[name]}
    job = make_job(root, source, output, declared, parameters, common_digests(root))
    [outcome] = execute_all([job], root, lambda line: None, 1)
    if outcome.state == "failed":
        raise UserError(f"{source.name}: {outcome.error}; see {job.failed_copy}")
    return output


def save(store: RunStore, asked: dict[str, Any], folder: Path) -> str:
    """Write the recommended models of the first replicate into ``folder``; in words, what they are."""
    p = checked_parameters(**asked)
    conditions = train_conditions(p, store, planned_conditions("your_log", p))
    table, protocol = with_options(replicate_table(store, conditions)), p.protocols[-1]
    here = {"protocol": protocol, "architecture": best_architecture(table, protocol)}
    effects = against_the_best_control(table)
    at, shown = (one[(one[list(here)] == pd.Series(here)).all(axis=1)] for one in (table, effects))
    answer = recommend(at, shown, p.instances, sum(shape_of(p)))
    chosen = recommended_models(conditions, at, answer)
    save_models(folder, store, chosen, answer.sentence)
    scores = ", ".join(f"{record.content['test'][n]['auc']:.4f}" for record, n in chosen)
    how = label(chosen[0][0].run)
    return f"{len(chosen)} of: {how}; test AUC {scores}; trained on the training rows of that division alone"
