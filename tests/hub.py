"""A small hub of data sets on the loopback: what is asked of one file, with the faults of real networks."""

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "cafe"


@dataclass
class Hub:
    """What the server has and how it behaves; ``asked``: (method, path, Range header) of every request so far.

    ``cut``: bytes after which the connection of each coming GET breaks, one entry used up by each. ``flip``: the place
    of a byte that arrives changed. ``stall``: seconds before each half of a body. ``redirect``: files are elsewhere,
    as the hub's large ones are. ``more``: bytes sent past the end.
    """

    files: dict[str, bytes]
    cut: list[int] = field(default_factory=list)
    flip: int | None = None
    stall: tuple[float, float] = (0.0, 0.0)
    redirect: bool = False
    status: int = 200
    more: int = 0
    plain_etag: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def gets(self) -> list[str | None]:
        """The Range header of each GET of a body."""
        return [
            asked for method, path, asked in self.asked if method == "GET" and (path[:5] == "/cdn/") == self.redirect
        ]


@contextmanager
def hub(**behaviour):
    """A running :class:`Hub`."""
    has = Hub(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            has.asked.append((self.command, self.path, self.headers.get("Range")))
            name = self.path.removeprefix("/cdn/")
            if has.status != 200:
                return self.empty(has.status)
            if name not in has.files and (name := self.path.lstrip("/")) not in has.files:
                return self.empty(404, **{"X-Error-Code": "EntryNotFound"})
            content = has.files[name]
            etag = "an-etag" if has.plain_etag else hashlib.sha256(content).hexdigest()
            known = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            if has.redirect and not self.path.startswith("/cdn/"):
                elsewhere = has.endpoint.replace("127.0.0.1", "localhost")  # another host, to a client
                return self.empty(302, Location=f"{elsewhere}/cdn/{name}", **known)
            start = 0
            if asked := self.headers.get("Range"):
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            rest = content[start:]
            for key, value in {"ETag": f'"{etag}"', "Content-Length": str(len(rest) + has.more), **known}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.send(rest, start)

        def send(self, rest, start):
            if has.flip is not None and start <= has.flip < start + len(rest):
                place = has.flip - start
                rest = rest[:place] + bytes([rest[place] ^ 0xFF]) + rest[place + 1 :]
            rest += b"x" * has.more
            if has.cut:
                rest = rest[: has.cut.pop(0)]
                self.close_connection = True
            for half, seconds in zip((rest[: len(rest) // 2], rest[len(rest) // 2 :]), has.stall, strict=True):
                time.sleep(seconds)
                self.wfile.write(half)
                self.wfile.flush()

        def empty(self, status, **headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    has.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield has
    finally:
        server.shutdown()
        server.server_close()
