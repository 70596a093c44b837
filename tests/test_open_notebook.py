"""Each notebook's page says where its source is: in the book, and at services where there is a public address."""

import json

import open_notebook
import pytest
from pages import ROOT, build_site

from ctrlib.publish.downloads import offer_source

CONF = """
extensions = ["myst_parser", "open_notebook"]
html_theme = "sphinx_book_theme"
html_theme_options = {options!r}
"""
SOLVED = 'Text.\n\n<details class="solution"><summary>Solution</summary>\n\nThe answer.\n\n</details>\n'


@pytest.mark.parametrize("address", ["", "https://github.com/someone/study"])
def test_links_to_services_only_where_there_is_an_address(tmp_path, address):
    pages = {
        "index.md": "# Start\n\n```{toctree}\nnotebooks/02_x\n```\n",
        "notebooks/02_x.md": "# A notebook\n\nText.\n",
    }
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


ALL = ["Colab", "Binder (JupyterLab)", "GitHub"]
HOSTS = {"https://github.com/a/b.git": ALL, "https://gitlab.com/a/b": ALL[1:2], "https://git.example.org/a/b": ALL[1:2]}


def test_services_by_host():
    for address, names in {**HOSTS, "": []}.items():
        found = open_notebook.services(address, "main", "notebooks/x.ipynb")
        assert [name for name, _ in found] == names
        assert not any(".git/" in link for _, link in found)


def test_what_is_offered_has_neither_outputs_nor_solutions(tmp_path):
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": SOLVED.splitlines(keepends=True)}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    source = tmp_path / "02_x.ipynb"
    source.write_text(json.dumps(notebook))
    offer_source(source, tmp_path / "out")
    offered = (tmp_path / "out" / "02_x.ipynb").read_text()
    assert "Text." in offered
    assert "The answer" not in offered
    assert "The answer" in source.read_text()


def test_every_notebook_of_the_book_is_offered(built_book):
    offered = sorted((built_book / "_static" / "notebooks").glob("*.ipynb"))
    assert [path.name for path in offered] == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    for path in offered:
        text = path.read_text(encoding="utf-8")
        assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])
        assert 'class=\\"solution\\"' not in text
