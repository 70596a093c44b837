"""The whole book as one PDF: its pages in one document, printed by Chromium or Chrome without a window.

No LaTeX is needed; formulas and figures are those of the pages. Contents and links between pages work inside the PDF,
and its headings become bookmarks.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from bs4 import BeautifulSoup, Tag

from ctrlib.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer", "--generate-pdf-document-outline",
    "--virtual-time-budget=60000",
)  # fmt: skip
SHEETS = ("pygments.css", "vendor/katex/katex.min.css", "figures.css", "quiz.css", "print.css")
SCRIPTS = ("vendor/katex/katex.min.js", "katex.js")
# of no use on paper: buttons, links to files, folded code, scripts
SCREEN_ONLY = "a.headerlink, script, button, .downloads, .open-notebook, details.hide, .onlyprint"
EXERCISE = "div.exercise"
PATIENCE_S = 300


@dataclass(frozen=True)
class Page:
    """A page of the book: its part, its numbered title, and its file."""

    part: str
    title: str
    path: Path

    @property
    def name(self) -> str:
        """Its anchor in the one document, and the beginning of its own anchors."""
        return f"{self.path.parent.name}-{self.path.stem}"


def find_browser() -> str | None:
    """The path of Chromium or Chrome: ``CTR_BROWSER`` if that is set, else the first that is found."""
    return os.environ.get("CTR_BROWSER") or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def print_book(html: Path, pdf: Path, exercises: bool = False) -> Path:
    """Print the rendered book in the folder ``html``, or its exercises with their solutions, to the file ``pdf``.

    Raises:
        UserError: there is no rendered book, no browser, or the browser wrote nothing.
    """
    if not (html / "book" / "intro.html").is_file():
        raise UserError(f"{html}: no rendered book here; `make book` makes one")
    browser = find_browser()
    if browser is None:
        raise UserError("printing needs Chromium or Chrome: install one, or name it in CTR_BROWSER; no PDF was made")
    document = html / "book" / "_print.html"  # beside the pages, so that what they load is found
    document.write_text(one_document(html, exercises), encoding="utf-8")
    pdf.parent.mkdir(parents=True, exist_ok=True)
    pdf.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--print-to-pdf={pdf}", document.as_uri()]
            subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{browser} did not print the book ({type(error).__name__}); no PDF was made") from None
    finally:
        document.unlink(missing_ok=True)
    if not pdf.is_file():
        raise UserError(f"{browser} wrote no file; is it a Chromium or Chrome of the last years?")
    return pdf


def one_document(html: Path, exercises: bool = False) -> str:
    """All pages, or the exercises of those that have any, as one HTML document with a title page and contents."""
    first = read(html / "book" / "intro.html")
    pages = listed(first, html / "book")
    if exercises:
        pages = [page for page in pages if read(page.path).select_one(EXERCISE)]
    names = {page.path.resolve(): page.name for page in pages}
    title, author = first.select_one(".logo__title").get_text(strip=True), first.select_one('[class*="author"]')
    title += ": exercises and their solutions" if exercises else ""
    body = [f'<header><p class="book-title">{title}</p><p>{author.get_text(strip=True) if author else ""}</p></header>']
    contents, part = ['<nav><p class="book-contents">Contents</p><ul>'], None
    for page in pages:
        if page.part != part:
            part = page.part
            contents.append(f'<li class="part">{part}</li>' if part else "")
            body.append(f'<h1 class="part">{part}</h1>' if part else "")
        contents.append(f'<li><a href="#{page.name}">{page.title}</a></li>')
        body.append(f'<section class="page" id="{page.name}">{content(page, names, exercises)}</section>')
    body.insert(1, "".join([*contents, "</ul></nav>"]))
    head = [f'<link rel="stylesheet" href="../_static/{sheet}">' for sheet in SHEETS]
    head += [f'<script defer src="../_static/{script}"></script>' for script in SCRIPTS]
    opening = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    return "".join([opening, *head, "</head><body>", *body, "</body></html>"])


def read(path: Path) -> BeautifulSoup:
    """A page, parsed."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def listed(page: BeautifulSoup, folder: Path) -> list[Page]:
    """The pages in reading order, as the navigation of a page in ``folder`` lists them."""
    pages, part = [], ""
    for one in page.select("nav.bd-links p.caption, nav.bd-links a.reference"):
        if one.name == "p":
            part = one.get_text(strip=True)
            continue
        target = folder / one["href"].partition("#")[0] if not one["href"].startswith("#") else folder / "intro.html"
        pages.append(Page(part, one.get_text(strip=True), target))
    return pages


def content(page: Page, names: dict[Path, str], exercises: bool) -> str:
    """The article of a page, or its exercises, for paper: no controls, headings one level down, anchors of its own."""
    article = read(page.path).select_one("article.bd-article")
    if exercises:
        kept = article.select(f"h1, {EXERCISE}")
        article.clear()
        article.extend(kept)
    for one in article.select(SCREEN_ONLY):
        one.decompose()
    for one in article.select("details"):
        one["open"] = ""
    for one in article.select("noscript"):
        one.unwrap()
    for level in (5, 4, 3, 2, 1):
        for heading in article.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    for one in article.select("[id]"):
        one["id"] = f"{page.name}--{one['id']}"
    for one in article.select("svg *"):  # parts of a drawing point at each other
        for key, value in one.attrs.items():
            if isinstance(value, str):
                one[key] = re.sub(r"(url\(#|^#)", rf"\g<1>{page.name}--", value)
    for link in article.select("a[href]"):
        relink(link, page, names)
    return article.decode_contents()


def relink(link: Tag, page: Page, names: dict[Path, str]) -> None:
    """A link to a page of the book leads into this document; one to another file is mere text."""
    address = urlparse(link["href"])
    if address.scheme:
        return
    target = (page.path.parent / address.path).resolve() if address.path else page.path.resolve()
    if target in names:
        link["href"] = f"#{names[target]}" + (f"--{address.fragment}" if address.fragment else "")
    else:
        link.unwrap()
