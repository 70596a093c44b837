"""What a column is: a table of invented columns, in the shapes that logs have, with the reading each should get."""

import re

import numpy as np
import polars as pl
import pytest

from ctrlib.data.columns import decide_column

N = 40_000
RNG = np.random.default_rng(7)


def zipf(count, least=0, power=0.9):
    """Popularity that has nothing to do with the number of a thing."""
    shares = np.arange(1, count + 1) ** -power
    return least + RNG.permutation(count)[RNG.choice(count, N, p=shares / shares.sum())]


def ranked(count, power=0.9):
    """Codes numbered by popularity."""
    shares = np.arange(1, count + 1) ** -power
    return np.concatenate([np.arange(count), RNG.choice(count, N - count, p=shares / shares.sum())])


def counts(mean):
    return np.floor(RNG.lognormal(np.log(mean), 1.3, N)).astype(np.int64)


def some(values, odd, share=0.001):
    """Text with an odd cell here and there."""
    return [odd if strange else str(value) for value, strange in zip(values, RNG.random(N) < share, strict=True)]


def text(values):
    return list(map(str, values))


prices = np.round(RNG.gamma(2, 20, N), 2)
big = RNG.integers(2**63, 2**64 - 1, 3000, dtype=np.uint64)
MARKS = ["", "", "", "NA", "None", "-", "?", "nan"]
hashes = RNG.integers(0, 2**62, 5000)
NUMERIC = {
    "I2": counts(300),  # counts, without a word in the name
    "x2": RNG.choice(np.arange(0, 50_000, 5), N) + (RNG.random(N) < 0.1),  # cents, round
    "x3": RNG.choice(np.arange(99, 500_000, 100), N, p=np.arange(5000, 0, -1) / 12_502_500),
    "x4": RNG.integers(0, 100_000, N),  # each about once: too rare for categories
    "visits": RNG.integers(0, 10_000, N),
    "bid": zipf(3000),
    "num_items": zipf(2000),
    "timestamp": 1_700_000_000 + RNG.integers(0, 90_000, N),
    "price": text(prices),
    "gaps": [None if missing else value for value, missing in zip(prices, RNG.random(N) < 0.3, strict=True)],
    "NULL": some(prices, "NULL"),
    "marks": [mark if mark else str(value) for value, mark in zip(prices, RNG.choice(MARKS, N), strict=True)],
    "\\N": some(prices, "\\N", 0.4),
    "free": some(prices, "for free"),
    "many free": some(prices, "unknown", 0.3),
    "space": [" " + value for value in text(prices)],
    "no-break": some(prices, "\u00a012.5"),
    "decimal comma": [value.replace(".", ",") for value in text(prices)],
    "1.234,5": [f"{1000 + value:,.1f}".translate(str.maketrans(",.", ".,")) for value in prices],
    "1,234.5": [f"{1000 + value:,.1f}" for value in prices],
    "dollar": [f"${value}" for value in prices],
    "per cent": [f"{value} %" for value in prices],
    "small": [f"{value:.2e}" for value in prices],
    "two digits": [f"{value:.2f}" for value in prices],
    "count NA": some(counts(300), "NA"),
}
CATEGORIES = {
    "user_id": zipf(5000, 1),
    "itemId": zipf(3000),
    "site": RNG.integers(0, 9000, N),
    "movie_id": RNG.choice(6000, 3000, replace=False)[zipf(3000)],
    "C7": ranked(1937),  # codes by popularity
    "x6": RNG.choice(10**6, 3000, replace=False)[zipf(3000)],  # from a large catalogue
    "x7": RNG.integers(1, 2001, N),  # without gaps, all alike
    "x8": np.sort(RNG.choice(2**31, 5000, replace=False))[zipf(5000)],  # hashes of 32 bits
    "x9": hashes[zipf(5000)],
    "zip": RNG.integers(10_000, 99_999, N),
    "hour": RNG.integers(0, 24, N),
    "weekday": RNG.integers(0, 7, N).astype(float),  # whole numbers beside a gap
    "beyond 64 bits": text(big[RNG.integers(0, 3000, N)]),
    "beyond 53 bits": RNG.integers(2**62, 2**63, N).astype(float),
    "123.0": [None if value % 7 == 0 else f"{value}.0" for value in zipf(3000)],
    "float id": np.where(RNG.random(N) < 0.1, np.nan, zipf(3000)),
    "leading zeros": [f"{value:05d}" for value in zipf(3000)],
    "3E5": [f"{value % 9}E{value % 70}" for value in zipf(3000)],
    "version": [f"{value % 4}.{value % 25}" for value in zipf(100)],
    "semver": [f"{value % 4}.{value % 25}.1" for value in zipf(100)],
    "sku code": some(zipf(3000), "B0012"),
    "names": list(RNG.choice(["inf", "nan", "infinity", "NaN", "ann"], N)),
    "colour": list(RNG.choice(["red", "blue", "none"], N)),
    "day": [f"2024-03-{1 + value % 28:02d}" for value in range(N)],
    "few": RNG.integers(0, 1000, N),
    "stars and a word": some(RNG.integers(1, 6, N), "unrated", 0.1),
}


def decision(name, values):
    series = pl.Series("x", values).fill_nan(None) if isinstance(values, np.ndarray) and values.dtype == float else None
    found = (pl.Series("x", values) if series is None else series).value_counts(name="n")
    cells = found["x"].cast(pl.Int64) if found["x"].dtype.is_integer() else found["x"]
    return decide_column(name, cells, found["n"].to_numpy())


@pytest.mark.parametrize(("name", "numeric"), [*((n, True) for n in NUMERIC), *((n, False) for n in CATEGORIES)])
def test_the_table_of_columns(name, numeric):
    values = (NUMERIC if numeric else CATEGORIES)[name]
    made = decision(name, values)
    assert made.numeric == numeric, made.why
    assert made.why
    if numeric:  # so many numbers that no value was lost on the way
        assert made.values.n_unique() >= 0.9 * pl.Series(values, strict=False).n_unique()


def test_a_column_of_nearly_nothing_but_numbers_says_so():
    made = decision("price", [f"{n / 8:.3f}" + " EUR" * (n % 100 < 7) for n in range(N)])
    assert not made.numeric
    assert re.fullmatch(r"text \(93 % of the cells are numbers, not '[0-9.]+ EUR'\)", made.why)


def test_what_comes_after_the_evidence_is_not_lost():
    """A column is decided on the first rows; a fraction or a long number below them keeps its value."""
    ids = pl.Series("x", [*map(str, range(2000)), "7.5", "9" * 20])
    seen = np.array([5] * 2000 + [0, 0])
    named, counted = decide_column("user", ids, seen), decide_column("visits", ids, seen)
    assert named.values.to_list() == ids.to_list()
    assert counted.values.to_list() == [float(one) for one in ids]
    typed = decide_column("user", pl.Series("x", [*map(float, range(2000)), 7.5]), seen[:-1])
    assert typed.values[-1] == "7.5"
    odd = decide_column(
        "price", pl.Series("x", [*(f"{n / 7:.2f}" for n in range(1, 2000)), "gratis"]), np.append(seen[:1999], 0)
    )
    assert (odd.numeric, odd.odd, odd.values[-1]) == (True, (1999,), None)
