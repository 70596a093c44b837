"""The command line: what it prints, and that every bad input ends in one line that names the place."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from processes import answer_of
from raw_files import (
    avazu_lines,
    contents,
    criteo_lines,
    frappe_lines,
    table_lines,
    text,
    write_frappe_zip,
    write_lines,
)
from typer.testing import CliRunner

from ctrlib import cli
from ctrlib.data.folders import new_folder
from ctrlib.errors import UserError

CRITEO, AVAZU, FRAPPE, OWN = criteo_lines(200), avazu_lines(200), frappe_lines(60), table_lines(200)


def invoke(*arguments):
    """Run in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"}, prog_name="ctrlib")
    return result.exit_code, result.stdout, result.stderr


def prepare(name, raw, out, *options):
    return invoke("data", "prepare", name, "--raw", raw, "--out", out, *options)


def spawn(*arguments, **options):
    """Run as a process of its own."""
    command = [sys.executable, "-m", "ctrlib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def with_line(lines, row, line):
    return [*lines[:row], line, *lines[row + 1 :]]


def with_cell(lines, row, place, value):
    """The lines with one cell changed; ``row`` counts from 0."""
    separator = "\t" if "\t" in lines[0] else ","
    cells = lines[row].split(separator)
    cells[place] = value
    return with_line(lines, row, separator.join(cells))


def damaged(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


PACKED = gzip.compress(text(CRITEO))
LATIN = "\n".join(with_line(CRITEO, 6, CRITEO[6].replace("0000", "caf\xe9", 1))).encode("latin-1")
HEADER = "\t".join(["label", *(f"x{i}" for i in range(39))])
NO_CLICK = ["1" + line[1:] for line in CRITEO]
BY_TIME = ["--split", "time"]
BAD = {
    # name: (data set, content, pattern of the message, further options)
    "empty": ("criteo", [], r"a\.csv: the file is empty"),
    "blank": ("criteo", ["", "", ""], r"a\.csv: the file is empty"),
    "header": ("criteo", [HEADER, *CRITEO], r"line 1, column label: 'label'; allowed: 0 or 1, and no header"),
    "encoding": ("criteo", LATIN, r"line 7: byte 0xe9 at position \d+ is not UTF-8"),
    "bad gzip sum": ("criteo", damaged(PACKED, len(PACKED) - 6), r"a\.gz: damaged gzip .*CRC"),
    "all clicks": ("criteo", NO_CLICK, r"all 200 labels are 1"),
    "few rows": ("criteo", CRITEO[:8], r"8 rows are too few: the \w+ part of draw 0 has 1 rows?"),
    "shares": ("criteo", CRITEO, r"shares=.*add up to 1", "--shares", "0.8,0.3,0.1"),
    "min count": ("criteo", CRITEO, r"min_count=0: must be greater", "--min-count", "0"),
    "avazu without header": ("avazu", AVAZU[1:], r"line 1: no header \(it begins with '10000'\); allowed: id, click"),
    "avazu column": ("avazu", with_cell(AVAZU, 0, 17, "C99"), r"line 1: no column 'C15'"),
    "avazu label": ("avazu", with_cell(AVAZU, 4, 1, "yes"), r"line 5, column click: 'yes'"),
    "avazu hour": ("avazu", with_cell(AVAZU, 4, 2, "23013325"), r"line 5, column hour: '23013325'; allowed: YYMMDDHH"),
    "draws by time": ("avazu", AVAZU, r"split by time has one draw", *BY_TIME, "--draws", "2"),
    "frappe user": ("frappe", with_cell(FRAPPE, 3, 0, ""), r"line 4, column user: no value; allowed: an id"),
    "frappe time": ("frappe", FRAPPE, r"split 'time' .* has no time", *BY_TIME),
    "label absent": ("own", OWN, r"unknown label column 'labl'.*mean 'label'\?", "--label", "labl"),
    "time not named": ("own", OWN, r"allowed: --time-column", *BY_TIME),
    "label as numeric": ("own", OWN, r"column label: is the label", "--numeric", "label"),
    "both kinds": ("own", OWN, r"shop: is named as numeric and as categorical", "--numeric=shop", "--categorical=s*"),
    "own long": ("own", with_line(OWN, 4, OWN[4] + ",9"), r"line 5: 7 columns; allowed: 6"),
    "one column": ("own", OWN, r"label column 'label'.*only one column: see --separator", "--separator", "::"),
    "excel's note": ("own", ["sep=,", *OWN], r"line 1: 'sep=,' is a note for Excel; allowed: the names"),
    "first line empty": ("own", ["", *OWN], r"line 1: is empty; allowed: the names of the columns"),
    "backslash": ("own", with_cell(OWN, 9, 1, r'"a \" b"'), r"line 10: '.' expected after '.'; .* cell doubled"),
    "own no header": ("own", ["1,5,1", "0,7,2"], r"'1' names two columns \(is the header line"),
    "no parquet": ("own", OWN, r"a\.parquet: damaged Parquet"),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A data folder in which every name of the bad cases is already prepared."""
    root = tmp_path_factory.mktemp("earlier")
    for name, lines in (("criteo", CRITEO), ("avazu", AVAZU), ("frappe", FRAPPE), ("own", OWN)):
        code, _, error = prepare(name, write_lines(root / f"{name}.csv", lines), root / "data")
        assert (code, error) == (0, "")
    return root / "data"


def assert_one_line(code, error, pattern, expected=2):
    assert code == expected, error
    assert "Traceback" not in error
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    assert re.search(pattern, error.strip()), error


def assert_refused(name, raw, root, pattern, *options):
    """One line, and what was prepared before is as it was."""
    before = contents(root)
    code, _, error = prepare(name, raw, root, *options)
    assert_one_line(code, error, pattern)
    assert contents(root) == before


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, tmp_path, earlier):
    name, raw, pattern, *options = BAD[case]
    file = "a." + next((kind for kind in ("gz", "parquet") if kind in case), "csv")
    (tmp_path / file).write_bytes(raw if isinstance(raw, bytes) else text(raw))
    assert_refused(name, tmp_path / file, earlier, pattern, *options)


def test_archives(tmp_path, earlier):
    path = write_frappe_zip(tmp_path / "a.zip", FRAPPE)
    path.write_bytes(path.read_bytes()[:-40])
    assert_refused("frappe", path, earlier, "damaged zip")
    other = write_frappe_zip(tmp_path / "b.zip", FRAPPE, member="../other.csv")
    assert_refused("frappe", other, earlier, r"0 files named frappe\.csv in the zip; allowed: exactly 1")
    write_frappe_zip(tmp_path / "c.zip", FRAPPE, member="../../frappe.csv")  # a path out of the zip is not followed
    assert prepare("frappe", tmp_path / "c.zip", tmp_path / "in" / "data")[0] == 0
    assert not list(tmp_path.glob("**/frappe.csv"))


def refuse(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))


def test_no_such_file_folder_or_permission(tmp_path, earlier, monkeypatch):
    assert_refused("criteo", tmp_path / "none.txt", earlier, "no such file")
    assert_refused("criteo", tmp_path, earlier, "is a folder; give the file itself")
    locked = write_lines(tmp_path / "locked.txt", CRITEO)
    locked.chmod(0)
    if os.geteuid() == 0:  # root may read everything: stand in for the refusal
        monkeypatch.setattr("builtins.open", refuse)
    code, _, error = prepare("criteo", locked, earlier)
    assert_one_line(code, error, "locked.txt: no permission to read it")


def test_control_characters_of_a_name_are_shown_and_not_sent(tmp_path):
    raw = write_lines(tmp_path / "raw.csv", ["label,a\x1b[31mred", *(f"{n % 2},{n % 5}" for n in range(60))])
    assert prepare("mine", raw, tmp_path / "data")[0] == 0
    code, out, _ = invoke("data", "describe", "mine", "--data-dir", tmp_path / "data")
    assert code == 0
    assert "\x1b" not in out
    assert "a\\x1b[31mred" in out


def test_prepare_list_describe(tmp_path):
    raw = write_lines(tmp_path / "shop.csv", OWN)
    options = ["--drop", "day,colour", "--categorical", "shop", "--draws", "2", "--min-count", "1"]
    code, out, error = prepare("shop", raw, tmp_path / "data", *options)
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


def test_outside_the_project_it_is_said_where_data_go(tmp_path, monkeypatch):
    raw = write_lines(tmp_path / "shop.csv", OWN)
    monkeypatch.delenv("CTRLIB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    arguments = ("data", "prepare", "shop", "--raw", raw, "--label", "label")
    code, out, error = invoke(*arguments)
    assert (code, error) == (0, "")
    assert f"not a folder of this project: data go to {tmp_path / 'data'}" in out
    assert "not a folder" not in invoke(*arguments, "--out", tmp_path / "there")[1]


def test_as_a_process(tmp_path):
    raw = write_lines(tmp_path / "a.txt", with_cell(CRITEO, 4, 2, "x"))
    arguments = ["data", "prepare", "criteo", "--raw", raw]
    done = spawn(*arguments, "--out", tmp_path / "data")
    assert_one_line(done.returncode, done.stderr, r"line 5, column I2: 'x'")
    assert done.stdout == ""
    assert "Traceback" in spawn("--debug", *arguments, "--out", tmp_path / "data").stderr
    assert "Traceback" in spawn(*arguments, "--out", tmp_path / "data", "--debug").stderr
    write_lines(raw, CRITEO)
    env = {**os.environ, "CTRLIB_DATA": str(tmp_path / "elsewhere")}
    assert spawn(*arguments, env=env).returncode == 0
    assert (tmp_path / "elsewhere" / "criteo" / "dataset.json").exists()


def test_a_proxy_that_cannot_be_used_is_one_line(tmp_path):
    env = {**os.environ, "ALL_PROXY": "socks5://127.0.0.1:9"}
    done = spawn("data", "fetch", "frappe_x1", "--out", tmp_path, env=env)
    assert_one_line(done.returncode, done.stderr, "SOCKS proxy.*what has arrived is kept")


def test_certificates_that_are_not_there_are_one_line(tmp_path):
    done = spawn("data", "fetch", "frappe_x1", "--out", tmp_path, env={**os.environ, "SSL_CERT_FILE": "/no/such.pem"})
    assert_one_line(done.returncode, done.stderr, "what has arrived is kept.*SSL_CERT_FILE")


def test_a_terminal_that_is_not_utf8_shows_tables(tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "60"}
    done = spawn("data", "list", "--data-dir", tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "synthetic" in done.stdout


@pytest.mark.parametrize("words", [[], ["study"], ["runs", "gc"], ["data", "prepare"]])
def test_help_is_light(words):
    heavy = ["torch", "polars", "numpy", "papermill", "pandas"]
    code = f"import sys\nfrom ctrlib import cli\ntry:\n    cli.main({[*words, '--help']})\nexcept SystemExit:\n"
    code += f"    print([m for m in {heavy} if m in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage" in done.stdout


def test_two_preparations_of_one_name_do_not_meet(tmp_path):
    with new_folder(tmp_path, "mine"):
        other = answer_of(prepare_mine, tmp_path)
    assert f"{tmp_path / 'mine'}: another process prepares it just now" in other
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def prepare_mine(root):
    try:
        with new_folder(root, "mine"):
            return "prepared"
    except UserError as error:
        return str(error)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path, earlier):
    raw = tmp_path / "long.txt"
    raw.write_bytes(text(CRITEO) * 2000)
    out = shutil.copytree(earlier, tmp_path / "data")
    before = contents(out)
    command = [sys.executable, "-m", "ctrlib.cli", "data", "prepare", "criteo", "--raw", str(raw), "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        for _ in range(2000):
            if list(out.glob(".criteo.new")) or process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(0.2)  # by now it reads
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert error.strip() == "stopped; run the same command again to go on"
    assert contents(out) == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("row", [0, 99, 199])
def test_bad_rows_are_named_wherever_they_are(row, tmp_path):
    cut = r" \(it is the last line: the file seems cut off there\)" if row == 199 else ""
    for lines, pattern in (
        (with_cell(CRITEO, row, 5, "x"), r", column I5: 'x'; allowed: a whole number of at most 64 bits, or nothing"),
        (with_line(CRITEO, row, CRITEO[row].rsplit("\t", 1)[0]), rf": 39 columns; allowed: 40, tab-separated{cut}$"),
        ([*CRITEO[:row], "", *CRITEO[row:]], ": 0 columns; allowed: 40"),
    ):
        assert_refused("criteo", write_lines(tmp_path / "a.txt", lines), tmp_path, f"line {row + 1}{pattern}")
