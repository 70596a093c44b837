"""How commands report: results (lines and tables) on stdout; errors, notes and progress on stderr."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def console(stderr: bool = True) -> Any:
    """A rich console on stderr, or on stdout."""
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def reporting(start: str) -> Any:
    """A spinner on stderr whose text can be changed: ``with reporting("reading") as report: report("next step")``."""
    with console().status(start) as status:
        yield status.update


@contextmanager
def stage(title: str) -> Iterator[Callable[[str], None]]:
    """Long work, with a function for its lines: on a terminal the last one is shown, elsewhere each of them."""
    from rich.markup import escape

    began, out = time.monotonic(), console()
    style = {"markup": False, "highlight": False, "soft_wrap": True}
    if out.is_terminal:
        with out.status(title) as status:
            yield lambda line: status.update(f"{title}\n  [dim]{escape(line)}[/dim]")
    else:
        out.print(title, **style)
        yield lambda line: out.print(f"  {line}", **style)
    out.print(f"{title}: done, {time.monotonic() - began:.0f} s", **style)


def table(*texts: str, numbers: tuple[str, ...] = (), last: tuple[str, ...] = ()) -> Any:
    """An empty rich table: text columns, then numbers to the right, then more text; only text before them wraps."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in texts:
        made.add_column(name, overflow="fold")
    for name in (*numbers, *last):
        made.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    return made


def say(line: str) -> None:
    """A line on stdout, as it is."""
    console(stderr=False).print(visible(line), markup=False, highlight=False, soft_wrap=True)


def show(made: Any) -> None:
    """A table on stdout; where that is no terminal, nothing of it has to wrap."""
    out = console(stderr=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = 200
    out.print(made)


def complain(text: str) -> None:
    """One red line on stderr, whatever line breaks the text has."""
    line = " ".join(text.split("\n"))
    console().print(visible(line), style="red", markup=False, highlight=False, soft_wrap=True)


def plain(value: Any) -> str:
    """A table cell: thousands separated, nothing for None, brackets left alone."""
    from rich.markup import escape

    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else escape(visible(str(value)))


def visible(text: str) -> str:
    """Text whose control characters, as a name in a file may have them, are shown and not sent to the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def share(value: float | None) -> str | None:
    """A share in per cent; None stays None."""
    return None if value is None else f"{value:.2%}"
