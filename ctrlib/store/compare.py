"""Two files of results compared, in lines of text: what is in one of them alone, and what differs by how much."""

import math
from collections.abc import Iterator
from typing import Any

from ctrlib.config import Run
from ctrlib.store.progress import label
from ctrlib.store.published import Results


def differences(first: Results, second: Results) -> Iterator[str]:
    """Lines on runs, measures and data sets, each kind with a summary line first.

    Runs differ when their metrics do, of an epoch or of the kept weights, or else the checksums of their files; times
    and machines are not compared.
    """
    for kind in ("runs", "measures", "data"):
        a, b = getattr(first, kind), getattr(second, kind)
        difference = run_difference if kind == "runs" else largest_difference
        both = {name: difference(a[name], b[name]) for name in a if name in b}
        differ = {name: found for name, found in both.items() if found[0] > 0}
        yield f"{kind}: {len(a):,} and {len(b):,}, {len(both):,} of them in both, of which {len(differ):,} differ"
        for where, here, there in (("first", a, b), ("second", b, a)):
            yield from (f"  only in the {where}: {_title(kind, name, here)}" for name in sorted(set(here) - set(there)))
        for name, (amount, place) in sorted(differ.items(), key=lambda item: (-item[1][0], item[0])):
            size = f"largest difference {amount:.3g}" if amount < math.inf else "differs"
            yield f"  {_title(kind, name, a)}: {size} at {place}"


def run_difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, str]:
    """As :func:`largest_difference` of the metrics in two run.json; where they agree, of the predictions' checksums."""
    metrics = [{key: run[key] for key in ("test", "kept_epochs")} | {"history": _untimed(run)} for run in (a, b)]
    found = largest_difference(*metrics)
    return found if found[0] else largest_difference(a["files"], b["files"], "files")


def _untimed(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run["history"]]


def largest_difference(a: Any, b: Any, place: str = "") -> tuple[float, str]:
    """Largest difference of two numbers of two JSON values, infinite where they differ otherwise, and its place."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        parts = [(f"{place}.{key}" if place else key, a[key], b[key]) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        parts = [(f"{place}[{n}]", x, y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, int | float) and isinstance(b, int | float):
        return (0.0 if a == b or (a != a and b != b) else abs(a - b)), place
    else:
        return (0.0 if a == b else math.inf), place
    return max((largest_difference(x, y, where) for where, x, y in parts), key=lambda one: one[0], default=(0.0, place))


def _title(kind: str, name: str, contents: Any) -> str:
    return f"{name} {label(Run.model_validate(contents[name]['run']))}" if kind == "runs" else name
