"""Put the book together: prose pages and executed notebooks side by side, then let Jupyter Book render them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from ctrlib.errors import UserError
from ctrlib.publish.downloads import export_figure_data, offer_source
from ctrlib.publish.exercises import strip
from ctrlib.publish.slides import write_slides
from ctrlib.run.plan import find_notebooks

FOR_TEACHERS = ("book/teach.md",)
FOR_TEACHERS_ONLY = "This page is for teachers and is left out of the students' edition."


def assemble(root: Path, executed: Path, student: bool = False) -> Path:
    """A folder that Jupyter Book can render: ``_build/book_src`` with the pages and the executed notebooks.

    Args:
        root: the project.
        executed: the folder of the executed notebooks.
        student: leave out every answer; the folder is then ``_build/student_src``.

    Raises:
        UserError: a notebook was not executed; the line names the command that does it.
    """
    source = root / "_build" / ("student_src" if student else "book_src")
    for notebook in find_notebooks(root).values():
        if not (executed / notebook.name).exists():
            raise UserError(
                f"{executed / notebook.name} is missing; run `ctrlib study --profile {executed.name}` first"
            )
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml", "requirements.lock", "pyproject.toml"):  # a page lists the versions
        shutil.copy2(root / name, source / name)
    for name in ("book", "ctrlib", "notebooks/profiles"):  # pages show lines of the code and of the profiles
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    static = source / "book" / "_static"
    (static / "data").mkdir()
    for number, notebook in find_notebooks(root).items():
        shown = nbformat.read(executed / notebook.name, as_version=4)
        export_figure_data(shown, number, static / "data")
        nbformat.write(shown, source / "notebooks" / notebook.name)
        offer_source(notebook, static / "notebooks")
    if student:
        leave_out_answers(source)
    else:
        write_slides(root, executed, source / "book" / "_static" / "slides", "../vendor")
    return source


def leave_out_answers(source: Path) -> None:
    """Cut every answer out of an assembled folder, so that nothing made of it can hold one.

    Solutions of exercises go, with the programs among them; quizzes are told by the setting ``student`` to keep their
    answers; pages for teachers keep their title.
    """
    for path in (*(source / "book").rglob("*.md"), *(source / "notebooks").glob("*.ipynb")):
        strip(path)
    shutil.rmtree(source / "book" / "solutions", ignore_errors=True)
    for name in FOR_TEACHERS:
        page = source / name
        title = re.search(r"^# .+$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
        page.write_text(f"{title}\n\n{FOR_TEACHERS_ONLY}\n", encoding="utf-8")
    config = yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))
    config["title"] += " (students' edition)"
    config["sphinx"]["config"]["student"] = True
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def render(root: Path, executed: Path, out: Path | None = None, student: bool = False) -> Path:
    """Build the book strictly (every warning is an error) and return its first page.

    Args:
        root: the project.
        executed: the folder of the executed notebooks.
        out: the folder that gets ``_build/html``: the project unless told, ``_build/student`` of it for students.
        student: the edition without answers.

    Raises:
        UserError: Jupyter Book is not installed, or found something wrong (its own words are printed above).
    """
    source = assemble(root, executed, student)
    out = out or (root / "_build" / "student" if student else root)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [
        *jupyter_book,
        "build",
        str(source),
        "--path-output",
        str(out),
        "--all",
        "-n",
        "-W",
        "--keep-going",
        "-q",
    ]
    result = subprocess.run(command, cwd=root)
    page = out / "_build" / "html" / "index.html"
    if result.returncode or not page.exists():
        raise UserError("the book was not built; the lines above say what is wrong")
    if student:
        student_notebooks(root, out / "notebooks")
    return page


def student_notebooks(root: Path, folder: Path) -> None:
    """The source notebooks without solutions, to hand out beside the students' edition."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for notebook in find_notebooks(root).values():
        strip(Path(shutil.copy2(notebook, folder / notebook.name)))
