"""From notebook parameters to runs, and from run records to tables.

A *group* is N instances that belong together (one seed of the study). An *arm* is one way to train a group:
independent pretraining, solo continuation, mutual fine-tuning, either from scratch. Arms of one group share data,
initial weights and batch orders wherever the comparison asks for it, so their differences are paired.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctrlib import metrics
from ctrlib.config import (
    Checkpoint,
    Coupling,
    Member,
    Recipe,
    Run,
    StudyParameters,
    SyntheticSettings,
    checked,
    data_root,
    store_root,
)
from ctrlib.coupling import complete, solo
from ctrlib.data.about import read_about
from ctrlib.data.sources import find
from ctrlib.data.table import Dataset
from ctrlib.errors import UserError
from ctrlib.models import architecture_name
from ctrlib.runs import Record, RunStore, data_settings, load_data
from ctrlib.statistics import PairedDifference, holm, paired_difference

OWN_END_PATIENCE = 2
LEVEL = 0.95  # coverage of every interval
SHARED_ORDER = 999  # the slot whose order seed a group uses when all members see the same batches


def begin(**parameters) -> tuple[StudyParameters, RunStore]:
    """First call of every notebook: check its parameters, open the store.

    Raises:
        UserError: see :func:`checked_parameters`.
    """
    return checked_parameters(**parameters), RunStore(store_root())


def checked_parameters(**parameters) -> StudyParameters:
    """Parameters whose types, ranges, names, device and data set are all there.

    Raises:
        UserError: one line that names the parameter, its value and what is allowed.
    """
    from ctrlib.machine import arithmetic
    from ctrlib.trainer import resolve_device

    p = checked(StudyParameters, **parameters)
    names = {
        "architecture": architecture_name(p.architecture),
        "companions": tuple(dict.fromkeys(architecture_name(name) for name in p.companions)),
    }
    p = p.model_copy(update=names)  # spelled as the registry spells them, each once
    with arithmetic(p.precision, resolve_device(p.device)):  # refuses what the device does not have
        pass
    rows = p.rows if p.dataset == "synthetic" else len(group_data(p, p.seeds[0]).train)
    if p.batch_size > rows:
        raise UserError(f"batch_size={p.batch_size}: must be at most {rows}, the training rows of {p.dataset!r}")
    return p


def synthetic_settings(p: StudyParameters) -> SyntheticSettings | None:
    """The embedded data at the size asked for; None for a prepared data set."""
    return SyntheticSettings(train_rows=p.rows) if p.dataset == "synthetic" else None


def draw_of(p: StudyParameters, seed: int) -> int:
    """Each group has its own draw of the data: its own planted world, or its own split of the prepared rows."""
    if p.dataset == "synthetic":
        return seed
    return seed % len(read_about(find(p.dataset, data_root()))["draws"])


def group_data(p: StudyParameters, seed: int) -> Dataset:
    """The rows of one group."""
    return load_data(data_settings(p.dataset, draw_of(p, seed), synthetic_settings(p)))


def recipe(p: StudyParameters, epochs: int, learning_rate: float, own_end: bool) -> Recipe:
    """Fixed epochs, last weights (``own_end`` false), or learning-rate cuts, an own end and the best epoch."""
    return Recipe(
        learning_rate=learning_rate,
        batch_size=p.batch_size,
        epochs=epochs,
        patience=OWN_END_PATIENCE if own_end else 0,
        keep="best" if own_end else "last",
        embedding_l2=p.embedding_l2,
        precision=p.precision,
    )


def member(p: StudyParameters, seed: int, slot: int, architecture: str, shared_order: bool) -> Member:
    """Instance ``slot`` of group ``seed``: initial weights from (seed, slot); own batch order, or the group's."""
    return Member(
        architecture=architecture_name(architecture),
        embedding_dim=p.embedding_dim,
        hidden_units=p.hidden_units,
        dropout=p.dropout,
        batch_norm=p.batch_norm,
        init_seed=1000 * seed + slot,
        order_seed=1000 * seed + (SHARED_ORDER if shared_order else slot),
    )


def pretraining(p: StudyParameters, seed: int, architectures: list[str] | None = None) -> list[Run]:
    """N independent trainings of one model each: own initial weights, own batch order. One run an instance, so
    that any later cohort finds them in the store."""
    names = architectures or [p.architecture] * p.instances
    data = data_settings(p.dataset, draw_of(p, seed), synthetic_settings(p))
    train = recipe(p, p.epochs, p.learning_rate, p.protocol == "own_end")
    return [
        Run(data=data, members=(member(p, seed, i, name, False),), coupling=Coupling(weights=solo(1)), recipe=train)
        for i, name in enumerate(names)
    ]


def group_coupling(p: StudyParameters, size: int) -> Coupling:
    """The paper's complete graph, with the weight, form and target of the parameters."""
    return Coupling(weights=complete(size, p.mutual_weight), form=p.coupling_form, target=p.coupling_target)


def continuation(p: StudyParameters, pretrained: list[Run], learning_rate: float, optimizer: str) -> list[Run]:
    """The control: each checkpoint trains on alone, on the same batches as the mutual arm."""
    return [_finetuning(p, [run], Coupling(weights=solo(1)), learning_rate, optimizer) for run in pretrained]


def mutual_finetuning(p: StudyParameters, pretrained: list[Run], learning_rate: float, optimizer: str) -> list[Run]:
    """The treatment: the checkpoints train on together, coupled."""
    return [_finetuning(p, pretrained, group_coupling(p, len(pretrained)), learning_rate, optimizer)]


def finetuning_arms(p: StudyParameters, pretrained: list[Run]) -> dict[str, list[Run]]:
    """Every way to fine-tune one group: alone or together, at the same or a tenth of the learning rate, with
    Adam's state kept or reset. Names are built by :func:`arm_name`."""
    return {
        arm_name(kind, rate, optimizer): make(p, pretrained, learning_rate, optimizer)
        for kind, make in (("solo", continuation), ("mutual", mutual_finetuning))
        for rate, learning_rate in (("lr", p.learning_rate), ("lr/10", p.learning_rate / 10))
        for optimizer in ("reset", "keep")
    }


def arm_name(kind: str, rate: str, optimizer: str) -> str:
    """``solo`` or ``mutual``; ``lr`` or ``lr/10``; ``reset`` or ``keep``."""
    return f"{kind} {rate} {'state kept' if optimizer == 'keep' else 'state reset'}"


def _finetuning(p: StudyParameters, runs: list[Run], coupling: Coupling, learning_rate: float, optimizer: str) -> Run:
    starts = tuple(Checkpoint(run=run.fingerprint, optimizer=optimizer) for run in runs)
    return Run(
        data=runs[0].data,
        members=tuple(_share_order(run.members[0]) for run in runs),
        coupling=coupling,
        recipe=recipe(p, p.finetune_epochs, learning_rate, own_end=False),
        start=starts,
    )


def _share_order(one: Member) -> Member:
    seed = one.init_seed // 1000
    return one.model_copy(update={"order_seed": 1000 * seed + SHARED_ORDER})


def from_scratch(p: StudyParameters, seed: int, mutual: bool, architectures: list[str] | None = None) -> list[Run]:
    """Training from initial weights on the group's batch order, coupled or solo, for the total epochs of
    pretraining plus fine-tuning (or to its own end)."""
    names = architectures or [p.architecture] * p.instances
    data = data_settings(p.dataset, draw_of(p, seed), synthetic_settings(p))
    own_end = p.protocol == "own_end"
    train = recipe(p, p.epochs if own_end else p.epochs + p.finetune_epochs, p.learning_rate, own_end)
    members = [member(p, seed, i, name, True) for i, name in enumerate(names)]
    if mutual:
        return [Run(data=data, members=tuple(members), coupling=group_coupling(p, len(names)), recipe=train)]
    return [Run(data=data, members=(one,), coupling=Coupling(weights=solo(1)), recipe=train) for one in members]


@dataclass(frozen=True)
class Arm:
    """The finished runs of one arm of one group."""

    name: str
    seed: int
    records: list[Record]

    def probabilities(self, split: str = "test") -> np.ndarray:
        """Predicted click probabilities (N, rows) of all members."""
        return np.concatenate([record.probabilities(split) for record in self.records])


def train_arms(p: StudyParameters, store: RunStore, arms: dict[tuple[str, int], list[Run]]) -> list[Arm]:
    """Train what the store lacks of all arms, keyed by (name, seed), and return them in the same order."""
    records = iter(store.ensure([run for runs in arms.values() for run in runs], device=p.device))
    return [Arm(name, seed, [next(records) for _ in runs]) for (name, seed), runs in arms.items()]


def member_table(arms: list[Arm]) -> pd.DataFrame:
    """One row per arm, group and member: test AUC, log loss, calibration ratio, kept epoch."""
    rows = [
        {
            "arm": arm.name,
            "group": arm.seed,
            "architecture": one.architecture,
            "member": one.init_seed % 1000,
            **record.content["test"][n],
            "kept_epoch": record.content["kept_epochs"][n],
        }
        for arm in arms
        for record in arm.records
        for n, one in enumerate(record.run.members)
    ]
    return pd.DataFrame(rows).sort_values(["arm", "group", "member"], kind="stable").reset_index(drop=True)


def group_table(p: StudyParameters, arms: list[Arm]) -> pd.DataFrame:
    """One row per arm and group: mean AUC and log loss of the members, the AUC of their ensemble (mean of
    probabilities), churn between members, and, where the truth is known, the reachable AUC."""
    rows = []
    for arm in arms:
        test = group_data(p, arm.seed).test
        probabilities = arm.probabilities()
        ensemble = probabilities.mean(axis=0)
        aucs = [metrics.auc(test.labels, one) for one in probabilities]
        rows.append(
            {
                "arm": arm.name,
                "group": arm.seed,
                "auc": float(np.mean(aucs)),
                "logloss": float(np.mean([metrics.logloss(test.labels, one) for one in probabilities])),
                "ensemble_auc": metrics.auc(test.labels, ensemble),
                "ensemble_logloss": metrics.logloss(test.labels, ensemble),
                "churn": metrics.churn(probabilities).mean_difference,
                "reachable_auc": np.nan if test.probability is None else metrics.auc(test.labels, test.probability),
            }
        )
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame, treatment: str, control: str, value: str = "auc") -> PairedDifference:
    """Treatment minus control, paired over groups, of one column of :func:`group_table`."""
    by_group = table.pivot(index="group", columns="arm", values=value)
    return paired_difference(by_group[treatment].to_numpy(), by_group[control].to_numpy(), LEVEL)


def effect_table(groups: pd.DataFrame, comparisons: dict[str, tuple[str, str]], value: str = "auc") -> pd.DataFrame:
    """One row per comparison (label -> treatment, control): paired difference, interval, relative sizes, Holm's p.

    ``relative_%`` is the difference over the control's AUC, ``RelaImpr_%`` over its distance from 0.5; both senses
    of "relative improvement" are in use, see :func:`ctrlib.metrics.relative_improvement`. Intervals are those of the
    single comparison; the verdict also has to survive Holm's correction over the table.
    """
    means = groups.groupby("arm")[value].mean()
    rows = []
    for name, (treatment, control) in comparisons.items():
        found = compare(groups, treatment, control, value)
        plain, rela_impr = metrics.relative_improvement(means[treatment], means[control])
        rows.append(
            {
                "comparison": name,
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "relative_%": 100 * plain,
                "RelaImpr_%": 100 * rela_impr,
                "P(better)": found.share_better,
                "p_value": found.p_value,
                "verdict": found.verdict,
            }
        )
    table = pd.DataFrame(rows)
    table.insert(len(table.columns) - 1, "p_holm", holm(table.pop("p_value").to_numpy()))
    table.loc[table["p_holm"] >= 1 - LEVEL, "verdict"] = "no difference shown"
    return table


def mixed_cohorts(p: StudyParameters) -> dict[str, list[str]]:
    """The cohorts of the mixing experiment by the name of their guest: N of one architecture, then one of them
    replaced by each companion."""
    host = architecture_name(p.architecture)
    guests = dict.fromkeys([host, *(architecture_name(name) for name in p.companions)])
    return {guest: [host] * (p.instances - 1) + [guest] for guest in guests}


def mixed_arms(p: StudyParameters, seed: int) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
    """Pretraining of every cohort of :func:`mixed_cohorts`, and the two ways to go on: alone or together."""
    before, after = {}, {}
    for guest, architectures in mixed_cohorts(p).items():
        pretrained = pretraining(p, seed, architectures)
        before[f"before|{guest}"] = pretrained
        after[f"solo|{guest}"] = continuation(p, pretrained, p.learning_rate, "reset")
        after[f"mutual|{guest}"] = mutual_finetuning(p, pretrained, p.learning_rate, "reset")
    return before, after


def partner_effects(members: pd.DataFrame) -> pd.DataFrame:
    """Who gains from whom: from the member table of :func:`mixed_arms`, one row per guest, group and member.

    ``effect`` is the member's test AUC after mutual minus after solo fine-tuning; ``gap`` is how far its peers'
    mean AUC was ahead of its own before.
    """
    table = members.copy()
    table[["phase", "guest"]] = table["arm"].str.split("|", expand=True)
    wide = table.pivot(index=["guest", "group", "member", "architecture"], columns="phase", values="auc").reset_index()
    cohort = wide.groupby(["guest", "group"])["before"]
    peers_mean = (cohort.transform("sum") - wide["before"]) / (cohort.transform("size") - 1)
    wide["gap"] = peers_mean - wide["before"]
    wide["effect"] = wide["mutual"] - wide["solo"]
    last = wide.groupby(["guest", "group"])["member"].transform("max")
    wide["role"] = np.where(wide["member"] == last, "guest", "host")
    return wide.rename_axis(columns=None)
