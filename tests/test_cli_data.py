"""The command line: what it prints, and that every bad input ends in one line that names the place."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from raw_files import avazu_lines, criteo_lines, frappe_lines, table_lines, write_frappe_zip, write_lines
from typer.testing import CliRunner

from ctrlib import cli

CRITEO, AVAZU, FRAPPE, OWN = criteo_lines(200), avazu_lines(200), frappe_lines(60), table_lines(200)


def invoke(*arguments):
    """Run in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"}, prog_name="ctrlib")
    return result.exit_code, result.stdout, result.stderr


def spawn(*arguments, **options):
    """Run as a process of its own."""
    command = [sys.executable, "-m", "ctrlib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def text(lines):
    return "".join(line + "\n" for line in lines).encode()


def with_cell(lines, row, place, value, separator):
    """The lines with one cell changed; ``row`` counts from 0."""
    cells = lines[row].split(separator)
    cells[place] = value
    return [*lines[:row], separator.join(cells), *lines[row + 1 :]]


def with_label(lines, place, value, separator, start=0):
    """The lines with all labels alike."""
    made = list(lines)
    for row in range(start, len(lines)):
        made = with_cell(made, row, place, value, separator)
    return made


def damaged(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def parquet(tmp_path):
    path = tmp_path / "whole.parquet"
    rng = np.random.default_rng(0)
    pl.DataFrame({"label": rng.integers(0, 2, 500), "x": rng.integers(0, 9, 500)}).write_parquet(path)
    return path.read_bytes()


PACKED = gzip.compress(text(CRITEO))
LATIN = [*CRITEO[:6], CRITEO[6].replace("0000", "caf\xe9", 1), *CRITEO[7:]]
BAD = {
    # name: (data set, file name, content, further options, pattern of the message)
    "empty": ("criteo", "a.txt", b"", [], r"a\.txt: the file is empty"),
    "blank": ("criteo", "a.txt", b"\n\n\n", [], r"a\.txt: the file is empty"),
    "41 columns": (
        *("criteo", "a.txt", text([*CRITEO[:11], CRITEO[11] + "\tx", *CRITEO[12:]]), []),
        r"a\.txt, line 12: 41 columns; allowed: 40",
    ),
    "cut word": (
        *("criteo", "a.txt", text(with_cell(CRITEO, 199, 39, "0000", "\t"))[:-1], []),
        r"line 200, column C26: '0000' is shorter .* cut off",
    ),
    "header": (
        *("criteo", "a.txt", text(["\t".join(["label", *(f"x{i}" for i in range(39))]), *CRITEO]), []),
        r"line 1: 'label' looks like a header; allowed: no header",
    ),
    "encoding": (
        *("criteo", "a.txt", "\n".join(LATIN).encode("latin-1"), []),
        r"line 7: byte 0xe9 at position \d+ is not UTF-8",
    ),
    "cut gzip": ("criteo", "a.gz", PACKED[:-500], [], r"a\.gz: damaged gzip after [\d,]+ unpacked bytes"),
    "bad gzip sum": ("criteo", "a.gz", damaged(PACKED, len(PACKED) - 6), [], r"a\.gz: damaged gzip .*CRC"),
    "no gzip": ("criteo", "a.gz", text(CRITEO), [], r"a\.gz: damaged gzip \(it does not begin like one\)"),
    "all clicks": ("criteo", "a.txt", text(with_label(CRITEO, 0, "1", "\t")), [], r"all 200 labels are 1"),
    "few rows": ("criteo", "a.txt", text(CRITEO[:8]), [], r"8 rows are too few: the \w+ part of draw 0 has 1 rows?"),
    "avazu without header": (
        "avazu",
        "a.csv",
        text(AVAZU[1:]),
        [],
        r"line 1: no header \(it begins with '10000'\); allowed: id, click",
    ),
    "avazu column absent": (
        *("avazu", "a.csv", text([AVAZU[0].replace("C17", "C99"), *AVAZU[1:]]), []),
        r"line 1: no column 'C17'",
    ),
    "avazu label": ("avazu", "a.csv", text(with_cell(AVAZU, 4, 1, "yes", ",")), [], r"line 5, column click: 'yes'"),
    "avazu hour": (
        *("avazu", "a.csv", text(with_cell(AVAZU, 4, 2, "23013325", ",")), []),
        r"line 5, column hour: '23013325'; allowed: YYMMDDHH",
    ),
    "avazu header only": ("avazu", "a.csv", text(AVAZU[:1]), [], r"no rows below the header"),
    "frappe count": ("frappe", "a.csv", text(with_cell(FRAPPE, 3, 2, "x", "\t")), [], r"line 4, column cnt: 'x'"),
    "frappe time": ("frappe", "a.csv", text(FRAPPE), ["--split", "time"], r"split 'time' .* has no time"),
    "frappe label": ("frappe", "a.csv", text(FRAPPE), ["--label", "cnt"], r"--label is for your own CSV"),
    "label absent": ("own", "a.csv", text(OWN), ["--label", "labl"], r"unknown label column 'labl'.*mean 'label'\?"),
    "time absent": (
        *("own", "a.csv", text(OWN), ["--split", "time", "--time-column", "dya"]),
        r"unknown time column 'dya'.*mean 'day'\?",
    ),
    "time not named": ("own", "a.csv", text(OWN), ["--split", "time"], r"allowed: --time-column"),
    "label as numeric": ("own", "a.csv", text(OWN), ["--numeric", "label"], r"column label: is the label"),
    "both kinds": (
        *("own", "a.csv", text(OWN), ["--numeric", "shop", "--categorical", "s*"]),
        r"column shop: is named as numeric and as categorical",
    ),
    "own number": (
        *("own", "a.csv", text(with_cell(OWN, 9, 4, "cheap", ",")), ["--numeric", "price"]),
        r"line 10, column price: 'cheap'; allowed: a number or nothing",
    ),
    "own label": ("own", "a.csv", text(with_cell(OWN, 9, 0, "5", ",")), [], r"line 10, column label: '5'; allowed: 0"),
    "own long": ("own", "a.csv", text([*OWN[:4], OWN[4] + ",9", *OWN[5:]]), [], r"line 5: 7 columns; allowed: 6"),
    "own quote": ("own", "a.csv", text([*OWN[:4], '1,"2', *OWN[4:]]), [], r"line \d+: .*allowed: valid comma"),
    "own no header": ("own", "a.csv", text(["1,5,1", "0,7,2"]), [], r"'1' names two columns \(is the header line"),
    "own index": ("own", "a.csv", text(["," + OWN[0], *OWN[1:]]), [], r"line 1, column 1: no name"),
    "no parquet": ("own", "a.parquet", text(OWN), [], r"a\.parquet: damaged Parquet"),
    "draws by time": (
        "avazu",
        "a.csv",
        text(AVAZU),
        ["--split", "time", "--draws", "2"],
        r"split by time has one draw",
    ),
    "shares": ("criteo", "a.txt", text(CRITEO), ["--shares", "0.8,0.3,0.1"], r"shares=.*add up to 1"),
    "min count": ("criteo", "a.txt", text(CRITEO), ["--min-count", "0"], r"min_count=0: must be greater"),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A data folder in which every name of the bad cases is already prepared."""
    root = tmp_path_factory.mktemp("earlier")
    for name, lines in (("criteo", CRITEO), ("avazu", AVAZU), ("frappe", FRAPPE), ("own", OWN)):
        raw = write_lines(root / f"{name}.csv", lines)
        code, _, error = invoke("data", "prepare", name, "--raw", raw, "--out", root / "data")
        assert (code, error) == (0, "")
    return root / "data"


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_one_line(code, error, pattern, expected=2):
    assert code == expected, error
    assert "Traceback" not in error
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    assert re.search(pattern, error.strip()), error


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, tmp_path, earlier):
    name, file, raw, options, pattern = BAD[case]
    (tmp_path / file).write_bytes(raw)
    before = content(earlier)
    code, _, error = invoke("data", "prepare", name, "--raw", tmp_path / file, "--out", earlier, *options)
    assert_one_line(code, error, pattern)
    assert content(earlier) == before


def test_damaged_archives(tmp_path, earlier):
    before = content(earlier)
    whole = write_frappe_zip(tmp_path / "whole.zip", FRAPPE).read_bytes()
    start = whole.index(b"frappe.csv") + 60
    cases = [(whole[:-40], "damaged zip"), (damaged(whole, start), "damaged zip"), (b"x" + whole[5:50], "damaged zip")]
    for raw, pattern in cases:
        (tmp_path / "a.zip").write_bytes(raw)
        code, _, error = invoke("data", "prepare", "frappe", "--raw", tmp_path / "a.zip", "--out", earlier)
        assert_one_line(code, error, pattern)
    write_frappe_zip(tmp_path / "b.zip", FRAPPE, member="../other.csv")
    code, _, error = invoke("data", "prepare", "frappe", "--raw", tmp_path / "b.zip", "--out", earlier)
    assert_one_line(code, error, r"0 files named frappe\.csv in the zip; allowed: exactly 1")
    write_frappe_zip(tmp_path / "c.zip", FRAPPE, member="../../frappe.csv")  # a path out of the zip is not followed
    assert invoke("data", "prepare", "frappe", "--raw", tmp_path / "c.zip", "--out", tmp_path / "in" / "data")[0] == 0
    assert not list(tmp_path.glob("**/frappe.csv"))
    raw = parquet(tmp_path)
    for bad in (raw[:-30], damaged(raw, len(raw) - 150), damaged(raw, 40), raw[:4]):
        (tmp_path / "a.parquet").write_bytes(bad)
        code, _, error = invoke("data", "prepare", "own", "--raw", tmp_path / "a.parquet", "--out", earlier)
        assert_one_line(code, error, r"a\.parquet: damaged Parquet|a\.parquet, row")
    assert content(earlier) == before


def test_no_such_file_folder_or_permission(tmp_path, earlier, monkeypatch):
    cases = [(tmp_path / "none.txt", "no such file"), (tmp_path, "is a folder; give the file itself")]
    for raw, pattern in cases:
        code, _, error = invoke("data", "prepare", "criteo", "--raw", raw, "--out", earlier)
        assert_one_line(code, error, pattern)
    locked = write_lines(tmp_path / "locked.txt", CRITEO)
    locked.chmod(0)
    if os.geteuid() == 0:  # root may read everything: stand in for the refusal
        monkeypatch.setattr("builtins.open", refuse)
    code, _, error = invoke("data", "prepare", "criteo", "--raw", locked, "--out", earlier)
    assert_one_line(code, error, "locked.txt: no permission to read it")


def refuse(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_full_disk_is_one_line(tmp_path, earlier, monkeypatch):
    before = content(earlier)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", full)
    raw = write_lines(tmp_path / "a.txt", CRITEO)
    code, _, error = invoke("data", "prepare", "criteo", "--raw", raw, "--out", earlier)
    assert_one_line(code, error, "no space left on the disk", expected=1)
    assert content(earlier) == before
    assert not [p for p in earlier.iterdir() if p.name.startswith(".")]


def test_prepare_list_describe(tmp_path):
    raw = write_lines(tmp_path / "shop.csv", OWN)
    options = ["--drop", "day,colour", "--categorical", "shop", "--draws", "2", "--min-count", "1"]
    code, out, error = invoke("data", "prepare", "shop", "--raw", raw, "--out", tmp_path / "data", *options)
    assert (code, error) == (0, "")
    assert "numeric, in buckets: price" in out
    assert "160" in out
    code, out, _ = invoke("data", "list", "--data-dir", tmp_path / "data")
    assert code == 0
    assert re.search(r"shop\s+table\s+prepared\s+200\s+3", out)
    assert "synthetic" in out
    assert "ctrlib data prepare criteo --raw FILE" in out
    code, out, _ = invoke("data", "describe", "shop", "--draw", "1", "--data-dir", tmp_path / "data")
    assert code == 0
    assert re.search(r"shop\s+10\s", out)
    code, _, error = invoke("data", "describe", "shopp", "--data-dir", tmp_path / "data")
    assert_one_line(code, error, r"unknown data set 'shopp'.*Did you mean 'shop'\?")


def test_damaged_prepared_data_is_one_line(tmp_path):
    raw = write_lines(tmp_path / "a.txt", CRITEO)
    assert invoke("data", "prepare", "criteo", "--raw", raw, "--out", tmp_path)[0] == 0
    path = tmp_path / "criteo" / "draw-0" / "test_ids.npy"
    path.write_bytes(damaged(path.read_bytes(), 300))
    code, _, error = invoke("data", "describe", "criteo", "--data-dir", tmp_path)
    assert_one_line(code, error, r"test_ids\.npy: damaged")
    assert invoke("data", "prepare", "criteo", "--raw", raw, "--out", tmp_path)[0] == 0
    assert invoke("data", "describe", "criteo", "--data-dir", tmp_path)[0] == 0


def test_as_a_process(tmp_path):
    raw = write_lines(tmp_path / "a.txt", with_cell(CRITEO, 4, 2, "x", "\t"))
    done = spawn("data", "prepare", "criteo", "--raw", raw, "--out", tmp_path)
    assert_one_line(done.returncode, done.stderr, r"line 5, column I2: 'x'")
    assert done.stdout == ""
    for place in (0, 2, 7):
        arguments = ["data", "prepare", "criteo", "--raw", raw, "--out", tmp_path]
        arguments.insert(place, "--debug")
        assert "Traceback" in spawn(*arguments).stderr
    write_lines(raw, CRITEO)
    env = {**os.environ, "CTRLIB_DATA": str(tmp_path / "elsewhere")}
    assert spawn("data", "prepare", "criteo", "--raw", raw, env=env).returncode == 0
    assert (tmp_path / "elsewhere" / "criteo" / "dataset.json").exists()


def test_help_is_light():
    code = "import sys\nfrom ctrlib import cli\ntry:\n    cli.main(['data', 'prepare', '--help'])\nexcept SystemExit:\n"
    code += "    print([m for m in ('torch', 'polars', 'numpy', 'papermill', 'pandas') if m in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Examples" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path, earlier):
    raw = tmp_path / "long.txt"
    raw.write_bytes(text(CRITEO) * 2000)
    out = tmp_path / "data"
    shutil.copytree(earlier, out)
    before = content(out)
    command = [sys.executable, "-m", "ctrlib.cli", "data", "prepare", "criteo", "--raw", str(raw), "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(2000):
            if list(out.glob(".criteo.new-*")) or process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(0.2)  # by now it reads
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert error.strip() == "stopped; run the same command again to go on"
    assert content(out) == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_damage_of_a_packed_file_explains_its_bad_rows(tmp_path, earlier, monkeypatch):
    before = content(earlier)
    bad = gzip.compress(text(with_cell(CRITEO, 20, 3, "many", "\t")))
    for raw, pattern in ((bad, r"line 21, column I3: 'many'"), (damaged(bad, len(bad) - 6), r"damaged gzip .*CRC")):
        (tmp_path / "a.gz").write_bytes(raw)
        code, _, error = invoke("data", "prepare", "criteo", "--raw", tmp_path / "a.gz", "--out", earlier)
        assert_one_line(code, error, pattern)
    assert content(earlier) == before


def test_bad_rows_are_named_wherever_they_are(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    for row in (0, 1, 99, 150, 198, 199):
        write_lines(path, with_cell(CRITEO, row, 5, "x", "\t"))
        code, _, error = invoke("data", "prepare", "criteo", "--raw", path, "--out", tmp_path)
        assert_one_line(code, error, rf"line {row + 1}, column I5: 'x'; allowed: a whole number or nothing")
        short = [*CRITEO[:row], CRITEO[row].rsplit("\t", 1)[0], *CRITEO[row + 1 :]]
        write_lines(path, short)
        code, _, error = invoke("data", "prepare", "criteo", "--raw", path, "--out", tmp_path)
        cut = r" \(it is the last line: the file seems cut off there\)" if row == 199 else ""
        assert_one_line(code, error, rf"line {row + 1}: 39 columns; allowed: 40, tab-separated{cut}$")
        write_lines(path, [*CRITEO[:row], "", *CRITEO[row:]])
        code, _, error = invoke("data", "prepare", "criteo", "--raw", path, "--out", tmp_path)
        assert_one_line(code, error, rf"line {row + 1}: 0 columns; allowed: 40")


def test_text_through_a_pipe(tmp_path):
    raw = write_lines(tmp_path / "a.txt", CRITEO)
    if os.name == "nt":
        pytest.skip("no named pipes in folders")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = subprocess.Popen(["cp", str(raw), str(pipe)])
    assert invoke("data", "prepare", "criteo", "--raw", pipe, "--out", tmp_path / "one")[0] == 0
    feeder.wait(10)
    assert invoke("data", "prepare", "criteo", "--raw", raw, "--out", tmp_path / "two")[0] == 0
    one, two = (content(tmp_path / name / "criteo" / "draw-0") for name in ("one", "two"))
    assert one == two
