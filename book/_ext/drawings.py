"""Put SVG figures into the page itself, so that they follow its colours, and offer each with its data.

An ``<img>`` knows nothing of the page around it; inside the page an SVG can use its variables. Every colour for which
``_static/figures.css`` has a variable (``--fig-0072b2`` for ``#0072b2``) becomes that variable, with the colour itself
as fallback: the stylesheet alone says what a colour is in the dark. :mod:`ctrlib.publish.book` wrote the name under
which figure and data lie in ``_static/data`` into the drawing.

MyST-NB can place a figure of a notebook on another page, but only as a bare image. Put it and one paragraph inside a
container with the class ``glued-figure``: the paragraph is shown as the caption and read out as its description.
"""

import re
from pathlib import Path

from docutils import nodes
from markupsafe import escape

LEAST = 5 / 6  # pixels per point of a drawing: words have 9 pixels, and one of usual width fits a window of 400
STYLES = Path(__file__).parent.parent / "_static" / "figures.css"
KNOWN = frozenset(re.findall(r"--fig-([0-9a-f]{6}):", STYLES.read_text(encoding="utf-8")))


class drawing(nodes.General, nodes.Element):
    """An SVG inside a page; ``markup`` holds it."""


def recolour(svg: str) -> str:
    """Colours as variables of the page; a white edge is the paper's colour, a white filling or word stays white."""
    svg = re.sub(r"stroke: #ffffff\b", "stroke: var(--fig-paper, #ffffff)", svg)

    def variable(match: re.Match) -> str:
        name = match[1].lower()
        return f"var(--fig-{name}, #{name})" if name in KNOWN else match[0]

    return re.sub(r"(?<=: )#([0-9a-fA-F]{6})\b", variable, svg)


def inline(svg: str, alternative: str, number: str) -> str:
    """The markup of a drawing: its own names for its parts, a text that describes it, and short coordinates."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<g id=\"(?:patch|line2d|text|xtick|ytick|axes|figure)_\d+\">", "<g>", svg)
    svg = re.sub(r'\bid="', f'id="{number}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{number}-", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = recolour(re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL))
    least = LEAST * float(re.search(r'viewBox="\S+ \S+ (\S+)', svg)[1])
    opening = f'<svg class="drawing" role="img" aria-label="{escape(alternative)}" style="min-width: {least:.0f}px" '
    svg = svg.replace("<svg ", opening, 1)
    return f'<div class="drawing-box">{svg}</div>'


def links(svg: str) -> str:
    """Where the figure and its data can be had, if its name is known."""
    named = re.search(r'data-name="([\w.-]+)"', svg)
    if not named:
        return ""
    href = f"../_static/data/{named[1]}"
    return (
        f'<p class="downloads">Download: <a href="{href}.svg" download>figure (SVG)</a>, '
        f'<a href="{href}.csv" download>data (CSV)</a></p>'
    )


def _describe(doctree, docname):
    """Give every image a text: what is drawn, as its cell says, then its caption, which says the finding; else the
    place on its page."""
    boxes = [(box, nodes.paragraph) for box in doctree.findall(nodes.container) if "glued-figure" in box["classes"]]
    for box, kind in [*boxes, *((figure, nodes.caption) for figure in doctree.findall(nodes.figure))]:
        caption = next(iter(box.findall(kind)), None)
        for image in box.findall(nodes.image) if caption is not None else ():
            image["alt"] = ". ".join(filter(None, (image.get("alt"), caption.astext())))
    title = next((title.astext() for title in doctree.findall(nodes.title)), docname)
    for count, image in enumerate(doctree.findall(nodes.image), start=1):
        image["alt"] = image.get("alt") or f"Figure {count} of the page “{title}”"


def _place(app, doctree, docname):
    _describe(doctree, docname)
    if app.builder.format != "html":
        return
    found = [node for node in doctree.findall(nodes.image) if node["uri"].endswith(".svg")]
    found += [node for node in doctree.findall(nodes.raw) if node.astext().lstrip().startswith("<svg")]
    for count, node in enumerate(found, start=1):
        if isinstance(node, nodes.raw):
            svg, caption = node.astext(), next(iter(node.parent.findall(nodes.paragraph)), None)
            alternative = caption.astext() if caption is not None else f"Figure of another page, in {docname}"
        else:
            path = Path(app.srcdir) / node["uri"]
            if not path.is_file():
                continue
            svg, alternative = path.read_text(encoding="utf-8"), node.get("alt", "")
        offer = nodes.raw("", links(svg), format="html")
        figure, picture = node.parent, drawing(markup=inline(svg, alternative, f"d{count}"))
        node.replace_self([picture] if isinstance(figure, nodes.figure) else [picture, offer])
        if isinstance(figure, nodes.figure):
            figure.append(offer)


def _show(translator, node):
    translator.body.append(node["markup"])
    raise nodes.SkipNode


def setup(app):
    app.add_node(drawing, html=(_show, None))
    app.add_css_file("figures.css")
    app.connect("doctree-resolved", _place, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
