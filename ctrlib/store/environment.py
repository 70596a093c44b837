"""What a run record says about the machine and the code that trained it."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from ctrlib.data.folders import project_root

INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
"""The environment variable that limits the vector instructions of matrix products, and with them their rounding."""


def environment(device) -> dict:
    """What the numbers may depend on beyond the settings, and what the time does: versions, machine, chosen paths."""
    import numpy as np
    import torch

    from ctrlib.fast.machine import keep_freed_memory

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.platform(),
        "processor": processor_name(),
        "instructions": os.environ.get(INSTRUCTIONS) or torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "keeps_freed_memory": keep_freed_memory(),
    }


def processor_name() -> str:
    """The processor in words, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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


loaded_commit = cache(source_commit)  # of the code that this process runs, whatever is changed on disk later
