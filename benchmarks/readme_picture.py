"""The README's picture, from the published records: ``python -m benchmarks.readme_picture``.

Writes ``book/_static/effects.png``, the figure of the front page; a test holds the data behind it against the records.
"""

from pathlib import Path

from matplotlib.figure import Figure

from ctrlib.config import digest
from ctrlib.data.folders import project_root
from ctrlib.store.published import committed_results
from ctrlib.store.runs import RunStore
from ctrlib.study import figures
from ctrlib.study.expectations import published_pages
from ctrlib.study.main_page import dumbbells, over_logs, rivals_of, simple_changes


def picture() -> Figure:
    """What peers give on each data set, and what needs none."""
    store = RunStore(Path("/nonexistent/records only"), results=committed_results())
    pages = published_pages()
    return dumbbells(over_logs(store, pages)[0], 3, simple_changes(rivals_of(store, pages))).figure


def made_of(figure: Figure) -> str:
    """A digest of the data behind a figure, to a millionth."""
    return digest(figures.attached_table(figure).round(6).to_csv(index=False))


def main() -> None:
    """Draw it."""
    figures.use_style()
    figure = picture()
    path = project_root() / "book" / "_static" / "effects.png"
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Description": made_of(figure)})


if __name__ == "__main__":
    main()
