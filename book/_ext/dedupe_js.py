"""Keep each inline script of a page once.

Jupyter Book and its theme both register the small block that sets up live-code constants. Two copies of a ``const``
in one page are a syntax error in every browser console, so later copies of an identical block are dropped.
"""


def _keep_first(app, pagename, templatename, context, doctree):
    kept = {}
    for script in context.get("script_files", []):
        kept.setdefault(getattr(script, "attributes", {}).get("body") or script, script)
    context["script_files"] = list(kept.values())


def setup(app):
    app.connect("html-page-context", _keep_first, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
