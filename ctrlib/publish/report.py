"""An executed notebook as one page that opens from disk: its text, tables and figures, without its code."""

import html
import re
from pathlib import Path
from string import Template

import nbformat

from ctrlib.publish.downloads import export_figure_data
from ctrlib.publish.slides import to_html

BOOK_ONLY = "book-only"  # tag of cells that a report does without
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #222; --page: #fff; --line: #ccc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16181c; --line: #444; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--page); color: var(--ink); }
body { font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; overflow-wrap: normal; }
td, th { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
.output { overflow-x: auto; }
.output svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .output svg { filter: invert(1) hue-rotate(180deg); } }
.downloads { font-size: .8rem; margin: 0; }
a { color: inherit; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$content
</main>
</body>
</html>
""")


def write_report(executed: Path, title: str, folder: Path) -> Path:
    """Write ``report.html`` into ``folder``, and the data of its figures and tables as CSV into ``folder/data``.

    Args:
        executed: the executed notebook; cells tagged ``book-only`` and all code are left out.
        title: what the page is called.
        folder: gets the files; made where it is not there.
    """
    notebook = nbformat.read(executed, as_version=4)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for old in (folder / "data").glob("*.csv"):
        old.unlink()
    export_figure_data(notebook, "log", folder / "data", "data")
    parts = []
    for cell in notebook.cells:
        if BOOK_ONLY in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            parts.append(_markdown(cell.source))
        figure = cell.metadata.get("mystnb", {})
        for output in cell.get("outputs", []):
            if "scrapbook" not in output.get("metadata", {}):
                parts.append(_output(output.get("data", {}), figure))
    path = folder / "report.html"
    page = PAGE.substitute(title=html.escape(title), content="\n".join(filter(None, parts)))
    path.write_text(page, encoding="utf-8")
    return path


def _markdown(text: str) -> str:
    """Markdown whose links into the book, which is not here, are words."""
    return to_html(re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1", text))


def _output(data: dict[str, str], figure: dict) -> str:
    """A figure with its caption, a table, or a sentence; nothing for what has no form of these."""
    if "image/svg+xml" in data:
        label = html.escape(figure.get("image", {}).get("alt", ""))
        caption = _markdown(figure.get("figure", {}).get("caption", ""))
        drawn = data["image/svg+xml"]
        drawn = drawn[drawn.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        return f'<figure class="output">{drawn}<figcaption>{caption}</figcaption></figure>'
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'
    return _markdown(data["text/markdown"]) if "text/markdown" in data else ""
