"""The rendered book in a real browser, opened from disk with the network cut off.

Each page is visited once, and the tests look at what was noted there: one page in the usual run, all in the long one.
"""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from browser import DESK, PHONE, needs_browser, visit

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
  headings: document.querySelectorAll('h1').length,
  unnamed: [...document.querySelectorAll('article table')].filter(e => !e.caption?.textContent.trim()).length,
  cite: document.querySelectorAll('.cite pre + button.copybtn').length,
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
# Every table and figure, folds opened: does its box, or else the window, end before it does? Does its box scroll?
FITS = """(() => {
  document.querySelectorAll('details').forEach(fold => fold.open = true);
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  return [...document.querySelectorAll('article table, article svg.drawing')].filter(e => e.offsetParent !== null
    || e.getBoundingClientRect().width).map(e => {
    let box = e.parentElement;
    while (box.localName !== 'article' && !scrolls(box)) box = box.parentElement;
    const edge = box.getBoundingClientRect().right, cut = e.getBoundingClientRect().right > edge + 1;
    return {cut, fits: edge <= innerWidth + 1 && (!cut || scrolls(box)), what: e.outerHTML.slice(0, 90)};
  });
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
    await tab.evaluate("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'}); true")  # as it opens
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
        await tab.press("Tab", times=25)
        count = await tab.evaluate("walk.seen.size")
        idle, before = (idle + 1 if count == before else 0), count
    return await tab.evaluate(WALKED)


async def _visit(tab, page):
    """What was noted on one page: what is wrong, by kind, and what other pages need to know of it."""
    await tab.open(page)
    requests = list(tab.requests.values())
    problems = list(tab.problems)
    problems += [f"asks for {url}" for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    state = await tab.evaluate(TYPESET)
    problems += [] if state["title"] else ["no title"]
    problems += [] if state["headings"] == 1 else [f"{state['headings']} headings of the first level"]
    problems += [f"{state['unnamed']} tables without a caption"] if state["unnamed"] else []
    problems += [] if state["cite"] == 1 else ["no citation to copy"]
    problems += [f"broken image {source}" for source in state["broken"]]
    if _needs_maths(page):
        problems += [f"{name}: {state[name]}" for name in ("raw", "bad", "lost") if state[name]]
    loads = _bytes(requests)
    assert len(loads) > 5
    found = await tab.evaluate(LINKS)
    walked = await _walk(tab)
    assert walked["count"] > 30
    note = {
        **{"problems": problems, "missed by the Tab key": walked["missed"], "unseen focus": walked["unseen"]},
        "weight": sorted(loads.items(), key=lambda item: -item[1])[:6] if sum(loads.values()) > MOST_BYTES else [],
        **{f"barriers, {theme}": lines for theme, lines in (await _barriers(tab)).items()},
        **{"links": set(found["links"]), "ids": set(found["ids"])},
    }
    await tab.resize(PHONE)
    for theme in ("light", "dark"):
        await tab.prefer(theme)
        width, inner = await tab.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        note[f"too wide, {theme}"] = [width] if width > inner else []
    return note


@pytest.fixture(scope="module", params=["book/loss.html", pytest.param("every page", marks=pytest.mark.long)])
def visits(request, built_book, browse):
    """Visited pages of the book: path below the book -> what was noted."""
    pages = _pages(built_book) if request.param == "every page" else [built_book / request.param]

    async def task(tab):
        return {str(page.relative_to(built_book)): await _visit(tab, page) for page in pages}

    return browse(task)


WRONG = (
    *("problems", "missed by the Tab key", "unseen focus", "weight"),
    *("barriers, light", "barriers, dark", "too wide, light", "too wide, dark"),
)


@pytest.mark.parametrize("kind", WRONG)
def test_nothing_is_wrong_on_a_page(built_book, visits, kind):
    """Neither in the console, on the way, in formulas, in size, nor for axe-core, the Tab key or a narrow phone."""
    assert {name: note[kind] for name, note in visits.items() if note[kind]} == {}
    assert any(_needs_maths(built_book / name) for name in visits), "no page with a formula: nothing was checked"


def test_tables_and_figures_fit(built_book, browse):
    """Nothing is cut on a desk; on a phone what is too wide scrolls inside its own box, and the page does not."""

    async def task(tab):
        wrong, seen = [], 0
        for page in _pages(built_book):
            await tab.open(page)
            for size in (DESK, PHONE):
                await tab.resize(size)
                found = await tab.evaluate(FITS)
                width = await tab.evaluate("document.scrollingElement.scrollWidth")
                bad = [one["what"] for one in found if not one["fits"] or (one["cut"] and size == DESK)]
                bad += [f"the page is {width} wide"] if width > size[0] else []
                wrong += [f"{page.stem}, {size[0]}: {what}" for what in bad]
                seen += len(found)
        return wrong, seen

    wrong, seen = browse(task)
    assert wrong == []
    assert seen > 100


def test_what_is_folded_is_not_printed_and_nothing_is_cut(built_book, browse):
    """What the reader has opened is printed, without its bar and with long lines wrapped."""
    folds = "[...document.querySelectorAll('article details')]"
    steps = (
        f"{folds}.length",
        f"{folds}.filter(e => e.checkVisibility()).length",
        f"{folds}.forEach(e => e.open = true)",
        f"{folds}.filter(e => e.matches('.hide') && e.firstElementChild.checkVisibility()).length",
        "Math.max(...[...document.querySelectorAll('article pre')].map(e => e.scrollWidth - e.clientWidth))",
    )

    async def task(tab):
        await tab.open(next((built_book / "notebooks").glob("*.html")), size=(700, 900))
        await tab.send("Emulation.setEmulatedMedia", media="print")
        return [await tab.evaluate(step) for step in steps]

    there, closed, _, bars, cut = browse(task)
    assert there
    assert (closed, bars, cut) == (0, 0, 0)


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


def test_the_first_stop_skips_to_the_text(built_book, browse):
    words = "document.activeElement.innerText"
    visible = "(b => b.width > 50 && b.top >= 0 && b.top < 200)(document.activeElement.getBoundingClientRect())"
    appeared = f"new Promise(done => {{ const look = () => {visible} ? done(true) : setTimeout(look, 50); look() }})"
    steps = ("Tab", words, appeared, "Enter", "Tab", "!!document.activeElement.closest('main')")
    assert browse(visit(built_book / "book" / "loss.html", *steps)) == ["Skip to main content", True, True]


def test_links_lead_somewhere(built_book, visits):
    """Every link inside the book points at a file, and at an anchor that exists, after scripts have run."""
    ids = {(built_book / name).as_uri(): note["ids"] for name, note in visits.items()}
    dead = []
    for name, note in visits.items():
        for href in note["links"]:
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
    there = "document.readyState === 'complete' && !location.pathname.endsWith('search.html')"

    async def task(tab):
        await tab.open(built_book / "book" / "loss.html")
        await tab.press("k", modifiers=2)  # Ctrl-K
        assert await tab.until("document.activeElement?.type === 'search'"), "Ctrl-K does not open the search"
        for letter in "coupling":
            await tab.press(letter, text=letter)
        await tab.press("Enter")
        assert await tab.until("document.querySelector('#search-results .search-summary')?.innerText"), "no answer"
        hits = await tab.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.href)")
        api = ["/book/api_" in hit for hit in hits]
        assert hits, "nothing was found"
        assert api == sorted(api), "pages stand before entries of the API"
        assert any(api), "the word is on a page of the API as well, or nothing was compared"
        await asyncio.sleep(0.3)
        assert tab.problems == []
        await tab.evaluate("document.querySelector('#search-results li a').click()")
        return await tab.until(f"{there} && document.body.innerText.includes('coupling')")

    assert browse(task)


def test_index_opens_the_landing_page_and_the_dark_theme_is_dark(built_book, browse):
    async def task(tab):
        await tab.prefer("dark")
        await tab.send("Page.navigate", url=(built_book / "index.html").as_uri())
        assert await tab.until("document.readyState === 'complete' && location.pathname.endsWith('/book/intro.html')")
        return await tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")

    assert max(browse(task)[:3]) < 80
