"""A data set as one page of HTML that opens from disk, with a picture of each field."""

from html import escape
from typing import Any

from ctrlib.cli.output import share, visible

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .25rem .75rem; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #8884 } svg text { font-size: 9px; fill: currentColor }
rect { fill: #4477aa } circle { fill: #cc6677 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
"""
WIDTH, HEIGHT = 300, 60  # of a picture, in pixels


def page(facts: dict[str, Any]) -> str:
    """The page of what :func:`ctrlib.data.sources.describe` says."""
    title = f"{facts['name']}, draw {facts['draw']}"
    times = [name for name in ("first", "last") if name in facts["splits"][0]]
    parts = [
        (
            line["part"],
            f"{line['rows']:,}",
            f"{line['clicks']:,}",
            share(line["click_rate"]),
            *map(line.get, times),
            share(line["repeated"]),
        )
        for line in facts["splits"]
    ]
    fields = [
        (
            field["field"],
            ("buckets" if field["numeric"] else "categories") + (f": {field['why']}" if field["why"] else ""),
            f"{field['dim']:,}",
            *(share(field.get(f"oov_{part}")) for part in ("train", "valid", "test")),
            share(field.get("missing")),
            f"{field['auc']:.3f}",
            picture(field),
        )
        for field in facts["fields"]
    ]
    heads = ("field", "read as", "codes", "0 in train", "0 in valid", "0 in test", "missing", "AUC alone", "codes")
    notes = "".join(f"<li>{_text(note)}</li>" for note in facts["about"].get("notes", ()))
    explained = (
        "Code 0 stands for rare values and for those that train never shows. AUC alone: of the field by itself, in "
        "validation. Pictures: bars are the shares of the most frequent codes in train, dots the shares of clicks."
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title><style>{STYLE}</style>"
        f"<h1>{_text(title)}</h1>"
        + _table(("part", "rows", "clicks", "click rate", *times, "rows that train has too"), parts)
        + (f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "")
        + f"<h2>Fields</h2><p>{explained}</p>"
        + _table(heads, fields)
        + "</html>\n"
    )


def picture(field: dict[str, Any]) -> str:
    """The shares of a field's most frequent codes in train as bars, and of clicks in each as dots, as SVG."""
    most, step = max(part for _, part, _ in field["codes"]), WIDTH // max(12, len(field["codes"]))
    marks = []
    for place, (value, part, rate) in enumerate(field["codes"]):
        name = "rare" if value is None else value or "missing"
        high, left = HEIGHT * part / most, place * step
        hint = f"{name}: {share(part)} of the rows, {share(rate)} clicks"
        marks.append(
            f'<g><title>{_text(hint)}</title><rect x="{left}" y="{HEIGHT - high:.1f}" width="{step - 3}" '
            f'height="{high:.1f}"/><circle cx="{left + step / 2 - 2}" cy="{HEIGHT * (1 - rate):.1f}" r="3"/>'
            f'<text x="{left}" y="{HEIGHT + 10}">{_text(name[: step // 6])}</text></g>'
        )
    return f'<svg width="{WIDTH}" height="{HEIGHT + 14}" role="img">{"".join(marks)}</svg>'


def _text(value: Any) -> str:
    return escape(visible(str("" if value is None else value)))


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    """Cells are text, but for those that are SVG."""
    cells = [[cell if str(cell).startswith("<svg ") else _text(cell) for cell in row] for row in rows]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return f"<table><tr>{''.join(f'<th>{_text(head)}</th>' for head in heads)}</tr>{body}</table>"
