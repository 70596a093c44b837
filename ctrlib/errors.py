"""Errors a user can mend, and the one wording for "this name is not known".

Everything a person can get wrong (a file, a setting, a name) raises :class:`UserError` with a single line
that says where, which value, and what is allowed. The command line prints that line alone; so does Jupyter.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend; its text is one complete line."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: show the one line instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """The error for a name outside ``allowed``, with the nearest valid name when one is close."""
    allowed = list(allowed)
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    close = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    hint = f" Did you mean {by_lower[close[0]]!r}?" if close else ""
    return UserError(f"unknown {kind} {name!r}; allowed: {', '.join(allowed)}.{hint}")
