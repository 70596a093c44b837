"""Each notebook's page says where its source is: in the book, and at services where there is a public address."""

import json

import open_notebook
import pytest
from pages import ROOT, build_site

CONF = """
extensions = ["myst_parser", "open_notebook"]
html_theme = "sphinx_book_theme"
html_theme_options = {options!r}
"""


@pytest.mark.parametrize("address", ["", "https://github.com/someone/study"])
def test_links_to_services_only_where_there_is_an_address(tmp_path, address):
    start = "# Start\n\n```{toctree}\nnotebooks/02_x\n```\n"
    pages = {"index.md": start, "notebooks/02_x.md": "# A notebook\n\nText.\n"}
    options = {"repository_url": address, "repository_branch": "main"} if address else {}
    html, warnings = build_site(tmp_path, pages, CONF.format(options=options))
    assert not warnings
    page = (html / "notebooks" / "02_x.html").read_text(encoding="utf-8")
    assert 'href="../_static/notebooks/02_x.ipynb" download' in page
    wanted = {
        "https://colab.research.google.com/github/someone/study/blob/main/notebooks/02_x.ipynb",
        "https://mybinder.org/v2/gh/someone/study/main?urlpath=lab%2Ftree%2Fnotebooks%2F02_x.ipynb",
        "https://github.com/someone/study/blob/main/notebooks/02_x.ipynb",
    }
    assert {href for href in wanted if f'href="{href}"' in page} == (wanted if address else set())
    assert ("colab" in page) is bool(address)
    assert "open-notebook" not in (html / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("https://github.com/a/b.git", ["Colab", "Binder (JupyterLab)", "GitHub"]),
        ("https://gitlab.com/a/b", ["Binder (JupyterLab)"]),
        ("https://git.example.org/a/b", ["Binder (JupyterLab)"]),
    ],
)
def test_services_by_host(address, names):
    found = open_notebook.services(address, "main", "notebooks/x.ipynb")
    assert [name for name, _ in found] == names
    assert not any(".git/" in link for _, link in found)


def test_every_notebook_of_the_book_is_offered(built_book):
    offered = sorted((built_book / "_static" / "notebooks").glob("*.ipynb"))
    assert [path.name for path in offered] == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    for path in offered:
        text = path.read_text(encoding="utf-8")
        assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])
        assert 'class=\\"solution\\"' not in text
