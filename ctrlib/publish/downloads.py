"""Downloads of a page of the book: the data of its figures and tables, and its notebook."""

import shutil
from pathlib import Path
from typing import Any

from ctrlib.publish.exercises import strip
from ctrlib.study.notebook import as_text


def export_figure_data(notebook: Any, number: str, folder: Path, address: str = "../_static/data") -> None:
    """Move the data of each figure and table of an executed notebook into CSV files in ``folder``, and the finding of a
    figure to the beginning of its caption, which gets a full stop.

    A figure is stored beside its data, and its drawing gets the file's name for the page to link to; a table gets its
    link here, below ``address``. A copy that the notebook published for other pages has the same files.
    """
    names: dict[str, str] = {}  # drawing or table -> name
    for cell in notebook.cells:
        about = cell.metadata.get("mystnb", {}).get("figure", {})
        for output in cell.get("outputs", []):
            glued = output.get("metadata", {}).get("scrapbook", {})
            prefix, bundle = glued.get("mime_prefix", ""), output.get("data", {})
            numbers = bundle.pop(f"{prefix}text/csv", None)
            if numbers is None:
                continue
            svg, html = f"{prefix}image/svg+xml", f"{prefix}text/html"
            kind = "figure" if svg in bundle else "table"
            content = bundle[svg if kind == "figure" else html]
            if content not in names:
                count = 1 + sum(name.startswith(kind) for name in names.values())
                caption = about.get("name")
                free = kind == "figure" and caption and caption not in names.values()
                names[content] = caption if free else f"{kind}-{number}-{count}"
            name = names[content]
            (folder / f"{name}.csv").write_text(numbers, encoding="utf-8")
            if kind == "table":
                bundle[html] += f'<p class="downloads"><a href="{address}/{name}.csv" download>Data (CSV)</a></p>'
                continue
            if about and not glued:
                finding = as_text(bundle.pop(f"{prefix}text/plain", ""))
                about["caption"] = f"{finding} {about['caption']}".strip().rstrip(".") + "."
            drawn = bundle.pop(svg).replace("<svg ", f'<svg data-name="{name}" ', 1)
            (folder / f"{name}.svg").write_text(drawn.replace("<svg ", '<svg style="background: #fff" ', 1), "utf-8")
            # MyST-NB shows another page's HTML, but not its SVG
            bundle[html if glued else svg] = drawn[drawn.index("<svg") :] if glued else drawn


def offer_source(notebook: Path, folder: Path) -> None:
    """Put the notebook as it is opened and run into ``folder``: without outputs, and without solutions."""
    folder.mkdir(exist_ok=True)
    strip(Path(shutil.copy2(notebook, folder / notebook.name)))
