"""The experiments: which runs each notebook asks for.

An experiment is a function ``replicate -> conditions``; :data:`EXPERIMENTS` lists
them by the name of their notebook, so that a plan can be made, and trained, without executing any notebook.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctrlib.config import Run, checked
from ctrlib.errors import UserError, shown, unknown
from ctrlib.store.code import is_registered
from ctrlib.store.ensure import check_precision
from ctrlib.store.published import committed_results
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore, open_store
from ctrlib.study import cohorts, controls, couplings, finetuning, retraining, tuning
from ctrlib.study.conditions import Condition, Replicate, data_shape
from ctrlib.study.pages import published_parameters
from ctrlib.study.parameters import StudyParameters, literals

Experiment = Callable[[Replicate], list[Condition]]

EXPERIMENTS: dict[str, Experiment] = {
    **{
        make.__name__: make
        for make in (
            finetuning.train_independent,
            cohorts.how_many_instances,
            cohorts.partner_matrix,
            finetuning.is_it_noise,
            finetuning.how_many_epochs,
            controls.rivals,
            controls.serving_frontier,
            controls.your_log,
            finetuning.at_criteos_size,
            finetuning.from_a_raw_log,
            couplings.paper_fibinet,
            couplings.couplings,
            couplings.weights,
            controls.drift,
            retraining.ledger,
            retraining.churn,
            tuning.equal_tuning,
        )
    },
    "on_this_machine": finetuning.is_it_noise,  # the headline at a size that nobody waits for
    **dict.fromkeys(("main_criteo", "main_frappe", "main_ml1m", "main_synthetic"), finetuning.on_one_log),
}

NEEDS_TWO = {
    "how_many_instances": ("sizes",),
    "partner_matrix": ("architectures", "companions"),
    "is_it_noise": ("seeds",),
    "drift": ("splits",),
    "ledger": ("rows_seeds",),
}
"""By experiment, the lists of whose entries it needs two."""

SEARCHES = ("equal_tuning",)
"""Experiments with tuning replicates, whose records decide further runs: a plan has these once the former are there."""


def need_comparison(notebook: str, p: StudyParameters) -> None:
    """Raise :class:`UserError` where a parameter leaves a notebook nothing to compare."""
    names = NEEDS_TWO.get(notebook, ())
    if names and len({entry for name in names for entry in getattr(p, name)}) < 2:
        problem = f"{names[0]}={shown(list(getattr(p, names[0])))} leaves {notebook} nothing to compare"
        raise UserError(f"{problem}; allowed: two or more{' with ' * (len(names) > 1)}{' '.join(names[1:])}")
    if notebook in SEARCHES:
        tuning.need_fresh_replicates(p)


def planned_conditions(experiment: str, p: StudyParameters) -> list[Condition]:
    """The conditions of an experiment, for all protocols and replicates of the parameters, and for each of their
    ``datasets``, which is then the factor ``data``; none are trained yet.

    Raises:
        UserError: no experiment of that name, or nothing for it to compare.
    """
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS)
    found = []
    for label, at in p.each().items():
        need_comparison(experiment, at)
        factors = {"data": label} if label else {}
        seeds = (*at.tuning_seeds, *at.seeds) if experiment in SEARCHES else at.seeds
        for each in (Replicate(at, seed, protocol) for protocol in at.protocols for seed in seeds):
            made = EXPERIMENTS[experiment](each)
            found += [replace(one, experiment=experiment, factors={**factors, **one.factors}) for one in made]
    return found


def train_conditions(p: StudyParameters, store: RunStore, conditions: Iterable[Condition]) -> list[Condition]:
    """Train what the store lacks, each distinct run once; the conditions with their records, in their order."""
    conditions = list(conditions)
    records = iter(store.ensure([run for one in conditions for run in one.runs], device=p.device))
    return [replace(one, records=tuple(next(records) for _ in one.runs)) for one in conditions]


def train_stages(experiment: str, p: StudyParameters, store: RunStore) -> list[Condition]:
    """The conditions of an experiment of :data:`SEARCHES`, planned and trained until nothing is to be decided."""
    conditions: list[Condition] = []
    while len(planned := planned_conditions(experiment, p)) > len(conditions):
        conditions = train_conditions(p, store, planned)
    return conditions


def published_by_data(experiment: str) -> dict[str, list[Condition]]:
    """The conditions of the published page of an experiment by data set, of the data sets for which no record is
    lacking; none where there is no such page. Nothing is trained."""
    found: dict[str, list[Condition]] = {}
    for one in _with_published(experiment):
        found.setdefault(str(one.factors.get("data", one.runs[0].data.name)), []).append(one)
    return {data: conditions for data, conditions in found.items() if all(one.records for one in conditions)}


def _with_published(experiment: str, p: StudyParameters | None = None) -> list[Condition]:
    """The conditions of the published page, with their records where all of a condition are published."""
    published, found = committed_results().runs, []
    with suppress(UserError):  # no such page yet, or data whose rows are nowhere described
        for one in planned_conditions(experiment, p or published_parameters(experiment)):
            contents = [(run, published.get(run.fingerprint)) for run in one.runs]
            whole = all(content is not None for _, content in contents)
            records = tuple(Record(Path(), *pair) for pair in contents) if whole else ()
            found.append(replace(one, records=records))
    return found


def published_conditions(conditions: Iterable[Condition]) -> tuple[StudyParameters, list[Condition]]:
    """Of the page that shows these conditions, the published parameters and those of its conditions whose records are
    published.

    Raises:
        UserError: they are of no notebook of this project.
    """
    experiment = next(iter(conditions)).experiment
    p = published_parameters(experiment)
    return p, [one for one in _with_published(experiment, p) if one.records]


def planned_runs(notebook: str, p: StudyParameters) -> list[Run]:
    """The distinct runs that a notebook asks for, those that others start from first; none where it trains nothing."""
    conditions = planned_conditions(notebook, p) if notebook in EXPERIMENTS else ()
    runs = {run.fingerprint: run for one in conditions for run in one.runs}
    return sorted(runs.values(), key=lambda run: run.start is not None or run.teachers is not None)


def begin(names: dict[str, Any]) -> tuple[StudyParameters, RunStore]:
    """First call of every notebook: check its parameters, open the store.

    Args:
        names: the notebook's ``globals()``; what bears the name of a parameter is one, whoever set it: the cell
            tagged ``parameters``, papermill, or a person at the keyboard.

    Raises:
        UserError: see :func:`checked_parameters`; or papermill was given a parameter that the notebook has not.
    """
    for declared, given in pairwise(names.get("In", ())):
        if given.startswith("# Parameters\n"):  # the cell that papermill puts below that of the parameters
            with suppress(SyntaxError, ValueError):  # another's cell that begins so
                known = literals(declared)
                for name in literals(given).keys() - known.keys():
                    raise unknown("parameter", name, known)
    parameters = {name: names[name] for name in StudyParameters.model_fields if name in names}
    return checked_parameters(**parameters), open_store()


def checked_parameters(**parameters) -> StudyParameters:
    """Parameters whose types, ranges, names, device and data set are all there.

    Raises:
        UserError: one line that names the parameter, its value and what is allowed.
    """
    p = checked(StudyParameters, **parameters)
    lists = ("architectures", "without_scratch", "one_rate", "companions")
    spelled = {name: tuple(dict.fromkeys(map(_spelled, getattr(p, name)))) for name in lists}
    p = p.model_copy(update={"architecture": _spelled(p.architecture), **spelled})
    if p.device != "auto":  # where it is left open, published records may be all that is needed; training refuses too
        check_precision([p.precision], p.device)
    for at in p.each().values():
        rows = data_shape(Replicate(at, at.seeds[0], at.protocols[0]).data)[0]
        if at.batch_size > rows:
            raise UserError(f"batch_size={at.batch_size}: must be at most {rows}, the training rows of {at.dataset!r}")
    return p


def _spelled(architecture: str) -> str:
    """The name as the registry spells it; torch, which its classes need, is imported only where it is not this one."""
    if not is_registered(architecture):
        return architecture
    from ctrlib.models import architecture_name

    return architecture_name(architecture)
