"""Errors a user can mend, and the one wording for "this name is not known".

Everything a person can get wrong (a file, a setting, a name) raises :class:`UserError` with a single line
that says where, which value, and what is allowed. The command line prints that line alone; so does Jupyter.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake the user can mend; its text is one complete line."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: show the one line instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


MOST_NAMES = 100  # that a message lists


def shown(value: object, most: int = 200) -> str:
    """A value as it appears in a message: in one line, quoted, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def error_place(problem: Any) -> str:
    """Where one of pydantic's ``errors()`` is, in one line."""
    return " ".join(".".join(map(str, problem["loc"]))[:100].split())


def first_problem(error: Any) -> str:
    """The first problem of a pydantic ``ValidationError`` in one line: where it is, and what."""
    first = error.errors()[0]
    return f"{error_place(first)!r}: {first['msg'][:200]}"


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """The error for a name outside ``allowed``, with the nearest valid name when one is close."""
    allowed = list(allowed)
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    close = get_close_matches(str(name)[:100].lower(), by_lower, n=1, cutoff=0.5)
    hint = f" Did you mean {shown(by_lower[close[0]])}?" if close else ""
    names = [str(one) if len(str(one)) <= 100 else f"{str(one)[:97]}..." for one in allowed]
    listed = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    return UserError(f"unknown {kind} {shown(name)}; allowed: {' '.join(listed.split())[:2000]}.{hint}")
