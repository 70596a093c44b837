"""One lock per run: who trains it, on this machine or on another that shares the folder.

Two signs say that a run is being trained. The operating system's lock is freed with the process that held it, however
that ended, but on a shared folder it may not reach the other machines. So the owner also leaves a file with its name
and a counter that it moves on every ``HEARTBEAT_S`` seconds. A counter that stands still for six times as long, by the
clock of the one who looks, means that the owner is gone: no two clocks are ever compared.

    NAME.lock           the operating system's lock
    NAME.owner          the first owner: machine, process, start, counter, and a token that is never used again
    NAME.after-TOKEN    the owner after the one with that token, who was found dead

Only one process can make each of these files (``O_EXCL``, which NFS keeps to as well), so a dead owner has one heir.
Who inherits from an owner that freed the lock meanwhile finds that nothing leads to it, and gives way.
(The lease of the filelock package would do, but it exchanges two names in one step, which NFS and SMB refuse.)
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
from pathlib import Path

from filelock import FileLock, Timeout

HEARTBEAT_S = 10.0
STALE_HEARTBEATS = 6
LARGEST_FILE = 1000
NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)

_seen: dict[Path, tuple[str, float]] = {}  # by lock: what its last owner's file said, and since when


def stale_s() -> float:
    """Seconds without a heartbeat after which an owner counts as dead."""
    return STALE_HEARTBEATS * HEARTBEAT_S


def this_machine() -> str:
    """Host name and, where the system has one, the name of this start of it: two machines may share a host name."""
    with contextlib.suppress(OSError):
        return f"{platform.node()}/{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return platform.node()


@dataclass(frozen=True)
class Owner:
    """What an owner's file says; a file that cannot be read as one has the token ``unknown``."""

    path: Path
    text: str
    token: str = "unknown"
    machine: str = "unknown"
    process: int = 0
    has_system_lock: bool = False

    def __str__(self) -> str:
        host = "".join(c for c in self.machine.partition("/")[0] if c.isprintable())
        return f"process {self.process} on {host[:100]}" if self.process else "a process that did not say its name"


class RunLock:
    """The lock ``name`` in ``folder``, which must exist. Use it as ``if lock.acquire(): with lock: ...``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = Path(folder) / name
        self._system = FileLock(f"{self._path}.lock")
        self._token = ""
        self._over = threading.Event()

    def acquire(self) -> bool:
        """Take the lock if it is free or its owner is dead; False at once while somebody has it.

        Raises:
            OSError: the folder does not take files.
        """
        reached = self._acquire_system()
        try:
            before = self.owner()
            if self._is_free(reached, before) and self._claim(before, reached is True):
                return True
        except BaseException:
            self._system.release()
            raise
        self._system.release()
        return False

    def owner(self) -> Owner | None:
        """Who has the lock, or was the last to have it before dying; None when nobody left a file."""
        chain = self._chain()
        return chain[-1] if chain else None

    def is_held(self) -> bool | None:
        """Whether a living process has the lock; None: the heartbeat of one that the system does not tell about has
        to be watched, so ask again after :func:`stale_s` seconds."""
        reached = self._acquire_system()
        try:
            before = self.owner()
            if self._is_free(reached, before):
                return False
            return None if before and reached is not False else True
        finally:
            self._system.release()

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
        self._system.release()

    def _acquire_system(self) -> bool | None:
        """Whether the operating system gave its lock; None where its file system has none."""
        try:
            self._system.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            if error.errno in NOT_SUPPORTED:
                return None
            raise
        return True

    def _is_free(self, reached: bool | None, before: Owner | None) -> bool:
        """Whether the lock can be taken: nobody has it, or who had it is dead."""
        if before is None and reached is not False:
            return True
        if before and reached and before.has_system_lock and before.machine == this_machine():
            return True  # the operating system, which knows on one machine, would not have given it to us
        text = f"{before.path.name} {before.text}" if before else ""
        if _seen.get(self._path, ("", 0.0))[0] != text or self._path not in _seen:
            _seen[self._path] = (text, time.monotonic())
        return time.monotonic() - _seen[self._path][1] >= stale_s()

    def _claim(self, before: Owner | None, has_system_lock: bool) -> bool:
        """Become the owner after ``before``; False if others were faster."""
        path = Path(f"{self._path}.owner" if before is None else f"{self._path}.after-{before.token}")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_SYNC", 0)  # others are to see it at once
        try:
            self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        except FileExistsError:
            return False
        self._token, self._beats = secrets.token_hex(8), 0
        self._about = {
            "token": self._token,
            "machine": this_machine(),
            "process": os.getpid(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "system_lock": has_system_lock,
        }
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
        if not re.fullmatch("[0-9a-f]{16}", token):  # it becomes part of a file name
            return Owner(path, text)
        return Owner(path, text, token, machine, process, about["system_lock"] is True)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Owner(path, text)
