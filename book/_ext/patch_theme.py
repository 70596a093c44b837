"""Mend the finished pages where the theme and its helpers stand in a reader's way.

Each patch says why it is there. One that no longer finds its place gives a warning, and a warning ends a strict build:
a newer theme is looked at again and not silently left unmended.
"""

import re
from pathlib import Path

from sphinx.util import logging

LOG = logging.getLogger(__name__)

PATCHES = {
    # 1.5 MB of script, on every page, to draw a dozen icons that the theme's icon font has as well.
    "icon script": (r'\s*<!-- So that users[^>]*-->\s*<script defer src="[^"]*fontawesome\.js[^"]*"></script>', ""),
    # A name that differs from the words on a control is not understood by whoever speaks to a computer (WCAG 2.5.3).
    "search button": (r'(<button class="btn search-button-field[^>]*?) title="Search" aria-label="Search"', r"\1"),
    # A list whose children are no list items, and an obsolete role.
    "bibliography": (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    "bibliography's entries": (r' role="doc-biblioentry"', ""),
    # A second heading of the first level on every page, for paper only.
    "printed title": (r'(id="jb-print-docs-body" class="onlyprint">\s*)<h1>(.*?)</h1>', r'\1<p class="h1">\2</p>'),
    "header cells": (r'<th class="head', '<th scope="col" class="head'),
    "fold": (r'<summary aria-label="Toggle hidden content">', "<summary>"),
}

# The theme's stylesheet names two thousand icons, 70 kB on every page; those that the pages use are in icons.css.
ICON_NAMES = re.compile(r'\.fa-[\w-]+(?:,\.fa-[\w-]+)*:before\{content:"[^"]*"\}')
OURS = Path(__file__).parent.parent / "_static" / "icons.css"
USED = re.compile(r'class="(?=[^"]*\bfa-solid\b)([^"]*)"')
MANNERS = {"fa-solid", "fa-lg"}  # classes that name no icon


def mend(page: str) -> tuple[str, set[str]]:
    """The page, and the names of the patches that found something to mend."""
    found = set()
    for name, (pattern, replacement) in PATCHES.items():
        page, count = re.subn(pattern, replacement, page)
        found |= {name} if count else set()
    return page, found


def _mend_all(app, exception):
    if exception or app.builder.format != "html":
        return
    found, used = set(), set()
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.parts:
            page, here = mend(path.read_text(encoding="utf-8"))
            path.write_text(page, encoding="utf-8")
            found |= here
            used |= {name for names in USED.findall(page) for name in names.split() if name.startswith("fa-")}
    for name in used - MANNERS - set(re.findall(r"fa-[\w-]+", OURS.read_text(encoding="utf-8"))):
        LOG.warning("patch_theme: the icon %s is not in icons.css", name)
    sheet = Path(app.outdir) / "_static" / "styles" / "pydata-sphinx-theme.css"
    short, count = ICON_NAMES.subn("", sheet.read_text(encoding="utf-8"))
    sheet.write_text(short, encoding="utf-8")
    found |= {"icon names"} if count else set()
    for name in {*PATCHES, "icon names"} - found:
        LOG.warning("patch_theme: nothing to mend for %r; does the theme do without it now?", name)


def setup(app):
    app.connect("build-finished", _mend_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
