"""The notebooks: their form, and their real execution by papermill in a real kernel."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from processes import answer_of

from ctrlib.run.plan import asked_parameters, declared_parameters, find_profile
from ctrlib.study.experiments import EXPERIMENTS
from ctrlib.study.parameters import StudyParameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_profiles_and_every_parameter_says_what_it_is() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers), "each number is that of one page"
    assert {path.stem for path in PROFILES} >= {"quick", "published", "paper"}
    assert all(field.description for field in StudyParameters.model_fields.values())
    declared = set().union(*map(declared_parameters, NOTEBOOKS))
    assert declared == set(StudyParameters.model_fields) - {"rows_seed"}, "the ledger gives each of its worlds one"


@by_name
def test_a_notebook_declares_its_parameters_calls_the_library_and_defines_nothing(path: Path) -> None:
    notebook, code = nbformat.read(path, as_version=4), code_cells(path)
    nbformat.validate(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert "papermill" not in notebook.metadata
    declared = declared_parameters(path)
    StudyParameters(**declared)
    assert set(papermill.inspect_notebook(str(path))) == set(declared)
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "begin"]
    assert [ast.unparse(call) for call in calls] == ["begin(globals())"]
    assert not [node for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.While, ast.With))]
    assert len(code) <= 25
    assert sum(len(cell.source.splitlines()) for cell in code) <= 170, "a notebook shows, the module computes"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_declared_parameters_with_valid_values(path: Path) -> None:
    declared = {notebook.name[:2]: declared_parameters(notebook) for notebook in NOTEBOOKS}
    sections = find_profile(ROOT, path.stem)
    for number, own in declared.items():
        p = StudyParameters(**{**own, **asked_parameters(sections, number, own)})
        assert all(p.each().values())
        assert set(sections.get(number, {})) <= set(own)
    assert set(sections) <= {"all", "data", *declared}
    assert all(any(name in own for own in declared.values()) for name in sections.get("all", {}))


@by_name
def test_execution_shows_tables_and_figures_and_no_error(path: Path, tiny_study: dict) -> None:
    outcome = tiny_study["outcomes"][path.name[:2]]
    assert outcome.state == "done", outcome.error
    outputs = [output for cell in code_cells(outcome.job.output) for output in cell.outputs]
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


def test_copies_name_no_folder_and_find_all_runs_trained_before(tiny_study: dict) -> None:
    for outcome in tiny_study["outcomes"].values():
        text = outcome.job.output.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert str(tiny_study["root"]) not in text
    found = [line for line in tiny_study["lines"] if " in the store, " in line]
    first, *later = [line for line in found if re.fullmatch(r"(\d+) runs: 0 in the store, \1 to train", line)]
    assert len(later) == 2, "the one page with a search trains what its records decide, twice"
    notebooks = [line for line in found if line not in (first, *later)]
    assert len(notebooks) >= len(EXPERIMENTS)
    assert all(line.endswith(", 0 to train") for line in notebooks), notebooks


def papermill_run(folder: Path, stem: str, timeout: int, **parameters: object) -> subprocess.CompletedProcess:
    """Plain ``papermill``, as on the page on re-running, in a folder of its own."""
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{stem}.ipynb"), "out.ipynb"]
    command += [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command += ["--no-progress-bar"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)


def test_plain_papermill_takes_new_parameters(
    tiny_study: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tiny_study["root"] / "runs"))
    rows = {"rows": 2000, "valid_rows": 1000, "test_rows": 2000, "batch_size": 500}
    size = {"instances": 4, "epochs": 1, "embedding_dim": 4, "hidden_units": "[8]"}
    asked = {"seeds": "[1]", "protocols": "[fixed_epochs]"}
    result = papermill_run(tmp_path, "01_train_independent", 300, **rows, **size, **asked)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "unknown parameter" not in result.stderr
    assert "4 runs: 2 in the store, 2 to train" in (tmp_path / "out.ipynb").read_text()


def test_a_parameter_that_a_notebook_lacks_is_one_line_under_plain_papermill(tmp_path: Path) -> None:
    assert papermill_run(tmp_path, "01_train_independent", 120, instnces=2).returncode == 1
    outputs = [output for cell in code_cells(tmp_path / "out.ipynb") for output in cell.outputs]
    errors = [output for output in outputs if output.output_type == "error"]
    assert [len(error.traceback) for error in errors] == [1]
    assert re.search("unknown parameter 'instnces'.*mean 'instances'", errors[0].traceback[0])


def shown_by(cells: list[str]) -> str:
    """What IPython shows when cells are run, in a process that it may change."""
    with capture_output() as shown:
        shell = InteractiveShell()
        for cell in cells:
            shell.run_cell(cell)
    return shown.stdout + shown.stderr


def test_a_bad_parameter_is_one_line_in_a_notebook() -> None:
    cells = [cell.source for cell in code_cells(NOTEBOOKS[0])]
    first = next(n for n, cell in enumerate(cells) if "begin(globals())" in cell)
    shown = answer_of(shown_by, [*cells[:first], "instances = 0", cells[first]]).strip()
    assert "Traceback" not in shown
    assert "instances=0: must be greater than or equal to 2" in shown.splitlines()[-1]
