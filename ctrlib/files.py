"""Writing files that are whole or not there."""

import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Write and force to disk, so that a rename never makes an empty file visible."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
