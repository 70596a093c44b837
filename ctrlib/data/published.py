"""The benchmark's published divisions (reczoo), and the rows of their three csv files.

Sizes, MD5 sums and treatments are those of https://github.com/reczoo/Datasets and of the logs in
https://github.com/reczoo/BARS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctrlib.data.encode import Cells, Field, RawRows
from ctrlib.data.manifest import SPLITS
from ctrlib.data.raw_logs import (
    AVAZU_COLUMNS,
    AVAZU_FIELDS,
    CRITEO_FIELDS,
    CRITEO_NUMBERS,
    criteo_fields,
    hour_fields,
)
from ctrlib.data.text import TextFile, labels_of, read_text

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
        return AVAZU_FIELDS if self.treatment == "hour" else tuple(one for one in self.columns if one != self.label)


def _parts(train: Any, valid: Any, test: Any) -> dict[str, Any]:
    return {"train": train, "valid": valid, "test": test}


PUBLISHED = {
    "criteo_x1": Published(
        kind="criteo",
        repository="reczoo/Criteo_x1",
        columns=("label", *CRITEO_FIELDS),
        rows=_parts(33_003_326, 8_250_124, 4_587_167),
        md5=_parts(
            "30b89c1c7213013b92df52ec44f52dc5", "f73c71fb3c4f66b6ebdfa032646bea72", "2c48b26e84c04a69b948082edae46f8c"
        ),
        row_bytes=320,
        terms=_CRITEO_TERMS,
        numeric=CRITEO_NUMBERS,
    ),
    "criteo_x4": Published(
        kind="criteo",
        repository="reczoo/Criteo_x4",
        columns=("Label", *CRITEO_FIELDS),
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

CLICK_LOGS = "criteo/CriteoClickLogs"
RAW_LOGS = {f"criteo_day_{day}": f"day_{day}.gz" for day in range(24)}
"""The days of Criteo's click logs: the files of that repository, raw, in the layout ``criteo``."""
CLICK_LOGS_TERMS = "terms: CC BY-NC-SA 4.0, not for commercial use; cite Criteo's CriteoClickLogs"


def read_published(what: Published, files: dict[str, Path], scratch: Path, report: Callable[[str], None]) -> RawRows:
    """The rows of the three csv ``files``, which are known to be the published ones, divided as they are."""
    cells, sizes = Cells(scratch, [column for column in what.columns if column != "id"]), []
    for path in files.values():
        before = cells.rows
        read_text(TextFile(str(path), path, path), cells, what.columns, ",", report)
        sizes.append(cells.rows - before)
    labels, parts = labels_of(cells, what.label), np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes)
    if what.treatment == "counts":
        return RawRows([], cells, criteo_fields(cells), labels, parts=parts)
    fields = []
    if what.treatment == "hour":  # text, as all fields of the benchmark are
        fields = [Field(one.name, one.column, one.values.cast(pl.String)) for one in hour_fields(cells)]
    for name in what.fields[len(fields) :]:
        numeric = name in what.numeric
        fields.append(Field(name, name, cells.values(name).cast(pl.Float32)) if numeric else cells.field(name))
    return RawRows([], cells, fields, labels, numeric=what.numeric, parts=parts)
