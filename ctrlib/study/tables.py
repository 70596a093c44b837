"""From records to tables: one row a member, one row a replicate, one row a comparison.

Every table has the columns ``condition`` and ``replicate`` and a column for each factor of the conditions (the protocol
always).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctrlib.errors import UserError
from ctrlib.stats.metrics import relative_improvement
from ctrlib.stats.paired import PairedDifference, holm, paired_difference
from ctrlib.store.measures import group_scores
from ctrlib.store.runs import RunStore
from ctrlib.study.conditions import Condition
from ctrlib.study.finetuning import CONTROLS, COUPLED

LEVEL = 0.95  # coverage of every interval
MILLI = 1e3  # AUC differences are shown in thousandths
BEST = "best control"  # the condition that choose_by_validation makes of those without peers
FINETUNED = {"fine-tuned": ("mutual", "continued training")}
PEERS = FINETUNED | {"from scratch": ("mutual from scratch", "solo from scratch")}  # and each without its peers
DATA = {
    "criteo_100k": "Criteo",
    "frappe": "Frappe",
    "ml1m": "MovieLens",
    "synthetic": "synthetic clicks",
    "frappe_apart": "Frappe, negatives drawn apart",
    "criteo_10k": "first lines of Criteo",
    "avazu_14k": "first lines of Avazu",
}
"""By data set, what a reader calls it."""
SPOKEN = DATA | {"converged": "this study's rule", "fuxictr": "FuxiCTR's rule"}
SPOKEN |= {"mse": "MSE", "mse_logit": "MSE of logits", "kl": "KL"}
SPOKEN |= {"solo": "alone", "solo from scratch": "alone from scratch"}
Comparison = tuple[dict[str, Any], pd.DataFrame, tuple[str, str]]
"""What a row of a family says of itself, the replicate table, (treatment, control) in it."""
SCORES = (
    "auc", "logloss", "calibration", "valid_auc", "ensemble_auc", "ensemble_logloss", "churn", "best_of_n_auc",
    "oracle_auc", "member_epochs", "seconds", "overlap",
)  # fmt: skip


def member_table(conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition, replicate and member: test AUC, log loss, calibration ratio, kept epoch and its validation
    AUC, from the run records, and the ``overlap`` of the replicate's rows, see :func:`overlap`."""
    rows = []
    for condition in conditions:
        tests = [test for record in condition.records for test in record.content["test"]]
        kept = [
            {"kept_epoch": epoch, "valid_auc": auc}
            for record in condition.records
            for epoch, auc in zip(record.content["kept_epochs"], record.valid_aucs, strict=True)
        ]
        for n, (one, test, epoch) in enumerate(zip(condition.members, tests, kept, strict=True)):
            about = {**condition.labels, "member": n, "architecture": one.architecture}
            rows.append({**about, **test, **epoch, "overlap": overlap(condition)})
    return pd.DataFrame(rows)


def replicate_table(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """One row per condition and replicate.

    Columns: mean ``auc``, ``logloss`` and ``calibration`` ratio of the members, their mean validation AUC
    ``valid_auc``, AUC and log loss of their ensemble (mean of probabilities), ``churn`` between members, the test AUC
    of the member that is best on validation, ``oracle_auc`` of the true probability where it is known (NaN elsewhere),
    and the cost: ``member_epochs`` trained, those of the checkpoints left out, and the ``seconds`` of training; and the
    ``overlap`` of its rows, see :func:`overlap`.
    """
    rows = []
    for condition in conditions:
        scores = group_scores(store, condition.records)
        row = {
            **condition.labels,
            "auc": float(np.mean(scores["auc"])),
            "logloss": float(np.mean(scores["logloss"])),
            "calibration": float(np.mean([one["calibration"] for r in condition.records for one in r.content["test"]])),
            "valid_auc": float(np.mean(scores["valid_auc"])),
            "ensemble_auc": scores["ensemble_auc"],
            "ensemble_logloss": scores["ensemble_logloss"],
            "churn": mean_churn(scores["churn"]),
            "best_of_n_auc": scores["auc"][int(np.argmax(scores["valid_auc"]))],
            "oracle_auc": np.nan if scores["reachable_auc"] is None else scores["reachable_auc"],
            "member_epochs": sum(len(record.history) for record in condition.records),
            "seconds": sum(record.seconds for record in condition.records),
            "overlap": overlap(condition),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def with_data(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The table with the factor ``data``, which a page of one data set does not have."""
    return table if "data" in table else table.assign(data=dataset)


def overlap(condition: Condition) -> float:
    """Test rows over training rows where the replicates are folds or random splits of one log, which share rows; 0 for
    synthetic clicks, where each has rows of its own. What :func:`ctrlib.stats.paired.paired_difference` needs."""
    record = condition.records[0]
    return 0.0 if record.run.data.synthetic else record.content["rows"]["test"] / record.content["rows"]["train"]


def overlap_in(table: pd.DataFrame) -> float:
    """The largest overlap in a table of members or replicates."""
    return float(table["overlap"].max()) if "overlap" in table else 0.0


def over_replicates(values: pd.Series, table: pd.DataFrame, level: float = LEVEL) -> PairedDifference:
    """One number per replicate, made from ``table``, against zero."""
    values = values.to_numpy(dtype=np.float64)
    return paired_difference(values, np.zeros_like(values), level, overlap_in(table))


def together(found: Iterable[PairedDifference]) -> float:
    """The level of each interval of a family so that all of them hold together at :data:`LEVEL` (Bonferroni).

    Comparisons of what is identical by construction, with no difference in any replicate, do not count.
    """
    return 1 - (1 - LEVEL) / max(1, sum(not is_identical(one) for one in found))


def level_words(level: float) -> str:
    """The level of the intervals of a family, for a header."""
    return f"{100 * level:.4g} %" + ("" if level == LEVEL else f" each, {100 * LEVEL:g} % together")


def data_name(label: str) -> str:
    """The data set of a label of a profile: ``synthetic`` of any size; a label with more words stays as it is."""
    return "synthetic" if re.fullmatch(r"synthetic\w*", label) else label


def spoken(name: object) -> str:
    """A column or factor value as a reader says it, data sets by their names."""
    return SPOKEN.get(data_name(str(name)), str(name).replace("_", " "))


def signed(value: float, milli: bool = False) -> str:
    """A difference of AUCs as text, or thousandths of it."""
    return f"{MILLI * value:+.2f}" if milli else f"{value:+.4f}"


def bounds(row: Mapping[str, float], milli: bool = False) -> str:
    """The interval of a row as text, ``low`` to ``high``."""
    return f"{signed(row['low'], milli)} to {signed(row['high'], milli)}"


def in_words(row: Mapping[str, Any], milli: bool = False) -> str:
    """A row of :func:`family` for a sentence: difference, verdict, the interval it is from."""
    interval = f"{100 * row['level']:.4g} % interval {bounds(row, milli)}"
    return f"{signed(row['difference'], milli)} ({row['verdict']}, {interval})"


def is_identical(found: PairedDifference) -> bool:
    """Whether nothing differs in any of several replicates."""
    return found.mean == 0 and found.sd == 0


def mean_churn(matrix: list[list[float]]) -> float:
    """Mean over the pairs of members of their churn (N, N); NaN for one member."""
    pairs = np.array(matrix)[np.triu_indices(len(matrix), 1)]
    return float(pairs.mean()) if pairs.size else np.nan


def by_factors(table: pd.DataFrame, factors: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of each combination of ``factors``, in the order of the table."""
    for key, part in table.groupby(list(factors), sort=False):
        yield dict(zip(factors, key, strict=True)), part


def by_appearance(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows sorted by ``columns``, whose values come in the order in which each first appears in the table."""

    def rank(column: pd.Series) -> pd.Series:
        return column.map({value: n for n, value in enumerate(column.unique())})

    return table.sort_values(list(columns), key=rank, kind="stable", ignore_index=True)


def compare(
    table: pd.DataFrame, treatment: str, control: str, value: str = "auc", level: float = LEVEL
) -> PairedDifference:
    """Treatment minus control, paired over replicates, of one column of :func:`replicate_table`.

    Raises:
        UserError: a replicate has more than one value, because a factor of the table has more than one level.
    """
    scores = table.set_index(["condition", "replicate"])[value]
    treated = scores.loc[treatment]
    if treated.index.has_duplicates:
        raise UserError(f"{treatment!r} has more than one value a replicate; compare within the levels of a factor")
    return paired_difference(
        treated.to_numpy(), scores.loc[control].loc[treated.index].to_numpy(), level, overlap_in(table)
    )


def effects_by(
    replicates: pd.DataFrame, factors: Sequence[str], treatment: str, control: str, value: str = "auc"
) -> pd.DataFrame:
    """One row per combination of ``factors`` that the treatment stands under, a family: see :func:`family`.

    The control of a row is the condition of that name under the same factors. A factor that the control does not have
    (it is NaN there) does not distinguish controls: one continued training serves every weight of the peers.
    """
    return family(comparisons_by(replicates, factors, treatment, control), value)


def effects_of_pairs(
    replicates: pd.DataFrame, factors: Sequence[str], pairs: dict[str, tuple[str, str]], column: str, value: str = "auc"
) -> pd.DataFrame:
    """As :func:`effects_by`, of several pairs (label, in ``column`` -> treatment, control), all rows one family."""
    rows = [
        ({**at, column: label}, *rest)
        for label, pair in pairs.items()
        for at, *rest in comparisons_by(replicates, factors, *pair)
    ]
    return by_appearance(family(rows, value), factors)


def effects_against(
    replicates: pd.DataFrame, factors: Sequence[str], treatment: str, controls: dict[str, str]
) -> pd.DataFrame:
    """One treatment against each of several controls (label, in ``against`` -> condition), a family."""
    pairs = {label: (treatment, control) for label, control in controls.items()}
    return effects_of_pairs(replicates, factors, pairs, "against")


def effects_of_each(
    replicates: pd.DataFrame, factors: Sequence[str], treatments: dict[str, str], control: str, value: str = "auc"
) -> pd.DataFrame:
    """Each of several treatments (label, in ``treatment`` -> condition) against one control, a family."""
    pairs = {label: (treatment, control) for label, treatment in treatments.items()}
    return effects_of_pairs(replicates, factors, pairs, "treatment", value)


def comparisons_by(replicates: pd.DataFrame, factors: Sequence[str], treatment: str, control: str) -> list[Comparison]:
    """The comparisons of :func:`effects_by`; where there is no control, there is none."""
    treated, controls = (replicates[replicates["condition"] == name] for name in (treatment, control))
    shared = [name for name in factors if controls[name].notna().all()]
    rows = []
    for at, part in by_factors(treated, factors):
        mine = controls
        for name in shared:
            mine = mine[mine[name] == at[name]]
        if len(mine):
            rows.append((at, pd.concat([part, mine]), (treatment, control)))
    return rows


def choose_by_validation(
    replicates: pd.DataFrame, name: str, candidates: Sequence[str], within: Sequence[str] = ("protocol",)
) -> pd.DataFrame:
    """The replicate table and, in each replicate, one condition more, called ``name``: of the ``candidates`` under all
    their factors the one with the best mean validation AUC. The first of equals counts.

    Args:
        replicates: see :func:`replicate_table`.
        name: of the new condition; its column ``chosen`` says which one it is, ``candidates`` among how many.
        candidates: conditions to choose from.
        within: factors within whose levels a choice is made; the others are part of what is chosen.
    """
    offered = replicates[replicates["condition"].isin(candidates)]
    others = {*SCORES, *within, "condition", "replicate", "chosen", "row", "candidates"}
    chosen_by = [column for column in replicates if column not in others]
    rows = []
    for _, part in offered.groupby([*within, "replicate"], sort=False):
        best = part.loc[part["valid_auc"].idxmax()].copy()
        levels = best[chosen_by].dropna().items()
        factors = [f"{factor} {level}" if isinstance(level, str) else f"{factor} {level:g}" for factor, level in levels]
        best["chosen"] = ", ".join([best["condition"], *factors])
        best["condition"], best["candidates"] = name, len(part)
        best[chosen_by] = np.nan
        rows.append(best)
    return pd.concat([replicates, pd.DataFrame(rows)], ignore_index=True)


def with_best(replicates: pd.DataFrame, within: Sequence[str] = ("protocol", "architecture")) -> pd.DataFrame:
    """The replicate table and, within each level of the factors ``within``, the conditions ``best control`` and ``best
    mutual``, chosen by validation. The column ``row`` says which row each is."""
    table = choose_by_validation(replicates.assign(row=range(len(replicates))), BEST, CONTROLS, within)
    return choose_by_validation(table, "best mutual", COUPLED, within)


def with_average(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`with_best` and ``average``, the ensemble of the best control."""
    best = table[table["condition"] == BEST]
    average = best.assign(condition="average", auc=best["ensemble_auc"], logloss=best["ensemble_logloss"])
    return pd.concat([table, average], ignore_index=True)


def at_each_level(replicates: pd.DataFrame, condition: str, factor: str) -> pd.DataFrame:
    """The replicate table in which a condition that has one level of ``factor`` stands at each level of the others: the
    checkpoint of fine-tunings of several lengths."""
    mine = replicates["condition"] == condition
    levels = replicates.loc[~mine, factor].dropna().unique()
    copies = (replicates[mine].assign(**{factor: level}) for level in levels)
    return pd.concat([replicates[~mine], *copies], ignore_index=True)


def three_ways(
    replicates: pd.DataFrame, factors: Sequence[str], pairs: dict[str, tuple[str, str]] = FINETUNED, value: str = "auc"
) -> pd.DataFrame:
    """Conditions with peers against three controls: one row per pair, by its label in ``treatment``, and combination of
    those of the ``factors`` that the treatment stands under; one without rows is passed over.

    Everything of :func:`family` is against the best control, which :func:`choose_by_validation` has made, and all rows
    are one family. Before it stand the mean differences ``over_alone`` and ``over_checkpoint``.

    Args:
        replicates: see :func:`replicate_table`.
        factors: as for :func:`effects_by`.
        pairs: label -> treatment, and the control that trains without peers and is otherwise the same.
        value: the column compared.
    """
    best, beside = [], []
    for label, (treatment, alone) in pairs.items():
        treated = replicates[replicates["condition"] == treatment]
        mine = [name for name in factors if len(treated) and treated[name].notna().all()]
        sides = (comparisons_by(replicates, mine, treatment, one) for one in (BEST, alone, "checkpoint") if mine)
        for (at, *against), *others in zip(*sides, strict=True):
            best.append(({"treatment": label, **at}, *against))
            beside.append([compare(table, *pair, value).mean for _, table, pair in others])
    table = family(best, value)
    at = table.columns.get_loc("difference")
    for column, values in zip(("over_checkpoint", "over_alone"), np.transpose(beside)[::-1], strict=True):
        table.insert(at, column, values)
    return table


def training_cost(replicates: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """One row per combination of ``factors`` and number of ``instances``: member epochs of the checkpoints and of
    mutual fine-tuning, and the seconds of both together over those of one checkpoint. Means over replicates; seconds
    are those of the records, whatever machines trained them."""
    key = [*factors, "instances"]
    sums = replicates.groupby([*key, "condition"], sort=False)[["member_epochs", "seconds"]].mean()
    before, mutual = (sums.xs(name, level="condition") for name in ("checkpoint", "mutual"))
    one = before["seconds"] / before.index.get_level_values("instances")
    table = {
        "epochs_of_checkpoints": before["member_epochs"],
        "epochs_of_fine-tuning": mutual["member_epochs"],
        "seconds_over_one": (before["seconds"] + mutual["seconds"]) / one,
    }
    return pd.DataFrame(table).reset_index()


def family(comparisons: list[Comparison], value: str = "auc") -> pd.DataFrame:
    """A family of paired comparisons, one row each: what was compared, difference, interval, relative sizes, share of
    replicates, Holm's p, verdict.

    The intervals hold together (:func:`together`), each at ``level``, and the verdict is read from them: ``gain``,
    ``loss``, ``no difference shown``, or ``identical`` where nothing differs by construction.
    """
    single = [compare(table, *pair, value) for _, table, pair in comparisons]
    level = together(single)
    rows = []
    for (about, table, pair), one in zip(comparisons, single, strict=True):
        same = is_identical(one)
        row = effect_row(table, *pair, value, level)
        rows.append({**about, **row, "verdict": "identical"} if same else {**about, **row})
    table = pd.DataFrame(rows)
    p_values = table.pop("p_value").where(table["verdict"] != "identical")
    table.insert(len(table.columns) - 1, "p_holm", holm(p_values.to_numpy(dtype=np.float64)))
    return table


def effect_row(
    replicates: pd.DataFrame, treatment: str, control: str, value: str = "auc", level: float = LEVEL
) -> dict[str, Any]:
    """One paired comparison as a row: difference, interval, relative sizes, share of replicates, p value, verdict.

    ``relative_%`` is the difference over the control's AUC, ``RelaImpr_%`` over its distance from 0.5; both senses
    of "relative improvement" are in use, see :func:`ctrlib.stats.metrics.relative_improvement`.
    """
    found = compare(replicates, treatment, control, value, level)
    means = replicates.groupby("condition")[value].mean()
    plain, rela_impr = relative_improvement(means[treatment], means[control])
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "level": level,
        "relative_%": 100 * plain,
        "RelaImpr_%": 100 * rela_impr,
        "P(better)": found.share_better,
        "replicates": found.replicates,
        "p_value": found.p_value,
        "verdict": found.verdict,
    }


def differences(replicates: pd.DataFrame, treatment: str, control: str, value: str = "auc") -> pd.Series:
    """The paired difference of each replicate: what figures draw as dots."""
    scores = replicates.set_index(["condition", "replicate"])[value]
    return scores[treatment] - scores[control]


def slope_table(replicates: pd.DataFrame, x: str, factors: Sequence[str], treatment: str, control: str) -> pd.DataFrame:
    """One row per combination of ``factors``: the slope of the effect over doublings of ``x``, a line fitted to each
    replicate by least squares, mean over replicates with its interval. The intervals hold together."""
    fits = []
    for about, at in by_factors(replicates, factors):
        effect = pd.DataFrame({level: differences(part, treatment, control) for level, part in at.groupby(x)})
        doublings = np.log2(effect.columns.to_numpy(dtype=np.float64))
        centred = doublings - doublings.mean()
        fits.append((about, pd.Series(effect.to_numpy() @ centred / np.square(centred).sum()), at))
    level = together(over_replicates(slopes, at) for _, slopes, at in fits)
    rows = []
    for about, slopes, at in fits:
        found = over_replicates(slopes, at, level)
        verdict = {"gain": "grows", "loss": "fades"}.get(found.verdict, "no slope shown")
        rows.append(
            {**about, "slope": found.mean, "low": found.low, "high": found.high, "level": level, "verdict": verdict}
        )
    return pd.DataFrame(rows)


def member_effects(members: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row per member, from the member table of conditions under factors ``by``: checkpoints, continued training at
    several rates, mutual fine-tuning at one of them.

    ``effect`` is its test AUC after mutual fine-tuning minus after continued training at that rate, ``over_checkpoint``
    minus before, ``over_best`` minus that of whichever of all these ``candidates`` has its best validation AUC; ``gap``
    is how far its peers' mean AUC was ahead of its own before; ``companions`` are the architectures of its peers.
    """
    within = [*by, "member", "architecture"]
    key = [*within, "replicate"]
    table = choose_by_validation(members.drop(columns="kept_epoch", errors="ignore"), BEST, CONTROLS, within)
    of = dict(list(table.set_index(key).groupby("condition")))
    wide = of["mutual"][["rate", "auc"]].rename(columns={"auc": "mutual"})
    wide["checkpoint"] = of["checkpoint"]["auc"]
    wide[[BEST, "candidates"]] = of[BEST][["auc", "candidates"]]
    alone = of["continued training"].set_index("rate", append=True)["auc"]
    wide["continued training"] = alone.loc[wide.set_index("rate", append=True).index].to_numpy()
    wide = wide.reset_index()
    cohort = wide.groupby([*by, "replicate"], sort=False)
    size = cohort["member"].transform("size")
    peers_mean = (cohort["checkpoint"].transform("sum") - wide["checkpoint"]) / (size - 1)
    companions = [
        " + ".join([*names[:n], *names[n + 1 :]])
        for names in cohort["architecture"].agg(list)
        for n in range(len(names))
    ]
    columns = {"effect": "continued training", "over_checkpoint": "checkpoint", "over_best": BEST}
    effects = {name: wide["mutual"] - wide[control] for name, control in columns.items()}
    gap = peers_mean - wide["checkpoint"]
    return wide.assign(gap=gap, **effects, companions=companions, overlap=overlap_in(members))


def sides_of_pairs(effects: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of :func:`member_effects` as a replicate table: the test AUC of each of their four conditions, averaged
    over the members of a replicate within the columns ``by``."""
    conditions = ["checkpoint", "continued training", BEST, "mutual"]
    columns = ["replicate", *by, "overlap"]
    long = effects.melt(columns, conditions, var_name="condition", value_name="auc")
    return long.groupby(["condition", *columns], sort=False, as_index=False)["auc"].mean()
