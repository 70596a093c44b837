"""Own logs as people have them: each kind of trouble from public reports, with invented rows."""

import bz2
import gzip
import io
import lzma
import pickle
import subprocess
import sys
import tarfile
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from raw_files import zip_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from ctrlib.cli.data_page import page
from ctrlib.config import checked
from ctrlib.data import sources
from ctrlib.data.folders import data_root, store_root
from ctrlib.data.manifest import read_manifest
from ctrlib.data.new_rows import encode_new
from ctrlib.data.options import PrepareOptions
from ctrlib.data.own_table import natural
from ctrlib.data.prepared import read_vocabulary
from ctrlib.errors import UserError

N = 400
RNG = np.random.default_rng(11)
LABELS = RNG.integers(0, 2, N)
SHOPS = RNG.integers(0, 9, N)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def table(separator=",", rows=range(N), **more):
    """The text of a log of N rows: label, shop and further columns of cells."""
    names = separator.join(["label", "shop", *more])
    lines = [separator.join(map(str, (LABELS[r], SHOPS[r], *(cells[r] for cells in more.values())))) for r in rows]
    return "".join(f"{line}\n" for line in (names, *lines))


def prepare(folder, raw, others=(), **options):
    """The prepared data set and its dataset.json."""
    if isinstance(raw, str):
        (folder / "own.csv").write_text(raw, encoding="utf-8")
        raw = folder / "own.csv"
    made = sources.prepare("own", raw, folder, checked(PrepareOptions, **options), others=others)
    return sources.load("own", 0, folder), read_manifest(made)


def why(folder, raw, **options):
    """Why column x was read as it was."""
    return prepare(folder, raw, **options)[1]["columns"]["x"]["why"]


def said(about, start):
    """Whether a note begins so."""
    return any(note.startswith(start) for note in about["notes"])


def refused(folder, raw, match, **options):
    with pytest.raises(UserError, match=match) as caught:
        prepare(folder, raw, **options)
    assert "\n" not in str(caught.value)


# ---- times -----------------------------------------------------------------------------------------------------------

MOMENTS = [datetime(2022, 11, 3, 9, 5) + timedelta(minutes=int(m)) for m in np.sort(RNG.integers(0, 600_000, N))]
MIX = RNG.permutation(N)


FORMS = ["%d.%m.%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %I:%M %p", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+0200"]
FORMS += ["%b %d, %Y", "%d/%b/%Y:%H:%M:%S -0700", "%a %b %d %H:%M:%S +0000 %Y", "%Y%m%d", "seconds"]


@pytest.mark.parametrize("form", FORMS)
def test_a_split_by_time_keeps_the_future_out_of_training(tmp_path, form):
    shown = [str(int(m.timestamp())) if form == "seconds" else m.strftime(form) for m in MOMENTS]
    raw = table(rows=MIX, when=[f'"{text}"' for text in shown])
    if form == "%m/%d/%Y %H:%M":
        raw = raw.replace('"0', '"').replace("/0", "/")  # as Excel writes them
    data, about = prepare(tmp_path, raw, split="time", time_column="when")
    whole = "M" in form or form == "seconds"
    order = sorted(MIX.tolist(), key=lambda row: MOMENTS[row] if whole else MOMENTS[row].date())
    place = {row: place for place, row in enumerate(MIX.tolist())}
    for part, rows in {"train": order[:320], "valid": order[320:360], "test": order[360:]}.items():
        expected = LABELS[sorted(rows, key=place.__getitem__)]
        assert data.splits()[part].labels.tolist() == expected.tolist()
    last = [ends[1] for ends in about["draws"][0]["times"].values()]
    assert last == sorted(last)


@pytest.mark.parametrize(
    ("cells", "message", "options"),
    [
        (["11/7/2017 9:30", "1/7/2017 8:00"], "line 2.*'11/7/2017 9:30'; may be '%d/%m/%Y %H:%M' or '%m/%d/%Y", {}),
        (["31.12.2023", "yesterday"], "line 3.*'yesterday'; allowed: ISO 8601", {}),
        (["2024-03-01T10:00Z", "2024-03-01T10:00"], "line 3.*allowed: a zone", {}),
        (["2024-03-01 10:00 CET"], "line 2.*CET'; allowed: ISO 8601", {}),
        (["31122023", "01012024"], "line 2.*may be a number or a date; allowed: --time-format", {}),
        (["31.12.2023"], "line 2.*allowed: times that fit --time-format '%m.%d.%Y'", {"time_format": "%m.%d.%Y"}),
        (["5", "x"], "line 3.*'x'; allowed: numbers", {"time_format": "number"}),
        (["5", ""], "line 3, column when: no value; allowed: a time in every row", {}),
    ],
)
def test_times_that_may_mean_two_things_are_refused(tmp_path, cells, message, options):
    when = (cells * N)[: N - N % len(cells)]
    refused(tmp_path, table(rows=range(len(when)), when=when), message, split="time", time_column="when", **options)


def test_typed_times_and_zones_in_parquet(tmp_path):
    zone = timezone(timedelta(hours=-7))
    for number, when in enumerate([MOMENTS, [m.replace(tzinfo=zone) for m in MOMENTS], [m.date() for m in MOMENTS]]):
        frame = pl.DataFrame({"label": LABELS, "shop": SHOPS, "when": when})
        frame.write_parquet(tmp_path / f"{number}.parquet")
        data, about = prepare(tmp_path, tmp_path / f"{number}.parquet", split="time", time_column="when")
        assert data.test.labels.tolist() == LABELS[-40:].tolist()
        assert about["draws"][0]["times"]["train"][0].startswith("2022-11")


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Training", "VAL", "testing"), ("train", "dev", "test")]
)
def test_a_column_of_parts_is_one_draw_as_named(tmp_path, names, rng):
    part = rng.permutation(np.arange(N) % 3)
    data, about = prepare(tmp_path, table(part=[names[p] for p in part]), fold_column="part")
    assert len(about["draws"]) == 1
    unused = prepare(tmp_path, table(part=[names[p] for p in part]))[1]["notes"]
    assert sum("; --fold-column part divides by them" in note for note in unused) == 1
    for place, split in enumerate(data.splits().values()):
        assert split.labels.tolist() == LABELS[part == place].tolist()
    missing = [names[p % 2] for p in part]
    refused(tmp_path, table(part=missing), "column part: no rows are marked 'test'", fold_column="part")
    odd = [*missing[:-1], "holdout"]
    refused(tmp_path, table(part=odd), "line 401, column part: 'holdout'; allowed beside train", fold_column="part")
    one = ["test" if label else names[p % 2] for p, label in zip(part, LABELS, strict=True)]
    refused(tmp_path, table(part=one), "the train part of draw 0 has .* rows, all with label 0", fold_column="part")


def test_three_files_are_the_three_parts(tmp_path):
    places = {"train": range(300), "valid": range(300, 350), "test": range(350, N)}
    for name, rows in places.items():
        (tmp_path / f"{name}.csv").write_text(table(rows=rows))
    files = [tmp_path / f"{name}.csv" for name in places]
    data, about = prepare(tmp_path, files[0], files[1:])
    assert about["source"]["file"] == "train.csv, valid.csv, test.csv"
    for name, rows in places.items():
        assert data.splits()[name].labels.tolist() == LABELS[list(rows)].tolist()
    with pytest.raises(UserError, match="three files divide the rows"):
        prepare(tmp_path, files[0], files[1:2])


def test_fold10_comes_after_fold9(tmp_path):
    names = [f"fold{1 + row % 11}" for row in range(N)]
    folds = prepare(tmp_path, table(fold=names), fold_column="fold")[1]["folds"]
    assert folds == [f"fold{number}" for number in range(1, 12)]


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_what_is_no_number_is_counted_and_named(tmp_path, rng):
    price = [f"{value:.2f}" for value in rng.gamma(2, 20, N)]
    price[7], price[9], price[11] = "gratis", "NA", "\u00a07.5"
    _, about = prepare(tmp_path, table(price=price, one=["x"] * (N - 1) + ["y"]))
    assert about["numeric_columns"] == ["price"]
    price_is = {"numeric": True, "why": "fractions", "change": "--categorical price", "type": "Float64"}
    assert about["columns"]["price"] == {**price_is, "decimal": "."}
    assert said(about, "price: 1 of 400 cells are no numbers ('gratis')")
    assert said(about, "one: 99.7% of the training rows hold") or said(about, "one: 100.0%")
    assert not said(prepare(tmp_path, table(price=price), missing=("gratis",))[1], "price")
    refused(tmp_path, table(price=price), "line 9, column price: 'gratis'; allowed: a number", numeric=("price",))


def test_the_decimal_mark(tmp_path, rng):
    values = [f"{value:.2f}".replace(".", ",") for value in rng.gamma(2, 20, N)]
    comma = "fractions (the comma is the decimal mark"
    assert why(tmp_path, table(";", x=values)).startswith(comma)
    assert why(tmp_path, table(x=[f'"{value}"' for value in values])).startswith(comma)
    thousands = table(x=[f'"{value + 1000:,}"' for value in rng.integers(0, 900_000, N)])
    assert why(tmp_path, thousands).startswith("whole numbers")
    assert why(tmp_path, thousands, decimal=",").startswith(comma)


def test_new_rows_are_read_by_the_marks_of_training(tmp_path, rng):
    """Alone as beside others, and whatever the new file would be taken for by itself."""
    values = rng.gamma(2, 200, N)
    english = [f'"{1000 + value:,.2f}"' for value in values]
    german = [f"{1000 + value:,.2f}".translate(str.maketrans(",.", ".,")) for value in values]
    for mark, cells, odd, short, whole in (
        (",", english, '"12,5"', '"1,234"', "1234.00"),
        (";", german, "12.5", "1.234", "1234,00"),
    ):
        lines = [f"{label}{mark}{cell}" for label, cell in zip(LABELS, cells, strict=True)]
        _, about = prepare(tmp_path, "\n".join([f"label{mark}price", *lines, ""]))
        vocabulary = read_vocabulary(tmp_path / "own", 0)
        words = {field: {value: code for code, value in known.items()} for field, known in vocabulary.items()}

        def codes(*new, about=about, words=words):
            (tmp_path / "new.csv").write_text("\n".join(["price", *new, ""]))
            facts = about["settings"], about["columns"], about["draws"][0]["edges"], words
            return encode_new(tmp_path / "new.csv", *facts, lambda line: None)[:, 0].tolist()

        assert codes(short) == codes(short, odd)[:1] == codes(whole) != codes(odd)
        about["columns"]["price"].pop("decimal")  # as saved by earlier versions
        assert codes(whole) != codes(odd)


def test_the_decision_does_not_depend_on_rows(tmp_path, monkeypatch, rng):
    """A trial with a few rows shows what all rows will be."""
    ids = rng.permutation(5000)[rng.integers(0, 1500, 40 * N)]
    raw = "label,x\n" + "".join(f"{LABELS[row % N]},{value}\n" for row, value in enumerate(ids))
    small, about = prepare(tmp_path, raw, rows=200)
    assert len(small.train) == 160
    assert about["columns"] == prepare(tmp_path, raw)[1]["columns"]
    monkeypatch.setattr("ctrlib.data.own_table.EVIDENCE_ROWS", 200)
    assert prepare(tmp_path, raw, rows=300)[1]["columns"] != about["columns"]


# ---- leaks -----------------------------------------------------------------------------------------------------------


def test_leaks_are_named_and_an_index_is_left_out(tmp_path, rng):
    frame = pd.DataFrame({"label": LABELS, "shop": SHOPS, "row": [f"r{row}" for row in range(N)]})
    frame["row_number"], frame["x"] = np.arange(N) * 7 + 3, rng.permutation(N) / 7
    frame["paid_at"] = np.where(LABELS == 1, rng.uniform(0, 9, N), np.nan)
    frame.to_csv(tmp_path / "own.csv")
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "own.parquet")
    for name, index in (("own.csv", "Unnamed: 0"), ("own.parquet", "__index_level_0__")):
        data, about = prepare(tmp_path, tmp_path / name)
        assert data.field_names == ("shop", "row", "row_number", "x", "paid_at")
        assert f"{index}: left out, it numbers the rows" in about["notes"]
        assert said(about, "row: differs in every row")
        assert said(about, "row_number: differs in every row")
        assert not said(about, "x: differs")
        assert said(about, "paid_at: alone it tells clicks from others (validation AUC 1.000)")
        assert not said(about, "shop")
    refused(tmp_path, table(), "time_column='shop' with split 'random'", time_column="shop")


# ---- files -----------------------------------------------------------------------------------------------------------

TEXT = table().encode()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": lambda text: zip_of({"a.csv": text})}
PACKERS["zst"] = lambda text: pa.compress(text, codec="zstd", asbytes=True)


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_text(tmp_path, kind):
    expected, raw = prepare(tmp_path, TEXT.decode())[0].fingerprint, tmp_path / f"own.csv.{kind}"
    raw.write_bytes(PACKERS[kind](TEXT))
    assert prepare(tmp_path, raw)[0].fingerprint == expected
    raw.write_bytes(raw.read_bytes()[:-30])
    refused(tmp_path, raw, f"damaged {dict(gz='gzip', zst='zstd').get(kind, kind)}")


def test_a_folder_or_several_files_are_one_table(tmp_path):
    expected = prepare(tmp_path, TEXT.decode())[0].fingerprint
    folder, lines = tmp_path / "parts", TEXT.decode().splitlines(keepends=True)
    folder.mkdir()
    for number, start in enumerate(range(1, N + 1, 40)):  # part10 comes after part9
        header = lines[:1] if number < 3 else []  # as with `split`, some have none
        (folder / f"part{number}.csv").write_text("".join([*header, *lines[start : start + 40]]))
    (folder / "_SUCCESS").write_text("")
    assert prepare(tmp_path, folder)[0].fingerprint == expected
    assert prepare(tmp_path, sorted(folder.glob("part*"), key=lambda p: natural(p.name)))[0].fingerprint == expected
    turned = [",".join(reversed(line.split(","))) for line in "".join(lines).splitlines()]
    (folder / "part9.csv").write_text("\n".join([turned[0], *turned[361:], ""]))
    assert prepare(tmp_path, folder)[0].fingerprint == expected
    (folder / "part11.csv").write_text("label,store\n1,2\n")
    refused(tmp_path, folder, r"part11.csv: not the columns of .*part0.csv \(see 'shop'\)")
    frame = pl.DataFrame({"label": LABELS, "shop": SHOPS})
    typed = tmp_path / "typed"
    typed.mkdir()
    for number in range(3):
        frame[number * 150 : (number + 1) * 150].write_parquet(typed / f"{number}.parquet")
    assert prepare(tmp_path, typed)[0].fingerprint == expected
    for mixed in ([folder / "part0.csv", typed / "0.parquet"], [typed / "0.parquet", folder / "part0.csv"]):
        refused(tmp_path, mixed, "or not its kind; allowed: files with the same columns")


def tar():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(), "a tar archive; unpack it"),
        (gzip.compress(tar()), "a tar archive; unpack it"),
        (b"ARROW1\0\0rest", "Feather"),
        (b'{"label": 1}\n', "JSON lines; read it with pandas or polars and write it as Parquet"),
        (pickle.dumps([1]), "a pickle"),
        (zip_of({"a.csv": "x", "b.csv": "y"}), "2 files in the zip; allowed: exactly 1"),
        (zip_of({"[Content_Types].xml": "x"}), "an Excel workbook"),
    ],
    ids=["tar", "tar.gz", "feather", "jsonl", "pickle", "zip", "xlsx"],
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "own.dat").write_bytes(content)
    refused(tmp_path, tmp_path / "own.dat", message)


def test_standard_input_and_addresses(tmp_path):
    command = [sys.executable, "-m", "ctrlib.cli", "data", "prepare", "own", "--raw", "-", "--out", str(tmp_path)]
    done = subprocess.run(command, input=TEXT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert sources.load("own", 0, tmp_path).train.labels.size == 320
    refused(tmp_path, sources.Path("s3://bucket/own.csv"), "s3:/.*must be on a disk")


def test_folders_mean_the_same_in_a_command_and_in_a_kernel(tmp_path, monkeypatch):
    """Where the environment names none, or an empty one, they are the project's."""
    (tmp_path / "ctrlib").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").touch()
    prepare(tmp_path, TEXT.decode())
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in ("", "notebooks"):
        monkeypatch.chdir(tmp_path / place)
        for value in ("elsewhere", "~/elsewhere", tmp_path / "elsewhere"):
            monkeypatch.setenv("CTRLIB_DATA", str(value))
            monkeypatch.setenv("CTRLIB_RUNS", str(value))
            assert data_root() == store_root() == tmp_path / "elsewhere"
        monkeypatch.setenv("CTRLIB_RUNS", "")
        monkeypatch.delenv("CTRLIB_DATA")
        assert (data_root(), store_root()) == (tmp_path / "data", tmp_path / "runs")
        assert len({sources.load(name).fingerprint for name in ("./own", "~/own", str(tmp_path / "own"))}) == 1


@pytest.mark.parametrize(
    ("separator", "options"),
    [("|", {}), (";", {}), ("\t", {}), ("::", {"separator": "::"}), (" ", {"separator": "space"})],
)
def test_separators(tmp_path, separator, options):
    data, _ = prepare(tmp_path, table(separator, words=[f"a,{value}" for value in SHOPS]), **options)
    assert data.field_names == ("shop", "words")


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("FALSE", "TRUE"), {}),
        (("0.00", " 1.0"), {}),
        (("-1", "1"), {"positive": "1"}),
        (("1", "2"), {"positive": "2"}),
        (("N", "Y"), {"positive": "Y"}),
        (("2", "5"), {"positive": ">3"}),
    ],
)
def test_labels_as_people_write_them(tmp_path, names, options):
    plain = prepare(tmp_path, table())[0]
    raw = "label,shop\n" + "".join(f"{names[label]},{shop}\n" for label, shop in zip(LABELS, SHOPS, strict=True))
    assert prepare(tmp_path, raw, **options)[0].fingerprint == plain.fingerprint
    if options:
        refused(tmp_path, raw, rf"line \d+, column label: .*allowed: 0 or 1.*--positive '{names[1]}'")


def test_ratings_with_a_label_left_out(tmp_path, rng):
    stars = rng.integers(1, 6, N)
    raw = "label,shop\n" + "".join(f"{star},{shop}\n" for star, shop in zip(stars, SHOPS, strict=True))
    data, _ = prepare(tmp_path, raw, positive=">3", drop_label=("3",))
    assert sum(len(split) for split in data.splits().values()) == (stars != 3).sum()
    assert sum(split.labels.sum() for split in data.splits().values()) == (stars > 3).sum()
    refused(tmp_path, raw, "--positive VALUE or --positive '>3'")
    refused(tmp_path, raw, "--positive '9' is no label of it; allowed: '1', '2'", positive="9")


def test_cells_of_several_values_are_said(tmp_path, rng):
    genres = ["|".join(sorted(rng.choice(list("abcde"), 2, replace=False))) for _ in range(N)]
    assert said(prepare(tmp_path, table(genres=genres))[1], "genres: cells hold several values")


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%Y-%m-%d %H:%M", "%Y%m%d"])
def test_times_among_the_features_are_said_once_no_split_uses_them(tmp_path, form):
    """What are no times, such as versions, numbers and words, is not taken for them."""
    cells = {"at": [one.strftime(form) for one in MOMENTS], "v": [f"{n % 3}.{n % 7}.x" for n in range(N)]}
    raw = table(**cells, n=range(10_000_000, 10_000_000 + N), word=["may"] * N)
    notes = [note for note in prepare(tmp_path, raw)[1]["notes"] if "holds times" in note]
    assert [note.partition(";")[2] for note in notes] == [" --time-column at --split time divides by them"]
    assert notes[0].startswith("at: ")
    other = prepare(tmp_path, raw, time_column="at", split="time")[1]
    assert not [note for note in other["notes"] if "holds times" in note]


def test_the_description_of_fields_and_its_page(tmp_path, rng):
    names = rng.choice(["a", "b", "<script>", ""], N)
    rows = table(name=names, price=np.where(LABELS == 1, rng.normal(2, 1, N), rng.normal(0, 1, N)))
    data, _ = prepare(tmp_path, rows, min_count=1)
    facts = sources.describe("own", 0, tmp_path)
    for place, field in enumerate(facts["fields"]):
        train, valid = (
            pd.DataFrame({"x": split.ids[:, place], "y": split.labels}) for split in (data.train, data.valid)
        )
        clicks, count = train.groupby("x")["y"].sum(), train.groupby("x")["y"].size()
        rate = ((clicks + train["y"].mean()) / (count + 1)).reindex(valid["x"]).fillna(train["y"].mean())
        assert field["auc"] == pytest.approx(roc_auc_score(valid["y"], rate))
    by_name = {field["field"]: field for field in facts["fields"]}
    assert by_name["price"]["auc"] > 0.8
    empty = [value for value, _, _ in by_name["name"]["codes"]].index("")
    assert by_name["name"]["missing"] == by_name["name"]["codes"][empty][1] > 0.1
    shown = page(facts)
    assert shown.count("<svg") == 3
    assert ("&lt;script&gt;" in shown, "<script>" in shown) == (True, False)


# ---- an independent reading ------------------------------------------------------------------------------------------


def test_a_clean_log_is_read_as_pandas_and_scikit_learn_read_it(tmp_path, rng):
    """The same cells, split, rare values and buckets, and with them the same AUC of a logistic regression."""
    rows = 4000
    user, price = rng.zipf(1.3, rows) % 500, np.round(rng.gamma(2, 20, rows), 2)
    colour = rng.choice(["red", "blue", "green"], rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-(np.sin(user) + (colour == "red") - price / 40)))
    frame = pd.DataFrame({"click": click.astype(int), "user": user, "price": price, "colour": colour})
    frame.to_csv(tmp_path / "own.csv", index=False)
    data, _ = prepare(tmp_path, tmp_path / "own.csv", label="click")
    seen = pd.read_csv(tmp_path / "own.csv")
    order = np.random.default_rng(0).permutation(rows)
    train, test = np.sort(order[:3200]), np.sort(order[3600:])
    edges = np.unique(np.quantile(seen["price"][train], np.arange(1, 20) / 20, method="inverted_cdf"))
    seen["price"] = np.searchsorted(edges, seen["price"])
    fields = ["user", "price", "colour"]

    def auc(known, later, label_known, label_later, encoder):
        model = LogisticRegression(max_iter=2000, tol=1e-9).fit(encoder.fit_transform(known), label_known)
        return roc_auc_score(label_later, model.predict_proba(encoder.transform(later))[:, 1])

    rare = OneHotEncoder(min_frequency=2, handle_unknown="infrequent_if_exist")
    theirs = auc(seen[fields].iloc[train], seen[fields].iloc[test], click[train], click[test], rare)
    plain = OneHotEncoder(handle_unknown="ignore")
    ours = auc(data.train.ids, data.test.ids, data.train.labels, data.test.labels, plain)
    assert ours == pytest.approx(theirs, abs=5e-5)
    assert theirs > 0.6
