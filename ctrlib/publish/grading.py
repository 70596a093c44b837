"""The *build* exercises as an assignment that grades itself, made with otter-grader.

A program of ``book/solutions`` has four parts: a docstring; what it needs, which students get; functions or a class,
for whose bodies students get ``...``; and checks, which are the hidden tests. The tests that students see are the lines
of the file of the same name in ``book/solutions/tests``. Tests compare answers: a function that only calls ctrlib's own
passes as well.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

import nbformat
from nbformat import v4

from ctrlib.errors import UserError
from ctrlib.publish.exercises import Exercise, find_exercises, page_text

NOTEBOOK = "exercises.ipynb"
CONFIG = "# ASSIGNMENT CONFIG\nexport_cell: false\ntests:\n    ok_format: false"
WELCOME = """# Build exercises

Replace each `...` by your code, and run the cell below it for the tests that you may see. Hidden tests follow when the
work is graded. Keep the names and arguments of the functions. Save this file and hand it in.
"""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Program:
    """A program that solves an exercise, in its parts."""

    needs: str
    answer: str
    checks: str
    names: tuple[str, ...]  # of the functions and classes that students write


def read_program(path: Path) -> Program:
    """Take a program apart; the bodies in ``answer`` are marked as otter-grader wants them.

    Raises:
        UserError: it has no functions, or something between them.
    """
    text = path.read_text(encoding="utf-8")
    docstring, *body = ast.parse(text).body
    defined = [one for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
    if not defined or body.index(defined[-1]) - body.index(defined[0]) != len(defined) - 1:
        raise UserError(f"{path}: functions must stand together, between what they need and their checks")
    lines = text.splitlines()
    needs = lines[docstring.end_lineno : defined[0].lineno - 1]
    checks = lines[defined[-1].end_lineno :]
    functions = [f for one in defined for f in ([one] if isinstance(one, ast.FunctionDef) else one.body)]
    for function in sorted((f for f in functions if isinstance(f, ast.FunctionDef)), key=lambda f: -f.lineno):
        first = function.body[0]
        described = ast.get_docstring(function) is not None
        margin = " " * first.col_offset
        lines.insert(function.end_lineno, f"{margin}# END SOLUTION")
        lines.insert(first.end_lineno if described else first.lineno - 1, f"{margin}# BEGIN SOLUTION")
    marked = lines[defined[0].lineno - 1 : len(lines) - len(checks)]
    parts = ("\n".join(part).strip() for part in (needs, marked, checks))
    return Program(*parts, tuple(one.name for one in defined))


def build_exercises(root: Path) -> Iterator[tuple[str, Exercise, Path]]:
    """Page title, exercise and program of each *build* exercise, in the book's order."""
    for name in re.findall(r"(?:file|root): +(\S+)", (root / "_toc.yml").read_text(encoding="utf-8")):
        path = next(path for kind in (".md", ".ipynb") if (path := root / (name + kind)).is_file())
        text = page_text(path)
        for one in find_exercises(text, path.name):
            if one.kind == "build":
                program = re.search(r"literalinclude\} (\S+)", one.solution)[1]
                yield re.search(r"^# (.+)$", text, flags=re.MULTILINE)[1], one, (path.parent / program).resolve()


def assignment(root: Path) -> nbformat.NotebookNode:
    """The notebook that ``otter assign`` reads: a question for each exercise, with its answer and all of its tests."""
    cells = [v4.new_raw_cell(CONFIG), v4.new_markdown_cell(WELCOME)]
    for title, exercise, path in build_exercises(root):
        program = read_program(path)
        shown = (path.parent / "tests" / path.name).read_text(encoding="utf-8")
        tests = [("seen", shown), ("hidden", f"{program.needs}\n\n{program.checks}")]
        heading = f"## {title}: exercise {exercise.number}, {exercise.minutes} minutes"
        cells += [
            v4.new_raw_cell(f"# BEGIN QUESTION\nname: {path.stem}\npoints: {len(tests)}"),
            v4.new_markdown_cell(f"{heading}\n\n{exercise.task}"),
            v4.new_raw_cell("# BEGIN SOLUTION"),
            v4.new_code_cell(f"{program.needs}\n\n\n{program.answer}"),
            v4.new_raw_cell("# END SOLUTION"),
            v4.new_raw_cell("# BEGIN TESTS"),
            *(v4.new_code_cell(as_test(name, program.names, lines)) for name, lines in tests),
            v4.new_raw_cell("# END TESTS"),
            v4.new_raw_cell("# END QUESTION"),
        ]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def as_test(name: str, names: tuple[str, ...], lines: str) -> str:
    """Lines as a test of otter-grader: a function of what the student wrote, so that its own names stay inside."""
    return f"# {name.upper()}\ndef {name}({', '.join(names)}):\n{indent(lines, '    ')}"


def write_pack(root: Path, folder: Path) -> int:
    """Write ``student`` (the notebook without answers) and ``autograder`` (with them; tests in a zip) to ``folder``.

    The solutions are run against all tests. Returns the number of questions.

    Raises:
        UserError: otter-grader is not installed, or it refused the assignment; its own words are printed above.
    """
    if find_spec("otter") is None:
        raise UserError("otter-grader is not installed here; `make grade-pack` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    notebook = assignment(root)
    nbformat.write(notebook, folder / NOTEBOOK)
    command = [sys.executable, "-m", "otter", "assign", str(folder / NOTEBOOK), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout, result.stderr, file=sys.stderr)
        raise UserError("otter-grader did not take the assignment; the lines above say why")
    return sum(cell.source.startswith("# BEGIN QUESTION") for cell in notebook.cells)
