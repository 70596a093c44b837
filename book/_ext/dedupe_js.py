"""Keep each inline script of a page once.

Jupyter Book and its theme both register the small block that sets up live-code constants. Two copies of a ``const``
in one page are a syntax error in every browser console, so later copies of an identical block are dropped.
"""


def _keep_first(app, pagename, templatename, context, doctree):
    seen = set()
    kept = []
    for script in context.get("script_files", []):
        body = (getattr(script, "attributes", None) or {}).get("body")
        if body is not None and body in seen:
            continue
        if body is not None:
            seen.add(body)
        kept.append(script)
    if "script_files" in context:
        context["script_files"] = kept


def setup(app):
    app.connect("html-page-context", _keep_first, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
