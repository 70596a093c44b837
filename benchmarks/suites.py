"""What is measured, suite by suite: groups of contenders that take turns.

A suite is a function ``(quick, folder) -> list[Group]``; ``folder`` is where it may put tables. ``quick`` gives sizes
that only show that everything runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks import peers, sizes, table
from benchmarks.criteo_text import FULL_ROWS

REPEATS = 5
STEPS = {"DeepFM": 10, "DCN": 10, "PNN": 6, "FiBiNET": 2}  # timed steps in a repeat: two to ten seconds of a peer


@dataclass
class Contender:
    """One job that takes part in a group; ``who`` names it within ``what``."""

    what: str
    who: str
    job: str
    arguments: dict = field(default_factory=dict)
    cores: int = 1
    by_repeat: Callable[[int], dict] | None = None  # arguments that change from repeat to repeat

    def at(self, repeat: int) -> dict:
        """The job's arguments in one repeat."""
        return {**self.arguments, **(self.by_repeat(repeat) if self.by_repeat else {})}


@dataclass
class Group:
    """Contenders that take turns, ``repeats`` times; ``skipped`` holds (what, who, reason).

    Each measurement is a process of its own, or with ``together`` each repeat is: a GPU takes seconds to get ready.
    """

    contenders: list[Contender]
    repeats: int = REPEATS
    together: int = 0  # cores of the common process
    skipped: list[tuple[str, str, str]] = field(default_factory=list)


@cache
def stored_table(folder: Path, rows: int, codes: int = sizes.CODES) -> str:
    """The path of a table of that size, written at the first call."""
    place = Path(folder) / f"table-{rows}-{codes}"
    table.save(table.make(rows, codes), place)
    return str(place)


def train(quick: bool, folder: Path) -> list[Group]:
    """The four architectures, one model: every library in turn."""
    groups = []
    for architecture in sizes.ARCHITECTURES:
        steps, warm = (2, 1) if quick else (STEPS[architecture], 1 if architecture == "FiBiNET" else 2)
        place = stored_table(folder, (max(STEPS.values()) + 2) * sizes.BATCH)
        shared = {"architecture": architecture, "table": place}
        group = Group([], 1 if quick else REPEATS)
        for name in peers.NAMES:
            if (name, architecture) in peers.ABSENT:
                group.skipped.append((architecture, name, peers.ABSENT[name, architecture]))
                continue
            work = {**shared, "library": name, "steps": steps, "warm": warm}
            group.contenders.append(Contender(architecture, name, "train", work))
        group.contenders.append(Contender(architecture, "ctrlib", "cohort", {**shared, "members": 1, **split(steps)}))
        groups.append(group)
    return groups


def split(steps: int) -> dict:
    """``steps`` timed steps as two epochs where they divide, since ctrlib is timed by the epoch."""
    return {"steps": steps // 2, "epochs": 2} if steps % 2 == 0 else {"steps": 1, "epochs": steps}


def floor(quick: bool, folder: Path) -> list[Group]:
    """Rate of matrix products by both paths and in bf16; memory bandwidth."""
    contenders = [
        Contender("products", "fp32, highest", "products", {"precision": "highest"}),
        Contender("products", "fp32, medium", "products", {"precision": "medium"}),
        Contender("products", "bf16", "products", {"precision": "bf16"}),
        Contender("bandwidth", "memory", "bandwidth", {"megabytes": 64 if quick else 512}),
    ]
    if quick:
        contenders = [*contenders[:2], contenders[3]]
    return [Group(contenders, 1 if quick else REPEATS)]


def study(quick: bool, folder: Path) -> list[Group]:
    """Four models that learn from each other at the sizes that pages of the book train, and the floor's rates there."""
    groups = []
    for name, size in sizes.STUDY.items():
        batch, shape = size["batch"], {"fields": size["fields"]}
        timed = split(2 if quick else 20 if name == "Criteo 100k" else 100_000 // batch)
        place = stored_table(folder, timed["steps"] * max(batch, sizes.BATCH), sizes.STUDY["Criteo 100k"]["codes"])
        widths = {"embedding": size["embedding"], "hidden": size["hidden"], **shape}
        group = [
            Contender(f"{name}: products", who, "products", {"precision": path, "batch": batch, **widths})
            for who, path in (("fp32, highest", "highest"), ("fp32, medium", "medium"))
        ]
        model = {"embedding_dim": size["embedding"], "hidden_units": size["hidden"], **shape}
        first = sizes.FRAPPE_FROM if name == "Frappe" else 0
        work = {"table": place, "members": 4, "batch": batch, "first": first, **timed, **model}
        for architecture in sizes.ARCHITECTURES:
            group.append(Contender(f"{name}: {architecture}", "K=4", "cohort", {"architecture": architecture, **work}))
        groups.append(Group(group, 1 if quick else 3))
    memory = Contender("bandwidth", "memory", "bandwidth", {"megabytes": 64 if quick else 512})
    return [*groups, Group([memory], 1 if quick else 3)]


def cohort(quick: bool, folder: Path) -> list[Group]:
    """Four models that learn from each other against one model; two cores against one."""
    groups = []
    place = stored_table(folder, (max(STEPS.values()) + 2) * sizes.BATCH)
    for architecture in ["DeepFM", "FiBiNET"] if quick else sizes.ARCHITECTURES:
        large = architecture == "FiBiNET"
        shared = {"architecture": architecture, "table": place, "epochs": 1, "steps": 1 if large else 4}
        single = {**shared, "members": 1, "epochs": 1 if quick or large else 3}
        group = [Contender(architecture, "K=1", "cohort", single)]
        group.append(Contender(architecture, "K=4", "cohort", {**shared, "members": 4}))
        if architecture == "DeepFM":
            group.append(Contender(architecture, "K=4 on 2 cores", "cohort", {**shared, "members": 4}, cores=2))
        groups.append(Group(group, 1 if quick else REPEATS))
    sized = {"runs": 2, "rows": 8000, "epochs": 1} if quick else {"runs": 4, "rows": 20_000, "epochs": 2}
    stores = [Contender("four runs", f"{n} core{'s' * (n > 1)}", "store", sized, cores=n) for n in (1, 2)]
    groups.append(Group(stores, 1 if quick else REPEATS))
    return groups


def workers(quick: bool, folder: Path) -> list[Group]:
    """What a run costs beside its training with 1, 2 and 4 workers on two cores, by processes and by Dask."""
    sized = {"runs": 4, "rows": 2000} if quick else {"runs": 48, "rows": 50_000}
    contenders = [
        Contender(team, f"{n} worker{'s' * (n > 1)}", "workers", {**sized, "team": team, "workers": n}, cores=2)
        for team in ("pool", "Dask")
        for n in ((2,) if quick else (1, 2, 4))
    ]
    return [Group(contenders, 1 if quick else REPEATS)]


def precision(quick: bool, folder: Path) -> list[Group]:
    """bf16 operands against fp32: time of a step, and AUC on the synthetic data over five seeds."""
    place = stored_table(folder, (max(STEPS.values()) + 2) * sizes.BATCH)
    shared = {"architecture": "DeepFM", "table": place, "members": 1, **split(2 if quick else 12)}
    timed = [Contender("DeepFM", kind, "cohort", {**shared, "precision": kind}) for kind in ("fp32", "bf16")]
    rows = 4000 if quick else 100_000
    scored = Contender("AUC", "bf16 - fp32", "precision_auc", {"train_rows": rows}, by_repeat=lambda r: {"seed": r})
    return [Group(timed, 1 if quick else REPEATS), Group([scored], 2 if quick else 5)]


def auc(quick: bool, folder: Path) -> list[Group]:
    """AUC of 20 members on 4.6 million rows, and of the first three by scikit-learn (time is per member)."""
    rows = 50_000 if quick else 4_600_000
    contenders = [
        Contender("cohort AUC", "scikit-learn", "auc_members", auc_work("scikit-learn", rows, 3)),
        Contender("cohort AUC", "ctrlib", "auc_members", auc_work("ctrlib", rows, 20)),
    ]
    return [Group(contenders, 1 if quick else REPEATS)]


def auc_work(implementation: str, rows: int, members: int) -> dict:
    """The arguments of an AUC measurement."""
    return {"implementation": implementation, "rows": rows, "members": members}


def start(quick: bool, folder: Path) -> list[Group]:
    """``ctrlib --help`` beside an interpreter that does nothing."""
    names, tries = ("python -c pass", "ctrlib --help"), 1 if quick else 3
    contenders = [Contender("start", name, "start", {"what": name, "tries": tries}) for name in names]
    return [Group(contenders, 2 if quick else REPEATS)]


WAITS = {  # what a person waits for in a fresh clone, in this order, and the command
    "environment": "make env",  # by uv where it is on the PATH
    "environment by pip": "make UV= env",  # in a clone of its own
    "study of the book": "ctrlib study --profile published",  # with the next, what `make book` does then
    "book": "ctrlib book --profile published",
    "make book, again": "make book",
    "nothing to do": "ctrlib study --profile published",
    "plan": "ctrlib study --profile published --plan",
    "re-run: five models": "ctrlib study --only 21 --set instances=5",
    "re-run: weight 20": "ctrlib study --only 21 --set mutual_weight=20",
    "re-run: main comparison": "ctrlib study --only 02",
    "papermill": "papermill notebooks/02_main_synthetic.ipynb out.ipynb -p instances 2",
    "tests": "make test",
}


def waiting(quick: bool, folder: Path) -> list[Group]:
    """The commands of the README and of pages in a fresh clone with two cores, and the most memory they hold."""
    waits = {"plan": "ctrlib study --help"} if quick else WAITS

    def clone_for(what: str) -> Callable[[int], dict]:
        kind = "pip" if what.endswith("by pip") else "clone"
        return lambda repeat: {"clone": str(Path(folder) / f"{kind}-{repeat}")}

    contenders = [
        Contender(
            what,
            "seconds",
            "command",
            {"line": line, "needs_environment": "environment" not in what and not quick},
            cores=2,
            by_repeat=clone_for(what),
        )
        for what, line in waits.items()
    ]
    return [Group(contenders, 1 if quick else 3), Group(many_records(quick, folder), 1 if quick else 3)]


def many_records(quick: bool, folder: Path) -> list[Contender]:
    """Commands that look through a run store, where it is large."""
    lines = {"list": "ctrlib runs list", "plan": "ctrlib study --profile published --plan", "gc": "ctrlib runs gc"}
    count = 20 if quick else 20_000
    work = {"clone": str(Path(folder) / "clone-0"), "store": str(Path(folder) / "records"), "records": count}
    return [
        Contender(
            f"{what}, {count:,} records", "seconds", "command", {**work, "line": line, "needs_environment": False}, 2
        )
        for what, line in (list(lines.items())[::2] if quick else lines.items())
    ]


def synthetic(quick: bool, folder: Path) -> list[Group]:
    """Ten million rows of synthetic data with two cores to use; a tenth of it with one and with two."""
    rows = 70_000 if quick else 1_000_000
    parts = [Contender(f"{rows:,} rows", f"{n} core{'s' * (n > 1)}", "synthetic", {"rows": rows}, n) for n in (1, 2)]
    groups = [Group(parts, 1 if quick else REPEATS)]
    if not quick:
        groups.append(Group([Contender("10,000,000 rows", "2 cores", "synthetic", {"rows": 10_000_000}, 2)], 1))
    return groups


def encode(quick: bool, folder: Path) -> list[Group]:
    """Raw text to codes, by ctrlib and FuxiCTR in turn: bench_encode starts and repeats its own processes."""
    work = {"rows": 20_000, "repeats": 1} if quick else {"rows": 1_000_000, "repeats": 5}
    return [Group([Contender("raw text to codes", "all", "encode", work, cores=2)], 1)]


def encode_full(quick: bool, folder: Path) -> list[Group]:
    """The same once, with as many rows as Criteo's whole log has."""
    rows = 20_000 if quick else FULL_ROWS
    work = {"rows": rows, "repeats": 1}
    return [Group([Contender(f"{rows:,} rows of raw text to codes", "all", "encode", work, cores=2)], 1)]


def scale(quick: bool, folder: Path) -> list[Group]:
    """Time and memory as rows, codes and members grow, on a small DeepFM (embedding 8, MLP 64-64)."""
    small = {"embedding_dim": 8, "hidden_units": [64, 64], "architecture": "DeepFM"}
    base = 8000
    repeats = 1 if quick else 3
    few = split(2 if quick else 10)
    enough = 4000 * few["steps"]
    by_rows = []
    for times in (1, 10) if quick else (1, 10, 100):
        place = stored_table(folder, base * times)
        work = {**small, "table": place, "members": 1, "steps": base * times // 4000, "epochs": max(1, 20 // times)}
        by_rows.append(Contender("rows", f"{times} x", "cohort", work))
    by_codes, by_members = [], []
    for times in (1, 10) if quick else (1, 3, 10):
        work = {**small, "table": stored_table(folder, enough, 100_000 * times), "members": 1, **few}
        by_codes.append(Contender("codes", f"{times} x", "cohort", work))
    for members in (1, 2) if quick else (1, 2, 4, 10):
        work = {**small, "table": stored_table(folder, enough), "members": members, **few}
        by_members.append(Contender("members", f"K={members}", "cohort", work))
    return [Group(group, repeats) for group in (by_rows, by_codes, by_members)]


def stream(quick: bool, folder: Path) -> list[Group]:
    """One epoch over as many rows as Criteo's log has, read from a mapped file; a tenth of it for the slope."""
    counts = (50_000, 500_000) if quick else (FULL_ROWS // 10, FULL_ROWS)
    return [Group([Contender("epoch", f"{rows:,} rows", "stream", {"rows": rows}) for rows in counts], 1)]


def gpu(quick: bool, folder: Path) -> list[Group]:
    """K=4 on a GPU with a million codes: ctrlib against four trainings by DeepCTR-Torch, and the GPU's own floor; what
    fewer digits change in AUC. One group, so that whatever has to stop early leaves whole repeats of everything."""
    import torch

    if not torch.cuda.is_available():
        return [Group([], skipped=[("gpu", "all", "no GPU here: not measured")])]
    steps = 5 if quick else 50
    repeats = 1 if quick else REPEATS
    place = stored_table(folder, (steps + 5) * sizes.BATCH, sizes.GPU_CODES)
    kinds = {"fp32": "highest", "TF32": "high"}
    contenders = [
        Contender("products", name, "products", {"precision": kind, "device": "cuda"}) for name, kind in kinds.items()
    ]
    contenders.append(Contender("bandwidth", "memory", "bandwidth", {"device": "cuda"}))
    for architecture in sizes.ARCHITECTURES:
        shared = {"architecture": architecture, "table": place, "device": "cuda"}
        few = steps // 5 if architecture == "FiBiNET" else steps // 2  # a peer takes 50 to 250 ms a step
        peer = {**shared, "library": "deepctr-torch", "steps": few, "warm": 5, "device": "cuda:0"}
        own = {**shared, "members": 4, "steps": steps, "epochs": 2}
        contenders.append(Contender(architecture, "deepctr-torch", "train", peer))
        contenders.append(Contender(architecture, "ctrlib K=4", "cohort", own))
        contenders.append(Contender(architecture, "ctrlib K=4 TF32", "cohort", {**own, "precision": "tf32"}))
    work = {"train_rows": 4000 if quick else 300_000, "device": "cuda", "precision": "tf32"}
    contenders.append(Contender("AUC", "tf32 - fp32", "precision_auc", work, by_repeat=lambda r: {"seed": r}))
    return [Group(contenders, repeats, together=4)]


SUITES: dict[str, Callable[[bool, Path], list[Group]]] = {
    "train": train,
    "floor": floor,
    "study": study,
    "cohort": cohort,
    "workers": workers,
    "precision": precision,
    "auc": auc,
    "start": start,
    "waiting": waiting,
    "synthetic": synthetic,
    "encode": encode,
    "encode_full": encode_full,
    "scale": scale,
    "stream": stream,
    "gpu": gpu,
}
ONLY_BY_NAME = ("encode_full",)  # takes hours, and tens of gigabytes of files
