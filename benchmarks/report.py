"""Tables from a result file. Needs pandas only, so that a page of the book can show them.

Only ratios of things measured in one file are compared with a target; seconds are information about one machine.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks import sizes
from benchmarks.targets import TARGETS

COLUMNS = ["suite", "what", "value", "low", "high", "n", "target", "met", "peak_mb", "note"]
NOISE = ["rivals_busy", "others_busy"]
OWN = "ctrlib"
MAKE_BOOK = ("environment", "study of the book", "book")  # what `make book` does in a fresh clone
FP32 = ("fp32, highest", "fp32, medium")  # the paths of products, by the names of their contenders


class Report(NamedTuple):
    """The tables of one run.

    ``ratios``: one row per statement: suite, what, value (median of the repeats' ratios), low and high (smallest and
    largest), n repeats, target, met (None where there is no target or no value), peak_mb (ctrlib's), note.
    ``timings``: one row per contender: suite, what, who, value (median), low, high, unit, n, and the
    largest peak_mb, rivals_busy (others on its own cores) and others_busy (the other cores).
    ``skipped``: what was not measured and why. ``measurements``: every single measurement. ``machine``: where.
    """

    machine: dict
    ratios: pd.DataFrame
    timings: pd.DataFrame
    skipped: pd.DataFrame
    measurements: pd.DataFrame


def load(path: str | Path) -> Report:
    """The tables of the result file at ``path``."""
    return tables(json.loads(Path(path).read_text(encoding="utf-8")))


def newest(folder: str | Path | None = None, gpu: bool = False) -> dict[str, Report]:
    """For each suite the tables of the newest result file in ``folder`` that has a ratio of it, by the files' names.

    Quick runs do not count. Files of machines with a GPU, whose names end in ``-gpu``, are a series of their own. The
    floor is that of the file that ``train`` is from, since they are compared.
    """
    folder = Path(folder or Path(__file__).parent / "results")
    found: dict[str, Report] = {}
    for path in sorted(folder.glob("*.json"), reverse=True):
        if "quick" not in path.name and path.stem.endswith("-gpu") == gpu:
            made = load(path)
            for suite in made.ratios.dropna(subset="value")["suite"].unique():
                found.setdefault(suite, made)
    if "train" in found:
        found["floor"] = found["train"]
    return found


def beside_the_floor(ratios: pd.DataFrame) -> pd.DataFrame:
    """One row an architecture: a training step's time over the floor, ctrlib's and the best peer's, and who that is."""
    train = ratios[ratios["suite"] == "train"].set_index("what")
    rows = []
    for what in train.index[train.index.str.endswith(": time / floor")]:
        name = what.partition(":")[0]
        if (peer := f"{name}: best peer's time / floor") in train.index:
            who = train.loc[peer, "note"].partition(";")[0].removeprefix("best peer: ")
            rows.append((name, train.loc[what, "value"], train.loc[peer, "value"], who))
    return pd.DataFrame(rows, columns=["architecture", OWN, "best peer", "which"])


def tables(content: dict) -> Report:
    """The tables of a result file's content."""
    names = ["suite", "what", "who", "repeat", "value", "unit", "peak_mb", *NOISE, "detail", "error"]
    every = pd.DataFrame(spread_out(content["measurements"]))
    every = every.reindex(columns=[*names, *(c for c in every.columns if c not in names)])
    for name in ("value", "peak_mb", *NOISE):
        every[name] = pd.to_numeric(every[name])
    good = every[every["error"].isna()]
    skipped = skipped_rows(content.get("skipped", []), every)
    book = Book(good)
    suites = content["suites"]
    rows = [row for suite in suites if suite in ROWS for row in ROWS[suite](book)]
    rows += [
        row_of(suite, f"{what}: {who}", note=f"skipped: {reason}")
        for suite, what, who, reason in skipped.itertuples(index=False)
    ]
    ratios = pd.DataFrame(rows, columns=COLUMNS)
    ratios["met"] = pd.Series([row[COLUMNS.index("met")] for row in rows], dtype=object)  # True, False or None
    return Report(content["machine"], ratios, timing_rows(good), skipped, every)


def skipped_rows(planned: list[dict], every: pd.DataFrame) -> pd.DataFrame:
    """What was left out on purpose, and what failed at every repeat or at some."""
    rows = [(s["suite"], s["what"], s["who"], s["reason"]) for s in planned]
    for (suite, what, who), group in every.groupby(["suite", "what", "who"], sort=False):
        failed = group["error"].dropna()
        if len(failed):
            rows.append((suite, what, who, f"{len(failed)} of {len(group)} repeats failed: {failed.iloc[0]}"))
    return pd.DataFrame(rows, columns=["suite", "what", "who", "reason"])


def timing_rows(good: pd.DataFrame) -> pd.DataFrame:
    """Median and spread of each contender's own value."""
    rows = []
    for (suite, what, who), group in good.groupby(["suite", "what", "who"], sort=False):
        value = group["value"]
        row = [suite, what, who, value.median(), value.min(), value.max(), group["unit"].iloc[0], len(group)]
        rows.append([*row, *group[["peak_mb", *NOISE]].max()])
    names = ["suite", "what", "who", "value", "low", "high", "unit", "n", "peak_mb", *NOISE]
    return pd.DataFrame(rows, columns=names)


class Book:
    """Looks measurements up: by suite, what and who."""

    def __init__(self, good: pd.DataFrame) -> None:
        self.good = good

    def rows(self, suite: str, what: str, who: str) -> pd.DataFrame:
        """The successful measurements of one contender."""
        g = self.good
        return g[(g["suite"] == suite) & (g["what"] == what) & (g["who"] == who)]

    def values(self, suite: str, what: str, who: str) -> pd.Series:
        """Its values by repeat."""
        return self.rows(suite, what, who).set_index("repeat")["value"]

    def peak(self, suite: str, what: str, who: str) -> float:
        """The most memory it took in any repeat, MB."""
        return float(self.rows(suite, what, who)["peak_mb"].max())

    def who(self, suite: str, what: str) -> list[str]:
        """The contenders that have a value."""
        g = self.good
        return list(dict.fromkeys(g[(g["suite"] == suite) & (g["what"] == what)]["who"]))

    def whats(self, suite: str) -> list[str]:
        """What a suite measured, in order."""
        return list(dict.fromkeys(self.good[self.good["suite"] == suite]["what"]))


def row_of(suite: str, what: str, ratios=(), peak_mb: float = np.nan, note: str = "", value=None) -> list:
    """A row of the ratio table from the ratios of the repeats; ``value`` takes the place of their median."""
    ratios = pd.Series(ratios, dtype=float).dropna()
    nothing = ratios.empty
    value = (np.nan if nothing else float(ratios.median())) if value is None else value
    low, high = (np.nan, np.nan) if nothing else (float(ratios.min()), float(ratios.max()))
    target = TARGETS.get((suite, what))
    met = None if target is None or nothing else bool(target.met(value))
    return [suite, what, value, low, high, len(ratios), str(target or ""), met, peak_mb, note]


def floor_seconds(
    book: Book, suite: str, architecture: str, paths: tuple[str, ...], products: str = "products", **size
) -> tuple[float, str]:
    """The floor of a step from the rates measured in this file: (seconds, the path whose products were fastest)."""
    rates = {}
    for path in paths:
        found = book.rows(suite, products, path)["detail"]
        if len(found):
            rates[path] = float(np.median([rate[architecture] for rate in found]))
    memory = book.values(suite, "bandwidth", "memory")
    if not rates or memory.empty:
        return np.nan, ""
    best = max(rates, key=rates.get)
    batch = size.get("batch", sizes.BATCH)
    return sizes.cost(architecture, **size).floor_seconds(rates[best], float(memory.median()), batch), best


def card_step_seconds(made: Report, fields: int = sizes.FIELDS) -> dict[str, float]:
    """Seconds of a step of each architecture in fp32 on a record's GPU, a quarter of four models' together.

    For other ``fields`` than were measured, as many times as long as the floor of the step is.
    """
    book = Book(made.measurements[made.measurements["error"].isna()])
    found = {}
    for architecture in sizes.ARCHITECTURES:
        floor, measured = (
            floor_seconds(book, "gpu", architecture, ("fp32",), codes=sizes.GPU_CODES, fields=count)[0]
            for count in (fields, sizes.FIELDS)
        )
        found[architecture] = float(book.values("gpu", architecture, "ctrlib K=4").median()) / 4 * floor / measured
    return found


def train_rows(book: Book) -> list[list]:
    """ctrlib against each peer and against the floor."""
    rows = []
    for architecture in book.whats("train"):
        own, peak = book.values("train", architecture, OWN), book.peak("train", architecture, OWN)
        others = {n: book.values("train", architecture, n) for n in book.who("train", architecture) if n != OWN}
        if others:
            best = min(others, key=lambda name: others[name].median())
            what = f"{architecture}: speed / best peer"
            rows.append(row_of("train", what, others[best] / own, peak, f"best peer: {best}"))
        for name, values in others.items():
            other_peak = book.peak("train", architecture, name)
            note = f"peer's peak memory {other_peak:.0f} MB"
            rows.append(row_of("train", f"{architecture}: speed / {name}", values / own, peak, note))
        floor, path = floor_seconds(book, "floor", architecture, FP32)
        note = f"products: {path}" if path else "floor not measured in this run"
        rows.append(row_of("train", f"{architecture}: time / floor", own / floor, peak, note))
        if others and path:
            note = f"best peer: {best}; what a step at the floor would reach as speed over it"
            rows.append(row_of("train", f"{architecture}: best peer's time / floor", others[best] / floor, note=note))
    return rows


def floor_rows(book: Book) -> list[list]:
    """How much faster the other paths of matrix products are here."""
    usual = book.values("floor", "products", "fp32, highest")
    return [
        row_of("floor", f"products: {path} / fp32, highest", book.values("floor", "products", path) / usual)
        for path in ("fp32, medium", "bf16")
        if path in book.who("floor", "products")
    ]


def study_rows(book: Book) -> list[list]:
    """Four models at the study's own sizes against four times the floor there."""
    rows = []
    for name, size in sizes.STUDY.items():
        for architecture in sizes.ARCHITECTURES:
            what, products = f"{name}: {architecture}", f"{name}: products"
            own, peak = book.values("study", what, "K=4"), book.peak("study", what, "K=4")
            floor, path = floor_seconds(book, "study", architecture, FP32, products, **size)
            if len(own):
                note = f"products: {path}; {1000 * own.median():.1f} ms a step here"
                rows.append(row_of("study", f"{what}: time / floor", own / (4 * floor), peak, note))
    return rows


def cohort_rows(book: Book) -> list[list]:
    """Four models against one, two cores against one."""
    rows = []
    for architecture in book.whats("cohort"):
        one, four = (book.values("cohort", architecture, f"K={k}") for k in (1, 4))
        peak = book.peak("cohort", architecture, "K=4")
        if len(four):
            rows.append(row_of("cohort", f"{architecture}: K=4 / 4 x K=1", four / (4 * one), peak))
        if architecture == "FiBiNET" and len(four):
            memory = book.rows("cohort", architecture, "K=4")["peak_mb"] / 1000
            what = f"{architecture}: K=4 peak memory (GB)"
            rows.append(row_of("cohort", what, memory, peak, "largest of the repeats", value=float(memory.max())))
        both = book.values("cohort", architecture, "K=4 on 2 cores")
        if len(both):
            rows.append(row_of("cohort", f"{architecture}: K=4 on 1 core / on 2 cores", four / both))
    speeds = [book.values("cohort", "four runs", who) for who in ("1 core", "2 cores")]
    if all(len(speed) for speed in speeds):
        rows.append(row_of("cohort", "four runs: speed on 2 cores / 1 core", speeds[1] / speeds[0]))
    return rows


def workers_rows(book: Book) -> list[list]:
    """What a run costs beside its training, and how many more runs a second several workers make than one."""
    rows = []
    for team in book.whats("workers"):
        rate = {
            who: book.rows("workers", team, who).set_index("repeat")["detail"].map(lambda detail: detail["runs_per_s"])
            for who in book.who("workers", team)
        }
        for who in rate:
            note = f"{rate[who].median():.1f} runs a second"
            rows.append(
                row_of("workers", f"{team}, {who}: overhead (ms)", book.values("workers", team, who), note=note)
            )
        first, *others = rate
        rows += [row_of("workers", f"{team}: runs a second, {n} / {first}", rate[n] / rate[first]) for n in others]
    return rows


def precision_rows(book: Book) -> list[list]:
    """What bf16 gains in time and changes in AUC."""
    full, half = (book.values("precision", "DeepFM", kind) for kind in ("fp32", "bf16"))
    rows = []
    if len(half):
        rows.append(row_of("precision", "DeepFM: fp32 / bf16 time", full / half))
    return rows + auc_change(book, "precision", "bf16 - fp32", "DeepFM: largest AUC difference bf16 - fp32 over seeds")


def auc_change(book: Book, suite: str, who: str, title: str) -> list[list]:
    """The largest AUC difference that fewer digits make, over seeds; no row where it was not measured."""
    change = book.values(suite, "AUC", who)
    if not len(change):
        return []
    note = f"mean {change.mean():+.1e}; low and high are signed"
    return [row_of(suite, title, change, note=note, value=float(change.abs().max()))]


def auc_rows(book: Book) -> list[list]:
    """Time per member against scikit-learn, and how far apart the values are."""
    peer = book.rows("auc", "cohort AUC", "scikit-learn").set_index("repeat")
    own = book.rows("auc", "cohort AUC", OWN).set_index("repeat")
    if peer.empty or own.empty:
        return []
    rows = [row_of("auc", "scikit-learn / ctrlib time", peer["value"] / own["value"], float(own["peak_mb"].max()))]
    apart = [auc_distance(peer.loc[r, "detail"], own.loc[r, "detail"]) for r in peer.index.intersection(own.index)]
    rows.append(row_of("auc", "largest difference of an AUC", apart, value=max(apart, default=np.nan)))
    return rows


def auc_distance(peer: dict, own: dict) -> float:
    """Largest difference over the members that both have scored (the first ones)."""
    return max(abs(a - b) for a, b in zip(peer["auc"], own["auc"], strict=False))


def start_rows(book: Book) -> list[list]:
    """The command's start against a bare interpreter's."""
    own = book.values("start", "start", "ctrlib --help")
    bare = book.values("start", "start", "python -c pass")
    return [
        row_of("start", "ctrlib --help: seconds", own),
        row_of("start", "ctrlib --help / bare interpreter", own / bare),
    ]


def waiting_rows(book: Book) -> list[list]:
    """What a person waits for: seconds here, which only say something about this machine, and peak memory."""
    rows, parts = [], {}
    for what in book.whats("waiting"):
        found = book.rows("waiting", what, "seconds")
        note = found["detail"].iloc[0]["line"]
        rows.append(row_of("waiting", f"{what}: seconds", found["value"], float(found["peak_mb"].max()), note))
        parts[what] = found.set_index("repeat")
    if parts.keys() >= set(MAKE_BOOK):
        environment, *made = (parts[what] for what in MAKE_BOOK)
        seconds, peak = sum(part["value"] for part in made), max(float(part["peak_mb"].max()) for part in made)
        first, note = "make book, first", " + ".join(MAKE_BOOK[1:])
        rows.append(
            row_of("waiting", f"{first}: seconds", environment["value"] + seconds, peak, f"environment + {note}")
        )
        rows.append(row_of("waiting", f"{first}, after the installation: seconds", seconds, peak, note))
        rows.append(row_of("waiting", f"{first}: peak memory (GB)", [peak / 1000], peak, "largest of the repeats"))
    return rows


def synthetic_rows(book: Book) -> list[list]:
    """Making rows against numpy drawing one number per cell, and two cores against one."""
    rows = []
    for what in book.whats("synthetic"):
        two = book.rows("synthetic", what, "2 cores")
        drawn = [value / detail["numpy_draws_s"] for value, detail in zip(two["value"], two["detail"], strict=True)]
        peak = book.peak("synthetic", what, "2 cores")
        rows.append(row_of("synthetic", f"{what}: seconds on 2 cores", two["value"], peak))
        rows.append(row_of("synthetic", f"{what}: time / numpy drawing as many numbers", drawn, peak))
        one = book.values("synthetic", what, "1 core")
        if len(one):
            pairs = one / two.set_index("repeat")["value"]
            rows.append(row_of("synthetic", f"{what}: 1 core / 2 cores time", pairs))
    return rows


def scale_rows(book: Book) -> list[list]:
    """Time and memory at larger sizes over the smallest size."""
    rows = []
    for what, name in (("rows", "time per row, {} rows / 1 x"), ("codes", "time per step, {} codes / 1 x")):
        first = book.values("scale", what, "1 x")
        for who in book.who("scale", what)[1:]:
            ratio = book.values("scale", what, who) / first
            note = f"memory x {book.peak('scale', what, who) / book.peak('scale', what, '1 x'):.2f}"
            rows.append(row_of("scale", name.format(who), ratio, book.peak("scale", what, who), note))
    first = book.values("scale", "members", "K=1")
    for who in book.who("scale", "members")[1:]:
        ratio = book.values("scale", "members", who) / first / int(who.removeprefix("K="))
        note = f"memory x {book.peak('scale', 'members', who) / book.peak('scale', 'members', 'K=1'):.2f}"
        peak = book.peak("scale", "members", who)
        rows.append(row_of("scale", f"time per step and model, {who} / K=1", ratio, peak, note))
    return rows


def encode_rows(book: Book, suite: str = "encode") -> list[list]:
    """Raw text to codes: rows per second over FuxiCTR's, as it comes and without Ray, and memory."""
    rows = []
    for what in book.whats(suite):
        own, peak = book.values(suite, what, OWN), book.peak(suite, what, OWN)
        ratios = {"speed / FuxiCTR with Ray": "as it comes", "speed / FuxiCTR": "Ray's part replaced by a loop"}
        for ratio, how in ratios.items():
            who = ratio.removeprefix("speed / ")
            peer, memory = book.values(suite, what, who), book.peak(suite, what, who)
            note = f"{how}; peer's peak memory {memory:,.0f} MB" if len(peer) else f"{who} was not measured"
            rows.append(row_of(suite, f"{what}: {ratio}", own / peer, peak, note))
        rows.append(row_of(suite, f"{what}: thousand rows per second", own / 1000, peak))
        rows.append(row_of(suite, f"{what}: peak memory (GB)", [peak / 1000], peak, "largest of the repeats"))
    return rows


def stream_rows(book: Book) -> list[list]:
    """Memory and time of an epoch that reads its rows from a mapped file."""
    rows = []
    for who in book.who("stream", "epoch"):
        found = book.rows("stream", "epoch", who)
        gigabytes = found["peak_mb"] / 1000
        file_gb = found["detail"].iloc[0]["file_mb"] / 1000
        note = f"codes file {file_gb:.1f} GB; {found['value'].median():.0f} s here"
        what = f"epoch of {who}: peak memory (GB)"
        rows.append(row_of("stream", what, gigabytes, float(found["peak_mb"].max()), note))
    return rows


def spread_out(every: list[dict]) -> list[dict]:
    """The measurements, with those that bench_encode made inside one of them as measurements of their own."""
    rows = []
    for one in every:
        if one["suite"] not in ("encode", "encode_full") or "error" in one:
            rows.append(one)
            continue
        for entry in [entry for entry in one["detail"]["rows"] if "tool" in entry]:
            about = {"suite": one["suite"], "what": one["what"], "who": entry["tool"], "arguments": entry}
            if "error" in entry:
                rows.append({**about, "repeat": 0, "error": entry["error"]})
            memory = {"unit": entry.get("unit", ""), "peak_mb": entry.get("peak_mb")}
            rows += [{**about, "repeat": n, "value": value, **memory} for n, value in enumerate(entry["values"])]
    return rows


def gpu_floor(book: Book, architecture: str, path: str) -> float:
    """The floor of one model's step on the GPU, seconds; NaN where its rates were not measured."""
    return floor_seconds(book, "gpu", architecture, (path,), codes=sizes.GPU_CODES)[0]


def gpu_rows(book: Book) -> list[list]:
    """Four models by ctrlib against four trainings by DeepCTR-Torch, and against the GPU's floor."""
    rows = []
    for architecture in [a for a in book.whats("gpu") if a in sizes.ARCHITECTURES]:
        peer = book.values("gpu", architecture, "deepctr-torch")
        for own_name, path in (("ctrlib K=4", "fp32"), ("ctrlib K=4 TF32", "TF32")):
            own = book.values("gpu", architecture, own_name)
            if own.empty:
                continue
            suffix = "" if path == "fp32" else f" ({path})"
            peak, floor = book.peak("gpu", architecture, own_name), 4 * gpu_floor(book, architecture, path)
            note = f"peak memory of one DeepCTR-Torch {book.peak('gpu', architecture, 'deepctr-torch'):,.0f} MB"
            rows.append(row_of("gpu", f"{architecture}: K=4 speed / DeepCTR-Torch{suffix}", 4 * peer / own, peak, note))
            note = f"floor of this GPU {1000 * floor:.2f} ms"
            rows.append(row_of("gpu", f"{architecture}: K=4 milliseconds per step{suffix}", 1000 * own, peak, note))
            rows.append(row_of("gpu", f"{architecture}: K=4 time / floor{suffix}", own / floor))
    return rows + auc_change(book, "gpu", "tf32 - fp32", "DeepFM: largest AUC difference tf32 - fp32 over seeds")


ROWS = {
    "train": train_rows,
    "floor": floor_rows,
    "study": study_rows,
    "cohort": cohort_rows,
    "workers": workers_rows,
    "precision": precision_rows,
    "auc": auc_rows,
    "start": start_rows,
    "waiting": waiting_rows,
    "synthetic": synthetic_rows,
    "scale": scale_rows,
    "encode": encode_rows,
    "encode_full": partial(encode_rows, suite="encode_full"),
    "stream": stream_rows,
    "gpu": gpu_rows,
}
