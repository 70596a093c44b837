"""``ctrlib study``: refuses before anything runs, executes what changed, survives a notebook that fails."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from small import refused

from ctrlib.cli import main
from ctrlib.run.execute import execute_all
from ctrlib.run.plan import data_digest, plan, read_overrides

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "tests" / "tiny.yaml")
CTRLIB = [sys.executable, "-c", "from ctrlib.cli import main; main()"]


@pytest.fixture
def empty_project(tmp_path: Path) -> Path:
    """A project whose notebooks are still to be written."""
    for name in ("notebooks", "ctrlib"):
        (tmp_path / name).mkdir()
    (tmp_path / "_toc.yml").touch()
    return tmp_path


@pytest.fixture
def project(empty_project: Path) -> Path:
    """A project with the real notebooks' folder layout."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(ROOT / "notebooks", empty_project / "notebooks", ignore=ignored, dirs_exist_ok=True)
    return empty_project


def write_notebook(path: Path, *cells: str, parameters: str = "rows = 5000") -> None:
    parameters = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, *code], metadata=kernel), path)


REFUSED = [
    ("quik", [], [], ["quik", "quick", "Did you mean 'quick'"]),
    ("quick", ["99"], [], ["99", "01, 02, 03, 05"]),
    ("quick", [], ["instancs=3"], ["'instancs'", "Did you mean 'instances'"]),
    ("quick", [], ["instances"], ["--set 'instances'", "name=value"]),
    ("quick", [], ["instances=0"], ["instances=0", "greater than or equal to 2"]),
    ("quick", [], ["dataset=synthetik"], ["'synthetik'", "Did you mean 'synthetic'"]),
    ("quick", [], ["device=cuda:7"], ["device='cuda:7'", "use cpu"]),
    ("quick", [], ["device=tpu"], ["device='tpu'", "auto, cpu, cuda"]),
    ("quick", [], ["learning_rate=1e99"], ["learning_rate=1e+99", "less than or equal to 10"]),
    ("quick", [], ["architecture=DeepFN"], ["'DeepFN'", "Did you mean 'DeepFM'"]),
    ("quick", ["32"], ["companions=[DCN, PNNN]"], ["'PNNN'", "Did you mean 'PNN'"]),
    ("quick", [], ["device=cpu", "precision=tf32"], ["'tf32'", "needs a GPU", "fp32, bf16"]),
    ("quick", [], ["protocols=[own_end]"], ["'own_end' is now called 'early_stopping'"]),
    ("quick", [], ["batch_size=60000"], ["batch_size=60000", "at most 12000"]),
    ("quick", ["01"], ["mutual_weight=2"], ["'mutual_weight'", "allowed"]),
    ("quick", ["01,02"], ["dataset=2024"], ["unknown data set '2024'"]),
    ("quick", ["3"], ["sizes=[2]"], ["sizes=[2] leaves how_many_instances nothing to compare"]),
    ("quick", ["32"], ["architectures=[DCN]", "companions=[]"], ["architectures=['DCN'] leaves", "with companions"]),
    ("quick", ["05"], ["seeds=[1]"], ["seeds=[1] leaves is_it_noise nothing to compare"]),
    ("quick", ["14"], ["per_dataset={other: {rows: 3000}}"], ["per_dataset names 'other'", "synthetic"]),
    ("quick", ["14"], ["per_dataset={synthetic: 3}"], ["per_dataset", "dictionary"]),
    ("quick", ["14"], ["per_dataset={synthetic: {rowz: 3}}"], ["per_dataset, synthetic", "'rowz'", "Did you mean"]),
    ("all: {rowz: 3}", [], [], ["rowz"]),
    ('"77": {rows: 3000}', [], [], ["77"]),
    ("- 1", [], [], ["sections"]),
    ("a: [", [], [], ["YAML"]),
]


@pytest.mark.parametrize(("profile", "only", "settings", "words"), REFUSED)
def test_what_is_wrong_is_refused_before_anything_runs(project, profile, only, settings, words) -> None:
    """Unknown names and impossible values, and profiles that are a file with such; test_config.py has each value."""
    if not profile.isalpha():
        (project / "mine.yaml").write_text(profile)
        profile = str(project / "mine.yaml")
    line = refused(lambda: plan(project, profile, only, read_overrides(settings)))
    assert not [word for word in words if word not in line]
    assert not (project / "_build").exists()


@pytest.mark.parametrize("content", [b"", b'{"cells": [', b"[]", b'{"cells": [3]}', b"[" * 100_000])
def test_a_notebook_that_is_none_is_named(project: Path, content: bytes) -> None:
    (project / "notebooks" / "03_how_many_instances.ipynb").write_bytes(content)
    said = refused(plan, project, "quick", ["01"], {})
    assert "03_how_many_instances.ipynb: empty, cut or no notebook" in said


def test_two_notebooks_with_one_number_are_named(project: Path) -> None:
    """ "Save as" keeps the number; the copy must not take the place of the page."""
    first = project / "notebooks" / "01_train_independent.ipynb"
    shutil.copy(first, first.with_name("01_train_independent_mine.ipynb"))
    said = refused(plan, project, "quick", ["01"], {})
    assert "01_train_independent.ipynb and 01_train_independent_mine.ipynb have one number" in said


def test_overrides_reach_the_notebooks_that_declare_them(project: Path) -> None:
    jobs = plan(project, "quick", ["01", "21"], read_overrides(["mutual_weight=2e1", "seeds=[7]", "dataset=synthetic"]))
    assert "mutual_weight" not in jobs[0].parameters
    assert jobs[1].parameters["mutual_weight"] == 20.0
    assert [job.parameters["seeds"] for job in jobs] == [[7], [7]]
    assert jobs[0].output.parent.name.startswith("quick+mutual_weight=20.0")


def test_the_published_study_can_be_planned_where_no_data_are_prepared(monkeypatch, tmp_path: Path) -> None:
    """What its records say of the real data is enough."""
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "none"))
    jobs = plan(ROOT, "published", [], {})
    real = {at.dataset for job in jobs for at in job.settings.each().values()}
    assert {"criteo_100k", "frappe"} <= real
    assert data_digest("frappe") != data_digest("criteo_100k")
    assert "movielens" in refused(data_digest, "movielens")


def test_a_second_study_executes_nothing(tiny_study: dict, monkeypatch) -> None:
    root = tiny_study["root"]
    monkeypatch.setenv("CTRLIB_RUNS", str(root / "runs"))
    again = execute_all(plan(root, TINY, [], {}), root, print, at_once=2)
    assert [outcome.state for outcome in again] == ["unchanged"] * len(tiny_study["outcomes"])
    changed = plan(root, TINY, ["01"], {"rows": 2001})[0]
    assert changed.key != tiny_study["outcomes"]["01"].job.key
    least = min(processor_seconds([sys.executable, "-c", "import numpy"], root) for _ in range(3))
    assert processor_seconds([*CTRLIB, "study", "--profile", TINY], root) < 15 * least


def processor_seconds(command: list[str], folder: Path) -> float:
    """Of a command and all that it starts, whatever else the machine does."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, process.returncode, used = os.wait4(process.pid, 0)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


FAILING = {
    "01_broken": ("1 / 0", "ZeroDivisionError"),
    "02_exits": ("import sys; sys.exit(0)", "sys.exit"),
    "03_dies": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError"),
}


def test_the_study_goes_on_after_failures_says_so_and_leaves_marked_copies(empty_project: Path) -> None:
    for name, (cell, _) in FAILING.items():
        write_notebook(empty_project / "notebooks" / f"{name}.ipynb", cell, "print('never')")
    write_notebook(empty_project / "notebooks" / "04_fine.ipynb", "print('fine')")
    (empty_project / "mine.yaml").write_text("all: {rows: 5000}")
    command = [*CTRLIB, "study", "--profile", "mine.yaml"]
    result = subprocess.run(command, cwd=empty_project, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    made = {path.name for path in (empty_project / "_build" / "study" / "mine").glob("*.ipynb")}
    assert made == {"04_fine.ipynb", *(f"{name}.failed.ipynb" for name in FAILING)}
    for name, (_, words) in FAILING.items():
        assert any(name in line and words in line for line in result.stderr.splitlines())


def assert_stopped(process: subprocess.Popen, errors: str, folder: Path) -> None:
    """One line and exit 130; no process works in ``folder`` any more."""
    assert process.returncode == 130, errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert not [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]


@pytest.mark.long
def test_ctrl_c_stops_cleanly_and_the_command_goes_on(empty_project: Path, monkeypatch, capfd) -> None:
    """SIGINT while models train: one line, exit 130, no orphan, finished runs kept and not to be trained again."""
    tiny = yaml.safe_load(Path(TINY).read_text())["all"]
    parameters = "\n".join(f"{name} = {value!r}" for name, value in tiny.items())
    write_notebook(empty_project / "notebooks" / "01_train_independent.ipynb", "print('fine')", parameters=parameters)
    (empty_project / "mine.yaml").write_text("all: {epochs: 30, rows: 4000}")
    command = [*CTRLIB, "study", "--profile", "mine.yaml", "--workers", "2"]
    with subprocess.Popen(command, cwd=empty_project, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if started := re.search(r"\[1/(\d+)\]", line):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)  # it takes a second, or minutes where all cores are busy
    assert_stopped(process, errors, empty_project)
    kept = len([path for path in (empty_project / "runs").iterdir() if (path / "run.json").exists()])
    runs = int(started[1])
    assert 1 <= kept < runs
    monkeypatch.chdir(empty_project)
    with pytest.raises(SystemExit) as ended:
        main(["study", "--profile", "mine.yaml", "--plan"])
    assert not ended.value.code
    assert f"{runs - kept} of {runs} distinct runs to train" in " ".join(capfd.readouterr().out.split())


def test_a_plan_with_nothing_to_train_needs_no_torch(tmp_path) -> None:
    """Two seconds less to wait: the published runs of the real project are all there, in any store."""
    code = "import sys\nfrom ctrlib.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += "    print([m for m in ('torch', 'scipy', 'pandas', 'polars') if m in sys.modules])"
    words = ["study", "--profile", "published", "--only", "02", "--only", "14", "--plan"]
    env = {**os.environ, "CTRLIB_RUNS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert " 0 of " in f" {done.stdout}".replace("\n", " "), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.long
def test_ctrl_c_ends_notebooks_that_run_side_by_side(empty_project: Path) -> None:
    """One line, exit 130; no kernel, no server of kernels and no half-executed copy is left."""
    for name in ("01_one", "02_two", "03_three"):
        write_notebook(empty_project / "notebooks" / f"{name}.ipynb", "import time; print('begun'); time.sleep(600)")
    (empty_project / "mine.yaml").write_text("all: {rows: 5000}")
    command = [*CTRLIB, "study", "--profile", "mine.yaml"]
    with subprocess.Popen(command, cwd=empty_project, stderr=subprocess.PIPE, text=True) as process:
        begun = (line for line in process.stderr if "begun" in line)
        assert {next(begun).split()[0], next(begun).split()[0]} < {"01:", "02:", "03:"}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert_stopped(process, errors, empty_project)
    assert not list((empty_project / "_build").rglob("*.ipynb"))
