"""Below every page: the licences, version, date and profile of this build, the date of the newest record among those
that the book was given, and how to cite, from ``CITATION.cff``.

The citation stands in a block like those of code, so that it gets the same copy button.
"""

import html
import re
from datetime import date
from pathlib import Path

import yaml
from markupsafe import escape

from ctrlib.store.environment import source_commit

LICENCES = (
    'Text and figures: <a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>. '
    'Code: <a href="https://spdx.org/licenses/MIT.html">MIT</a>.'
)


def bibtex(citation: dict, commit: str) -> str:
    """The content of ``CITATION.cff`` as an entry of BibTeX, with the commit where it is known."""
    names = (one.get("name") or f"{one['family-names']}, {one['given-names']}" for one in citation["authors"])
    fields = {
        "title": citation["title"],
        "author": " and ".join(f"{{{name}}}" for name in names),
        "year": str(citation["date-released"])[:4],
        "version": citation["version"],
        "url": citation.get("url") or citation.get("repository-code"),
        "doi": citation.get("doi"),
        "note": commit and f"commit {commit}",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join(["@software{mutual_ctr_study,", *lines, "}"])


def footer(root: Path, today: date) -> str:
    """The markup below a page of the book whose sources lie in ``root``."""
    citation, commit = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8")), source_commit()
    made = f"Version {citation['version']}{f' ({commit})' if commit else ''}, built on {today.isoformat()}."
    said = "".join(path.read_text(encoding="utf-8") for path in (root / "notebooks").glob("*.ipynb"))
    if days := re.findall(r"trained (?:\d{4}-\d\d-\d\d to )?(\d{4}-\d\d-\d\d)", said):  # what provenance wrote
        profiles = ", ".join(sorted({html.unescape(one) for one in re.findall(r"profile \*([^*]+)\*", said)}))
        made += f" Profile {profiles}; newest run of {max(days)}."
    entry = f'<div class="highlight"><pre>{escape(bibtex(citation, commit))}</pre></div>'
    return (
        f"<p>{LICENCES} {escape(made)}</p>"
        f'<details class="cite"><summary>How to cite this book</summary>{entry}</details>'
    )


def setup(app):
    text = footer(Path(app.srcdir), date.today())
    app.connect("html-page-context", lambda app, page, template, context, _: context.update(theme_extra_footer=text))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
