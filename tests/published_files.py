"""Invented csv files in the columns of the published divisions, zipped as these are. No value comes from a real one."""

import csv
import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np

from ctrlib.data.formats.criteo import NUMBERS
from ctrlib.data.hub.published import PUBLISHED
from ctrlib.data.manifest import SPLITS


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
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._train.csv", "an invented file")
        for name, content in files.items():
            archive.writestr(folder + name, content)
    return packed.getvalue()


def of_files(name, files):
    """The entry of ``PUBLISHED`` with the MD5 and the number of rows of those files."""
    parts = {part: files[f"{part}.csv"] for part in SPLITS}
    md5 = {part: hashlib.md5(content).hexdigest() for part, content in parts.items()}
    rows = {part: content.count(b"\n") - 1 for part, content in parts.items()}
    return replace(PUBLISHED[name], md5=md5, rows=rows)
