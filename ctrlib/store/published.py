"""Results that are kept as text beside the book: run records and measures without weights, predictions or rows.

``book/results/NAME.jsonl`` holds one JSON object a line, each with the checksum of what it says:

    {"run": ...}       run.json of a finished run
    {"measure": ...}   a measure of some runs (ctrlib.store.measures)
    {"data": ...}      what a plan has to know of a prepared data set: fingerprint, rows and field sizes of each draw

Whoever has these can make every table and figure of the book, without training and without the data.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctrlib.config import digest
from ctrlib.data.files import write_synced
from ctrlib.data.folders import project_root
from ctrlib.errors import UserError

KINDS = ("run", "measure", "data")


class Results:
    """The results below one folder, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.runs: dict[str, dict[str, Any]] = {}  # fingerprint -> content of run.json
        self.measures: dict[str, Any] = {}  # key -> value
        self.data: dict[str, list[dict[str, Any]]] = {}  # name -> draws
        for path in sorted(self.folder.glob("*.jsonl")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                self._add(path, number, line)

    def _add(self, path: Path, number: int, line: str) -> None:
        try:
            entry = json.loads(line)
            checksum = entry.pop("checksum")
            ((kind, content),) = entry.items()
            whole = kind in KINDS and digest(entry) == checksum
        except (ValueError, AttributeError, KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError(f"{path}, line {number}: damaged; get the file anew, or remove it")
        if kind == "run":
            self.runs[content["fingerprint"]] = content
        elif kind == "measure":
            self.measures[content["key"]] = content["value"]
        else:
            self.data[content["name"]] = content["draws"]


@lru_cache(maxsize=1)
def committed_results() -> Results:
    """The results that come with this project."""
    return Results(project_root() / "book" / "results")


def write(path: Path, entries: Iterable[tuple[str, dict[str, Any]]]) -> int:
    """Write results, ``(kind, content)``, in a stable order, whole or not at all; how many there are."""
    lines = sorted(json.dumps({kind: content, "checksum": digest({kind: content})}) for kind, content in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    write_synced(aside, "".join(f"{line}\n" for line in lines).encode())
    aside.replace(path)
    return len(lines)
