"""``dataset.json``: what a prepared folder says of itself, written and read."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctrlib.config import digest
from ctrlib.data.files import BrokenSeal, Irregular, read_sealed, write_sealed
from ctrlib.data.folders import MANIFEST
from ctrlib.errors import UserError, first_problem, shown

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
FILE, VOCABULARY = MANIFEST, "vocabulary.parquet"
PREPARE_AGAIN = "prepare the data set again"


class _Strict(BaseModel):
    """Exact types; what is not named here may be there too."""

    model_config = ConfigDict(strict=True)


class _Field(_Strict):
    name: str
    dim: int = Field(ge=1, lt=2**31)


class _Draw(_Strict):
    draw: int = Field(ge=0)
    fields: list[_Field] = Field(min_length=1)
    rows: dict[str, Annotated[int, Field(ge=1, lt=2**48)]]
    click_rate: dict[str, Annotated[float, Field(ge=0, le=1)]]
    sha256: dict[str, str]
    fingerprint: str
    times: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}
    edges: dict[str, list[str]] = {}  # of the buckets, as text: one may be infinite


class _Column(_Strict):
    numeric: bool
    why: str
    change: str


class _Source(_Strict):
    file: str


class _Manifest(_Strict):
    name: str
    kind: str = ""
    source: _Source | None = None
    numeric_columns: list[str] = []
    columns: dict[str, _Column] = {}
    notes: list[str] = []
    draws: list[_Draw] = Field(min_length=1)


def array_names() -> list[str]:
    """The arrays of a draw."""
    return [f"{part}_{kind}.npy" for part in SPLITS for kind in ("ids", "labels")]


def fingerprint(entry: dict[str, Any]) -> str:
    """Name of a draw's content: fields, sizes and arrays, whatever the folder is called."""
    arrays = {name: value for name, value in entry["sha256"].items() if name.endswith(".npy")}
    return digest({"format": FORMAT_VERSION, "fields": entry["fields"], "rows": entry["rows"], "sha256": arrays})


def write_manifest(folder: Path, name: str, facts: dict[str, Any], draws: list[dict[str, Any]]) -> None:
    """Write ``dataset.json``: what the data set is (``facts``), the entries of its draws, and a checksum of it all."""
    content = {"format": FORMAT_VERSION, "name": name, **facts, "draw_count": len(draws), "draws": draws}
    write_sealed(folder / FILE, content, indent=1, ensure_ascii=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``folder/dataset.json``; :class:`UserError` when it is missing, damaged or of another version."""
    path = Path(folder) / FILE
    try:
        manifest = read_sealed(path)  # alike in every format
    except FileNotFoundError:
        raise UserError(f"{path}: not found, so this is no prepared data set; {PREPARE_AGAIN}") from None
    except BrokenSeal as error:
        raise UserError(f"{path}: damaged, or written by an earlier ctrlib ({error}); {PREPARE_AGAIN}") from None
    except (Irregular, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {PREPARE_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if (version := manifest.get("format")) != FORMAT_VERSION:
        raise UserError(f"{path}: format {shown(version)}; allowed: {FORMAT_VERSION}; {PREPARE_AGAIN}")
    try:
        for entry in _Manifest.model_validate(manifest).draws:
            _check_draw(entry)
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({first_problem(error)}); {PREPARE_AGAIN}") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {PREPARE_AGAIN}") from None
    return manifest


def _check_draw(entry: _Draw) -> None:
    """Raise ValueError unless an entry has all parts and files, and the fingerprint of its content."""
    names = [set(entry.rows), set(entry.click_rate), set(entry.sha256)]
    if names != [set(SPLITS), set(SPLITS), {*array_names(), VOCABULARY}]:
        raise ValueError(f"draw {entry.draw}: a part or a file is missing")
    if fingerprint(entry.model_dump()) != entry.fingerprint:
        raise ValueError(f"draw {entry.draw}: its fingerprint is not that of its content")
