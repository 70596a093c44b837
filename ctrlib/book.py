"""Put the book together: prose pages and executed notebooks side by side, then let Jupyter Book render them."""

import shutil
import subprocess
import sys
from pathlib import Path

from ctrlib.errors import UserError
from ctrlib.study import find_notebooks


def assemble(root: Path, executed: Path) -> Path:
    """A folder that Jupyter Book can render: ``_build/book_src`` with the pages and the executed notebooks.

    Raises:
        UserError: a notebook was not executed; the line names the command that does it.
    """
    source = root / "_build" / "book_src"
    for notebook in find_notebooks(root).values():
        if not (executed / notebook.name).exists():
            raise UserError(
                f"{executed / notebook.name} is missing; run `ctrlib study --profile {executed.name}` first"
            )
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(root / name, source / name)
    for name in ("book", "ctrlib", "notebooks/profiles"):  # pages show lines of the code and of the profiles
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for notebook in find_notebooks(root).values():
        shutil.copy2(executed / notebook.name, source / "notebooks" / notebook.name)
    return source


def render(root: Path, executed: Path, out: Path | None = None) -> Path:
    """Build the book strictly (every warning is an error) and return its first page.

    Raises:
        UserError: Jupyter Book is not installed, or found something wrong (its own words are printed above).
    """
    source = assemble(root, executed)
    out = out or root
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
    return page
