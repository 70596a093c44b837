"""What notebooks need to speak to the book: sentences made from numbers, and named values for other pages."""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from html import escape
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from ctrlib.data.folders import project_root
from ctrlib.errors import UserError, unknown
from ctrlib.store.code import other_parts
from ctrlib.store.environment import source_commit
from ctrlib.store.measures import data_facts
from ctrlib.store.progress import humanize
from ctrlib.store.published import committed_results
from ctrlib.store.runs import RunStore
from ctrlib.study import figures
from ctrlib.study.conditions import Condition
from ctrlib.study.experiments import published_conditions
from ctrlib.study.parameters import StudyParameters
from ctrlib.study.tables import bounds, effects_by, level_words, member_table, signed, spoken


def say(text: str) -> None:
    """Show a sentence that was made from computed numbers, in Markdown; :func:`as_text` is for what comes from data."""
    markdown = Markdown("")
    markdown.data = text  # given at once, a text that begins with http would be fetched from there
    display(markdown)


def as_text(value: Any) -> str:
    """A value that stays as it is inside Markdown: no markup, no HTML, no formula."""
    line = re.sub(r"[^\w\s.,;/%]|_", lambda mark: f"&#{ord(mark[0])};", " ".join(str(value).split()))
    # a formula would be found in the finished page, whatever the Markdown says
    return f'<span class="tex2jax_ignore mathjax_ignore">{line}</span>' if re.search(r"[$\\]", str(value)) else line


def provenance(p: StudyParameters, conditions: Iterable[Condition], beside_published: bool = True) -> None:
    """Show in one line what a page was made from: settings, runs, hardware, training time, date, version.

    Hardware and time come from the run records, so they are those of the training, wherever the page was executed.

    Args:
        p: the parameters of the page.
        conditions: trained conditions, from :func:`ctrlib.study.experiments.train_conditions`.
        beside_published: also say what differs from the published page, see :func:`show_published`.
    """
    conditions = list(conditions)
    by_name = {record.fingerprint: record.content for condition in conditions for record in condition.records}
    records, here = by_name.values(), sum(name not in committed_results().runs for name in by_name)
    mixed = f"published records, {here} trained here"
    origin = {0: "published records", len(by_name): "trained here"}.get(here, mixed)
    data = dict.fromkeys(spoken(content["run"]["data"]["name"]) for content in records)
    places = dict.fromkeys(hardware(content["environment"]) for content in records)
    days = sorted(content["finished"][:10] for content in records)
    trained = f"trained {days[0]}" if days[0] == days[-1] else f"trained {days[0]} to {days[-1]}"
    commit = source_commit()
    spent = humanize(sum(content["seconds"] for content in records))
    seeds: dict[object, set[int]] = {}
    for one in conditions:
        seeds.setdefault(one.factors.get("data"), set()).add(one.seed)
    fewest, most = min(map(len, seeds.values())), max(map(len, seeds.values()))
    replicates = f"{fewest} to {most} replicates" if fewest < most else counted(most, "replicate")
    facts = [
        f"profile *{as_text(p.profile)}*, data *{as_text('; '.join(data))}*, {replicates}",
        f"{origin}: {counted(len(records), 'run')} with {spent} of training, {trained}",
        f"on {as_text('; '.join(places))}",
        *stopped_early(records),
        *code_marks(records),
        f"page made {date.today().isoformat()}" + (f" from version `{commit}`" if commit else ""),
    ]
    say(f"*This page shows:* {'; '.join(facts)}.")
    if beside_published:
        with suppress(UserError):  # a notebook that is not of this project has no published page
            show_published(p, conditions)


def show_published(p: StudyParameters, conditions: Sequence[Condition]) -> None:
    """Say in which parameters this page is not the published one, and show what the peers were worth there and here.

    A folded table has a row for each comparison of a condition with peers with its control that both pages have: the
    difference of the members' mean test AUC. Nothing is shown where all parameters are those of the published page.
    """
    theirs, published = published_conditions(conditions)
    if not (differ := other_parameters(p, theirs)):
        return
    say(f"*Other than on the published page:* {'; '.join(differ)}.")
    both = [peer_effects(conditions, "here"), peer_effects(published, "published")]
    if all(len(one) for one in both) and len(table := both[0].merge(both[1])):
        shown = table.map(lambda value: "" if value != value else f"{value:g}" if isinstance(value, float) else value)
        for column in ("here", "published"):
            low, high = f"{column}_low", f"{column}_high"
            shown[column] = [f"{d:+.4f} ({a:+.4f} to {b:+.4f})" for d, a, b in table[[column, low, high]].to_numpy()]
            shown = shown.drop(columns=[low, high])
        title = "What the peers are worth, here and on the published page"
        bundle = figures.table_bundle(styled(shown, numbers=table))
        html = f"<details><summary>{title}</summary>{bundle['text/html']}</details>"
        display({**bundle, "text/html": html}, raw=True)


def other_parameters(p: StudyParameters, theirs: StudyParameters) -> list[str]:
    """In which of the parameters that a notebook declares ``p`` is not ``theirs``, in words; where a page has several
    data sets, on each of them, one that is not among theirs beside the first of these."""
    here, there = p.each(), theirs.each()
    names = [", ".join(dict.fromkeys(map(spoken, each))) for each in (here, there)]
    said = [f"data sets {as_text(names[0])} (published: {as_text(names[1])})"] if names[0] != names[1] else []
    of_all = {"profile", "device", "datasets", "per_dataset", *(["dataset"] if p.datasets else [])}
    for label, at in here.items():
        other, place = there.get(label, next(iter(there.values()))), f" on {as_text(spoken(label))}" * (len(here) > 1)
        for name in StudyParameters.model_fields:
            mine, published = getattr(at, name), getattr(other, name)
            if mine != published and name in theirs.model_fields_set - of_all:
                said.append(f"{name}{place} {written(mine)} (published: {written(published)})")
    return said


def peer_effects(conditions: Sequence[Condition], column: str) -> pd.DataFrame:
    """Each condition with peers against its control, as :func:`ctrlib.study.tables.effects_by` has them: what was
    compared, the difference in ``column`` and its interval. Empty where no such pair is among the conditions."""
    tables, names = [pd.DataFrame()], list(dict.fromkeys(one.name for one in conditions))
    if names:
        key = list(dict.fromkeys(label for one in conditions for label in one.labels))
        groups = member_table(conditions).groupby(key, sort=False, dropna=False, as_index=False)
        means = groups[["auc", "overlap"]].mean()
    for name, control in product(names, ("continued training", "solo")):
        if (other := name.replace("mutual", control, 1)) in names and other != name:
            treated = means[means["condition"] == name]
            factors = [one for one in key if one not in ("condition", "replicate") and treated[one].notna().all()]
            table = effects_by(means, factors, name, other)[[*factors, "difference", "low", "high"]]
            table.insert(len(factors), "comparison", f"{name} minus {other}")
            tables.append(
                table.rename(columns={"difference": column, "low": f"{column}_low", "high": f"{column}_high"})
            )
    return pd.concat(tables, ignore_index=True)


def written(value: Any) -> str:
    """A parameter's value, as text."""
    return as_text(", ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


def stopped_early(contents: Iterable[dict[str, Any]]) -> list[str]:
    """In words, how those of these run records with early stopping ended: the least, median and most epoch that counts,
    which share ran for all the epochs they might, and which share of all had their best epoch there."""
    stopping = [content for content in contents if content["run"].get("recipe", {}).get("patience")]
    if not stopping:
        return []
    caps = [content["run"]["recipe"]["epochs"] for content in stopping]
    last = [max(row["epoch"] for row in content["history"]) for content in stopping]
    kept = [max(content["kept_epochs"]) for content in stopping]
    return [
        f"of {counted(len(stopping), 'training')} with early stopping the epochs {min(kept)} to {max(kept)} count "
        f"(median {int(np.median(kept))}); {np.mean(np.equal(last, caps)):.0%} ended at their cap, "
        f"{np.mean(np.equal(kept, caps)):.0%} with their best epoch there"
    ]


def code_marks(contents: Iterable[dict[str, Any]]) -> list[str]:
    """In words, how many of these run records are not by this version's code, or do not say by which."""
    codes = [content.get("code", {}) for content in contents]
    unknown_code = sum(not code for code in codes)
    others = [parts for code in codes if (parts := other_parts(code))]
    marks = []
    if unknown_code:
        marks.append(f"{counted(unknown_code, 'run')} trained before records carried a digest of their code")
    if others:
        parts = ", ".join(sorted({part for parts in others for part in parts}))
        marks.append(f"{counted(len(others), 'run')} trained by other code than this version's ({parts})")
    return marks


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def hardware(environment: dict[str, Any]) -> str:
    """Device and torch of a run, from the ``environment`` of its record."""
    device = environment.get("device", "cpu")
    name = environment.get("processor", device) if device == "cpu" else device
    return f"{name}, torch {environment.get('torch', 'unknown')}"


def show_table(
    table: pd.DataFrame,
    formats: dict[str, str] | str = "{:.4f}",
    numbers: pd.DataFrame | None = None,
    caption: str = "",
) -> None:
    """Show a table without its index, and offer its data as CSV.

    Names and values are text: neither HTML nor formulas in them are carried out.

    Args:
        table: what is shown.
        formats: by column, or one for all columns of fractions.
        numbers: the data to offer, where what is shown holds words in place of numbers; the table itself unless given.
        caption: what the table shows, above it.
    """
    display(styled(table, formats, numbers, caption))


def styled(
    table: pd.DataFrame,
    formats: dict[str, str] | str = "{:.4f}",
    numbers: pd.DataFrame | None = None,
    caption: str = "",
) -> Styler:
    """The table that :func:`show_table` shows, for :func:`publish`; ``numbers`` and ``caption`` as there."""
    if isinstance(formats, str):
        formats = {name: formats for name in table.select_dtypes("floating").columns}
    by_column = {header(name): form for name, form in formats.items()}
    coded = ("protocol", "data", "dataset", "stopping", "condition", "chosen")
    names = [name for name in coded if name in table]
    shown = table.assign(**{name: table[name].map(spoken) for name in names})
    styler = shown.rename(columns=header).style.hide().format(by_column, na_rep="", escape="html")
    styler = styler.format_index(escape="html", axis="columns")
    # the class that the book's themes know, and those that MathJax passes by
    styler.set_table_attributes('class="dataframe tex2jax_ignore mathjax_ignore"')
    styler.numbers = table if numbers is None else numbers
    return styler.set_caption(escape(caption)) if caption else styler


def header(column: str) -> str:
    """What a reader calls a column."""
    measures = {"auc": "AUC", "logloss": "log loss"}
    measures |= {f"{of}_{name}": f"{of} {words}" for of in ("ensemble", "oracle") for name, words in measures.items()}
    return {**measures, "valid_auc": "validation AUC", "kept_epoch": "epoch kept"}.get(column, spoken(column))


def show_data(store: RunStore, conditions: Iterable[Condition]) -> pd.DataFrame:
    """Show rows, fields, codes and click rate of each data set and replicate; the table."""
    first = {(one.factors.get("data"), one.seed): one.records[0] for one in reversed(list(conditions))}
    facts = [
        {**({"data": data} if data else {}), "replicate": seed, **data_facts(store, record)}
        for (data, seed), record in sorted(first.items())
    ]
    counts = dict.fromkeys(("train_rows", "valid_rows", "test_rows", "codes"), "{:,}")
    show_table(table := pd.DataFrame(facts), {**counts, "test_clicks": "{:.2%}"})
    return table


def where(*factors: Any) -> str:
    """The levels of factors that are not missing, as a reader says them; not Markdown, see :func:`as_text`."""
    said = (f"{one:g}" if isinstance(one, float) else spoken(one) for one in factors if one == one)
    return ", ".join(said)


def outcome(table: pd.DataFrame, more: str = "gain", less: str = "loss", level: bool = True) -> str:
    """Rows of :func:`ctrlib.study.tables.effects_by` in words, a sentence a protocol, the last of them first: on which
    data sets there is ``more``, ``less`` or neither, with each effect and its interval in thousandths. A last sentence
    gives the level of the intervals, unless ``level`` is false."""
    words, said = {"gain": more, "loss": less, "no difference shown": "neither is shown"}, []
    order = [*words, *set(table["verdict"]).difference(words)]
    for protocol, part in reversed(list(table.groupby("protocol", sort=False))):
        clauses = []
        for verdict, at in sorted(part.groupby("verdict"), key=lambda item: order.index(item[0])):
            found = (
                f"{as_text(spoken(row['data']))} ({signed(row['difference'], milli=True)}, {bounds(row, milli=True)})"
                for row in at.to_dict("records")
            )
            clauses.append(f"{words.get(verdict, verdict)} on {', '.join(found)}")
        said.append(f"{spoken(protocol).capitalize()}: {'; '.join(clauses)}.")
    return " ".join([*said, f"Intervals: {level_words(table['level'].iloc[0])}."][: None if level else -1])


def show_effects(table: pd.DataFrame, milli: bool = False) -> None:
    """Show rows of :func:`ctrlib.study.tables.effects_by`: what was compared, difference, interval, verdict.

    The intervals hold together, their header says at which level each, and the verdict is read from them.

    Args:
        table: the rows; the columns before ``difference`` say what was compared.
        milli: show thousandths.
    """
    what = list(table.columns[: table.columns.get_loc("difference")])
    shown = table[what].copy()
    shown["difference"] = [signed(one, milli) for one in table["difference"]]
    shown[f"{100 * table['level'].iloc[0]:.4g} % interval"] = [bounds(row, milli) for row in table.to_dict("records")]
    shown["verdict"] = table["verdict"]
    show_table(shown, {name: "{:g}" for name in shown.select_dtypes("number").columns}, numbers=table)


def show_grid(table: pd.DataFrame, row: str, column: str) -> None:
    """Show rows of :func:`ctrlib.study.tables.family` as a grid, each with its interval in thousandths of AUC: ``row``
    downwards, numbers in their order, ``column`` to the right."""
    cells = [f"{signed(one['difference'], milli=True)} ({bounds(one, milli=True)})" for one in table.to_dict("records")]
    grid = table.assign(cell=cells).pivot(index=row, columns=column, values="cell").fillna("")
    order = sorted(grid.index) if pd.api.types.is_numeric_dtype(grid.index) else table[row].unique()
    shown = grid.loc[order, table[column].unique()].reset_index().rename_axis(columns=None)
    show_table(shown, {row: "{:g}"} if shown[row].dtype.kind == "f" else {}, numbers=table)


def show_three_ways(table: pd.DataFrame, what: Sequence[str], alone: str = "continued training") -> None:
    """Show rows of :func:`ctrlib.study.tables.three_ways` in thousandths of AUC; the verdict goes by the best control.

    Args:
        table: the rows; nothing is shown of none.
        what: columns that together say what a row is.
        alone: what the control that is otherwise the same is called.
    """
    if table.empty:
        return
    best = f"over the best control ({level_words(table['level'].iloc[0])})"
    rows = table.to_dict("records")
    shown = {
        ", ".join(map(spoken, what)): [where(*(row[name] for name in what)) for row in rows],
        best: [f"{signed(row['difference'], milli=True)} ({bounds(row, milli=True)})" for row in rows],
        "verdict": list(table["verdict"]),
        f"over {alone}": [signed(row["over_alone"], milli=True) for row in rows],
        "over the checkpoint": [signed(row["over_checkpoint"], milli=True) for row in rows],
    }
    show_table(pd.DataFrame(shown), numbers=table)


def show_ratios(rows: pd.DataFrame) -> None:
    """Show rows of a benchmark report: the ratio, its range over the repeats, the target, peak memory."""
    shown = pd.DataFrame(
        {
            "what": rows["what"],
            "ratio": [f"{value:.3g}" for value in rows["value"]],
            "range": [f"{low:.3g} to {high:.3g}" for low, high in zip(rows["low"], rows["high"], strict=True)],
            "target": rows["target"],
            "met": [{True: "yes", False: "no"}.get(met, "") for met in rows["met"]],
            "peak MB": [f"{peak:.0f}" if peak == peak else "" for peak in rows["peak_mb"]],
            "note": rows["note"],
        }
    )
    show_table(shown.replace({"nan": "", "nan to nan": ""}), numbers=rows)


def benchmark_reports(name: str = "", gpu: bool = False) -> dict[str, Any]:
    """For each suite of the benchmarks the tables of the newest file in ``benchmarks/results`` that has it.

    Args:
        name: the one file to take all of them from.
        gpu: those of machines with a GPU instead; empty where there are none.

    Raises:
        UserError: no such file, or none at all.
    """
    if str(project_root()) not in sys.path:
        sys.path.insert(0, str(project_root()))  # benchmarks/ belongs to the project, not to the installed module
    from benchmarks.report import load, newest

    folder = project_root() / "benchmarks" / "results"
    if name and not (folder / name).is_file():
        raise unknown("benchmark", name, sorted(path.name for path in folder.glob("*.json")))
    if name:
        report = load(folder / name)
        return dict.fromkeys(report.ratios["suite"].unique(), report)
    reports = newest(folder, gpu)
    if not reports and not gpu:
        raise UserError(f"{folder}: no record; `make bench` makes one")
    return reports


def ratios_of(reports: dict[str, Any]) -> pd.DataFrame:
    """The ratios of every suite, each from its own report."""
    return pd.concat([report.ratios[report.ratios["suite"] == suite] for suite, report in reports.items()])


def say_where(reports: dict[str, Any], *suites: str) -> None:
    """Say where and with what these suites were measured, each machine once."""
    lines = []
    for machine in (reports[suite].machine for suite in suites if suite in reports):
        kind, cores = as_text(machine["processor"]), f"{machine['cores']} cores"
        if machine.get("gpu"):
            kind = f"{as_text(machine['gpu'])}, driver {as_text(machine['gpu_driver'])}, {cores} of {kind}"
        else:
            kind += f" with {as_text(machine['vector_instructions'])}, {cores}, {machine['memory_gb']} GB"
        versions = f"torch {machine['versions']['torch']}, `ctrlib` as of commit `{str(machine['commit'])[:7]}`"
        lines.append(f"Measured on: {kind}, {versions}.")
    for line in dict.fromkeys(lines):
        say(line)


class Picture:
    """A figure that was drawn once, to be shown in more than one place."""

    def __init__(self, figure: Figure) -> None:
        self.bundle = figures.picture(figure)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """IPython's hook: the drawing and its data."""
        return self.bundle


def publish_figure(name: str, figure: Figure) -> None:
    """Show a figure here and make it available to other pages."""
    shown = Picture(figure)
    plt.close(figure)
    display(shown)
    publish(**{name: shown})


def publish(**values: Any) -> None:
    """Make values available to other pages of the book by name (MyST-NB's glue); numbers become plain floats.

    Without MyST-NB, which only the book needs, there is no page to publish to and nothing happens.
    """
    try:
        from myst_nb import glue
    except ImportError:
        return
    for name, value in values.items():
        if isinstance(value, np.generic):
            value = value.item()
        glue(name, value, display=False)
