"""What has to be put in place before a peer of 2023 to 2025 imports under today's NumPy and without Ray."""

import sys
from types import ModuleType

import numpy as np


def add_numpy_aliases() -> None:
    """RecBole reads names that NumPy 2 dropped."""
    gone = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    for name, value in gone.items():
        if not hasattr(np, name):
            setattr(np, name, value)


def stand_in_for_ray() -> None:
    """Empty modules for Ray, which RecBole imports for tuning and FuxiCTR for parquet files; neither is used here."""
    if "ray" in sys.modules:
        return
    names = {
        "ray": ("tune", "data"),
        "ray.tune": (),
        "ray.data": ("SaveMode", "TaskPoolStrategy"),
        "ray.data.datasource": (),
        "ray.data.datasource.filename_provider": ("FilenameProvider",),
    }
    for name, contents in names.items():
        module = ModuleType(name)
        for content in contents:
            setattr(module, content, sys.modules.get(f"{name}.{content}", object))
        sys.modules[name] = module
