"""Results that are kept beside the book: run records and measures without weights, predictions or rows.

``book/results/NAME.parquet`` is a table with one row for each

    run       run.json of a finished run: settings and all else as JSON, the history in columns
    measure   a measure of some runs (ctrlib.store.measures), its value as JSON, the digest of its code as settings
    data      what a plan has to know of a prepared data set: fingerprint, rows and field sizes of each draw

and a checksum of the whole file. Whoever has these files can make every table and figure of the book, without training
and without the data.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctrlib.data.files import replace_file, sync
from ctrlib.data.folders import MANIFEST, data_root, project_root
from ctrlib.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = {"run": "fingerprint", "measure": "key", "data": "name"}  # kind -> where its content says its name
VALUES = {"measure": "value", "data": "draws"}  # kind -> where its content says the rest
COUNTS = ("epoch", "member")  # the columns of a history
NUMBERS = ("learning_rate", "click_loss", "peer_loss", "valid_auc", "valid_logloss", "seconds")
MARK, ZEROS = b"SHA-256 of this file with zeros in this place: ", b"0" * 64


class Results:
    """The results in one file, or in all of a folder, which may be missing, ``without`` one of them; of a name in two
    files, the last counts.

    Attributes:
        runs: contents of run.json by fingerprint.
        measures: values by key.
        data: draws by name of the data set.
    """

    def __init__(self, place: Path, without: Path | None = None) -> None:
        place = Path(place)
        paths = [place] if place.suffix == ".parquet" else sorted(place.glob("*.parquet"))
        rows: dict[str, dict[str, tuple[pa.Table, int]]] = {kind: {} for kind in NAMES}
        for table in [read_table(path) for path in paths if path != without]:
            names = zip(table["kind"].to_pylist(), table["name"].to_pylist(), strict=True)
            for row, (kind, name) in enumerate(names):
                rows[kind][name] = table, row
        self.runs, self.measures, self.data = map(Entries, rows.values())


class Entries(Mapping[str, Any]):
    """All entries of one kind by name, rows of tables; each becomes an object when it is first asked for."""

    def __init__(self, rows: "dict[str, tuple[pa.Table, int]]") -> None:
        self._rows = rows
        self._objects: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The content of a run, the value of a measure, the draws of a data set."""
        if name not in self._objects:
            kind, settings, content, history = (
                self._cell(name, column) for column in ("kind", "settings", "content", "history")
            )
            entry = json.loads(content)
            self._objects[name] = entry | {"run": json.loads(settings), "history": history} if kind == "run" else entry
        return self._objects[name]

    def code(self, name: str) -> str | None:
        """The digest of the code that computed a measure; None for one from before there were digests."""
        return self._cell(name, "settings")

    def _cell(self, name: str, column: str) -> Any:
        table, row = self._rows[name]
        return table[column][row].as_py()

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def read_table(path: Path) -> "pa.Table":
    """The rows of a file of results.

    Raises:
        UserError: the file cannot be read, or its checksum is not that of its content.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not is_whole(content):
        raise UserError(f"{path}: damaged (its checksum is not that of its content); get the file anew, or remove it")
    return pq.ParquetFile(pa.BufferReader(content)).read()  # pq.read_table imports pandas for nothing


@lru_cache(maxsize=1)
def committed_results() -> Results:
    """The results that come with this project."""
    return Results(project_root() / "book" / "results")


def data_draws(name: str) -> list[dict[str, Any]]:
    """What a plan has to know of each draw of a prepared data set: ``fingerprint``, ``rows`` of the parts, ``dims`` of
    the fields. Where the data are not at hand, what was published of them."""
    from ctrlib.data.manifest import read_manifest
    from ctrlib.data.sources import find

    published = committed_results().data
    if name in published and not any((folder / MANIFEST).exists() for folder in (data_root() / name, Path(name))):
        return published[name]
    about = read_manifest(find(name, data_root()))
    return [
        {"fingerprint": one["fingerprint"], "rows": one["rows"], "dims": [field["dim"] for field in one["fields"]]}
        for one in about["draws"]
    ]


def write(path: Path, entries: Iterable[tuple[str, dict[str, Any]]]) -> int:
    """Write results, ``(kind, content)``, in a stable order, whole or not at all; how many there are."""
    entries = list(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, parquet(entries))
    sync(path.parent)
    return len(entries)


def parquet(entries: Iterable[tuple[str, dict[str, Any]]]) -> bytes:
    """A Parquet file of results, ``(kind, content)``, that carries its checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    epoch = pa.struct([(name, pa.int64()) for name in COUNTS] + [(name, pa.float64()) for name in NUMBERS])
    texts = [(name, pa.string()) for name in ("kind", "name", "settings", "content")]
    schema = pa.schema([*texts, ("history", pa.list_(epoch))])
    rows = sorted((_row(kind, content) for kind, content in entries), key=lambda row: [str(v) for v in row.values()])
    style = {
        "compression": "zstd",
        "compression_level": 9,
        "write_statistics": False,
        "store_schema": False,
        "use_dictionary": ["kind", "settings"],
        "column_encoding": {f"history.list.element.{name}": "BYTE_STREAM_SPLIT" for name in NUMBERS},  # a quarter less
    }
    file = io.BytesIO()
    with pq.ParquetWriter(file, schema, **style) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))
        writer.add_key_value_metadata({"checksum": (MARK + ZEROS).decode()})
    content = file.getvalue()
    start, _, end = content.rpartition(MARK + ZEROS)
    return start + MARK + hashlib.sha256(content).hexdigest().encode() + end


def is_whole(content: bytes) -> bool:
    """Whether the checksum in a file of :func:`parquet` is that of the file."""
    start, mark, end = content.rpartition(MARK)
    rest = end[len(ZEROS) :]
    return bool(mark) and hashlib.sha256(start + mark + ZEROS + rest).hexdigest().encode() == end[: len(ZEROS)]


def _row(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """An entry as a row, in the order in which like ones are neighbours."""
    settings, history = content.get("code") if kind == "measure" else None, None
    if kind == "run":
        rest = dict(content)
        settings, history = _compact(rest.pop("run")), rest.pop("history")
    else:
        rest = content[VALUES[kind]]
    name = content[NAMES[kind]]
    return {"kind": kind, "settings": settings, "name": name, "content": _compact(rest), "history": history}


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
