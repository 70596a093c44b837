"""Exercises of pages and notebooks: found in the text, and taken out of it again.

An exercise is plain Markdown, so that it reads as well in JupyterLab as in the book::

    **Exercise 1, predict, 3 minutes.** What do you expect if ...?

    <details class="solution"><summary>Solution</summary>

    More of it, because ...

    </details>

``predict`` is answered before looking or by thinking, ``re-run`` by a command, ``build`` by a few lines of code. The
minutes are those of a person, of ``re-run`` those of its command on two cores, and at most three. The
students' edition is rendered from sources without the solutions, so that no file of it can hold one.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ctrlib.errors import UserError, shown

KINDS = ("predict", "re-run", "build")
HEAD = re.compile(r"^\*\*Exercise (\d+), ([\w-]+), (\d+) minutes?\.\*\* ", flags=re.MULTILINE)
OPENING = '<details class="solution"><summary>Solution</summary>'
CLOSING = "</details>"
SOLUTION = re.compile(rf"^{re.escape(OPENING)}\n(.*?)^{CLOSING}[ ]*(?:\n|\Z)", flags=re.MULTILINE | re.DOTALL)
SLIP = re.compile(r"^\*\*Exercise|class=.?solution", flags=re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a page."""

    number: int
    kind: str
    minutes: int
    task: str
    solution: str


def find_exercises(text: str, place: str = "page") -> list[Exercise]:
    """The exercises of a page's Markdown, in order.

    Raises:
        UserError: one that is incomplete: no such head, no solution, a number out of turn, an unknown kind.
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
    if slips := abs(len(SLIP.findall(text)) - 2 * len(found)):
        raise UserError(f"{place}: {slips} exercises or solutions are not written as ctrlib.publish.exercises says")
    return found


def without_solutions(text: str) -> str:
    """Markdown as it was, its solutions taken out."""
    return re.sub(r"\n{3,}", "\n\n", SOLUTION.sub("", text))


def page_text(path: Path) -> str:
    """The Markdown of a page: of a file, or of the cells of a notebook one after the other."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def strip(path: Path) -> None:
    """Remove the solutions from a page or notebook, in place; a file without any stays as it is."""
    text = page_text(path)
    if OPENING not in text:
        return
    if path.suffix == ".ipynb":
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = without_solutions("".join(cell["source"])).splitlines(keepends=True)
        written = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    else:
        written = without_solutions(text)
    path.write_text(written, encoding="utf-8")
