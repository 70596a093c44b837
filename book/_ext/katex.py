"""Formulas by KaTeX, from a copy inside the book: a quarter of what MathJax weighs, and quick on a weak laptop.

Sphinx writes each formula as TeX into an element of the class ``math``; ``_static/katex.js`` sets those and nothing
else, so dollar signs in names that come from data stay what they are. Without scripts the TeX can be read.
"""

from docutils import nodes
from sphinx.util.math import get_node_equation_number

FILES = ("vendor/katex/katex.min.css", "vendor/katex/katex.min.js", "katex.js")


def inline(translator, node):
    """``<span class="math">`` with TeX inside."""
    opening = translator.starttag(node, "span", "", CLASS="math notranslate nohighlight")
    translator.body.append(f"{opening}{translator.encode(node.astext())}</span>")
    raise nodes.SkipNode


def display(translator, node):
    """``<div class="math">`` with TeX inside; lines broken by a double backslash stand below each other."""
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})</span>')
    tex = node.astext().strip()
    if not node["nowrap"] and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    opening = translator.starttag(node, "div", "", CLASS="math notranslate nohighlight")
    translator.body.append(f"{opening}{translator.encode(tex)}</div>\n")
    raise nodes.SkipNode


def _load(app, pagename, templatename, context, doctree):
    """Only pages with a formula pay for it."""
    if doctree is None or not next(doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block)), None):
        return
    sheet, *scripts = FILES
    app.add_css_file(sheet)
    for script in scripts:
        app.add_js_file(script, loading_method="defer")


def setup(app):
    app.add_html_math_renderer("katex", (inline, None), (display, None))
    app.connect("html-page-context", _load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
