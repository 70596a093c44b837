"""The rendered book in a real browser, opened from disk with the network cut off.

Chromium is driven through its DevTools protocol; the web socket comes from tornado, which Jupyter brings along.
A test here needs the fixture ``built_book``: the folder that holds the book's ``index.html``.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

websocket = pytest.importorskip("tornado.websocket", reason="tornado (part of Jupyter) is needed to talk to a browser")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CTR_BROWSER") or next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome on this machine: the book was not opened"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-port=0",
)
PHONE, DESK = (400, 850), (1280, 900)


class Tab:
    """One browser tab: send a command, collect what goes wrong while a page loads."""

    def __init__(self, connection):
        self.connection = connection
        self.last_id = 0
        self.problems = []
        self.requests = {}
        self.loaded = False

    async def send(self, method, **params):
        self.last_id += 1
        mine = self.last_id
        await self.connection.write_message(json.dumps({"id": mine, "method": method, "params": params}))
        while True:
            message = await self._receive()
            if message.get("id") == mine:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    async def _receive(self, timeout=30):
        raw = await asyncio.wait_for(self.connection.read_message(), timeout)
        if raw is None:
            raise RuntimeError("the browser closed the connection")
        message = json.loads(raw)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, params):
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests[params["requestId"]] = params["request"]["url"]
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            url = self.requests.get(params["requestId"], "?")
            self.problems.append(f"request failed: {url} ({params.get('errorText')})")
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.problems.append(f"status {params['response']['status']}: {params['response']['url']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description") or details.get("text")
            self.problems.append(f"script error: {text}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            words = [str(a.get("value", a.get("description", ""))) for a in params["args"]]
            self.problems.append("console: " + " ".join(words))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    async def evaluate(self, expression):
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails'].get('text')}")
        return result["result"].get("value")

    async def open(self, path, size=DESK, theme="light"):
        """Load a file at a window size and colour scheme, and wait for scripts, formulas and fonts."""
        width, height = size
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)
        self.problems, self.requests, self.loaded = [], {}, False
        await self.send("Page.navigate", url=Path(path).as_uri())
        limit = time.monotonic() + 30
        while not self.loaded:
            await self._receive(timeout=max(0.1, limit - time.monotonic()))
        await self.evaluate(
            "(async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise;"
            " await document.fonts.ready; await new Promise(r => setTimeout(r, 80)); return true })()"
        )


async def _connect(profile, process):
    """Wait until the browser has written its port, then attach to its first tab."""
    port_file = Path(profile) / "DevToolsActivePort"
    limit = time.monotonic() + 40
    while not (port_file.exists() and len(port_file.read_text().split()) == 2):
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"the browser did not start (exit {process.poll()})")
        await asyncio.sleep(0.1)
    port, path = port_file.read_text().split()
    browser = await websocket.websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=2**28)
    await browser.write_message(
        json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}})
    )
    while True:
        answer = json.loads(await browser.read_message())
        if answer.get("id") == 1:
            break
    target = answer["result"]["targetId"]
    page = await websocket.websocket_connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_message_size=2**28)
    tab = Tab(page)
    for domain in ("Page", "Runtime", "Network", "Log"):
        await tab.send(f"{domain}.enable")
    return tab


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function that runs ``coroutine(tab)`` in one running browser."""
    profile = tmp_path_factory.mktemp("browser")
    process = subprocess.Popen(
        [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    loop = asyncio.new_event_loop()
    try:
        tab = loop.run_until_complete(_connect(profile, process))
        yield lambda task: loop.run_until_complete(asyncio.wait_for(task(tab), 240))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        loop.close()


def _pages(book):
    """All content pages and the two service pages, without the redirecting index."""
    return sorted(p for p in Path(book).rglob("*.html") if "_static" not in p.parts and p != Path(book) / "index.html")


def _needs_maths(page):
    return 'class="math' in page.read_text(encoding="utf-8")


def test_index_opens_the_landing_page(built_book, browse):
    async def task(tab):
        await tab.send("Page.navigate", url=(Path(built_book) / "index.html").as_uri())
        address = ""
        for _ in range(100):
            await asyncio.sleep(0.1)
            with contextlib.suppress(RuntimeError):  # asked in the middle of the redirect
                address = await tab.evaluate("document.readyState === 'complete' ? location.pathname : ''")
            if address.endswith("/book/intro.html"):
                return address
        return address

    assert browse(task).endswith("/book/intro.html")


def test_pages_load_offline_without_errors(built_book, browse):
    """No console error, no failed request, no request off the disk, every formula typeset."""

    async def task(tab):
        found = {}
        for page in _pages(built_book):
            await tab.open(page)
            problems = list(tab.problems)
            problems += [
                f"asks for {u}" for u in tab.requests.values() if not u.startswith(("file:", "data:", "blob:"))
            ]
            if not await tab.evaluate("document.title.trim()"):
                problems.append("no title")
            if _needs_maths(page):
                raw = await tab.evaluate(
                    "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).length"
                )
                bad = await tab.evaluate("document.querySelectorAll('mjx-merror, [data-mjx-error]').length")
                lost = await tab.evaluate("[...document.fonts].filter(f => f.status === 'error').map(f => f.family)")
                problems += [f"{raw} formulas not typeset"] if raw else []
                problems += [f"{bad} formula errors"] if bad else []
                problems += [f"fonts missing: {lost}"] if lost else []
            broken = await tab.evaluate(
                "[...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).map(i => i.src)"
            )
            problems += [f"broken image {src}" for src in broken]
            if problems:
                found[str(page.relative_to(built_book))] = problems
        return found

    assert browse(task) == {}
    assert any(_needs_maths(page) for page in _pages(built_book)), "no page with a formula: nothing was checked"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(built_book, browse, theme):
    async def task(tab):
        wide = {}
        for page in _pages(built_book):
            await tab.open(page, size=PHONE, theme=theme)
            width, inner = await tab.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
            if width > inner:
                wide[str(page.relative_to(built_book))] = width
        return wide

    assert browse(task) == {}


def test_links_between_pages_lead_somewhere(built_book, browse):
    """Every link inside the book points at a file, and at an anchor that exists, after scripts have run."""

    async def task(tab):
        links, anchors = {}, {}
        for page in _pages(built_book):
            await tab.open(page)
            links[page] = await tab.evaluate(
                "[...document.querySelectorAll('a[href]')].map(a => a.href).filter(h => h.startsWith('file:'))"
            )
            anchors[page.as_uri()] = set(await tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        return links, anchors

    links, anchors = browse(task)
    dead = []
    for page, hrefs in links.items():
        for href in set(hrefs):
            address, _, fragment = href.partition("#")
            if address not in anchors:
                if not (address.endswith("/index.html") and (Path(built_book) / "index.html").exists()):
                    dead.append(f"{page.name}: {href}")
            elif fragment and fragment not in anchors[address]:
                dead.append(f"{page.name}: {href}")
    assert dead == []


def test_dark_theme_is_dark(built_book, browse):
    async def task(tab):
        await tab.open(Path(built_book) / "book" / "intro.html", theme="dark")
        return await tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")

    assert max(browse(task)[:3]) < 80
