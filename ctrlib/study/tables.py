"""From records to tables: one row a member, one row a group, one row a comparison.

Every table has the columns ``arm`` and ``group`` and a column for each factor of the arms (the protocol always).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ctrlib.stats import metrics
from ctrlib.stats.paired import PairedDifference, holm, paired_difference, relative_difference
from ctrlib.store.measures import group_scores
from ctrlib.store.runs import RunStore
from ctrlib.study.arms import Arm

LEVEL = 0.95  # coverage of every interval
SCORES = (
    "auc", "logloss", "ensemble_auc", "ensemble_logloss", "churn", "best_of_n_auc", "reachable_auc", "member_epochs",
    "seconds",
)  # fmt: skip


def member_table(arms: Iterable[Arm]) -> pd.DataFrame:
    """One row per arm, group and member: test AUC, log loss, calibration ratio, kept epoch, from the run records."""
    rows = []
    for arm in arms:
        tests = [test for record in arm.records for test in record.content["test"]]
        kept = [epoch for record in arm.records for epoch in record.content["kept_epochs"]]
        for n, (one, test, epoch) in enumerate(zip(arm.members, tests, kept, strict=True)):
            about = {"arm": arm.name, "group": arm.seed, "member": n, "architecture": one.architecture}
            rows.append({**arm.factors, **about, **test, "kept_epoch": epoch})
    return pd.DataFrame(rows)


def group_table(store: RunStore, arms: Iterable[Arm]) -> pd.DataFrame:
    """One row per arm and group.

    Columns: mean ``auc`` and ``logloss`` of the members, the same of their ensemble (mean of probabilities),
    ``churn`` between members, the test AUC of the member that is best on validation, ``reachable_auc`` where the
    truth is known (NaN elsewhere), and what it cost: ``member_epochs`` trained, those of the checkpoints left out,
    and the ``seconds`` of training.
    """
    rows = []
    for arm in arms:
        scores = group_scores(store, arm.records)
        churn = np.array(scores["churn"])
        pairs = churn[np.triu_indices(len(churn), 1)]
        histories = [row for record in arm.records for row in record.history]
        rows.append(
            {
                **arm.factors,
                "arm": arm.name,
                "group": arm.seed,
                "auc": float(np.mean(scores["auc"])),
                "logloss": float(np.mean(scores["logloss"])),
                "ensemble_auc": scores["ensemble_auc"],
                "ensemble_logloss": scores["ensemble_logloss"],
                "churn": float(pairs.mean()) if pairs.size else np.nan,
                "best_of_n_auc": scores["auc"][int(np.argmax(scores["valid_auc"]))],
                "reachable_auc": np.nan if scores["reachable_auc"] is None else scores["reachable_auc"],
                "member_epochs": len(histories),
                "seconds": sum(record.seconds for record in arm.records),
            }
        )
    return pd.DataFrame(rows)


def mean_over(groups: pd.DataFrame, factor: str) -> pd.DataFrame:
    """The group table averaged over one factor, within each group: still one row per arm, group and other factors."""
    key = ["arm", "group", *[name for name in groups if name not in ("arm", "group", factor, *SCORES)]]
    return groups.groupby(key, sort=False, as_index=False)[[*SCORES]].mean()


def compare(
    table: pd.DataFrame, treatment: str, control: str, value: str = "auc", control_value: str | None = None
) -> PairedDifference:
    """Treatment minus control, paired over groups, of one column of :func:`group_table` (or of two columns)."""
    of_arm = table.set_index(["arm", "group"])
    treated, other = of_arm.loc[treatment, value], of_arm.loc[control, control_value or value]
    return paired_difference(treated.to_numpy(), other.loc[treated.index].to_numpy(), LEVEL)


def effect_table(groups: pd.DataFrame, comparisons: dict[str, tuple[str, str]], value: str = "auc") -> pd.DataFrame:
    """One row per comparison (label -> treatment, control): see :func:`effect_row`; Holm's p over the whole table.

    Intervals are those of the single comparison; the verdict also has to survive Holm's correction.
    """
    return with_holm([{"comparison": name, **effect_row(groups, *pair, value)} for name, pair in comparisons.items()])


def effects_by(
    groups: pd.DataFrame, factors: Sequence[str], treatment: str, control: str, value: str = "auc"
) -> pd.DataFrame:
    """One row per combination of ``factors`` that the treatment stands under; Holm's p over the whole table.

    The control of a row is the arm of that name under the same factors. A factor that the control does not have (it
    is NaN there) does not distinguish controls: one solo arm serves every weight of the peers.
    """
    treated, controls = groups[groups["arm"] == treatment], groups[groups["arm"] == control]
    shared = [name for name in factors if controls[name].notna().all()]
    rows = []
    for key, part in treated.groupby(list(factors), sort=False):
        at = dict(zip(factors, key, strict=True))
        mine = controls
        for name in shared:
            mine = mine[mine[name] == at[name]]
        rows.append({**at, **effect_row(pd.concat([part, mine]), treatment, control, value)})
    return with_holm(rows)


def effects_of_each(
    groups: pd.DataFrame, factors: Sequence[str], treatments: dict[str, str], control: str, value: str = "auc"
) -> pd.DataFrame:
    """One row per combination of ``factors`` and treatment (label -> arm, in the column ``treatment``), all against one
    control; Holm's p over the whole table. See :func:`effects_by`."""
    labels = groups["arm"].map({arm: label for label, arm in treatments.items()})
    told = groups.assign(treatment=labels, arm=groups["arm"].where(labels.isna(), "treated"))
    table = effects_by(told, [*factors, "treatment"], "treated", control, value)
    return table.sort_values(list(factors), kind="stable", ignore_index=True)


def effect_row(groups: pd.DataFrame, treatment: str, control: str, value: str = "auc") -> dict:
    """One paired comparison as a row: difference, interval, relative sizes, share of groups, p value, verdict.

    ``relative_%`` is the difference over the control's AUC, ``RelaImpr_%`` over its distance from 0.5; both senses
    of "relative improvement" are in use, see :func:`ctrlib.stats.metrics.relative_improvement`.
    """
    found = compare(groups, treatment, control, value)
    means = groups.groupby("arm")[value].mean()
    plain, rela_impr = metrics.relative_improvement(means[treatment], means[control])
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "relative_%": 100 * plain,
        "RelaImpr_%": 100 * rela_impr,
        "P(better)": found.share_better,
        "groups": found.groups,
        "p_value": found.p_value,
        "verdict": found.verdict,
    }


def with_holm(rows: list[dict]) -> pd.DataFrame:
    """The rows of one family of comparisons, with Holm's p, which every verdict has to survive."""
    table = pd.DataFrame(rows)
    table.insert(len(table.columns) - 1, "p_holm", holm(table.pop("p_value").to_numpy()))
    table.loc[table["p_holm"] >= 1 - LEVEL, "verdict"] = "no difference shown"
    return table


def differences(groups: pd.DataFrame, treatment: str, control: str, value: str = "auc") -> pd.Series:
    """The paired difference of each group, by group: what figures draw as dots."""
    of_arm = groups.set_index(["arm", "group"])[value]
    return of_arm[treatment] - of_arm[control]


def share_of_gap(groups: pd.DataFrame, factors: Sequence[str], treatment: str, control: str) -> pd.DataFrame:
    """One row per combination of ``factors``: which share of the gap between the control and the reachable AUC the
    treatment closes, a ratio of means over groups with Fieller's interval."""
    rows = []
    for key, at in groups.groupby(list(factors), sort=False):
        of_arm = at.set_index(["arm", "group"])
        treated, other = of_arm.loc[treatment], of_arm.loc[control]
        gap, gain = other["reachable_auc"] - other["auc"], treated["auc"] - other["auc"]
        found = relative_difference(gap + gain, gap, level=LEVEL)
        rows.append(
            {
                **dict(zip(factors, key, strict=True)),
                "solo": other["auc"].mean(),
                "reachable": other["reachable_auc"].mean(),
                "share": found.mean,
                "low": found.low,
                "high": found.high,
            }
        )
    return pd.DataFrame(rows)


def slope_table(
    groups: pd.DataFrame, x: str, factors: Sequence[str], treatment: str, control: str, value: str = "auc"
) -> pd.DataFrame:
    """One row per combination of ``factors``: the slope of the effect over doublings of ``x``, a line fitted to each
    group by least squares, mean over groups with its interval."""
    rows = []
    for key, at in groups.groupby(list(factors), sort=False):
        effect = pd.DataFrame({level: differences(part, treatment, control, value) for level, part in at.groupby(x)})
        doublings = np.log2(effect.columns.to_numpy(dtype=np.float64))
        centred = doublings - doublings.mean()
        slopes = effect.to_numpy() @ centred / np.square(centred).sum()
        found = paired_difference(slopes, np.zeros_like(slopes), LEVEL)
        rows.append(
            {
                **dict(zip(factors, key, strict=True)),
                "slope": found.mean,
                "low": found.low,
                "high": found.high,
                "verdict": {"gain": "grows", "loss": "fades"}.get(found.verdict, "no slope shown"),
            }
        )
    return pd.DataFrame(rows)


def member_effects(members: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row per member, from the member table of arms ``checkpoint``, ``solo`` and ``mutual`` under factors ``by``.

    ``effect`` is its test AUC after mutual minus after solo fine-tuning; ``gap`` is how far its peers' mean AUC was
    ahead of its own before; ``companions`` are the architectures of its peers.
    """
    key = [*by, "group", "member", "architecture"]
    wide = members.pivot(index=key, columns="arm", values="auc").reset_index().rename_axis(columns=None)
    cohort = wide.groupby([*by, "group"])
    size = cohort["member"].transform("size")
    peers_mean = (cohort["checkpoint"].transform("sum") - wide["checkpoint"]) / (size - 1)
    companions = [
        " + ".join(others)
        for names in wide.groupby([*by, "group"], sort=False)["architecture"].agg(list)
        for others in ([*names[:n], *names[n + 1 :]] for n in range(len(names)))
    ]
    return wide.assign(gap=peers_mean - wide["checkpoint"], effect=wide["mutual"] - wide["solo"], companions=companions)
