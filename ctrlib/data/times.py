"""Times from cells: numbers, dates, ISO 8601, or another form if every row fits exactly one."""

from collections.abc import Callable
from itertools import product

import polars as pl

DAYS = (
    *("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%y/%m/%d", "%Y/%m/%d", "%d-%m-%Y"),
    *("%m-%d-%Y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%Y.%m.%d", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y"),
    *("%b %d, %Y", "%b %d %Y", "%a, %d %b %Y", "%a %b %d %Y", "%Y%m%d", "%d%m%Y", "%m%d%Y"),
)
CLOCKS = ("%H:%M", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p", "%I:%M%p")
FORMS = (*DAYS, *(f"{day} {clock}{zone}" for zone, day, clock in product(("", "%z"), DAYS, CLOCKS)))
FORMS = (*FORMS, "%d/%b/%Y:%H:%M:%S%z", "%a %b %d %H:%M:%S%z %Y", "%a %b %d %H:%M:%S %Y")
YEARS = 1970, 2069  # a form that gives others is none

Need = Callable[[pl.Series, str], None]


def read_times(values: pl.Series, form: str | None, need: Need) -> pl.Series:
    """Distinct cells, null where missing, as numbers, dates or UTC times that sort as they should.

    ``form``: what to read text with; "number" for numbers. ``need(bad, allowed)`` is to raise
    :class:`ctrlib.errors.UserError` for the first row whose value is one of the ``bad``, if there is any.
    """
    if values.dtype != pl.String:
        return values.dt.convert_time_zone("UTC") if getattr(values.dtype, "time_zone", None) else values
    text, some = values.str.strip_chars(" \u00a0\t"), values.is_not_null()
    whole, number = text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)
    if form == "number" or (form is None and _all(number, some)):
        need(number.is_null() & some, "allowed: numbers, as --time-format says")
        eight = form is None and (text.str.len_chars() == 8).all() and not _all(parsed(text, "%Y%m%d"), some)
        for other in ("%d%m%Y", "%m%d%Y") if eight else ():
            if _all(parsed(text, other), some):
                need(some, f"may be a number or a date; allowed: --time-format number or --time-format {other}")
        return whole if _all(whole, some) else number
    if form is not None:
        found = iso(text) if form == "iso" else parsed(text, form)
        need(found.is_null() & some, f"allowed: times that fit --time-format {form!r}")
        return found
    if _all(found := iso(text), some):
        zoned = text.str.contains(r"(?i)\d(Z| ?UTC|[+-]\d\d:?\d\d)$").fill_null(False)
        fewer = zoned if zoned.sum() * 2 < some.sum() else ~zoned & some
        need(fewer if zoned.any() else ~some & some, "allowed: a zone (such as +02:00) in each row or in none")
        return found
    first = text.drop_nulls().head(300)
    misfits = {one: parsed(first, one).null_count() for one in FORMS}
    fit = {one: made for one in FORMS if not misfits[one] and _all(made := parsed(text, one), some)}
    if not fit:
        near = min(misfits, key=misfits.__getitem__)
        found = iso(text) if iso(first).null_count() < misfits[near] else parsed(text, near)
        bad = found.is_null() & some
        need(bad, "allowed: ISO 8601 such as 2024-03-31 18:05, or --time-format such as '%d.%m.%Y %H:%M'")
    form, found = next(iter(fit.items()))
    for other, made in fit.items():
        need((made != found).fill_null(False), f"may be {form!r} or {other!r}; allowed: --time-format with one of them")
    return found


def looks_like_times(values: pl.Series) -> bool:
    """Whether text, or numbers of eight digits, may well be dates or times: all of the first hundred fit a form."""
    first = values.drop_nulls().cast(pl.String).str.strip_chars(" \u00a0\t").head(100)
    if not len(first) or not first.str.contains(r"\d\D+\d|^\d{8}$").all():
        return False
    forms = ["%Y%m%d"] if first.str.contains(r"^\d+$").any() else FORMS
    return not iso(first).null_count() or any(not parsed(first, one).null_count() for one in forms)


def _all(found: pl.Series, some: pl.Series) -> bool:
    return found.null_count() == len(some) - some.sum()


def parsed(text: pl.Series, form: str) -> pl.Series:
    """Text in one form as UTC times, null where it does not fit."""
    text = text.str.replace(r" ([+-]\d\d:?\d\d)", "$1") if "%z" in form and " %z" not in form else text
    zone = "UTC" if "%z" in form else None
    if any(mark in form for mark in ("%H", "%I", "%s", "%T", "%R")):
        found = text.str.strptime(pl.Datetime("us", zone), form, strict=False).dt.replace_time_zone(None)
    else:
        found = text.str.strptime(pl.Date, form, strict=False).cast(pl.Datetime("us"))
    return found.set(~found.dt.year().is_between(*YEARS).fill_null(True), None)


def iso(text: pl.Series) -> pl.Series:
    """Dates and times of ISO 8601 as UTC times, null where text is none."""
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "$1 00:00").str.replace(r"^(\d{4}-\d\d-\d\d)[Tt ]+", "$1 ")
    text = text.str.replace(r"^(.{16})($| ?[Z+-]| UTC)", "$1:00$2").str.replace(r"(?i) ?(Z|UTC)$", "+00:00")
    text = text.str.replace(r" ([+-]\d\d:?\d\d)$", "$1").str.replace(r"(\d)([+-]\d\d)$", "$1${2}00")
    plain = text.str.strptime(pl.Datetime("us"), "%Y-%m-%d %H:%M:%S%.f", strict=False)
    zoned = text.str.strptime(pl.Datetime("us", "UTC"), "%Y-%m-%d %H:%M:%S%.f%z", strict=False)
    return plain.zip_with(plain.is_not_null(), zoned.dt.replace_time_zone(None))
