"""Things to try on a page, by scripts of the book's own and without a network.

    ```{play} coupling          a stage for ``_static/play_coupling.js``; the content is shown where scripts do not run
    Text for readers whose browser runs no scripts.
    ```

Only pages that use a script load it.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

STAGES = ("coupling", "auc", "train")


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


def _ask_for(env, *scripts: str) -> None:
    wanted = env.metadata[env.docname].setdefault("scripts", [])
    wanted += [script for script in scripts if script not in wanted]


def _load(app, pagename, templatename, context, doctree):
    for script in app.env.metadata.get(pagename, {}).get("scripts", []):
        app.add_js_file(script, loading_method="defer")


def setup(app):
    app.add_directive("play", Play)
    app.add_css_file("play.css")
    app.connect("html-page-context", _load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
