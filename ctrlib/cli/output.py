"""How commands speak: tables, lines and progress, in one look."""

from contextlib import contextmanager
from typing import Any


def console(stderr: bool = True) -> Any:
    """A rich console; stderr is for progress and errors."""
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def reporting(start: str) -> Any:
    """A spinner on stderr whose text can be changed: ``with reporting("reading") as report: report("next step")``."""
    with console().status(start) as status:
        yield status.update


def table(*texts: str, numbers: tuple[str, ...] = (), last: tuple[str, ...] = ()) -> Any:
    """An empty rich table: text columns, then numbers to the right, then more text; the first column never wraps."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(texts):
        table.add_column(name, no_wrap=place == 0)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, no_wrap=True)
    return table


def say(line: str) -> None:
    """A line on stdout, as it is."""
    console(stderr=False).print(line, markup=False, highlight=False, soft_wrap=True)


def plain(value: Any) -> str:
    """A table cell: thousands separated, nothing for None, brackets left alone."""
    from rich.markup import escape

    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def share(value: float | None) -> str | None:
    """A share in per cent; None stays None."""
    return None if value is None else f"{value:.2%}"
