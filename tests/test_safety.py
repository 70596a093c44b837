"""What comes from files stays data: nothing in them is executed, and pages show it as text."""

import ast
import html
import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from ctrlib.run.execute import execute
from ctrlib.run.plan import plan
from ctrlib.study import figures, notebook

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "tests" / "tiny.yaml")
NAMES = [
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "$x^2$ and $$y$$", "\\(x\\)", "`code`", "a | b"),
    *(
        "**bold** _it_",
        "[link](javascript:alert(1))",
        "![i](https://example.org/x.png)",
        "# head",
        "{raw}`x`",
        "a&lt;b",
    ),
    *("<!-- x", "']});alert(1)//", "\\alpha_1", "${x}", "{{ x }}", "line\nbreak", "https://example.org"),
]


# ---- code ------------------------------------------------------------------------------------------------------------


def sources() -> dict[str, str]:
    """Every line of Python of the project by file: modules, benchmarks, and the code cells of notebooks."""
    folders = [ROOT / name for name in ("ctrlib", "benchmarks", "book/_ext")]
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*.py") if ".venv" not in path.parts):
        found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        found[path.name] = "\n".join(line for cell in cells for line in cell.splitlines() if line[:1] not in "%!")
    return found


FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen", "torch.load", "pickle.load", "pickle.loads", "np.fromregex"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle"),
    *("pd.eval", "df.eval", "df.query", "extractall", "shutil.unpack_archive"),
}


def risks(text: str) -> list[str]:
    """Calls and imports that could carry out what a file or a parameter says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in FORBIDDEN_CALLS or name.split(".")[-1] in ("extractall", "unsafe_load") else []
            words = {word.arg: word.value for word in node.keywords}
            for word in ("allow_pickle", "shell"):
                if word in words and not (isinstance(words[word], ast.Constant) and words[word].value is False):
                    found.append(f"{name}({word}=...)")
    return found


def test_nothing_that_could_carry_out_a_file_or_a_parameter() -> None:
    found = {name: risks(text) for name, text in sources().items()}
    assert len(found) > 50
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from marshal import loads", "import joblib as j", "eval(x)", "torch.load(p)", "yaml.load(t)",
        "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=maybe)", "subprocess.run(c, shell=True)",
        "archive.extractall(p)", "exec('x = 1')",
    ],
)  # fmt: skip
def test_each_risk_would_be_found(line: str) -> None:
    assert len(risks(line)) == 1


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch) -> list:
    """What a notebook displays."""
    found: list = []
    monkeypatch.setattr(notebook, "display", found.append)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_text(shown: list, name: str) -> None:
    """As a value, as the name of a column, and as both, in a page that is read as HTML."""
    notebook.show_table(pd.DataFrame({name: [name, "x"], "score": [0.5, np.nan]}))
    page = shown[0]._repr_html_()
    spoken = name.replace("_", " ")
    tags, texts = [], []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.handle_data = lambda text: texts.append(text)
    parser.feed(page)
    assert set(tags) == {"style", "table", "thead", "tbody", "tr", "th", "td"}
    assert name in texts
    assert spoken in texts
    assert "mathjax_ignore" in page, "formulas in it are not set"


@pytest.mark.parametrize("name", NAMES)
def test_sentences_show_text(shown: list, name: str) -> None:
    """Markdown makes one paragraph of it, with the same letters and nothing else."""
    notebook.say(f"about {notebook.as_text(name)}: 1")
    for kind in ("commonmark", "gfm-like"):
        page = MarkdownIt(kind, {"html": True, "linkify": False}).render(shown[0].data)
        text = page.removeprefix("<p>about ").removesuffix(": 1</p>\n")
        if "$" in name or "\\" in name:
            text = text.removeprefix('<span class="tex2jax_ignore mathjax_ignore">').removesuffix("</span>")
        assert "<" not in text
        assert html.unescape(text) == " ".join(name.split())


def test_figures_show_text() -> None:
    """A name with dollar signs is drawn letter by letter, and one that is no valid formula is drawn at all."""
    with plt.rc_context():
        figures.use_style()
        replicates = pd.DataFrame(
            {"condition": ["$x", "$x^2$", "$\\frac{$"] * 2, "replicate": [1, 1, 1, 2, 2, 2], "auc": 0.6}
        )
        replicates["ensemble_auc"], replicates["protocol"] = 0.7, "$p"
        ax = figures.conditions(replicates, ["$x", "$x^2$", "$\\frac{$"]).axes[0]
        ax.figure.canvas.draw()
        labels = ax.get_yticklabels()
        assert [label.get_text() for label in labels] == ["$x", "$x^2$", "$\\frac{$"]
        assert not any(label.get_parse_math() for label in labels)
        plt.close(ax.figure)


def test_an_executed_notebook_shows_text(tmp_path: Path) -> None:
    """Through a real kernel: what ends in the page."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles").mkdir()
    code = (
        "import pandas as pd\nfrom ctrlib.study.notebook import as_text, say, show_table\n"
        f"names = {NAMES!r}\nshow_table(pd.DataFrame({{name: [name] for name in names}}))\n"
        "for name in names:\n    say(as_text(name))"
    )
    parameters = nbformat.v4.new_code_cell("rows = 5000", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)], metadata=kernel)
    nbformat.write(made, tmp_path / "notebooks" / "01_names.ipynb")
    (tmp_path / "mine.yaml").write_text("all: {rows: 5000}")
    (job,) = plan(tmp_path, str(tmp_path / "mine.yaml"), [], {})
    outcome = execute(job, tmp_path, print)
    assert outcome.state == "done", outcome.error
    outputs = nbformat.read(job.output, as_version=4).cells[-1].outputs
    assert len(outputs) == 1 + len(NAMES)
    for output in outputs:
        for kind, content in output.data.items():
            if kind in ("text/html", "text/markdown"):
                assert "<script" not in json.dumps(content)
                assert "<img" not in json.dumps(content)


def test_logarithmic_axes_show_plain_numbers() -> None:
    """Names are drawn letter by letter, so matplotlib's own labels of powers would show their code."""
    with plt.rc_context():
        figures.use_style()
        row = {"protocol": "early_stopping", "width": 16, "share": 0.1, "low": 0.0, "high": 0.2}
        shares = pd.DataFrame([{**row, "rows": rows} for rows in (3000, 9000)])
        figure = figures.gap_shares(shares, "rows", ["width"])
        effects = pd.DataFrame(
            [{"form": "mse", "weight": w, "difference": 0.1, "low": 0, "high": 1} for w in (0.1, 20.0)]
        )
        ax = figures.effect_curves(effects, "weight", "form", log=True)
        for one, expected in ((figure.axes[0], ["3000", "9000"]), (ax, ["0.1", "20"])):
            one.figure.canvas.draw()
            assert [label.get_text() for label in one.get_xticklabels()] == expected
            assert not any(label.get_text() for label in one.get_xticklabels(minor=True))
        plt.close("all")


def test_a_figure_of_many_lines_shows_each_of_them() -> None:
    rows = [{"form": f"line {n}", "weight": w, "difference": n, "low": n, "high": n} for n in range(16) for w in (1, 2)]
    ax = figures.effect_curves(pd.DataFrame(rows), "weight", "form")
    drawn = [container.lines[0] for container in ax.containers]
    assert [line.get_ydata()[0] for line in drawn] == [n * figures.MILLI for n in range(16)]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 16
    plt.close("all")
