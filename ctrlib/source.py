"""Which version of the code this is."""

import os
import subprocess

from ctrlib.config import project_root


def source_commit() -> str:
    """Short hash of the project's commit, ``+`` behind it where files differ from it.

    Where there is no git, as in a container, what the environment variable ``CTRLIB_COMMIT`` says, or nothing.
    """
    root = project_root()
    if not (root / ".git").exists():  # a copy inside somebody else's repository is not at their commit
        return os.environ.get("CTRLIB_COMMIT", "")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
