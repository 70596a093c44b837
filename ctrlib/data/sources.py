"""Data sets by name: what exists, how to prepare one from a raw file, and how to load one draw of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ctrlib.config import SyntheticSettings, digest
from ctrlib.data.files import file_sha256, need_space
from ctrlib.data.folders import data_root, is_prepared, need_folder_path, new_folder, project_root
from ctrlib.data.manifest import SPLITS, read_manifest, write_manifest
from ctrlib.data.options import Layout, PrepareOptions
from ctrlib.data.prepared import open_draw, read_vocabulary, verify_draw
from ctrlib.errors import UserError, shown, unknown
from ctrlib.training.dataset import Dataset

if TYPE_CHECKING:
    from ctrlib.data.encode import RawRows

LAYOUTS = get_args(Layout)
# Benchmarks cut Criteo and Avazu at 2; Frappe keeps every value, since half of its items are rare.
MIN_COUNTS = {"criteo": 2, "avazu": 2, "frappe": 1, "table": 2}
HOW_TO_GET = {
    "criteo": "train.txt of the Criteo Display Advertising Challenge (40 tab-separated columns, no header)",
    "avazu": "train.csv or train.gz of the Kaggle contest avazu-ctr-prediction",
    "frappe": "Mobile_Frappe.zip, or frappe.csv out of it (Baltrunas et al. 2015)",
}


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
    raw: Path | str | Sequence[Path | str],
    data_dir: Path | str | None = None,
    options: PrepareOptions | None = None,
    report: Callable[[str], None] = _quiet,
    others: Sequence[Path | str] = (),
) -> Path:
    """Turn a raw file, several, or a folder of them into the prepared data set ``data_dir/name``; return that folder.

    ``others``: the files of the valid and of the test rows, where ``raw`` holds the training rows alone. ``report`` is
    told what is being done. Raises :class:`UserError`; an earlier data set of that name then stays.
    """
    options = options or PrepareOptions()
    paths = [Path(one) for one in ([raw] if isinstance(raw, str | Path) else raw)]
    root = Path(data_dir) if data_dir is not None else data_root()
    _check_name(name)
    layout = options.layout or (name if name in LAYOUTS else "table")
    options.refuse_unused(layout)
    for path in (root, *paths, *others):
        need_folder_path(path)
    if options.split == "time" and (layout in ("criteo", "frappe") or (layout == "table" and not options.time_column)):
        needed = "--time-column" if layout == "table" else "a layout with a time (avazu, or your own table)"
        raise UserError(f"{paths[0]}: split 'time' with layout {layout!r} has no time to sort by; allowed: {needed}")
    if layout != "table" and (others or len(paths) > 1):
        raise UserError(f"{paths[-1]}: layout {layout!r} is read from one file; allowed: one --raw")
    if others and (len(others) < 2 or options.divides):
        raise UserError("three files divide the rows: give --valid and --test, and no option that divides them too")
    from ctrlib.data import own_table, raw_logs

    settings = {
        **options.model_dump(mode="json", exclude={"layout", "min_count"}),
        "layout": layout,
        "min_count": options.min_count or MIN_COUNTS[layout],
    }

    def read(scratch: Path) -> "RawRows":
        if layout == "table":
            return own_table.read(paths, scratch, options, report, [Path(path) for path in others])
        of = {"criteo": raw_logs.read_criteo, "avazu": raw_logs.read_avazu, "frappe": raw_logs.read_frappe}[layout]
        return of(paths[0], scratch, options, report)

    files = ", ".join(Path(path).name for path in (*paths, *others))
    facts = {"kind": layout, "source": {"file": files}, "settings": settings}
    return make(root, name, read, options, facts, report)


def make(
    root: Path,
    name: str,
    read: Callable[[Path], "RawRows"],
    options: PrepareOptions,
    facts: dict[str, Any],
    report: Callable[[str], None],
) -> Path:
    """Write the rows that ``read`` gets, with the help of a scratch folder, as the data set ``root/name``.

    ``facts``: what dataset.json is to say of it: kind, source and settings, with ``min_count`` in these.
    """
    with new_folder(root, name) as staging:
        with TemporaryDirectory(dir=staging, prefix="scratch") as scratch:
            rows = read(Path(scratch))
            with rows.cells:
                if rows.sources:
                    report(f"hashing {facts['source']['file']}")
                    sums = [file_sha256(path) for path in rows.sources]
                    facts["source"]["sha256"] = sums[0] if len(sums) == 1 else digest(sums)
                facts["settings"]["draws"] = len(rows.fold_names) or options.draws
                facts["settings"] |= {"separator": rows.separator} if rows.separator else {}  # for new rows
                facts |= {"folds": rows.fold_names} if rows.fold_names else {}
                facts |= {"numeric_columns": list(rows.numeric)}
                facts |= {"columns": rows.columns} if rows.columns else {}
                entries = _write_draws(staging, rows, options, facts["settings"], report)
        if rows.columns:
            from ctrlib.data.facts import suspicions

            report("looking for fields that give the label away")
            write_manifest(staging, name, facts, entries)
            facts["notes"] = [*rows.notes, *suspicions(open_draw(staging))]
        write_manifest(staging, name, facts, entries)
    return root / name


def _write_draws(
    staging: Path, rows: "RawRows", options: PrepareOptions, settings: dict[str, Any], report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Write every draw; the entries of the draws for dataset.json."""
    from ctrlib.data import encode

    total, draws, entries = rows.cells.rows if rows.kept is None else len(rows.kept), settings["draws"], []
    need_space(staging, total * draws * (4 * len(rows.fields) + 1))
    bucketed = rows.numeric if options.numeric_rule == "quantile" else ()
    for draw in range(draws):
        step = f"draw {draw + 1} of {draws}"
        report(f"{step}: dividing the rows")
        part = encode.division(rows, draw, options)
        _need_classes(rows, draw, encode.part_sizes(part, rows.labels))
        entry = encode.encode_draw(
            staging, draw, rows, part, settings["min_count"], report, step, bucketed, options.buckets
        )
        if rows.time is not None:
            spans = [rows.time[part == place] for place in range(len(SPLITS))]
            ends = [(rows.times[int(one.min())], rows.times[int(one.max())]) for one in spans]
            entry["times"] = dict(zip(SPLITS, [list(map(str, one)) for one in ends], strict=True))
        entries.append(entry)
    return entries


def _need_classes(rows: "RawRows", draw: int, sizes: dict[str, tuple[int, int]]) -> None:
    """Refuse a division in which a part lacks a class; ``sizes``: rows and clicks of each part."""
    total, folds = sum(count for count, _ in sizes.values()), rows.fold_names
    for place, (part, (count, clicks)) in enumerate(sizes.items()):
        if clicks in (0, count):
            has = "no rows" if count == 0 else f"{count} rows, all with label {int(clicks > 0)}"
            fold = f", fold {shown(folds[(draw + 2 - place) % len(folds)])}," if folds and place else ""
            problem = f"{total} rows are too few: the {part} part of draw {draw}{fold} has {has}"
            allowed = "rows of both labels in each part (more rows, or other shares)"
            raise UserError(f"{rows.cells.files[0][0]}: {problem}; allowed: {allowed}")


def _check_name(name: str) -> None:
    if name == "synthetic":
        raise UserError("data set name 'synthetic' is built in; allowed: any other name")
    if not name or name[0] in ".-" or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise UserError(
            f"data set name {name!r}; allowed: letters, digits, '.', '_' and '-', not beginning with '.' or '-'"
        )


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
    need_folder_path(name)
    try:
        if plain and is_prepared(root / name):
            return root / name
        if is_prepared(folder := project_root() / Path(name).expanduser()):
            return folder
    except OSError as error:
        raise UserError(f"data set {shown(name)} in {root}: cannot be read ({error.strerror or error})") from None
    if name in HOW_TO_GET:
        problem = f"data set {name!r} is not prepared yet in {root}; allowed now: {', '.join(_names(root))}"
        raise UserError(f"{problem}. Run: ctrlib data prepare {name} --raw FILE, with {HOW_TO_GET[name]}")
    from ctrlib.data.published import PUBLISHED, RAW_LOGS

    if name in {**PUBLISHED, **RAW_LOGS}:
        raise UserError(f"data set {name!r} is not in {root} yet. Run: ctrlib data fetch {name}")
    if not plain:
        raise UserError(f"{name}: no prepared data set there (no dataset.json); make one with: ctrlib data prepare")
    error = unknown("data set", name, sorted({*_names(root), *HOW_TO_GET, *PUBLISHED}))
    raise UserError(f"{error} Make your own with: ctrlib data prepare NAME --raw FILE --label COLUMN")


def _names(root: Path) -> list[str]:
    """Names that load at once: the embedded data and every prepared folder."""
    found = root.iterdir() if root.is_dir() else ()
    return ["synthetic", *sorted(p.name for p in found if not p.name.startswith(".") and is_prepared(p))]


def verify(name: str, data_dir: Path | str | None = None, report: Callable[[str], None] = _quiet) -> list[str]:
    """Read every file of a prepared data set and compare it with its checksum; what is wrong, one line each."""
    folder, problems = find(name, data_dir), []
    for entry in read_manifest(folder)["draws"]:
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
            entries.append(_entry(name, read_manifest(root / name)))
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


def _entry(name: str, manifest: dict[str, Any]) -> Entry:
    first = manifest["draws"][0]
    rows = sum(first["rows"].values())
    rate = sum(first["rows"][part] * first["click_rate"][part] for part in first["rows"]) / rows
    how = f"from {manifest['source']['file']}" if manifest.get("source") else "ctrlib data prepare"
    return Entry(
        name, manifest.get("kind", "?"), "prepared", rows, len(first["fields"]), rate, len(manifest["draws"]), how
    )


def describe(
    name: str, draw: int = 0, data_dir: Path | str | None = None, synthetic: SyntheticSettings | None = None
) -> dict[str, Any]:
    """Facts about one draw, ready for tables.

    Keys: name, draw, fingerprint, about (content of dataset.json without its draws; empty for synthetic), ``splits``
    (a list of dicts: part, rows, clicks, click_rate, repeated, and first and last time where the data have one) and
    ``fields`` (a list of dicts: field, dim, numeric, why, change, missing, auc, oov_train, oov_valid, oov_test,
    top_share and codes, see :func:`ctrlib.data.facts.field_facts`).
    """
    from ctrlib.data import facts

    dataset = load(name, draw, data_dir, synthetic)
    about: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    words = None
    if name != "synthetic":
        folder = find(name, data_dir)
        about = read_manifest(folder)
        entry = {one["draw"]: one for one in about.pop("draws")}[draw]
        words = read_vocabulary(folder, draw)
    repeated = facts.repeated_rows(dataset)
    splits = [
        _split_facts(part, len(split), int(np.count_nonzero(split.labels)), entry) | {"repeated": repeated[part]}
        for part, split in dataset.splits().items()
    ]
    return {
        "name": dataset.name,
        "draw": draw,
        "fingerprint": dataset.fingerprint,
        "about": about,
        "splits": splits,
        "fields": facts.field_facts(dataset, about, words),
    }


def _split_facts(part: str, rows: int, clicks: int, entry: dict[str, Any]) -> dict[str, Any]:
    times = dict(zip(("first", "last"), entry.get("times", {}).get(part, ()), strict=False))
    return {"part": part, "rows": rows, "clicks": clicks, "click_rate": clicks / rows, **times}


def summary(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` alone says of a prepared folder, quickly at any size.

    Keys: name, about (its content but for the draws), and ``draws``: a list of dicts with draw, fingerprint, fields
    (name, dim) and splits (as in :func:`describe`).
    """
    manifest = read_manifest(folder)
    draws = []
    for entry in manifest["draws"]:
        sizes = {part: (rows, round(entry["click_rate"][part] * rows)) for part, rows in entry["rows"].items()}
        splits = [_split_facts(part, rows, clicks, entry) for part, (rows, clicks) in sizes.items()]
        draws.append({"name": manifest["name"], **{key: entry[key] for key in ("draw", "fingerprint", "fields")}})
        draws[-1]["splits"] = splits
    about = {key: value for key, value in manifest.items() if key != "draws"}
    return {"name": manifest["name"], "about": about, "draws": draws}
