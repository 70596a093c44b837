"""A data set as one page of HTML that opens from disk, with a picture of each field."""

from collections.abc import Iterable
from html import escape
from typing import Any

from ctrlib.cli.output import share, visible

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .25rem .75rem; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #8884 } svg { overflow: visible } svg text { font-size: 9px; fill: currentColor }
rect { fill: #4477aa } circle { fill: #cc6677 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
"""
EXPLAINED = (
    "Code 0 stands for rare values and for those that train never shows. AUC alone: of the field by itself, in "
    "validation. Pictures: bars are the shares of the most frequent codes in train, dots the shares of clicks."
)
PARTS = ("part", "rows", "clicks", "click rate", "first", "last", "rows that train has too")
FIELDS = ("field", "read as", "codes", "0 in train", "0 in valid", "0 in test", "missing", "AUC alone", "codes")
WIDTH, HEIGHT = 300, 60  # of a picture, in pixels


def page(facts: dict[str, Any]) -> str:
    """The page of what :func:`ctrlib.data.sources.describe` says."""
    title = _text(f"{facts['name']}, draw {facts['draw']}")
    parts, fields = [], []
    for line in facts["splits"]:
        counts = (line["part"], f"{line['rows']:,}", f"{line['clicks']:,}", share(line["click_rate"]))
        parts.append([_text(cell) for cell in (*counts, line.get("first"), line.get("last"), share(line["repeated"]))])
    for field in facts["fields"]:
        kind = f"{'buckets' if field['numeric'] else 'categories'}{': ' if field['why'] else ''}{field['why']}"
        shares = (share(field.get(name)) for name in ("oov_train", "oov_valid", "oov_test", "missing"))
        cells = (field["field"], kind, f"{field['dim']:,}", *shares, f"{field['auc']:.3f}")
        fields.append([*map(_text, cells), picture(field)])
    notes = "".join(f"<li>{_text(note)}</li>" for note in facts["about"].get("notes", ()))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"{_table(PARTS, parts)}<ul>{notes}</ul><h2>Fields</h2><p>{EXPLAINED}</p>{_table(FIELDS, fields)}</html>\n"
    )


def picture(field: dict[str, Any]) -> str:
    """The shares of a field's most frequent codes in train as bars, and of clicks in each as dots, as SVG."""
    most, step = max(part for _, part, _ in field["codes"]), WIDTH // max(12, len(field["codes"]))
    marks = ""
    for place, (value, part, rate) in enumerate(field["codes"]):
        name = "rare" if value is None else value or "missing"
        high, left = HEIGHT * part / most, place * step
        marks += (
            f"<g><title>{_text(f'{name}: {share(part)} of the rows, {share(rate)} clicks')}</title>"
            f'<rect x="{left}" y="{HEIGHT - high:.1f}" width="{step - 3}" height="{high:.1f}"/>'
            f'<circle cx="{left + step / 2 - 2}" cy="{HEIGHT * (1 - rate):.1f}" r="3"/>'
            f'<text x="{left}" y="{HEIGHT + 10}">{_text(name[: step // 6])}</text></g>'
        )
    return f'<svg width="{WIDTH}" height="{HEIGHT + 14}" role="img">{marks}</svg>'


def _text(value: Any) -> str:
    return escape(visible(str("" if value is None else value)))


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    def line(cells: Iterable[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"

    return f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
