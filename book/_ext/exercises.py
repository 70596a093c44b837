"""Exercises on the page: a box and an anchor for each, and a directive that lists them all.

How an exercise is written, and how its solution is taken out for students, is in ``ctrlib/exercises.py``. Here it is
put into a box with the class of its kind and the anchor ``exercise-N``. ``exercise-list`` makes a table of all
exercises from the pages themselves: a line for each page of the table of contents that has any.
"""

import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from ctrlib.exercises import KINDS, find_exercises, page_text

HEAD = re.compile(r"Exercise (\d+), ([\w-]+), \d+ minutes\.")


def _head(node: nodes.Node) -> re.Match | None:
    """What a paragraph that begins an exercise says in bold."""
    strong = next(iter(node.findall(nodes.strong)), None) if isinstance(node, nodes.paragraph) else None
    return HEAD.fullmatch(strong.astext()) if strong and node.astext().startswith(strong.astext()) else None


def _box(app, doctree):
    for first in [node for node in doctree.findall(nodes.paragraph) if _head(node)]:
        head, parent = _head(first), first.parent
        start = stop = parent.index(first)
        while stop + 1 < len(parent) and not _head(parent[stop + 1]):
            stop += 1
        box = nodes.container(classes=["exercise", f"exercise-{head[2]}"], ids=[f"exercise-{head[1]}"])
        box += parent[start : stop + 1]
        parent[start : stop + 1] = [box]


def pages_in_order(root: Path) -> list[Path]:
    """The pages of the table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [path for name in names for ending in (".md", ".ipynb") if (path := root / f"{name}{ending}").exists()]


class ExerciseList(SphinxDirective):
    """``exercise-list``: pages, how many exercises of each kind, and minutes."""

    def run(self) -> list[nodes.Node]:
        """A table, written as Markdown with links."""
        lines = [f"| Page | {' | '.join(KINDS)} | Minutes |", "| :-- |" + " --: |" * (len(KINDS) + 1)]
        totals = dict.fromkeys((*KINDS, "minutes"), 0)
        for path in pages_in_order(Path(self.env.srcdir)):
            self.env.note_dependency(str(path))
            text = page_text(path)
            found = find_exercises(text, path.name)
            if not found:
                continue
            counts = [sum(one.kind == kind for one in found) for kind in KINDS]
            minutes = sum(one.minutes for one in found)
            for kind, count in zip((*KINDS, "minutes"), (*counts, minutes), strict=True):
                totals[kind] += count
            title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)[1]
            cells = " | ".join(str(count or "") for count in counts)
            lines.append(f"| [{title}](/{path.relative_to(self.env.srcdir).as_posix()}) | {cells} | {minutes} |")
        cells = " | ".join(str(count) for count in totals.values())
        return self.parse_text_to_nodes("\n".join([*lines, f"| all | {cells} |"]))


def setup(app):
    app.add_config_value("student", False, "env")
    app.connect("doctree-read", _box)
    app.add_directive("exercise-list", ExerciseList)
    app.add_css_file("exercises.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
