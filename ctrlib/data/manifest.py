"""``dataset.json``: what a prepared folder says of itself, written and read."""

from pathlib import Path
from typing import Any

from ctrlib.config import digest
from ctrlib.data.files import Irregular, read_sealed, write_sealed
from ctrlib.data.folders import MANIFEST
from ctrlib.errors import UserError, shown

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
FILE, VOCABULARY = MANIFEST, "vocabulary.parquet"
PREPARE_AGAIN = "prepare the data set again"


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
    except (Irregular, ValueError) as error:
        raise UserError(f"{path}: damaged, or written by an earlier ctrlib ({error}); {PREPARE_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if (version := manifest.get("format")) != FORMAT_VERSION:
        raise UserError(f"{path}: format {shown(version)}; allowed: {FORMAT_VERSION}; {PREPARE_AGAIN}")
    try:
        whole = all(fingerprint(entry) == entry["fingerprint"] for entry in manifest["draws"])
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged (a draw has not the fingerprint of its content); {PREPARE_AGAIN}")
    return manifest
