"""A published data set by name: download, unpack, verify, prepare.

``huggingface_hub`` finds the file, follows redirects and asks again when a connection breaks. Its ``hf_hub_download``
throws away what has arrived when the process ends, so the part is kept here.
"""

import hashlib
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctrlib.data.files import name_damage, need_space, one_line, open_raw
from ctrlib.data.folders import data_root
from ctrlib.data.manifest import SPLITS, read_manifest
from ctrlib.data.options import PrepareOptions
from ctrlib.data.published import CLICK_LOGS, PUBLISHED, RAW_LOGS, Published, read_published
from ctrlib.data.sources import make, prepare
from ctrlib.errors import UserError, unknown

LARGER = 3  # a file this many times as large as its rows should be is none of the published ones
_HEADER = 1 << 16  # bytes
_ANOTHER = "free some, or another --out"

Report = Callable[[str], None]


def fetch(
    name: str,
    data_dir: Path | str | None = None,
    endpoint: str | None = None,
    archive: Path | str | None = None,
    min_count: int | None = None,
    keep: bool = False,
    report: Report = lambda _: None,
) -> Path:
    """Make the prepared data set ``data_dir/name`` from its published files; return that folder.

    What has been downloaded waits in ``data_dir/.fetched/name`` until the data set is whole (``keep``: and after).
    An interrupted call is gone on with by the same call: a part of the archive, verified csv files. ``archive`` is a
    zip that is already here. A day of :data:`RAW_LOGS` is one raw file, divided at random. Raises :class:`UserError`;
    an earlier data set of that name then stays.
    """
    if name not in {**PUBLISHED, **RAW_LOGS}:
        raise unknown("data set to fetch", name, [*PUBLISHED, *RAW_LOGS])
    what = PUBLISHED.get(name)
    root = Path(data_dir) if data_dir is not None else data_root()
    if _is_there(root / name, what, min_count):
        report(f"{name} is there already")
        return root / name
    folder = root / ".fetched" / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            if what:
                files = _files(what, folder, endpoint, archive, report)
                made = _prepare(name, what, files, root, min_count, report)
            else:
                raw = Path(archive) if archive is not None else folder / RAW_LOGS[name]
                if not raw.exists():
                    download(CLICK_LOGS, raw, endpoint, 0, report)
                made = prepare(name, raw, root, PrepareOptions(layout="criteo", min_count=min_count), report)
            if not keep:
                shutil.rmtree(folder)
                with suppress(OSError):  # others may be there
                    folder.parent.rmdir()
            return made
    except Timeout:
        raise UserError(f"{folder}: another process is fetching {name} there; wait for it, or another --out") from None


def _is_there(folder: Path, what: Published | None, min_count: int | None) -> bool:
    """Whether the prepared folder is there, of these files and with that threshold."""
    with suppress(UserError, KeyError, TypeError):
        manifest = read_manifest(folder)
        if what is None:
            return min_count in (None, manifest["settings"]["min_count"])
        return (manifest["source"]["md5"], manifest["settings"]["min_count"]) == (what.md5, min_count or what.min_count)
    return False


def _files(
    what: Published, folder: Path, endpoint: str | None, archive: Path | str | None, report: Report
) -> dict[str, Path]:
    """The csv file of each part, in ``folder``; one has its name there only once its MD5 is right."""
    files = {part: folder / f"{part}.csv" for part in SPLITS}
    missing = {part: file for part, file in files.items() if not file.exists()}
    needed = sum(what.rows[part] for part in missing) * what.row_bytes
    needed += sum(what.rows.values()) * (6 * len(what.fields) + 1)  # numbers while it is prepared, and codes
    need_space(folder, needed, _ANOTHER)
    zipped = Path(archive) if archive is not None else folder / what.archive
    if missing and not (archive or zipped.exists()):
        download(what.repository, zipped, endpoint, needed, report)
    for part, file in missing.items():
        most = LARGER * what.rows[part] * what.row_bytes + _HEADER
        try:
            unpack(zipped, file, what.md5[part], most, report)
        except UserError:
            if not archive:  # the next call is to fetch it anew
                zipped.unlink()
            raise
    return files


def _prepare(
    name: str, what: Published, files: dict[str, Path], root: Path, min_count: int | None, report: Report
) -> Path:
    """The prepared data set: the vocabulary (and buckets) are fitted on train alone."""
    settings = {"layout": what.kind, "split": "published", "treatment": what.treatment}
    settings |= {"min_count": min_count or what.min_count} | ({"buckets": what.buckets} if what.numeric else {})
    source = {"file": what.archive, "repository": what.repository, "md5": what.md5}
    facts = {"kind": what.kind, "source": source, "settings": settings}
    read = partial(read_published, what, files, report=report)
    return make(root, name, read, PrepareOptions(buckets=what.buckets), facts, report)


def download(repository: str, target: Path, endpoint: str | None, more: int, report: Report) -> None:
    """Fetch the file of that name of a data-set repository; go on with what an earlier call left beside ``target``.

    ``more``: bytes that the disk must have room for besides. Raises :class:`UserError` in one line when the hub cannot
    be reached or does not have the file.
    """
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it has to say about a broken connection comes as one error below
    constants.HF_HUB_DISABLE_TELEMETRY = True  # it would ask huggingface.co for a list first, whatever the endpoint
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    if not re.match(r"https?://[^/]", endpoint):
        raise UserError(f"endpoint {endpoint!r}; allowed: an address such as https://huggingface.co")
    address, part = hf_hub_url(repository, target.name, repo_type="dataset", endpoint=endpoint), Path(f"{target}.part")
    with open(part, "ab", buffering=0) as file:
        try:
            known = get_hf_file_metadata(address, token=False, endpoint=endpoint)
            if known.size is None:
                raise UserError(f"{address}: the server does not say what it has; allowed: a hub of data sets")
            if file.tell() > known.size:
                file.truncate(0)
            need_space(target.parent, known.size - file.tell() + more, _ANOTHER)
            bar = partial(_Bar, report, target.name)
            http_get(address, file, resume_size=file.tell(), expected_size=known.size, tqdm_class=bar)
        except (httpx2.HTTPError, OSError, ImportError) as error:  # ImportError: a proxy that needs another package
            problem = one_line(error) or type(error).__name__
            again = "check the network (also ALL_PROXY, SSL_CERT_FILE) and run the same command again"
            raise UserError(
                f"{address}: {problem}; what has arrived is kept: {again}, or give --endpoint MIRROR or --archive FILE"
            ) from None
    part.rename(target)


class _Bar:
    """In place of the hub's progress bar: reports how far the download is and how fast, a few times a second."""

    def __init__(self, report: Report, name: str, total: int, initial: int, **_: Any) -> None:
        self._report, self._name, self._total = report, name, total
        self._first, self._at, self._begun, self._said = initial, initial, time.monotonic(), 0.0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """So many bytes have arrived."""
        self._at, now = self._at + count, time.monotonic()
        if now - self._said > 0.3:
            self._said = now
            rate = (self._at - self._first) / 1e6 / max(now - self._begun, 1e-3)
            done = f"{self._at / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, {rate:,.1f} MB/s"
            self._report(f"downloading {self._name}: {done}")


def unpack(archive: Path, target: Path, md5: str, most: int, report: Report) -> None:
    """Unpack the one file of that name, in whatever folder of a zip; ``target`` is there only once its MD5 is right.

    ``most``: how many bytes it may have. Raises :class:`UserError` naming archive and file.
    """
    name, part = target.name, target.with_suffix(".part")
    with name_damage(archive, "zip"), open_raw(archive) as file, zipfile.ZipFile(file) as packed:
        found = [entry for entry in packed.infolist() if entry.filename.split("/")[-1] == name]
        if len(found) != 1:
            raise UserError(f"{archive}: {len(found)} files named {name} in the zip; allowed: exactly 1")
        if found[0].file_size > most:
            problem = f"{name} is larger than any published file could be"
            raise UserError(f"{archive}: {problem}; allowed: {most:,} bytes")
        report(f"unpacking {name}")
        try:
            with packed.open(found[0]) as source, open(part, "wb") as unpacked:
                shutil.copyfileobj(source, unpacked, 1 << 20)
            with open(part, "rb") as unpacked:  # MD5 tells damage, not malice: that is what was published
                made = hashlib.file_digest(unpacked, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if made != md5:
                problem = f"{name} is not the published file (its MD5 is {made}, published {md5})"
                raise UserError(f"{archive}: {problem}; download it again")
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
