"""From parameters to runs.

A *replicate* is one seed of the study: a cohort of N instances on data of its own. A *condition* is one way to train
it: independent pretraining, continued training, mutual fine-tuning, either from scratch. Conditions of one replicate
share data, initial weights and batch orders wherever the comparison asks for it, so their differences are paired.

Under the protocol ``fixed_epochs`` every condition trains a fixed number of epochs at one learning rate; under
``early_stopping`` each trains until validation stops rising, and the best epoch counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ctrlib.config import (
    Checkpoint,
    Coupling,
    Data,
    Member,
    Protocol,
    Recipe,
    Run,
    SyntheticSettings,
    Weights,
    checked,
    complete,
    solo,
)
from ctrlib.data.load import data_settings
from ctrlib.data.synthetic import field_dims
from ctrlib.store.published import data_draws
from ctrlib.store.record import Record
from ctrlib.study.parameters import StudyParameters

PATIENCE, CUTS = 2, 2  # epochs in a row without a better validation AUC before a cut of the learning rate; such cuts
COHORT_SEEDS = 10**12 + 1  # as many as there are replicates: between the seeds of a replicate's cohorts
SHARED_ORDER = 999  # the slot whose order seed a replicate uses when all members see the same batches
Factor = str | int | float
Runs = list[Run]


@dataclass(frozen=True)
class Condition:
    """One way to train one replicate, and once it is trained its records.

    Attributes:
        name: what is done; conditions of one name differ by their factors and their replicate.
        seed: the replicate.
        runs: what has to be trained; their members in order are the members of the cohort.
        factors: the protocol, and whatever the experiment varies.
        records: one per run, from :func:`ctrlib.study.experiments.train_conditions`.
        experiment: whose condition it is, from :func:`ctrlib.study.experiments.planned_conditions`.
    """

    name: str
    seed: int
    runs: tuple[Run, ...]
    factors: dict[str, Factor] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    experiment: str = ""

    @property
    def members(self) -> list[Member]:
        """The settings of the N members."""
        return [member for run in self.runs for member in run.members]

    @property
    def labels(self) -> dict[str, Factor]:
        """The columns that tell a condition from all others in a table: its factors, ``condition``, ``replicate``."""
        return {**self.factors, "condition": self.name, "replicate": self.seed}

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (N, rows) of all members."""
        return np.concatenate([record.probabilities(split) for record in self.records])


def data_shape(data: Data) -> tuple[int, int, int, tuple[int, ...]]:
    """Rows of train, valid and test, and ids of each field, of the data of a run; no row is read."""
    if (settings := data.synthetic) is not None:
        dims = tuple(int(dim) for dim in field_dims(settings))
        return settings.train_rows, settings.valid_rows, settings.test_rows, dims
    draw = data_draws(data.name)[data.draw]
    return *(draw["rows"][part] for part in ("train", "valid", "test")), tuple(draw["dims"])


@dataclass(frozen=True)
class Replicate:
    """One seed of the study under one protocol: what its runs and conditions are made from.

    Another ``cohort`` has the same data and members with seeds of their own.
    """

    p: StudyParameters
    seed: int
    protocol: Protocol
    cohort: int = 0

    def varied(self, **parameters: Any) -> "Replicate":
        """The same under other parameters."""
        return replace(self, p=self.p.model_copy(update=parameters))

    def conditions(self, runs: dict[str, Runs], **factors: Factor) -> list[Condition]:
        """A condition for each name, all under the protocol and the same further factors."""
        factors = {"protocol": self.protocol, **factors}
        return [Condition(name, self.seed, tuple(found), factors) for name, found in runs.items()]

    @property
    def data(self) -> Data:
        """A draw of its own: its own planted world, or its own split of the prepared rows."""
        p = self.p
        if p.dataset == "synthetic":
            names = ("valid_rows", "test_rows", "fields", "largest_field")
            names += ("drift", "new_codes", "split", "lag", "rows_seed")
            settings = SyntheticSettings(train_rows=p.rows, **{name: getattr(p, name) for name in names})
            return data_settings("synthetic", self.seed, settings)
        draws = data_draws(p.dataset)
        draw = self.seed % len(draws)
        return Data(name=p.dataset, draw=draw, fingerprint=draws[draw]["fingerprint"])

    @property
    def architectures(self) -> list[str]:
        """Those of a cohort of like models."""
        return [self.p.architecture] * self.p.instances

    def member(self, slot: int, architecture: str, shared_order: bool = False) -> Member:
        """Instance ``slot``: initial weights from (seed, slot); batch order its own, or shared by all members."""
        p, first = self.p, 1000 * (self.seed + COHORT_SEEDS * self.cohort)
        return Member(
            architecture=architecture,
            embedding_dim=p.embedding_dim,
            hidden_units=p.hidden_units,
            dropout=p.dropout,
            batch_norm=p.batch_norm,
            init_seed=first + slot,
            order_seed=first + (SHARED_ORDER if shared_order else slot),
        )

    def recipe(self, epochs: int | None = None, learning_rate: float | None = None) -> Recipe:
        """A training from scratch for ``epochs`` or, where none are given, a fine-tuning.

        At one learning rate and with the last weights; under ``early_stopping`` the best epoch counts, and from scratch
        the rate is cut. Fine-tuning keeps one rate, but for the rule ``fuxictr``, which starts its cuts again."""
        p, stops = self.p, self.protocol == "early_stopping"
        cuts = 0 if epochs is None else CUTS
        return Recipe(
            learning_rate=learning_rate or p.learning_rate,
            batch_size=p.batch_size,
            epochs=p.max_epochs if stops else epochs or p.finetune_epochs,
            patience=PATIENCE if stops else 0,
            cuts=cuts if stops and p.stopping == "converged" else None,
            keep="best" if stops else "last",
            embedding_l2=p.embedding_l2,
            precision=p.precision,
        )

    def coupling(self, weights: Weights | float | None = None, size: int | None = None, **changes: Any) -> Coupling:
        """The coupling of a cohort with the form and target of the parameters, or as ``changes`` says.

        Args:
            weights: a matrix, or the total weight of the peers in the paper's complete graph; ``p.mutual_weight``
                unless given.
            size: members; ``p.instances`` unless given. A matrix has its own.
            **changes: other settings of the coupling.
        """
        p = self.p
        if not isinstance(weights, tuple):
            weights = complete(size or p.instances, p.mutual_weight if weights is None else weights)
        return checked(Coupling, weights=weights, **{"form": p.coupling_form, **changes})

    def late_coupling(self, weight: float, epochs: float) -> Coupling:
        """A coupling from scratch that begins after so many epochs."""
        return self.coupling(
            weight, start=min(1.0, epochs / self.recipe(self.p.epochs + self.p.finetune_epochs).epochs)
        )

    def alone(self, members: Iterable[Member], epochs: int) -> Runs:
        """One run a member: independent training, so that any later cohort finds it in the store."""
        common = {"data": self.data, "coupling": Coupling(weights=solo(1)), "recipe": self.recipe(epochs)}
        return [Run(members=(one,), **common) for one in members]

    def pretraining(self, architectures: Sequence[str] | None = None, epochs: int | None = None) -> Runs:
        """Independent trainings of one model each: own initial weights, own batch order."""
        members = [self.member(slot, name) for slot, name in enumerate(architectures or self.architectures)]
        return self.alone(members, epochs or self.p.epochs)

    def alone_for_all_epochs(self, size: int) -> Runs:
        """The first ``size`` members as in :meth:`pretraining`, for the epochs of pretraining and fine-tuning."""
        return self.pretraining(self.architectures[:size], self.p.epochs + self.p.finetune_epochs)

    def from_scratch(self, coupling: Coupling | None, architectures: Sequence[str] | None = None) -> Runs:
        """Training from initial weights on the shared batch order for the total epochs of pretraining and fine-tuning
        (or with early stopping): one coupled run, or, with ``coupling`` None, each member alone."""
        total = self.p.epochs + self.p.finetune_epochs
        members = [self.member(slot, name, True) for slot, name in enumerate(architectures or self.architectures)]
        if coupling is None:
            return self.alone(members, total)
        return [Run(data=self.data, members=tuple(members), coupling=coupling, recipe=self.recipe(total))]


def changed(runs: Runs, member: dict[str, Any] | None = None, **recipe: Any) -> Runs:
    """The same runs with other settings of each member and of the recipe."""
    return [
        run.model_copy(
            update={
                "members": tuple(one.model_copy(update=member) for one in run.members),
                "recipe": run.recipe.model_copy(update=recipe),
            }
        )
        for run in runs
    ]


def continued_training(pretrained: Sequence[Run], train: Recipe, optimizer: str = "reset") -> Runs:
    """The control: each checkpoint trains on without peers, on the same batches as in mutual fine-tuning."""
    return [_finetuning([run], Coupling(weights=solo(1)), train, optimizer) for run in pretrained]


def mutual_finetuning(pretrained: Sequence[Run], coupling: Coupling, train: Recipe, optimizer: str = "reset") -> Runs:
    """The treatment: the checkpoints train on together, coupled."""
    return [_finetuning(pretrained, coupling, train, optimizer)]


def without_peers(pretrained: Runs, train: Recipe) -> dict[str, Runs]:
    """Two conditions: the checkpoint, and continued training."""
    return {"checkpoint": pretrained, "continued training": continued_training(pretrained, train)}


def finetuned(pretrained: Runs, coupling: Coupling, train: Recipe) -> dict[str, Runs]:
    """The three conditions of the headline comparison: checkpoint, continued training, mutual fine-tuning."""
    return {**without_peers(pretrained, train), "mutual": mutual_finetuning(pretrained, coupling, train)}


def _finetuning(runs: Sequence[Run], coupling: Coupling, train: Recipe, optimizer: str) -> Run:
    members = [run.members[0] for run in runs]
    orders = [1000 * (one.init_seed // 1000) + SHARED_ORDER for one in members]
    return Run(
        data=runs[0].data,
        members=tuple(one.model_copy(update={"order_seed": o}) for one, o in zip(members, orders, strict=True)),
        coupling=coupling,
        recipe=train,
        start=tuple(Checkpoint(run=run.fingerprint, optimizer=optimizer) for run in runs),
    )
