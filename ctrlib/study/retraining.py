"""What training again changes: the ledger of the excess log loss, and the churn of what is served.

Everything here is trained from scratch, a whole retraining: initial weights, order of the rows and, where asked for,
other rows. A fine-tuning would inherit most of a checkpoint's deviations and show those of its last epochs alone.
"""

from dataclasses import replace
from itertools import product

from ctrlib.errors import UserError, shown
from ctrlib.study.conditions import Condition, Replicate, Runs, changed
from ctrlib.study.controls import RDROP, RDROP_DROPOUT, offline_distillation

ONE, PREDECESSOR = "one model", "distilled from the predecessor"


def ledger(r: Replicate) -> list[Condition]:
    """What is served, for each of ``p.rows_seeds`` draws of the replicate's rows and ``p.cohorts`` cohorts on each, all
    with seeds of their own: one model, mutual at each weight, distilled; and dropout with and without R-Drop.

    Raises:
        UserError: data whose true click probability is not known.
    """
    if r.p.dataset != "synthetic":
        raise UserError(f"dataset={shown(r.p.dataset)}: the true click probability is needed; allowed: 'synthetic'")
    conditions = []
    for n, (rows_seed, cohort) in enumerate(product(r.p.rows_seeds, range(r.p.cohorts))):
        at = replace(r.varied(rows_seed=rows_seed), cohort=n)
        noisy = at.varied(dropout=r.p.dropout or RDROP_DROPOUT).alone_for_all_epochs(1)
        found = {**retrained(at), "dropout": noisy, "R-Drop": changed(noisy, rdrop=RDROP)}
        conditions += r.conditions(found, rows_seed=rows_seed, cohort=cohort)
    return conditions


def churn(r: Replicate) -> list[Condition]:
    """What is served today and, trained again with seeds of its own, tomorrow: one model, mutual at each weight,
    distilled, averaged weights, and one model distilled from that of today (Jiang et al. 2021, arXiv 2106.02654). On
    the same rows and, where synthetic clicks have a ``p.lag``, from rows that much earlier to those of tomorrow."""
    tomorrow = replace(r.varied(lag=0.0), cohort=1)
    days = {"same rows": r.varied(lag=0.0)}
    if r.p.dataset == "synthetic" and r.p.lag:
        days["a day later"] = r
    conditions, ema = [], {"averaging": "ema", "averaging_decay": r.p.averaging_decay}
    for rows, today in days.items():
        before, after = (
            {**retrained(at), "averaged weights": changed(at.alone_for_all_epochs(1), **ema)}
            for at in (today, tomorrow)
        )
        before[PREDECESSOR] = before[ONE][:1]
        after[PREDECESSOR] = offline_distillation(tomorrow, before[ONE][:1], r.p.mutual_weights[-1])
        conditions += r.conditions(before, rows=rows, day=0) + r.conditions(after, rows=rows, day=1)
    return conditions


def retrained(r: Replicate) -> dict[str, Runs]:
    """From scratch: the cohort's models each alone, coupled at each weight, and one model distilled from the ensemble
    of those alone at the last weight."""
    alone = r.alone_for_all_epochs(r.p.instances)
    coupled = {f"mutual, weight {weight:g}": r.from_scratch(r.coupling(weight)) for weight in r.p.mutual_weights}
    return {ONE: alone, **coupled, "distilled": offline_distillation(r, alone, r.p.mutual_weights[-1])[:1]}
