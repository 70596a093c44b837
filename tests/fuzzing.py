"""A small fuzzer: valid inputs are changed at random, and what reads them may refuse, but not crash or hang."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from ctrlib.errors import UserError

SEED = os.environ.get("CTRLIB_SEED", "0")
SECONDS = 60  # that one input may take: thousands of times the usual, so that a busy machine is no hang

TOKENS = [
    *(b"0", b"-1", b"1e999", b"9" * 25, b"9" * 5000, b"NaN", b"null", b"[]", b"{}", b"[" * 3000, b'{"":' * 2000),
    *(b"../../../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b","),
    *(b'"', b'""', b"'", b"\xc3", "é\u2028".encode(), b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1", b"\x93NUMPY"),
    *(b"!!python/object/apply:os.system [touch it_ran]", b"__import__('os')", b"<script>alert(1)</script>", b"$x^2$"),
    *(b"&a [*a]", b"\xff" * 8, b"\x00" * 8, b"\x80", b"a" * 200_000, b"(" * 5000),
]


def mutate(chance: random.Random, content: bytes) -> bytes:
    """One to four random changes of bytes."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        size = len(data)
        at = chance.randrange(size + 1)
        until = min(size, at + int(chance.paretovariate(0.7)))
        kind = chance.randrange(8)
        if kind == 0 and at < size:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < size:
            data[at] = chance.randrange(256)
        elif kind == 2:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 3:
            data[at:until] = chance.choice(TOKENS)
        elif kind == 4:
            del data[at:until]
        elif kind == 5:
            data[at:at] = data[at:until] * chance.choice([1, 2, 50])
        elif kind == 6:
            del data[at:]
        elif size > 8:
            place = chance.randrange(size - 8)
            value = chance.choice([0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1])
            width = chance.choice([1, 2, 4, 8])
            data[place : place + width] = (value % 256**width).to_bytes(width, chance.choice(["little", "big"]))
    return bytes(data)


STRANGE = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, "", "x", "../../etc/passwd"),
    *("/etc/passwd", "a\nb", "\ud800", "NaN", "9" * 5000, "<script>alert(1)</script>", [], {}, [[]], [None], {"a": 1}),
    *([0] * 1000, {"": None}, "\x00", "é"),
]


def reshape(chance: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one to three places changed: replaced, left out, doubled, renamed or moved."""
    value = deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return deepcopy(chance.choice(STRANGE))
        parent, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind <= 2:
            parent[key] = deepcopy(chance.choice(STRANGE))
        elif kind == 3:
            del parent[key]
        elif kind == 4 and isinstance(parent, list):
            parent.insert(key, deepcopy(parent[key]))
        elif kind == 4:
            parent[chance.choice(["x", "", "format", "__class__", "0"])] = deepcopy(parent[key])
        else:
            other, name = chance.choice(places)
            parent[key] = deepcopy(other[name])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key or number there."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


class TooLong(BaseException):
    """No error that what reads an input could take for one of its own."""


@contextmanager
def in_time() -> Iterator[None]:
    """Within, :class:`TooLong` is raised for an input that takes too long."""

    def late(*_: object) -> None:
        raise TooLong(f"{SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(read: Callable[[], Any]) -> bool:
    """Read one input; True when it was accepted, False when it was refused in one line."""
    try:
        with in_time():
            read()
    except UserError as refusal:
        message = str(refusal)
    else:
        return True
    assert message
    assert "\n" not in message, message
    assert len(message) < 3000, len(message)
    return False


def fuzz(name: str, inputs: int, make: Callable[[random.Random], Any], read: Callable[[Any], Any]) -> None:
    """Read so many inputs; a failure names the one that caused it, which the same seed makes again."""
    for number in range(inputs):
        made = make(random.Random(f"{SEED} {name} {number}"))
        try:
            attempt(lambda made=made: read(made))
        except BaseException as failure:
            failure.add_note(f"fuzzing {name}: input {number} with CTRLIB_SEED={SEED}: {str(made)[:300]}")
            raise
