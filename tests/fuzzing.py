"""Valid inputs changed at random, as hypothesis draws them; what reads them may refuse them, but not crash."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrlib.errors import UserError

MEMORY = 2 << 30  # bytes that reading a small file may add
TOKENS = [
    *(b"", b"0", b"-1", b"1e999", b"9" * 25, b"9" * 5000, b"NaN", b"null", b"[]", b"{}", b"[" * 3000, b'{"":' * 2000),
    *(b"../../../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b","),
    *(b'"', b'""', b"'", b"\xc3", "é\u2028".encode(), b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1", b"\x93NUMPY"),
    *(b"!!python/object/apply:os.system [touch it_ran]", b"__import__('os')", b"<script>alert(1)</script>", b"$x^2$"),
    *(b"&a [*a]", b"\xff" * 8, b"\x00" * 8, b"\x80", b"a" * 200_000, b"(" * 5000),
]
STRANGE = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, "", "x", "../../etc/passwd"),
    *("/etc/passwd", "a\nb", "\ud800", "NaN", "9" * 5000, "<script>alert(1)</script>", [], {}, [[]], [None], {"a": 1}),
    *([0] * 1000, {"": None}, "\x00", "é"),
]


def changed_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one to four pieces replaced, and sometimes cut."""
    piece = st.sampled_from(TOKENS) | st.binary(max_size=8)
    edit = st.tuples(st.integers(0, len(content)), st.sampled_from([0, 1, 1, 4, 8, 100, 10**6]), piece)

    def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(content)
        for at, length, new in edits:
            data[at : at + length] = new
        return bytes(data)

    return st.lists(edit, min_size=1, max_size=4).map(edited)


def changed_json(content: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one to three of its places replaced or left out."""
    gone = object()
    edit = st.tuples(st.integers(0, 10**6), st.sampled_from([*STRANGE, gone, gone, gone]))

    def edited(edits: list[tuple[int, Any]]) -> Any:
        value = deepcopy(content)
        for number, new in edits:
            places = list(_places(value))
            if not places:
                return deepcopy(new)
            parent, key = places[number % len(places)]
            if new is gone:
                del parent[key]
            else:
                parent[key] = deepcopy(new)
        return value

    return st.lists(edit, min_size=1, max_size=3).map(edited)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key or number there."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Within, this process cannot take much more memory than it has (where the system can say so)."""
    import resource

    import psutil

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(read: Callable[[], Any]) -> bool:
    """Read one input; True when it was accepted, False when it was refused in one line."""
    try:
        read()
    except UserError as refusal:
        message = str(refusal)
    else:
        return True
    assert message
    assert "\n" not in message, message
    assert len(message) < 3000, len(message)
    return False


def fuzz(inputs: int, cases: st.SearchStrategy[Any], read: Callable[[Any], Any]) -> int:
    """Read so many inputs; how many were accepted. hypothesis names the smallest one that makes it fail."""
    accepted = 0

    @settings(max_examples=inputs, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(cases)
    def each(case: Any) -> None:
        nonlocal accepted
        accepted += attempt(lambda: read(case))

    each()
    return accepted
