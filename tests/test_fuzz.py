"""Whatever a file or a setting holds, it is used or refused in one line: no crash, no hang, no code, no other file.

``make fuzz`` reads at least 100,000 inputs; here are a thousand (CTRLIB_FUZZ, CTRLIB_SEED).
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fuzzing import attempt, fuzz, limited_memory, mutate, reshape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines
from small import make_run, member, rows

from ctrlib.config import Recipe, Run, SyntheticSettings, checked
from ctrlib.coupling import complete
from ctrlib.data import manifest, sources
from ctrlib.data.files import seal
from ctrlib.data.formats import avazu, criteo, frappe, own_table
from ctrlib.data.options import PrepareOptions
from ctrlib.data.prepared import open_draw, validate_dataset
from ctrlib.errors import UserError
from ctrlib.run.plan import find_profile, read_overrides
from ctrlib.store.checkpoints import NEWEST, Checkpoints, Position
from ctrlib.store.runs import RunStore
from ctrlib.study.experiments import checked_parameters
from ctrlib.training import loop as trainer
from ctrlib.training.cohort import member_state

TOTAL = int(os.environ.get("CTRLIB_FUZZ", "1000"))
TARGETS = 20  # shares of TOTAL
SHARE = max(20, -(-TOTAL // TARGETS))


@pytest.fixture(scope="module", autouse=True)
def bounds(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "own.parquet"
    path.write_bytes(parquet())
    read_raw(own_table, path)  # Arrow sets addresses aside when it is first used: they are not the inputs' doing
    with limited_memory():
        yield


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


def frappe_zip(folder: Path) -> bytes:
    return write_frappe_zip(folder / "made.zip", frappe_lines(40)).read_bytes()


RAW = {
    "criteo text": ("train.txt", lambda _: text(criteo_lines(30)), criteo),
    "criteo gzip": ("train.txt.gz", lambda _: gzip.compress(text(criteo_lines(30))), criteo),
    "avazu csv": ("train.csv", lambda _: text(avazu_lines(30)), avazu),
    "avazu gzip": ("train.gz", lambda _: gzip.compress(text(avazu_lines(30))), avazu),
    "frappe log": ("frappe.csv", lambda _: text(frappe_lines(40)), frappe),
    "frappe zip": ("frappe.zip", frappe_zip, frappe),
    "own csv": ("own.csv", lambda _: text(table_lines(60)), own_table),
    "own parquet": ("own.parquet", lambda _: parquet(), own_table),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_files(name: str, tmp_path: Path) -> None:
    file, make, layout = RAW[name]
    seed, path = make(tmp_path), tmp_path / file
    packed = name.endswith("gzip")

    def changed(chance: random.Random) -> bytes:
        if packed and chance.random() < 0.5:  # sound outside, strange inside
            return gzip.compress(mutate(chance, gzip.decompress(seed)), 1)
        return mutate(chance, seed)

    def read_file(content: bytes) -> None:
        path.write_bytes(content)
        read_raw(layout, path)

    read_file(seed)
    fuzz(name, tmp_path, SHARE, changed, read_file)


def test_whole_preparations(tmp_path: Path) -> None:
    """From the raw file to a prepared folder, or to nothing at all."""
    seeds = {"criteo": text(criteo_lines(60)), "frappe": text(frappe_lines(60)), "own": text(table_lines(60))}

    def made(chance: random.Random) -> tuple[str, bytes]:
        name = chance.choice(list(seeds))
        return name, mutate(chance, seeds[name])

    def prepare(case: tuple[str, bytes]) -> None:
        raw = tmp_path / "raw.txt"
        raw.write_bytes(case[1])
        folder = sources.prepare(case[0], raw, tmp_path / "data")
        open_draw(folder, trust=False)
        sources.describe(case[0], 0, tmp_path / "data")

    fuzz("preparing", tmp_path, SHARE // 4, made, prepare)
    left = [path.name for path in (tmp_path / "data").iterdir()] if (tmp_path / "data").exists() else []
    assert not [name for name in left if name.startswith(".")], "nothing half-made stays"


# ---- run store -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record of two members."""
    store = RunStore(tmp_path_factory.mktemp("store"))
    return store.train(make_run([member(1), member(2)], complete(2), epochs=1, batch_size=165), "cpu")


def use(record) -> None:
    """Everything that a study or a command reads of a record."""
    from ctrlib.cli.runs import runs_list, runs_show

    store = RunStore(record.folder.parent)
    opened = store.open(record.fingerprint)
    assert len(opened.content["test"]) == len(opened.run.members)
    with contextlib.redirect_stdout(io.StringIO()):
        runs_list(store.root)
        runs_show(record.fingerprint, store.root)


def test_run_json(record) -> None:
    path = record.folder / "run.json"
    seed = path.read_bytes()
    content = json.loads(seed)
    del content["checksum"]

    def made(chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return mutate(chance, seed)
        changed = reshape(chance, content)
        try:
            return seal(changed).encode()
        except (TypeError, ValueError):
            return json.dumps(changed).encode()

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        use(record)

    read(seed)
    try:
        fuzz("run.json", record.folder.parent, SHARE, made, read)
    finally:
        path.write_bytes(seed)
    RunStore(record.folder.parent).verify(record.fingerprint)


@pytest.mark.parametrize("name", ["members.safetensors", "predictions.npz"])
def test_arrays_of_a_record(record, name: str) -> None:
    """With the right checksum, as somebody would write it who can write to the store."""
    path = record.folder / name
    seed, sums = path.read_bytes(), record.content["files"]
    right = sums[name]

    def read(content: bytes) -> None:
        path.write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()
        if name == "predictions.npz":
            assert record.logits().shape == (2, 150)
            record.logits("valid")
        else:
            assert len(record.states()) == 2

    read(seed)
    try:
        fuzz(name, record.folder, SHARE, lambda chance: mutate(chance, seed), read)
        fuzz(name, record.folder, SHARE // 10, lambda chance: mutate(chance, seed[: seed.index(b"\n") + 50]), read)
    finally:
        path.write_bytes(seed)
        sums[name] = right


def test_states_of_a_training(tmp_path: Path) -> None:
    """Pointer and state, half of them with the right checksum. What is refused leaves the models as they were."""
    run = make_run([member(1), member(2)], complete(2), epochs=2, batch_size=165)

    class Cut(Exception):
        pass

    class Once(Checkpoints):
        def save(self, groups, at) -> None:
            super().save(groups, at)
            self.groups = groups
            if at.epoch == 1:
                raise Cut

    keeper = Once(tmp_path / "state", "me", 0.0)
    with pytest.raises(Cut):
        trainer.train(run, rows(), device="cpu", checkpoints=keeper)
    pointer, (state,) = keeper.folder / NEWEST, keeper.folder.glob("state-*")
    seeds = pointer.read_bytes(), state.read_bytes()
    newest = json.loads(seeds[0])
    length = int.from_bytes(seeds[1][:8], "little")
    header = json.loads(seeds[1][8 : 8 + length])
    facts = json.loads(header["__metadata__"]["facts"])

    def made(chance: random.Random) -> tuple[bytes, bytes]:
        kind = chance.randrange(4)
        if kind == 0:
            return mutate(chance, seeds[0]), seeds[1]
        if kind == 1:
            return json.dumps(reshape(chance, newest)).encode(), seeds[1]
        if kind == 2:
            content = mutate(chance, seeds[1][: 8 + length]) + seeds[1][8 + length :]
        else:
            changed = {**header, "__metadata__": {"facts": json.dumps(reshape(chance, facts))}}
            head = json.dumps(changed).encode()
            content = len(head).to_bytes(8, "little") + head + seeds[1][8 + length :]
        return json.dumps({**newest, "sha256": hashlib.sha256(content).hexdigest()}).encode(), content

    def weights() -> list[bytes]:
        members = (trainee for group in keeper.groups for trainee in group.trainees)
        return [tensor.numpy().tobytes() for one in members for tensor in member_state(one).values()]

    def read(case: tuple[bytes, bytes]) -> None:
        keeper.folder.mkdir(exist_ok=True)
        pointer.write_bytes(case[0])
        state.write_bytes(case[1])
        before = weights()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            position = Checkpoints(keeper.folder, "me", 1e9).restore(keeper.groups)
        if position == Position():
            assert weights() == before
        if said := out.getvalue().removesuffix("\n"):
            raise UserError(said)

    read(seeds)
    fuzz("states of trainings", tmp_path, SHARE, made, read)


# ---- prepared data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    return sources.prepare("own", write_lines(root / "own.csv", table_lines(200)), root)


def signed(content) -> bytes:
    """A dataset.json with fingerprints and checksum as they must be, as far as that can be computed."""
    try:
        for entry in content["draws"]:
            entry["fingerprint"] = manifest.fingerprint(entry)
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    try:
        return seal(content).encode()
    except (TypeError, ValueError):
        return json.dumps(content).encode()


def test_dataset_json(prepared: Path) -> None:
    path = prepared / "dataset.json"
    seed = path.read_bytes()
    content = json.loads(seed)
    del content["checksum"]

    def made(chance: random.Random) -> bytes:
        return mutate(chance, seed) if chance.random() < 0.4 else signed(reshape(chance, content))

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        sources.catalogue(prepared.parent)
        sources.summary(prepared)
        sources.describe("own", 0, prepared.parent)

    read(seed)
    try:
        fuzz("dataset.json", prepared.parent, SHARE, made, read)
    finally:
        path.write_bytes(seed)


@pytest.mark.parametrize("name", ["train_ids.npy", "valid_labels.npy"])
def test_arrays_of_prepared_data(prepared: Path, name: str) -> None:
    """With the right checksums."""
    path, json_path = prepared / "draw-0" / name, prepared / "dataset.json"
    seed, json_seed = path.read_bytes(), json_path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        facts = json.loads(json_seed)
        del facts["checksum"]
        facts["draws"][0]["sha256"][name] = hashlib.sha256(content).hexdigest()
        json_path.write_bytes(signed(facts))
        validate_dataset(open_draw(prepared))

    read(seed)
    head = seed.index(b"\n") + 1

    def made(chance: random.Random) -> bytes:
        return mutate(chance, seed[:head]) + seed[head:] if chance.random() < 0.7 else mutate(chance, seed)

    try:
        fuzz(f"prepared {name}", prepared, SHARE, made, read)
    finally:
        path.write_bytes(seed)
        json_path.write_bytes(json_seed)


# ---- settings --------------------------------------------------------------------------------------------------------

SETS = [
    *("instances=3", "seeds=[1, 2, 3]", "hidden_units=[64, 64]", "companions=[DCN, PNN]", "learning_rate=1e-3"),
    *("dataset=synthetic", "architecture=DeepFM", "batch_norm=true", "device=cpu", "profile=mine", "rows=5000"),
]


def test_set_on_the_command_line(tmp_path: Path) -> None:
    def made(chance: random.Random) -> list[str]:
        return [mutate(chance, chance.choice(SETS).encode()).decode(errors="surrogateescape") for _ in range(2)]

    fuzz("--set", tmp_path, SHARE, made, lambda texts: checked_parameters(**read_overrides(texts)))


def test_profiles(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    seed = b"all:\n  rows: 5000\n  seeds: [1, 2]\n  architecture: DCN\n'02': {mutual_weight: 0.5, device: cpu}\n"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for parameters in find_profile(tmp_path, str(path)).values():
            checked_parameters(**{str(name): value for name, value in parameters.items()})

    read(seed)
    fuzz("profiles", tmp_path, SHARE, lambda chance: mutate(chance, seed), read)


def test_runs_as_settings(tmp_path: Path) -> None:
    seed = make_run([member(1), member(2)], complete(2)).model_dump(mode="json")

    def read(values) -> None:
        if isinstance(values, dict):
            run = checked(Run, **values)
            assert Run.model_validate_json(run.model_dump_json()).fingerprint == run.fingerprint

    read(seed)
    fuzz("runs", tmp_path, SHARE, lambda chance: reshape(chance, seed), read)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
unbounded = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("model", [Recipe, SyntheticSettings])
def test_settings_of_any_value(model, tmp_path: Path) -> None:
    """What is accepted says the same after a journey through JSON."""
    names = st.sampled_from([*model.model_fields, "nonsense"])

    @settings(unbounded, max_examples=SHARE // 2)
    @given(st.dictionaries(names, anything | st.integers(-2, 5) | st.floats(-1, 2), max_size=4))
    def check(values) -> None:
        def read() -> None:
            made = checked(model, **values)
            assert model.model_validate_json(made.model_dump_json()) == made

        attempt(tmp_path, read)

    check()


cells = st.one_of(
    st.sampled_from(["", "0", "1", "0.5", "-3", "1e9", "nan", "007", "true", "2024-01-01", '"a,b"', '"', "a b", "é"]),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=6),
)


def test_tables_of_any_cells(tmp_path: Path) -> None:
    """A table is refused, or each of its lines is a row with its label."""
    path = tmp_path / "own.csv"

    @settings(unbounded, max_examples=SHARE)
    @given(st.lists(st.tuples(st.sampled_from(["0", "1"]), cells, cells), min_size=2, max_size=12))
    def check(lines) -> None:
        path.write_bytes("\n".join(["label,a,b", *map(",".join, lines), ""]).encode())

        def read() -> None:
            found = read_raw(own_table, path)
            if not any(mark in cell for line in lines for cell in line for mark in '\n\r"'):  # one line, one row
                assert found.labels.tolist() == [int(line[0]) for line in lines]
            assert found.cells.rows == len(found.labels)

        attempt(tmp_path, read)

    check()


# ---- bombs -----------------------------------------------------------------------------------------------------------


def test_bombs_are_refused(record, prepared: Path, tmp_path: Path, monkeypatch) -> None:
    """Small files that stand for gigabytes."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("test.npy", "w", force_zip64=True) as inner,
    ):
        head = {"descr": "<f4", "fortran_order": False, "shape": (2, 10**9)}
        np.lib.format.write_array_header_1_0(inner, head)
        for _ in range(64):
            inner.write(bytes(1 << 20))
    path = record.folder / "predictions.npz"
    seed, right = path.read_bytes(), record.content["files"][path.name]
    path.write_bytes(packed.getvalue())
    record.content["files"][path.name] = hashlib.sha256(packed.getvalue()).hexdigest()
    try:
        with pytest.raises(UserError, match="packed"):
            record.logits()
    finally:
        path.write_bytes(seed)
        record.content["files"][path.name] = right
    bomb = tmp_path / "own.csv.gz"
    bomb.write_bytes(gzip.compress(b"label,a\n" + b"0,1\n" * (1 << 24)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 26))
    with pytest.raises(UserError, match="are free on this disk"):
        read_raw(own_table, bomb)
