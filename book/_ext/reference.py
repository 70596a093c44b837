"""Tables of the reference part, made from what they describe while the book is built.

``parameters``: what notebooks take, from ``StudyParameters`` and the defaults in their cells. ``settings`` NAME: the
fields of a class of ``ctrlib.config``. ``packages``: the locked versions, with what each is for. ``made-of``: for every
executed notebook when and with which settings it was executed. ``fleet`` and ``limits``: the paper's grid on
many cards, see :mod:`fleet`.
"""

import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import annotated_types
from docutils import nodes
from fleet import LOGS, fleet_rows, limit_rows
from sphinx.util.docutils import SphinxDirective

from ctrlib import config
from ctrlib.data.folders import project_root
from ctrlib.run.plan import declared_parameters, find_notebooks
from ctrlib.study.parameters import StudyParameters

BOUNDS = {
    annotated_types.Ge: ("ge", "from {}"),
    annotated_types.Gt: ("gt", "above {}"),
    annotated_types.Le: ("le", "to {}"),
    annotated_types.Lt: ("lt", "below {}"),
    annotated_types.MinLen: ("min_length", "at least {} of them"),
}


def allowed(annotation: Any, metadata: list[Any]) -> str:
    """A type and its limits in words."""
    if hasattr(annotation, "__metadata__"):  # Annotated
        return allowed(annotation.__origin__, [*_expanded(annotation.__metadata__), *metadata])
    limits = [
        words.format(f"{bound:,}" if isinstance(bound, int) else f"{bound:g}")
        for kind, (name, words) in BOUNDS.items()
        for one in metadata
        if isinstance(one, kind) and ((bound := getattr(one, name)) != 1 or kind is not annotated_types.MinLen)
    ]
    return _kind(annotation) + (f", {' '.join(limits)}" if limits else "")


def _expanded(metadata: typing.Iterable[Any]) -> list[Any]:
    """The limits inside the ``Field(...)`` of an annotation."""
    return [inner for one in metadata for inner in getattr(one, "metadata", None) or [one]]


def _kind(annotation: Any) -> str:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(allowed(one, []) for one in inside)
    if origin is tuple:
        return f"list: {allowed(inside[0], [])}"
    if origin is dict:
        return "options by name"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none"}
    return names.get(annotation, f"`{getattr(annotation, '__name__', annotation)}`")


def literal(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(_plain, value))}]`"
    return "" if value is ... or "Undefined" in str(value) else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value) if value in ("", None) else str(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Rows as a table of Markdown."""
    safe = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, [":--"] * len(head), *safe])


def parameter_rows(root: Path) -> list[list[str]]:
    """Name, what is allowed, default and meaning of each parameter, and the notebooks of ``root`` that have it."""
    notebooks = find_notebooks(root)
    declared = {number: declared_parameters(path) for number, path in notebooks.items()}
    rows = []
    for name, field in StudyParameters.model_fields.items():
        numbers = [number for number in notebooks if name in declared[number]]
        if not numbers:
            continue
        defaults: dict[str, list[str]] = {}
        for number in numbers:
            defaults.setdefault(literal(declared[number][name]), []).append(number)
        usual = max(defaults, key=lambda text: len(defaults[text]))
        others = [f"{text} in {spans(there)}" for text, there in defaults.items() if text != usual]
        given = "; ".join([usual, *others])
        kind = allowed(field.annotation, field.metadata)
        rows.append([f"`{name}`", kind, given, f"{field.description} *({spans(numbers)})*"])
    return rows


def spans(numbers: list[str]) -> str:
    """Numbers of notebooks, runs of neighbours as one: 01 to 04, 07."""
    groups: list[list[int]] = []
    for number in map(int, numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]:02d}" if len(group) == 1 else f"{group[0]:02d} to {group[-1]:02d}" for group in groups)


def package_rows(root: Path) -> list[list[str]]:
    """Name, version and purpose of the packages that the project asks for; after them those that they need."""
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    versions = dict(line.split("==") for line in lock.splitlines() if "==" in line and not line.startswith("#"))
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    asked = {name.lower(): why for name, why in re.findall(r'^ +"([\w-]+)[^"]*",\s*# (.+)$', project, re.MULTILINE)}
    known = {name.lower().replace("_", "-"): (name, version) for name, version in versions.items()}
    rows = [[f"`{name}`", known[name.replace("_", "-")][1], why] for name, why in asked.items()]
    wanted = {name.replace("_", "-") for name in asked}
    rest = [f"{name} {version}" for key, (name, version) in known.items() if key not in wanted]
    return [*rows, ["what these need", "", ", ".join(rest)]]


def made_of_rows(root: Path) -> list[list[str]]:
    """For each executed notebook its day, how long the execution took, and the settings it was given."""
    rows = []
    for path in find_notebooks(root).values():
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        facts = metadata.get("papermill", {})
        given = {name: value for name, value in facts.get("parameters", {}).items() if name != "profile"}
        settings = ", ".join(f"`{name}={value}`" for name, value in given.items())
        seconds = metadata.get("ctrlib", {}).get("seconds", facts.get("duration") or 0)
        profile = facts.get("parameters", {}).get("profile", "")
        day = (facts.get("start_time") or "")[:10]
        rows.append([f"[{path.stem[:2]}](/notebooks/{path.name})", f"{profile}, {day}, {seconds:.0f} s", settings])
    return rows


class ReferenceTable(SphinxDirective):
    """A table of this file by its name, see above."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, written as Markdown."""
        root = Path(self.env.srcdir)
        if self.name == "parameters":
            text = table(["Parameter", "Allowed", "Default", "Meaning, and pages"], parameter_rows(root / "book" / "_static"))  # as written
        elif self.name == "packages":
            text = table(["Package", "Version", "What it is for"], package_rows(root))
        elif self.name == "fleet":
            text = table(["Cards", *(head for log in LOGS for head in (log, "busy"))], fleet_rows(project_root()))
        elif self.name == "limits":
            text = table(["What", *LOGS], limit_rows(project_root()))
        elif self.name == "made-of":
            text = table(["Page", "Executed", "Given settings"], made_of_rows(root))
        else:
            fields = getattr(config, self.arguments[0]).model_fields
            rows = [
                [f"`{name}`", allowed(f.annotation, f.metadata), literal(f.default), f.description or ""]
                for name, f in fields.items()
            ]
            text = table(["Setting", "Allowed", "Default", "Meaning"], rows)
        for path in (root / "requirements.lock", root / "pyproject.toml", *find_notebooks(root).values()):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(text)


def setup(app):
    for name in ("parameters", "settings", "packages", "made-of", "fleet", "limits"):
        app.add_directive(name, ReferenceTable)
    app.add_css_file("reference.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
