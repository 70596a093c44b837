"""Mutual learning for click-through-rate models: models, data, mutual trainer and run records.

Modules import only what stands before them here: config, data, models, coupling, trainer, runs, metrics, statistics
(then auc_tests, false_claims, diminishing), experiments, figures, notebook, study, book, cli.
Start reading at :mod:`ctrlib.coupling`.
"""

from importlib.metadata import version

__version__ = version("ctrlib")
