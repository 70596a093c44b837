"""Whatever a file of somebody else's holds, it is used or refused in one line.

CTRLIB_FUZZ is how many inputs of each kind are read: 100, and with ``make fuzz`` 12,000.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, text, write_frappe_zip, write_lines

from ctrlib.data import manifest, own_table, sources
from ctrlib.data.files import seal
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import open_draw
from ctrlib.data.raw_logs import read_avazu, read_criteo, read_frappe
from ctrlib.errors import UserError

EACH = int(os.environ.get("CTRLIB_FUZZ", "100"))
TOKENS = [
    *(b"", b"0", b"-1", b"1e999", b"9" * 25, b"9" * 5000, b"NaN", b"null", b"[]", b"{}", b"[" * 3000, b'{"":' * 2000),
    *(b"../../../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b","),
    *(b'"', b'""', b"'", b"\xc3", "é\u2028".encode(), b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1", b"\x93NUMPY"),
    *(b"!!python/object/apply:os.system [touch it_ran]", b"__import__('os')", b"<script>alert(1)</script>", b"$x^2$"),
    *(b"&a [*a]", b"\xff" * 8, b"\x00" * 8, b"\x80", b"a" * 200_000, b"(" * 5000),
]

Target = tuple[Any, st.SearchStrategy[Any], Callable[[Any], object]]  # a valid input, changed ones, what reads them


def changed_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one to four pieces replaced, and sometimes cut."""
    piece = st.sampled_from(TOKENS) | st.binary(max_size=8)
    edit = st.tuples(st.integers(0, len(content)), st.sampled_from([0, 1, 1, 4, 8, 100, 10**6]), piece)

    def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(content)
        for at, length, new in edits:
            data[at : at + length] = new
        return bytes(data)

    return st.lists(edit, min_size=1, max_size=4).map(edited)


def fuzz(cases: st.SearchStrategy[Any], read: Callable[[Any], Any]) -> int:
    """Read inputs, each of which is used or refused in one line; how many were used. hypothesis names the smallest one
    that makes it fail."""
    used = 0

    @settings(max_examples=EACH, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(cases)
    def each(case: Any) -> None:
        nonlocal used
        said = None
        try:
            read(case)
        except UserError as refusal:
            said = str(refusal)
        used += said is None
        assert said is None or 0 < len(said) < 3000, said
        assert "\n" not in (said or ""), said

    each()
    return used


# ---- raw files -------------------------------------------------------------------------------------------------------


def read_raw(layout, path: Path):
    """The rows of a raw file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        rows = layout(path, Path(scratch), PrepareOptions(), lambda _: None)
        with rows.cells:
            return rows


def parquet() -> bytes:
    packed = io.BytesIO()
    frame = pl.read_csv(text(table_lines(60)))
    frame.with_columns(pl.col("day").str.to_date()).write_parquet(packed)
    return packed.getvalue()


def raw_file(name: str, layout, make: Callable[[Path], bytes], folder: Path) -> Target:
    seed, path = make(folder), folder / name

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_raw(layout, path)

    cases = changed_bytes(seed)
    if name.endswith(".gz"):  # or sound outside, strange inside
        cases |= changed_bytes(gzip.decompress(seed)).map(partial(gzip.compress, compresslevel=1))
    return seed, cases, read


# ---- prepared data ---------------------------------------------------------------------------------------------------


def prepared(root: Path) -> Path:
    """A prepared folder."""
    return sources.prepare("own", write_lines(root / "own.csv", table_lines(200)), root)


def dataset_json(root: Path) -> Target:
    path = prepared(root) / "dataset.json"
    seed = path.read_bytes()

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        sources.catalogue(root)
        sources.summary(path.parent)
        sources.describe("own", 0, root)

    return seed, changed_bytes(seed), read


def array_of_prepared_data(name: str, root: Path) -> Target:
    """With the right checksums."""
    folder = prepared(root)
    path, facts = folder / "draw-0" / name, manifest.read_manifest(folder)
    seed = path.read_bytes()
    head = seed.index(b"\n") + 1

    def read(content: bytes) -> None:
        path.write_bytes(content)
        facts["draws"][0]["sha256"][name] = hashlib.sha256(content).hexdigest()
        facts["draws"][0]["fingerprint"] = manifest.fingerprint(facts["draws"][0])
        (folder / "dataset.json").write_text(seal(facts))
        open_draw(folder)

    return seed, changed_bytes(seed[:head]).map(lambda made: made + seed[head:]) | changed_bytes(seed), read


INPUTS: dict[str, Callable[[Path], Target]] = {
    "criteo text": partial(raw_file, "train.txt", read_criteo, lambda _: text(criteo_lines(30))),
    "criteo gzip": partial(raw_file, "train.txt.gz", read_criteo, lambda _: gzip.compress(text(criteo_lines(30)))),
    "avazu csv": partial(raw_file, "train.csv", read_avazu, lambda _: text(avazu_lines(30))),
    "frappe zip": partial(
        raw_file, "log.zip", read_frappe, lambda to: write_frappe_zip(to / "0", frappe_lines(40)).read_bytes()
    ),
    "own csv": partial(raw_file, "own.csv", own_table.read, lambda _: text(table_lines(60))),
    "own parquet": partial(raw_file, "own.parquet", own_table.read, lambda _: parquet()),
    "dataset.json": dataset_json,
    "prepared ids": partial(array_of_prepared_data, "train_ids.npy"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, tmp_path: Path) -> None:
    seed, cases, read = INPUTS[name](tmp_path)
    read(seed)  # as it is, it is used
    fuzz(cases, read)


labels = st.sampled_from(["0", "1"])
cells = st.one_of(
    st.sampled_from(["", "0", "1", "0.5", "-3", "1e9", "nan", "007", "true", "2024-01-01", '"a,b"', '"', "a b", "é"]),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=6),
)


def test_tables_of_any_cells(tmp_path: Path) -> None:
    """A table is refused, or it has the cells that Python's csv reads, and pandas where that reads the file at all."""
    path = tmp_path / "own.csv"

    def read(case: tuple[str, list[tuple[str, str, str]]]) -> None:
        mark, lines = case
        path.write_bytes("\n".join([mark.join(["label", "a", "b"]), *map(mark.join, lines), ""]).encode())
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            options = PrepareOptions(separator=mark, categorical=("a", "b"))
            found = own_table.read(path, Path(scratch), options, lambda _: None)
            with found.cells as made:
                rows = [made.values(name).gather(made.column(name)).fill_null("").to_list() for name in made.columns]
        with open(path, encoding="utf-8", newline="") as file:
            expected = list(csv.reader(file, delimiter=mark))[1:]
        while expected and not expected[-1]:  # blank lines at the end
            expected.pop()
        assert [list(row) for row in zip(*rows, strict=True)] == expected
        assert found.labels.tolist() == [int(row[0]) for row in expected]
        with contextlib.suppress(pd.errors.ParserError):
            seen = pd.read_csv(path, sep=mark, dtype=str, keep_default_na=False, skip_blank_lines=False)
            assert seen.head(len(expected)).values.tolist() == expected

    tables = st.lists(st.tuples(labels, cells, cells), min_size=2, max_size=12)
    assert fuzz(st.tuples(st.sampled_from([",", ";", "\t", "|"]), tables), read) > EACH / 5
