"""Invented raw files in the layouts that ctrlib reads, and published divisions; no value comes from a real one."""

import csv
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctrlib.data.manifest import SPLITS
from ctrlib.data.published import PUBLISHED
from ctrlib.data.raw_logs import CRITEO_NUMBERS as NUMBERS

AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
FRAPPE_HEADER = "user\titem\tcnt\tdaytime\tweekday\tisweekend\thomework\tcost\tweather\tcountry\tcity"


def criteo_lines(rows: int = 200, seed: int = 0) -> list[str]:
    """Rows of 40 tab-separated cells: label, 13 counts, 26 hex words; some are empty."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        numbers = ["" if rng.random() < 0.2 else str(int(rng.geometric(0.1)) - 3) for _ in range(13)]
        words = ["" if rng.random() < 0.1 else f"{int(rng.zipf(1.6)) % 50 + 4096:08x}" for _ in range(26)]
        lines.append("\t".join([str(int(rng.random() < 0.3)), *numbers, *words]))
    return lines


def avazu_lines(rows: int = 200, seed: int = 0) -> list[str]:
    """A header and rows of 24 comma-separated cells, in order of time."""
    rng = np.random.default_rng(seed)
    lines = [AVAZU_HEADER]
    for row in range(rows):
        hour = f"2301{1 + row * 20 // rows:02d}{int(rng.integers(24)):02d}"
        words = [f"w{int(rng.zipf(1.7)) % 30}" for _ in range(21)]
        lines.append(",".join([str(10_000 + row), str(int(rng.random() < 0.3)), hour, *words]))
    return lines


def frappe_lines(rows: int = 150, seed: int = 0, users: int = 12, items: int = 40) -> list[str]:
    """A header and rows of 11 tab-separated cells; an item is free or paid whatever the context."""
    rng = np.random.default_rng(seed)
    lines = [FRAPPE_HEADER]
    for _ in range(rows):
        item = int(rng.integers(items))
        cost = "paid" if item % 7 == 0 else "free"
        context = [str(rng.choice(["dawn", "noon"])), "tuesday", "workday", "unknown", cost, "fog", "Nowhere", "3"]
        lines.append("\t".join([str(int(rng.integers(users))), str(item), str(int(rng.integers(1, 9))), *context]))
    return lines


def table_lines(rows: int = 200, seed: int = 0) -> list[str]:
    """Own data: a header, a label, a date, two categories, a fraction and a wide whole number."""
    rng = np.random.default_rng(seed)
    lines = ["label,day,colour,shop,price,visits"]
    for row in range(rows):
        cells = (int(rng.random() < 0.4), f"2024-03-{1 + row * 28 // rows:02d}", rng.choice(["red", "blue", ""]))
        more = (int(rng.integers(9)), f"{rng.gamma(2):.3f}", int(rng.integers(100_000)))
        lines.append(",".join(map(str, (*cells, *more))))
    return lines


def text(lines: list[str]) -> bytes:
    """The lines with a newline after each."""
    return "".join(line + "\n" for line in lines).encode()


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write lines with a newline after each; return the path."""
    path.write_bytes(text(lines))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def zip_of(files: dict) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def write_frappe_zip(path: Path, lines: list[str], member: str = "Mobile_Frappe/frappe/frappe.csv") -> Path:
    """A zip with the log at ``member`` and another file beside it."""
    path.write_bytes(zip_of({"Mobile_Frappe/README.txt": "an invented log", member: text(lines)}))
    return path


def csv_files(name, rows=(300, 60, 80), seed=0):
    """The three files of the published division ``name``, as bytes by file name."""
    return {f"{part}.csv": _csv(name, rows[place], seed + place) for place, part in enumerate(SPLITS)}


def _csv(name, rows, seed):
    rng, what, text = np.random.default_rng(seed), PUBLISHED[name], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(what.columns)

    def cell(column):
        if column == what.label:
            value = int(rng.random() < 0.3)
            return f"{value}.0" if name == "frappe_x1" else value
        if column in what.numeric:
            return "" if rng.random() < 0.05 else round(rng.gamma(0.7) * 0.1, int(rng.integers(0, 7)))
        if what.treatment == "counts" and column in NUMBERS:
            return "" if rng.random() < 0.2 else int(rng.geometric(0.1)) - 3
        if column == "hour":
            return f"2301{int(rng.integers(1, 9)):02d}{int(rng.integers(24)):02d}"
        if column == "id":
            return f"{int(rng.integers(10**18)):d}"
        value = int(rng.zipf(1.5)) % 60
        if (what.kind == "criteo" and what.treatment == "counts") or column in ("device_ip", "site_id"):
            return "" if rng.random() < 0.1 else f"{value + 4096:08x}"
        return value + 10_000_000 * (column == "feat_2")  # eight digits: a hex word as well

    for _ in range(rows):
        writer.writerow([cell(column) for column in what.columns])
    return text.getvalue().encode()


def zipped(files, folder=""):
    """A zip with those files, in a folder of it, and another file beside them."""
    named = {folder + name: content for name, content in files.items()}
    return zip_of({"__MACOSX/._train.csv": "an invented file", **named})


def of_files(name, files):
    """The entry of ``PUBLISHED`` with the MD5 and the number of rows of those files."""
    parts = {part: files[f"{part}.csv"] for part in SPLITS}
    md5 = {part: hashlib.md5(content).hexdigest() for part, content in parts.items()}
    rows = {part: content.count(b"\n") - 1 for part, content in parts.items()}
    return replace(PUBLISHED[name], md5=md5, rows=rows)
