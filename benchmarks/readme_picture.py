"""The README's picture, from the published records: ``python -m benchmarks.readme_picture``.

Writes ``book/_static/effects.png``, the figure of page 2; a test holds the data behind it against the records.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ctrlib.config import digest
from ctrlib.data.folders import project_root
from ctrlib.run.plan import plan
from ctrlib.store.published import committed_results
from ctrlib.store.runs import RunStore
from ctrlib.study import figures
from ctrlib.study.experiments import planned_conditions, train_conditions
from ctrlib.study.finetuning import HEADLINE, condition_name, crossed
from ctrlib.study.tables import mean_over, replicate_table


def picture(replicates: pd.DataFrame) -> Figure:
    """The effects of page 2, mean over the architectures, from its replicate table."""
    pairs = {
        f"fine-tune, {condition_name('', *cell).strip()}": tuple(
            condition_name(kind, *cell) for kind in ("mutual", "continued training")
        )
        for cell in crossed(full=True)
    }
    pairs["from scratch"] = ("mutual from scratch", "solo from scratch")
    pairs["mutual minus checkpoint (no control)"] = (HEADLINE[0], "checkpoint")
    return figures.effects(mean_over(replicates, "architecture"), pairs)


def made_of(figure: Figure) -> str:
    """A digest of the data behind a figure, to a millionth."""
    return digest(figures.attached_table(figure).round(6).to_csv(index=False))


def main() -> None:
    """Draw it."""
    figures.use_style()
    (job,) = plan(project_root(), "published", ["02"], {})
    store = RunStore(Path("/nonexistent/records only"), results=committed_results())
    conditions = train_conditions(job.settings, store, planned_conditions("finetune_mutually", job.settings))
    figure = picture(replicate_table(store, conditions))
    path = project_root() / "book" / "_static" / "effects.png"
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Description": made_of(figure)})


if __name__ == "__main__":
    main()
