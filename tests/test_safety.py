"""What comes from files stays data: nothing in them is executed, and pages show it as text."""

import ast
import csv
import html
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from ctrlib.study import figures, notebook

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "$x^2$ and $$y$$", "\\(x\\)", "`code`", "a | b"),
    *("**bold** _it_", "[link](javascript:alert(1))", "![i](https://example.org/x.png)", "# head", "{raw}`x`"),
    *("a&lt;b", "<!-- x", "']});alert(1)//", "\\alpha_1", "${x}", "{{ x }}", "line\nbreak", "https://example.org"),
]


RISKS = re.compile(
    r"^ *(?:import|from) (?:pickle|cPickle|marshal|shelve|dill|cloudpickle|joblib)\b"
    r"|(?<![\w.])(?:eval|exec|compile|os\.system|os\.popen|torch\.load|pickle\.loads?|np\.fromregex|yaml\.load|yaml\.load_all"
    r"|(?:pd|pandas)\.read_pickle|(?:pd|df)\.eval|df\.query|shutil\.unpack_archive)\("
    r"|\.(?:extractall|unsafe_load|full_load)\(|\b(?:allow_pickle|shell)=(?!False\b)",
    re.MULTILINE,
)


def test_nothing_that_could_carry_out_a_file_or_a_parameter() -> None:
    """In no line of Python of the project: modules, benchmarks, code cells of notebooks."""
    paths = [path for name in ("ctrlib", "benchmarks", "book/_ext") for path in (ROOT / name).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in paths if ".venv" not in path.parts}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert len(texts) > 50
    assert {path: RISKS.findall(text) for path, text in texts.items() if RISKS.search(text)} == {}


def test_each_risk_would_be_found() -> None:
    lines = ["import pickle", "from marshal import loads", "import joblib as j", "x = eval(y)", "torch.load(p)"]
    lines += ["yaml.load(t)", "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=maybe)", "run(c, shell=True)"]
    for line in (*lines, "archive.extractall(p)", "exec('x = 1')"):
        assert len(RISKS.findall(line)) == 1
        assert len(RISKS.findall(f"if x:\n    {line}")) == 1


@pytest.fixture
def shown(monkeypatch) -> list:
    """What a notebook displays."""
    found: list = []
    monkeypatch.setattr(notebook, "display", found.append)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_sentences_show_text(shown: list, name: str) -> None:
    """As a value and as a column of a page that is read as HTML; Markdown makes one paragraph of the same letters."""
    notebook.show_table(pd.DataFrame({name: [name, "x"], "score": [0.5, np.nan]}), caption=name)
    notebook.say(f"about {notebook.as_text(name)}: 1")
    table = figures.table_bundle(shown[0])["text/html"]
    page = BeautifulSoup(table, "html.parser")
    assert {tag.name for tag in page(True)} == {"style", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.caption.text == name
    assert [head["scope"] for head in page("th")] == ["col", "col"]
    assert {name, name.replace("_", " ")} <= set(page.strings)
    assert "mathjax_ignore" in table, "formulas in it are not set"
    for kind in ("commonmark", "gfm-like"):
        page = MarkdownIt(kind, {"html": True, "linkify": False}).render(shown[1].data)
        text = page.removeprefix("<p>about ").removesuffix(": 1</p>\n")
        if "$" in name or "\\" in name:
            text = text.removeprefix('<span class="tex2jax_ignore mathjax_ignore">').removesuffix("</span>")
        assert "<" not in text
        assert html.unescape(text) == " ".join(name.split())


FREE = ("profile", "dataset", "datasets", "device", "benchmark")  # parameters that may hold any text


def is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == name


def test_every_page_shows_parameters_as_text() -> None:
    """Whatever a notebook says of a parameter goes through ``as_text``."""
    said = 0
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for call in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
                if is_call(call, "say"):
                    safe = {node for one in ast.walk(call) if is_call(one, "as_text") for node in ast.walk(one)}
                    raw = [n.attr for n in ast.walk(call) if getattr(n, "attr", "") in FREE and n not in safe]
                    assert raw == [], f"{path.name}: {raw}"
                    said += len(safe) > 0
    assert said >= 3


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-x", "@sum", "plain", "-1.5", "+3"])
def test_a_spreadsheet_takes_names_for_text(name: str) -> None:
    (row,) = csv.reader(figures.as_csv(pd.DataFrame({"a": [name], "b": -0.5})).splitlines()[1:])
    assert row == [name if name in ("plain", "-1.5", "+3") else f"'{name}", "-0.5"]


def test_figures_show_text() -> None:
    """A name with dollar signs is drawn letter by letter, and one that is no valid formula is drawn at all."""
    with plt.rc_context():
        figures.use_style()
        names = ["$x", "$x^2$", "$\\frac{$"]
        rows = pd.DataFrame({"setting": names * 2, "replicate": [1, 1, 1, 2, 2, 2], "difference": 0.1})
        both = pd.concat([rows.assign(what=what) for what in "ab"])
        ax = figures.dumbbells(both, {"a": {"color": "black"}, "b": {}}, ("a", "b"))
        ax.figure.canvas.draw()
        labels = ax.get_yticklabels()
        assert [label.get_text() for label in labels] == names
        assert not any(label.get_parse_math() for label in labels)
        plt.close(ax.figure)


def test_a_figure_of_many_lines_shows_each_of_them() -> None:
    rows = [{"form": f"line {n}", "weight": w, "difference": n, "low": n, "high": n} for n in range(16) for w in (1, 2)]
    ax = figures.effect_curves(pd.DataFrame(rows), "weight", "form")
    drawn = [container.lines[0] for container in ax.containers]
    assert [line.get_ydata()[0] for line in drawn] == [n * figures.MILLI for n in range(16)]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 16
    plt.close("all")
