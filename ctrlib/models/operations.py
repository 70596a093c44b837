"""Operations that exist in two forms: the plain one, where it is needed, and a faster one in :data:`FASTER`.

A function under ``@has_faster_form`` is the plain form and says what is computed. :func:`ctrlib.fast.install` fills the
table with functions of the same names, arguments and, up to rounding, results. Without it everything here and in
:mod:`ctrlib.training` runs as it is written.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TypeVar

F = TypeVar("F", bound=Callable)

PLAIN: dict[str, Callable] = {}
FASTER: dict[str, Callable] = {}
PLAIN_ONLY = ContextVar("PLAIN_ONLY", default=False)


def has_faster_form(plain: F) -> F:
    """``plain``, or the function of its name in :data:`FASTER` where there is one."""
    name = plain.__name__
    PLAIN[name] = plain

    @wraps(plain)
    def operation(*args, **kwargs):
        return (plain if PLAIN_ONLY.get() else FASTER.get(name, plain))(*args, **kwargs)

    return operation


@contextmanager
def plain_forms() -> Iterator[None]:
    """Inside, in this thread, the plain forms alone: they can be differentiated twice, which faster ones refuse."""
    before = PLAIN_ONLY.set(True)
    try:
        yield
    finally:
        PLAIN_ONLY.reset(before)
