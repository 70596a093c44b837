"""What the pages of the main comparison share: what peers give beyond the best that needs no peer, on one data set.

Best control and best mutual learning are chosen by validation in each replicate
(:func:`ctrlib.study.tables.with_best`). The effects of the main table are one family; the answer is read there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from html import escape
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ctrlib.data.folders import project_root
from ctrlib.store.measures import pooled_difference, rarity_scores
from ctrlib.store.runs import RunStore
from ctrlib.study import figures
from ctrlib.study.alternatives import CHOSEN, with_rivals
from ctrlib.study.conditions import Condition
from ctrlib.study.finetuning import BY_RULE, PAPERS_OWN, RATES
from ctrlib.study.notebook import publish_figure, say, show_effects, show_table, show_three_ways
from ctrlib.study.pages import find_notebooks, published_parameters
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import (
    DATA,
    LEVEL,
    MILLI,
    PEERS,
    bounds,
    by_appearance,
    data_name,
    effects_against,
    effects_by,
    level_words,
    replicate_table,
    signed,
    spoken,
    three_ways,
    with_best,
)
from ctrlib.study.verdicts import MAIN, NEGLIGIBLE

RIVAL = CHOSEN + "of the rivals"
SIGNED = partial(signed, milli=True)
LITTLE = 5e-3  # of AUC: an effect below it is called little
SAME = "same without peers"
MUTUAL = {"paper's own": (PAPERS_OWN[0], PAPERS_OWN[1]), "chosen": ("best mutual", SAME)}  # and each without its peers
LOOK = {  # of the figure: condition, score, marker. The paper's own setting may lie so far off that it flattens all
    "best without peers": ("best control", "auc", {"color": figures.GREY}),
    "best with peers": ("best mutual", "auc", {"color": figures.PALETTE[0]}),
    "ensemble of the checkpoints": ("checkpoint", "ensemble_auc", {"color": figures.REFERENCE, "marker": "D"}),
    "ensemble of the best without": ("best control", "ensemble_auc", {"edgecolors": figures.GREY, "marker": "D"}),
    "ensemble of the best with peers": (
        "best mutual",
        "ensemble_auc",
        {"edgecolors": figures.PALETTE[0], "marker": "D"},
    ),
}


def levels(table: pd.DataFrame) -> list[str]:
    """The factors within which a choice is made and a row of the page stands."""
    return [name for name in ("setting", "data", "architecture", "protocol") if name in table]


def with_sides(replicates: pd.DataFrame, p: StudyParameters) -> pd.DataFrame:
    """The replicate table with ``best control``, ``best mutual`` and :data:`SAME`: of what was chosen as best mutual,
    the training that differs by the peers alone. The column ``setting`` says data (where there are several),
    architecture and protocol in words, and which architectures have peers at one rate only."""
    several = "data" in replicates and replicates["data"].nunique() > 1
    replicates = replicates.assign(setting=[
        f"{spoken(row['data'])}, " * several + f"{row['architecture']}, {spoken(row['protocol'])}"
        + ", one rate" * (row["architecture"] in p.one_rate)
        for row in replicates.assign(data=replicates.get("data")).to_dict("records")
    ])  # fmt: skip
    table, within = with_best(replicates, levels(replicates)), [*levels(replicates), "replicate", "rate"]
    chosen = replicates.loc[table.loc[table["condition"] == "best mutual", "row"].astype(int)]
    wanted = chosen[within].assign(condition=chosen["condition"].map(dict(PEERS.values())))
    same = wanted.merge(replicates, how="left", on=[*within, "condition"]).assign(condition=SAME, rate=None)
    return pd.concat([table, same], ignore_index=True)


def peers_beyond(table: pd.DataFrame) -> pd.DataFrame:
    """The family of the page: mutual learning at the paper's own setting and as chosen, against three controls."""
    return by_appearance(three_ways(table, levels(table), MUTUAL), ["setting"])


def answer(effects: pd.DataFrame, architecture: str) -> str:
    """What peers give one architecture beyond the best that needs none, as chosen: yes, no or inconclusive, by the last
    protocol of the page's first data; then every protocol and data, see :func:`verb`, and the other architectures."""
    chosen = effects[effects["treatment"] == "chosen"]
    rows, others = (chosen[(chosen["architecture"] == architecture) == same] for same in (True, False))
    several = bool(rows["protocol"].duplicated().any())
    here = rows["data"] == rows["data"].iloc[0] if several else rows["protocol"].notna()
    ordered = [*rows[here][::-1].to_dict("records"), *rows[~here].to_dict("records")]
    clauses = []
    for row in ordered:
        where = f" under {spoken(row['protocol'])}" + f" on {spoken(row.get('data'))}" * several
        mean, interval = f"{signed(row['difference'], milli=True)} thousandths", bounds(row, milli=True)
        gain = row["verdict"] == "gain"
        clauses.append(f"add {mean} of AUC ({interval}){where}" if gain else f"{verb(row)}{where} ({mean}, {interval})")
    first, *more = clauses
    said = {"gain": "Yes", "loss": "No"}.get(ordered[0]["verdict"], "No" if small(ordered[0]) else "Inconclusive")
    about = (
        f"{architecture}, {int(rows['replicates'].min())} replicates, intervals of {level_words(rows['level'].iloc[0])}"
    )
    rest = "".join(f"; they {one}" for one in more)
    text = f"{said}: peers {first}{rest}. That is beyond the best further training without peers ({about})."
    if len(others):
        others = others.assign(verb=[verb(row) for row in others.to_dict("records")])
        parts = []
        for protocol, part in others.groupby("protocol", sort=False):
            clauses = [
                f"with {_and(list(at['architecture'].unique()))} they {what} ({_span(at['difference'], SIGNED)})"
                for what, at in part.groupby("verb", sort=False)
            ]
            parts.append(f"under {spoken(protocol)}, {_and(clauses)}")
        of_others = "; ".join(parts)
        text += f" {of_others[0].upper()}{of_others[1:]}."
    return text


def beside_oracle(table: pd.DataFrame, setting: str) -> str:
    """How far models stay below the oracle AUC in one setting; empty where it is not known."""
    of = table[table["setting"] == setting].groupby("condition")[["auc", "ensemble_auc", "oracle_auc"]].mean()
    oracle = of.loc["checkpoint", "oracle_auc"]
    if oracle != oracle:
        return ""
    below = {
        "the checkpoint": "checkpoint",
        "the best without peers": "best control",
        "the best with peers": "best mutual",
    }
    parts = [f"{name} {MILLI * (oracle - of.loc[row, 'auc']):.2f}" for name, row in below.items()]
    parts.append(f"the ensemble of the checkpoints {MILLI * (oracle - of.loc['checkpoint', 'ensemble_auc']):.2f}")
    return f" The oracle AUC is {oracle:.4f}. Thousandths of AUC below it ({setting}): {', '.join(parts)}."


def grouped(effects: pd.DataFrame, where: str) -> str:
    """What peers do by each effect, those that say the same together: *help in A and B (+0.90 to +1.20)*."""
    said = effects.assign(verb=[verb(row) for row in effects.to_dict("records")]).groupby("verb", sort=False)
    return "; they ".join(
        f"{what} {where} {_and(list(rows['setting']))} ({_span(rows['difference'], SIGNED)})" for what, rows in said
    )


def small(effect: Mapping[str, Any]) -> bool:
    """Whether the interval of an effect lies within the margin."""
    return effect["low"] > -NEGLIGIBLE and effect["high"] < NEGLIGIBLE


def verb(effect: Mapping[str, Any]) -> str:
    """What peers do, by an effect with interval and verdict: they *help* or *do harm* where the interval excludes zero,
    *less than a thousandth* where it lies within the margin; else they *make no difference of a thousandth* (within the
    margin) or *are not shown to help*."""
    if found := {"gain": "help", "loss": "do harm"}.get(effect["verdict"]):
        return found + ", by less than a thousandth" * small(effect)
    return "make no difference of a thousandth" if small(effect) else "are not shown to help"


def candidates(table: pd.DataFrame) -> str:
    """Among how many each side was chosen, in a sentence; where they are not as many, for each setting."""
    chosen = table[table["candidates"].notna()].drop_duplicates(["setting", "condition"])
    counts = chosen.pivot(index="setting", columns="condition", values="candidates").loc[chosen["setting"].unique()]
    counts = counts.astype(int)
    alike = counts["best control"] == counts["best mutual"]
    parts = [f"of {_span(counts.loc[alike, 'best mutual'])} candidates, as many without peers as with them"] * bool(
        alike.any()
    )
    uneven = counts[~alike].itertuples()
    parts += [f"in {of} of {without} without peers and {those} with them" for of, without, those in uneven]
    return f"Each side is the best by validation {'; '.join(parts)}."


def dumbbells(table: pd.DataFrame, first: int = len(LOOK), simple: pd.DataFrame | None = None) -> Axes:
    """Best control, mutual learning and ensembles minus the checkpoint, a row a setting: the ``first`` few of them, and
    where they are given :func:`simple_changes`."""
    at = dict(iter(table.set_index(["setting", "replicate"]).groupby("condition")))
    shown = dict(list(LOOK.items())[:first])
    parts = [
        (at[condition][score] - at["checkpoint"]["auc"]).rename("difference").reset_index().assign(what=what)
        for what, (condition, score, _) in shown.items()
    ]
    look = {what: marker for what, (_, _, marker) in shown.items()}
    if simple is not None and len(simple):
        parts.append(simple.assign(what="best simple change"))
        look["best simple change"] = {"color": figures.PALETTE[2], "marker": "^"}
    return figures.dumbbells(pd.concat(parts), look, ("best without peers", "best with peers"))


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over replicates of the checkpoint, the best control and mutual learning, in each setting."""
    names = ["checkpoint", "best control", *(names[0] for names in MUTUAL.values())]
    scores = ["auc", "logloss", "calibration", "ensemble_auc", "ensemble_logloss", "churn"]
    mean = table[table["condition"].isin(names)].groupby(["setting", "condition"], sort=False)[scores].mean()
    return mean.loc[list(table["setting"].unique())].reset_index()


def rarity_sides(
    store: RunStore, conditions: Sequence[Condition], table: pd.DataFrame, architecture: str
) -> pd.DataFrame:
    """Best mutual and best control of one architecture: AUC and log loss in each part of the test rows by rarity that
    has both labels, see :func:`ctrlib.store.measures.rarity_scores`."""
    sides = table[table["condition"].isin(["best control", "best mutual"]) & (table["architecture"] == architecture)]
    columns = ["setting", "protocol", "condition", "replicate", "overlap", "row"]
    scored = [
        {**about, **score}
        for about in sides[columns].to_dict("records")
        for score in rarity_scores(store, conditions[int(about["row"])].records)
    ]
    return pd.DataFrame(scored).dropna(subset="auc")


def rarity_effects(
    store: RunStore, conditions: Sequence[Condition], table: pd.DataFrame, architecture: str, value: str = "auc"
) -> pd.DataFrame:
    """The former minus the latter of :func:`rarity_sides`, a family."""
    parts = rarity_sides(store, conditions, table, architecture)
    return effects_by(parts, ["setting", "part"], "best mutual", "best control", value)


def by_rule(table: pd.DataFrame) -> pd.DataFrame:
    """From scratch under each rule of stopping: mutual minus alone, and minus the checkpoint, a family."""
    mutual, alone, checkpoint = BY_RULE
    controls = {"alone from scratch": alone, "the checkpoint": checkpoint}
    return effects_against(table, ["setting", "stopping", "weight"], mutual, controls)


def over_all_rows(store: RunStore, conditions: Sequence[Condition], table: pd.DataFrame) -> pd.DataFrame:
    """Best mutual minus best control over all test rows by DeLong's test, for replicates that share no test row."""
    rows = []
    for setting, part in table.groupby("setting", sort=False):
        sides = (part[part["condition"] == name]["row"] for name in ("best mutual", "best control"))
        found = pooled_difference(store, *([conditions[int(row)].records for row in side] for side in sides))
        bounds = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p_value}
        rows.append({"setting": setting, **bounds})
    return pd.DataFrame(rows)


class MainPage:
    """What the notebook of one main comparison shows, part by part, and the tables it is from.

    Args:
        p: the parameters of the page.
        store: the run store.
        conditions: trained conditions, from :func:`ctrlib.study.experiments.train_conditions`.
    """

    def __init__(self, p: StudyParameters, store: RunStore, conditions: list[Condition]) -> None:
        self.p, self.store, self.conditions = p, store, conditions
        self.table = with_sides(replicate_table(store, conditions), p)
        self.effects = peers_beyond(self.table)

    @cached_property
    def rarity(self) -> pd.DataFrame:
        """See :func:`rarity_effects`, of the first architecture."""
        return rarity_effects(self.store, self.conditions, self.table, self.p.architectures[0])

    def show_answer(self) -> None:
        """The answer; first a warning where a page on a real log shows synthetic clicks."""
        real = self.conditions[0].experiment != MAIN["synthetic"]
        if real and {at.dataset for at in self.p.each().values()} == {"synthetic"}:
            say("**This copy ran on synthetic clicks**: its profile needs no real log. It shows the form of the page.")
        setting = self.effects.loc[self.effects["protocol"] == self.p.protocols[-1], "setting"].iloc[0]
        say(f"**Answer.** {answer(self.effects, self.p.architectures[0])}{beside_oracle(self.table, setting)}")

    def show_figure(self) -> None:
        """What stands how far from the checkpoints, for the slides as well."""
        publish_figure("fig_answer", dumbbells(self.table).figure)

    def show_controls(self) -> None:
        """The effects against three controls, eight rows at most, and among how many each side was chosen."""
        show_three_ways(self.effects[:8], ["setting", "treatment"])
        say(candidates(self.table))

    def show_rarity(self) -> None:
        """The figure of the effect by rarity."""
        figures.effect_curves(self.rarity, "part", "setting", "tenth of the test rows by its rarest code, 1 the rarest")

    def show_tables(self) -> None:
        """The other effects, the scores, and the effects by rarity on AUC and log loss."""
        show_three_ways(self.effects[8:], ["setting", "treatment"])
        show_table(score_table(self.table))
        say("Best mutual minus best control by rarity, AUC and then log loss, where below zero is better:")
        show_effects(self.rarity)
        losses = rarity_effects(self.store, self.conditions, self.table, self.p.architectures[0], "logloss")
        verdicts = losses["verdict"].map({"gain": "worse", "loss": "better"}).fillna(losses["verdict"])
        show_effects(losses.assign(verdict=verdicts))

    def show_rules(self) -> None:
        """What the rule of stopping does, where a page has more than one."""
        if "stopping" in self.table:
            found = by_rule(self.table)
            show_effects(found.drop(columns="setting") if found["setting"].nunique() == 1 else found, milli=True)
        else:
            say("The rules of stopping were not compared for this page.")

    def glued(self) -> dict[str, Any]:
        """What other pages of the book show of this one, of its first architecture: under the last protocol what was
        chosen against three controls, the mean scores of one model and of the average, and the paper's own setting
        (``own``); the latter under the first protocol as well (``fixed``). Differences are in thousandths."""
        p, rows = self.p, self.table
        architecture, protocol = p.architectures[0], p.protocols[-1]
        mine = self.effects[self.effects["architecture"] == architecture].set_index(["treatment", "protocol"])
        chosen, own, fixed = (
            mine.loc[[(name, at)]].iloc[0]
            for name, at in (("chosen", protocol), ("paper's own", protocol), ("paper's own", p.protocols[0]))
        )
        rows = rows[rows["setting"] == chosen["setting"]]
        at = rows.groupby("condition")[["auc", "ensemble_auc"]].mean()
        start = at.loc["checkpoint"]
        return {
            "answer": answer(self.effects, architecture),
            "peers": MILLI * chosen["difference"],
            "low": MILLI * chosen["low"],
            "high": MILLI * chosen["high"],
            "from_checkpoint": MILLI * chosen["over_checkpoint"],
            "own_peers": MILLI * own["difference"],
            "own_from_checkpoint": MILLI * own["over_checkpoint"],
            "own_from_continued": MILLI * own["over_alone"],
            "fixed_peers": MILLI * fixed["difference"],
            "fixed_from_checkpoint": MILLI * fixed["over_checkpoint"],
            "fixed_from_continued": MILLI * fixed["over_alone"],
            "checkpoint_auc": start["auc"],
            "control_auc": at.loc["best control", "auc"],
            "mutual_auc": at.loc["best mutual", "auc"],
            "ensemble": MILLI * (start["ensemble_auc"] - start["auc"]),
            "replicates": int(chosen["replicates"]),
            "instances": p.instances,
            "protocol": spoken(protocol),
            "architecture": architecture,
            "data": _and(list(dict.fromkeys(map(spoken, p.datasets)))),
            "rows": self.conditions[0].records[0].content["rows"]["train"],
            "profile": p.profile,
        }


def over_logs(store: RunStore, pages: Mapping[tuple[str, str], list[Condition]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first architecture of each published main comparison with early stopping, a row of ``setting`` a data set:
    the replicate table of :func:`with_sides`; and :func:`peers_beyond`, with the intervals of the page, and what it is
    measured on: the number of ``models`` and of training ``rows``, the mean AUC of the ``checkpoint`` and what its
    ``ensemble`` gains.

    Args:
        pages: see :func:`ctrlib.study.expectations.published_pages`.
    """
    tables, effects = [pd.DataFrame()], [pd.DataFrame()]
    for experiment in MAIN.values():
        if conditions := [one for (name, _), found in pages.items() if name == experiment for one in found]:
            p = published_parameters(experiment)
            table = with_sides(replicate_table(store, conditions), p)
            for rows, to in ((table, tables), (peers_beyond(table), effects)):
                names = rows["data"].map(data_name)
                first = (rows["architecture"] == p.architectures[0]) & (rows["protocol"] == "early_stopping")
                to.append(rows[first & names.isin(list(MAIN))].assign(setting=names.map(DATA)))
    table, found = (pd.concat(parts, ignore_index=True) for parts in (tables, effects))
    if len(found):
        start = table[table["condition"] == "checkpoint"].groupby("setting")[["auc", "ensemble_auc"]].mean()
        of = {label: conditions[0] for (name, label), conditions in pages.items() if name in MAIN.values()}
        found["models"] = [len(of[label].members) for label in found["data"]]
        found["rows"] = [of[label].records[0].content["rows"]["train"] for label in found["data"]]
        found["checkpoint"] = found["setting"].map(start["auc"])
        found["ensemble"] = found["setting"].map(start["ensemble_auc"] - start["auc"])
    return table, found


def rivals_of(store: RunStore, pages: Mapping[tuple[str, str], list[Condition]]) -> pd.DataFrame:
    """Of the published page on rivals, with early stopping: the replicate table of the best rival, chosen by validation
    in each replicate, and of the checkpoint, with ``setting`` the data set. Empty where there is none.

    Args:
        pages: see :func:`ctrlib.study.expectations.published_pages`.
    """
    conditions = [one for (name, _), found in pages.items() if name == "rivals" for one in found]
    if not conditions:
        return pd.DataFrame()
    table, _ = with_rivals(replicate_table(store, conditions))
    table = table[(table["protocol"] == "early_stopping") & table["condition"].isin([RIVAL, "checkpoint"])]
    return table.assign(setting=table["data"].map(data_name).map(DATA))


def simple_changes(rivals: pd.DataFrame) -> pd.DataFrame:
    """From :func:`rivals_of`: the best rival minus its checkpoint, a row of ``difference`` a setting and replicate."""
    if not len(rivals):
        return pd.DataFrame(columns=["setting", "replicate", "difference"])
    auc = rivals.set_index(["condition", "setting", "replicate"])["auc"]
    return (auc[RIVAL] - auc["checkpoint"]).rename("difference").reset_index()


def rivals_over_logs(table: pd.DataFrame, rivals: pd.DataFrame) -> pd.DataFrame:
    """The best mutual learning of the first of :func:`over_logs` minus the best rival, both chosen by validation in
    each replicate, with early stopping: a family, a row of ``setting`` a data set; ``rival``: what the best rival has
    over the checkpoint. The page on rivals itself has mutual fine-tuning alone, and fewer models.

    Args:
        table: replicates, the first of :func:`over_logs`.
        rivals: see :func:`rivals_of`.
    """
    if not len(rivals) or not len(table):
        return pd.DataFrame()
    both = pd.concat([table[table["condition"] == "best mutual"], rivals[rivals["condition"] == RIVAL]])
    found = effects_by(both, ["setting"], "best mutual", RIVAL)
    return found.assign(rival=found["setting"].map(simple_changes(rivals).groupby("setting")["difference"].mean()))


def answer_over_logs(effects: pd.DataFrame, rivals: pd.DataFrame) -> str:
    """The second of :func:`over_logs` and :func:`rivals_over_logs` in words: what peers add to the best control as
    chosen, the data sets where they do the same together; the best rival, the paper's own setting and the ensemble of
    the checkpoints beside them."""
    if not len(effects):
        return "No records."
    chosen, own = (effects[effects["treatment"] == name] for name in ("chosen", "paper's own"))
    parts = [
        f"Peers {grouped(chosen, 'on')}, in thousandths of test AUC beyond the best further training without them."
    ]
    if (chosen["verdict"] == "gain").all() and (chosen["difference"] < LITTLE).all():
        span = _span(chosen["difference"], SIGNED)
        where = f"on all {len(chosen)} data sets" if len(chosen) > 1 else f"on {chosen['setting'].iloc[0]}"
        parts = [f"Yes, a little: peers add {span} thousandths of test AUC to the best further training, {where}."]
    if len(rivals):
        on = {verdict: _and(list(at["setting"])) for verdict, at in rivals.groupby("verdict", sort=False)}
        words = {"loss": "gives more than peers on", "gain": "gives less than peers on"}
        words["no difference shown"] = "is not shown to differ from peers on"
        clauses = [f"{said} {on[verdict]}" for verdict, said in words.items() if verdict in on]
        parts.append(f"The best simple change of one model {_and(clauses)}.")
    if len(own):
        found = f"is on average {_span(own['over_checkpoint'], SIGNED)} over the checkpoint"
        if (own["over_checkpoint"] < 0).all() and (own["over_alone"] > 0).all():
            found = "costs more, on average, than its peers give back"
        parts.append(f"The paper's own setting, one epoch more at weight 1, {found}.")
    if more := list(chosen.loc[chosen["ensemble"] > chosen["over_checkpoint"], "setting"]):
        where = "" if len(more) == len(chosen) else f" on {_and(more)}"
        parts.append(f"The ensemble of the checkpoints gains more than peers{where}, but serves all its models.")
    return " ".join(parts)


def trained_over_logs(table: pd.DataFrame, effects: pd.DataFrame) -> str:
    """What the answer rests on, from both of :func:`over_logs`: models, peers, rows, replicates, and the weight, start
    and rate that validation chose most often with peers."""
    if not len(effects):
        return "No records."
    chosen = effects[effects["treatment"] == "chosen"]
    often = table.loc[table["condition"] == "best mutual", "chosen"].value_counts().index[0]
    kinds = f"{_span(chosen['models'])} {_and(list(chosen['architecture'].unique()))} with early stopping"
    rows, replicates = _span(chosen["rows"]), _span(chosen["replicates"])
    return (
        f"{kinds}, each with {_span(chosen['models'] - 1)} peers; {rows} training rows, {replicates} replicates. "
        f"Validation chose most often {setting_words(often)}."
    )


def setting_words(chosen: str) -> str:
    """What is called *mutual, rate lr/10, weight 20* in the tables: weight, start and rate for a sentence."""
    name, *levels = chosen.split(", ")
    level = dict(one.split(" ") for one in levels)
    rate = f" at 1/{1 / RATES[level['rate']]:g} of the learning rate" if "rate" in level else ""
    return f"weight {level['weight']} from {'scratch' if 'scratch' in name else 'the checkpoint'}{rate}"


def reasons(effects: pd.DataFrame) -> dict[str, str]:
    """The second of :func:`over_logs` once more: when peers help, when not, and why, a sentence each."""
    if not len(effects):
        return dict.fromkeys(("when", "when_not", "why"), "No records.")
    chosen, own = (effects[effects["treatment"] == name] for name in ("chosen", "paper's own"))
    further, back = own["over_checkpoint"] - own["over_alone"], own["over_alone"]
    when = (
        "After convergence, if rate, weight and start are chosen by validation; the control is the best without peers."
    )
    if not (chosen["verdict"] == "gain").any():
        when = "No such setting is shown here."
    when_not = f"further epoch changes AUC by {_span(further, SIGNED)} thousandths, and peers add {_span(back, SIGNED)}"
    if (further < 0).all() and (back > 0).all():
        costs, gives = (_span(MILLI * size, "{:.1f}".format) for size in (-further, back))
        when_not = (
            f"further epoch costs {costs} thousandths of the checkpoint's AUC, and peers give back {gives} of that"
        )
    share = _span(chosen["difference"] / chosen["ensemble"], "{:.0%}".format)
    return {
        "when": when,
        "when_not": f"At the paper's own setting, after convergence: the {when_not}.",
        "why": "Most likely, models of other seeds make other errors. "
        f"Beyond further training peers add {share} of what averaging gains.",
    }


def logs_table(effects: pd.DataFrame, rivals: pd.DataFrame) -> pd.DataFrame:
    """The second of :func:`over_logs` for a reader: where models stand over the checkpoint, as in the figure; what
    peers add is the difference of two columns. Beside them the best of :func:`rivals_over_logs`."""
    chosen, own = (effects[effects["treatment"] == name].set_index("setting") for name in ("chosen", "paper's own"))
    rival = dict(zip(rivals["setting"], rivals["rival"], strict=True)) if len(rivals) else {}
    intervals = [bounds(row, milli=True).replace(" ", "\u00a0") for row in chosen.to_dict("records")]
    over_checkpoint = {
        "without peers": _milli(chosen["over_checkpoint"] - chosen["difference"]),
        "with peers": _milli(chosen["over_checkpoint"]),
        f"peers add ({100 * LEVEL:g}\u00a0% together)": [
            f"{mean}\u00a0({interval})" for mean, interval in zip(_milli(chosen["difference"]), intervals, strict=True)
        ],
        "simple change": _milli(chosen.index.map(rival)),
        "ensemble": _milli(chosen["ensemble"]),
        "paper's setting": _milli(own["over_checkpoint"].loc[chosen.index]),
    }
    names = {
        ("", "data set (checkpoint)"): [
            f"{name} ({auc:.3f})".replace(" ", "\u00a0") for name, auc in chosen["checkpoint"].items()
        ]
    }
    unit = "thousandths of test AUC over the checkpoint (one model alone)"
    return pd.DataFrame(names | {(unit, name): column for name, column in over_checkpoint.items()})


def page_of(cell: str) -> str:
    """A name of a data set in :func:`logs_table` as HTML, with a link from a page of ``book/`` to its own page."""
    name, open_bracket, auc = cell.partition("\u00a0(")
    experiments = {words.replace(" ", "\u00a0"): MAIN[label] for label, words in DATA.items() if label in MAIN}
    stems = {path.stem.partition("_")[2]: path.stem for path in find_notebooks(project_root()).values()}
    if name not in experiments:
        return escape(cell)
    return f'<a href="../notebooks/{stems[experiments[name]]}.html">{name}</a>{escape(open_bracket + auc)}'


def _milli(values: Iterable[float]) -> list[str]:
    return ["–" if value != value else signed(value, milli=True) for value in values]


def _span(values: pd.Series, form: Callable[[float], str] = "{:,}".format) -> str:
    low, high = form(values.min()), form(values.max())
    return low if low == high else f"{low} to {high}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
