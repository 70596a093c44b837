"""What a child process can be asked to measure. Each job returns ``value``, ``unit`` and, where useful, ``detail``.

``cores`` is the number of cores the process may use; one torch thread unless a job says otherwise.
"""

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks import sizes


def train(
    cores: int,
    library: str,
    architecture: str,
    table: str,
    steps: int,
    warm: int = 2,
    device: str = "cpu",
    batch: int = sizes.BATCH,
) -> dict:
    """A peer's time per step: one epoch of ``warm`` + ``steps`` batches, the first ones left out."""
    import torch

    from benchmarks.clock import StepClock, peak_of
    from benchmarks.peers import fit
    from benchmarks.table import load

    torch.set_num_threads(cores)
    rows = load(Path(table)).head((warm + steps) * batch)
    clock = StepClock()
    model = fit(library, architecture, rows, batch, device)
    clock.close()
    value = clock.seconds_per_step(warm)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps_taken = [round(b - a, 5) for a, b in pairwise(clock.stamps)]
    detail = {"parameters": parameters, "steps": steps_taken}
    return {"value": value, "unit": "s/step", "detail": detail, **peak_of(device)}


def cohort(
    cores: int,
    architecture: str,
    table: str,
    members: int,
    steps: int,
    epochs: int,
    device: str = "cpu",
    batch: int = sizes.BATCH,
    fields: int = sizes.FIELDS,
    first: int = 0,
    **settings,
) -> dict:
    """ctrlib's time per step of a whole cohort: ``epochs`` epochs of ``steps`` batches, plus a first and a last one."""
    import torch

    from benchmarks import cohort
    from benchmarks.clock import peak_of
    from benchmarks.table import load

    torch.set_num_threads(1)
    if settings.get("hidden_units"):
        settings["hidden_units"] = tuple(settings["hidden_units"])
    rows = cohort.dataset(load(Path(table)).of_fields(fields, first), steps * batch)
    run = cohort.run(architecture, members, epochs + 2, batch, **settings)
    value, each = cohort.seconds_per_step(run, rows, device, threads=cores)
    detail = {"epochs": [round(s, 5) for s in each]}
    return {"value": value, "unit": "s/step", "detail": detail, **peak_of(device)}


def stream(cores: int, rows: int) -> dict:
    """Seconds of one epoch of a small DeepFM over ``rows`` rows of 39 codes that are read from a mapped file.

    ``detail`` has the size of that file and the largest resident size while the epoch ran.
    """
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks import cohort
    from benchmarks.clock import LargestMemory
    from ctrlib.config import SyntheticSettings
    from ctrlib.data.synthetic import generate
    from ctrlib.fast import train
    from ctrlib.training.dataset import Split

    torch.set_num_threads(1)
    part = generate(SyntheticSettings(train_rows=1_000_000, fields=sizes.FIELDS, largest_field=68_000, zipf=1.05))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.npy"
        ids = np.lib.format.open_memmap(path, "w+", np.int32, (rows, sizes.FIELDS))
        for first in range(0, rows, len(part.train)):
            ids[first : first + len(part.train)] = part.train.ids[: rows - first]
        ids.flush()
        del ids
        labels = np.resize(part.train.labels, rows)
        data = replace(part, train=Split(np.load(path, mmap_mode="c"), labels), fingerprint="stream")
        run = cohort.run("DeepFM", 1, epochs=1, embedding_dim=4, hidden_units=(16,))
        run = run.model_copy(update={"data": run.data.model_copy(update={"fingerprint": "stream"})})
        began = time.perf_counter()
        with LargestMemory() as memory:
            train(run, data, device="cpu")
        seconds = time.perf_counter() - began
    detail = {"file_mb": rows * sizes.FIELDS * 4 / 1e6, "epoch_peak_mb": memory.largest_mb}
    return {"value": seconds, "unit": "s/epoch", "peak_mb": memory.largest_mb, "detail": detail}


def products(
    cores: int,
    batch: int = sizes.BATCH,
    precision: str = "highest",
    device: str = "cpu",
    fields: int = sizes.FIELDS,
    embedding: int = sizes.EMBEDDING,
    hidden: tuple[int, ...] = sizes.HIDDEN,
) -> dict:
    """Rate of the matrix products of each architecture's MLP, forward and both gradients, in FLOP/s.

    ``precision``: torch's float32 matmul precision (``highest`` or ``medium`` on a CPU, ``high`` is TF32 on a GPU), or
    ``bf16`` for bfloat16 operands.
    """
    import torch

    from benchmarks.clock import best_seconds
    from ctrlib.fast.machine import multiplies_bfloat16

    torch.set_num_threads(cores)
    if precision == "bf16" and device == "cpu" and not multiplies_bfloat16():
        raise RuntimeError("this processor has no AVX-512: bfloat16 would take hours")
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    if precision != "bf16":
        torch.set_float32_matmul_precision(precision)
    if precision == "medium" and device == "cpu" and rounds_to_bfloat16():
        raise RuntimeError("medium rounds the operands to bfloat16 on this processor: it is no path for fp32")
    rates = {}
    for architecture in sizes.ARCHITECTURES:
        widths = (sizes.mlp_input(architecture, fields, embedding), *hidden)
        seconds = flop = 0.0
        for a, b in pairwise(widths):
            x, w, g = (torch.randn(*shape, device=device).to(kind) for shape in ((batch, a), (b, a), (batch, b)))
            results = [torch.empty(*shape, device=device, dtype=kind) for shape in ((batch, b), (batch, a), (b, a))]

            def layer(x=x, w=w, g=g, results=results) -> None:
                torch.mm(x, w.T, out=results[0])
                torch.mm(g, w, out=results[1])
                torch.mm(g.T, x, out=results[2])
                if device != "cpu":
                    torch.cuda.synchronize()

            seconds += best_seconds(layer)
            flop += 3 * 2 * batch * a * b
        rates[architecture] = flop / seconds
    return {"value": max(rates.values()), "unit": "FLOP/s", "detail": rates}


def rounds_to_bfloat16() -> bool:
    """Whether float32 products lose digits as they are set now (an error of 2^-9 instead of 2^-24 per operand)."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=numbers) for _ in range(2))
    return bool((a @ b - a.double() @ b.double()).abs().max() > 1e-2)


def bandwidth(cores: int, device: str = "cpu", megabytes: int = 512) -> dict:
    """Memory traffic per second: reading, copying and adding in place, in bytes/s; the best counts.

    A copy moves three times its size on a CPU, which fetches a line before it writes it, and twice on a GPU.
    """
    import torch

    from benchmarks.clock import best_seconds

    torch.set_num_threads(cores)
    x, y = (torch.ones(megabytes * 1_000_000 // 4, device=device) for _ in range(2))
    size = x.numel() * 4
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None

    def timed(work) -> float:
        return best_seconds(lambda: (work(), wait()))

    moved = 3 if device == "cpu" else 2
    rates = {
        "read": size / timed(lambda: x.sum()),
        "copy": moved * size / timed(lambda: y.copy_(x)),
        "add in place": 3 * size / timed(lambda: y.add_(x)),
    }
    return {"value": max(rates.values()), "unit": "bytes/s", "detail": rates}


def store(cores: int, runs: int, rows: int, epochs: int) -> dict:
    """Samples x models a second of ``runs`` single models through ``RunStore.ensure`` with one worker per core.

    The workers are started, and have loaded the data, before the clock starts.
    """
    from ctrlib.config import SyntheticSettings
    from ctrlib.data.load import data_settings
    from ctrlib.store.executors import stop_pools
    from ctrlib.store.runs import RunStore

    criteo = SyntheticSettings(
        train_rows=rows, valid_rows=1000, test_rows=1000, fields=sizes.FIELDS, largest_field=68_000, zipf=1.05
    )
    data = data_settings("synthetic", 0, criteo)

    def make(seed: int, epochs: int):
        from benchmarks import cohort

        run = cohort.run("DeepFM", 1, epochs)
        member = run.members[0].model_copy(update={"init_seed": seed})
        return run.model_copy(update={"data": data, "members": (member,)})

    with tempfile.TemporaryDirectory() as folder:
        records = RunStore(Path(folder))
        records.ensure([make(1000 + n, 1) for n in range(cores)], device="cpu", workers=cores)
        began = time.perf_counter()
        records.ensure([make(n, epochs) for n in range(runs)], device="cpu", workers=cores)
        seconds = time.perf_counter() - began
        stop_pools()
    speed = runs * rows * epochs / seconds
    # The workers' memory is not this process's: no peak is given.
    return {"value": speed, "unit": "samples x models/s", "peak_mb": None, "detail": {"seconds": seconds}}


def workers(cores: int, team: str, workers: int, runs: int, rows: int, epochs: int = 1) -> dict:
    """Milliseconds a run takes of a worker beyond its own training: everything between one training and the next.

    ``team``: ``pool`` is ``RunStore.ensure`` on this machine, ``Dask`` the same by the workers of a local scheduler.
    The workers are started, and have loaded the data, before the clock starts.
    """
    from contextlib import nullcontext

    from benchmarks import cohort
    from ctrlib.config import SyntheticSettings
    from ctrlib.data.load import data_settings
    from ctrlib.store.dask import SLOT
    from ctrlib.store.ensure import ensure_all
    from ctrlib.store.executors import stop_pools
    from ctrlib.store.runs import RunStore

    settings = SyntheticSettings(train_rows=rows, valid_rows=1000, test_rows=1000, fields=10, largest_field=1000)
    data = data_settings("synthetic", 0, settings)

    def make(seed: int):
        run = cohort.run("DeepFM", 1, epochs, batch=500, embedding_dim=8, hidden_units=(64, 64))
        member = run.members[0].model_copy(update={"init_seed": seed})
        return run.model_copy(update={"data": data, "members": (member,)})

    cluster = nullcontext(None)
    if team == "Dask":
        from distributed import LocalCluster

        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, resources={SLOT: 1}
        )
    with tempfile.TemporaryDirectory() as folder, cluster as started:
        store = RunStore(Path(folder))
        where = {"workers": workers, "dask": started and started.scheduler_address}
        ensure_all(store, [make(1000 + n) for n in range(3 * workers)], "cpu", **where)
        began = time.perf_counter()
        records, _ = ensure_all(store, [make(n) for n in range(runs)], "cpu", **where)
        seconds = time.perf_counter() - began
        stop_pools()
    training = sum(record.seconds for record in records.values())
    overhead = 1000 * (seconds * workers - training) / runs
    detail = {"seconds": seconds, "training_s": training, "runs_per_s": runs / seconds}
    return {"value": overhead, "unit": "ms/run", "peak_mb": None, "detail": detail}


def precision_auc(cores: int, seed: int, train_rows: int, precision: str = "bf16", device: str = "cpu") -> dict:
    """Test AUC of a DeepFM trained with fewer digits in its products minus that of the same training in fp32."""
    import torch

    from benchmarks import cohort
    from ctrlib.config import SyntheticSettings
    from ctrlib.data.load import data_settings, load_data
    from ctrlib.fast import train
    from ctrlib.stats.metrics import auc

    torch.set_num_threads(cores)
    data = data_settings("synthetic", 0, SyntheticSettings(train_rows=train_rows))
    rows = load_data(data)
    scores = {}
    for digits in ("fp32", precision):
        run = cohort.run("DeepFM", 1, epochs=2, batch=1000, precision=digits, hidden_units=(128, 128))
        member = run.members[0].model_copy(update={"init_seed": seed, "order_seed": seed})
        trained = train(run.model_copy(update={"data": data, "members": (member,)}), rows, device=device)
        scores[digits] = auc(rows.test.labels, trained.test_logits[0])
    return {"value": scores[precision] - scores["fp32"], "unit": "AUC", "detail": scores}


def auc_members(cores: int, implementation: str, rows: int, members: int, seed: int = 0) -> dict:
    """Seconds per member to score ``members`` columns of ``rows`` predictions; the AUCs are in ``detail``."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.25).astype(np.uint8)
    scores = rng.standard_normal((members, rows), dtype=np.float32) + labels.astype(np.float32)
    if implementation == "ctrlib":
        from ctrlib.stats.metrics import cohort_auc

        work = lambda: cohort_auc(labels, scores)  # noqa: E731
    else:
        from sklearn.metrics import roc_auc_score

        work = lambda: [roc_auc_score(labels, column) for column in scores]  # noqa: E731
    began = time.perf_counter()
    values = [float(value) for value in work()]
    seconds = time.perf_counter() - began
    return {"value": seconds / members, "unit": "s/member", "detail": {"auc": values, "members": members}}


def start(cores: int, what: str, tries: int = 3) -> dict:
    """Wall time of ``ctrlib --help``, or of an interpreter that does nothing, whose files are already in memory."""
    command = [sys.executable, "-c", "pass"]
    if what == "ctrlib --help":
        command = [sys.executable, "-m", "ctrlib.cli", "--help"]
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    return {"value": min(seconds), "unit": "s", "peak_mb": round(peak, 1), "detail": {"tries": seconds}}


def command(
    cores: int, line: str, clone: str, needs_environment: bool = True, store: str = "", records: int = 0
) -> dict:
    """Wall time of a command line in a clone of this project, which is made where it is not there yet, with the
    environment in it; ``peak_mb`` is the most that all its processes held together, shared pages counted once.
    ``store``: a run store of so many ``records``, made where it is not there yet."""
    import threading

    from benchmarks.process import memory_mb

    root, place = Path(__file__).resolve().parent.parent, Path(clone)
    if not place.exists():
        subprocess.run(["git", "clone", "-q", str(root), clone], check=True)
    commands = place / ".venv" / "bin" if needs_environment else Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "CTRLIB_RUNS", "CTRLIB_DATA"):
        environment.pop(name, None)
    if store:
        environment["CTRLIB_RUNS"] = fill_store(Path(store), records)
    began, peak, over = time.perf_counter(), 0.0, threading.Event()
    child = subprocess.Popen(shlex.split(line), cwd=place, env=environment, stdout=subprocess.DEVNULL)

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.3):
            resident, proportional = memory_mb(child.pid)
            peak = max(peak, proportional or resident)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = child.wait()
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    if code:
        raise RuntimeError(f"{line}: ended with {code}")
    return {"value": seconds, "unit": "s", "peak_mb": round(peak, 1), "detail": {"line": line}}


def fill_store(folder: Path, records: int) -> str:
    """A run store of so many records: a small training, and copies of its record under other seeds."""
    from benchmarks import cohort
    from ctrlib.config import SyntheticSettings
    from ctrlib.data.files import seal
    from ctrlib.data.load import data_settings
    from ctrlib.store.runs import RunStore

    if folder.exists():
        return str(folder)
    data = data_settings("synthetic", 0, SyntheticSettings(train_rows=1000, valid_rows=500, test_rows=500))
    run = cohort.run("DeepFM", 1, 3, batch=500, embedding_dim=4, hidden_units=(8,)).model_copy(update={"data": data})
    (first,) = RunStore(folder).ensure([run], device="cpu", workers=1)
    content = {key: value for key, value in first.content.items() if key != "checksum"}
    for seed in range(1, records):
        copy = run.model_copy(update={"members": (run.members[0].model_copy(update={"init_seed": seed}),)})
        place = folder / copy.fingerprint
        place.mkdir()
        own = {"fingerprint": copy.fingerprint, "run": copy.model_dump(mode="json")}
        (place / "run.json").write_text(seal({**content, **own}, indent=1))
        for name in content["files"]:
            os.link(first.folder / name, place / name)
    return str(folder)


def synthetic(cores: int, rows: int) -> dict:
    """Seconds to make ``rows`` rows of 39 fields, all cores allowed; ``detail`` has numpy's time for bare numbers."""
    import numpy as np

    from ctrlib.config import SyntheticSettings
    from ctrlib.data.synthetic import generate

    settings = SyntheticSettings(
        train_rows=rows - 2000, valid_rows=1000, test_rows=1000, fields=sizes.FIELDS, largest_field=68_000, zipf=1.05
    )
    began = time.perf_counter()
    made = generate(settings)
    seconds = time.perf_counter() - began
    if len(made.train) != rows - 2000:
        raise RuntimeError(f"{len(made.train)} training rows made")
    from benchmarks.clock import peak_mb

    peak = round(peak_mb(), 1)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(-(-rows // 65_536)):
        rng.random((65_536, sizes.FIELDS))
    numbers = time.perf_counter() - began
    return {"value": seconds, "unit": "s", "peak_mb": peak, "detail": {"numpy_draws_s": numbers, "cores": cores}}


def encode(cores: int, rows: int, repeats: int) -> dict:
    """The raw-text encoder, measured by ``bench_encode`` itself (it starts its own processes)."""
    from benchmarks import bench_encode

    found = bench_encode.measure(rows, repeats)
    return {"value": float(len(found)), "unit": "results", "detail": {"rows": found}}


def cuda(cores: int) -> dict:
    """The name of the GPU that torch sees; an error where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU here: not measured")
    return {"value": torch.cuda.device_count(), "unit": "GPUs", "detail": {"name": torch.cuda.get_device_name(0)}}


def nothing(cores: int, error: str = "", hangs: str = "") -> dict:
    """For the tests of the harness: the cores it runs on, or an error, or a process of that mark that never ends."""
    if error:
        raise ValueError(error)
    if hangs:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", hangs], check=True)
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {"value": float(cores), "unit": "cores", "detail": {"cores": there}}


def turns(cores: int, orders: list[tuple[str, dict]]) -> dict:
    """The answers of several jobs, ``[name, arguments]``, that this process does one after the other."""
    from benchmarks.clock import fresh_device

    answers = []
    for name, arguments in orders:
        fresh_device()
        began = time.perf_counter()
        try:
            answer = globals()[name](cores, **arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.append({**answer, "seconds": round(time.perf_counter() - began, 2)})
    return {"turns": answers}
