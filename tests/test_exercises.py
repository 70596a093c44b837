"""Exercises: written as they should be, their commands and programs right, their solutions nowhere for students."""

import html
import json
import re
import runpy
import shlex
from collections import Counter
from pathlib import Path

import pytest
import typer
import yaml
from bs4 import BeautifulSoup
from exercises import what_it_took
from pages import ROOT
from quiz import parse_quiz
from small import refused

from ctrlib.cli import app
from ctrlib.errors import UserError
from ctrlib.publish.book import FOR_TEACHERS, assemble, render
from ctrlib.publish.exercises import KINDS, find_exercises, page_text, strip, without_solutions
from ctrlib.publish.slides import SOURCE
from ctrlib.run.plan import declared_parameters, find_notebooks, plan, planned, read_overrides

NOTEBOOKS = list(find_notebooks(ROOT).values())
PAGES = [*sorted((ROOT / "book").glob("*.md")), *NOTEBOOKS]
SLIDES = ROOT / SOURCE
PROGRAMS = sorted((ROOT / "book" / "solutions").glob("*.py"))
EXERCISES = {path: find_exercises(page_text(path), path.name) for path in PAGES}
ONE = """# Title

**Exercise 1, predict, 3 minutes.** What comes?

<details class="solution"><summary>Solution</summary>

This, since $1 + 1 = 2$.

</details>
"""


def test_an_exercise_is_read_and_freed_of_its_solution(tmp_path):
    (found,) = find_exercises(ONE)
    assert (found.number, found.kind, found.minutes) == (1, "predict", 3)
    assert (found.task, found.solution) == ("What comes?", "This, since $1 + 1 = 2$.")
    freed = "# Title\n\n**Exercise 1, predict, 3 minutes.** What comes?\n\nMore.\n"
    assert without_solutions(ONE + "\nMore.\n") == freed
    for name, text in {"page.md": "# Title\n\n\n\nText.\n", "notebook.ipynb": '{"cells": [], "nbformat": 4}'}.items():
        (tmp_path / name).write_text(text)
        strip(tmp_path / name)
        assert (tmp_path / name).read_text() == text, "what has no solution is left as it is"


@pytest.mark.parametrize(
    "slip",
    [
        ONE.replace("Exercise 1", "Exercise 2"),
        ONE.replace("predict", "guess"),
        ONE.replace("3 minutes", "0 minutes"),
        ONE.replace(", 3 minutes", ""),
        ONE.replace("</details>", ""),
        ONE.replace("<summary>Solution</summary>", "<summary>Answer</summary>"),
        ONE + ONE.split("\n\n", 2)[2],
    ],
)
def test_an_exercise_that_is_none_is_refused_in_one_line(slip):
    assert refused(find_exercises, slip, "a page").startswith("a page: ")


@pytest.mark.parametrize(
    "after", ["of 9 trainings with early stopping; ", "1 run trained by other code (loop.py); ", ""]
)
def test_what_a_page_took_ends_with_its_machines(tmp_path, after):
    said = f"18 runs with 25 seconds of training, trained today; on A, torch 2&#43;cpu; B; {after}page made today."
    page = {"cells": [{"outputs": [{"data": {"text/markdown": [f"*This page shows:* 3 replicates; {said}"]}}]}]}
    (tmp_path / "page.ipynb").write_text(json.dumps(page))
    assert what_it_took(tmp_path / "page.ipynb") == ("18 runs, 25 seconds", "A, torch 2&#43;cpu; B")


def test_there_are_thirty_of_three_kinds_and_each_program_belongs_to_one():
    counts = Counter(one.kind for found in EXERCISES.values() for one in found)
    assert counts.total() >= 30
    assert all(counts[kind] >= least for kind, least in zip(KINDS, (10, 10, 8), strict=True))
    for path in NOTEBOOKS:
        assert len({one.kind for one in EXERCISES[path]}) >= 2, f"{path.name}: exercises of two kinds at least"
    assert max(one.minutes for found in EXERCISES.values() for one in found if one.kind == "re-run") <= 3
    shown = []
    for path, found in EXERCISES.items():
        for one in found:
            programs = re.findall(r"literalinclude\} (\S+)", one.solution)
            assert bool(programs) == (one.kind == "build"), f"{path.name}, exercise {one.number}"
            shown += [(path.parent / program).resolve() for program in programs]
    assert sorted(shown) == PROGRAMS


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_solutions_of_build_exercises_hold(path):
    checks = r"^\s*assert |assert_(?:close|allclose)\("
    assert len(re.findall(checks, path.read_text(encoding="utf-8"), re.MULTILINE)) >= 2
    runpy.run_path(str(path))


def commands(text: str) -> list[str]:
    """The ``ctrlib study`` commands of a page; a lone ``--set`` or ``--profile`` goes with the command before it."""
    fenced = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found: list[str] = []
    for piece in [*fenced, *inline]:
        piece = " ".join(piece.split())
        if piece.startswith("ctrlib study "):
            found.append(piece)
        elif piece.startswith(("--set ", "--profile ")) and found:
            found.append(f"{found[-1].split(' --set')[0]} {piece}")
    return found


COMMANDS = [(path, command) for path in [*PAGES, ROOT / "README.md", SLIDES] for command in commands(page_text(path))]
PLACEHOLDER = re.compile(r"NAME|TwoTower|=chain")


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[f"{path.stem}: {command}" for path, command in COMMANDS])
def test_commands_on_pages_are_taken(path, command):
    """Names and values are checked as the command itself would; data sets that not everybody has are replaced."""
    check_command(PLACEHOLDER.sub("DeepFM", command) if "TwoTower" in command else command)
    exercises = " ".join(" ".join(one.task.split()) for one in EXERCISES.get(path, []))
    number = path.name[:2]
    if command in exercises and number.isdigit() and number != "16":  # it trains nothing
        assert f"--only {number}" in command, "an exercise re-runs its own page"


def check_command(command: str) -> None:
    arguments = shlex.split(command, comments=True)[2:]
    asked = typer.main.get_command(app).commands["study"].make_context("ctrlib study", arguments).params
    if "NAME" in command:
        return
    overrides = read_overrides(list(asked["set_"] or []))
    for name in ("device", "precision"):  # not every machine has it
        overrides.pop(name, None)
    if {"dataset", "datasets"} & overrides.keys() or asked["profile"] in ("published", "paper"):
        declared = [
            declared_parameters(path) for path in NOTEBOOKS if path.name[:2] in (asked["only"] or [path.name[:2]])
        ]
        several = all("datasets" in one for one in declared)
        overrides |= {"datasets": ["synthetic"]} if several else {"dataset": "synthetic"}
    jobs = plan(ROOT, asked["profile"], list(asked["only"] or []), overrides)
    if asked["only"] and asked["profile"] == "quick":
        runs = {run.fingerprint for job in jobs for run in planned(job)[0]}
        assert len(runs) <= (700 if "16]" in command else 210), "nobody waits"  # cohorts of sixteen


@pytest.mark.parametrize(
    "slip", ["--only 99", "--set instances=1", "--set instance=5", "--profile quik", "--set 'sizes=[2, x]'"]
)
def test_the_check_of_commands_sees_slips(slip):
    assert len(COMMANDS) > 40
    with pytest.raises(UserError):
        check_command(f"ctrlib study {slip}")


def plain(text: str) -> str:
    """Text without tags and entities, blanks made alike."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def telling(text: str) -> str:
    """The longest stretch of a text that no markup or typography changes on its way to a page."""
    runs = [" ".join(run.split()) for run in re.findall(r"[A-Za-z ,;.\n]{25,}", text)]
    return max(runs, key=len, default="")


def answers(quizzes: bool = True) -> list[str]:
    """For each solution, each of its programs and each reason of a quiz, words that stand nowhere else."""
    found = []
    for path, exercises in EXERCISES.items():
        found += [telling(one.solution) for one in exercises if one.kind != "build"]
        for quiz in re.findall(r"```\{quiz\}\n(.*?)```", page_text(path) if quizzes else "", flags=re.DOTALL):
            found += [telling(option.why) for question in parse_quiz(quiz) for option in question.options]
    found += [telling(path.read_text(encoding="utf-8").split('"""')[1]) for path in PROGRAMS]
    assert found.count("") < len(found) / 10
    return [answer for answer in found if answer]


def texts(folder: Path) -> str:
    """All that can be read in a folder of pages."""
    kinds = (".html", ".js", ".txt", ".json", ".md", ".py", ".ipynb", ".inv")
    files = [path for path in folder.rglob("*") if path.suffix in kinds and "vendor" not in path.parts]
    return "\n".join(plain(path.read_text(encoding="utf-8", errors="replace")) for path in sorted(files))


def test_the_full_edition_shows_every_answer(built_book):
    shown = texts(built_book)
    assert not [answer for answer in answers() if answer not in shown]


def test_the_box_of_an_exercise_holds_its_solution_and_no_code_of_the_page(built_book):
    pages = [built_book / "notebooks" / f"{path.stem}.html" for path in NOTEBOOKS]
    boxes = [box for page in pages for box in BeautifulSoup(page.read_bytes(), "html.parser").select("div.exercise")]
    assert len(boxes) == sum(len(EXERCISES[path]) for path in NOTEBOOKS)
    assert all(box.select("details.solution") and not box.select(".cell") for box in boxes)


def test_the_students_edition_is_made_from_sources_without_solutions(tiny_study):
    """Quizzes keep their answers in the source; tests/test_quiz.py has what becomes of them."""
    root = tiny_study["root"]
    source = assemble(root, root / "_build" / "study" / "tiny", student=True)
    shown = texts(source)
    assert "Exercise 1, predict" in shown
    assert not [answer for answer in answers(quizzes=False) if answer in shown]
    assert not list(source.rglob("solutions"))
    for name in FOR_TEACHERS:
        assert len((source / name).read_text(encoding="utf-8").splitlines()) == 3
    config = yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))
    assert config["sphinx"]["config"]["student"] is True


@pytest.mark.long
def test_the_students_edition_holds_no_answer_in_any_file(tiny_study):
    root = tiny_study["root"]
    student_book = render(root, root / "_build" / "study" / "tiny", student=True).parents[2]
    shown, made = texts(student_book), student_book / "notebooks"
    assert "Exercise 1, predict" in shown
    assert not [answer for answer in answers() if answer in shown]
    assert not list(student_book.rglob("solutions"))
    for path in NOTEBOOKS:
        before, after = (json.loads((folder / path.name).read_bytes())["cells"] for folder in (path.parent, made))
        assert [cell["id"] for cell in before] == [cell["id"] for cell in after]
        code = [["".join(c["source"]) for c in cells if c["cell_type"] == "code"] for cells in (before, after)]
        assert code[0] == code[1]
