"""Whatever a file or a setting holds, it is used or refused in one line: no crash, no hang, no flood of memory.

``make fuzz`` reads at least 100,000 inputs; here are a thousand (CTRLIB_FUZZ).
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fuzzing import changed_bytes, changed_json, fuzz, limited_memory
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines
from small import CPU, make_run, member, rows

from ctrlib.cli.runs import runs_list, runs_show
from ctrlib.config import Run, checked
from ctrlib.coupling import complete
from ctrlib.data import manifest, own_table, sources
from ctrlib.data.files import seal
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import open_draw
from ctrlib.data.raw_logs import read_avazu, read_criteo, read_frappe
from ctrlib.errors import UserError
from ctrlib.run.plan import find_profile, read_overrides
from ctrlib.store.checkpoints import NEWEST, Checkpoints, Position
from ctrlib.store.published import committed_results
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.study.experiments import checked_parameters
from ctrlib.training import loop as trainer
from ctrlib.training.cohort import member_state

TOTAL = int(os.environ.get("CTRLIB_FUZZ", "1000"))
PAIR = make_run([member(1), member(2)], complete(2), epochs=2, batch_size=165)

Target = tuple[Any, st.SearchStrategy[Any], Callable[[Any], object]]  # a valid input, changed ones, what reads them


@pytest.fixture(scope="module", autouse=True)
def bounds(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "own.parquet"
    path.write_bytes(parquet())
    read_raw(own_table.read, path)  # Arrow sets addresses aside when it is first used: they are not the inputs' doing
    with limited_memory():
        yield


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sealed(content: Any) -> bytes:
    """JSON with its checksum, as far as it can have one."""
    try:
        return seal(content).encode()
    except (TypeError, ValueError):
        return json.dumps(content).encode()


# ---- raw files -------------------------------------------------------------------------------------------------------


def text(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


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


# ---- run store -------------------------------------------------------------------------------------------------------


def trained(folder: Path) -> Record:
    """A record of two members."""
    return RunStore(folder / "store").train(PAIR, "cpu")


def run_json(folder: Path) -> Target:
    record = trained(folder)
    path = record.folder / "run.json"
    seed, content = path.read_bytes(), json.loads(path.read_bytes())
    del content["checksum"]

    def read(raw: bytes) -> None:
        """Everything that a study or a command reads of a record."""
        path.write_bytes(raw)
        store = RunStore(record.folder.parent)
        opened = store.open(record.fingerprint)
        assert len(opened.content["test"]) == len(opened.run.members)
        with contextlib.redirect_stdout(io.StringIO()):
            runs_list(store.root)
            runs_show(record.fingerprint, store.root)

    return seed, changed_bytes(seed) | changed_json(content).map(sealed), read


def array_of_a_record(name: str, folder: Path) -> Target:
    """With the right checksum, as somebody would write it who can write to the store."""
    record = trained(folder)
    seed = record.read(name)

    def read(content: bytes) -> None:
        (record.folder / name).write_bytes(content)
        record.content["files"][name] = sha256(content)
        if name == "predictions.npz":
            assert record.logits().shape == (2, 150)
            record.logits("valid")
        else:
            assert len(record.states()) == 2

    return seed, changed_bytes(seed), read


def state_of_a_training(folder: Path) -> Target:
    """With the right checksum. What is refused leaves the models as they were."""
    groups = [trainer.make_group(PAIR, [0, 1], rows(), None, CPU)]
    keeper = Checkpoints(folder / "state", "me", 0.0)
    keeper.save(groups, Position(epoch=1))
    pointer, (state,) = keeper.folder / NEWEST, keeper.folder.glob("state-*")
    seed, newest = state.read_bytes(), json.loads(pointer.read_bytes())
    length = 8 + int.from_bytes(seed[:8], "little")
    header, tensors = json.loads(seed[8:length]), seed[length:]

    def with_facts(facts: Any) -> bytes:
        head = json.dumps({**header, "__metadata__": {"facts": json.dumps(facts)}}).encode()
        return len(head).to_bytes(8, "little") + head + tensors

    def weights() -> list[bytes]:
        members = (trainee for group in groups for trainee in group.trainees)
        return [tensor.numpy().tobytes() for one in members for tensor in member_state(one).values()]

    def read(content: bytes) -> None:
        keeper.folder.mkdir(exist_ok=True)
        pointer.write_text(json.dumps({**newest, "sha256": sha256(content)}))
        state.write_bytes(content)
        before = weights()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            position = Checkpoints(keeper.folder, "me", 1e9).restore(groups)
        if position == Position():
            assert weights() == before
        if said := out.getvalue().removesuffix("\n"):
            raise UserError(said)

    facts = changed_json(json.loads(header["__metadata__"]["facts"])).map(with_facts)
    return seed, changed_bytes(seed[:length]).map(lambda head: head + tensors) | facts, read


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
        facts["draws"][0]["sha256"][name] = sha256(content)
        facts["draws"][0]["fingerprint"] = manifest.fingerprint(facts["draws"][0])
        (folder / "dataset.json").write_text(seal(facts))
        open_draw(folder)

    return seed, changed_bytes(seed[:head]).map(lambda made: made + seed[head:]) | changed_bytes(seed), read


# ---- settings --------------------------------------------------------------------------------------------------------

SETS = ["instances=3", "seeds=[1, 2]", "companions=[DCN, PNN]", "learning_rate=1e-3", "dataset=x", "batch_norm=true"]
PROFILE = b"all:\n  rows: 5000\n  seeds: [1, 2]\n  architecture: DCN\n'02': {mutual_weight: 0.5, device: cpu}\n"


def set_on_the_command_line(_: Path) -> Target:
    cases = st.sampled_from(SETS).flatmap(lambda one: changed_bytes(one.encode()))
    return SETS[0].encode(), cases, lambda one: checked_parameters(**read_overrides([one.decode(errors="replace")]))


def profile(folder: Path) -> Target:
    committed_results()  # the project's own, which name data sets
    path = folder / "mine.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for parameters in find_profile(folder, str(path)).values():
            checked_parameters(**{str(name): value for name, value in parameters.items()})

    return PROFILE, changed_bytes(PROFILE), read


def run_as_settings(_: Path) -> Target:
    seed = PAIR.model_dump(mode="json")

    def read(values: Any) -> None:
        if isinstance(values, dict):
            run = checked(Run, **values)
            assert Run.model_validate_json(run.model_dump_json()).fingerprint == run.fingerprint

    return seed, changed_json(seed), read


INPUTS: dict[str, Callable[[Path], Target]] = {
    "criteo text": partial(raw_file, "train.txt", read_criteo, lambda _: text(criteo_lines(30))),
    "criteo gzip": partial(raw_file, "train.txt.gz", read_criteo, lambda _: gzip.compress(text(criteo_lines(30)))),
    "avazu csv": partial(raw_file, "train.csv", read_avazu, lambda _: text(avazu_lines(30))),
    "frappe zip": partial(
        raw_file, "log.zip", read_frappe, lambda to: write_frappe_zip(to / "0", frappe_lines(40)).read_bytes()
    ),
    "own csv": partial(raw_file, "own.csv", own_table.read, lambda _: text(table_lines(60))),
    "own parquet": partial(raw_file, "own.parquet", own_table.read, lambda _: parquet()),
    "run.json": run_json,
    "members": partial(array_of_a_record, "members.safetensors"),
    "predictions": partial(array_of_a_record, "predictions.npz"),
    "states of trainings": state_of_a_training,
    "dataset.json": dataset_json,
    "prepared ids": partial(array_of_prepared_data, "train_ids.npy"),
    "--set": set_on_the_command_line,
    "profiles": profile,
    "runs": run_as_settings,
}
SHARE = max(20, -(-TOTAL // (len(INPUTS) + 1)))


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, tmp_path: Path) -> None:
    seed, cases, read = INPUTS[name](tmp_path)
    read(seed)  # as it is, it is used
    fuzz(SHARE, cases, read)


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
    assert fuzz(SHARE, st.tuples(st.sampled_from([",", ";", "\t", "|"]), tables), read) > SHARE / 5


# ---- what must be refused --------------------------------------------------------------------------------------------


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """A small file that stands for gigabytes."""
    packed, record = io.BytesIO(), trained(tmp_path)
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("test.npy", "w", force_zip64=True) as inner,
    ):
        head = {"descr": "<f4", "fortran_order": False, "shape": (2, 10**9)}
        np.lib.format.write_array_header_1_0(inner, head)
        for _ in range(64):
            inner.write(bytes(1 << 20))
    (record.folder / "predictions.npz").write_bytes(packed.getvalue())
    record.content["files"]["predictions.npz"] = sha256(packed.getvalue())
    with pytest.raises(UserError, match="packed"):
        record.logits()
