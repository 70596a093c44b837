"""Notebooks and profiles as they are written: which there are, and the parameters that they name."""

import json
import re
from pathlib import Path
from typing import Any

from ctrlib.config import checked
from ctrlib.data.folders import project_root
from ctrlib.errors import UserError, unknown
from ctrlib.study.parameters import StudyParameters, literals, read_yaml


def find_notebooks(root: Path) -> dict[str, Path]:
    """The notebooks by number, in reading order."""
    found: dict[str, Path] = {}
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        if (other := found.setdefault(path.name[:2], path)) != path:
            raise UserError(
                f"{other.parent}: {other.name} and {path.name} have one number; give the copy a number of its own or "
                "move it elsewhere"
            )
    if not found:
        raise UserError(f"{root / 'notebooks'}: no notebooks here; start ctrlib inside the project folder")
    return found


def book_notebooks(root: Path) -> dict[str, Path]:
    """The notebooks by number that are pages of the book, which ``_toc.yml`` lists, or all where it lists none."""
    pages = {Path(name).name for name in re.findall(r"file: +(\S+)", (root / "_toc.yml").read_text(encoding="utf-8"))}
    every = find_notebooks(root)
    return {number: path for number, path in every.items() if path.stem in pages} or every


def find_profile(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """A profile's parameters: section ``all``, one section per notebook number, and ``data`` with one per data set.

    ``profile`` is the name of a file in ``notebooks/profiles`` or a path to a YAML file.
    """
    folder = root / "notebooks" / "profiles"
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else folder / f"{profile}.yaml"
    if not path.is_file():
        raise unknown("profile", profile, sorted(p.stem for p in folder.glob("*.yaml")))
    try:
        content = read_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise UserError(f"{path}: must hold sections (all, 01, 02, ...) of parameter: value lines")
    return {str(section): dict(part) for section, part in content.items()}


def asked_parameters(
    sections: dict[str, dict[str, Any]], number: str, declared: dict[str, Any], overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The parameters that a profile and ``overrides`` give to a notebook, of those that it declares.

    Section ``all`` counts least, then what section ``data`` says of the notebook's data set, then its own section.
    With several ``datasets`` each has its part of ``data`` in ``per_dataset``, below what its section says there.
    """
    own, data = {**sections.get(number, {}), **(overrides or {})}, sections.get("data", {})
    asked = {**sections.get("all", {}), **own}
    if "per_dataset" in declared:
        given = asked.get("per_dataset", declared["per_dataset"])
        if isinstance(given, dict) and all(isinstance(part, dict) for part in given.values()):  # else it is refused
            labels = [*asked.get("datasets", declared["datasets"]), *(overrides or {}).get("per_dataset", ())]
            asked["per_dataset"] = {one: {**data.get(one, {}), **given.get(one, {})} for one in labels}
    elif (label := asked.get("dataset")) in data:
        asked = {**sections.get("all", {}), "dataset": label, **data[label], **own}
        asked["dataset"] = data[label].get("dataset", label)
    return {name: value for name, value in asked.items() if name in declared}


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values in the cell tagged ``parameters``; values are literals."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{notebook}: empty, cut or no notebook; `git checkout` brings back the one of the project"
        ) from None
    except OSError as error:
        raise UserError(f"{notebook}: cannot be read ({error.strerror or error})") from None
    if len(tagged) != 1:
        raise UserError(f"{notebook}: has {len(tagged)} cells tagged 'parameters'; exactly one is needed")
    try:
        return literals("".join(tagged[0]["source"]))
    except (SyntaxError, ValueError):
        raise UserError(f"{notebook}: the parameters cell may only hold lines of `name = literal`") from None


def published_parameters(notebook: str) -> StudyParameters:
    """The parameters of the published page of a notebook, which is named without its number.

    Raises:
        UserError: no such notebook in this project, or no published profile.
    """
    root = project_root()
    by_name = {path.stem.partition("_")[2]: path for path in find_notebooks(root).values()}
    if notebook not in by_name:
        raise unknown("notebook", notebook, by_name)
    declared = declared_parameters(by_name[notebook])
    asked = asked_parameters(find_profile(root, "published"), by_name[notebook].name[:2], declared)
    return checked(StudyParameters, **{**declared, **asked})
