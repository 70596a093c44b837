"""Below the first section of a notebook's page, which has the answer: where its source can be had and opened.

The source (no outputs, no solutions) lies in the book and can be saved without a network. Links to services that run it
stand there only where ``repository: url`` of ``_config.yml`` names a public address: no button leads nowhere.
"""

from urllib.parse import quote

from docutils import nodes
from markupsafe import escape

COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"


def services(url: str, branch: str, path: str) -> list[tuple[str, str]]:
    """Name and address of everything that opens the file ``path`` of a public repository."""
    url = url.rstrip("/").removesuffix(".git")
    if not url:
        return []
    branch, shown = quote(branch or "main"), quote(path)
    host, _, name = url.removeprefix("https://").partition("/")
    kind = {"github.com": f"gh/{name}", "gitlab.com": f"gl/{quote(name, safe='')}"}.get(
        host, f"git/{quote(url, safe='')}"
    )
    found = [("Binder (JupyterLab)", f"{BINDER}/v2/{kind}/{branch}?urlpath={quote('lab/tree/' + path, safe='')}")]
    if host == "github.com":
        found.insert(0, ("Colab", f"{COLAB}/github/{name}/blob/{branch}/{shown}"))
        found.append(("GitHub", f"{url}/blob/{branch}/{shown}"))
    return found


def line(docname: str, url: str, branch: str) -> str:
    """The line as HTML."""
    name = f"{docname.rpartition('/')[2]}.ipynb"
    links = [f'<a href="../_static/notebooks/{name}" download>download it</a>']
    links += [
        f'<a href="{escape(address)}">{where}</a>' for where, address in services(url, branch, f"{docname}.ipynb")
    ]
    local = f"<code>jupyter lab notebooks/{name}</code> in a copy of the project"
    return f'<p class="open-notebook">The notebook itself, ready to run: {", ".join(links)}, or {local}.</p>'


def _add(app, doctree, docname):
    if app.builder.format != "html" or not docname.startswith("notebooks/"):
        return
    page = next(doctree.findall(nodes.section), None)
    if page is not None:
        options = app.config.html_theme_options
        text = line(docname, options.get("repository_url") or "", options.get("repository_branch") or "")
        parts = [n for n, part in enumerate(page.children) if isinstance(part, nodes.section)]
        page.insert(min(parts, default=len(page.children)), nodes.raw("", text, format="html"))


def setup(app):
    app.connect("doctree-resolved", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
