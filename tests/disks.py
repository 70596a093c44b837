"""Disks as a test needs them: read-only or small, seen by one process only. Needs the right to mount (root)."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import PROCESSES

NEW_MOUNTS, RECURSIVE, PRIVATE = 0x00020000, 0x4000, 1 << 18
READ_ONLY, REMOUNT, BIND = 1, 32, 4096


def mount(source: str, target: Path | str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    texts = [text.encode() if text is not None else None for text in (source, str(target), kind)]
    if ctypes.CDLL(None, use_errno=True).mount(*texts, flags, options.encode() if options else None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read_only(folder: Path) -> None:
    """Nothing can be written below ``folder`` from now on."""
    mount(str(folder), folder, None, BIND)
    mount("none", folder, None, BIND | REMOUNT | READ_ONLY)


def small(folder: Path, size: int) -> None:
    """``folder`` is an empty disk of so many bytes from now on."""
    mount("tmpfs", folder, "tmpfs", 0, f"size={size}")


def _apart(answer: Any, prepare: Callable, function: Callable, arguments: tuple) -> None:
    """In the child: mounts of its own, then the work."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "no mounts of one's own")
        mount("none", "/", None, RECURSIVE | PRIVATE)
        prepare()
    except (OSError, AttributeError) as error:
        answer.send(("cannot mount", str(error)))
        return
    try:
        answer.send(("done", function(*arguments)))
    except BaseException as error:
        answer.send(("failed", f"{type(error).__name__}: {error}"))


def with_disk(prepare: Callable, function: Callable, *arguments: Any) -> Any:
    """What ``function`` returns in a process for which ``prepare`` changed the disks; skips where that is forbidden."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_apart, args=(send, prepare, function, arguments))
    process.start()
    try:
        assert receive.poll(120)
        how, result = receive.recv()
    finally:
        process.kill()
        process.join()
    if how == "cannot mount":
        pytest.skip(f"needs the right to mount a disk ({result})")
    assert how == "done", result
    return result
