"""The libraries that ctrlib is compared with: who has which architecture, and how each is trained.

Each module here has ``fit(architecture, table, batch, device)``, which trains one epoch on a
:class:`benchmarks.table.Table` through the library's own training loop, at the sizes of :mod:`benchmarks.sizes`.
"""

import importlib

NAMES = {
    "deepctr-torch": "benchmarks.peers.deepctr",
    "fuxictr": "benchmarks.peers.fuxi",
    "recbole": "benchmarks.peers.bole",
    "torch-rechub": "benchmarks.peers.rechub",
    "torchrec": "benchmarks.peers.rec",
}
ABSENT = {
    ("recbole", "FiBiNET"): "the library has no FiBiNET",
    ("torch-rechub", "PNN"): "the library has no PNN for ranking",
    **{("torchrec", name): "put together for DeepFM alone" for name in ("DCN", "PNN", "FiBiNET")},
}


def fit(name: str, architecture: str, table, batch: int, device: str = "cpu"):
    """One epoch of ``architecture`` on ``table`` through the library ``name``; returns the trained module."""
    if (name, architecture) in ABSENT:
        raise ValueError(f"{name}: {ABSENT[name, architecture]}")
    return importlib.import_module(NAMES[name]).fit(architecture, table, batch, device)
