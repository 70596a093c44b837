"""Whatever a file of somebody else's holds, it is used or refused in one line: no crash, no hang.

``make fuzz`` reads at least 100,000 inputs; here are a thousand (CTRLIB_FUZZ, CTRLIB_SEED).
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from fuzzing import attempt, fuzz, mutate, reshape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines

from ctrlib.data import manifest, sources
from ctrlib.data.files import seal
from ctrlib.data.formats import avazu, criteo, frappe, own_table
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import open_draw, validate_dataset
from ctrlib.errors import UserError

TOTAL = int(os.environ.get("CTRLIB_FUZZ", "1000"))
TARGETS = 11  # shares of TOTAL
SHARE = max(20, -(-TOTAL // TARGETS))

Change = Callable[[random.Random], Any]
Target = tuple[Any, Change, Callable[[Any], object]]  # what is valid, how it is changed, what reads it


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- raw files -------------------------------------------------------------------------------------------------------


def text(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def read_raw(layout, path: Path):
    """The rows of a raw file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        rows = layout.read(path, Path(scratch), PrepareOptions(), lambda _: None)
        with rows.cells:
            return rows


def parquet() -> bytes:
    packed = io.BytesIO()
    frame = pl.read_csv(text(table_lines(60)))
    frame.with_columns(pl.col("day").str.to_date()).write_parquet(packed)
    return packed.getvalue()


def raw_file(name: str, layout, make: Callable[[Path], bytes], folder: Path) -> Target:
    seed, path = make(folder), folder / name

    def change(chance: random.Random) -> bytes:
        if name.endswith(".gz") and chance.random() < 0.5:  # sound outside, strange inside
            return gzip.compress(mutate(chance, gzip.decompress(seed)), 1)
        return mutate(chance, seed)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_raw(layout, path)

    return seed, change, read


# ---- prepared data ---------------------------------------------------------------------------------------------------


def prepared(root: Path) -> tuple[Path, bytes, dict]:
    """A prepared folder, its dataset.json, and what that says."""
    folder = sources.prepare("own", write_lines(root / "own.csv", table_lines(200)), root)
    seed = (folder / "dataset.json").read_bytes()
    content = json.loads(seed)
    del content["checksum"]
    return folder, seed, content


def sealed(content: Any) -> bytes:
    try:
        return seal(content).encode()
    except (TypeError, ValueError):
        return json.dumps(content).encode()


def either(seed: bytes, content: Any, write: Callable[[Any], bytes]) -> Change:
    """Other bytes, or other content with whatever must be right beside it."""
    return lambda chance: mutate(chance, seed) if chance.random() < 0.4 else write(reshape(chance, content))


def signed(content: Any) -> bytes:
    """A dataset.json with fingerprints and checksum as they must be, as far as that can be computed."""
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        for entry in content["draws"]:
            entry["fingerprint"] = manifest.fingerprint(entry)
    return sealed(content)


def dataset_json(root: Path) -> Target:
    folder, seed, content = prepared(root)

    def read(raw: bytes) -> None:
        (folder / "dataset.json").write_bytes(raw)
        sources.catalogue(root)
        sources.summary(folder)
        sources.describe("own", 0, root)

    return seed, either(seed, content, signed), read


def array_of_prepared_data(name: str, root: Path) -> Target:
    """With the right checksums."""
    folder, _, facts = prepared(root)
    path = folder / "draw-0" / name
    seed = path.read_bytes()
    head = seed.index(b"\n") + 1

    def change(chance: random.Random) -> bytes:
        return mutate(chance, seed[:head]) + seed[head:] if chance.random() < 0.7 else mutate(chance, seed)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        facts["draws"][0]["sha256"][name] = sha256(content)
        (folder / "dataset.json").write_bytes(signed(facts))
        validate_dataset(open_draw(folder))

    return seed, change, read


INPUTS: dict[str, Callable[[Path], Target]] = {
    "criteo text": partial(raw_file, "train.txt", criteo, lambda _: text(criteo_lines(30))),
    "criteo gzip": partial(raw_file, "train.txt.gz", criteo, lambda _: gzip.compress(text(criteo_lines(30)))),
    "avazu csv": partial(raw_file, "train.csv", avazu, lambda _: text(avazu_lines(30))),
    "frappe log": partial(raw_file, "frappe.csv", frappe, lambda _: text(frappe_lines(40))),
    "frappe zip": partial(
        raw_file, "log.zip", frappe, lambda to: write_frappe_zip(to / "0", frappe_lines(40)).read_bytes()
    ),
    "own csv": partial(raw_file, "own.csv", own_table, lambda _: text(table_lines(60))),
    "own parquet": partial(raw_file, "own.parquet", own_table, lambda _: parquet()),
    "dataset.json": dataset_json,
    "prepared ids": partial(array_of_prepared_data, "train_ids.npy"),
    "prepared labels": partial(array_of_prepared_data, "valid_labels.npy"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, tmp_path: Path) -> None:
    seed, change, read = INPUTS[name](tmp_path)
    read(seed)  # as it is, it is used
    fuzz(name, SHARE, change, read)


labels = st.sampled_from(["0", "1"])
cells = st.one_of(
    st.sampled_from(["", "0", "1", "0.5", "-3", "1e9", "nan", "007", "true", "2024-01-01", '"a,b"', '"', "a b", "é"]),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=6),
)


def test_tables_of_any_cells(tmp_path: Path) -> None:
    """A table is refused, or it has the cells that Python's csv reads, and pandas where that reads the file at all."""
    path = tmp_path / "own.csv"

    @settings(max_examples=SHARE, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from([",", ";", "\t", "|"]), st.lists(st.tuples(labels, cells, cells), min_size=2, max_size=12))
    def check(mark, lines) -> None:
        path.write_bytes("\n".join([mark.join(["label", "a", "b"]), *map(mark.join, lines), ""]).encode())

        def read() -> None:
            with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
                options = PrepareOptions(separator=mark, categorical=("a", "b"))
                found = own_table.read(path, Path(scratch), options, lambda _: None)
                with found.cells as made:
                    rows = [
                        made.values(name).gather(made.column(name)).fill_null("").to_list() for name in made.columns
                    ]
            with open(path, encoding="utf-8", newline="") as file:
                expected = list(csv.reader(file, delimiter=mark))[1:]
            while expected and not expected[-1]:  # blank lines at the end
                expected.pop()
            assert [list(row) for row in zip(*rows, strict=True)] == expected
            assert found.labels.tolist() == [int(row[0]) for row in expected]
            with contextlib.suppress(pd.errors.ParserError):
                seen = pd.read_csv(path, sep=mark, dtype=str, keep_default_na=False, skip_blank_lines=False)
                assert seen.head(len(expected)).values.tolist() == expected

        accepted.append(attempt(read))

    accepted: list[bool] = []
    check()
    assert sum(accepted) > len(accepted) / 5


# ---- what must be refused --------------------------------------------------------------------------------------------


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch) -> None:
    """A small file that stands for gigabytes."""
    bomb = tmp_path / "own.csv.gz"
    bomb.write_bytes(gzip.compress(b"label,a\n" + b"0,1\n" * (1 << 24)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 26))
    with pytest.raises(UserError, match="are free on this disk"):
        read_raw(own_table, bomb)


def test_codes_out_of_range_are_refused_even_with_right_checksums(tmp_path: Path) -> None:
    """As another program could write them: a model would look beyond the end of its table."""
    seed, _, read = array_of_prepared_data("train_ids.npy", tmp_path)
    with pytest.raises(UserError, match="code 1000000; allowed: 0 to"):
        read(seed[:-4] + (10**6).to_bytes(4, "little"))
    with pytest.raises(UserError, match="code 1000000; allowed: 0 to"):
        sources.load("own", 0, tmp_path)
