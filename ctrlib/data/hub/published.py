"""The benchmark's published divisions (reczoo), and their three csv files to a prepared folder.

Sizes, MD5 sums and treatments are those of https://github.com/reczoo/Datasets and of the logs in
https://github.com/reczoo/BARS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data.encode import Cells, Field, RawRows, part_sizes, write_draw
from ctrlib.data.folders import new_folder
from ctrlib.data.formats import avazu, criteo
from ctrlib.data.formats.text import (
    ANY_LABELS,
    MOST_SHOWN,
    RowCheck,
    TextFile,
    first_bad_line,
    header_of,
    labels_of,
    need_all,
    read_text,
)
from ctrlib.data.manifest import SPLITS, write_manifest
from ctrlib.errors import UserError, shown

_CRITEO_TERMS = "Criteo's terms: not for commercial use, no redistribution; cite Criteo's Display Advertising Challenge"
_AVAZU_TERMS = "terms: those of the Kaggle contest avazu-ctr-prediction; no redistribution"


@dataclass(frozen=True)
class Published:
    """One published division.

    ``columns``: header of each file, the label among them; ``rows`` and ``md5``: of each file. ``row_bytes``: about how
    long a line is. ``numeric``: columns of fractions, cut into ``buckets`` quantile buckets. ``treatment``: what
    reads the cells, besides words as they are: "counts" (Criteo's 13 bucketed) or "hour" (Avazu's taken apart).
    """

    kind: str
    repository: str
    columns: tuple[str, ...]
    rows: dict[str, int]
    md5: dict[str, str]
    row_bytes: int
    terms: str
    label: str = "label"
    min_count: int = 1
    numeric: tuple[str, ...] = ()
    buckets: int = 100
    treatment: str = "words"

    @property
    def archive(self) -> str:
        """Name of the zip in the repository."""
        return self.repository.split("/")[-1] + ".zip"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of the prepared rows."""
        names = tuple(name for name in self.columns if name != self.label)
        if self.treatment == "hour":
            return avazu.FIELDS
        return names


def _parts(train: Any, valid: Any, test: Any) -> dict[str, Any]:
    return {"train": train, "valid": valid, "test": test}


PUBLISHED = {
    "criteo_x1": Published(
        kind="criteo",
        repository="reczoo/Criteo_x1",
        columns=("label", *criteo.FIELDS),
        rows=_parts(33_003_326, 8_250_124, 4_587_167),
        md5=_parts(
            "30b89c1c7213013b92df52ec44f52dc5", "f73c71fb3c4f66b6ebdfa032646bea72", "2c48b26e84c04a69b948082edae46f8c"
        ),
        row_bytes=320,
        terms=_CRITEO_TERMS,
        numeric=criteo.NUMBERS,
    ),
    "criteo_x4": Published(
        kind="criteo",
        repository="reczoo/Criteo_x4",
        columns=("Label", *criteo.FIELDS),
        rows=_parts(36_672_493, 4_584_062, 4_584_062),
        md5=_parts(
            "4a53bb7cbc0e4ee25f9d6a73ed824b1a", "fba5428b22895016e790e2dec623cb56", "cfc37da0d75c4d2d8778e76997df2976"
        ),
        row_bytes=245,
        terms=_CRITEO_TERMS,
        label="Label",
        min_count=10,
        treatment="counts",
    ),
    "avazu_x1": Published(
        kind="avazu",
        repository="reczoo/Avazu_x1",
        columns=("label", *(f"feat_{place}" for place in range(1, 23))),
        rows=_parts(28_300_276, 4_042_897, 8_085_794),
        md5=_parts(
            "f1114a07aea9e996842c71648e0f6395", "d9568f246357d156c4b8030fadb8b623", "9e2fe9c48705c9315ae7a0953eb57acf"
        ),
        row_bytes=130,
        terms=_AVAZU_TERMS,
    ),
    "avazu_x4": Published(
        kind="avazu",
        repository="reczoo/Avazu_x4",
        columns=avazu.COLUMNS,
        rows=_parts(32_343_172, 4_042_897, 4_042_898),
        md5=_parts(
            "de3a27264cdabf66adf09df82328ccaa", "33232931d84d6452d3f956e936cab2c9", "3ebb774a9ca74d05919b84a3d402986d"
        ),
        row_bytes=160,
        terms=_AVAZU_TERMS,
        label="click",
        min_count=2,
        treatment="hour",
    ),
    "frappe_x1": Published(
        kind="frappe",
        repository="reczoo/Frappe_x1",
        columns=(
            *("label", "user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country"),
            "city",
        ),
        rows=_parts(202_027, 57_722, 28_860),
        md5=_parts(
            "ba7306e6c4fc19dd2cd84f2f0596d158", "88d51bf2173505436d3a8f78f2a59da8", "3470f6d32713dc5f7715f198ca7c612a"
        ),
        row_bytes=50,
        terms="terms: research use, no redistribution; cite Baltrunas et al. 2015 (arXiv 1505.03014)",
    ),
    "movielenslatest_x1": Published(
        kind="movielens",
        repository="reczoo/MovielensLatest_x1",
        columns=("label", "user_id", "item_id", "tag_id"),
        rows=_parts(1_404_801, 401_372, 200_686),
        md5=_parts(
            "efc8bceeaa0e895d566470fc99f3f271", "e1930223a5026e910ed5a48687de8af1", "54e8c6baff2e059fe067fb9b69e692d0"
        ),
        row_bytes=22,
        terms="GroupLens' terms: research use, not for commercial use without permission; cite Harper and Konstan 2015",
    ),
}


def prepare_published(
    name: str,
    what: Published,
    files: dict[str, Path],
    root: Path,
    min_count: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Turn the csv ``files`` of the three parts into ``root/name``, divided as they are; return that folder.

    The vocabulary (and buckets) are fitted on train alone. Values seen less than ``min_count`` times there share code 0
    (None: as in the benchmark).
    """
    chosen = min_count or what.min_count
    settings = {"layout": what.kind, "split": "published", "min_count": chosen, "treatment": what.treatment}
    if what.numeric:
        settings["buckets"] = what.buckets
    source = {"file": what.archive, "repository": what.repository, "md5": what.md5}
    with new_folder(root, name) as staging:
        with (
            TemporaryDirectory(dir=staging, prefix="scratch") as scratch,
            Cells(Path(scratch), [column for column in what.columns if column != "id"]) as cells,
        ):
            sizes = [_read_part(what, files[part], cells, report) for part in SPLITS]
            rows = _rows_of(what, files, cells)
            part = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)
            for of, (total, clicks) in part_sizes(part, rows.labels).items():
                if clicks in (0, total):
                    problem = f"{total:,} rows, {clicks:,} of them clicks"
                    raise UserError(f"{files[of]}, column {what.label}: {problem}; allowed: rows of both labels")
            entry = write_draw(staging, 0, rows, part, chosen, report, name, what.numeric, what.buckets)
        facts = {"kind": what.kind, "source": source, "settings": settings, "numeric_columns": list(what.numeric)}
        write_manifest(staging, name, facts, [entry])
    return Path(root) / name


def _read_part(what: Published, path: Path, cells: Cells, report: Callable[[str], None]) -> int:
    """Add the rows of one csv file to ``cells``; how many they are."""
    text, before = TextFile(str(path), path, path), cells.rows
    found, expected = ",".join(header_of(text, ",")), ",".join(what.columns)
    if found != expected:
        raise UserError(f"{path}, line 1: {shown(found, MOST_SHOWN)}; allowed: the header {shown(expected)}")
    read_text(text, cells, what.columns, ",", _row_check(what), report)
    return cells.rows - before


def _row_check(what: Published) -> RowCheck:
    """Judges the cells of a row."""
    places = {name: place for place, name in enumerate(what.columns)}

    def check(cells: list[str], where: str) -> None:
        label = cells[places[what.label]]
        if label not in ANY_LABELS:
            raise UserError(f"{where}, column {what.label}: {shown(label, MOST_SHOWN)}; allowed: 0 or 1")
        if what.treatment == "counts":
            criteo.check_counts([cells[places[name]] for name in criteo.NUMBERS], where)
        if what.treatment == "hour" and avazu.moment(cells[places["hour"]]) is None:
            raise UserError(f"{where}, column hour: {shown(cells[places['hour']], MOST_SHOWN)}; {avazu.HOUR_ALLOWED}")
        for name in what.numeric:
            value = cells[places[name]]
            if value and pl.Series([value]).cast(pl.Float32, strict=False)[0] is None:
                raise UserError(f"{where}, column {name}: {shown(value, MOST_SHOWN)}; allowed: a number or nothing")

    return check


def _rows_of(what: Published, files: dict[str, Path], cells: Cells) -> RawRows:
    """The fields of the cells of all three files."""

    def explain() -> int:
        texts = [TextFile(str(path), path, path) for path in files.values()]
        return sum(first_bad_line(text, what.columns, ",", True, False, _row_check(what)) for text in texts)

    labels = labels_of(cells, what.label, explain, what.archive, ANY_LABELS)
    if what.treatment == "counts":
        return RawRows([], cells, criteo.fields_of(cells, explain), labels)
    fields = []
    if what.treatment == "hour":  # text, as all fields of the benchmark are
        hours = avazu.hour_fields(cells, explain, what.archive)
        fields = [Field(one.name, one.column, one.values.cast(pl.String)) for one in hours]
    for name in what.fields[len(fields) :]:
        one = cells.field(name)
        if name in what.numeric:
            numbers = one.values.cast(pl.Float32, strict=False)
            bad = numbers.is_null() & one.values.is_not_null()
            need_all(cells.column(name), bad, one.values, explain, what.archive, "allowed: a number or nothing")
            one = Field(name, name, numbers)
        fields.append(one)
    return RawRows([], cells, fields, labels)
