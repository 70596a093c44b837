"""The benchmark's published divisions (reczoo), and their three csv files to a prepared folder.

Sizes, MD5 sums and treatments are those of https://github.com/reczoo/Datasets and of the logs in
https://github.com/reczoo/BARS. The files are read in blocks, so that memory does not grow with the number of rows.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data import criteo
from ctrlib.data.blocks import Block, RawLines
from ctrlib.data.criteo import Cells, Others, word_keys
from ctrlib.data.layouts import AVAZU_COLUMNS, hour_parts
from ctrlib.data.manifest import SPLITS, write_about
from ctrlib.data.streaming import NumberedRows
from ctrlib.data.text import one_line, shown
from ctrlib.data.values import fraction_keys
from ctrlib.data.workers import MOST_THREADS, Workers, usable_cores
from ctrlib.data.writing import new_folder
from ctrlib.errors import UserError

_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_COMMA, _TAB, _NEWLINE = ord(","), ord("\t"), ord("\n")
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
            return ("hour", "weekday", "weekend", *(name for name in names if name not in ("id", "hour")))
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
        columns=AVAZU_COLUMNS,
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
    counts = criteo.NUMBERS if what.treatment == "counts" else ()
    with (
        new_folder(root, name) as aside,
        Workers(min(usable_cores(), MOST_THREADS)) as workers,
        NumberedRows(aside, workers, what.fields, counts) as rows,
    ):
        sizes = []
        for part in SPLITS:
            with RawLines(files[part]) as lines:
                sizes.append(sum(len(cells.labels) for _, cells in rows.add(lines, _reader(what, files[part]), report)))
        rows.close()
        part = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)
        for of, (total, clicks) in rows.part_sizes(part).items():
            if clicks in (0, total):
                problem = f"{total:,} rows, {clicks:,} of them clicks"
                raise UserError(f"{files[of]}, column {what.label}: {problem}; allowed: rows of both labels")
        entry = rows.write_draw(aside, 0, part, chosen, report, name, what.numeric, what.buckets)
        about = {"kind": what.kind, "source": source, "settings": settings, "numeric_columns": list(what.numeric)}
        write_about(aside, name, about, [entry])
    return Path(root) / name


def _reader(what: Published, path: Path) -> Callable[[Block], Cells]:
    """What turns a block of the csv file ``path`` into cells."""

    def read(block: Block) -> Cells:
        if block.first == 1:
            block = _below_header(block, what, path)
            if block.lines == 0:
                return Cells(np.empty((len(what.fields), 0), np.uint32), np.empty(0, np.uint8))
        if what.treatment == "counts":  # the cells of Criteo's raw text, with commas between them
            text = np.where(block.text == _COMMA, np.uint8(_TAB), block.text)
            return criteo.read_cells(replace(block, text=text), str(path))
        return _read_words(block, what, path)

    return read


def _below_header(block: Block, what: Published, path: Path) -> Block:
    """The first block of a file without its header, which must be the published one."""
    stop = int((block.text == _NEWLINE).argmax()) + 1
    header = block.text[:stop].tobytes().decode(errors="replace").rstrip("\r\n")
    if header != (expected := ",".join(what.columns)):
        raise UserError(f"{path}, line 1: {shown(header)}; allowed: the header {shown(expected)}")
    if block.lines == 1 and block.last:
        raise UserError(f"{path}: no rows below the header line")
    return replace(block, text=block.text[stop:], lines=block.lines - 1, first=2)


def _read_words(block: Block, what: Published, path: Path) -> Cells:
    """The cells of a block in which every field holds words or fractions."""
    where = f"{path}, lines {block.first} to {block.first + block.lines - 1}"
    if np.count_nonzero(block.text == _COMMA) != (len(what.columns) - 1) * block.lines:
        raise UserError(f"{where}: a line of other than {len(what.columns)} columns; allowed: {len(what.columns)}")
    try:
        frame = pl.read_csv(
            io.BytesIO(block.text.tobytes()),
            has_header=False,
            schema=dict.fromkeys(what.columns, pl.String),
            quote_char=None,
        )
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)})") from None
    labels = frame[what.label].replace_strict(_LABELS, default=None, return_dtype=pl.UInt8)
    if (bad := labels.is_null()).any():
        line, value = block.first + bad.arg_max(), frame[what.label][bad.arg_max()]
        raise UserError(f"{path}, line {line}, column {what.label}: {value!r}; allowed: 0 or 1")
    if what.treatment == "hour":
        frame = frame.with_columns(hour_parts(frame["hour"], where)).cast(pl.String)
    cells = Cells(np.empty((len(what.fields), frame.height), np.uint32), labels.to_numpy())
    for place, name in enumerate(what.fields):
        if name in what.numeric:
            numbers = frame[name].cast(pl.Float32, strict=False)
            if (bad := numbers.is_null() & frame[name].is_not_null()).any():
                line, value = block.first + bad.arg_max(), frame[name][bad.arg_max()]
                raise UserError(f"{path}, line {line}, column {name}: {shown(value)}; allowed: a number or nothing")
            cells.keys[place] = fraction_keys(numbers)
            continue
        cells.keys[place], others = word_keys(frame[name])
        if len(others):
            texts = frame[name].gather(others)
            values = texts.unique(maintain_order=True)
            which = texts.cast(pl.Enum(values)).to_physical().to_numpy()
            cells.others[place] = [Others(others, values.to_list(), which)]
    return cells
