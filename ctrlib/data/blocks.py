"""A raw text file in blocks of whole lines, read once from front to end: hashed, and unpacked if gzip, on the way."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctrlib.data.text import one_line, open_file
from ctrlib.errors import UserError

BLOCK = 1 << 22  # bytes read at a time
_LONGEST = 1 << 24  # bytes; text without a newline for longer than this is handed on as if it were a line
_TAIL = 1 << 16
_NEWLINE = ord("\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Lines of a file. ``text``: uint8, always with a newline at its end; ``first``: number of its first line, from 1.

    ``last``: the file (or the part asked for) ends here. ``whole``: its last line had a newline in the file too.
    """

    text: np.ndarray
    lines: int
    first: int
    last: bool
    whole: bool = True


class _Hashed(io.RawIOBase):
    """A binary file that hashes what is read from it."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file, self.total, self.size = file, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        count = self.file.readinto(target)
        self.total.update(memoryview(target)[:count])
        self.size += count
        return count


class RawLines:
    """The lines of a text file, plain or gzip, at most ``rows`` of them. Close it, or use it in a ``with``.

    Raises :class:`UserError` for a file that is missing, empty, unreadable or (while reading) damaged gzip.
    """

    def __init__(self, path: Path, rows: int | None = None) -> None:
        self.path, self.rows = Path(path), rows
        self._file = open_file(self.path)
        self.packed = self._file.peek(2)[:2] == b"\x1f\x8b"
        if not self.packed and self.path.suffix == ".gz":
            self._file.close()
            raise UserError(f"{path}: damaged gzip (it does not begin like one); rename it if it is plain text")
        self._hashed = _Hashed(self._file)
        self._source: Any = self._hashed
        if self.packed:
            self._source = gzip.GzipFile(fileobj=io.BufferedReader(self._hashed, 1 << 20))
        self._unpacked, self._damaged = 0, False

    def __enter__(self) -> "RawLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def bytes_read(self) -> int:
        """How much of the file (as it is on disk) has been read."""
        return self._hashed.size

    def sha256(self) -> str:
        """SHA-256 (hex) of the whole file; reads what is left of it."""
        buffer = bytearray(BLOCK)
        while self._hashed.readinto(buffer):
            pass
        return self._hashed.total.hexdigest()

    def read_on(self) -> None:
        """Unpack the rest of a gzip file for nothing but its check sums: damage explains whatever was found in it."""
        if self.packed and self.rows is None and not self._damaged:
            buffer = bytearray(BLOCK)
            while self._read(memoryview(buffer)):
                pass

    def _read(self, target: memoryview) -> int:
        try:
            count = self._source.readinto(target)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self._damaged = True
            problem = f"damaged gzip after {self._unpacked:,} unpacked bytes"
            raise UserError(f"{self.path}: {problem} ({one_line(error)}); download or copy it again") from None
        self._unpacked += count
        return count

    def __iter__(self) -> Iterator[Block]:
        """The blocks in order; the last full line is held back until it is known whether another follows."""
        left, first = self.rows, 1
        for text, last in self._pieces():
            whole = bool(text[-1] == _NEWLINE)
            if not whole:
                text = np.append(text, np.uint8(_NEWLINE))
            lines = int(np.count_nonzero(text == _NEWLINE))
            if left is not None and lines >= left:
                if lines > left:
                    text = text[: int(np.flatnonzero(text == _NEWLINE)[left - 1]) + 1]
                yield Block(text, left, first, True, whole or lines > left)
                return
            yield Block(text, lines, first, last, whole)
            first += lines
            left = None if left is None else left - lines

    def _pieces(self) -> Iterator[tuple[np.ndarray, bool]]:
        """Text cut at line ends, and whether it is the last; without the BOM and without blank lines at the end."""
        rest = np.empty(0, np.uint8)
        begun = given = False
        while True:
            buffer = np.empty(len(rest) + BLOCK, np.uint8)
            buffer[: len(rest)] = rest
            size = len(rest) + self._read(memoryview(buffer)[len(rest) :])
            if size == len(rest):
                break
            text = buffer[:size]
            if not begun and size >= len(_BOM):
                begun = True
                text = text[len(_BOM) :] if text[: len(_BOM)].tobytes() == _BOM else text
            stop = _safe_end(text)
            if stop:
                given = True
                yield text[:stop], False
            rest = text[stop:]
        final = rest.tobytes()
        if final.endswith((b"\n\n", b"\r\n\r\n")):
            final = final.rstrip(b"\r\n") + b"\n"
        if not final.strip() and not given:
            raise UserError(f"{self.path}: the file is empty")
        if final:
            yield np.frombuffer(final, np.uint8), True


def _safe_end(text: np.ndarray) -> int:
    """Where ``text`` can be cut: after a newline that is followed by more than line ends; 0 when there is none."""
    for size in (_TAIL, len(text)):
        tail = text[-size:].tobytes()
        found = tail.rfind(b"\n", 0, len(tail.rstrip(b"\r\n"))) + 1
        if found:
            return len(text) - len(tail) + found
    return len(text) if len(text) > _LONGEST else 0
