"""Which files of a prepared folder are known to be whole, so that large ones are not hashed at every start.

A file is hashed when a process first opens it. One of 256 MiB or more is then noted in ``.verified.json`` beside it,
with its size, its times and its place on the disk; as long as these stay, no process hashes it again. The time of its
last change is kept by the system and cannot be set, so a file that was written to, replaced or copied is hashed anew.
What a disk changes by itself is seen by ``ctrlib data verify``, which always reads everything.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ctrlib.data.files import file_sha256, parse_json, read_plain, replace_file

NOTE = ".verified.json"
LARGE = 1 << 28  # bytes
_SETTLED = 3_000_000_000  # nanoseconds
_known: dict[str, list[Any]] = {}  # by absolute path, for this process


class Files:
    """The files of one draw, in ``folder``. With ``trust`` false, nothing is known of them."""

    def __init__(self, folder: Path, trust: bool = True) -> None:
        self.folder, self.trust = folder, trust
        self.fresh: dict[Path, list[Any]] = {}
        self._noted = _read_note(folder) if trust else {}

    def is_whole(self, path: Path, sha256: str) -> bool:
        """Whether a file has this hash: known, or computed now."""
        fact = [*_state(path), sha256]
        if self.trust and fact in (_known.get(str(path.absolute())), self._noted.get(path.name)):
            return True
        if file_sha256(path) != sha256:
            return False
        self.fresh[path] = fact
        return True

    def remember(self) -> None:
        """Keep what was computed, now that all else about these files was found right.

        The times of a file tick coarsely: one changed in the last seconds could change again unseen, so it is not kept.
        """
        large = {}
        for path, fact in self.fresh.items():
            size, changed, altered, *_ = fact
            if time.time_ns() - max(changed, altered) > _SETTLED:
                _known[str(path.absolute())] = fact
                if size >= LARGE:
                    large[path.name] = fact
        if large:
            _write_note(self.folder, {**_read_note(self.folder), **large})


def _state(path: Path) -> list[int]:
    """Size, times of change and place of a file: another file, or another content, has another state."""
    state = path.lstat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _read_note(folder: Path) -> dict[str, Any]:
    """What was noted; nothing if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        note = parse_json(read_plain(folder / NOTE))
        return note if isinstance(note, dict) else {}
    return {}


def _write_note(folder: Path, note: dict[str, Any]) -> None:
    """Replace the note in one move; where the folder is closed to writing, files are hashed by each process."""
    with contextlib.suppress(OSError):
        replace_file(folder / NOTE, json.dumps(note).encode())
