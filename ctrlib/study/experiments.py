"""The experiments: which runs each notebook asks for, and the tables made of their records.

An experiment is a function ``(parameters, seed, protocol) -> arms`` of one group; :data:`EXPERIMENTS` lists them by the
name of their notebook, so that a plan can be made, and trained, without executing any notebook.
"""

from collections.abc import Callable
from typing import Any

from ctrlib.config import Protocol, Run, checked
from ctrlib.errors import UserError, unknown
from ctrlib.models import architecture_name
from ctrlib.store.runs import RunStore, open_store
from ctrlib.study import cohorts, controls, finetuning
from ctrlib.study.arms import Arm, data_shape, group_data, group_settings, train_arms
from ctrlib.study.parameters import StudyParameters

__all__ = [
    "EXPERIMENTS",
    "OF_OTHERS",
    "Arm",
    "begin",
    "checked_parameters",
    "group_data",
    "planned_arms",
    "planned_runs",
    "train_arms",
]

Experiment = Callable[[StudyParameters, int, Protocol], list[Arm]]

EXPERIMENTS: dict[str, Experiment] = {
    "train_independent": finetuning.train_independent,
    "finetune_mutually": finetuning.finetune_mutually,
    "how_many_instances": cohorts.how_many_instances,
    "mix_architectures": cohorts.mix_architectures,
    "is_it_noise": finetuning.is_it_noise,
    "how_many_epochs": finetuning.how_many_epochs,
    "how_strong_and_in_which_form": finetuning.how_strong_and_in_which_form,
    "when_to_couple": finetuning.when_to_couple,
    "what_is_exchanged": cohorts.what_is_exchanged,
    "own_or_shared_embeddings": cohorts.own_or_shared_embeddings,
    "who_listens_to_whom": cohorts.who_listens_to_whom,
    "alternatives_at_equal_cost": controls.alternatives_at_equal_cost,
    "where_it_ends": controls.where_it_ends,
    "real_criteo": controls.real_clicks,
    "real_frappe": controls.real_clicks,
    "at_criteos_size": finetuning.at_criteos_size,
    "from_a_raw_log": finetuning.from_a_raw_log,
}

OF_OTHERS = {
    "paper_beside_ours": (
        "finetune_mutually",
        "how_many_instances",
        "mix_architectures",
        "how_many_epochs",
        "how_strong_and_in_which_form",
    ),
}
"""Notebooks that show the runs of several experiments."""


def planned_arms(experiment: str, p: StudyParameters) -> list[Arm]:
    """The arms of an experiment, for all protocols and groups of the parameters; none are trained yet.

    Raises:
        UserError: no experiment of that name.
    """
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS)
    make = EXPERIMENTS[experiment]
    return [arm for protocol in p.protocols for seed in p.seeds for arm in make(p, seed, protocol)]


def planned_runs(notebook: str, p: StudyParameters) -> list[Run]:
    """The distinct runs that a notebook asks for, those that others start from first; none where it trains nothing."""
    experiments = OF_OTHERS.get(notebook, (notebook,) if notebook in EXPERIMENTS else ())
    arms = [arm for experiment in experiments for arm in planned_arms(experiment, p)]
    runs = {run.fingerprint: run for arm in arms for run in arm.runs}
    return sorted(runs.values(), key=lambda run: run.start is not None or run.teachers is not None)


def begin(names: dict[str, Any]) -> tuple[StudyParameters, RunStore]:
    """First call of every notebook: check its parameters, open the store.

    Args:
        names: the notebook's ``globals()``; what bears the name of a parameter is one, whoever set it: the cell
            tagged ``parameters``, papermill, or a person at the keyboard.

    Raises:
        UserError: see :func:`checked_parameters`.
    """
    parameters = {name: names[name] for name in StudyParameters.model_fields if name in names}
    return checked_parameters(**parameters), open_store()


def checked_parameters(**parameters) -> StudyParameters:
    """Parameters whose types, ranges, names, device and data set are all there.

    Raises:
        UserError: one line that names the parameter, its value and what is allowed.
    """
    from ctrlib.fast.machine import arithmetic
    from ctrlib.training.loop import resolve_device

    p = checked(StudyParameters, **parameters)
    lists = ("architectures", "companions")
    spelled = {name: tuple(dict.fromkeys(map(architecture_name, getattr(p, name)))) for name in lists}
    p = p.model_copy(update={"architecture": architecture_name(p.architecture), **spelled})
    place = resolve_device(p.device)
    if p.device != "auto":  # where it is left open, published records may be all that is needed; training refuses too
        with arithmetic(p.precision, place):  # refuses what the device does not have
            pass
    for name in dict.fromkeys((p.dataset, *p.datasets)):
        rows = data_shape(group_settings(p.model_copy(update={"dataset": name}), p.seeds[0]))[0]
        if p.batch_size > rows:
            raise UserError(f"batch_size={p.batch_size}: must be at most {rows}, the training rows of {name!r}")
    return p
