"""Mutual learning for click-through-rate models: models, data, mutual trainer, run records and the study made of them.

The core, which imports nothing of the rest:

    config, coupling, errors   what a run is; who learns from whom; one line for a user's mistake
    models/                    the architectures by name, one file each
    training/                  a cohort of models: one step, one loop; ``reference`` is the same in sixty lines

Around it, each importing only the core and what stands before it:

    fast/                      the same numbers sooner
    data/                      rows: made, read, fetched, encoded
    stats/                     is a difference real
    store/                     each run trained once, kept whole
    study/                     experiments, tables, verdicts, figures
    run/                       notebooks planned and executed
    publish/                   book, slides, PDF
    cli/                       the commands

The names of ``__all__`` are here for scripts, and imported when they are used. Start reading at :mod:`ctrlib.coupling`.
"""

from importlib import import_module

_PLACES = {
    "ctrlib.config": ("Checkpoint", "Coupling", "Data", "Member", "Recipe", "Run", "SyntheticSettings"),
    "ctrlib.coupling": ("complete", "one_way", "pairs", "peer_loss", "ring", "solo", "star"),
    "ctrlib.data.load": ("data_settings", "load_data"),
    "ctrlib.errors": ("UserError",),
    "ctrlib.fast": ("train",),
    "ctrlib.models": ("MODELS", "build_model", "register_model"),
    "ctrlib.training.auc": ("auc",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("ctrlib")
    if name not in _MODULES:
        raise AttributeError(f"module 'ctrlib' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
