"""A headless Chromium for tests, driven through its DevTools protocol, with the network cut off.

The web socket comes from tornado, which Jupyter brings along. The fixture ``browse`` runs a coroutine that takes a
:class:`Tab`, in one browser for all tests; where there is none, the tests that ask for it are skipped.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tornado import websocket

from ctrlib.publish.pdf import find_browser

BROWSER = find_browser()
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0",
)  # fmt: skip
PHONE, DESK = (400, 850), (1280, 900)
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "PageUp": 33, "End": 35, "ArrowRight": 39, "ArrowDown": 40}
TYPED = {"Enter": "\r", " ": " "}


def _words(details):
    return details.get("exception", {}).get("description") or details.get("text")


class Tab:
    """One browser tab: send a command, collect what goes wrong while a page loads."""

    def __init__(self, connection):
        self.connection = connection
        self.last_id = 0
        self.problems = []
        self.requests = {}
        self.loaded = False

    async def send(self, method, **params):
        mine = await self._write(method, params)
        while True:
            message = await self._receive()
            if message.get("id") == mine:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    async def _write(self, method, params):
        self.last_id += 1
        await self.connection.write_message(json.dumps({"id": self.last_id, "method": method, "params": params}))
        return self.last_id

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
            self.problems.append(f"script error: {_words(params['exceptionDetails'])}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            words = [str(a.get("value", a.get("description", ""))) for a in params["args"]]
            self.problems.append("console: " + " ".join(words))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    async def evaluate(self, expression):
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression[:200]}: {_words(result['exceptionDetails'])}")
        return result["result"].get("value")

    async def open(self, path, size=DESK, theme="light"):
        """Load a file at a window size and colour scheme, and wait for scripts, formulas and fonts."""
        await self.resize(size)
        await self.prefer(theme)
        self.problems, self.requests, self.loaded = [], {}, False
        await self.send("Page.navigate", url=Path(path).as_uri())
        limit = time.monotonic() + 30
        while not self.loaded:
            await self._receive(timeout=max(0.1, limit - time.monotonic()))
        await self.evaluate(
            "(async () => { await document.fonts.ready; await new Promise(r => setTimeout(r, 80)); return true })()"
        )

    async def prefer(self, theme):
        """The reader's system asks for ``light`` or ``dark``, and for nothing that moves."""
        wishes = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def resize(self, size):
        """Give the window another width and height."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **metrics)
        drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(innerWidth))))"
        assert await self.evaluate(drawn) == size[0]  # the page has its new width

    async def press(self, key, text="", modifiers=0, times=1):
        """A key goes down and up again, ``times`` over; ``text`` is what it types."""
        text, code = text or TYPED.get(key, ""), KEYS.get(key) or ord(key.upper())
        event = {"key": key, "code": key, "text": text, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        down, up = {"type": "keyDown" if text else "rawKeyDown", **event}, {"type": "keyUp", **event}
        for _ in range(times - 1):  # sent one after the other, without waiting for each answer
            await self._write("Input.dispatchKeyEvent", down)
            await self._write("Input.dispatchKeyEvent", up)
        await self._write("Input.dispatchKeyEvent", down)
        await self.send("Input.dispatchKeyEvent", **up)

    async def until(self, expression, seconds=10):
        """Wait for a JavaScript expression to become true, also across a change of page; its last value."""
        limit = time.monotonic() + seconds
        value = None
        while time.monotonic() < limit and not value:
            with contextlib.suppress(RuntimeError):  # asked in the middle of a change of page
                value = await self.evaluate(expression)
            await asyncio.sleep(0 if value else 0.05)
        return value


def visit(path, *steps, **how):
    """For ``browse``: a page is opened, keys are pressed, JavaScript is asked; its values. Nothing may go wrong."""

    async def task(tab):
        await tab.open(path, **how)
        values = [await (tab.press(step) if step in KEYS else tab.evaluate(step)) for step in steps]
        assert tab.problems == []
        return [value for step, value in zip(steps, values, strict=True) if step not in KEYS]

    return task


def texts(selector):
    """JavaScript for the texts of all elements that match."""
    return f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)"


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
    target = (await Tab(browser).send("Target.createTarget", url="about:blank"))["targetId"]
    page = await websocket.websocket_connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_message_size=2**28)
    tab = Tab(page)
    for domain in ("Page", "Runtime", "Network", "Log"):
        await tab.send(f"{domain}.enable")
    return tab


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """A function that runs ``coroutine(tab)`` in one running browser."""
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome on this machine")
    profile = tmp_path_factory.mktemp("browser")
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, start_new_session=True)
    loop = asyncio.new_event_loop()
    try:
        tab = loop.run_until_complete(asyncio.wait_for(_connect(profile, process), 90))
        yield lambda task: loop.run_until_complete(asyncio.wait_for(task(tab), 900))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        loop.close()
