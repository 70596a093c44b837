"""The rendered book in a real browser, opened from disk with the network cut off.

Each page is visited once, and the tests look at what was noted there: one page in the usual run, all in the long one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from browser import PHONE, needs_browser

pytestmark = needs_browser

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": ["color-contrast", "link-in-text-block"],
}
MOST_BYTES = 1_500_000  # of a page with all that it loads
TYPESET = """(() => ({
  raw: [...document.querySelectorAll('.math')].filter(e => !e.querySelector('.katex')).length,
  bad: document.querySelectorAll('.katex-error').length,
  lost: [...document.fonts].filter(f => f.status === 'error').map(f => f.family),
  broken: [...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).map(i => i.src),
  title: document.title.trim(),
}))()"""
LINKS = """(() => ({
  links: [...document.querySelectorAll('a[href]')].map(a => a.href).filter(h => h.startsWith('file:')),
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
}))()"""
# All rules in the light; in the dark only what the colours change. The inside of a formula is KaTeX's own.
BARRIERS = """(async () => {
  const rules = RULES, found = await axe.run({exclude: ['.katex']}, {resultTypes: ['violations'], runOnly: rules});
  return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => v.id + ': ' + v.nodes.map(n => n.html.slice(0, 160)).slice(0, 3).join(' | '));
})()"""
# Whoever walks through a page with the Tab key: where the focus has been, and where it could not be seen.
WALK = """(() => {
  const walk = window.walk = {seen: new Set(), unseen: []};
  document.activeElement?.blur();
  document.addEventListener('focusin', event => {
    const e = event.target, ringed = one => {
      const style = getComputedStyle(one), box = one.getBoundingClientRect();
      return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 && box.width && box.height;
    };
    walk.seen.add(e);
    if (![e, e.closest('.sd-card'), e.closest('form')].some(one => one && ringed(one)))
      walk.unseen.push(e.outerHTML.slice(0, 120));
  });
})()"""
WALKED = """(() => {
  const can = 'a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex="-1"])';
  const groups = new Set();
  const missed = [...document.querySelectorAll(can)].filter(e => {
    if (e.disabled || e.tabIndex < 0 || !e.checkVisibility({visibilityProperty: true})) return false;
    if (e.type === 'radio') {  // one stop for a group; arrows move inside it
      if (groups.has(e.name)) return false;
      groups.add(e.name);
      return ![...document.getElementsByName(e.name)].some(other => walk.seen.has(other));
    }
    return !walk.seen.has(e);
  });
  return {missed: missed.map(e => e.outerHTML.slice(0, 120)), unseen: walk.unseen, count: walk.seen.size};
})()"""


@dataclass
class Visit:
    """What was noted on one page."""

    problems: list = field(default_factory=list)
    links: list = field(default_factory=list)
    ids: set = field(default_factory=set)
    barriers: dict = field(default_factory=dict)  # theme -> lines
    missed: list = field(default_factory=list)  # what the Tab key does not reach
    unseen: list = field(default_factory=list)  # where the focus does not show
    stops: int = 0
    too_wide: dict = field(default_factory=dict)  # theme -> width
    loads: dict = field(default_factory=dict)  # file -> bytes


def _pages(book):
    """All content pages and the two service pages, without the redirecting index."""
    return sorted(p for p in Path(book).rglob("*.html") if "_static" not in p.parts and p != Path(book) / "index.html")


def _needs_maths(page):
    return 'class="math' in page.read_text(encoding="utf-8")


def _bytes(requests):
    """Each requested file with its size; data and blobs are inside others."""
    files = {Path(unquote(urlparse(url).path)) for url in requests if url.startswith("file:")}
    return {path: path.stat().st_size for path in files if path.exists()}


async def _barriers(tab):
    await tab.evaluate(AXE.read_text(encoding="utf-8") + "; true")
    found = {}
    for theme, rules in RULES.items():
        await tab.prefer(theme)
        found[theme] = await tab.evaluate(BARRIERS.replace("RULES", str(rules)))
    return found


async def _walk(tab):
    """Press Tab until the focus leaves the page's end or has nowhere new to go."""
    await tab.evaluate(WALK)
    before, idle = -1, 0
    while idle < 2:
        await tab.press("Tab", code=9, times=25)
        count = await tab.evaluate("walk.seen.size")
        idle, before = (idle + 1 if count == before else 0), count
    return await tab.evaluate(WALKED)


async def _visit(tab, page):
    note = Visit()
    await tab.open(page)
    requests = list(tab.requests.values())
    note.problems = list(tab.problems)
    note.problems += [f"asks for {url}" for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    note.loads = _bytes(requests)
    state = await tab.evaluate(TYPESET)
    note.problems += [] if state["title"] else ["no title"]
    note.problems += [f"broken image {source}" for source in state["broken"]]
    if _needs_maths(page):
        note.problems += [f"{state['raw']} formulas not typeset"] if state["raw"] else []
        note.problems += [f"{state['bad']} formula errors"] if state["bad"] else []
        note.problems += [f"fonts missing: {state['lost']}"] if state["lost"] else []
    found = await tab.evaluate(LINKS)
    note.links, note.ids = found["links"], set(found["ids"])
    walked = await _walk(tab)
    note.missed, note.unseen, note.stops = walked["missed"], walked["unseen"], walked["count"]
    note.barriers = await _barriers(tab)
    await tab.resize(PHONE)
    for theme in ("light", "dark"):
        await tab.prefer(theme)
        width, inner = await tab.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        if width > inner:
            note.too_wide[theme] = width
    return note


@pytest.fixture(scope="module", params=["book/loss.html", pytest.param("every page", marks=pytest.mark.long)])
def visits(request, built_book, browse):
    """Visited pages of the book: path below the book -> what was noted."""
    pages = _pages(built_book) if request.param == "every page" else [built_book / request.param]

    async def task(tab):
        return {str(page.relative_to(built_book)): await _visit(tab, page) for page in pages}

    return browse(task)


def test_index_opens_the_landing_page(built_book, browse):
    async def task(tab):
        await tab.send("Page.navigate", url=(built_book / "index.html").as_uri())
        return await tab.until("document.readyState === 'complete' && location.pathname.endsWith('/book/intro.html')")

    assert browse(task)


def test_pages_load_offline_without_errors(built_book, visits):
    """No console error, no failed request, no request off the disk, every formula typeset."""
    assert {name: note.problems for name, note in visits.items() if note.problems} == {}
    assert any(_needs_maths(built_book / name) for name in visits), "no page with a formula: nothing was checked"


def test_no_serious_barrier(visits):
    """axe-core's serious and critical findings, at a desk, light and dark; those of the theme count."""
    found = {(name, theme): lines for name, note in visits.items() for theme, lines in note.barriers.items() if lines}
    assert found == {}


def test_a_barrier_would_be_found(built_book, browse):
    async def task(tab):
        await tab.open(built_book / "search.html")
        await tab.evaluate(
            "document.querySelector('main').insertAdjacentHTML('beforeend',"
            ' \'<img src="data:,"><p style="color: #888; background: #777">faint</p>\')'
        )
        return await _barriers(tab)

    found = browse(task)
    assert [line.partition(":")[0] for line in found["light"]] == ["color-contrast", "image-alt"]
    assert [line.partition(":")[0] for line in found["dark"]] == ["color-contrast"]


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visits):
    assert {name: note.missed for name, note in visits.items() if note.missed} == {}
    assert {name: note.unseen for name, note in visits.items() if note.unseen} == {}
    assert all(note.stops > 30 for note in visits.values())


def test_the_first_stop_skips_to_the_text(built_book, browse):
    async def task(tab):
        await tab.open(built_book / "book" / "loss.html")
        await tab.press("Tab", code=9)
        words = await tab.evaluate("document.activeElement.innerText")
        visible = await tab.until(
            "(b => b.width > 50 && b.top >= 0 && b.top < 200)(document.activeElement.getBoundingClientRect())"
        )
        await tab.press("Enter", text="\r", code=13)
        await tab.press("Tab", code=9)
        return words, visible, await tab.evaluate("!!document.activeElement.closest('main')")

    assert browse(task) == ("Skip to main content", True, True)


def test_nothing_overflows_on_a_phone(visits):
    assert {name: note.too_wide for name, note in visits.items() if note.too_wide} == {}


def test_pages_are_light(visits):
    """What a first visit loads: the page with its styles, scripts, fonts and pictures."""
    heavy = {
        name: {path.name: size for path, size in sorted(note.loads.items(), key=lambda item: -item[1])[:6]}
        for name, note in visits.items()
        if sum(note.loads.values()) > MOST_BYTES
    }
    assert heavy == {}
    assert all(len(note.loads) > 5 for note in visits.values())


def test_links_lead_somewhere(built_book, visits):
    """Every link inside the book points at a file, and at an anchor that exists, after scripts have run."""
    ids = {(built_book / name).as_uri(): note.ids for name, note in visits.items()}
    dead = []
    for name, note in visits.items():
        for href in set(note.links):
            address, _, fragment = href.partition("#")
            address = address.partition("?")[0]
            if address in ids:
                if fragment and unquote(fragment) not in ids[address]:
                    dead.append(f"{name}: {href}")
            elif not Path(unquote(urlparse(address).path)).is_file():
                dead.append(f"{name}: {href}")
    assert dead == []


def test_search_finds_a_page_by_keyboard_alone(built_book, browse):
    """From any page: open the search, type, Enter, and the first result that is followed holds the word."""

    async def task(tab):
        await tab.open(built_book / "book" / "loss.html")
        await tab.press("k", code=75, modifiers=2)  # Ctrl-K
        assert await tab.until("document.activeElement?.type === 'search'"), "Ctrl-K does not open the search"
        for letter in "detached":
            await tab.press(letter, text=letter)
        await tab.press("Enter", text="\r", code=13)
        assert await tab.until("document.querySelectorAll('#search-results li a').length"), "nothing was found"
        await tab.evaluate("document.querySelector('#search-results li a').click()")
        return await tab.until(
            "document.readyState === 'complete' && !location.pathname.endsWith('search.html')"
            " && document.body.innerText.includes('detached')"
        )

    assert browse(task)


def test_dark_theme_is_dark(built_book, browse):
    async def task(tab):
        await tab.open(built_book / "book" / "intro.html", theme="dark")
        return await tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")

    assert max(browse(task)[:3]) < 80
