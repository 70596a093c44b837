"""Put pages and executed notebooks into one folder, and render it with Jupyter Book."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from filelock import FileLock

from ctrlib.config import digest
from ctrlib.errors import UserError
from ctrlib.publish.downloads import export_figure_data, offer_source
from ctrlib.publish.exercises import strip
from ctrlib.publish.slides import write_slides
from ctrlib.run.plan import files_digest
from ctrlib.store.environment import source_commit
from ctrlib.study.pages import book_notebooks

TOP_FILES = ("_config.yml", "_toc.yml", "requirements.lock", "pyproject.toml", "CITATION.cff")  # pages show them
FOR_TEACHERS = ("book/teach.md",)
FOLDED = {"parameters", "injected-parameters", "hide-input", "hide-output", "hide-cell"}
MADE_OF = re.compile(r"^\s*(?:\w+ = )?(?:provenance|show_data)\(", flags=re.MULTILINE)
FOR_TEACHERS_ONLY = "This page is for teachers and is left out of the students' edition."


def assemble(root: Path, executed: Path, student: bool = False) -> Path:
    """The folder that Jupyter Book renders, ``_build/book_src``: pages, executed notebooks and what pages show.

    Args:
        root: the project.
        executed: the folder of the executed notebooks.
        student: without answers, in ``_build/student_src``.

    Raises:
        UserError: a notebook was not executed; the line names the command that does it.
    """
    source = root / "_build" / ("student_src" if student else "book_src")
    notebooks = book_notebooks(root)
    for notebook in notebooks.values():
        if not (executed / notebook.name).exists():
            raise UserError(
                f"{executed / notebook.name} is missing; run `ctrlib study --profile {executed.name}` first"
            )
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in TOP_FILES:
        shutil.copy2(root / name, source / name)
    for name in ("book", "ctrlib", "notebooks/profiles"):  # pages show lines of the code and of the profiles
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    static = source / "book" / "_static"
    (static / "data").mkdir()
    for number, notebook in notebooks.items():
        page = nbformat.read(executed / notebook.name, as_version=4)
        export_figure_data(page, number, static / "data")
        put_number(page, number)
        join_code(page)
        nbformat.write(page, source / "notebooks" / notebook.name)
        offer_source(notebook, static / "notebooks")
    if student:
        leave_out_answers(source)
    else:
        write_slides(root, executed, static / "slides", "../vendor")
    return source


def put_number(page: nbformat.NotebookNode, number: str) -> None:
    """Begin the title of a notebook's page with its number, by which commands name it."""
    first = next(cell for cell in page.cells if cell.cell_type == "markdown")
    first.source = first.source.replace("# ", f"# {int(number)} · ", 1)


def join_code(page: nbformat.NotebookNode) -> None:
    """Let answers, figures and tables stand without their code.

    All folded code and output up to the first figure goes into one fold below it, the code of later cells into one at
    the end. What they folded of output has a fold of its own, and so has what the page was made of. A page that shows
    code in the open before its first figure is there to be read in order, and stays as it is.
    """
    figure = next((n for n, cell in enumerate(page.cells) if "figure" in cell.metadata.get("mystnb", {})), -1)
    before = [cell for cell in page.cells[: figure + 1] if cell.cell_type == "code"]
    if not before or any(FOLDED.isdisjoint(cell.metadata.get("tags", [])) for cell in before):
        return
    joined = code_fold("Show parameters and code", before)
    for cell in before:
        if not {"hide-output", "hide-cell"}.isdisjoint(cell.metadata.tags):
            joined.outputs += cell.outputs
            cell.outputs = []
        cell.metadata.tags = ["remove-input"]
    shown = [cell for cell in page.cells[: figure + 1] if cell.cell_type != "code" or cell.outputs] + [joined]
    after = [cell for cell in page.cells[figure + 1 :] if not FOLDED.isdisjoint(cell.metadata.get("tags", []))]
    for cell in page.cells[figure + 1 :]:
        if cell not in after:
            shown.append(cell)
            continue
        made_of, drawn = MADE_OF.search(cell.source), "figure" in cell.metadata.get("mystnb", {})
        folded = made_of or not {"hide-output", "hide-cell"}.isdisjoint(cell.metadata.tags)
        cell.metadata.tags = ["remove-input", "hide-output"] if folded else ["remove-input"]
        what = "what this page was made of" if made_of else "this figure" if drawn else "these tables"
        if folded:
            cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = f"Show {what}"
        last = shown[-1].metadata if shown[-1].cell_type == "code" else {}
        if folded and not drawn and last.get("mystnb") == cell.metadata.mystnb:  # one fold for what stands together
            shown[-1].outputs += cell.outputs
        elif cell.outputs:
            shown.append(cell)
    page.cells = shown + ([code_fold("Show the other code of this page", after)] if after else [])


def code_fold(words: str, cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """A folded cell with the code of these."""
    fold = {"tags": ["hide-cell"], "mystnb": {"code_prompt_show": words}}
    return nbformat.v4.new_code_cell("\n\n".join(cell.source for cell in cells), metadata=fold)


def leave_out_answers(source: Path) -> None:
    """Delete every answer from an assembled folder.

    Solutions of exercises and their programs are removed; the setting ``student`` makes quizzes leave out their
    answers; pages for teachers keep their title only.
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
    """Build the book strictly (every warning is an error) and return its first page; at once where it is up to date.

    Args:
        root: the project.
        executed: the folder of the executed notebooks.
        out: the folder that gets ``_build/html``: the project unless told, ``_build/student`` of it for students.
        student: the edition without answers.

    Raises:
        UserError: Jupyter Book is not installed, or found something wrong (its own words are printed above).
    """
    out = out or (root / "_build" / "student" if student else root)
    page, made_of = out / "_build" / "html" / "index.html", out / "_build" / "html" / ".made-of"
    (root / "_build").mkdir(exist_ok=True)
    with FileLock(root / "_build" / "book.lock"):  # another process may build it just now
        now = inputs_digest(root, executed, student)
        if not (page.exists() and made_of.exists() and made_of.read_text(encoding="utf-8") == now):
            made_of.unlink(missing_ok=True)
            _render(root, executed, out, page, student)
            made_of.write_text(now, encoding="utf-8")
    return page


def inputs_digest(root: Path, executed: Path, student: bool) -> str:
    """Hash of all that a book is made of: pages, notebooks as written and as executed, code, settings, versions."""
    folders = [root / name for name in ("book", "notebooks", "ctrlib", "benchmarks")] + [executed]
    hashes = [files_digest(root, *TOP_FILES), *(files_digest(folder, "**/*") for folder in folders)]
    return digest([str(executed), hashes, source_commit(), sys.version, student])


def _render(root: Path, executed: Path, out: Path, page: Path, student: bool) -> None:
    source = assemble(root, executed, student)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    strict = ["--all", "-n", "-W", "--keep-going", "-q"]
    result = subprocess.run([*command, "--path-output", str(out), *strict], cwd=root)
    if result.returncode or not page.exists():
        raise UserError("the book was not built; the lines above say what is wrong")
    if student:
        shutil.rmtree(out / "notebooks", ignore_errors=True)
        for notebook in book_notebooks(root).values():
            offer_source(notebook, out / "notebooks")
