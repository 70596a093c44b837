"""Put the book together: prose pages and executed notebooks side by side, then let Jupyter Book render them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

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
    data = source / "book" / "_static" / "data"
    data.mkdir()
    for number, notebook in find_notebooks(root).items():
        shown = nbformat.read(executed / notebook.name, as_version=4)
        offer_data(shown, number, data)
        nbformat.write(shown, source / "notebooks" / notebook.name)
    return source


def offer_data(notebook: Any, number: str, folder: Path) -> None:
    """Take the data of each figure and table out of an executed notebook into CSV files, and leave their names there.

    A figure is stored beside its data, and its drawing is marked with the name, for the page to link to; a table gets
    its link here. What is published for other pages is the same drawing or table, and so has the same files.
    """
    names: dict[str, str] = {}  # drawing or table -> name
    for cell in notebook.cells:
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            glued = output.get("metadata", {}).get("scrapbook", {})
            prefix, bundle = glued.get("mime_prefix", ""), output.get("data", {})
            numbers = bundle.pop(f"{prefix}text/csv", None)
            if numbers is None:
                continue
            svg, html = f"{prefix}image/svg+xml", f"{prefix}text/html"
            kind = "figure" if svg in bundle else "table"
            shown = bundle[svg if kind == "figure" else html]
            if shown not in names:
                count = 1 + sum(name.startswith(kind) for name in names.values())
                free = kind == "figure" and caption and caption not in names.values()
                names[shown] = caption if free else f"{kind}-{number}-{count}"
            name = names[shown]
            (folder / f"{name}.csv").write_text(numbers, encoding="utf-8")
            if kind == "table":
                bundle[html] += f'<p class="downloads"><a href="../_static/data/{name}.csv" download>Data (CSV)</a></p>'
                continue
            drawn = bundle.pop(svg).replace("<svg ", f'<svg data-name="{name}" ', 1)
            (folder / f"{name}.svg").write_text(drawn.replace("<svg ", '<svg style="background: #fff" ', 1), "utf-8")
            # MyST-NB shows another page's HTML, but not its SVG
            bundle[html if glued else svg] = drawn[drawn.index("<svg") :] if glued else drawn


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
