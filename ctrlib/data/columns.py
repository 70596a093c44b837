"""What a column is: numbers, to be cut into buckets, or categories. Evidence -> decision, reason, and how to change it.

The evidence is the distinct values of the first million rows with the rows of each, whatever ``--rows`` says. A column
is read as numbers only where that loses nothing: text -> number -> text gives the same but for the zeros at the end of
fractions. Fractions are then numbers. Whole numbers may be either, and :func:`is_quantity` decides: as a category each
value learns for itself, as a number neighbours learn together.
"""

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

EVIDENCE_ROWS = 1_000_000
FEW = 1000  # so many whole numbers are categories, whatever they count
MISSING = ("na", "n/a", "#n/a", "<na>", "null", "\\n", "none", "nan", "nat", "-", "--", "?", ".")
LOOSE = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity))$"
NAME = r"^[+-]?[0-9]+[eE][0-9]+$"  # 3E5, which no program writes for a number
IDS = "id ids uid uuid guid key code hash sku ean gtin isbn asin zip plz postcode phone ip cookie"
THINGS = (
    "user item movie product article video song book page site domain app device model ad ads advertiser campaign "
    "creative banner publisher placement customer member account session query keyword category cat brand shop store "
    "seller merchant city region country channel category genre tag author artist host token"
)
QUANTITIES = (
    "price prices amount cost costs sum total count counts cnt num number visits views clicks impressions time ts "
    "timestamp date datetime duration age seconds sec secs minutes hours days ms length len size width height weight "
    "distance dist score rate ratio percent pct avg mean std min max freq frequency income salary budget bid revenue "
    "quantity qty depth rank position pos lat lon population balance bytes words level spend gmv stock"
)
IDS, THINGS, QUANTITIES = (frozenset(words.split()) for words in (IDS, THINGS, QUANTITIES))


@dataclass(frozen=True)
class Decision:
    """What a column is and why. ``values``: what stands for each of its distinct cells, null where it is missing.

    ``odd``: the places of those that are taken as missing although they are neither empty nor a usual mark for it.
    ``decimal``: the mark by which text was read as numbers.
    """

    numeric: bool
    values: pl.Series
    why: str
    odd: tuple[int, ...] = ()
    decimal: str | None = None


def decide_column(
    name: str, cells: pl.Series, counts: np.ndarray, decimal: str = ".", forced: bool = False
) -> Decision:
    """Decide on a column of distinct ``cells`` (text, Int64 or Float64), of which ``counts`` rows give evidence.

    ``decimal``: the mark where both fit, or, ``forced``, the only one.
    """
    seen = pl.Series(counts > 0) & cells.is_not_null()
    if cells.dtype == pl.String:
        return _text(name, cells, counts, seen, decimal, forced)
    values = cells
    if cells.dtype == pl.Float64:
        whole = cells.is_finite() & (cells == cells.round())
        if not whole.filter(seen).all():
            return Decision(True, cells, "fractions")
        if (cells.abs() >= 2**53).any():
            return Decision(False, cells.cast(pl.String), "whole numbers too long for their type: identifiers")
        values = cells.cast(pl.Int64 if whole.filter(cells.is_not_null()).all() else pl.String)
    numeric, why = is_quantity(name, cells.filter(seen), counts[seen.to_numpy()])
    return Decision(numeric, cells if numeric else values, why)


def _text(name: str, cells: pl.Series, counts: np.ndarray, seen: pl.Series, decimal: str, forced: bool) -> Decision:
    first = cells.filter(seen).head(1000)
    numbers = plain_numbers(first, decimal, forced)[0]
    if (numbers.is_null() & ~usual_marks(first)).sum() > 0.5 * len(first):
        return Decision(False, cells, "text")
    plain, decimal, comma = plain_numbers(cells, decimal, forced)
    number, odd = plain.is_not_null(), (plain.is_null() & ~usual_marks(cells) & cells.is_not_null())
    kept, strange = plain.filter(seen & number), cells.filter(seen & odd)
    rows = counts[(seen & odd).to_numpy()].sum()
    if not len(kept):
        return Decision(False, cells, "text")
    if len(strange) > 0.05 * len(kept) or rows > counts[seen.to_numpy()].sum() / 2:
        share = 100 * counts[(seen & number).to_numpy()].sum() // counts[seen.to_numpy()].sum()
        return Decision(False, cells, f"text ({share} % of the cells are numbers, not {strange[0]!r:.30})")
    known = tuple(np.flatnonzero(odd.to_numpy()))
    ends = kept.str.strip_chars_start("+-")
    if ends.str.contains(r"^0[0-9]").mean() > 0.01:
        return Decision(False, cells, "numbers with leading zeros: identifiers")
    if ends.str.contains(r"^[0-9]+(\.0*)?$").all():
        short = plain.str.replace(r"\.0*$", "")
        whole = short.cast(pl.Int64, strict=False)
        fits = whole.null_count() == plain.null_count()
        same = fits and not known and (whole.cast(pl.String) == short).fill_null(True).all()
        if whole.filter(seen & number).null_count():
            return Decision(False, cells, "whole numbers beyond 64 bits: identifiers")
        if strange.str.contains(r"[0-9]").any():
            return Decision(False, cells, f"some hold letters ({strange[0]!r:.30}): identifiers")
        numeric, why = is_quantity(name, whole.filter(seen & number), counts[(seen & number).to_numpy()])
        if numeric:
            return Decision(True, whole if fits else plain.cast(pl.Float64), why + comma, known, decimal)
        return Decision(False, whole if same else cells, why, decimal=decimal)
    places = ends.str.extract(r"\.([0-9]*)$").drop_nulls()
    padded, length = places.str.contains(r"[0-9]0$"), places.str.len_bytes()
    uneven = min(padded.sum(), (length != (length.mode()[0] if len(length) else 0)).sum())
    if uneven > 0.02 * len(places):
        return Decision(False, cells, "1.1 differs from 1.10: versions")
    return Decision(True, plain.cast(pl.Float64), "fractions" + comma, known, decimal)


def is_quantity(name: str, values: pl.Series, counts: np.ndarray) -> tuple[bool, str]:
    """Whether whole numbers (n,) with ``counts`` rows each are a quantity and no identifiers, and the reason."""
    distinct, rows = len(values), int(counts.sum())
    whole = f"whole numbers ({distinct:,} different)"
    if distinct <= FEW:
        return False, f"{whole}, each a category"
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    if words and (words[-1] in IDS or words[-1].removesuffix("id") in THINGS - {words[-1]}):
        return False, f"{whole}, named like identifiers"
    if QUANTITIES & set(words):
        return True, f"{whole}, named like a quantity"
    if (THINGS | IDS) & set(words):
        return False, f"{whole}, named like identifiers"
    order = values.arg_sort().to_numpy()
    values, counts = values.to_numpy()[order].astype(float), counts[order].astype(float)
    low, high = values[0], values[-1]
    middle = np.interp([0.25, 0.5, 0.75], np.arange(distinct) / distinct, values) / high if high > 0 else np.zeros(3)
    if high >= 1e8 and low < 0.05 * high and np.abs(middle - [0.25, 0.5, 0.75]).max() < 0.1:
        return False, f"{whole}, spread evenly up to {high:.2g}: hashes"
    if distinct >= 0.95 * (high - low + 1):
        return False, f"{whole}, without gaps: identifiers"
    if rows < 2 * distinct:
        return True, f"{whole}, in {rows:,} rows: too rare for categories"
    often = values[np.argsort(-counts, kind="stable")[:50]]
    if (often % 5 == 0).mean() > 0.5 or (often % 10 == 9).mean() > 0.5:
        return True, f"{whole}, round ones most often: a quantity"
    around = (np.concatenate([counts[1:2], counts[:-1]]) + np.concatenate([counts[1:], counts[-2:-1]])) / 2
    uneven = np.mean(np.abs(counts - around) > 3 * np.sqrt(1.5 * around + 1))
    if uneven > 0.05:
        return False, f"{whole}, neighbours unlike in frequency: identifiers"
    return True, f"{whole}, neighbours alike in frequency: a quantity"


def usual_marks(texts: pl.Series) -> pl.Series:
    """Where text is one of the usual marks for a missing number, :data:`MISSING`; false for null."""
    return texts.str.strip_chars().str.to_lowercase().is_in(MISSING).fill_null(False)


def plain_numbers(
    texts: pl.Series, decimal: str = ".", forced: bool = False, loose: bool = False
) -> tuple[pl.Series, str, str]:
    """Numbers as plain text with a decimal point, null where a cell is none; the decimal mark they were read by; and
    what was made of commas, in words.

    Spaces around them, currency and per-cent signs and thousands separators go. Where more cells fit the other mark,
    it is taken instead of ``decimal``, unless that is ``forced``. ``loose``: 3E5 is a number too.
    """
    bare = texts.str.replace_all(r"^[\s\u00a0]*[$€£]?[\s\u00a0]*|[\s\u00a0]*[%$€£]?[\s\u00a0]*$", "")

    def read(mark: str) -> pl.Series:
        other = "." if mark == "," else ","
        whole, rest = rf"[+-]?[1-9][0-9]{{0,2}}([{other}\u00a0' ][0-9]{{3}})+", rf"([{mark}][0-9]*)?"
        grouped = bare.str.contains(f"^{whole}{rest}$").fill_null(False)
        made = bare.str.replace_all(rf"[{other}\u00a0' ]", "").zip_with(grouped, bare)
        if mark == ",":
            made = made.str.replace(".", "x", literal=True).str.replace(",", ".", literal=True)
        number = made.str.contains(LOOSE) & (loose | ~made.str.contains(NAME))
        return made.set(~number.fill_null(False), None)

    comma, point = bare.str.contains(r"[0-9],[0-9]").any(), None
    if forced or not (comma or decimal == ","):
        made, mark = read(decimal), decimal
    else:
        point, made = read("."), read(",")
        mark = "," if (made.null_count(), decimal != ",") < (point.null_count(), decimal == ",") else "."
        made = made if mark == "," else point
    words = f" (the comma {'is the decimal mark' if mark == ',' else 'divides thousands'}; --decimal)"
    return made, mark, words * comma


def several_values(cells: pl.Series) -> str | None:
    """A cell such as a|b|c, if many distinct cells are made of fewer values between bars, semicolons or commas."""
    for mark in "|;," if cells.dtype == pl.String else "":
        made = cells.filter(cells.str.contains(mark, literal=True).fill_null(False)).head(10_000)
        pieces = made.str.split(mark).explode().str.strip_chars().n_unique()
        if len(made) >= 5 and len(made) > 0.2 * min(len(cells), 10_000) and pieces < len(made):
            return made.min()
    return None
