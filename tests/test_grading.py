"""The assignment that grades itself: solutions get all points, stubs none, and no answer goes to students."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pages import ROOT
from small import refused

from ctrlib.cli import main
from ctrlib.publish import grading
from ctrlib.publish.grading import NOTEBOOK, build_exercises, read_program, write_pack

PROGRAM = '''"""What it shows."""

import math


def f(x):
    """Twice x."""
    # a hint
    return 2 * x


class C:
    def g(self):
        return math.pi


assert f(2) == 4
'''
PROGRAMS = {path: read_program(path) for _, _, path in build_exercises(ROOT)}


def test_a_program_is_taken_apart(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(PROGRAM, encoding="utf-8")
    program = read_program(path)
    assert (program.needs, program.checks, program.names) == ("import math", "assert f(2) == 4", ("f", "C"))
    hidden = ["    # a hint", "    return 2 * x", "        return math.pi"]
    assert answer_lines(program.answer) == hidden
    assert [line for line in program.answer.splitlines() if "SOLUTION" not in line and line not in hidden] == [
        "def f(x):", '    """Twice x."""', "", "", "class C:", "    def g(self):"
    ]  # fmt: skip
    for slip in ("'''Nothing to write.'''\n", PROGRAM.replace("class C", "z = 1\nclass C")):
        path.write_text(slip, encoding="utf-8")
        assert "functions must stand together" in refused(read_program, path)


def answer_lines(answer: str) -> list[str]:
    """The lines between the marks."""
    parts = [part.partition("\n")[2] for part in answer.split("# BEGIN SOLUTION")[1:]]
    return [line for part in parts for line in part.split("# END SOLUTION")[0].rstrip().splitlines()]


def test_each_build_exercise_has_tests_and_names_of_its_own():
    assert set(PROGRAMS) == set((ROOT / "book" / "solutions").glob("*.py"))
    assert {path.name for path in PROGRAMS} == {path.name for path in (ROOT / "book/solutions/tests").glob("*.py")}
    names = Counter(name for program in PROGRAMS.values() for name in program.names)
    assert max(names.values()) == 1, "one notebook holds them all"
    assert not [exercise for _, exercise, _ in build_exercises(ROOT) if "](" in exercise.task], "its links would break"


def test_without_otter_grader_a_line_says_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(grading, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["grade-pack"])
    assert capsys.readouterr().err.splitlines() == [
        "error: otter-grader is not installed here; `make grade-pack` installs it"
    ]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("otter", reason="the optional extra: make grade-pack installs it")
    folder = tmp_path_factory.mktemp("grade") / "a pack"
    assert write_pack(ROOT, folder) == len(PROGRAMS)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("name", "share"), [("autograder", 1), ("student", 0)])
def test_solutions_get_all_points_and_stubs_none(pack, tmp_path, name, share):
    (tests,) = (pack / "autograder").glob("*.zip")
    command = [sys.executable, "-m", "otter", "run", "-a", tests, "-o", tmp_path, pack / name / NOTEBOOK]
    subprocess.run(command, check=True, capture_output=True)
    results = [one for one in json.loads((tmp_path / "results.json").read_bytes())["tests"] if one.get("max_score")]
    assert {one["name"]: one["score"] for one in results} == {path.stem: 2 * share for path in PROGRAMS}


@pytest.mark.long
def test_students_get_no_line_of_an_answer(pack):
    (file,) = [path for path in (pack / "student").rglob("*") if path.is_file()]
    notebook = json.loads(file.read_bytes())
    tests = notebook["metadata"]["otter"]["tests"].values()
    text = "\n".join([*("".join(cell["source"]) for cell in notebook["cells"]), *tests])
    shown = {line.strip() for line in text.splitlines()}
    assert all(f'grader.check("{path.stem}")' in shown for path in PROGRAMS)
    for path, program in PROGRAMS.items():
        assert path.read_text(encoding="utf-8").split('"""')[1] not in text
        lines = {line.strip() for line in [*answer_lines(program.answer), *program.checks.splitlines()]} - {""}
        assert lines & shown == set(), path.name
        assert [line for line in lines if len(line) > 20 and line in text] == [], path.name
    assert "hidden(" not in text
