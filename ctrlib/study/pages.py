"""Notebooks and profiles as they are written: which there are, and the parameters that they name."""

import json
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


def find_profile(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """A profile's parameters: section ``all`` and one section per notebook number.

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
    declared, sections = declared_parameters(by_name[notebook]), find_profile(root, "published")
    asked = {**sections.get("all", {}), **sections.get(by_name[notebook].name[:2], {})}
    return checked(StudyParameters, **{name: asked.get(name, default) for name, default in declared.items()})
