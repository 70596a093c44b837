"""The recurring figures of the study. Functions take tables, draw on ``ax`` and return it; they set no global state.

Colour is the architecture, line style the regime; every group is drawn, never a mean alone.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from ctrlib.statistics import paired_difference

# Okabe and Ito's colours, distinguishable with colour-blind eyes.
COLOURS = {"FiBiNET": "#0072B2", "DCN": "#D55E00", "PNN": "#009E73", "DeepFM": "#CC79A7"}
GREY, INK, REFERENCE = "#8a8a8a", "#222222", "#E69F00"
SINGLE, WIDE = (6.0, 3.8), (8.6, 3.8)
MILLI = 1e3  # AUC differences are shown in thousandths


def use_style() -> None:
    """Set the look of all figures; call once a notebook."""
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
            "svg.fonttype": "none",
            "text.parse_math": False,  # a name with dollar signs is a name
        }
    )


def canvas(size: tuple[float, float] = SINGLE) -> Axes:
    """A fresh figure with one set of axes."""
    return plt.subplots(figsize=size, layout="constrained")[1]


def member_scores(members: pd.DataFrame, groups: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Test AUC of each member (dots) by group, with the group's ensemble and, where known, the reachable AUC."""
    ax = ax or canvas()
    order = sorted(members["group"].unique())
    for name, part in members.groupby("architecture"):
        x = [order.index(group) for group in part["group"]]
        ax.scatter(x, part["auc"], color=COLOURS.get(name, INK), alpha=0.85, label=f"{name}, each member", zorder=3)
    x = np.array([order.index(group) for group in groups["group"]])
    ax.hlines(groups["ensemble_auc"], x - 0.3, x + 0.3, color=INK, linestyle=":", label="ensemble of the group")
    if groups["reachable_auc"].notna().all():
        ax.hlines(groups["reachable_auc"], x - 0.3, x + 0.3, color=REFERENCE, label="reachable (true probability)")
    ax.set_xticks(range(len(order)), [f"{group}" for group in order])
    ax.set(xlabel="group", ylabel="test AUC")
    ax.margins(y=0.1)
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def learning_curves(histories: dict[str, list[dict]], ax: Axes | None = None, regime: str = "solo") -> Axes:
    """Validation AUC after each epoch, one line per history row sequence; keys are architecture names."""
    ax = ax or canvas()
    style = {"solo": "--", "mutual": "-", "ensemble": ":"}[regime]
    for name, history in histories.items():
        table = pd.DataFrame(history)
        for _, one in table.groupby(["group", "member"]):
            ax.plot(one["epoch"], one["valid_auc"], style, color=COLOURS.get(name, INK), alpha=0.5, linewidth=1)
        mean = table.groupby("epoch")["valid_auc"].mean()
        ax.plot(mean.index, mean, style, color=COLOURS.get(name, INK), linewidth=2.5, label=f"{name}, mean")
    ax.set(xlabel="epoch", ylabel="validation AUC")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize="small", frameon=False)
    return ax


def churn_heatmap(probabilities: np.ndarray, names: list[str], ax: Axes | None = None) -> Axes:
    """Mean absolute difference of the predicted probabilities of each pair of members (K, rows)."""
    ax = ax or canvas()
    pairwise = np.array([[np.abs(a - b).mean() for b in probabilities] for a in probabilities])
    table = pd.DataFrame(pairwise, index=names, columns=names)
    sns.heatmap(
        table, ax=ax, cmap="cividis", annot=True, fmt=".3f", square=True, mask=np.eye(len(names), dtype=bool),
        cbar_kws={"label": "mean |p_a - p_b|"},
    )  # fmt: skip
    return ax


def effects(
    groups: pd.DataFrame, comparisons: dict[str, tuple[str, str]], value: str = "auc", ax: Axes | None = None
) -> Axes:
    """Paired differences: each group a dot, the mean with its 95 % interval, a line at zero.

    Args:
        groups: :func:`ctrlib.experiments.group_table`, or any table with group, arm and ``value``.
        comparisons: label -> (treatment arm, control arm), drawn from top to bottom.
        value: the column compared.
    """
    ax = ax or canvas((WIDE[0], 0.9 + 0.5 * len(comparisons)))
    by_group = groups.pivot(index="group", columns="arm", values=value)
    for y, (treatment, control) in enumerate(comparisons.values()):
        differences = (by_group[treatment] - by_group[control]).to_numpy() * MILLI
        result = paired_difference(differences, np.zeros_like(differences))
        draw_effect(ax, y, differences, result)
    ax.set_yticks(range(len(comparisons)), list(comparisons))
    finish_effects(ax, "difference in test AUC, thousandths" if value == "auc" else f"difference in {value} x 1000")
    return ax


def draw_effect(ax: Axes, y: float, differences: np.ndarray, result, colour: str | None = None) -> None:
    """One line of an effect figure: dots of the groups, mean and interval coloured by the verdict."""
    by_verdict = {"gain": COLOURS["FiBiNET"], "loss": COLOURS["DCN"], "no difference shown": INK}
    colour = colour or by_verdict[result.verdict]
    ax.scatter(differences, np.full(len(differences), y + 0.18), s=16, color=GREY, alpha=0.9, zorder=2)
    if np.isfinite(result.low):
        ax.hlines(y, result.low, result.high, color=colour, linewidth=2.2, zorder=3)
    ax.scatter([result.mean], [y], s=44, color=colour, zorder=4)


def finish_effects(ax: Axes, xlabel: str) -> None:
    """Zero line and labels of an effect figure, first line on top."""
    ax.axvline(0, color=INK, linewidth=1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, ylabel="")


def arms(groups: pd.DataFrame, order: list[str], ax: Axes | None = None) -> Axes:
    """Mean member AUC of each arm: one thin line per group, thick dots for the mean over groups, and the
    ensemble of each arm as open dots."""
    ax = ax or canvas((WIDE[0], 0.8 + 0.42 * len(order)))
    table = groups[groups["arm"].isin(order)]
    for _, part in table.groupby("group"):
        part = part.set_index("arm").loc[order]
        ax.plot(part["auc"], range(len(order)), color=GREY, linewidth=0.8, marker=".", alpha=0.8, zorder=2)
    mean = table.groupby("arm")[["auc", "ensemble_auc"]].mean().loc[order]
    ax.scatter(mean["auc"], range(len(order)), s=60, color=COLOURS["FiBiNET"], zorder=4, label="mean of members")
    ax.scatter(
        mean["ensemble_auc"], range(len(order)), s=55, facecolors="none", edgecolors=COLOURS["DCN"], zorder=4,
        label="their ensemble",
    )  # fmt: skip
    ax.set_yticks(range(len(order)), order)
    ax.invert_yaxis()
    ax.set(xlabel="test AUC", ylabel="")
    ax.legend(fontsize="small", frameon=False, loc="best")
    return ax


def gap_scatter(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Effect on a member against how far its peers were ahead of it at the start, coloured by architecture."""
    ax = ax or canvas()
    sns.scatterplot(table, x="gap", y="effect", hue="architecture", palette=COLOURS, style="architecture", s=55, ax=ax)
    ax.axhline(0, color=INK, linewidth=1)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set(xlabel="peers' mean AUC minus own AUC before, thousandths", ylabel="effect on own AUC, thousandths")
    ax.legend(title=None, fontsize="small", frameon=False)
    return ax


def ratio_ranges(rows: pd.DataFrame, xlabel: str, ax: Axes | None = None) -> Axes:
    """Ratios as dots with the range of their repeats, and a line at 1.

    Args:
        rows: table with what, value, low and high, drawn from top to bottom.
        xlabel: what is divided by what.
    """
    ax = ax or canvas((WIDE[0], 1.0 + 0.32 * len(rows)))
    for y, (_, row) in enumerate(rows.iterrows()):
        colour = next((c for name, c in COLOURS.items() if row["what"].startswith(name)), INK)
        ax.hlines(y, row["low"], row["high"], color=colour, linewidth=2.2)
        ax.scatter([row["value"]], [y], s=36, color=colour, zorder=3)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_xlim(left=0)
    ax.set_yticks(range(len(rows)), list(rows["what"]))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, ylabel="")
    return ax
