"""The recurring figures of the study. Functions take tables, draw on ``ax`` and return it; they set no global state.

Colour is the architecture, line style the regime; every replicate is drawn, never a mean alone. A figure carries the
table it was drawn from (:func:`attach_table`) into the notebook: the picture is an SVG, its data are CSV beside it, and
a sentence made of the same numbers says what it shows; the book begins the caption with it.
"""

import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat
from math import ceil
from textwrap import fill
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib_inline.config import InlineBackend
from pandas.io.formats.style import Styler

from ctrlib.study.tables import MILLI, bounds, differences, effects_of_pairs, level_words, signed, spoken

# Okabe and Ito's colours and darker ones between them, distinguishable with colour-blind eyes.
COLOURS = {
    "FiBiNET": "#0072B2",
    "DCN": "#D55E00",
    "PNN": "#009E73",
    "DeepFM": "#CC79A7",
    "DCNv2": "#7F0000",
    "AutoInt": "#332288",
    "FinalMLP": "#56B4E9",
    "FM": "#7A5C3A",
    "LR": "#2F4F4F",
    "GDCN": "#B22400",
    "FinalNet": "#9900FF",
    "FCN": "#79B26B",
    "Wukong": "#00D92B",
    "RankMixer": "#8566FF",
    "TabM-DeepFM": "#4E2966",
}  # an architecture that is not here is drawn in INK
GREY, INK, REFERENCE = "#8a8a8a", "#222222", "#E69F00"
# Behind the words of a verdict: white ones on the first two.
VERDICTS = {"supported": "#00609a", "contradicted": "#b04400", "inconclusive": "#d9d9d9"}
SIGNS = {"supported": "^", "contradicted": "v", "inconclusive": "o"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222")
LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 2)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SINGLE, WIDE = (6.0, 3.8), (8.6, 3.8)  # a phone shows the former whole
Drawn = TypeVar("Drawn", Axes, Figure)


def use_style() -> None:
    """Set the look of all figures, and that notebooks show them with their data; call once a notebook."""
    if shell := get_ipython():
        InlineBackend.instance(parent=shell).figure_formats = set()  # its own would come before these
        bundles = shell.display_formatter.mimebundle_formatter
        bundles.for_type(Figure, lambda figure, **_: picture(figure))
        bundles.for_type(Styler, lambda table, **_: table_bundle(table))
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.figsize": SINGLE,
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#e3e3e3",
            "axes.edgecolor": "#555555",
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
            "svg.fonttype": "none",  # words stay words, in the page's own colour
            "svg.hashsalt": "ctrlib",  # the same figure is the same file
            "text.parse_math": False,  # a name with dollar signs is a name
        }
    )


def attach_table(drawn: Drawn, table: pd.DataFrame, finding: str = "") -> Drawn:
    """Remember with a figure (or the figure of some axes) the table and the finding it shows, and return it."""
    figure = drawn.figure if isinstance(drawn, Axes) else drawn
    figure.table, figure.finding = table, finding[:1].upper() + finding[1:]
    return drawn


def attached_table(figure: Figure) -> pd.DataFrame:
    """The table a figure shows: the one that was attached, else the points of its named lines."""
    if (table := getattr(figure, "table", None)) is not None:
        return table
    rows = [
        {"line": line.get_label(), ax.get_xlabel() or "x": x, ax.get_ylabel() or "y": y}
        for ax in figure.axes
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]
    return pd.DataFrame(rows)


def as_csv(table: pd.DataFrame) -> str:
    """A table as text, with all digits that mean something. Texts that a spreadsheet would compute begin with '."""
    formula = re.compile(r"^(?=[=+@-])(?![+-][\d.]+$)")
    table = table.map(lambda cell: formula.sub("'", cell) if isinstance(cell, str) else cell)
    return table.to_csv(index=False, float_format="%.9g", lineterminator="\n")


def picture(figure: Figure) -> dict[str, str]:
    """A figure by MIME type: the drawing, its data, and as text its finding."""
    drawn = io.StringIO()
    facts = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(drawn, format="svg", transparent=True, metadata=facts)
    csv, finding = as_csv(attached_table(figure)), getattr(figure, "finding", "")
    return {"image/svg+xml": drawn.getvalue(), "text/csv": csv, "text/plain": finding}


def table_bundle(table: Styler) -> dict[str, str]:
    """A styled table by MIME type: as it is shown, and its data (``table.numbers`` where it has them)."""
    html = re.sub(r'<th(?= id="[^"]*_level\d)', '<th scope="col"', table.to_html())  # pandas has no setting for it
    return {"text/html": html, "text/csv": as_csv(getattr(table, "numbers", table.data))}


# What figures are made of --------------------------------------------------------------------------------------------


def canvas(size: tuple[float, float] = SINGLE) -> Axes:
    """A fresh figure with one set of axes."""
    return plt.subplots(figsize=size, layout="constrained")[1]


def panels(
    table: pd.DataFrame, by: str | Sequence[str] = "protocol", height: float = 2.6, sharey: bool = True
) -> Iterator[tuple[Axes, pd.DataFrame]]:
    """A panel of this height for each combination of ``by``, with its part of the table; titled by the combination."""
    by = [by] if isinstance(by, str) else list(by)
    parts = list(table.groupby(by, sort=False))
    size = (SINGLE[0], 0.6 + height * len(parts))
    _, axes = plt.subplots(len(parts), 1, figsize=size, sharey=sharey, squeeze=False, layout="constrained")
    for ax, (key, part) in zip(axes[:, 0], parts, strict=True):
        named = zip(by, key, strict=True)
        names = [spoken(value) if isinstance(value, str) else f"{spoken(name)} {value:g}" for name, value in named]
        ax.set_title(", ".join(names), fontsize="medium")
        yield ax, part


def style(n: int) -> dict[str, Any]:
    """Line style, marker and colour of the n-th line; 49 look different."""
    return {
        "linestyle": LINES[n % len(LINES)],
        "marker": MARKERS[(n + n // len(LINES)) % len(MARKERS)],
        "color": PALETTE[n % len(PALETTE)],
    }


def legend(ax: Axes, **where: Any) -> None:
    """A small legend without a frame."""
    ax.legend(**{"fontsize": "small", "frameon": False, **where})


def name_lines(ax: Axes, **where: Any) -> None:
    """Each of up to three lines named at its right end, in its colour; of more, or of long names, a legend."""
    handles, names = ax.get_legend_handles_labels()
    longest = max(map(len, names))
    if len(names) > 3 or longest > 20:
        return legend(ax, **where, ncols=2 if longest <= 32 else 1)  # wider ones would press the axes
    lines = [one if isinstance(one, Line2D) else one.lines[0] for one in handles]
    ends = [max(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    heights = ax.transData.transform(ends)[:, 1]
    for last, n in zip([None, *(order := np.argsort(heights))], order, strict=False):  # from below: none hides another
        if last is not None:
            heights[n] = max(heights[n], heights[last] + 17)
        up = heights[n] - ax.transData.transform(ends[n])[1]
        place = {"xytext": (8, up * 72 / ax.figure.dpi), "textcoords": "offset points", "va": "center"}
        ax.annotate(names[n], ends[n], color=lines[n].get_color(), fontsize="small", annotation_clip=False, **place)
    return None


def log_axis(axis: Axis) -> None:
    """A logarithmic axis with plain numbers at its ticks."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def intervals(ax: Axes, n: int, x: pd.Series, rows: pd.DataFrame, value: str, scale: float, label: str) -> None:
    """The n-th line of a figure: ``value`` with its interval where it is finite, times ``scale``."""
    ends = [(rows[value] - rows["low"]) * scale, (rows["high"] - rows[value]) * scale]
    finite = np.isfinite(ends[0]) & np.isfinite(ends[1])
    bars = [end.where(finite, 0) for end in ends]
    ax.errorbar(x, rows[value] * scale, yerr=bars, capsize=3, label=label, **style(n))


# Figures of members --------------------------------------------------------------------------------------------------


def member_scores(members: pd.DataFrame, replicates: pd.DataFrame) -> Axes:
    """Test AUC of each member (dots) by replicate, with its ensemble and, where known, the oracle AUC."""
    ax = canvas()
    order = sorted(members["replicate"].unique())
    for name, part in members.groupby("architecture"):
        x = [order.index(one) for one in part["replicate"]]
        ax.scatter(x, part["auc"], color=COLOURS.get(name, INK), alpha=0.85, label=f"{name}, each member", zorder=3)
    x = np.array([order.index(one) for one in replicates["replicate"]])
    ax.hlines(replicates["ensemble_auc"], x - 0.3, x + 0.3, color=INK, linestyle=":", label="ensemble of the cohort")
    if replicates["oracle_auc"].notna().all():
        ax.hlines(replicates["oracle_auc"], x - 0.3, x + 0.3, color=REFERENCE, label="oracle (true probability)")
    ax.set_xticks(range(len(order)), [f"{one}" for one in order])
    ax.set(xlabel="replicate", ylabel="test AUC")
    ax.margins(y=0.1)
    legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5))
    both = replicates[["replicate", "ensemble_auc", "oracle_auc"]]
    shown = members[["replicate", "architecture", "member", "auc"]].merge(both, on="replicate", how="left")
    best = members.groupby("replicate")["auc"].max()
    ahead = (replicates.set_index("replicate")["ensemble_auc"] > best).sum()
    return attach_table(ax, shown, f"The ensemble is ahead of every single model in {ahead} of {len(best)} replicates.")


def learning_curves(history: pd.DataFrame, by: str) -> Axes:
    """Validation AUC after each epoch: a thin line per member, a thick mean over those still in training.

    Args:
        history: history rows with the columns replicate, member and ``by``.
        by: the column that gives colour and line style.
    """
    ax, peaks = canvas(), []
    for n, (name, table) in enumerate(history.groupby(by, sort=False)):
        line = {**style(n), "marker": ""}
        for _, one in table.groupby(["replicate", "member"]):
            ax.plot(one["epoch"], one["valid_auc"], **line, alpha=0.25, linewidth=0.8)
        mean = table.groupby("epoch")["valid_auc"].mean()
        ax.plot(mean.index, mean, **line, linewidth=2.5, label=f"{spoken(name)}, mean")
        peaks.append(f"{spoken(name)} after epoch {mean.idxmax()}")
    ax.set(xlabel="epoch", ylabel="validation AUC")
    ax.xaxis.get_major_locator().set_params(integer=True)
    legend(ax)
    table = history[[by, "replicate", "member", "epoch", "valid_auc"]]
    return attach_table(ax, table, f"The mean is highest: {'; '.join(peaks)}.")


def churn_heatmap(churn: list[list[float]], names: list[str]) -> Axes:
    """Mean absolute difference of the predicted probabilities of each pair of members (N, N)."""
    ax = canvas()
    table = pd.DataFrame(churn, index=names, columns=names)
    sns.heatmap(
        table, ax=ax, cmap="cividis", annot=True, fmt=".3f", square=True, mask=np.eye(len(names), dtype=bool),
        cbar_kws={"label": "mean difference of two predictions"},
    )  # fmt: skip
    apart = table.to_numpy()[~np.eye(len(names), dtype=bool)]
    finding = f"On an average row two of these models differ by {apart.min():.3f} to {apart.max():.3f}."
    return attach_table(ax, table.rename_axis("of").reset_index(), finding)


def strips(members: pd.DataFrame, order: list[str]) -> Figure:
    """Test AUC of every member, a column of dots per replicate and condition, a panel per protocol."""
    for ax, part in panels(members):
        sns.stripplot(
            part, x="replicate", y="auc", hue="condition", hue_order=order, dodge=True, jitter=False, size=4, ax=ax,
            palette=list(PALETTE[: len(order)]), legend="brief",
        )  # fmt: skip
        ax.set(xlabel="replicate", ylabel="test AUC")
        legend(ax)
    shown = members[members["condition"].isin(order)].groupby(["protocol", "condition"], sort=False)["auc"].mean()
    means = (
        f"{spoken(level)}: {', '.join(f'{name} {auc:.4f}' for (_, name), auc in part.items())}"
        for level, part in shown.groupby(level=0, sort=False)
    )
    table = members[["protocol", "condition", "replicate", "member", "auc"]]
    return attach_table(ax.figure, table, f"Mean test AUC, {'; '.join(means)}.")


def gap_scatter(table: pd.DataFrame) -> Axes:
    """Effect on a member against how far its peers were ahead of it at the start, coloured by architecture."""
    ax = canvas()
    palette = {name: COLOURS.get(name, INK) for name in table["architecture"].unique()}
    sns.scatterplot(table, x="gap", y="effect", hue="architecture", palette=palette, style="architecture", s=55, ax=ax)
    ax.axhline(0, color=INK, linewidth=1)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set(xlabel="peers' mean AUC minus own AUC before, thousandths", ylabel="effect on own AUC, thousandths")
    legend(ax, title=None)
    rank = table["gap"].corr(table["effect"], method="spearman")
    finding = f"Over these {len(table)} dots the rank correlation of lead and effect is {rank:+.2f}."
    return attach_table(ax, table, finding)


# Figures of conditions and effects -----------------------------------------------------------------------------------


def effects(
    replicates: pd.DataFrame, comparisons: dict[str, tuple[str, str]], value: str = "auc", by: str = "protocol"
) -> Figure:
    """Paired differences, a panel for each value of ``by``: each replicate a dot, the mean with its interval, coloured
    by the verdict. The intervals of all panels hold together (:func:`ctrlib.study.tables.together`).

    Args:
        replicates: any table with replicate, condition, ``by`` and ``value``.
        comparisons: label -> (treatment, control), drawn from top to bottom; where a panel has not both, its line is
            empty.
        value: the column compared.
        by: the factor that gives the panels.
    """
    by_verdict = {"gain": COLOURS["FiBiNET"], "loss": COLOURS["DCN"]}
    table = effects_of_pairs(replicates, [by], comparisons, "comparison", value)
    rows = {(row[by], row["comparison"]): row for row in table.to_dict("records")}
    level, shown, said = table["level"].iloc[0], [], []
    for ax, part in panels(replicates, by, 0.6 + 0.4 * len(comparisons)):
        panel = part[by].iloc[0]
        here = {label: rows[panel, label] for label in comparisons if (panel, label) in rows}
        for label, row in here.items():
            y, colour = list(comparisons).index(label), by_verdict.get(row["verdict"], INK)
            found = differences(part, *comparisons[label], value)
            ax.scatter(found * MILLI, np.full(len(found), y + 0.18), s=16, color=GREY, alpha=0.9, zorder=2)
            if np.isfinite(row["low"]):
                ax.hlines(y, row["low"] * MILLI, row["high"] * MILLI, color=colour, linewidth=2.2, zorder=3)
            ax.scatter([row["difference"] * MILLI], [y], s=44, color=colour, zorder=4)
            one = {by: panel, "comparison": label, "value": value, "replicate": found.index, "difference": found}
            ends = {"mean": row["difference"], "low": row["low"], "high": row["high"], "level": level}
            shown.append(pd.DataFrame({**one, **ends}))
        said += [f"{spoken(panel)}: {_of_intervals(here, each=len(table) <= 6)}"] if here else []
        ax.set_yticks(range(len(comparisons)), [label.replace("_", " ") for label in comparisons])
        ax.set_ylim(-0.5, len(comparisons) - 0.5)
        ax.axvline(0, color=INK, linewidth=1)
        ax.grid(axis="y", visible=False)
    unit = "thousandths of AUC" if value.endswith("auc") else f"difference in {spoken(value)} x 1000"
    ax.figure.supxlabel(f"{unit}; intervals: {level_words(level)}", fontsize="medium")
    ax.invert_yaxis()  # of all panels, which share it
    return attach_table(ax.figure, pd.concat(shown), f"{'; '.join(said)}.")


def _of_intervals(found: dict[str, dict[str, Any]], each: bool) -> str:
    """What intervals say in thousandths of AUC: ``each``, or how many exclude zero and the largest mean."""
    if each:
        ends = (f" ({bounds(row, milli=True)})" * bool(np.isfinite(row["low"])) for row in found.values())
        means = (f"{label} {signed(row['difference'], milli=True)}" for label, row in found.items())
        return ", ".join(map("".join, zip(means, ends, strict=True)))
    above, below = (sum(row["verdict"] == verdict for row in found.values()) for verdict in ("gain", "loss"))
    most = max(found, key=lambda label: found[label]["difference"])
    words = f"{above or 'none'} of {len(found)} intervals lie above zero, {below or 'none'} below"
    return f"{words}, the largest mean is {most}, {signed(found[most]['difference'], milli=True)}"


def frontier(table: pd.DataFrame) -> Figure:
    """AUC (above) and log loss (below) of what could be served against its multiply-adds a row, a column of panels for
    each data set; a line joins what nothing beats at no more cost. A number is an average of so many models; of
    averages only those of a power of two have words.

    Args:
        table: :func:`ctrlib.study.alternatives.frontier_table` under one protocol.
    """
    parts = list(table.groupby("data", sort=False))
    size = (WIDE[0], 6.4)
    figure, axes = plt.subplots(2, len(parts), figsize=size, squeeze=False, sharex="col", layout="constrained")
    for column, (data, part) in zip(axes.T, parts, strict=True):
        cheapest, dearest = part["multiply_adds"].min(), part["multiply_adds"].max()
        for ax, value, label in zip(column, ("auc", "logloss"), ("test AUC", "test log loss"), strict=True):
            best = part[part[f"{value}_frontier"]]
            ax.step(best["multiply_adds"], best[value], where="post", color=REFERENCE, linewidth=1.5, zorder=1)
            colours = [PALETTE[0] if on else GREY for on in part[f"{value}_frontier"]]
            ax.scatter(part["multiply_adds"], part[value], s=26, color=colours, zorder=3)
            near = np.log10(part["multiply_adds"]).round(1)  # of like cost, whose words must not hide each other
            models = part["condition"].str.extract(r"average of (\d+)", expand=False).astype(float)
            for _, at in part[models.isna() | np.log2(models).mod(1).eq(0)].groupby(near):
                at, room = at.sort_values(value), 0.07 * np.ptp(part[value]) * np.arange(len(at))
                heights = np.maximum.accumulate(at[value] - room) + room
                for name, cost, height in zip(at["condition"], at["multiply_adds"], heights, strict=True):
                    side = {"xytext": (-6, 0), "ha": "right"} if cost == cheapest else {"xytext": (6, 0), "ha": "left"}
                    words = name.removeprefix("average of ")
                    place = {"textcoords": "offset points", "va": "center", "fontsize": "x-small"}
                    ax.annotate(words, (cost, height), **place, **side)
            ax.set_ylabel(label)
            log_axis(ax.xaxis)
            ax.set_xlim(cheapest / 8, dearest * 6)  # room for the words
        column[0].set_title(spoken(data), fontsize="medium")
        column[1].set_xlabel("multiply-adds a row")
    best = (
        f"{spoken(data)}: {part.loc[part['auc'].idxmax(), 'condition']} has the highest AUC, "
        f"{part.loc[part['logloss'].idxmin(), 'condition']} the lowest log loss"
        for data, part in parts
    )
    return attach_table(figure, table, f"{'; '.join(best)}.")


def dumbbells(table: pd.DataFrame, look: dict[str, dict[str, Any]], joined: tuple[str, str]) -> Axes:
    """Where several things stand, means over replicates side by side in rows, every replicate a small dot.

    The first of ``look`` has names in the drawing that begin with ``step-1``, the second ``step-2``, the others
    ``step-3``: slides show one step after the other.

    Args:
        table: columns ``setting`` (the row), ``what``, ``replicate`` and ``difference``, in AUC.
        look: for each ``what`` how its mean is drawn; those without a ``color`` are open and show no replicates.
        joined: the two whose means a line joins.
    """
    means = table.groupby(["what", "setting"], sort=False)["difference"].mean().unstack("what") * MILLI
    means = means.loc[list(dict.fromkeys(table["setting"]))]
    reach = means.abs().max(axis=1)
    wide = (reach > 4 * reach.quantile(0.25)).to_numpy()  # such rows would press the others
    groups = [list(means.index[rows]) for rows in (~wide, wide) if rows.any()]
    columns = len(look) if len(look) <= 4 else 2
    height = 0.7 + 0.2 * ceil(len(look) / columns) + 0.3 * len(means) + 0.4 * len(groups)  # the first screen is low
    size, ratios = (SINGLE[0], height), [len(rows) + 0.6 for rows in groups]
    figure, axes = plt.subplots(len(groups), figsize=size, squeeze=False, layout="constrained", height_ratios=ratios)
    names = (f"-{n}" for n in count())  # no two parts of a drawing may have one name
    for ax, rows in zip(axes[:, 0], groups, strict=True):
        at = means.loc[rows]
        line = {"color": PALETTE[0], "linewidth": 2.5, "zorder": 2, "gid": "step-2" + next(names)}
        ax.hlines(range(len(rows)), at[joined[0]], at[joined[1]], **line)
        for step, (what, marker) in zip(chain("12", repeat("3")), look.items(), strict=False):
            part = table[(table["what"] == what) & table["setting"].isin(rows)]
            if "color" in marker:
                y = np.array([rows.index(one) for one in part["setting"]]) + 0.22
                dots = {"s": 7, "color": marker["color"], "alpha": 0.6, "zorder": 2, "gid": f"step-{step}{next(names)}"}
                ax.scatter(part["difference"] * MILLI, y, **dots)
            look_open = {} if "color" in marker else {"facecolors": "none"}
            drawn = {"s": 60, "label": what, "zorder": 4, "gid": f"step-{step}{next(names)}"}
            ax.scatter(at[what], range(len(rows)), **drawn, **look_open, **marker)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.6)
        ax.axvline(0, color=INK, linewidth=1, zorder=1)
    figure.supxlabel("thousandths of test AUC over the checkpoint", fontsize="medium")
    lines = ax.get_legend_handles_labels()
    close = {"columnspacing": 0.9, "handletextpad": 0.1, "fontsize": "small" if columns < 4 else "x-small"}
    figure.legend(*lines, loc="outside upper center", ncols=columns, frameon=False, **close)
    gap, first = means[joined[1]] - means[joined[0]], means.idxmax(axis=1).value_counts()
    finding = (
        f"On average the {joined[1]} is ahead of the {joined[0]} in {(gap > 0).sum()} of {len(gap)} rows, by "
        f"{gap.min():+.2f} to {gap.max():+.2f}; in {first.iloc[0]} of them the {first.index[0]} is furthest ahead."
    )
    if len(groups) > 1:
        finding += " Each panel has an axis of its own."
    return attach_table(ax, table, finding)


def effect_curves(table: pd.DataFrame, x: str, by: str, xlabel: str = "") -> Axes:
    """Effects along a factor: mean and interval, a line for each value of ``by``, a line at zero.

    Args:
        table: :func:`ctrlib.study.tables.effects_by`.
        x: the factor on the x axis, a number.
        by: the factor that gives the lines.
        xlabel: what x is; its name unless given.
    """
    ax = canvas()
    lines = list(table[by].unique())
    spread, said = 0.012 * float(np.ptp(table[x].astype(float))) or 0.05, []
    for n, line in enumerate(lines):
        part = table[table[by] == line].sort_values(x)
        shift = (n - (len(lines) - 1) / 2) * spread  # so that intervals do not hide each other
        intervals(ax, n, part[x] + shift, part, "difference", MILLI, spoken(line))
        ends = (f"{row['difference'] * MILLI:+.2f} at {row[x]:g}" for _, row in part.iloc[[0, -1]].iterrows())
        above, below = ((part["low"] > 0).sum() or "none", (part["high"] < 0).sum() or "none")
        said.append(f"{spoken(line)}: {' and '.join(ends)}, {above} of {len(part)} intervals above zero, {below} below")
    ax.axhline(0, color=INK, linewidth=1)
    ax.set_xticks(sorted(set(table[x])))
    ax.set(xlabel=xlabel or spoken(x), ylabel="effect on test AUC, thousandths")
    if len(said) > 4:
        above, below = (table["low"] > 0).sum() or "none", (table["high"] < 0).sum() or "none"
        said = [f"{above} of {len(table)} intervals lie above zero, {below} below"]
    ends = table[["low", "high"]].to_numpy() * MILLI
    ends = np.abs(ends[np.isfinite(ends)])
    reach = max(3 * np.median(ends), 1.2 * table["difference"].abs().max() * MILLI) if len(ends) else np.inf
    if ends.max(initial=0) > 3 * reach:
        ax.set_ylim(-reach, reach)
        said.append("Intervals that reach beyond the axis are cut")
    name_lines(ax, loc="lower left", bbox_to_anchor=(0, 1.01))  # hides no point
    return attach_table(ax, table, f"{'. '.join(said)}.")


def measures_along(tables: dict[str, pd.DataFrame], x: str, by: str, xlabel: str) -> Figure:
    """Effects on several measures along a factor of either sign, a panel with axes of its own for each value of ``by``:
    mean and interval, a line for each measure. The axis is linear between the two values nearest to zero and
    logarithmic beyond.

    Args:
        tables: by measure, rows with ``x``, ``by``, difference, low and high.
        x: the factor on the x axis, a number.
        by: the factor that gives the panels.
        xlabel: what x is.
    """
    shown = pd.concat([table.assign(measure=measure) for measure, table in tables.items()], ignore_index=True)
    for ax, table in panels(shown, by, 2.0, sharey=False):
        for n, (measure, part) in enumerate(table.groupby("measure", sort=False)):
            part, beside = part.sort_values(x), 1 + 0.08 * (n - (len(tables) - 1) / 2)  # so that none hides another
            intervals(ax, n, part[x] * beside, part, "difference", MILLI, measure)
        ax.axhline(0, color=INK, linewidth=1)
        ticks = sorted(set(table[x]))
        if ticks[0] < 0 < ticks[-1]:
            ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_xscale("symlog", linthresh=float(table[x].abs().min()), linscale=0.3)
        ax.set_xlim(ticks[0] * (1.3 if ticks[0] < 0 else 0.7), ticks[-1] * 1.3)
        ax.set_xticks(ticks, [f"{value:g}" for value in ticks], fontsize="small")
        ax.minorticks_off()
    figure = ax.figure
    figure.supylabel("thousandths of test AUC", fontsize="medium")
    ax.set_xlabel(xlabel)
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    last = shown.loc[shown.groupby(["measure", by], sort=False)[x].idxmax()]
    said = (
        f"{measure}: "
        + ", ".join(f"{spoken(row[by])} {signed(row['difference'], True)}" for row in part.to_dict("records"))
        for measure, part in last.groupby("measure", sort=False)
    )
    return attach_table(
        figure, shown, f"At the largest {spoken(x)}, {'; '.join(said)}. Each panel has an axis of its own."
    )


def effect_matrix(table: pd.DataFrame, label: str) -> Axes:
    """Effects in thousandths of AUC as a matrix: who (rows) gains from whom (columns)."""
    ax = canvas((1.6 + 0.75 * len(table.columns), 1.2 + 0.5 * len(table)))
    most = float(np.nanmax(np.abs(table.to_numpy()))) or 1.0
    sns.heatmap(
        table, ax=ax, cmap="RdBu", center=0, vmin=-most, vmax=most, annot=True, fmt="+.2f", cbar_kws={"label": label}
    )
    ax.set(xlabel="with", ylabel="effect on")
    (most, peer), (least, other) = (table.stack().agg(end) for end in ("idxmax", "idxmin"))
    finding = (
        f"{most} changes most for the better, with {peer} ({table.loc[most, peer]:+.2f}); {least} most for the worse, "
        f"with {other} ({table.loc[least, other]:+.2f})."
    )
    return attach_table(ax, table.rename_axis(index="effect on", columns=None).reset_index(), finding)


def size_curves(replicates: pd.DataFrame, x: str, value: str, order: list[str], by: str = "protocol") -> Figure:
    """``value`` along the factor ``x``, mean over replicates: a line per condition, a panel per value of ``by``."""
    said = []
    for ax, part in panels(replicates, by):
        mean = part.groupby(["condition", x])[value].mean()
        last = mean.loc[order].xs(part[x].max(), level=x)
        said.append(f"{spoken(part[by].iloc[0])}: {last.idxmax()}, {last.max():.4f}")
        for n, condition in enumerate(order):
            ax.plot(mean[condition].index, mean[condition], label=condition, **style(n))
        ax.set(xlabel=spoken(x), ylabel=f"test {spoken(value).replace('auc', 'AUC')}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        name_lines(ax)
    shown = replicates.loc[replicates["condition"].isin(order), [by, "condition", "replicate", x, value]]
    finding = f"Highest at {replicates[x].max():g} {spoken(x)}, {'; '.join(said)}."
    return attach_table(ax.figure, shown, finding)


def fading(
    replicates: pd.DataFrame, x: str, by: str | Sequence[str], value: str = "auc", ylabel: str = "test AUC"
) -> Figure:
    """``value`` along ``x`` of continued training (dashed) and mutual fine-tuning (solid) from the checkpoint at 0: a
    thin line per replicate, a thick mean, a panel for each combination of ``by``."""
    said = []
    for ax, part in panels(replicates, by):
        start = part[part["condition"] == "checkpoint"]
        for n, (condition, line) in enumerate({"continued training": "--", "mutual": "-"}.items()):
            at = pd.concat([start, part[part["condition"] == condition]])
            mean = at.groupby([x, "replicate"])[value].mean().unstack("replicate")
            common = {"linestyle": line, "color": PALETTE[n]}
            ax.plot(mean.index, mean, **common, linewidth=0.7, alpha=0.4)
            ax.plot(mean.index, mean.mean(axis=1), **common, linewidth=2.5, label=condition)
            change = (mean.iloc[-1] - mean.iloc[0]).mean() * MILLI
            said.append(f"{condition} {change:+.2f} ({ax.get_title()})")
        ax.set(xlabel=f"{spoken(x)} of fine-tuning", ylabel=ylabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
        name_lines(ax)
    by = [by] if isinstance(by, str) else by
    finding = f"From the first to the last point, in thousandths: {'; '.join(said)}."
    return attach_table(ax.figure, replicates[[*by, "condition", "replicate", x, value]], finding)


def verdict_grid(verdicts: pd.DataFrame) -> Figure:
    """The claims (rows) by data set and control (columns), with colour and sign of the verdict; nothing where none was
    found.

    Args:
        verdicts: :func:`ctrlib.study.verdicts.finding_table`, of one protocol and one measure for each claim.
    """
    claims = list(dict.fromkeys(verdicts["claim"]))
    columns = list(dict.fromkeys(zip(verdicts["data"], verdicts["against"], strict=True)))
    figure, ax = plt.subplots(figsize=(SINGLE[0], 1.9 + 0.46 * len(claims)), layout="constrained")
    for row in verdicts.itertuples():
        x, y = columns.index((row.data, row.against)), claims.index(row.claim)
        ax.barh(y, 0.94, left=x - 0.47, height=0.92, color=VERDICTS[row.verdict])
        ink = INK if row.verdict == "inconclusive" else "white"
        ax.scatter([x], [y], s=50, marker=SIGNS[row.verdict], color=ink, zorder=3)
    for word, colour in VERDICTS.items():
        ax.scatter([], [], s=50, marker=SIGNS[word], color=colour, edgecolors=INK, linewidths=0.5, label=word)
    for data in dict.fromkeys(verdicts["data"]):
        at = [n for n, column in enumerate(columns) if column[0] == data]
        above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        ax.annotate(data.replace(" ", "\n"), (np.mean(at), 1), (0, 68), fontsize="small", **above)
        ax.axvline(at[0] - 0.5, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(claims)), [fill(claim, 32) for claim in claims], fontsize="x-small")
    ax.set_xticks(range(len(columns)), [against for _, against in columns], fontsize="x-small", rotation=90)
    ax.xaxis.tick_top()
    ax.set_ylim(len(claims) - 0.5, -0.5)
    ax.grid(visible=False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    counts = verdicts.groupby("against", sort=False)["verdict"].value_counts(sort=False)
    said = (
        f"against the {against}: {', '.join(f'{n} {word}' for (_, word), n in part.items())}"
        for against, part in counts.groupby(level=0, sort=False)
    )
    return attach_table(figure, verdicts, f"Verdicts {'; '.join(said)}.")


def ranges(rows: pd.DataFrame, xlabel: str, reference: float | None = None) -> Axes:
    """Values as dots with their ranges or intervals, one a line.

    Args:
        rows: table with what (what stands before a colon gives the colour), value, low and high, from top to bottom.
        xlabel: what the values are.
        reference: where a vertical line stands that values are compared with; the axis then begins at zero.
    """
    names = [fill(what, 34) for what in rows["what"]]
    ax = canvas((SINGLE[0], 1.0 + 0.32 * len(rows)))
    for y, row in enumerate(rows.to_dict("records")):
        colour = COLOURS.get(row["what"].partition(":")[0], INK)
        ax.hlines(y, row["low"], row["high"], color=colour, linewidth=2.2)
        ax.scatter([row["value"]], [y], s=36, color=colour, zorder=3)
    if reference is not None:
        ax.axvline(reference, color=INK, linewidth=1)
        ax.set_xlim(left=0)
    ax.set_yticks(range(len(rows)), names, fontsize="x-small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, ylabel="")
    least, most = (rows.loc[getattr(rows["value"], end)()] for end in ("idxmin", "idxmax"))
    finding = f"From {least['value']:.3g} ({least['what']}) to {most['value']:.3g} ({most['what']})"
    if reference is not None:
        finding += f"; {(rows['low'] > reference).sum()} of {len(rows)} lie wholly above {reference:g}"
    return attach_table(ax, rows, f"{finding}.")


# Figures of retrainings ----------------------------------------------------------------------------------------------


def ledgers(table: pd.DataFrame, parts: Sequence[str]) -> Figure:
    """The parts of the excess log loss of each condition as a bar, means over replicates, a panel for each protocol.

    Args:
        table: :func:`ctrlib.study.retraining_page.ledger_table`.
        parts: its columns, in the order of the bar.
    """
    said = []
    for ax, part in panels(table, height=0.8 + 0.36 * table["condition"].nunique()):
        mean = part.groupby("condition", sort=False)[list(parts)].mean() * MILLI
        left, total = np.zeros(len(mean)), mean.sum(axis=1)
        least, first = total.idxmin(), total.index[0]
        said.append(
            f"{spoken(part['protocol'].iloc[0])}: {least} has least, {total[least]:.2f}, {first} {total[first]:.2f}"
        )
        for n, name in enumerate(parts):
            ax.barh(list(mean.index), mean[name], left=left, color=PALETTE[n], height=0.7, label=name)
            left += mean[name].clip(lower=0).to_numpy()
        ax.set(xlabel="excess log loss, thousandths of a nat")
        ax.grid(axis="y", visible=False)
    ax.invert_yaxis()  # of all panels, which share it
    lines = ax.get_legend_handles_labels()
    ax.figure.legend(*lines, loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return attach_table(ax.figure, table, f"{'; '.join(said)} thousandths of a nat.")


def churn_against_auc(table: pd.DataFrame, one: str, by: Sequence[str]) -> Figure:
    """Test AUC beyond that of one model against the churn of retrainings: each replicate a small dot, the mean a large
    one, a panel for each combination of ``by``. Up is better, left is steadier.

    Args:
        table: :func:`ctrlib.study.retraining_page.churn_table`.
        one: the condition that is one model.
        by: columns.
    """
    key = [*by, "replicate"]
    base = table[table["condition"] == one].set_index(key)["auc"]
    gain = table["auc"].to_numpy() - base.loc[pd.MultiIndex.from_frame(table[key])].to_numpy()
    table = table.assign(gain=gain * MILLI, churn=100 * table["difference"])
    said = []
    for ax, part in panels(table.assign(panel=table[list(by)].map(spoken).agg(", ".join, axis=1)), "panel"):
        for n, (name, dots) in enumerate(part.groupby("condition", sort=False)):
            look = {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n % len(MARKERS)]}
            ax.scatter(dots["churn"], dots["gain"], s=12, alpha=0.5, **look)
            ax.scatter(dots["churn"].mean(), dots["gain"].mean(), s=70, label=name, **look)
        means = part.groupby("condition")[["churn", "gain"]].mean()
        steady, best = means["churn"].idxmin(), means["gain"].idxmax()
        churn, gain = means.loc[steady, "churn"], means.loc[best, "gain"]
        said.append(f"{part['panel'].iloc[0]}: {steady} is steadiest ({churn:.1f} %), {best} gains most ({gain:+.2f})")
        ax.axhline(0, color=INK, linewidth=1)
        ax.set(xlabel="", ylabel="")
    ax.figure.supxlabel("relative prediction difference, %", fontsize="medium")
    ax.figure.supylabel("thousandths of AUC beyond one model", fontsize="medium")
    lines = ax.get_legend_handles_labels()
    ax.figure.legend(*lines, loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return attach_table(ax.figure, table[[*key, "condition", "churn", "gain"]], f"{'; '.join(said)}.")
