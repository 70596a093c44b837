"""Mutual learning for click-through-rate models: models, data, mutual trainer, run records and the study made of them.

The small module, which imports no other room:

    config, coupling, errors   what a run is; who learns from whom; one line for a user's mistake
    models/                    the architectures by name, one file each
    training/                  a cohort of models: one step, one loop

Around it, each room importing only what stands before it:

    fast/                      the same numbers sooner
    data/                      rows: made, read, fetched, encoded
    stats/                     is a difference real
    store/                     each run trained once, kept whole
    study/                     experiments, tables, verdicts, figures
    run/                       notebooks planned and executed
    publish/                   book, slides, PDF
    cli/                       the commands

Start reading at :mod:`ctrlib.coupling`.
"""

from importlib.metadata import version

__version__ = version("ctrlib")
