"""Exercises of pages and notebooks: found in the text, and taken out of it again.

An exercise is plain Markdown, so that it reads as well in JupyterLab as in the book::

    **Exercise 1, predict, 3 minutes.** What do you expect if ...?

    <details class="solution"><summary>Solution</summary>

    More of it, because ...

    </details>

``predict`` is answered before looking or by thinking, ``re-run`` by a command, ``build`` by a few lines of code. An
edition for students is made from sources out of which the solutions were cut: what nobody reads, nobody can leak.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ctrlib.errors import UserError, shown

KINDS = ("predict", "re-run", "build")
HEAD = re.compile(r"^\*\*Exercise (\d+), ([\w-]+), (\d+) minutes\.\*\* ", flags=re.MULTILINE)
OPENING = '<details class="solution"><summary>Solution</summary>'
CLOSING = "</details>"
SOLUTION = re.compile(rf"^{re.escape(OPENING)}\n(.*?)^{CLOSING}[ ]*(?:\n|\Z)", flags=re.MULTILINE | re.DOTALL)
SLIP = re.compile(r"^\*\*Exercise|class=.?solution", flags=re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a page: its number there, its kind, its minutes, what is asked and what is answered."""

    number: int
    kind: str
    minutes: int
    task: str
    solution: str


def find_exercises(text: str, place: str = "page") -> list[Exercise]:
    """The exercises of a page's Markdown, in order.

    Raises:
        UserError: one that is not whole: a head that is none, no solution, a number out of turn, an unknown kind.
    """
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found = []
    for count, (head, end) in enumerate(zip(heads, ends, strict=False), start=1):
        number, kind, minutes = int(head[1]), head[2], int(head[3])
        solution = SOLUTION.search(text, head.end(), end)
        if number != count or kind not in KINDS or not minutes or not solution:
            raise UserError(
                f"{place}: exercise {shown(head[0])} must be number {count}, one of {', '.join(KINDS)}, "
                "take minutes and have a solution"
            )
        found.append(Exercise(number, kind, minutes, text[head.end() : solution.start()].strip(), solution[1].strip()))
    slips = len(SLIP.findall(text)) - 2 * len(found)
    if slips:
        raise UserError(
            f"{place}: {abs(slips)} exercises or solutions are not written as ctrlib.publish.exercises says"
        )
    return found


def without_solutions(text: str) -> str:
    """Markdown as it was, its solutions taken out."""
    return re.sub(r"\n{3,}", "\n\n", SOLUTION.sub("", text))


def notebook_text(path: Path) -> str:
    """The Markdown of a notebook, its cells one after the other."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def page_text(path: Path) -> str:
    """The Markdown of a page, be it a file or a notebook."""
    return notebook_text(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def strip(path: Path) -> None:
    """Take the solutions out of a page or notebook, in place; one that has none is left alone."""
    if path.suffix == ".ipynb":
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        before = ["".join(cell["source"]) for cell in cells]
        after = [without_solutions(text) for text in before]
        for cell, text in zip(cells, after, strict=True):
            cell["source"] = text.splitlines(keepends=True)
        written = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    else:
        before = [path.read_text(encoding="utf-8")]
        after = [without_solutions(before[0])]
        written = after[0]
    if any(OPENING in text for text in before):
        path.write_text(written, encoding="utf-8")
