"""Valid inputs changed at random, as hypothesis draws them; what reads them may refuse them, but not crash."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrlib.errors import UserError

TOKENS = [
    *(b"", b"0", b"-1", b"1e999", b"9" * 25, b"9" * 5000, b"NaN", b"null", b"[]", b"{}", b"[" * 3000, b'{"":' * 2000),
    *(b"../../../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b","),
    *(b'"', b'""', b"'", b"\xc3", "é\u2028".encode(), b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1", b"\x93NUMPY"),
    *(b"!!python/object/apply:os.system [touch it_ran]", b"__import__('os')", b"<script>alert(1)</script>", b"$x^2$"),
    *(b"&a [*a]", b"\xff" * 8, b"\x00" * 8, b"\x80", b"a" * 200_000, b"(" * 5000),
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
