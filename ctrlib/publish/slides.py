"""Slides from a notebook: its slide metadata say what is a slide, executed pages of the book give figures and numbers.

``book/slides/lesson.ipynb`` holds Markdown cells whose slide types are those of Jupyter (``slide``, ``subslide``,
``fragment``, ``notes``, ``skip``, ``-``). In them a number is written as on the pages of the book, and a figure is an
image whose address is a notebook and a figure of it; a stage of ``book/_ext/play.py`` is its element::

    {glue:text}`/notebooks/14_main_criteo.ipynb::peers:+.4f`
    ![What is to be seen](/notebooks/14_main_criteo.ipynb#fig-14-answer)
    ![What is to be seen](/notebooks/14_main_criteo.ipynb#fig-14-answer, in steps)
    <div class="play" data-play="train"></div>

*In steps*: the parts of a drawing whose names begin with ``step-1``, ``step-2``, ... appear one after the other.

The result is one HTML file for reveal.js, which lies beside it; nothing is fetched.
"""

import ast
import base64
import html
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat

from ctrlib.errors import UserError, unknown

SOURCE = Path("book") / "slides" / "lesson.ipynb"
STATIC = Path("book") / "_static"
NUMBER = re.compile(r"\{glue:text\}`/notebooks/([^:`]+)\.ipynb::(\w+):([^`]*)`")
FIGURE = re.compile(r"!\[([^\]]+)\]\(/notebooks/([^)#]+)\.ipynb#([\w-]+)(, in steps)?\)")
PARTS = {"fragment": '<div class="fragment">{}</div>', "notes": '<aside class="notes">{}</aside>', "-": "{}"}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{vendor}/reveal/reveal.css">
<style>{style}</style>
<link rel="stylesheet" href="{vendor}/katex/katex.min.css">
<script defer src="{vendor}/katex/katex.min.js"></script>
<script defer src="{vendor}/reveal/reveal.js"></script>
<script defer src="{vendor}/reveal/notes.js"></script>
<script>
addEventListener("DOMContentLoaded", () => {{
  for (const element of document.querySelectorAll(".math"))
    katex.render(element.textContent, element, {{displayMode: element.tagName === "DIV", strict: "error"}});
  Reveal.initialize({{hash: true, slideNumber: "c/t", transition: "none", center: false, plugins: [RevealNotes]}});
  Reveal.on("slidechanged", () => dispatchEvent(new Event("resize"))); // what is drawn to the width of its slide
}});
</script>
</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script>{scripts}</script>
</body>
</html>
"""


def write_slides(root: Path, executed: Path, folder: Path, vendor: str = "vendor") -> Path:
    """Write ``lesson.html`` into ``folder``.

    Args:
        root: the project.
        executed: the folder of the executed notebooks.
        folder: gets the file; made where it is not there.
        vendor: where reveal.js and KaTeX lie, as seen from ``folder``. Copied there unless they are.

    Returns:
        The file.

    Raises:
        UserError: a slide asks for a notebook, a number or a figure that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("reveal", "katex"):
        if not (folder / vendor / name).exists():
            shutil.copytree(root / STATIC / "vendor" / name, folder / vendor / name)
    cells = nbformat.read(root / SOURCE, as_version=4).cells
    pages = ExecutedPages(executed)
    style, scripts = (
        "\n".join((root / STATIC / name).read_text(encoding="utf-8") for name in names)
        for names in (("play.css", "slides.css"), ("play.js", "play_train.js"))
    )
    title = re.search(r"^# (.+)$", cells[0].source, flags=re.MULTILINE)[1]
    slides = arrange([(slide_type(cell), to_html(pages.fill(cell.source))) for cell in cells])
    path = folder / "lesson.html"
    page = PAGE.format(title=html.escape(title), vendor=vendor, style=style, slides=slides, scripts=scripts)
    path.write_text(page, encoding="utf-8")
    return path


def slide_type(cell: dict[str, Any]) -> str:
    """The slide type of a cell in Jupyter; ``-``, for a cell without one, continues the slide before."""
    return cell["metadata"].get("slideshow", {}).get("slide_type", "-") or "-"


def arrange(parts: list[tuple[str, str]]) -> str:
    """Sections of reveal.js: slides side by side, each with its subslides below it."""
    columns: list[list[list[str]]] = []
    for kind, content in parts:
        if kind == "slide" or not columns:
            columns.append([[content]])
        elif kind == "subslide":
            columns[-1].append([content])
        elif kind in PARTS:
            columns[-1][-1].append(PARTS[kind].format(content))
    nested = [["<section>" + "\n".join(slide) + "</section>" for slide in column] for column in columns]
    return "\n".join(one[0] if len(one) == 1 else f"<section>{''.join(one)}</section>" for one in nested)


def to_html(text: str) -> str:
    """Markdown with tables, formulas and raw HTML."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    reader = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin)  # TeX in the class math
    return reader.render(text)


class ExecutedPages:
    """Numbers and figures of the executed notebooks in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outputs: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def fill(self, text: str) -> str:
        """Markdown with each reference to a number or figure replaced by it."""
        text = NUMBER.sub(lambda asked: html.escape(format(self.value(asked[1], asked[2]), asked[3])), text)
        return FIGURE.sub(lambda asked: self.picture(asked[2], asked[3], asked[1], bool(asked[4])), text)

    def outputs(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """The outputs of a notebook, each with the name of its cell's figure, which may be empty."""
        if name not in self._outputs:
            path = self.folder / f"{name}.ipynb"
            if not path.exists():
                raise UserError(f"{path} is missing; run `ctrlib study --profile {self.folder.name}` first")
            self._outputs[name] = [
                (cell.metadata.get("mystnb", {}).get("figure", {}).get("name", ""), output)
                for cell in nbformat.read(path, as_version=4).cells
                for output in cell.get("outputs", [])
            ]
        return self._outputs[name]

    def value(self, name: str, key: str) -> Any:
        """A number or a text that a notebook published."""
        found = {}
        for _, output in self.outputs(name):
            record = output.get("metadata", {}).get("scrapbook", {})
            text = output.get("data", {}).get(record.get("mime_prefix", "") + "text/plain")
            if record and text is not None:
                found[record["name"]] = text
        if key not in found:
            raise unknown(f"value of {name}", key, sorted(found))
        return float("nan") if found[key] == "nan" else ast.literal_eval(found[key])

    def picture(self, name: str, figure: str, alt: str, in_steps: bool = False) -> str:
        """A figure of a notebook as an image that is part of the file, or as one on top of the other for each step."""
        figures: dict[str, str] = {}
        for label, output in self.outputs(name):
            if label and (drawing := output.get("data", {}).get("image/svg+xml")):
                figures.setdefault(label, drawing)
        if figure not in figures:
            raise unknown(f"figure of {name}", figure, sorted(figures))
        if not in_steps:
            return as_image(figures[figure], alt)
        last = max(map(int, re.findall(r'id="step-(\d)', figures[figure])), default=1)
        images = [
            as_image(up_to_step(figures[figure], step, last), f"{alt}: {step} of {last}", "fragment" * (step > 1))
            for step in range(1, last + 1)
        ]
        return f'<div class="steps">{"".join(images)}</div>'


def up_to_step(drawing: str, step: int, last: int) -> str:
    """An SVG without its parts of later steps."""
    later = ", ".join(f'[id^="step-{n}"]' for n in range(step + 1, last + 1))
    hidden = f"<style>{later} {{ display: none }}</style>" if later else ""
    return re.sub(r"<svg[^>]*>", lambda opening: opening[0] + hidden, drawing, count=1)


def as_image(drawing: str, alt: str, kind: str = "") -> str:
    """An SVG as an image that is part of the file."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}"{f" class={kind}" if kind else ""}>'
