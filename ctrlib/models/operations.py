"""Operations that exist in two forms: the plain one, where it is needed, and a faster one in :data:`FASTER`.

A function under ``@has_faster_form`` is the plain form and says what is computed. :func:`ctrlib.fast.install` fills the
table with functions of the same names, arguments and, up to rounding, results. Without it everything here and in
:mod:`ctrlib.training` runs as it is written.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

F = TypeVar("F", bound=Callable)

PLAIN: dict[str, Callable] = {}
FASTER: dict[str, Callable] = {}


def has_faster_form(plain: F) -> F:
    """``plain``, or the function of its name in :data:`FASTER` where there is one."""
    name = plain.__name__
    PLAIN[name] = plain

    @wraps(plain)
    def operation(*args, **kwargs):
        return FASTER.get(name, plain)(*args, **kwargs)

    return operation
