"""A small hub of data sets on the loopback: what is asked of one file, with the faults of real networks."""

import hashlib
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "cafe"


@dataclass
class Hub:
    """What the server has and how it behaves; ``asked``: (method, path, Range header) of every request so far.

    ``cut``: bytes after which the connection of each coming GET breaks, one entry used up by each. ``flip``: the place
    of a byte that arrives changed. ``stall``: seconds before each half of a body. ``redirect``: files are elsewhere,
    as the hub's large ones are. ``more``: bytes sent past the end. ``drip``: the method whose headers never end.
    """

    files: dict[str, bytes]
    cut: list[int] = field(default_factory=list)
    flip: int | None = None
    stall: tuple[float, float] = (0.0, 0.0)
    redirect: bool = False
    status: int = 200
    more: int = 0
    drip: str = ""
    plain_etag: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def gets(self) -> list[str | None]:
        """The Range header of each GET of a body."""
        bodies = [one for one in self.asked if one[0] == "GET" and (one[1][:5] == "/cdn/") == self.redirect]
        return [asked for *_, asked in bodies]


@contextmanager
def hub(**behaviour):
    """A running :class:`Hub`."""
    has = Hub(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            asked = self.headers.get("Range")
            has.asked.append((self.command, self.path, asked))
            name = self.path.removeprefix("/cdn/").removeprefix("/")
            if has.status != 200:
                return self.head(has.status)
            if name not in has.files:
                return self.head(404, **{"X-Error-Code": "EntryNotFound"})
            content = has.files[name]
            etag = "an-etag" if has.plain_etag else hashlib.sha256(content).hexdigest()
            known = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            if has.redirect and not self.path.startswith("/cdn/"):
                elsewhere = has.endpoint.replace("127.0.0.1", "localhost")  # another host, to a client
                return self.head(302, Location=f"{elsewhere}/cdn/{name}", **known)
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            if start:
                known["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.head(206 if start else 200, len(content) - start + has.more, ETag=f'"{etag}"', **known)
            if self.command == "GET":
                self.send(content[start:], start)

        def head(self, status, length=0, **headers):
            self.send_response(status)
            if has.drip == self.command:
                self.flush_headers()
                with suppress(OSError):
                    while True:
                        self.wfile.write(b"X-Slow: 1\r\n")
                        time.sleep(0.05)
            for key, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(key, value)
            self.end_headers()

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
