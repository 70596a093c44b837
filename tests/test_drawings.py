"""Figures take their data along, and become part of the page."""

import io
import re
from xml.etree import ElementTree

import drawings
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ctrlib.publish.downloads import export_figure_data
from ctrlib.study import figures
from ctrlib.study.tables import spoken

CONDITIONS = ["continued training", "mutual"]
REPLICATES = pd.DataFrame(
    {"replicate": [1, 2, 1, 2], "condition": [CONDITIONS[0]] * 2 + [CONDITIONS[1]] * 2, "protocol": "fixed_epochs"}
).assign(auc=[0.1 + 0.2, 0.71, 0.72, 0.73], ensemble_auc=0.75)
CONTROL = {"mutual": ("mutual", "continued training")}


@pytest.fixture(autouse=True)
def _closed():
    figures.use_style()
    yield
    plt.close("all")


def read(bundle: dict[str, str]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(bundle["text/csv"]))


def test_a_figure_comes_with_what_it_shows_and_is_the_same_file_again():
    one, other = (figures.picture(figures.effects(REPLICATES, CONTROL)) for _ in range(2))
    assert one == other
    assert "<dc:date>" not in one["image/svg+xml"]
    assert list(read(one)["replicate"]) == [1, 2]
    assert read(one)["difference"].tolist() == pytest.approx([0.42, 0.02])
    assert read(one)["mean"].tolist() == pytest.approx([0.22, 0.22])
    assert one["text/plain"] == "Fixed epochs: mutual +220.00 (-2321.24 to +2761.24)."


def test_a_finding_follows_from_the_numbers_drawn():
    rows = [{"by": "a", "x": x, "difference": x / 1e3, "low": x / 1e3 - 0.0015, "high": 1} for x in (1, 2, 3)]
    ax = figures.effect_curves(pd.DataFrame(rows), "x", "by")
    assert (
        figures.picture(ax.figure)["text/plain"]
        == "A: +1.00 at 1 and +3.00 at 3, 2 of 3 intervals above zero, none below."
    )
    means = {("r", "one"): 1, ("r", "two"): 3, ("r", "all"): 4, ("s", "one"): 2, ("s", "two"): 1, ("s", "all"): 0}
    both = [{"setting": s, "what": w, "replicate": 1, "difference": mean / 1e3} for (s, w), mean in means.items()]
    ax = figures.dumbbells(pd.DataFrame(both), {name: {} for name in ("one", "two", "all")}, ("one", "two"))
    parts = re.findall(r'id="(step-[123]-\d+)"', figures.picture(ax.figure)["image/svg+xml"])
    assert len(set(parts)) == len(parts), "no name twice"
    assert {part[:6] for part in parts} == {"step-1", "step-2", "step-3"}
    assert ax.figure.finding.startswith(
        "On average the two is ahead of the one in 1 of 2 rows, by -1.00 to +2.00; in 1"
    )


def test_lines_of_one_data_set_keep_what_tells_them_apart():
    assert [spoken(label) for label in ("synthetic_100k", "criteo_100k")] == ["synthetic clicks", "Criteo"]
    assert spoken("synthetic clicks, weight 20") == "synthetic clicks, weight 20"


def test_few_lines_are_named_at_their_ends_and_wide_ones_press_no_others():
    """Words at line ends in place of a legend; rows that lie far off have a panel, far ends of intervals are cut."""
    rows = [{"by": by, "x": x, "difference": 0.001, "low": 0, "high": 0.002} for by in "ab" for x in (1, 2)]
    ax = figures.effect_curves(pd.DataFrame([*rows, {**rows[-1], "x": 3, "high": 0.9}]), "x", "by")
    assert {words.get_text() for words in ax.texts} == {"a", "b"}
    assert ax.get_legend() is None
    assert ax.get_ylim()[1] < 100
    assert ax.figure.finding.endswith("Intervals that reach beyond the axis are cut.")
    at = {"p": 0.001, "q": 0.002, "r": 0.024}
    both = [
        {"setting": s, "what": w, "replicate": 1, "difference": one} for s, one in at.items() for w in ("one", "two")
    ]
    panels = figures.dumbbells(pd.DataFrame(both), {"one": {}, "two": {}}, ("one", "two")).figure.axes
    assert [[label.get_text() for label in ax.get_yticklabels()] for ax in panels] == [["p", "q"], ["r"]]


def test_a_figure_drawn_by_hand_comes_with_its_lines():
    ax = figures.canvas()
    ax.plot([1, 2], [3.0, 4.5], label="a line")
    ax.axhline(0)
    ax.set(xlabel="replicates", ylabel="AUC")
    lines = {"line": ["a line"] * 2, "replicates": [1, 2], "AUC": [3.0, 4.5]}
    assert read(figures.picture(ax.figure)).to_dict("list") == lines


def test_colours_of_the_page_and_names_of_its_own():
    svg = figures.picture(figures.effects(REPLICATES, CONTROL))["image/svg+xml"]
    shown = drawings.inline(svg, 'What "is" <shown>', "d3")
    (root,) = ElementTree.fromstring(shown)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'What "is" <shown>')
    assert "var(--fig-222222, #222222)" in shown
    for colour in drawings.KNOWN:
        assert f": #{colour}" not in shown
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert ids
    assert all(name.startswith("d3-") for name in ids)
    assert len(shown) < 0.9 * len(svg)


def labels(markup: str) -> list[str]:
    """All words and numbers of a drawing, in order."""
    root = ElementTree.fromstring(re.search("<svg.*</svg>", markup, flags=re.DOTALL)[0])
    return ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("text")]


def test_labels_keep_their_digits():
    ax = figures.canvas()
    ax.plot([0.8001, 0.8004], [1, 2])
    ax.set(xticks=[0.8001, 0.80025, 0.8004], xlabel="AUC, 0.12345 apart")
    svg = figures.picture(ax.figure)["image/svg+xml"]
    assert {"0.80025", "AUC, 0.12345 apart"} <= set(labels(svg))
    assert labels(drawings.inline(svg, "", "d1")) == labels(svg)


def test_white_words_stay_white_and_white_edges_become_paper():
    svg = '<path style="fill: #ffffff; stroke: #ffffff"/>'
    assert drawings.recolour(svg) == '<path style="fill: #ffffff; stroke: var(--fig-paper, #ffffff)"/>'


def test_data_become_files_beside_the_page(tmp_path):
    """A figure under the name of its cell, also where it is glued; tables numbered; no CSV left in the notebook."""
    glue = {"scrapbook": {"name": "f", "mime_prefix": "p/"}}
    bundles = (
        ({"image/svg+xml": "<?xml?><svg a='1'/>", "text/csv": "x\n1\n", "text/plain": "Some <b> gain."}, {}),
        ({"p/image/svg+xml": "<?xml?><svg a='1'/>", "p/text/csv": "x\n1\n"}, glue),
        ({"image/svg+xml": "<?xml?><svg a='2'/>", "text/csv": "x\n1\n"}, {}),
        ({"text/html": "<table></table>", "text/csv": "y\n2\n"}, {}),
        ({"text/plain": "no data"}, {}),
    )
    cell = new_code_cell(metadata={"mystnb": {"figure": {"name": "fig-02-conditions", "caption": "Conditions"}}})
    cell.outputs = [new_output("display_data", data=data, metadata=metadata) for data, metadata in bundles]
    notebook = new_notebook(cells=[cell])
    export_figure_data(notebook, "02", tmp_path)
    assert notebook.cells[0].metadata.mystnb.figure.caption == "Some &#60;b&#62; gain. Conditions."
    first, glued, second, table, plain = (output.data for output in notebook.cells[0].outputs)
    assert first == {"image/svg+xml": "<?xml?><svg data-name=\"fig-02-conditions\" a='1'/>"}
    assert glued == {"p/text/html": "<svg data-name=\"fig-02-conditions\" a='1'/>"}
    assert 'data-name="figure-02-1"' in second["image/svg+xml"]
    assert 'href="../_static/data/table-02-1.csv"' in table["text/html"]
    assert plain == {"text/plain": "no data"}
    assert {path.name: path.read_text() for path in tmp_path.glob("*.csv")} == {
        "fig-02-conditions.csv": "x\n1\n",
        "figure-02-1.csv": "x\n1\n",
        "table-02-1.csv": "y\n2\n",
    }
    assert (tmp_path / "fig-02-conditions.svg").exists()
    assert 'href="../_static/data/fig-02-conditions.csv"' in drawings.links(first["image/svg+xml"])


def test_every_figure_and_table_of_a_page_can_be_had_with_its_data(built_book):
    """Each drawing and each table that a notebook made has a link below it, to a file that holds rows."""
    data = built_book / "_static" / "data"
    for page in sorted((built_book / "notebooks").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        names = re.findall(r'href="\.\./_static/data/([\w-]+)\.csv"', text)
        assert text.count('<svg class="drawing"') == text.count("figure (SVG)") >= 1
        assert len(names) == text.count('<svg class="drawing"') + text.count('class="dataframe')
        shown = re.findall(r'<div class="drawing-box">(<svg.*?</svg>)', text, flags=re.DOTALL)
        files = re.findall(r'href="\.\./_static/data/([\w-]+)\.svg"', text)
        assert [labels(one) for one in shown] == [labels((data / f"{one}.svg").read_text("utf-8")) for one in files]
        for name in names:
            assert len((data / f"{name}.csv").read_text(encoding="utf-8").splitlines()) > 1
        assert "<img" not in re.search(r"<article.*</article>", text, flags=re.DOTALL)[0]
