"""The book as one PDF."""

import re
from pathlib import Path

import pytest
from browser import BROWSER, NO_BROWSER
from bs4 import BeautifulSoup

from ctrlib.cli import main
from ctrlib.errors import UserError
from ctrlib.publish.pdf import one_document, print_book


@pytest.fixture(scope="module")
def document(built_book):
    return BeautifulSoup(one_document(Path(built_book)), "html.parser")


def test_every_page_is_in_it_once_and_in_order(built_book, document):
    ids = [section["id"] for section in document.select("section.page")]
    files = {
        f"{path.parent.name}-{path.stem}"
        for name in ("book", "notebooks")
        for path in (built_book / name).glob("*.html")
    }
    assert set(ids) == files
    assert len(ids) == len(set(ids))
    assert ids[0] == "book-intro"
    assert [link["href"][1:] for link in document.select("nav a")] == ids


def test_links_inside_lead_somewhere_and_parts_have_names_of_their_own(document):
    ids = [one["id"] for one in document.select("[id]")]
    assert len(ids) == len(set(ids))
    inside = [link["href"] for link in document.select("a[href]") if not link["href"].startswith("http")]
    assert len(inside) > 100
    assert [href for href in inside if href[1:] not in ids] == []
    used = re.findall(r"url\(#([^)]+)\)", str(document)) + [use["xlink:href"][1:] for use in document.select("use")]
    assert used
    assert set(used) <= set(ids)


def test_paper_has_no_buttons_and_no_folded_parts(document):
    assert document.select("button, .headerlink, details.hide, noscript, .downloads") == []
    assert all("open" in one.attrs for one in document.select("details"))
    assert len(document.select("svg.drawing")) > 20
    assert len(document.select("h1")) == len(document.select("h1.part"))


@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_it_is_printed_with_bookmarks(built_book, tmp_path):
    pdf = print_book(Path(built_book), tmp_path / "a folder" / "book.pdf")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Outlines" in content
    assert len(re.findall(rb"/Type /Page\b", content)) > len(list(built_book.glob("*/*.html"))) / 2
    assert not (built_book / "book" / "_print.html").exists()


def test_what_is_missing_is_said_in_one_line(built_book, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no rendered book here; `make book` makes one"):
        print_book(tmp_path, tmp_path / "book.pdf")
    monkeypatch.setenv("CTR_BROWSER", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="printing needs Chromium or Chrome"):
        print_book(Path(built_book), tmp_path / "book.pdf")
    monkeypatch.setenv("CTR_BROWSER", "/no/such/browser")
    with pytest.raises(UserError, match="did not print the book"):
        print_book(Path(built_book), tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()


def test_the_command_says_it_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("ctrlib.data.folders.project_root", lambda: tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["pdf"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
