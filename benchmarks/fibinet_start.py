"""What FiBiNET's two starts are worth on criteo_100k: ``python -m benchmarks.fibinet_start``, ten minutes on two cores.

Writes ``book/results/fibinet_start.csv``, which the page on the method shows: validation AUC after each of three
epochs, mean over seeds, at the size of the FuxiCTR runs that it stands beside (embedding 16, MLP 400-400-400).
"""

import pandas as pd

from ctrlib import Coupling, Member, Recipe, Run, data_settings
from ctrlib.coupling import solo
from ctrlib.data.folders import project_root
from ctrlib.store.runs import open_store

STARTS, SEEDS, EPOCHS, DRAW = ("per_matrix", "stacked"), (1, 2, 3), 3, 9


def runs(start: str) -> list[Run]:
    """One training of a model alone for each seed."""
    return [
        Run(
            data=data_settings("criteo_100k", DRAW),
            members=(Member(architecture="FiBiNET", options={"bilinear_init": start}, init_seed=n, order_seed=n),),
            coupling=Coupling(weights=solo(1)),
            recipe=Recipe(epochs=EPOCHS),
        )
        for n in SEEDS
    ]


def main() -> None:
    """Train what is missing and write the table."""
    store = open_store()
    records = store.ensure([run for start in STARTS for run in runs(start)])
    table = []
    for start in STARTS:
        histories = [record.history for record in records if record.run.members[0].options["bilinear_init"] == start]
        aucs = pd.DataFrame([[row["valid_auc"] for row in history] for history in histories])
        table.append([start, len(SEEDS), *(f"{auc:.4f}" for auc in aucs.mean()), f"{aucs.std().max():.4f}"])
    columns = ["bilinear_init", "seeds", *(f"epoch {n}" for n in range(1, EPOCHS + 1)), "largest sd of seeds"]
    pd.DataFrame(table, columns=columns).to_csv(project_root() / "book" / "results" / "fibinet_start.csv", index=False)


if __name__ == "__main__":
    main()
