"""Fetching published data: the division as published, and a network, an archive or a disk that is against it."""

import gzip
import io
import math
import time
import types
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from hub import hub
from processes import start, until
from raw_files import criteo_lines, csv_files, of_files, zip_of, zipped
from test_cli_data import assert_one_line, invoke
from test_encode import naive_codes

from ctrlib.data import encode, files, sources
from ctrlib.data.fetch import LARGER, fetch
from ctrlib.data.manifest import SPLITS, read_manifest
from ctrlib.data.published import PUBLISHED
from ctrlib.data.raw_logs import CRITEO_NUMBERS as NUMBERS
from ctrlib.data.raw_logs import CRITEO_WORDS as WORDS
from ctrlib.errors import UserError

NAME, PATH = "frappe_x1", "datasets/reczoo/Frappe_x1/resolve/main/Frappe_x1.zip"
FILES = csv_files(NAME)
ZIP = zipped(FILES, "Frappe_x1/")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The invented files take the place of the published ones; waiting between tries takes no time."""
    monkeypatch.setitem(PUBLISHED, NAME, of_files(NAME, FILES))
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10)
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda _: None, time=time.time))
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def assert_refused(pattern, endpoint, root, *options):
    """One line, and nothing prepared."""
    code, _, error = invoke("data", "fetch", NAME, "--endpoint", endpoint, "--out", root, *options)
    assert_one_line(code, error, pattern)
    assert not (root / NAME).exists()


def left(root):
    """What a fetch has left in its folder."""
    folder = root / ".fetched" / NAME
    return sorted(path.name for path in folder.iterdir() if path.name != "lock") if folder.exists() else []


def frame_of(name, content):
    frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
    if name == "criteo_x4":
        counts = [encode.count_buckets(frame[column].cast(pl.Int64)) for column in NUMBERS]
        return frame.select("Label", *counts, *WORDS)
    if name == "criteo_x1":
        return frame.with_columns(pl.col(NUMBERS).cast(pl.Float64))
    if name == "avazu_x4":
        moments = [datetime.strptime(text, "%y%m%d%H") for text in frame["hour"]]
        parts = {"hour": [str(moment.hour) for moment in moments]}
        parts["weekday"] = [str(moment.weekday()) for moment in moments]
        parts["weekend"] = ["01"[moment.weekday() in (5, 6)] for moment in moments]
        rest = frame.drop("id", "hour")
        return pl.concat([rest.select("click"), pl.DataFrame(parts), rest.drop("click")], how="horizontal")
    return frame


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_set_is_prepared_as_published(name, tmp_path, monkeypatch):
    files = csv_files(name)
    monkeypatch.setitem(PUBLISHED, name, of_files(name, files))
    monkeypatch.setattr(encode, "BATCH", 100)
    what, stem = PUBLISHED[name], PUBLISHED[name].archive
    with hub(files={f"datasets/{what.repository}/resolve/main/{stem}": zipped(files)}, redirect=True) as has:
        made = fetch(name, tmp_path, has.endpoint)
    frames = [frame_of(name, content) for content in files.values()]
    dataset = sources.load(name, data_dir=tmp_path)
    assert dataset.field_names == tuple(frames[0].drop(what.label).columns)
    for place, field in enumerate(dataset.field_names):
        columns = [frame[field] for frame in frames]
        if field in what.numeric:
            known = np.sort(columns[0].drop_nulls().cast(pl.Float32).cast(pl.Float64).to_numpy())
            edges = np.unique([known[math.ceil(k * len(known) / what.buckets) - 1] for k in range(1, what.buckets)])
            columns = [column.cast(pl.Float32).cast(pl.Float64).to_list() for column in columns]
            columns = [[None if v is None else sum(edges < v) for v in column] for column in columns]
        for split, column in zip(dataset.splits().values(), columns, strict=True):
            expected, known = naive_codes(list(columns[0]), list(column), what.min_count)
            assert dataset.field_dims[place] == len(known) + 1
            assert split.ids[:, place].tolist() == expected, field
    for split, frame in zip(dataset.splits().values(), frames, strict=True):
        assert split.labels.tolist() == frame[what.label].cast(pl.Float64).cast(pl.Int64).to_list()
    about = read_manifest(made)
    assert about["source"] == {"file": stem, "repository": what.repository, "md5": what.md5}
    assert about["settings"]["min_count"] == {"criteo_x4": 10, "avazu_x4": 2}.get(name, 1)
    assert about["numeric_columns"] == list(what.numeric)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # nothing else is left


def test_a_day_of_raw_click_logs_is_fetched_once(tmp_path):
    day = gzip.compress("\n".join(criteo_lines(200)).encode() + b"\n")
    with hub(files={"datasets/criteo/CriteoClickLogs/resolve/main/day_3.gz": day}, cut=[700], stall=0.02) as has:
        code, out, error = invoke("data", "fetch", "criteo_day_3", "--endpoint", has.endpoint, "--out", tmp_path)
        assert (code, error) == (0, "")
        assert "criteo_day_3: terms: CC BY-NC-SA" in out
        asked = len(has.asked)
        fetch("criteo_day_3", tmp_path, has.endpoint)
        assert len(has.asked) == asked, "it is there"
    dataset = sources.load("criteo_day_3", data_dir=tmp_path)
    assert sum(map(len, dataset.splits().values())) == 200
    assert len(dataset.field_names) == 39
    with pytest.raises(UserError, match="Run: ctrlib data fetch criteo_day_4"):
        sources.load("criteo_day_4", data_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["criteo_day_3"]  # nothing else is left


def test_the_catalogue_says_what_can_be_fetched(tmp_path):
    before = {entry.name: entry for entry in sources.catalogue(tmp_path)}
    assert all(before[name].state == "can be fetched" for name in PUBLISHED)
    listed = " ".join(invoke("data", "list", "--data-dir", tmp_path)[1].split())
    assert "criteo_day_0 to criteo_day_23: ctrlib data fetch criteo_day_0, one raw day each" in listed
    with pytest.raises(UserError, match=r"Run: ctrlib data fetch frappe_x1"):
        sources.load(NAME, data_dir=tmp_path)
    with hub(files={PATH: ZIP}) as has:
        code, out, error = invoke("data", "fetch", NAME, "--endpoint", has.endpoint, "--out", tmp_path, "--keep")
        assert (code, error) == (0, "")
        assert "frappe_x1: terms: research use" in out
        assert "prepared: " in out
        assert left(tmp_path) == ["Frappe_x1.zip", "test.csv", "train.csv", "valid.csv"]
        asked = len(has.asked)
        assert invoke("data", "fetch", NAME, "--endpoint", has.endpoint, "--out", tmp_path)[0] == 0  # it is there
        nowhere = ("--endpoint", NOWHERE, "--min-count", 3)
        assert invoke("data", "fetch", NAME, *nowhere, "--out", tmp_path)[0] == 0  # from the files that were kept
        assert len(has.asked) == asked
    entry = {entry.name: entry for entry in sources.catalogue(tmp_path)}[NAME]
    assert (entry.state, entry.rows, entry.how) == ("prepared", 440, "from Frappe_x1.zip")
    assert read_manifest(tmp_path / NAME)["settings"]["min_count"] == 3


def test_a_zip_from_elsewhere_needs_no_network(tmp_path):
    (tmp_path / "mine.zip").write_bytes(ZIP)
    code, _, error = invoke("data", "fetch", NAME, "--out", tmp_path / "data", "--archive", tmp_path / "mine.zip")
    assert (code, error) == (0, "")
    (tmp_path / "mine.zip").write_bytes(ZIP[:-50])
    assert_refused("mine.zip: damaged zip", NOWHERE, tmp_path / "other", "--archive", tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").exists()  # the user's own file is never removed


@pytest.mark.parametrize("redirect", [False, True])
def test_broken_connections_are_gone_on_with(tmp_path, redirect):
    with hub(files={PATH: ZIP}, cut=[700, 10, 400], stall=0.02, redirect=redirect) as has:
        fetch(NAME, tmp_path, has.endpoint)
        assert has.gets() == [None, "bytes=700-", "bytes=710-", "bytes=1110-"]
    assert len(sources.load(NAME, data_dir=tmp_path).train) == 300


def fetch_in_tens(root, endpoint):
    from huggingface_hub import constants

    PUBLISHED[NAME], constants.DOWNLOAD_CHUNK_SIZE = of_files(NAME, FILES), 10
    fetch(NAME, root, endpoint)


def test_a_killed_download_is_gone_on_with(tmp_path):
    half = len(ZIP) // 2 // 10 * 10  # what is written of the first half
    with hub(files={PATH: ZIP}, stall=1000.0) as has:  # the second half never comes
        process, folder = start(fetch_in_tens, tmp_path, has.endpoint), tmp_path / ".fetched" / NAME
        until(lambda: any(path.stat().st_size == half for path in folder.glob("*.part")), "half of it")
        process.kill()
        process.join()
        assert not (tmp_path / NAME).exists()
        has.stall = 0.0
        fetch(NAME, tmp_path, has.endpoint)
        assert has.gets() == [None, f"bytes={half}-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


def test_damage_on_the_way_is_seen_and_mended(tmp_path):
    with hub(files={PATH: ZIP}, flip=500) as has:
        assert_refused(r"Frappe_x1\.zip: (damaged zip|\w+\.csv is not the published file)", has.endpoint, tmp_path)
        assert left(tmp_path) == []
        has.flip, has.files = None, {PATH: zipped({**FILES, "valid.csv": FILES["valid.csv"].replace(b"1", b"2", 1)})}
        pattern = r"zip: valid\.csv is not the published file \(its MD5 is \w{32}, published \w{32}\)"
        assert_refused(pattern, has.endpoint, tmp_path)
        assert left(tmp_path) == ["train.csv"]  # verified before, and not to be unpacked again
        has.files = {PATH: ZIP}
        fetch(NAME, tmp_path, has.endpoint)


def test_servers_that_do_not_help(tmp_path):
    assert_refused("what has arrived is kept: .*--endpoint MIRROR or --archive FILE", NOWHERE, tmp_path)
    with hub(files={}) as has:
        assert_refused(r"Frappe_x1.zip: 404 .*or --archive FILE", has.endpoint, tmp_path)
    assert_refused("endpoint 'nowhere'; allowed: an address", "nowhere", tmp_path)
    with pytest.raises(UserError, match=r"unknown data set to fetch 'frape_x1'.*mean 'frappe_x1'"):
        fetch("frape_x1", tmp_path)
    with FileLock(tmp_path / ".fetched" / NAME / "lock"):
        assert_refused("another process is fetching frappe_x1", NOWHERE, tmp_path)


def test_too_small_a_disk_is_known_before_anything_is_sent(tmp_path, monkeypatch):
    usage, free = files.shutil.disk_usage(tmp_path), [0]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
    need = 440 * (PUBLISHED[NAME].row_bytes + 2 * 10 + 4 * 10 + 1)
    with hub(files={PATH: ZIP}) as has:
        assert_refused("are needed on this disk", has.endpoint, tmp_path)
        assert has.asked == []
        free[0] = need + len(ZIP) - 1
        assert_refused("are needed on this disk", has.endpoint, tmp_path)
        assert [method for method, *_ in has.asked] == ["HEAD"]
        free[0] = need + len(ZIP) + 10_000
        fetch(NAME, tmp_path, has.endpoint)


OTHERS = {name: FILES[name] for name in ("valid.csv", "test.csv")}
STRANGE = {
    "twice": (zip_of({**FILES, "b/train.csv": "x"}), "2 files named train.csv"),
    "absent": (zip_of({"../../train.csv.exe": "x", **OTHERS}), "0 files named train.csv"),
    "bomb": (zip_of({"train.csv": b"0" * 5_000_000, **OTHERS}), "larger than any published file could be"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_archives(case, tmp_path):
    packed, message = STRANGE[case]
    with hub(files={PATH: packed}) as has:
        assert_refused(message, has.endpoint, tmp_path / "a" / "b")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"] == []


def test_sizes_of_the_published_sets():
    for name, what in PUBLISHED.items():
        assert set(what.md5) == set(what.rows) == set(SPLITS), name
        assert all(len(md5) == 32 for md5 in what.md5.values())
        assert what.label in what.columns
        line = csv_files(name, rows=(50, 1, 1))["train.csv"].split(b"\n", 1)[1]
        assert len(line) < LARGER * 50 * what.row_bytes
