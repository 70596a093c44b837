"""A published data set by name: download, verify, unpack, verify again, prepare."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ctrlib.data.files import need_space
from ctrlib.data.folders import data_root
from ctrlib.data.hub.archive import BadArchive, file_md5, unpack
from ctrlib.data.hub.download import download
from ctrlib.data.hub.published import PUBLISHED, Published, prepare_published
from ctrlib.data.manifest import SPLITS, read_manifest
from ctrlib.data.prepared import bytes_per_row
from ctrlib.errors import UserError, unknown

LARGER = 3  # a file this many times as large as its rows should be is none of the published ones
_HEADER = 1 << 16  # bytes
_ANOTHER = "free some, or another --out"


def fetch(
    name: str,
    data_dir: Path | str | None = None,
    endpoint: str | None = None,
    archive: Path | str | None = None,
    min_count: int | None = None,
    keep: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Make the prepared data set ``data_dir/name`` from its published files; return that folder.

    What has been downloaded waits in ``data_dir/.fetched/name`` until the data set is whole (``keep``: and after).
    An interrupted call is gone on with by the same call: a part of the archive, verified csv files. ``archive`` is a
    zip that is already here. Raises :class:`UserError`; an earlier data set of that name then stays.
    """
    if name not in PUBLISHED:
        raise unknown("data set to fetch", name, PUBLISHED)
    what = PUBLISHED[name]
    root = Path(data_dir) if data_dir is not None else data_root()
    if _there(root / name, what, min_count):
        report(f"{name} is there already")
        return root / name
    folder = root / ".fetched" / name
    lock = folder.with_name(f"{name}.lock")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            try:
                made = _fetch(name, what, root, folder, endpoint, archive, min_count, report)
                if not keep:
                    shutil.rmtree(folder)
                return made
            finally:  # nothing is left where nothing has arrived
                with suppress(OSError):
                    if folder.exists():
                        folder.rmdir()
                    lock.unlink()
                    folder.parent.rmdir()
    except Timeout:
        raise UserError(f"{folder}: another process is fetching {name} there; wait for it, or another --out") from None


def _there(folder: Path, what: Published, min_count: int | None) -> bool:
    """Whether the prepared folder is there, of these files and with that threshold."""
    with suppress(UserError, KeyError, TypeError):
        manifest = read_manifest(folder)
        return (manifest["source"]["md5"], manifest["settings"]["min_count"]) == (what.md5, min_count or what.min_count)
    return False


def _fetch(
    name: str,
    what: Published,
    root: Path,
    folder: Path,
    endpoint: str | None,
    archive: Path | str | None,
    min_count: int | None,
    report: Callable[[str], None],
) -> Path:
    """The steps of :func:`fetch` that are still to do."""
    files = {part: folder / f"{part}.csv" for part in SPLITS}
    total = sum(what.rows.values())
    prepared = total * bytes_per_row(len(what.fields), draws=1)
    missing = {part: file for part, file in files.items() if not _verified(file, what.md5[part], report)}
    if missing:
        unpacked = sum(what.rows[part] for part in missing) * what.row_bytes
        need_space(folder, unpacked + prepared, _ANOTHER)
        zipped = Path(archive) if archive is not None else folder / what.archive
        if archive is None and not zipped.exists():

            def room(size: int) -> None:
                need_space(folder, size + unpacked + prepared, _ANOTHER)

            zipped = download(what.repository, what.archive, folder, endpoint, room, report)
        try:
            unpack(
                zipped,
                {file.name: what.md5[part] for part, file in missing.items()},
                {file.name: LARGER * what.rows[part] * what.row_bytes + _HEADER for part, file in missing.items()},
                folder,
                report,
            )
        except BadArchive:
            if archive is None:  # the next call is to fetch it anew
                zipped.unlink(missing_ok=True)
            raise
    need_space(folder, prepared, _ANOTHER)
    return prepare_published(name, what, files, root, min_count, report)


def _verified(file: Path, md5: str, report: Callable[[str], None]) -> bool:
    """Whether a csv file is there and is the published one; a damaged one is removed."""
    if not file.exists():
        return False
    report(f"checking {file.name}")
    if file_md5(file) == md5:
        return True
    file.unlink()
    return False
