"""Where and with what the numbers were measured."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("torch", "numpy", "scikit-learn", "polars", "pandas", "ctrlib")
PEERS = ("deepctr-torch", "fuxictr", "recbole", "torch-rechub", "torchrec", "fbgemm-gpu-cpu")
ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict:
    """Processor, cores, memory, system, versions and commit; nothing that names the user or the computer."""
    import torch

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "gpu_driver": gpu_driver() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {**{name: installed(name) for name in (*PACKAGES, *PEERS)}, "torch": torch.__version__},
        "commit": os.environ.get("CTRLIB_COMMIT") or git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def gpu_driver() -> str | None:
    """The version of the GPU's driver, as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.strip() else None


def processor() -> str:
    """The processor in words, where the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(*arguments: str) -> str | None:
    """What git says about this checkout, or None without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def short_name(machine: dict) -> str:
    """For file names: ``amd-epyc-2-cores``."""
    words = re.sub(r"[^a-z0-9]+", "-", machine["processor"].lower()).strip("-")
    gpu = "-gpu" if machine["gpu"] else ""
    return f"{words[:40].strip('-')}-{machine['cores']}-cores{gpu}"
