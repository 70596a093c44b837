"""The benchmarks: report and targets on made-up records, floor, data, child processes. No speed is asserted here."""

import json
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer import BadParameter

from benchmarks import bench_encode, jobs, peers, process, report, run, sizes, suites, table, targets
from benchmarks.clock import StepClock
from ctrlib.fast import install
from ctrlib.models import build_model, count_parameters
from ctrlib.study.analysis import COUNTED

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"processor": "Some CPU", "vector_instructions": "AVX2", "cores": 2, "versions": {"torch": "2.13.0"}}


def measurements(suite: str, what: str, who: str, values: list, peak: float = 100.0, **more) -> list[dict]:
    """Made-up measurements: ``None`` in ``values`` is a repeat that failed."""
    rows = []
    for repeat, value in enumerate(values):
        found = {"error": "it broke"} if value is None else {"value": value, "unit": "s/step", "peak_mb": peak, **more}
        rows.append({"suite": suite, "what": what, "who": who, "repeat": repeat, "others_busy": 0.1, **found})
    return rows


def record(rows: list[dict], skipped: list[dict] | None = None) -> dict:
    """The content of a result file."""
    names = list(dict.fromkeys(row["suite"] for row in [*rows, *(skipped or [])]))
    return {"machine": MACHINE, "suites": names, "skipped": skipped or [], "measurements": rows}


def row(made: report.Report, what: str) -> pd.Series:
    """The one row of the ratio table that says ``what``."""
    found = made.ratios[made.ratios["what"] == what]
    assert len(found) == 1, list(made.ratios["what"])
    return found.iloc[0]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


# Two peers and ctrlib on DeepFM; b is the faster peer by its median, though not in every repeat.
TRAIN = [
    *measurements("train", "DeepFM", "a", [4.0, 5.0, 6.0]),
    *measurements("train", "DeepFM", "b", [3.0, 8.0, 4.0]),
    *measurements("train", "DeepFM", "ctrlib", [1.0, 2.0, 2.0], peak=321.0),
]
RATES = dict.fromkeys(sizes.ARCHITECTURES, 1e11)
FLOOR = [
    *measurements("floor", "products", "fp32, highest", [1e11] * 3, detail=RATES),
    *measurements("floor", "products", "fp32, medium", [2e11] * 3, detail=dict.fromkeys(RATES, 2e11)),
    *measurements("floor", "bandwidth", "memory", [5e10] * 3),
]
GPU = [
    *measurements("gpu", "products", "fp32", [1e14] * 2, detail=dict.fromkeys(RATES, 1e14)),
    *measurements("gpu", "bandwidth", "memory", [4e12] * 2),
    *measurements("gpu", "DeepFM", "deepctr-torch", [0.05, 0.06], peak=400.0),
    *measurements("gpu", "DeepFM", "ctrlib K=4", [0.002, 0.002], peak=2500.0),
    *measurements("gpu", "AUC", "tf32 - fp32", [-3e-4, 1e-4]),
]


def test_speed_is_the_median_of_the_repeats_ratios_to_the_best_peer():
    """A repeat without its partner is left out; what failed or was skipped is shown with its reason, never met."""
    skipped = [{"suite": "train", "what": "PNN", "who": "torch-rechub", "reason": "it has no PNN"}]
    failed = [*measurements("train", "DeepFM", "c", [4.0, None, 6.0]), *measurements("train", "DeepFM", "d", [None])]
    made = report.tables(record([*TRAIN, *failed], skipped))
    best = row(made, "DeepFM: speed / best peer")
    assert "b" in best["note"].split()
    assert (best["value"], best["low"], best["high"], best["n"]) == (3.0, 2.0, 4.0, 3)  # 3/1, 8/2, 4/2
    assert best["peak_mb"] == 321.0
    other = row(made, "DeepFM: speed / a")
    assert (other["value"], other["low"], other["high"]) == (3.0, 2.5, 4.0)
    first = made.timings.set_index("who").loc["b"]
    assert (first["value"], first["low"], first["high"], first["n"], first["others_busy"]) == (4.0, 3.0, 8.0, 3, 0.1)
    partly = row(made, "DeepFM: speed / c")
    assert (partly["value"], partly["n"]) == (3.5, 2)
    assert "1 of 3 repeats failed: it broke" in row(made, "DeepFM: c")["note"]
    for what, reason in [("PNN: torch-rechub", "it has no PNN"), ("DeepFM: d", "it broke")]:
        shown = row(made, what)
        assert (reason in shown["note"], pd.isna(shown["value"]), shown["met"]) == (True, True, None)
    assert "DeepFM: speed / d" not in set(made.ratios["what"])
    best = row(report.tables(record([one for one in TRAIN if one["who"] != "ctrlib"])), "DeepFM: speed / best peer")
    assert pd.isna(best["value"])
    assert best["met"] is None


@pytest.mark.parametrize(
    ("target", "met"),
    [(targets.at_least(2.0), {2.0: True, 1.9999: False}), (targets.at_most(1.5), {1.5: True, 1.5001: False})],
)
def test_a_target_is_met_exactly_at_its_limit(monkeypatch, target, met):
    monkeypatch.setitem(report.TARGETS, ("train", "DeepFM: speed / best peer"), target)
    own = measurements("train", "DeepFM", "ctrlib", [1.0] * 3)
    for value, expected in met.items():
        made = report.tables(record([*measurements("train", "DeepFM", "a", [value] * 3), *own]))
        found = row(made, "DeepFM: speed / best peer")
        assert (found["met"], found["target"]) == (expected, str(target))


def test_floor_row_uses_the_fastest_path_and_the_bandwidth_of_the_same_file():
    cost = sizes.cost("DeepFM")
    floor = sizes.BATCH * cost.flop_training / 2e11 + cost.bytes_step / 5e10
    own = measurements("train", "DeepFM", "ctrlib", [2 * floor, 3 * floor, 4 * floor])
    peer = measurements("train", "DeepFM", "recbole", [5 * floor, 6 * floor, 7 * floor])
    made = report.tables(record([*FLOOR, *own, *peer]))
    found = row(made, "DeepFM: time / floor")
    assert found["value"] == pytest.approx(3.0)
    assert "fp32, medium" in found["note"]
    assert row(made, "DeepFM: best peer's time / floor")["value"] == pytest.approx(6.0)
    summary = report.beside_the_floor(made.ratios).to_numpy().tolist()
    assert summary == [["DeepFM", pytest.approx(3.0), pytest.approx(6.0), "recbole"]]
    without = row(report.tables(record(own)), "DeepFM: time / floor")
    assert pd.isna(without["value"])
    assert "not measured" in without["note"]


def test_on_a_gpu_four_models_stand_beside_four_trainings_and_four_floors():
    made = report.tables(record(GPU))
    speed = row(made, "DeepFM: K=4 speed / DeepCTR-Torch")
    assert (speed["low"], speed["high"], speed["peak_mb"]) == (pytest.approx(100), pytest.approx(120), 2500.0)
    floor = sizes.cost("DeepFM", codes=sizes.GPU_CODES).floor_seconds(1e14, 4e12)
    assert row(made, "DeepFM: K=4 time / floor")["value"] == pytest.approx(0.002 / (4 * floor))
    assert f"{4000 * floor:.2f} ms" in row(made, "DeepFM: K=4 milliseconds per step")["note"]
    assert row(made, "DeepFM: largest AUC difference tf32 - fp32 over seeds")["value"] == pytest.approx(3e-4)
    assert made.ratios["target"][made.ratios["what"] == "DeepFM: K=4 milliseconds per step"].item() == ""
    tf32 = report.tables(record([*GPU, *measurements("gpu", "FiBiNET", "ctrlib K=4 TF32", [0.0049, 0.0052, 0.0051])]))
    assert row(tf32, "FiBiNET: K=4 milliseconds per step (TF32)")["met"] is False


def test_the_study_s_own_sizes_stand_beside_four_floors_of_their_own():
    size, rates = sizes.STUDY["Criteo 100k"], dict.fromkeys(sizes.ARCHITECTURES, 2e11)
    cost = sizes.cost("PNN", **size)
    floor = 1000 * cost.flop_training / 2e11 + cost.bytes_step / 5e10
    rows = measurements("study", "Criteo 100k: products", "fp32, medium", [2e11], detail=rates)
    rows += measurements("study", "bandwidth", "memory", [5e10])
    rows += measurements("study", "Criteo 100k: PNN", "K=4", [8 * floor, 12 * floor, 20 * floor])
    assert row(report.tables(record(rows)), "Criteo 100k: PNN: time / floor")["value"] == pytest.approx(3.0)
    dims = table.field_sizes(sizes.STUDY["Criteo 100k"]["codes"])
    assert sum(dims[:10]) == sizes.STUDY["page 21"]["codes"]
    assert sum(dims[sizes.FRAPPE_FROM :][:10]) == sizes.STUDY["Frappe"]["codes"]


def test_other_suites_ratios():
    rows = [
        *measurements("cohort", "four runs", "1 core", [100.0, 100.0]),
        *measurements("cohort", "four runs", "2 cores", [180.0, 200.0]),
        *measurements("cohort", "FiBiNET", "K=1", [1.0], peak=500.0),
        *measurements("cohort", "FiBiNET", "K=4", [4.4], peak=2500.0),
        *measurements("workers", "pool", "1 worker", [20.0, 40.0], detail={"runs_per_s": 2.0}),
        *measurements("workers", "pool", "2 workers", [30.0, 30.0], detail={"runs_per_s": 3.0}),
        *measurements("precision", "AUC", "bf16 - fp32", [1e-4, -3e-4]),
        *measurements("auc", "cohort AUC", "scikit-learn", [6.0], detail={"auc": [0.7, 0.8]}),
        *measurements("auc", "cohort AUC", "ctrlib", [1.5], detail={"auc": [0.7, 0.8 + 1e-12, 0.9]}),
        *measurements("start", "start", "ctrlib --help", [0.5]),
        *measurements("start", "start", "python -c pass", [0.02]),
        *measurements("waiting", "plan", "seconds", [1.5, 2.5], detail={"line": "ctrlib study --plan"}),
        *measurements("scale", "members", "K=1", [1.0]),
        *measurements("scale", "members", "K=10", [12.0]),
    ]
    made = report.tables(record(rows))
    expected = {
        "four runs: speed on 2 cores / 1 core": 1.9,
        "pool, 1 worker: overhead (ms)": 30.0,
        "pool: runs a second, 2 workers / 1 worker": 1.5,
        "FiBiNET: K=4 / 4 x K=1": 1.1,
        "FiBiNET: K=4 peak memory (GB)": 2.5,
        "DeepFM: largest AUC difference bf16 - fp32 over seeds": 3e-4,
        "scikit-learn / ctrlib time": 4.0,
        "ctrlib --help / bare interpreter": 25.0,
        "plan: seconds": 2.0,
        "time per step and model, K=10 / K=1": 1.2,
    }
    assert {what: row(made, what)["value"] for what in expected} == pytest.approx(expected)
    parts = {"environment": [90.0, 100.0], "study of the book": [60.0, 70.0], "book": [50.0, 90.0]}
    waits = [
        one
        for place, (what, values) in enumerate(parts.items())
        for one in measurements("waiting", what, "seconds", values, peak=5000.0 - 1000 * place, detail={"line": what})
    ]
    waited = report.tables(record(waits))
    first = {"": (230.0, True), ", after the installation": (135.0, True)}
    assert {n: tuple(row(waited, f"make book, first{n}: seconds")[["value", "met"]]) for n in first} == first
    assert row(waited, "make book, first: peak memory (GB)")["value"] == 4.0
    assert row(made, "largest difference of an AUC")["value"] == pytest.approx(1e-12, rel=1e-3)


def test_the_encoder_s_own_measurements_become_rows():
    own = {"tool": "ctrlib", "values": [30.0, 80.0, 90.0], "unit": "rows/s", "peak_mb": 7.0}
    peer = {"tool": "FuxiCTR", "values": [10.0, 20.0, 15.0], "unit": "rows/s", "peak_mb": 9.0}
    with_ray = {**peer, "tool": "FuxiCTR with Ray", "values": [], "error": "no such thing"}
    detail = {"rows": [own, peer, with_ray, {"what": "speed", "values": [3.0, 4.0, 6.0], "unit": "times"}]}
    made = report.tables(record(measurements("encode", "raw text to codes", "all", [3.0], detail=detail)))
    shown = row(made, "raw text to codes: speed / FuxiCTR")
    assert tuple(shown[["value", "low", "high", "n", "peak_mb"]]) == (4.0, 3.0, 6.0, 3, 7.0)
    assert list(made.timings["who"]) == ["ctrlib", "FuxiCTR"]
    assert pd.isna(row(made, "raw text to codes: speed / FuxiCTR with Ray")["value"])
    assert "no such thing" in row(made, "raw text to codes: FuxiCTR with Ray")["note"]


def test_the_whole_log_is_encoded_by_its_name_alone(tmp_path: Path):
    (group,) = suites.encode_full(True, tmp_path)
    content = {"skipped": [], "measurements": []}
    run.measure("encode_full", group, content, tmp_path / "made.json")
    made = report.tables(record(content["measurements"]))
    for what in ("thousand rows per second", "peak memory (GB)"):
        assert row(made, f"20,000 rows of raw text to codes: {what}")["value"] > 0
    (full,) = suites.encode_full(False, tmp_path)
    assert ("encode_full", f"{full.contenders[0].what}: peak memory (GB)") in targets.TARGETS
    assert set(suites.SUITES) - set(run.USUAL.split(",")) == {"encode_full"}


def test_an_encoder_that_fills_the_memory_is_given_up(monkeypatch):
    monkeypatch.setattr(bench_encode, "FULL", 0)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert "memory of this machine is full" in bench_encode.watch(child)[2]
    assert child.returncode


def test_the_newest_record_of_each_suite_is_shown_without_torch(tmp_path: Path):
    """A record in which a suite failed, or was left out, does not take the place of one that has it."""
    full = measurements("precision", "DeepFM", "fp32", [2.0])
    whole = [*full, *measurements("precision", "DeepFM", "bf16", [1.0])]
    failed = measurements("precision", "DeepFM", "bf16", [None])
    start = measurements("start", "start", "ctrlib --help", [0.2])
    for name, found in {
        "2026-01-01-a-2-cores": [*TRAIN, *FLOOR, *whole, *start],
        "2026-01-02-a-2-cores": [*TRAIN, *full, *failed],
        "2026-01-03-a-2-cores": [*FLOOR, *start],
        "2026-01-04-a-2-cores-quick": start,
        "2026-01-05-b-16-cores-gpu": GPU,
    }.items():
        content = {**record(found), "machine": {**MACHINE, "commit": name[8:10]}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    code = (
        "import sys; from benchmarks.report import newest;"
        "print([sorted((suite, one.machine['commit']) for suite, one in newest(sys.argv[1], gpu).items())"
        " for gpu in (0, 1)], 'torch' in sys.modules)"
    )
    done = command("-c", code, str(tmp_path))
    cpu = [("floor", "02"), ("precision", "01"), ("start", "03"), ("train", "02")]
    assert done.stdout.strip() == f"{[cpu, [('gpu', '05')]]} False"


@pytest.mark.parametrize("architecture", sizes.ARCHITECTURES)
def test_cost_agrees_with_torch_s_own_count_on_the_real_model(architecture):
    install()  # what is counted is what users train
    codes_each, batch = 7, 8
    options = {"bilinear_type": sizes.BILINEAR} if architecture == "FiBiNET" else {}
    shape = {"embedding_dim": sizes.EMBEDDING, "hidden_units": sizes.HIDDEN, "dropout": 0.0, "batch_norm": False}
    fields = [codes_each] * sizes.FIELDS
    model = build_model(architecture, fields, init_seed=1, options=options, **shape)
    expected = sizes.cost(architecture, codes=sizes.FIELDS * codes_each, batch=batch)
    ids = torch.randint(codes_each, (batch, sizes.FIELDS), generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as forward:
        logits = model(ids)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as backward:
        logits.sum().backward()
    assert count_parameters(model) == expected.parameters
    counted = forward.get_total_flops() / batch
    nearly = 0.02 if architecture == "PNN" else 0.001  # PNN takes the product of each pair twice, as a square
    assert counted == pytest.approx(expected.flop_forward, rel=nearly)
    assert counted + backward.get_total_flops() / batch == pytest.approx(expected.flop_training, rel=nearly)


def test_bytes_of_a_step():
    table_bytes = 7 * 4 * 300_000 * 16  # Adam: four values read and three written for each number of the table
    assert sizes.cost("DCN").bytes_step > table_bytes
    wide = sizes.cost("DCN", codes=600_000).bytes_step - sizes.cost("DCN").bytes_step
    assert wide == pytest.approx(table_bytes + 4 * 300_000 * 16)  # the gradient of the table is also zeroed


def test_table_has_the_shape_promised(tmp_path):
    made = table.make(20_000)
    table.save(made, tmp_path / "t")
    read = table.load(tmp_path / "t")
    assert np.array_equal(read.ids, made.ids)
    assert np.array_equal(read.labels, made.labels)
    assert (read.ids.shape, read.ids.dtype, read.field_dims) == ((20_000, 39), np.int32, made.field_dims)
    assert sum(read.field_dims) == 300_000
    assert (read.ids.min(axis=0) >= 0).all()
    assert (read.ids.max(axis=0) < np.array(read.field_dims)).all()
    assert read.labels.mean() == pytest.approx(0.25, abs=0.015)
    counts = np.sort(np.bincount(read.ids[:, 0], minlength=40))[::-1]
    law = np.arange(1, 41) ** -1.05
    assert counts[:5] / 20_000 == pytest.approx(law[:5] / law.sum(), rel=0.1)


def test_step_clock_leaves_out_the_first_steps():
    optimizer, clock = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), StepClock()
    for _ in range(4):
        optimizer.step()
    assert len(clock.stamps) == 4
    clock.stamps = [0.0, 10.0, 12.0, 16.0]
    assert clock.seconds_per_step(warm=2) == pytest.approx(3.0)
    with pytest.raises(RuntimeError, match="more than 4"):
        clock.seconds_per_step(warm=4)


def test_a_child_runs_on_its_cores_and_ends_in_one_line_and_with_all_it_started(monkeypatch, tmp_path):
    good = process.run_child("nothing", {})
    assert good["value"] == 1.0
    assert good["cores"] == process.usable_cores()[-1:]
    assert good["peak_mb"] > 5
    assert 0 <= good["rivals_busy"] <= 1
    bad = process.run_child("nothing", {"error": f"two\nlines in {ROOT}/x"})
    assert bad["error"] == "ValueError: two lines in ./x"
    assert "value" not in bad
    assert process.memory_mb(os.getpid())[0] > 50
    monkeypatch.setattr(process, "LIMIT_SECONDS", 3)
    mark = f"mark-{tmp_path}"
    assert process.run_child("nothing", {"hangs": mark})["error"] == "not finished after 3 s"
    assert not [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]


@pytest.mark.parametrize("quick", [True, False])
def test_every_contender_can_be_run_and_every_peer_is_measured_or_named(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(suites, "stored_table", lambda folder, rows, codes=sizes.CODES: str(rows))
    groups = {name: suite(quick, tmp_path) for name, suite in suites.SUITES.items()}
    for group in [group for made in groups.values() for group in made]:
        assert group.contenders or group.skipped
        for one in group.contenders:
            extra = one.by_repeat(0) if one.by_repeat else {}
            signature(getattr(jobs, one.job)).bind(cores=one.cores, **one.arguments, **extra)
            if one.job == "cohort":
                assert one.arguments["steps"] * sizes.BATCH <= int(one.arguments["table"]), one
    for group in groups["train"]:
        there = {one.who for one in group.contenders} | {who for _, who, _ in group.skipped}
        assert there == {*peers.NAMES, "ctrlib"}
        assert group.repeats >= (1 if quick else 5)


def test_the_command_measures_writes_and_shows(tmp_path):
    done = command("-m", "benchmarks.run", "--quick", "--only", "start", "--results", str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    made = report.load(path)
    shown = made.ratios.iloc[0]
    assert shown["what"] == "ctrlib --help: seconds"
    assert shown["what"] in done.stdout
    assert len(made.measurements) == 4
    assert json.loads(path.read_bytes())["machine"]["versions"]["torch"] == torch.__version__
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_suites_are_measured_again_into_a_file_of_the_same_machine():
    machine = {**MACHINE, "commit": "c"}
    rows = [{"suite": "train", "value": 1}, {"suite": "scale", "value": 2}]
    content = {"machine": machine, "suites": ["train", "scale"], "skipped": [], "measurements": rows}
    left = run.without(content, ["scale", "auc"], machine)
    assert left["measurements"] == rows[:1]
    assert left["suites"] == ["train", "auc", "scale"]
    assert left["measured_again"][0]["suites"] == ["scale", "auc"]
    with pytest.raises(BadParameter, match="cores"):
        run.without(content, ["scale"], {**machine, "cores": 3})
    with pytest.raises(BadParameter, match="together"):
        run.without(content, ["train"], machine)
    with pytest.raises(BadParameter, match="speed: allowed are train"):
        run.main(only="speed")


def test_one_process_a_repeat_measures_everybody_in_turn_and_gives_up_on_who_failed(tmp_path: Path):
    contenders = [
        suites.Contender("a", "fine", "nothing"),
        suites.Contender("b", "broken", "nothing", {"error": "it broke"}),
        suites.Contender("c", "seeded", "start", {"what": "python"}, by_repeat=lambda repeat: {"tries": repeat + 1}),
    ]
    content = {"skipped": [], "measurements": []}
    run.measure("gpu", suites.Group(contenders, repeats=2, together=1), content, tmp_path / "made.json")
    found = [(one["what"], one["repeat"], "error" in one) for one in content["measurements"]]
    assert found == [("a", 0, False), ("b", 0, True), ("c", 0, False), ("a", 1, False), ("c", 1, False)]
    assert "it broke" in content["measurements"][1]["error"]
    assert content["measurements"][-1]["arguments"]["tries"] == 2
    assert json.loads((tmp_path / "made.json").read_text()) == content
