"""A small hub of data sets on the loopback: what is asked of one file, with the faults of real networks."""

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What the server has and how it behaves; ``asked``: (method, path, Range header) of every request so far.

    ``cut``: bytes after which the connection of each coming GET breaks, one entry used up by each. ``flip``: the place
    of a byte that arrives changed. ``stall``: seconds before the second half of a body. ``redirect``: files are
    elsewhere, as the hub's large ones are.
    """

    files: dict[str, bytes]
    cut: list[int] = field(default_factory=list)
    flip: int | None = None
    stall: float = 0.0
    redirect: bool = False
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
            self.do_GET()

        def do_GET(self):
            asked = self.headers.get("Range")
            has.asked.append((self.command, self.path, asked))
            name = self.path.removeprefix("/cdn/").removeprefix("/")
            if name not in has.files:
                return self.head(404, **{"X-Error-Code": "EntryNotFound"})
            content = has.files[name]
            known = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            if has.redirect and not self.path.startswith("/cdn/"):
                elsewhere = has.endpoint.replace("127.0.0.1", "localhost")  # another host, to a client
                return self.head(302, Location=f"{elsewhere}/cdn/{name}", **known)
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            if start:
                known["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.head(206 if start else 200, len(content) - start, **known)
            if self.command == "GET":
                self.send(bytearray(content)[start:], start)

        def head(self, status, length=0, **headers):
            self.send_response(status)
            for key, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def send(self, rest, start):
            if has.flip is not None and start <= has.flip < start + len(rest):
                rest[has.flip - start] ^= 0xFF
            if has.cut:
                rest = rest[: has.cut.pop(0)]
                self.close_connection = True
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            self.wfile.flush()
            time.sleep(has.stall)
            self.wfile.write(rest[half:])

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
