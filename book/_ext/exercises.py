"""Exercises on the page: a box and an anchor for each, and a table of all of them for teachers.

How an exercise is written, and how its solution is taken out for students, is in ``ctrlib/publish/exercises.py``.
Here it is put into a box with the class of its kind and the anchor ``exercise-N``; a cell of code ends it.
``teaching-table`` makes a table for teachers from the pages themselves: a line for each page of the table of contents
that has exercises.
"""

import json
import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from ctrlib.publish.exercises import KINDS, find_exercises, page_text, without_solutions

TOOK = r"(\d+ runs? with .+?) of training.*?; on (.+?); (?:of \d+ training|\d+ runs? trained|page made)"
HEAD = re.compile(r"Exercise (\d+), ([\w-]+), \d+ minutes?\.")


def _head(node: nodes.Node) -> re.Match | None:
    """What a paragraph that begins an exercise says in bold."""
    strong = next(iter(node.findall(nodes.strong)), None) if isinstance(node, nodes.paragraph) else None
    return HEAD.fullmatch(strong.astext()) if strong and node.astext().startswith(strong.astext()) else None


def _ends(node: nodes.Node) -> bool:
    """Whether a node no longer belongs to the exercise before it: the next one, or a cell of code."""
    return bool(_head(node)) or "cell" in node.get("classes", [])


def _box(app, doctree):
    for first in [node for node in doctree.findall(nodes.paragraph) if _head(node)]:
        head, parent = _head(first), first.parent
        start = stop = parent.index(first)
        while stop + 1 < len(parent) and not _ends(parent[stop + 1]):
            stop += 1
        box = nodes.container(classes=["exercise", f"exercise-{head[2]}"], ids=[f"exercise-{head[1]}"])
        box += parent[start : stop + 1]
        parent[start : stop + 1] = [box]


def pages_in_order(root: Path) -> list[Path]:
    """The pages of the table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [path for name in names for ending in (".md", ".ipynb") if (path := root / f"{name}{ending}").exists()]


def reading_minutes(path: Path) -> int:
    """Time to read a page: words at 180 a minute, and a minute for each figure or table that a notebook shows."""
    shown = 0
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        shown = sum("mystnb" in cell["metadata"] for cell in cells) + len(
            re.findall(r"^\s*show_\w+\(", code, re.MULTILINE)
        )
    return max(1, round(len(re.findall(r"\w+", without_solutions(page_text(path)))) / 180) + shown)


def what_it_took(path: Path) -> tuple[str, str]:
    """What the runs of an executed notebook took, and on which machine, as the page itself says; empty otherwise."""
    if path.suffix != ".ipynb":
        return "", ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            said = "".join(output.get("data", {}).get("text/markdown", []))
            if match := re.search(TOOK, said):
                return match[1].replace(" with ", ", "), match[2]
            if match := re.search(r"\*This page took\* (.+? by hand)", said):
                return match[1], ""
    return "", ""


class TeachingTable(SphinxDirective):
    """``teaching-table``: for each page the time to read it, its exercises, and the training behind it."""

    def run(self) -> list[nodes.Node]:
        """A table, written as Markdown with links, and a line on the machines."""
        lines = ["| Page | Reading | Exercises | Behind it |", "| :-- | --: | :-- | :-- |"]
        read, worked, counts, machines = 0, 0, dict.fromkeys(KINDS, 0), {}
        for path in pages_in_order(Path(self.env.srcdir)):
            self.env.note_dependency(str(path))
            text = page_text(path)
            found = find_exercises(text, path.name)
            if not found:
                continue
            here = {kind: sum(one.kind == kind for one in found) for kind in KINDS}
            minutes = sum(one.minutes for one in found)
            title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)[1]
            took, machine = what_it_took(path)
            machines |= dict.fromkeys(machine.split("; ") if machine else ())
            kinds = ", ".join(f"{count} {kind}" for kind, count in here.items() if count)
            link = f"[{title}](/{path.relative_to(self.env.srcdir).as_posix()})"
            lines.append(f"| {link} | {reading_minutes(path)} min | {kinds}: {minutes} min | {took} |")
            read, worked = read + reading_minutes(path), worked + minutes
            counts = {kind: counts[kind] + here[kind] for kind in KINDS}
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        lines.append(f"| **All** | {read} min | {kinds}: {worked} min | |")
        said = f"Trained on: {'; '.join(machines)}." if machines else ""
        return self.parse_text_to_nodes("\n".join([*lines, "", said]))


def setup(app):
    app.add_config_value("student", False, "env")
    app.connect("doctree-read", _box)
    app.add_directive("teaching-table", TeachingTable)
    app.add_css_file("exercises.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
