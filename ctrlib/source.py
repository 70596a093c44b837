"""Which version of the code this is."""

import os
import subprocess

from ctrlib.config import project_root


def source_commit() -> str:
    """Short hash of the project's commit, ``+`` behind it where files differ from it; empty where there is no git.

    The environment variable ``CTRLIB_COMMIT`` says it for a copy that has no git, or another, as in a container.
    """
    if told := os.environ.get("CTRLIB_COMMIT"):
        return told
    root = project_root()
    if not (root / ".git").exists():  # a copy inside somebody else's repository is not at their commit
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
