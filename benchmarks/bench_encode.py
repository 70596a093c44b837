"""Raw Criteo-layout text to codes: rows per second and peak memory of ctrlib, and of FuxiCTR where it is installed.

Each measurement is a process of its own on its own cores; what it and its children hold in memory is sampled from
outside. FuxiCTR gets the same rows as three files (the first 80 %, 10 %, 10 %) with a header, made before the clock
starts. It is measured twice: as it comes, with Ray (which has started before the clock does), and with Ray's step
replaced by a plain loop over batches of the same size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

NUMBERS = [f"I{i}" for i in range(1, 14)]
WORDS = [f"C{i}" for i in range(1, 27)]
MIN_COUNT = 2
LIMIT_SECONDS = 2 * 3600
FULL = 95  # per cent of the machine's memory: what needs more is given up before it takes everybody's
WITH_RAY, WITHOUT_RAY = "FuxiCTR with Ray", "FuxiCTR"
_BATCH = 100_000  # rows that FuxiCTR's build_dataset hands to transform() at a time
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")


def measure(
    rows: int | Iterable[int], repeats: int = 3, cores: int = 1, peer_python: str | Path | None = None
) -> list[dict]:
    """Time the encoders on invented text of ``rows`` rows (one number or several), ``repeats`` times each.

    Returns one dict per tool and number of rows: ``what``, ``tool``, ``rows``, ``cores``, ``values`` (rows per second
    of each repeat), ``unit``, ``peak_mb`` (largest resident memory of the process tree, mapped files included),
    ``peak_pss_mb`` (shared pages counted once; None where the system does not say), ``load_1min`` of each repeat,
    or ``error``. For each form of FuxiCTR that ran, one more holds the ratio of the speeds, repeat by repeat.
    ``peer_python`` is an interpreter that can import fuxictr, and ray (default: this one, if it can).
    """
    peer = str(peer_python) if peer_python else sys.executable
    tools = {"ctrlib": sys.executable}
    if has(peer, "fuxictr"):
        tools |= {WITH_RAY: peer, WITHOUT_RAY: peer} if has(peer, "ray") else {WITHOUT_RAY: peer}
    found = []
    for count in [rows] if isinstance(rows, int) else rows:
        with tempfile.TemporaryDirectory() as folder:
            raw = write_text(Path(folder) / "raw.txt", count)
            made = {tool: [] for tool in tools}
            for _ in range(repeats):  # the tools take turns, so that a busy spell of the machine meets both
                for tool, python in tools.items():
                    made[tool].append(run(tool, python, raw, cores))
        entries = [summarised(tool, count, cores, runs) for tool, runs in made.items()]
        found += entries
        own = entries[0]
        for peer_entry in entries[1:]:
            if "error" not in own and "error" not in peer_entry:
                ratios = [a / b for a, b in zip(own["values"], peer_entry["values"], strict=True)]
                what = f"speed ctrlib / {peer_entry['tool']}, {count:,} rows"
                found.append({"what": what, "values": ratios, "unit": "times"})
    return found


def has(python: str, package: str) -> bool:
    """Whether an interpreter has a package."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def write_text(path: Path, rows: int) -> Path:
    """The invented text, made by a process of its own."""
    maker = Path(__file__).with_name("criteo_text.py")
    subprocess.run([sys.executable, maker, path, "--rows", str(rows)], check=True, capture_output=True)
    return path


def run(tool: str, python: str, raw: Path, cores: int) -> dict:
    """One measurement: ``seconds``, ``peak_mb``, ``peak_pss_mb``, ``load_1min``, or ``error``."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(dir=raw.parent) as folder:
        if tool != "ctrlib":
            split_with_header(raw, Path(folder))
        answer = Path(folder) / "answer.json"
        order = {"tool": tool, "raw": str(raw), "folder": folder, "answer": str(answer), "cores": cores}
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(cores)), "PYTHONWARNINGS": "ignore"}
        environment |= {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")])
        )
        with open(Path(folder) / "errors.txt", "w+") as errors:
            child = subprocess.Popen(
                [python, Path(__file__).resolve(), "--child", json.dumps(order)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            peak, pss, given_up = watch(child)
            errors.seek(0)
            lines = [given_up] if given_up else errors.read().strip().splitlines()
        if child.returncode or not answer.exists():
            return {"error": lines[-1][:300] if lines else f"ended with code {child.returncode}", "load_1min": load}
        result = json.loads(answer.read_text())
    return {
        "seconds": result["seconds"],
        "peak_mb": max(peak, result["peak_mb"]),
        "peak_pss_mb": pss,
        "load_1min": load,
    }


def watch(child: subprocess.Popen) -> tuple[float, float | None, str]:
    """Wait for a process; the most memory (MB of 10^6 bytes) of it and its children: resident, and proportional; and
    why it was given up, if it was."""
    import psutil

    from benchmarks.process import end_with_children, memory_mb

    peak, pss, given_up, begun = 0.0, None, "", time.monotonic()
    while child.poll() is None:
        if time.monotonic() - begun > LIMIT_SECONDS:
            given_up = f"not finished after {LIMIT_SECONDS} s"
        elif psutil.virtual_memory().percent > FULL:
            given_up = f"the memory of this machine is full; it held {peak / 1000:.1f} GB of it"
        if given_up:
            end_with_children(child)
            break
        resident, proportional = memory_mb(child.pid)
        peak = max(peak, resident)
        pss = max(pss or 0.0, proportional) if proportional else pss
        time.sleep(0.1)
    return peak, pss, given_up


def summarised(tool: str, rows: int, cores: int, runs: list[dict]) -> dict:
    """The entry of one tool and number of rows."""
    entry = {"what": f"{tool}, {rows:,} rows", "tool": tool, "rows": rows, "cores": cores}
    loads = [one["load_1min"] for one in runs]
    if failed := [one["error"] for one in runs if "error" in one]:
        return {**entry, "values": [], "error": failed[0], "load_1min": loads}
    proportional = [one["peak_pss_mb"] for one in runs if one["peak_pss_mb"]]
    return {
        **entry,
        "values": [rows / one["seconds"] for one in runs],
        "unit": "rows/s",
        "peak_mb": max(one["peak_mb"] for one in runs),
        "peak_pss_mb": max(proportional) if proportional else None,
        "load_1min": loads,
    }


# --- inside the measured process --------------------------------------------------------------------------------------


def child(order: dict) -> None:
    """Pin this process, encode, and write seconds and peak memory to the answer file. Imports are not timed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-order["cores"] :])
    if order["tool"] == "ctrlib":
        work = prepare_with_ctrlib(order)
    else:
        work = prepare_with_fuxictr(Path(order["folder"]), with_ray=order["tool"] == WITH_RAY)
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    Path(order["answer"]).write_text(json.dumps({"seconds": seconds, "peak_mb": own_peak_mb()}))


def own_peak_mb() -> float:
    """The most memory this process itself has held, from the system's own record; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


def prepare_with_ctrlib(order: dict):
    """What `ctrlib data prepare` does, splits, hashes and files included."""
    from ctrlib.data import raw_logs, sources  # noqa: F401 (raw_logs: imported before the clock starts)
    from ctrlib.data.options import PrepareOptions

    options = PrepareOptions(layout="criteo", min_count=MIN_COUNT)
    return lambda: sources.prepare("bench", order["raw"], Path(order["folder"]) / "data", options)


def split_with_header(raw: Path, folder: Path) -> None:
    """FuxiCTR's input: three files with a header."""
    with open(raw, "rb") as lines:
        total = sum(1 for _ in lines)
        lines.seek(0)
        head = "\t".join(["label", *NUMBERS, *WORDS]).encode() + b"\n"
        for part, count in (("train", total * 8 // 10), ("valid", total // 10), ("test", total)):
            with open(folder / f"{part}.csv", "wb") as file:
                file.write(head)
                file.writelines(line for _, line in zip(range(count), lines, strict=False))


def prepare_with_fuxictr(folder: Path, with_ray: bool):
    """FuxiCTR's FeatureProcessor: read, preprocess, fit on train, transform and write the three parts."""
    import polars as pl

    from benchmarks.peers.compat import stand_in_for_ray

    if not with_ray:
        stand_in_for_ray()
    scan = pl.scan_csv
    pl.scan_csv = lambda *args, dtypes=None, **more: scan(*args, schema_overrides=dtypes, **more)  # renamed in polars 1
    from fuxictr.preprocess import FeatureProcessor

    def bucketed(self, name: str) -> pl.Expr:
        count = pl.col(name)
        squared = count.clip(lower_bound=1).cast(pl.Float64).log().pow(2).floor().cast(pl.Int64)
        return pl.when(count > 2).then(squared).otherwise(count)

    FeatureProcessor.bucketed = (
        bucketed  # found there by the name in "preprocess"; a subclass here could not be pickled
    )
    shared = {"active": True, "type": "categorical"}
    columns = [
        {**shared, "name": NUMBERS, "dtype": "int", "preprocess": "bucketed"},
        {**shared, "name": WORDS, "dtype": "str"},
    ]
    label = {"name": "label", "dtype": "float"}

    def processor() -> FeatureProcessor:
        return FeatureProcessor(
            feature_cols=columns, label_col=label, dataset_id="bench", data_root=str(folder / "fuxictr")
        )

    def as_it_comes() -> None:
        from fuxictr.preprocess import build_dataset

        files = {f"{part}_data": str(folder / f"{part}.csv") for part in ("train", "valid", "test")}
        build_dataset(processor(), **files, data_format="csv", sep="\t", min_categr_count=MIN_COUNT)

    def without_ray() -> None:
        made, parts = processor(), {}
        for part in ("train", "valid", "test"):
            parts[part] = made.preprocess(made.read_data(str(folder / f"{part}.csv"), data_format="csv", sep="\t"))
        made.fit(parts["train"], min_categr_count=MIN_COUNT, rebuild_dataset=True)
        for part, rows in parts.items():
            table = rows.collect()
            done = []
            for start in range(0, table.height, _BATCH):
                batch = table.slice(start, _BATCH)
                done.append(pl.DataFrame(made.transform({name: batch[name].to_numpy() for name in batch.columns})))
            pl.concat(done).write_parquet(Path(made.data_dir) / f"{part}.parquet")

    if not with_ray:
        return without_ray
    from fuxictr.preprocess.build_dataset import init_ray

    init_ray()
    return as_it_comes


def main() -> None:
    """Print a line per entry, and the entries as JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--peer-python", help="an interpreter that can import fuxictr")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(json.loads(given.child))
        return
    found = measure(given.rows, given.repeats, given.cores, given.peer_python)
    for entry in found:
        if "error" in entry:
            print(f"{entry['what']}: {entry['error']}")
            continue
        middle, least, most = statistics.median(entry["values"]), min(entry["values"]), max(entry["values"])
        line = f"{entry['what']}: {middle:,.1f} {entry['unit']} ({least:,.1f} to {most:,.1f})"
        if "peak_mb" in entry:
            loads = ", ".join(f"{load:.1f}" for load in entry["load_1min"] if load is not None)
            pss = f", proportional {entry['peak_pss_mb']:,.0f} MB" if entry["peak_pss_mb"] else ""
            line += f"; peak resident {entry['peak_mb']:,.0f} MB{pss}; {entry['cores']} core(s), load {loads}"
        print(line)
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
