"""The book as one PDF."""

import re
from pathlib import Path

import pytest
from browser import needs_browser
from bs4 import BeautifulSoup

from ctrlib.cli import main
from ctrlib.errors import UserError
from ctrlib.publish.pdf import one_document, print_book

PAGE = """<html><body><div class="logo__title">A book</div><p class="component-author">By someone</p>
<nav class="bd-links"><a class="reference" href="#">Start</a><p class="caption">Part one</p>
<a class="reference" href="loss.html">1. The loss</a><a class="reference" href="../notebooks/01_x.html">2. Runs</a>
</nav>
<article class="bd-article"><h1 id="top">{title}<a class="headerlink" href="#top">#</a></h1><button>Copy</button>
<a href="loss.html#top">the loss</a> <a href="../_static/x.csv">data</a> <a href="#top">up</a>
<a href="https://example.org">away</a><p class="downloads">SVG</p><details class="hide">code</details>
<details><summary>Solution</summary>Yes.</details><noscript>words</noscript><script>1</script>
<svg class="drawing"><path id="p"/><use xlink:href="#p" clip-path="url(#p)"/></svg></article></body></html>"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of three pages, as far as printing looks at it."""
    for name in ("book/intro", "book/loss", "notebooks/01_x"):
        path = tmp_path / "html" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(title=name), encoding="utf-8")
    return tmp_path / "html"


def check(document: BeautifulSoup, files: set[str]) -> None:
    """Every page once and in order, every link to a place inside, nothing that only a screen can use."""
    pages = [section["id"] for section in document.select("section.page")]
    assert set(pages) == files
    assert len(pages) == len(set(pages))
    assert pages[0] == "book-intro"
    assert [link["href"][1:] for link in document.select("nav a")] == pages
    ids = [one["id"] for one in document.select("[id]")]
    assert len(ids) == len(set(ids))
    inside = [link["href"] for link in document.select("a[href]") if not link["href"].startswith("http")]
    assert [href for href in inside if href[1:] not in ids] == []
    used = re.findall(r"url\(#([^)]+)\)", str(document)) + [use["xlink:href"][1:] for use in document.select("use")]
    assert used
    assert set(used) <= set(ids)
    assert document.select("button, .headerlink, details.hide, noscript, .downloads") == []
    assert all("open" in one.attrs for one in document.select("details"))
    assert len(document.select("h1")) == len(document.select("h1.part"))


def test_pages_become_one_document(book):
    document = BeautifulSoup(one_document(book), "html.parser")
    check(document, {"book-intro", "book-loss", "notebooks-01_x"})
    section = document.select_one("#notebooks-01_x")
    assert section.h2["id"] == "notebooks-01_x--top"
    links = [link["href"] for link in section.select("a")]  # a link to a file, or to a page that is none, is text
    assert links == ["#notebooks-01_x--top", "https://example.org"]
    assert document.select_one("#book-loss a")["href"] == "#book-loss--top"
    assert "words" in section.text
    assert section.path["id"] == "notebooks-01_x--p"


def test_exercises_alone_are_a_document_of_the_pages_that_have_any(book):
    loss = book / "book" / "loss.html"
    one = '<div class="exercise"><p>Why?</p><details class="solution">So.</details></div></article>'
    loss.write_text(loss.read_text(encoding="utf-8").replace("</article>", one), encoding="utf-8")
    document = BeautifulSoup(one_document(book, exercises=True), "html.parser")
    (page,) = document.select("section.page")
    assert page["id"] == "book-loss"
    assert page.get_text() == "book/lossWhy?So."
    assert "open" in page.details.attrs
    assert document.title.text == "A book: exercises and their solutions"


@needs_browser
def test_it_is_printed_with_bookmarks(book, tmp_path):
    content = print_book(book, tmp_path / "a folder" / "book.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Outlines" in content
    assert not (book / "book" / "_print.html").exists()


@pytest.mark.long
@needs_browser
def test_the_whole_book_is_printed(built_book, tmp_path):
    files = {
        f"{p.parent.name}-{p.stem}" for folder in ("book", "notebooks") for p in built_book.glob(f"{folder}/*.html")
    }
    document = BeautifulSoup(one_document(built_book), "html.parser")
    check(document, files)
    assert len(document.select("svg.drawing")) > 20
    content = print_book(built_book, tmp_path / "book.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", content)) > len(files) / 2


def test_what_is_missing_is_said_in_one_line(book, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="no rendered book here; `make book` makes one"):
        print_book(tmp_path, tmp_path / "book.pdf")
    monkeypatch.setenv("PATH", str(tmp_path))
    for browser, reason in {"": "printing needs Chromium or Chrome", "/no/such": "did not print the book"}.items():
        monkeypatch.setenv("CTR_BROWSER", browser)
        with pytest.raises(UserError, match=reason):
            print_book(book, tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()
    monkeypatch.setattr("ctrlib.data.folders.project_root", lambda: tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["pdf"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
