"""Things to try on a page, by scripts of the book's own and without a network.

    ```{play} coupling          a stage for ``_static/play_coupling.js``; the content is shown where scripts do not run
    Text for readers whose browser runs no scripts.
    ```

    ```{chart} fig-02-effects   inside a container with a glued figure: its data, with which ``_static/chart.js`` draws
    ```                         the figure again so that it answers to pointer and keyboard

Only pages that use a script load it.
"""

import csv
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

STAGES = ("coupling", "auc")


class Play(SphinxDirective):
    """``play``: see the head of this file."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The stage, empty until its script fills it, with the content for those without scripts."""
        name = self.arguments[0]
        if name not in STAGES:
            raise self.error(f"play: {name} is none of {', '.join(STAGES)}")
        self.assert_has_content()
        _ask_for(self.env, "play.js", f"play_{name}.js")
        opening = f'<div class="play" data-play="{name}"><noscript>'
        instead = self.parse_content_to_nodes()
        return [nodes.raw("", opening, format="html"), *instead, nodes.raw("", "</noscript></div>", format="html")]


class Chart(SphinxDirective):
    """``chart``: see the head of this file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The figure's data as JSON inside the page: a page opened from disk may not read other files."""
        path = Path(self.env.srcdir) / "book" / "_static" / "data" / f"{self.arguments[0]}.csv"
        if not path.is_file():
            raise self.error(f"chart: no figure {self.arguments[0]} with data")
        _ask_for(self.env, "play.js", "chart.js")
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [{name: number(value) for name, value in row.items()} for row in csv.DictReader(lines)]
        data = json.dumps(rows, allow_nan=False).replace("<", "\\u003c")  # no text of a name can end the script
        return [nodes.raw("", f'<script type="application/json" class="chart-data">{data}</script>', format="html")]


def number(text: str) -> float | str | None:
    """A field of a CSV file: a number where it is one, nothing where it is empty."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _ask_for(env, *scripts: str) -> None:
    wanted = env.metadata[env.docname].setdefault("scripts", [])
    wanted += [script for script in scripts if script not in wanted]


def _load(app, pagename, templatename, context, doctree):
    for script in app.env.metadata.get(pagename, {}).get("scripts", []):
        app.add_js_file(script, loading_method="defer")


def setup(app):
    app.add_directive("play", Play)
    app.add_directive("chart", Chart)
    app.add_css_file("play.css")
    app.connect("html-page-context", _load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
