"""Data sets by name: what exists, how to prepare one from a raw file, and how to load one draw of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ctrlib.config import Settings, SyntheticSettings
from ctrlib.data.folders import data_root
from ctrlib.data.manifest import FILE, read_about, write_about
from ctrlib.data.prepared import check, open_draw, save, verify_draw
from ctrlib.data.writing import file_sha256, new_folder
from ctrlib.errors import UserError, shown, unknown
from ctrlib.training.dataset import OOV, Dataset, Split

_ROWS = 1 << 16  # rows looked at together
LAYOUTS = ("criteo", "avazu", "frappe", "table")
# Benchmarks cut Criteo and Avazu at 2; Frappe keeps every value, since half of its items are rare.
MIN_COUNTS = {"criteo": 2, "avazu": 2, "frappe": 1, "table": 2}
HOW_TO_GET = {
    "criteo": "train.txt of the Criteo Display Advertising Challenge (40 tab-separated columns, no header)",
    "avazu": "train.csv or train.gz of the Kaggle contest avazu-ctr-prediction",
    "frappe": "Mobile_Frappe.zip, or frappe.csv out of it (Baltrunas et al. 2015)",
}


class PrepareOptions(Settings):
    """How raw rows become a prepared data set. Draw d divides the rows by ``split_seed`` + d."""

    layout: Literal["criteo", "avazu", "frappe", "table"] | None = Field(
        default=None, description="layout of the raw file; None = the data set's own name, else table"
    )
    min_count: int | None = Field(
        default=None,
        ge=1,
        description="values seen less often in train share the code 0; None = 2 (1 for frappe)",
    )
    split: Literal["random", "time"] = "random"
    split_seed: int = Field(default=0, ge=0)
    draws: int = Field(default=1, ge=1, le=1000)
    shares: tuple[float, float, float] = Field(default=(0.8, 0.1, 0.1), description="shares of train, valid and test")
    rows: int | None = Field(default=None, ge=10, description="use only the first rows of the raw file")
    label: str = "label"
    drop: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    buckets: int = Field(default=20, ge=2, le=1000, description="quantile buckets of a numeric column")
    numeric_rule: Literal["quantile", "criteo"] = Field(
        default="quantile", description="buckets fitted on train, or floor(ln(x)^2) for x > 2 as for Criteo's counts"
    )
    time_column: str | None = None
    fold_column: str | None = Field(default=None, description="says the fold of a row; draw d tests on fold d")
    negatives: int = Field(default=2, ge=1, le=100, description="Frappe: drawn negatives per positive")

    @field_validator("shares")
    @classmethod
    def _shares_are_parts_of_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError("three shares above 0 that add up to 1 are needed")
        return shares

    @model_validator(mode="after")
    def _time_has_one_division(self) -> "PrepareOptions":
        if self.split == "time" and self.draws > 1:
            raise ValueError(f"draws={self.draws} with split 'time': a split by time has one draw only")
        return self

    @model_validator(mode="after")
    def _folds_are_the_division(self) -> "PrepareOptions":
        if self.fold_column is not None:
            for option in ("split", "split_seed", "draws", "shares"):
                if getattr(self, option) != type(self).model_fields[option].default:
                    problem = f"{option}={getattr(self, option)} with fold_column {self.fold_column!r}"
                    raise ValueError(f"{problem}: the folds divide the rows, one draw for each")
        return self


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue. What is not known until the data set is prepared is None."""

    name: str
    kind: str
    state: Literal["built in", "prepared", "needs raw file", "can be fetched", "damaged"]
    rows: int | None = None
    fields: int | None = None
    click_rate: float | None = None
    draws: int | None = None
    how: str = ""


def _quiet(_: str) -> None:
    """The default progress report: none."""


def prepare(
    name: str,
    raw: Path | str,
    data_dir: Path | str | None = None,
    options: PrepareOptions | None = None,
    report: Callable[[str], None] = _quiet,
) -> Path:
    """Turn a raw file into the prepared data set ``data_dir/name``; return that folder.

    ``report`` is told what is being done. Raises :class:`UserError`; an earlier data set of that name then stays.
    """
    options = options or PrepareOptions()
    raw, root = Path(raw), Path(data_dir) if data_dir is not None else data_root()
    _check_name(name)
    layout = options.layout or (name if name in LAYOUTS else "table")
    _refuse_unused(layout, options)
    settings = {
        **options.model_dump(mode="json", exclude={"layout", "min_count"}),
        "layout": layout,
        "min_count": options.min_count or MIN_COUNTS[layout],
    }
    if layout == "criteo":
        return _prepare_criteo(name, raw, root, options, settings, report)
    from ctrlib.data import encode

    report(f"reading {raw.name}")
    rows = encode.compact(_read(layout, raw, options))
    if options.split == "time" and rows.time is None:
        raise _no_time(raw, layout)
    report(f"hashing {raw.name}")
    about = {"kind": layout, "source": {"file": raw.name, "sha256": file_sha256(raw)}, "settings": settings}
    if rows.folds is not None:
        about["folds"] = encode.fold_names(rows.folds, raw)
        settings["draws"] = len(about["folds"])
    return save(root, name, _draws(name, raw, rows, options, settings["min_count"], about, report), about)


def _no_time(raw: Path, layout: str) -> UserError:
    needed = "--time-column" if layout == "table" else "a layout with a time (avazu, or your own table)"
    return UserError(f"{raw}: split 'time' with layout {layout!r} has no time to sort by; allowed: {needed}")


def _prepare_criteo(
    name: str, raw: Path, root: Path, options: PrepareOptions, settings: dict[str, Any], report: Callable[[str], None]
) -> Path:
    """Criteo text may be larger than memory: it goes from the raw file to the prepared folder in blocks."""
    from ctrlib.data.blocks import RawLines
    from ctrlib.data.streaming import NumberedRows
    from ctrlib.data.workers import MOST_THREADS, Workers, usable_cores

    if options.split == "time":
        raise _no_time(raw, "criteo")
    with (
        RawLines(raw, options.rows) as lines,
        new_folder(root, name) as aside,
        Workers(min(usable_cores(), MOST_THREADS)) as workers,
        NumberedRows(aside, workers) as rows,
    ):
        rows.read(lines, options.draws, report)
        report(f"hashing {raw.name}")  # with --rows, what was not read is left to do
        about = {"kind": "criteo", "source": {"file": raw.name, "sha256": lines.sha256()}, "settings": settings}
        entries = []
        for draw in range(options.draws):
            step = f"draw {draw + 1} of {options.draws}"
            report(f"{step}: dividing the rows")
            part = rows.parts(options.shares, options.split_seed + draw)
            _need_classes(raw, draw, rows.part_sizes(part))
            entries.append(rows.write_draw(aside, draw, part, settings["min_count"], report, step))
        write_about(aside, name, {**about, "numeric_columns": []}, entries)
    return root / name


def _read(layout: str, raw: Path, options: PrepareOptions) -> Any:
    """The raw rows of a layout that is read whole."""
    from ctrlib.data import layouts, own_table

    if layout == "avazu":
        return layouts.read_avazu(raw, options.rows)
    if layout == "frappe":
        return layouts.read_frappe(raw, options.negatives, options.split_seed, options.rows)
    return own_table.read_table(
        raw,
        options.label,
        options.drop,
        options.numeric,
        options.categorical,
        options.time_column,
        options.rows,
        options.fold_column,
    )


def _draws(
    name: str,
    raw: Path,
    rows: Any,
    options: PrepareOptions,
    min_count: int,
    about: dict[str, Any],
    report: Callable[[str], None],
) -> Iterator[tuple[Dataset, Any]]:
    """Each draw with its vocabulary, one at a time. Notes in ``about`` which columns became numeric buckets."""
    from ctrlib.data import encode

    total, draws = len(rows.labels), about["settings"]["draws"]
    folds = None if rows.folds is None else rows.folds.rank("dense").to_numpy().astype(np.int64) - 1
    for draw in range(draws):
        report(f"draw {draw + 1} of {draws}: fitting vocabulary, encoding {total:,} rows")
        if folds is not None:
            parts = encode.fold_rows(folds, draw)
        else:
            by_time = options.split == "time"
            order = encode.time_order(rows.time) if by_time else encode.random_order(total, options.split_seed + draw)
            parts = encode.split_rows(total, options.shares, order)
        _need_classes(raw, draw, {part: (len(of), int(rows.labels[of].sum())) for part, of in parts.items()})
        if draw == 0:  # the kind of a column is part of its meaning, so all draws share the choice
            numeric = encode.choose_numeric(rows, parts["train"])
            about["numeric_columns"] = list(numeric)
            quantiles, features = numeric, rows.features
            if options.numeric_rule == "criteo":
                quantiles, features = (), encode.bucket_counts(features, numeric, raw)
        ids, vocabulary, dims = encode.encode_draw(features, parts, min_count, quantiles, options.buckets)
        splits = {part: Split(ids[part], rows.labels[chosen]) for part, chosen in parts.items()}
        yield Dataset(name, draw, tuple(features.columns), dims, fingerprint="", **splits), vocabulary


def _need_classes(raw: Path, draw: int, sizes: dict[str, tuple[int, int]]) -> None:
    """Refuse a division in which a part lacks a class; ``sizes``: rows and clicks of each part."""
    total = sum(rows for rows, _ in sizes.values())
    for part, (rows, clicks) in sizes.items():
        if clicks in (0, rows):
            has = "no rows" if rows == 0 else f"{rows} rows, all with label {int(clicks > 0)}"
            problem = f"{total} rows are too few: the {part} part of draw {draw} has {has}"
            raise UserError(f"{raw}: {problem}; allowed: rows of both labels in each part (more rows, or other shares)")


def _check_name(name: str) -> None:
    if name == "synthetic":
        raise UserError("data set name 'synthetic' is built in; allowed: any other name")
    if not name or name[0] in ".-" or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise UserError(
            f"data set name {name!r}; allowed: letters, digits, '.', '_' and '-', not beginning with '.' or '-'"
        )


def _refuse_unused(layout: str, options: PrepareOptions) -> None:
    """An option that the layout would ignore is a mistake; say so."""
    own = {"label": "label", "drop": (), "numeric": (), "categorical": (), "time_column": None, "buckets": 20}
    own |= {"numeric_rule": "quantile", "fold_column": None}
    for option, default in own.items():
        if layout != "table" and getattr(options, option) != default:
            flag = "--" + option.replace("_", "-")
            raise UserError(f"{flag} is for your own CSV or Parquet; layout {layout!r} has fixed columns")
    if layout != "frappe" and options.negatives != 2:
        raise UserError(f"--negatives is for the Frappe log; layout {layout!r} has its own negatives")


def load(
    name: str, draw: int = 0, data_dir: Path | str | None = None, synthetic: SyntheticSettings | None = None
) -> Dataset:
    """One draw of a data set: ``synthetic``, a prepared name below ``data_dir``, or the path of a prepared folder.

    Raises :class:`UserError` for an unknown name (saying what exists), a missing draw or a damaged file.
    """
    if name == "synthetic":
        from ctrlib.data import synthetic as generator

        return generator.generate(synthetic or SyntheticSettings(), draw)
    return open_draw(find(name, data_dir), draw)


def find(name: str, data_dir: Path | str | None = None) -> Path:
    """The folder of a prepared data set given by name or by path."""
    root = Path(data_dir) if data_dir is not None else data_root()
    plain = Path(name).name == name and name not in (".", "..")
    try:
        for folder in ([root / name] if plain else []) + [Path(name)]:
            if _is_prepared(folder):
                return folder
    except OSError as error:
        raise UserError(f"data set {shown(name)} in {root}: cannot be read ({error.strerror or error})") from None
    if name in HOW_TO_GET:
        problem = f"data set {name!r} is not prepared yet in {root}; allowed now: {', '.join(_names(root))}"
        raise UserError(f"{problem}. Run: ctrlib data prepare {name} --raw FILE, with {HOW_TO_GET[name]}")
    from ctrlib.data.published import PUBLISHED

    if name in PUBLISHED:
        raise UserError(f"data set {name!r} is not in {root} yet. Run: ctrlib data fetch {name}")
    if not plain:
        raise UserError(f"{name}: no prepared data set there (no dataset.json); make one with: ctrlib data prepare")
    error = unknown("data set", name, sorted({*_names(root), *HOW_TO_GET, *PUBLISHED}))
    raise UserError(f"{error} Make your own with: ctrlib data prepare NAME --raw FILE --label COLUMN")


def _names(root: Path) -> list[str]:
    """Names that load at once: the embedded data and every prepared folder."""
    found = root.iterdir() if root.is_dir() else ()
    return ["synthetic", *sorted(p.name for p in found if not p.name.startswith(".") and _is_prepared(p))]


def _is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared data set, or what is left of one that is damaged."""
    return (folder / FILE).exists() or (folder / "draw-0").is_dir()


def verify(name: str, data_dir: Path | str | None = None, report: Callable[[str], None] = _quiet) -> list[str]:
    """Read every file of a prepared data set and compare it with its checksum; what is wrong, one line each."""
    folder, problems = find(name, data_dir), []
    for entry in read_about(folder)["draws"]:
        report(f"{name}: draw {entry['draw']}")
        try:
            verify_draw(folder, entry["draw"])
        except UserError as problem:
            problems.append(str(problem))
    return problems


def catalogue(data_dir: Path | str | None = None) -> list[Entry]:
    """Everything that can be loaded, prepared or fetched; embedded and prepared data first."""
    from ctrlib.data.published import PUBLISHED

    root = Path(data_dir) if data_dir is not None else data_root()
    embedded = SyntheticSettings()
    total = embedded.train_rows + embedded.valid_rows + embedded.test_rows
    how = "always there; any number of draws and rows"
    entries = [Entry("synthetic", "synthetic", "built in", total, embedded.fields, embedded.click_rate, None, how)]
    for name in _names(root)[1:]:
        try:
            entries.append(_entry(name, read_about(root / name)))
        except UserError as error:
            entries.append(Entry(name, "?", "damaged", how=str(error)))
    known = {entry.name for entry in entries}
    for name, how in HOW_TO_GET.items():
        if name not in known:
            entries.append(Entry(name, name, "needs raw file", how=f"ctrlib data prepare {name} --raw FILE: {how}"))
    for name, what in PUBLISHED.items():
        if name not in known:
            how = f"ctrlib data fetch {name}: {what.repository}; {what.terms}"
            total = sum(what.rows.values())
            entries.append(Entry(name, what.kind, "can be fetched", total, len(what.fields), draws=1, how=how))
    return entries


def _entry(name: str, about: dict[str, Any]) -> Entry:
    first = about["draws"][0]
    rows = sum(first["rows"].values())
    rate = sum(first["rows"][part] * first["click_rate"][part] for part in first["rows"]) / rows
    how = f"from {about['source']['file']}" if about.get("source") else "ctrlib data prepare"
    return Entry(name, about.get("kind", "?"), "prepared", rows, len(first["fields"]), rate, len(about["draws"]), how)


def describe(
    name: str, draw: int = 0, data_dir: Path | str | None = None, synthetic: SyntheticSettings | None = None
) -> dict[str, Any]:
    """Facts about one draw, ready for tables.

    Keys: name, draw, fingerprint, about (content of dataset.json without its draws; empty for synthetic), ``splits``
    (a list of dicts: part, rows, clicks, click_rate) and ``fields`` (a list of dicts: field, dim, numeric, oov_train,
    oov_valid, oov_test and top_share, all shares of rows; top_share is that of the most frequent code in train).
    """
    dataset = load(name, draw, data_dir, synthetic)
    check(dataset)  # a code beyond its field would be counted nowhere
    about = {} if name == "synthetic" else read_about(find(name, data_dir))
    about = {key: value for key, value in about.items() if key != "draws"}
    splits = [
        _split_facts(part, len(split), int(np.count_nonzero(split.labels))) for part, split in dataset.splits().items()
    ]
    counts = {part: _code_counts(split.ids, dataset.field_dims) for part, split in dataset.splits().items()}
    fields = []
    for place, (field, dim) in enumerate(zip(dataset.field_names, dataset.field_dims, strict=True)):
        line = {"field": field, "dim": dim, "numeric": field in about.get("numeric_columns", ())}
        if about:  # the embedded data has no rare or unseen values: its code 0 is a value like any other
            for part, of_fields in counts.items():
                line[f"oov_{part}"] = float(of_fields[place][OOV] / len(dataset.splits()[part]))
        line["top_share"] = float(counts["train"][place].max() / len(dataset.train))
        fields.append(line)
    return {
        "name": dataset.name,
        "draw": draw,
        "fingerprint": dataset.fingerprint,
        "about": about,
        "splits": splits,
        "fields": fields,
    }


def _split_facts(part: str, rows: int, clicks: int) -> dict[str, Any]:
    return {"part": part, "rows": rows, "clicks": clicks, "click_rate": clicks / rows}


def _code_counts(ids: np.ndarray, dims: tuple[int, ...]) -> list[np.ndarray]:
    """Per field how often each code occurs, (dim,) each; a table on disk is read in blocks."""
    counts = [np.zeros(dim, np.int64) for dim in dims]
    for start in range(0, len(ids), _ROWS):
        block = ids[start : start + _ROWS].T.astype(np.intp)
        for place, codes in enumerate(block):
            np.add.at(counts[place], codes, 1)
    return counts


def summary(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` alone says of a prepared folder, quickly at any size.

    Keys: name, numeric_columns, and ``draws``: a list of dicts with draw, fingerprint, fields (name, dim) and splits
    (as in :func:`describe`).
    """
    about = read_about(folder)
    draws = []
    for entry in about["draws"]:
        sizes = {part: (rows, round(entry["click_rate"][part] * rows)) for part, rows in entry["rows"].items()}
        splits = [_split_facts(part, rows, clicks) for part, (rows, clicks) in sizes.items()]
        draws.append({"name": about["name"], **{key: entry[key] for key in ("draw", "fingerprint", "fields")}})
        draws[-1]["splits"] = splits
    return {"name": about["name"], "numeric_columns": about.get("numeric_columns", []), "draws": draws}
