"""From parameters to runs.

A *group* is N instances that belong together (one seed of the study). An *arm* is one way to train a group:
independent pretraining, solo continuation, mutual fine-tuning, either from scratch. Arms of one group share data,
initial weights and batch orders wherever the comparison asks for it, so their differences are paired.

Under the protocol ``equal_epochs`` every arm trains a fixed number of epochs at one learning rate; under ``own_end``
each trains with its own learning-rate cuts until validation stops rising, and the best epoch counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ctrlib.config import Checkpoint, Coupling, Data, Member, Protocol, Recipe, Run, SyntheticSettings, Weights
from ctrlib.coupling import complete, solo
from ctrlib.data.folders import data_root
from ctrlib.data.load import data_settings, load_data
from ctrlib.data.manifest import read_manifest
from ctrlib.data.sources import find
from ctrlib.data.synthetic import field_dims
from ctrlib.errors import UserError
from ctrlib.store.published import committed_results
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.parameters import StudyParameters
from ctrlib.training.dataset import Dataset

OWN_END_PATIENCE = 2
SHARED_ORDER = 999  # the slot whose order seed a group uses when all members see the same batches
Factor = str | int | float


@dataclass(frozen=True)
class Arm:
    """One way to train one group, and once it is trained its records.

    Attributes:
        name: what is done to the group; arms of one name differ by their factors and their group.
        seed: the group.
        runs: what has to be trained; their members in order are the members of the group.
        factors: what the arm stands under: the protocol, and whatever the experiment varies.
        records: one per run, from :func:`train_arms`.
    """

    name: str
    seed: int
    runs: tuple[Run, ...]
    factors: dict[str, Factor] = field(default_factory=dict)
    records: tuple[Record, ...] = ()

    @property
    def members(self) -> list[Member]:
        """The settings of the N members."""
        return [member for run in self.runs for member in run.members]

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (N, rows) of all members."""
        return np.concatenate([record.probabilities(split) for record in self.records])


def train_arms(p: StudyParameters, store: RunStore, arms: Iterable[Arm]) -> list[Arm]:
    """Train what the store lacks of all arms, each distinct run once; the arms with their records, in their order."""
    arms = list(arms)
    records = iter(store.ensure([run for arm in arms for run in arm.runs], device=p.device))
    return [replace(arm, records=tuple(next(records) for _ in arm.runs)) for arm in arms]


def synthetic_settings(p: StudyParameters) -> SyntheticSettings | None:
    """The embedded data at the size and noise asked for; None for a prepared data set."""
    if p.dataset != "synthetic":
        return None
    names = ("valid_rows", "test_rows", "fields", "largest_field", "logit_sd")
    return SyntheticSettings(train_rows=p.rows, **{name: getattr(p, name) for name in names})


def group_settings(p: StudyParameters, seed: int) -> Data:
    """Each group has its own draw of the data: its own planted world, or its own split of the prepared rows."""
    if p.dataset == "synthetic":
        return data_settings("synthetic", seed, synthetic_settings(p))
    draws = data_draws(p.dataset)
    draw = seed % len(draws)
    return Data(name=p.dataset, draw=draw, fingerprint=draws[draw]["fingerprint"])


def data_draws(name: str) -> list[dict[str, Any]]:
    """What a plan has to know of each draw of a prepared data set: ``fingerprint``, ``rows`` of the parts, ``dims`` of
    the fields. Where the data are not at hand, what was published of them."""
    try:
        about = read_manifest(find(name, data_root()))
    except UserError:
        if name in committed_results().data:
            return committed_results().data[name]
        raise
    return [
        {"fingerprint": one["fingerprint"], "rows": one["rows"], "dims": [field["dim"] for field in one["fields"]]}
        for one in about["draws"]
    ]


def group_data(p: StudyParameters, seed: int) -> Dataset:
    """The rows of one group."""
    return load_data(group_settings(p, seed))


def data_shape(data: Data) -> tuple[int, int, int, tuple[int, ...]]:
    """Rows of train, valid and test, and ids of each field, of the data of a run; no row is read."""
    if data.synthetic is not None:
        settings = data.synthetic
        dims = tuple(int(dim) for dim in field_dims(settings))
        return settings.train_rows, settings.valid_rows, settings.test_rows, dims
    draw = data_draws(data.name)[data.draw]
    rows = draw["rows"]
    return rows["train"], rows["valid"], rows["test"], tuple(draw["dims"])


def recipe(p: StudyParameters, protocol: Protocol, epochs: int, learning_rate: float | None = None) -> Recipe:
    """``epochs`` at one learning rate and the last weights; under ``own_end`` cuts, an own end and the best epoch."""
    own_end = protocol == "own_end"
    return Recipe(
        learning_rate=learning_rate or p.learning_rate,
        batch_size=p.batch_size,
        epochs=p.max_epochs if own_end else epochs,
        patience=OWN_END_PATIENCE if own_end else 0,
        keep="best" if own_end else "last",
        embedding_l2=p.embedding_l2,
        precision=p.precision,
    )


def member(p: StudyParameters, seed: int, slot: int, architecture: str, shared_order: bool) -> Member:
    """Instance ``slot`` of group ``seed``: initial weights from (seed, slot); own batch order, or the group's."""
    return Member(
        architecture=architecture,
        embedding_dim=p.embedding_dim,
        hidden_units=p.hidden_units,
        dropout=p.dropout,
        batch_norm=p.batch_norm,
        init_seed=1000 * seed + slot,
        order_seed=1000 * seed + (SHARED_ORDER if shared_order else slot),
    )


def instances(p: StudyParameters) -> list[str]:
    """The architectures of a group of like models."""
    return [p.architecture] * p.instances


def alone(data: Data, members: Iterable[Member], train: Recipe) -> list[Run]:
    """One run a member: independent training, so that any later cohort finds it in the store."""
    return [Run(data=data, members=(one,), coupling=Coupling(weights=solo(1)), recipe=train) for one in members]


def pretraining(
    p: StudyParameters, seed: int, protocol: Protocol, architectures: Sequence[str], epochs: int | None = None
) -> list[Run]:
    """N independent trainings of one model each: own initial weights, own batch order."""
    members = [member(p, seed, slot, name, shared_order=False) for slot, name in enumerate(architectures)]
    return alone(group_settings(p, seed), members, recipe(p, protocol, epochs or p.epochs))


def from_scratch(
    p: StudyParameters, seed: int, protocol: Protocol, architectures: Sequence[str], coupling: Coupling | None
) -> list[Run]:
    """Training from initial weights on the group's batch order for the total epochs of pretraining and fine-tuning
    (or to its own end): one coupled run, or, with ``coupling`` None, each member alone."""
    data, train = group_settings(p, seed), recipe(p, protocol, p.epochs + p.finetune_epochs)
    members = [member(p, seed, slot, name, shared_order=True) for slot, name in enumerate(architectures)]
    if coupling is None:
        return alone(data, members, train)
    return [Run(data=data, members=tuple(members), coupling=coupling, recipe=train)]


def group_coupling(p: StudyParameters, size: int, weights: Weights | None = None, **changes) -> Coupling:
    """The paper's complete graph, with the weight, form and target of the parameters, or as ``changes`` says."""
    settings = {"form": p.coupling_form, "target": p.coupling_target, **changes}
    return Coupling(weights=complete(size, p.mutual_weight) if weights is None else weights, **settings)


def continuation(pretrained: Sequence[Run], train: Recipe, optimizer: str = "reset") -> list[Run]:
    """The control: each checkpoint trains on alone, on the same batches as the mutual arm."""
    return [_finetuning([run], Coupling(weights=solo(1)), train, optimizer) for run in pretrained]


def mutual_finetuning(
    pretrained: Sequence[Run], coupling: Coupling, train: Recipe, optimizer: str = "reset"
) -> list[Run]:
    """The treatment: the checkpoints train on together, coupled."""
    return [_finetuning(pretrained, coupling, train, optimizer)]


def _finetuning(runs: Sequence[Run], coupling: Coupling, train: Recipe, optimizer: str) -> Run:
    return Run(
        data=runs[0].data,
        members=tuple(_in_shared_order(run.members[0]) for run in runs),
        coupling=coupling,
        recipe=train,
        start=tuple(Checkpoint(run=run.fingerprint, optimizer=optimizer) for run in runs),
    )


def _in_shared_order(one: Member) -> Member:
    seed = one.init_seed // 1000
    return one.model_copy(update={"order_seed": 1000 * seed + SHARED_ORDER})
