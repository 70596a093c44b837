"""Where the project, its prepared data and its run records lie."""

import os
from pathlib import Path


def project_root() -> Path:
    """The folder that holds this project's ``_toc.yml``, looked for upwards from here; else the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").exists() and (folder / "ctrlib").is_dir():
            return folder
    return here


def data_root() -> Path:
    """Where prepared data sets are: ``CTRLIB_DATA``, else ``data/`` in the project."""
    return Path(os.environ.get("CTRLIB_DATA") or project_root() / "data")


def store_root() -> Path:
    """Where run records are: ``CTRLIB_RUNS``, else ``runs/`` in the project."""
    return Path(os.environ.get("CTRLIB_RUNS") or project_root() / "runs")
