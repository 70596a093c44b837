"""One file from a hub of data sets (huggingface.co or a mirror), resumable whatever ends the process.

``huggingface_hub`` finds the file, follows redirects and asks again when a connection breaks. Its ``hf_hub_download``
throws away what has arrived when the process ends, so the part is kept here.
"""

import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ctrlib.data.files import file_sha256, one_line
from ctrlib.errors import UserError

CHUNK = 1 << 20  # bytes that arrive before they are written
SILENCE_S = 90.0  # without a byte of the file: longer than the hub's library takes to give up, but not for ever
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(
    repository: str, name: str, folder: Path, endpoint: str | None, room: Callable[[int], None], report: Callable
) -> Path:
    """Fetch the file ``name`` of a data-set repository into ``folder``; go on with what an earlier call left there.

    ``room`` is told how many bytes are still to come, before any does, and may refuse. A file whose entity tag is its
    SHA-256, as the hub's large files have, is compared with it. Raises :class:`UserError` in one line when the hub
    cannot be reached, does not have the file or sends something else.
    """
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it has to say about a broken connection comes as one error below
    constants.HF_HUB_DISABLE_TELEMETRY = True  # it would ask huggingface.co for a list first, whatever the endpoint
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK  # its own is 10 MB: all of that would be lost when a connection breaks
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    if not re.match(r"https?://[^/]", endpoint):
        raise UserError(f"endpoint {endpoint!r}; allowed: an address such as https://huggingface.co")
    address = hf_hub_url(repository, name, repo_type="dataset", endpoint=endpoint)
    try:
        known = _in_time(endpoint, get_hf_file_metadata, address, token=False, endpoint=endpoint)
        if not known.etag or known.size is None:
            raise UserError(f"{address}: the server does not say what it has; allowed: a hub of data sets")
        part = _part(folder, name, known.etag)
        if _size(part) > known.size:
            part.unlink()
        room(known.size - _size(part))
        while True:
            there = _size(part)
            try:
                with open(part, "ab", buffering=0) as file:
                    _in_time(
                        endpoint,
                        http_get,
                        address,
                        file,
                        resume_size=there,
                        headers={"Accept-Encoding": "identity"},
                        expected_size=known.size,
                        displayed_filename=name,
                        tqdm_class=partial(_Bar, report, name, there, known.size),
                    )
                break
            except httpx2.TransportError:
                if _size(part) <= there:
                    raise
    except (httpx2.HTTPError, OSError, ImportError) as error:
        raise _explained(error, address, endpoint) from None
    report(f"checking {name}")
    if _SHA256.fullmatch(known.etag) and file_sha256(part) != known.etag:
        part.unlink()
        raise UserError(f"{address}: damaged on the way (its SHA-256 is not the hub's); run the same command again")
    return part.rename(folder / name)


_last_sign = 0.0  # when a request began, or a byte of a file arrived


def _in_time(server: str, function: Callable, *arguments: Any, **named: Any) -> Any:
    """``function(...)``, given up when nothing arrives: a server that drips its headers keeps every other limit."""
    global _last_sign
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((function(*arguments, **named), None))
        except BaseException as error:
            answers.put((None, error))

    _last_sign = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while True:
        with suppress(queue.Empty):
            answer, error = answers.get(timeout=0.2)
            if error is not None:
                raise error
            return answer
        if time.monotonic() - _last_sign > SILENCE_S:
            raise UserError(f"{server}: sends nothing for {SILENCE_S:g} s; what has arrived is kept; try a mirror")


def _part(folder: Path, name: str, etag: str) -> Path:
    """Where a file with that entity tag waits until it is whole; parts of another one are removed."""
    part = folder / f"{name}.{hashlib.sha256(etag.encode()).hexdigest()[:16]}.part"
    for other in folder.glob(f"{name}.*.part"):
        if other != part:
            other.unlink()
    return part


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


class _Bar:
    """In place of the hub's progress bar: reports how far the download is and how fast, a few times a second."""

    def __init__(self, report: Callable[[str], None], name: str, there: int, size: int, **_: Any) -> None:
        self._report, self._name, self._size = report, name, size
        self._at, self._first, self._begun, self._said = there, there, time.monotonic(), 0.0
        report(f"downloading {name}: {there / 1e6:,.1f} of {size / 1e6:,.1f} MB")

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """So many bytes have arrived."""
        global _last_sign
        self._at += count
        now = _last_sign = time.monotonic()
        if now - self._said > 0.3:
            self._said = now
            rate = (self._at - self._first) / 1e6 / max(now - self._begun, 1e-3)
            done = f"{self._at / 1e6:,.1f} of {self._size / 1e6:,.1f} MB, {rate:,.1f} MB/s"
            self._report(f"downloading {self._name}: {done}")


def _explained(error: Exception, address: str, endpoint: str) -> Exception:
    """The one line for what went wrong; a trouble of this machine's disk stays as it is."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    again = "run the same command again to go on"
    if isinstance(error, EntryNotFoundError | RepositoryNotFoundError):
        return UserError(f"{address}: not there, or not public; allowed: another --endpoint, or --archive FILE")
    if isinstance(error, HfHubHTTPError):
        return UserError(f"{address}: the server answers {error.response.status_code}; {again} later")
    if isinstance(error, HTTPError | OfflineModeIsEnabled):
        problem = one_line(error) or type(error).__name__
        other = "allowed: a network, --endpoint MIRROR, or --archive FILE that was downloaded elsewhere"
        return UserError(f"{endpoint}: no connection ({problem}); what has arrived is kept; {other}")
    if isinstance(error, ImportError):
        return UserError(
            f"{endpoint}: no connection by a SOCKS proxy; allowed: another in ALL_PROXY, or --archive FILE"
        )
    certificates = os.environ.get("SSL_CERT_FILE", "")
    if isinstance(error, FileNotFoundError) and certificates and not os.path.exists(certificates):
        return UserError(f"SSL_CERT_FILE={certificates}: no such file; allowed: a file of certificates, or unset")
    if getattr(error, "errno", None) is None:  # the hub's own: fewer bytes than announced, or an odd answer
        return UserError(f"{address}: cut off or not a hub's answer ({one_line(error)}); {again}")
    return error
