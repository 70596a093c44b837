"""One lock per run: who trains it, on this machine or on another that shares the folder.

The owner leaves a file with its name and a counter that it moves on every ``HEARTBEAT_S`` seconds. It is dead when its
process is gone, which only its own machine can tell, or when the counter stands still for six times as long, by the
clock of the observer: no two clocks are ever compared.

    NAME.owner          the first owner: machine, process, start, counter, and a token that is never used again
    NAME.after-TOKEN    the owner after the one with that token, who was found dead

Only one process can make each of these files (``O_EXCL``, which NFS keeps to as well), so a dead owner has one heir.
Who inherits from an owner that freed the lock meanwhile finds that nothing leads to its file, and gives way.

Why not a lock of the filelock package: ``SoftFileLease`` takes a dead owner's place by exchanging two names in one step
(``renameat2``), which NFS, SMB and most cluster file systems refuse. There, a run whose owner was killed would be
blocked for good, even on its own machine. ``SoftReadWriteLock`` does without, but it is for the processes of one user,
and on one machine too it waits for the heartbeat of an owner that was killed.
"""

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

HEARTBEAT_S = 10.0
STALE_HEARTBEATS = 6
LARGEST_FILE = 1000

_seen: dict[Path, tuple[str, float]] = {}  # by lock: what its last owner's file said, and since when


def stale_s() -> float:
    """Seconds without a heartbeat after which an owner counts as dead."""
    return STALE_HEARTBEATS * HEARTBEAT_S


@cache
def this_machine() -> str:
    """Where a process number means one process: host name and, as far as the system names them, boot and container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


@dataclass(frozen=True)
class Owner:
    """What an owner's file says; a file that cannot be read as one has the token ``unknown``."""

    path: Path
    text: str
    token: str = "unknown"
    machine: str = "unknown"
    process: int = 0

    def __str__(self) -> str:
        host = "".join(c for c in self.machine.partition("/")[0] if c.isprintable())
        return f"process {self.process} on {host[:100]}" if self.process else "a process that did not say its name"

    def is_here(self) -> bool:
        """Whether this machine would know if the owner died."""
        return self.machine == this_machine()

    def is_gone(self) -> bool:
        """Whether the owner's process is known to have ended. One with the same number may have come after it."""
        try:
            return self.is_here() and psutil.Process(self.process).status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError):
            return True
        except psutil.Error:
            return False


class RunLock:
    """The lock ``name`` in ``folder``, which must exist. Use it as ``if lock.acquire(): with lock: ...``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = Path(folder) / name
        self._token = ""
        self._over = threading.Event()

    def acquire(self) -> bool:
        """Take the lock if it is free or its owner is dead; False at once while somebody has it.

        Raises:
            OSError: the folder does not take files.
        """
        before = self.owner()
        return (before is None or self._is_dead(before)) and self._claim(before)

    def owner(self) -> Owner | None:
        """Who has the lock, or was the last to have it before dying; None when nobody left a file."""
        chain = self._chain()
        return chain[-1] if chain else None

    def is_held(self) -> bool | None:
        """Whether a living process has the lock; None: the heartbeat of one on another machine has to be watched, so
        ask again after :func:`stale_s` seconds."""
        owner = self.owner()
        if owner is None or self._is_dead(owner):
            return False
        return True if owner.is_here() else None

    def is_lost(self) -> bool:
        """Whether others took this lock from its living owner, who must have slept for longer than they waited."""
        owner = self.owner()
        return owner is None or owner.token != self._token

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            chain = self._chain()
            if chain and chain[-1].token == self._token:
                for owner in chain:  # the first one first: without it nothing leads to the others
                    owner.path.unlink(missing_ok=True)
        self._file.close()

    def _is_dead(self, owner: Owner) -> bool:
        """Whether the process of an owner is gone, or its counter has stood still for long enough."""
        text = f"{owner.path.name} {owner.text}"
        if self._path not in _seen or _seen[self._path][0] != text:
            _seen[self._path] = (text, time.monotonic())
        return owner.is_gone() or time.monotonic() - _seen[self._path][1] >= stale_s()

    def _claim(self, before: Owner | None) -> bool:
        """Become the owner after ``before``; False if others were faster."""
        path = Path(f"{self._path}.owner" if before is None else f"{self._path}.after-{before.token}")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_SYNC", 0)  # others are to see it at once
        try:
            self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        except FileExistsError:
            return False
        self._token, self._beats = secrets.token_hex(8), 0
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._about = {"token": self._token, "machine": this_machine(), "process": os.getpid(), "started": started}
        mine = False
        try:
            self._beat()
            mine = not self.is_lost()  # else the one before has freed the lock meanwhile
        finally:
            if not mine:
                self._file.close()
                path.unlink(missing_ok=True)
        if mine:
            self._heart = threading.Thread(target=self._live, daemon=True)
            self._heart.start()
        return mine

    def _live(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a heartbeat that is missed is not a reason to stop training
                self._beat()

    def _beat(self) -> None:
        """Write the whole file in place, always of the same length, so that a reader never sees half of one."""
        self._beats += 1
        self._file.seek(0)
        self._file.write(json.dumps({**self._about, "heartbeat": f"{self._beats:010d}"}).encode())

    def _chain(self) -> list[Owner]:
        """The owners' files, from the first to the last, each the heir of the one before."""
        chain: list[Owner] = []
        path = Path(f"{self._path}.owner")
        while (owner := read_owner(path)) and owner.token not in [one.token for one in chain]:
            chain.append(owner)
            path = Path(f"{self._path}.after-{owner.token}")
        return chain


def read_owner(path: Path) -> Owner | None:
    """The owner that a file names; None if there is no such file."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE).decode("utf-8", "replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # removed before, or while, it was read
            return None
        raise
    try:
        about = json.loads(text)
        token, machine, process = str(about["token"]), str(about["machine"]), int(about["process"])
        if re.fullmatch("[0-9a-f]{16}", token):  # it becomes part of a file name
            return Owner(path, text, token, machine, process)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    return Owner(path, text)
