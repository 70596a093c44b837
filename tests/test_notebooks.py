"""The notebooks: their form, and their real execution by papermill in a real kernel."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from ctrlib.run.plan import declared_parameters
from ctrlib.study.experiments import EXPERIMENTS, OF_OTHERS, planned_runs
from ctrlib.study.parameters import StudyParameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks_and_profiles() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n + 1:02d}" for n in range(len(NOTEBOOKS))]
    assert {path.stem for path in PROFILES} >= {"quick", "published", "paper"}


@by_name
def test_source_has_no_outputs_and_one_parameters_cell(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert "papermill" not in notebook.metadata


@by_name
def test_declared_parameters_are_known_valid_and_what_papermill_sees(path: Path) -> None:
    declared = declared_parameters(path)
    StudyParameters(**declared)
    seen = papermill.inspect_notebook(str(path))
    assert set(seen) == set(declared)
    assert all(facts["help"] for facts in seen.values()), "each parameter says what it is"


@by_name
def test_begin_is_the_first_call_and_takes_what_the_cell_declares(path: Path) -> None:
    source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "begin"]
    assert [ast.unparse(call) for call in calls] == ["begin(globals())"]


@by_name
def test_a_notebook_trains_its_own_experiment(path: Path) -> None:
    """So that ``ctrlib study`` knows what a notebook will ask for; the last page reads those of others."""
    source = path.read_text(encoding="utf-8")
    asked = set(re.findall(r"planned_arms\(\\?[\"'](\w+)", source))
    name = path.stem[3:]
    if name in OF_OTHERS:
        assert f'OF_OTHERS[\\"{name}\\"]' in source
    else:
        assert asked == {name} & set(EXPERIMENTS)
    assert bool(planned_runs(name, StudyParameters(rows=2000, seeds=[1]))) == ("train_arms(" in source)


def test_parameters_of_one_name_have_one_default() -> None:
    """The last page plans the experiments of others by its own parameters: they must be the same."""
    last = declared_parameters(next(path for path in NOTEBOOKS if path.stem == "16_paper_beside_ours"))
    for number in ("02", "03", "04", "06"):
        declared = declared_parameters(next(path for path in NOTEBOOKS if path.stem.startswith(number)))
        assert {name: value for name, value in declared.items() if last.get(name, value) != value} == {}


@by_name
def test_notebooks_call_the_library_and_define_nothing(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    trees = [ast.parse(cell.source) for cell in cells]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.While, ast.With)
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    assert not found
    if path.stem == "18_open_the_box":  # the one that shows what is inside
        assert "{literalinclude} ../ctrlib/training/reference.py" in path.read_text(encoding="utf-8")
    assert len(cells) <= 25
    assert sum(len(cell.source.splitlines()) for cell in cells) <= 170, "a notebook shows, the module computes"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_declared_parameters_with_valid_values(path: Path) -> None:
    declared = {notebook.name[:2]: declared_parameters(notebook) for notebook in NOTEBOOKS}
    sections = yaml.safe_load(path.read_text())
    for number, own in declared.items():
        asked = {**sections.get("all", {}), **sections.get(number, {})}
        StudyParameters(**own, **{}) if not asked else StudyParameters(
            **{**own, **{name: value for name, value in asked.items() if name in own}}
        )
    assert set(sections) <= {"all", *declared}
    assert all(any(name in own for own in declared.values()) for name in sections.get("all", {}))


@by_name
def test_execution_shows_tables_and_figures_and_no_error(path: Path, tiny_study: dict) -> None:
    outcome = tiny_study["outcomes"][path.name[:2]]
    assert outcome.state == "done", outcome.error
    outputs = [
        output
        for cell in nbformat.read(outcome.job.output, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    glued = [output for output in outputs if "scrapbook" in output.get("metadata", {})]
    shown = [output.get("data", {}) for output in outputs if output not in glued]
    drawings = [data for data in shown if "image/svg+xml" in data]
    tables = [data for data in shown if "<table" in data.get("text/html", "")]
    assert drawings
    assert tables
    assert all(len(data["text/csv"].splitlines()) > 1 for data in (*drawings, *tables)), "each with its data"
    assert not any("image/png" in data for data in shown)
    assert glued
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_executed_copies_name_no_folder_of_the_machine(tiny_study: dict) -> None:
    for outcome in tiny_study["outcomes"].values():
        text = outcome.job.output.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert str(tiny_study["root"]) not in text


def test_all_runs_are_trained_before_the_notebooks_which_find_them(tiny_study: dict) -> None:
    counts = [line for line in tiny_study["lines"] if " in the store, " in line]
    first, *notebooks = counts
    assert re.fullmatch(r"(\d+) runs: 0 in the store, \1 to train", first)
    assert len(notebooks) >= len(EXPERIMENTS)
    assert all(line.endswith(", 0 to train") for line in notebooks), notebooks


def test_plain_papermill_takes_new_parameters(
    tiny_study: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``papermill notebooks/05_*.ipynb out.ipynb -p ...`` as on the page on re-running, in a folder of its own."""
    monkeypatch.setenv("CTRLIB_RUNS", str(tiny_study["root"] / "runs"))
    options = {
        "rows": 2000,
        "valid_rows": 1000,
        "test_rows": 2000,
        "instances": 4,
        "epochs": 1,
        "embedding_dim": 4,
        "batch_size": 500,
    }
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / "05_is_it_noise.ipynb"), "out.ipynb"]
    command += [part for name, value in options.items() for part in ("-p", name, str(value))]
    command += ["-p", "seeds", "[1, 2]", "-p", "hidden_units", "[8]", "-p", "protocols", "[equal_epochs]"]
    command += ["--no-progress-bar"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "unknown parameter" not in result.stderr
    text = (tmp_path / "out.ipynb").read_text()
    assert "4 DeepFM mutual" in text
    assert "18 runs: 12 in the store, 6 to train" in text  # what has to do with the fourth instances is new


def test_a_bad_parameter_is_one_line_under_plain_papermill(tmp_path: Path) -> None:
    notebook = str(ROOT / "notebooks" / "01_train_independent.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-p", "instances", "0", "--no-progress-bar"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    errors = [
        output
        for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert [len(error.traceback) for error in errors] == [1]
    assert "instances=0: must be greater than or equal to 2" in errors[0].traceback[0]
