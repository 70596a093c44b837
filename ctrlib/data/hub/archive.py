"""Files out of a zip that somebody else made: nothing is written but the files asked for, under names given here."""

import errno
import hashlib
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ctrlib.data.files import DAMAGED_ZIP, need_space, one_line, open_raw
from ctrlib.errors import UserError

_BLOCK = 1 << 20


class BadArchive(UserError):
    """The archive itself is at fault, and no second try will mend it."""


def unpack(
    archive: Path, md5: dict[str, str], largest: dict[str, int], folder: Path, report: Callable[[str], None]
) -> None:
    """Unpack the files named in ``md5`` into ``folder``; each takes its name there once its MD5 is right.

    ``largest``: how many bytes each may have. An entry anywhere in the archive that points outside it, or is a link,
    makes the whole archive refused. Raises :class:`BadArchive` naming archive and file.
    """
    with _opened(archive) as packed:
        members = {name: _member(archive, packed, name) for name in md5}
        for name, member in members.items():
            if member.file_size > largest[name]:
                raise _too_large(archive, name, largest[name])
        need_space(folder, sum(member.file_size for member in members.values()), "free some, or another --out")
        for name, member in members.items():
            part = folder / f"{name}.part"
            try:
                found = _write(archive, packed, member, part, largest[name], report)
                if found != md5[name]:
                    problem = f"{name} is not the published file (its MD5 is {found}, published {md5[name]})"
                    raise BadArchive(f"{archive}: {problem}; download it again")
                part.rename(folder / name)
            finally:
                part.unlink(missing_ok=True)


def file_md5(path: Path) -> str:
    """MD5 (hex) of a file, read in blocks. It tells damage, not malice: that is what was published."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The zip, with whatever is wrong with it as a :class:`BadArchive`."""
    if archive.is_file() and archive.stat().st_size == 0:
        raise BadArchive(f"{archive}: the file is empty; download it again")
    try:
        with open_raw(archive) as file, zipfile.ZipFile(file) as packed:
            yield packed
    except (*DAMAGED_ZIP, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a header points before the file
            raise
        raise BadArchive(f"{archive}: damaged zip ({one_line(error)}); download it again") from None


def _member(archive: Path, packed: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The one entry of that file name, in whatever folder of the archive; none may point outside it."""
    found = []
    for entry in packed.infolist():
        steps = re.split(r"[/\\]", entry.filename)
        if steps[0] == "" or ".." in steps or ":" in entry.filename or stat.S_ISLNK(entry.external_attr >> 16):
            raise BadArchive(
                f"{archive}: holds {entry.filename[:80]!a}, a link or a path outside it; allowed: plain files inside"
            )
        if steps[-1] == name:
            found.append(entry)
    if len(found) != 1:
        raise BadArchive(f"{archive}: {len(found)} files named {name} in the zip; allowed: exactly 1")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"{name} is packed by method {found[0].compress_type}"
        raise BadArchive(f"{archive}: {problem}; allowed: stored (0) or deflated (8)")
    return found[0]


def _write(
    archive: Path,
    packed: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: Path,
    largest: int,
    report: Callable[[str], None],
) -> str:
    """Unpack one entry to ``target``, never more than ``largest`` bytes; return its MD5."""
    total, size = hashlib.md5(usedforsecurity=False), 0
    name = target.stem
    with packed.open(member) as source, open(target, "wb") as file:
        while block := source.read(_BLOCK):
            size += len(block)
            if size > largest:
                raise _too_large(archive, name, largest)
            file.write(block)
            total.update(block)
            if size // _BLOCK % 64 == 0:
                report(f"unpacking {name}: {size / 1e6:,.0f} of {member.file_size / 1e6:,.0f} MB")
    return total.hexdigest()


def _too_large(archive: Path, name: str, largest: int) -> BadArchive:
    return BadArchive(f"{archive}: {name} is larger than any published file could be; allowed: {largest:,} bytes")
