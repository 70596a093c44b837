"""One question for one log: what pays? A recipe is sought, as much is trained as the time allows, a page is made.

A few steps are timed here, which says how many rows and how many replicates fit; how many epochs a training takes is
looked up in the records of those before. All runs are kept in the run store, so the same command with more minutes goes
on where this one ended.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ctrlib.config import Run
from ctrlib.errors import UserError
from ctrlib.run.estimate import Clock
from ctrlib.run.execute import execute_all
from ctrlib.run.plan import common_digests, make_job, require
from ctrlib.run.predict import save_models
from ctrlib.store.ensure import default_workers, ensure_all
from ctrlib.store.executors import stop_pools
from ctrlib.store.progress import humanize, label
from ctrlib.store.runs import RunStore, open_store
from ctrlib.study.conditions import Replicate, data_shape
from ctrlib.study.experiments import checked_parameters, planned_conditions, planned_runs, train_conditions
from ctrlib.study.pages import declared_parameters, find_notebooks
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.recommendation import answer, recommended_models, with_options
from ctrlib.study.tables import replicate_table

NUMBER = "22"  # of the notebook
CHOSEN = ("seeds", "dataset", "learning_rate", "embedding_l2")  # parameters that are found here
ARCHITECTURES = ("DeepFM", "DCN")
MOST_REPLICATES, LEAST_REPLICATES = 5, 3
CUTS = (60_000, 100_000, 200_000, 500_000)  # rows to cut a log to; fewer save nothing: an epoch has fifty steps anyway
NOTEBOOK_S = 45.0  # of executing it, with the logistic regressions
RATES, PENALTIES = (1e-3, 5e-3), (0.0, 1e-5, 1e-4, 1e-3)  # of the search: learning rate, L2 on the embeddings
Say = Callable[[str], None]
Working = Callable[[str], AbstractContextManager[Say]]
Cut = Callable[[int], str]


def make_decision_notebook(
    root: Path,
    dataset: str,
    overrides: dict[str, Any],
    minutes: float,
    folder: Path,
    say: Say,
    working: Working,
    cut: Cut | None = None,
    saves: bool = False,
) -> tuple[Path, list[str]]:
    """Seek the recipe, train what fits, execute the notebook into ``folder``; its path, and what else is to be said.

    Args:
        root: the project.
        dataset: a prepared data set.
        overrides: parameters of the notebook.
        minutes: how long it may take, about.
        folder: also gets ``recipes.csv``, and ``model/`` with the recommended models if ``saves``.
        say: gets lines.
        working: ``with working("doing this") as show`` while something takes time.
        cut: prepares the first so many rows of the log as a data set, and says its name; None where all rows stay.

    Raises:
        UserError: an unknown parameter or a value out of range; a training failed.
    """
    ends = time.monotonic() + 60 * minutes - NOTEBOOK_S
    store = open_store()
    asked = own_parameters(root, dataset, overrides)
    p = checked_parameters(**asked)
    with working("timing a few steps"):
        rows, fit = rows_that_fit(p, Clock(store, p.device), 60 * minutes - NOTEBOOK_S)
    if cut and fit < rows:
        say(f"{rows:,} rows would take longer: the first {fit:,} are used; with more --minutes more, trained anew")
        asked = own_parameters(root, cut(fit), overrides)
        p = checked_parameters(**asked)
    elif fit < rows:
        say(f"{rows:,} rows take longer than --minutes says: the search and {LEAST_REPLICATES} replicates do")
    with working("seeking the recipe") as show:
        recipes = search(store, p, show)
    best = recipes.iloc[0]
    asked |= {name: float(best[name]) for name in ("learning_rate", "embedding_l2")}
    say(
        f"recipe: rate {best['learning_rate']:g}, embedding L2 {best['embedding_l2']:g}, the best of {len(recipes)} by "
        f"the validation AUC of one {p.architectures[0]} ({best['valid_auc']:.4f})"
    )
    with working("training") as show:
        found, left_out = train_until(ends, store, checked_parameters(**asked), say, show)
    stop_pools()
    folder.mkdir(parents=True, exist_ok=True)
    recipes.to_csv(folder / "recipes.csv", index=False, float_format="%.6g")
    lines = []
    with working("executing the notebook, writing the report"):
        notebook = execute(root, asked | found, folder / "your_log.ipynb")
        if saves:
            saved = save(store, checked_parameters(**asked | found), folder / "model")
            lines.append(f"saved: {saved}. `ctrlib predict {folder / 'model'} NEW.csv` scores new rows")
    if left_out:
        lines.append(f"left out for want of time: {left_out}; the same command with more --minutes goes on from here")
    return notebook, lines


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


def rows_that_fit(p: StudyParameters, clock: Clock, seconds: float) -> tuple[int, int]:
    """All rows of the data set, and how many of them, all or one of :data:`CUTS`, leave time for the search and the
    fewest replicates; if none do, the fewest that are worth a cut. Steps, so that a second time finds what the first
    has trained."""
    rows, seeds = sum(shape_of(p)), range(LEAST_REPLICATES)
    runs = [run for _, run in search_runs(p)] + replicates(p, p.architectures[0], seeds)
    fit = rows * seconds / wall_seconds(clock, p, runs)
    return rows, rows if fit >= rows else min(rows, max((one for one in CUTS if one <= fit), default=CUTS[0]))


def replicates(p: StudyParameters, architecture: str, seeds: Iterable[int]) -> list[Run]:
    """The runs of some replicates of one architecture."""
    return planned_runs("your_log", p.model_copy(update={"architectures": (architecture,), "seeds": tuple(seeds)}))


def wall_seconds(clock: Clock, p: StudyParameters, runs: Iterable[Run]) -> float:
    """How long the processes of this machine take together."""
    return sum(map(clock.seconds, runs)) / default_workers(p.device)


def search_runs(p: StudyParameters) -> list[tuple[dict[str, float], Run]]:
    """One model of the first architecture on the first replicate's rows for each setting of the recipe."""
    found = []
    for rate, penalty in product(RATES, PENALTIES):
        setting = {"learning_rate": rate, "embedding_l2": penalty}
        at = p.model_copy(update=setting)
        [run] = Replicate(at, p.seeds[0], "early_stopping").pretraining(p.architectures[:1])
        found.append((setting, run))
    return found


def search(store: RunStore, p: StudyParameters, show: Say) -> pd.DataFrame:
    """The settings of the recipe with the validation AUC, seconds and epochs of one model each; the best first."""
    settings = search_runs(p)
    records, errors = ensure_all(store, [run for _, run in settings], p.device, show=show)
    if not records:
        raise UserError(f"no setting of the recipe could be trained; the first: {next(iter(errors.values()))}")
    rows = [
        {
            **setting,
            "valid_auc": max(row["valid_auc"] for row in record.history),
            "seconds": record.seconds,
            "epochs": len(record.history),
        }
        for setting, run in settings
        if (record := records.get(run.fingerprint))
    ]
    return pd.DataFrame(rows).sort_values("valid_auc", ascending=False, kind="stable", ignore_index=True)


def train_until(ends: float, store: RunStore, p: StudyParameters, say: Say, show: Say) -> tuple[dict[str, Any], str]:
    """Train until the next replicate would end after ``ends`` (of :func:`time.monotonic`), but three at least; then
    further architectures that fit whole.

    Args:
        ends: when to be through.
        store: keeps the runs.
        p: the parameters; its first architecture comes first.
        say: gets a line for each replicate.
        show: gets the lines of progress.

    Returns:
        The parameters of what is trained, and what was left out, in words.

    Raises:
        UserError: a run failed.
    """
    first, *others = dict.fromkeys([*p.architectures, *ARCHITECTURES])
    clock, seeds, architectures = Clock(store, p.device), list(range(LEAST_REPLICATES)), [first]

    def needed(architecture: str, seeds: Iterable[int]) -> float:
        missing = [run for run in replicates(p, architecture, seeds) if store.find(run) is None]
        return wall_seconds(clock, p, missing)

    def train(architecture: str, seed: int) -> None:
        if not (seconds := needed(architecture, [seed])):
            return
        say(f"training replicate {seed + 1} of {architecture}, about {humanize(seconds)}")
        errors = ensure_all(store, replicates(p, architecture, [seed]), p.device, show=show)[1]
        if errors:
            raise UserError(f"{architecture}, replicate {seed + 1}: {next(iter(errors.values()))}")

    if time.monotonic() + (seconds := needed(first, seeds)) > ends:
        say(
            f"replicates 1 to {LEAST_REPLICATES} take about {humanize(seconds)}, longer than --minutes says; fewer "
            "have no verdict. What is trained is kept: stop it, and go on another time"
        )
    for seed in seeds:
        train(first, seed)
    while len(seeds) < MOST_REPLICATES and time.monotonic() + needed(first, [len(seeds)]) <= ends:
        train(first, len(seeds))
        seeds.append(len(seeds))
    for other in others:
        if time.monotonic() + needed(other, seeds) > ends:
            break
        for seed in seeds:
            train(other, seed)
        architectures.append(other)
    more = MOST_REPLICATES - len(seeds)
    left = [f"{more} replicate{'s' * (more > 1)}"] * (more > 0)
    left += [name for name in others if name not in architectures]
    return {"seeds": seeds, "architectures": architectures}, ", ".join(left)


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


def save(store: RunStore, p: StudyParameters, folder: Path) -> str:
    """Write the recommended models of the first replicate into ``folder``; in words, what they are."""
    conditions = train_conditions(p, store, planned_conditions("your_log", p))
    found = answer(p, with_options(replicate_table(store, conditions)), sum(shape_of(p)))
    chosen = recommended_models(conditions, found.at, found.recommendation)
    save_models(folder, store, chosen, found.recommendation.sentence)
    scores = ", ".join(f"{record.content['test'][n]['auc']:.4f}" for record, n in chosen)
    how = label(chosen[0][0].run)
    return f"{len(chosen)} of: {how}; test AUC {scores}; trained on the training rows of that division alone"
