"""The benchmarks' harness: tables, floor, data, child processes. No speed is asserted here."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctrlib.models import build_model, count_parameters

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is no installed package

from benchmarks import jobs, process, report, run, sizes, suites, table, targets  # noqa: E402
from benchmarks.clock import StepClock  # noqa: E402

MACHINE = {"processor": "Some CPU", "vector_instructions": "AVX2", "cores": 2, "versions": {"torch": "2.13.0"}}


def measurements(suite: str, what: str, who: str, values: list, peak: float = 100.0, **more) -> list[dict]:
    """Hand-made measurements: ``None`` in ``values`` is a repeat that failed."""
    rows = []
    for repeat, value in enumerate(values):
        found = {"error": "it broke"} if value is None else {"value": value, "unit": "s/step", "peak_mb": peak, **more}
        rows.append({"suite": suite, "what": what, "who": who, "repeat": repeat, "others_busy": 0.1, **found})
    return rows


def tables(rows: list[dict], skipped: list[dict] | None = None) -> report.Report:
    """The report on hand-made measurements."""
    names = list(dict.fromkeys(row["suite"] for row in [*rows, *(skipped or [])]))
    return report.tables({"machine": MACHINE, "suites": names, "skipped": skipped or [], "measurements": rows})


def row(made: report.Report, what: str) -> pd.Series:
    """The one row of the ratio table that says ``what``."""
    found = made.ratios[made.ratios["what"] == what]
    assert len(found) == 1, list(made.ratios["what"])
    return found.iloc[0]


def train_measurements() -> list[dict]:
    """Two peers and ctrlib on DeepFM; ``b`` is the faster peer by its median, though not in every repeat."""
    return [
        *measurements("train", "DeepFM", "a", [4.0, 5.0, 6.0]),
        *measurements("train", "DeepFM", "b", [3.0, 8.0, 4.0]),
        *measurements("train", "DeepFM", "ctrlib", [1.0, 2.0, 2.0], peak=321.0),
    ]


def test_speed_is_the_median_of_the_repeats_ratios_to_the_best_peer():
    best = row(tables(train_measurements()), "DeepFM: speed / best peer")
    assert "b" in best["note"].split()
    assert (best["value"], best["low"], best["high"], best["n"]) == (3.0, 2.0, 4.0, 3)  # 3/1, 8/2, 4/2
    assert best["peak_mb"] == 321.0
    other = row(tables(train_measurements()), "DeepFM: speed / a")
    assert (other["value"], other["low"], other["high"]) == (3.0, 2.5, 4.0)


def test_a_repeat_without_its_partner_is_left_out():
    rows = [
        *measurements("train", "DeepFM", "a", [4.0, None, 6.0]),
        *measurements("train", "DeepFM", "ctrlib", [1.0, 1.0, 2.0]),
    ]
    made = tables(rows)
    assert (row(made, "DeepFM: speed / a")["value"], row(made, "DeepFM: speed / a")["n"]) == (3.5, 2)
    assert "1 of 3 repeats failed: it broke" in row(made, "DeepFM: a")["note"]


@pytest.mark.parametrize(("value", "met"), [(2.0, True), (1.9999, False), (2.1, True)])
def test_target_from_below_is_met_exactly_at_the_limit(monkeypatch, value, met):
    monkeypatch.setitem(report.TARGETS, ("train", "DeepFM: speed / best peer"), targets.at_least(2.0))
    rows = [
        *measurements("train", "DeepFM", "a", [value] * 3),
        *measurements("train", "DeepFM", "ctrlib", [1.0] * 3),
    ]
    best = row(tables(rows), "DeepFM: speed / best peer")
    assert best["met"] is met
    assert best["target"] == "≥ 2"


@pytest.mark.parametrize(("value", "met"), [(1.5, True), (1.5001, False), (1.0, True)])
def test_target_from_above_is_met_exactly_at_the_limit(monkeypatch, value, met):
    monkeypatch.setitem(report.TARGETS, ("cohort", "DeepFM: K=4 / 4 x K=1"), targets.at_most(1.5))
    rows = [
        *measurements("cohort", "DeepFM", "K=1", [1.0] * 3),
        *measurements("cohort", "DeepFM", "K=4", [4 * value] * 3),
    ]
    assert row(tables(rows), "DeepFM: K=4 / 4 x K=1")["met"] is met


def test_what_was_skipped_or_failed_is_shown_with_its_reason_and_never_met():
    skipped = [{"suite": "train", "what": "PNN", "who": "torch-rechub", "reason": "it has no PNN"}]
    rows = [*train_measurements(), *measurements("train", "DeepFM", "recbole", [None])]
    made = tables(rows, skipped)
    for what, reason in [("PNN: torch-rechub", "it has no PNN"), ("DeepFM: recbole", "it broke")]:
        shown = row(made, what)
        assert reason in shown["note"]
        assert pd.isna(shown["value"])
        assert shown["met"] is None
    assert "DeepFM: speed / recbole" not in set(made.ratios["what"])


def test_without_ctrlib_s_own_time_no_target_is_met():
    rows = [row for row in train_measurements() if row["who"] != "ctrlib"]
    best = row(tables(rows), "DeepFM: speed / best peer")
    assert pd.isna(best["value"])
    assert best["met"] is None


def test_floor_row_uses_the_fastest_path_and_the_bandwidth_of_the_same_file():
    rates = {name: 1e11 for name in sizes.ARCHITECTURES}
    faster = {name: 2e11 for name in sizes.ARCHITECTURES}
    rows = [
        *measurements("floor", "products", "fp32, highest", [1e11] * 3, detail=rates),
        *measurements("floor", "products", "fp32, medium", [2e11] * 3, detail=faster),
        *measurements("floor", "bandwidth", "memory", [5e10] * 3),
    ]
    cost = sizes.cost("DeepFM")
    floor = sizes.BATCH * cost.flop_training / 2e11 + cost.bytes_step / 5e10
    own = measurements("train", "DeepFM", "ctrlib", [2 * floor, 3 * floor, 4 * floor])
    peer = measurements("train", "DeepFM", "recbole", [5 * floor, 6 * floor, 7 * floor])
    made = tables([*rows, *own, *peer])
    found = row(made, "DeepFM: time / floor")
    assert found["value"] == pytest.approx(3.0)
    assert "fp32, medium" in found["note"]
    assert row(made, "DeepFM: best peer's time / floor")["value"] == pytest.approx(6.0)
    without = row(tables(own), "DeepFM: time / floor")
    assert pd.isna(without["value"])
    assert "not measured" in without["note"]


def test_timings_have_median_spread_and_noise():
    first = tables(train_measurements()).timings.set_index("who").loc["b"]
    assert (first["value"], first["low"], first["high"], first["n"]) == (4.0, 3.0, 8.0, 3)
    assert first["others_busy"] == 0.1


def test_other_suites_ratios():
    peer = {"auc": [0.7, 0.8]}
    own = {"auc": [0.7, 0.8 + 1e-12, 0.9]}
    rows = [
        *measurements("cohort", "four runs", "1 core", [100.0, 100.0]),
        *measurements("cohort", "four runs", "2 cores", [180.0, 200.0]),
        *measurements("cohort", "FiBiNET", "K=1", [1.0], peak=500.0),
        *measurements("cohort", "FiBiNET", "K=4", [4.4], peak=2500.0),
        *measurements("workers", "pool", "1 worker", [20.0, 40.0], detail={"runs_per_s": 2.0}),
        *measurements("workers", "pool", "2 workers", [30.0, 30.0], detail={"runs_per_s": 3.0}),
        *measurements("precision", "AUC", "bf16 - fp32", [1e-4, -3e-4]),
        *measurements("auc", "cohort AUC", "scikit-learn", [6.0], detail=peer),
        *measurements("auc", "cohort AUC", "ctrlib", [1.5], detail=own),
        *measurements("start", "start", "ctrlib --help", [0.5]),
        *measurements("start", "start", "python -c pass", [0.02]),
        *measurements("scale", "members", "K=1", [1.0]),
        *measurements("scale", "members", "K=10", [12.0]),
    ]
    made = tables(rows)
    values = {what: row(made, what)["value"] for what in made.ratios["what"]}
    assert values["four runs: speed on 2 cores / 1 core"] == pytest.approx(1.9)
    assert values["pool, 1 worker: overhead (ms)"] == pytest.approx(30.0)
    assert values["pool: runs a second, 2 workers / 1 worker"] == pytest.approx(1.5)
    assert values["FiBiNET: K=4 / 4 x K=1"] == pytest.approx(1.1)
    assert values["FiBiNET: K=4 peak memory (GB)"] == pytest.approx(2.5)
    assert values["DeepFM: largest AUC difference bf16 - fp32 over seeds"] == pytest.approx(3e-4)
    assert values["scikit-learn / ctrlib time"] == pytest.approx(4.0)
    assert values["largest difference of an AUC"] == pytest.approx(1e-12, rel=1e-3)
    assert values["ctrlib --help / bare interpreter"] == pytest.approx(25.0)
    assert values["time per step and model, K=10 / K=1"] == pytest.approx(1.2)


def test_the_encoder_s_own_measurements_become_rows():
    found = [
        {"what": "ctrlib, 5 rows", "tool": "ctrlib", "values": [30.0, 80.0, 90.0], "unit": "rows/s", "peak_mb": 7.0},
        {"what": "FuxiCTR, 5 rows", "tool": "FuxiCTR", "values": [10.0, 20.0, 15.0], "unit": "rows/s", "peak_mb": 9.0},
        {"what": "speed ctrlib / FuxiCTR, 5 rows", "values": [3.0, 4.0, 6.0], "unit": "times"},
    ]
    made = tables(measurements("encode", "raw text to codes", "all", [3.0], detail={"rows": found}))
    shown = row(made, "raw text to codes: speed / FuxiCTR")
    assert (shown["value"], shown["low"], shown["high"], shown["n"], shown["peak_mb"]) == (4.0, 3.0, 6.0, 3, 7.0)
    assert list(made.timings["who"]) == ["ctrlib", "FuxiCTR"]
    assert pd.isna(row(made, "raw text to codes: speed / FuxiCTR with Ray")["value"])
    with_ray = {**found[1], "tool": "FuxiCTR with Ray", "values": [1.0, 4.0, 3.0]}
    made = tables(measurements("encode", "raw text to codes", "all", [3.0], detail={"rows": [*found, with_ray]}))
    shown = row(made, "raw text to codes: speed / FuxiCTR with Ray")
    assert (shown["value"], shown["low"], shown["high"], shown["met"]) == (30.0, 20.0, 30.0, True)
    found = [found[0], {"what": "FuxiCTR, 5 rows", "tool": "FuxiCTR", "values": [], "error": "no such thing"}]
    made = tables(measurements("encode", "raw text to codes", "all", [2.0], detail={"rows": found}))
    assert "no such thing" in row(made, "raw text to codes: FuxiCTR")["note"]
    assert pd.isna(row(made, "raw text to codes: speed / FuxiCTR")["value"])


def test_every_target_names_a_row_that_the_report_can_make():
    source = Path(report.__file__).read_text(encoding="utf-8")
    for suite, what in targets.TARGETS:
        assert suite in report.ROWS
        tail = what.split(": ", 1)[-1].removesuffix(" (TF32)")
        assert tail in source, f"no row of the report is called {what!r}"


def test_loading_needs_no_torch(tmp_path):
    path = tmp_path / "result.json"
    content = {"machine": MACHINE, "suites": ["train"], "skipped": [], "measurements": train_measurements()}
    path.write_text(json.dumps(content), encoding="utf-8")
    code = (
        "import sys; from benchmarks import report; made = report.load(sys.argv[1]);"
        "print(len(made.ratios), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]


# The floor's formulas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sizes.ARCHITECTURES)
def test_cost_agrees_with_torch_s_own_count_on_the_real_model(architecture):
    codes_each, batch = 7, 8
    options = {"bilinear_type": sizes.BILINEAR} if architecture == "FiBiNET" else {}
    model = build_model(
        architecture,
        [codes_each] * sizes.FIELDS,
        init_seed=1,
        embedding_dim=sizes.EMBEDDING,
        hidden_units=sizes.HIDDEN,
        dropout=0.0,
        batch_norm=False,
        options=options,
    )
    expected = sizes.cost(architecture, codes=sizes.FIELDS * codes_each, batch=batch)
    ids = torch.randint(codes_each, (batch, sizes.FIELDS), generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as forward:
        logits = plain_fibinet(model, ids) if architecture == "FiBiNET" else model(ids)
    assert torch.allclose(logits, model(ids), atol=1e-4)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert count_parameters(model) == expected.parameters
    counted = forward.get_total_flops() / batch
    # PNN takes the product of each pair twice, as a square.
    assert counted == pytest.approx(expected.flop_forward, rel=0.02)
    assert counted + backward.get_total_flops() / batch == pytest.approx(expected.flop_training, rel=0.02)


def plain_fibinet(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """FiBiNET's formula on the model's own layers: torch cannot count inside ctrlib's own kernels."""
    feature_emb = model.embedding(ids)
    pairs = [model.bilinear_raw(feature_emb), model.bilinear_senet(model.senet(feature_emb))]
    return model.first_order(ids) + model.mlp(torch.cat(pairs, dim=1).flatten(1))


def test_costs_at_the_benchmark_s_sizes():
    flop = {name: sizes.cost(name).flop_forward / 1e6 for name in sizes.ARCHITECTURES}
    assert flop == pytest.approx({"DeepFM": 1.14, "DCN": 1.15, "PNN": 1.76, "FiBiNET": 19.7}, rel=0.01)
    table_bytes = 7 * 4 * 300_000 * 16  # Adam: four values read and three written for each number of the table
    assert sizes.cost("DCN").bytes_step > table_bytes
    wide = sizes.cost("DCN", codes=600_000).bytes_step - sizes.cost("DCN").bytes_step
    assert wide == pytest.approx(table_bytes + 4 * 300_000 * 16)  # the gradient of the table is also zeroed


def test_floor_time_adds_arithmetic_and_traffic():
    cost = sizes.Cost(flop_forward=10.0, bytes_step=200.0, parameters=1)
    assert cost.floor_seconds(flop_rate=60.0, bandwidth=100.0, batch=4) == pytest.approx(4 * 30 / 60 + 200 / 100)


# Data and processes --------------------------------------------------------------------------------------------


def test_table_has_the_shape_promised(tmp_path):
    made = table.make(20_000)
    table.save(made, tmp_path / "t")
    read = table.load(tmp_path / "t")
    assert np.array_equal(read.ids, made.ids)
    assert np.array_equal(read.labels, made.labels)
    assert read.field_dims == made.field_dims
    assert read.ids.shape == (20_000, 39)
    assert read.ids.dtype == np.int32
    assert sum(read.field_dims) == 300_000
    assert min(read.field_dims) >= 2
    assert (read.ids.min(axis=0) >= 0).all()
    assert (read.ids.max(axis=0) < np.array(read.field_dims)).all()
    assert read.labels.mean() == pytest.approx(0.25, abs=0.015)
    counts = np.sort(np.bincount(read.ids[:, 0], minlength=40))[::-1]
    law = np.arange(1, 41) ** -1.05
    assert counts[:5] / 20_000 == pytest.approx(law[:5] / law.sum(), rel=0.1)
    with pytest.raises(ValueError, match="20001 rows"):
        read.head(20_001)


@pytest.mark.parametrize("codes", [100_000, 1_000_000])
def test_field_sizes_add_up(codes):
    assert sum(table.field_sizes(codes)) == codes
    assert len(table.field_sizes(codes)) == 39


def test_step_clock_sees_every_step_and_leaves_out_the_first():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    clock = StepClock()
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
    clock._hook.remove()
    assert len(clock.stamps) == 4
    clock.stamps = [0.0, 10.0, 12.0, 16.0]
    assert clock.seconds_per_step(warm=2) == pytest.approx(3.0)
    with pytest.raises(RuntimeError, match="more than 4"):
        clock.seconds_per_step(warm=4)


def test_a_child_runs_on_its_cores_and_its_failure_is_one_line():
    good = process.run_child("nothing", {})
    assert good["value"] == 1.0
    assert good["detail"]["cores"] in ([], good["cores"])
    assert good["cores"] == process.usable_cores()[-1:]
    assert good["peak_mb"] > 5
    assert 0 <= good["rivals_busy"] <= 1
    bad = process.run_child("nothing", {"error": f"two\nlines in {ROOT}/x"})
    assert bad["error"] == "ValueError: two lines in ./x"
    assert "value" not in bad


def test_every_contender_s_job_exists_and_takes_its_arguments(monkeypatch, tmp_path):
    from inspect import signature

    from benchmarks import jobs

    monkeypatch.setattr(suites, "stored_table", lambda *_: "nowhere")
    for name, suite in suites.SUITES.items():
        for quick in (True, False):
            for group in suite(quick, tmp_path):
                assert group.contenders or group.skipped, name
                for one in group.contenders:
                    extra = one.by_repeat(0) if one.by_repeat else {}
                    signature(getattr(jobs, one.job)).bind(cores=one.cores, **one.arguments, **extra)


def test_every_peer_is_measured_or_named_as_missing(monkeypatch, tmp_path):
    from benchmarks import peers

    monkeypatch.setattr(suites, "stored_table", lambda *_: "nowhere")
    groups = dict(zip(sizes.ARCHITECTURES, suites.train(False, tmp_path), strict=True))
    for group in groups.values():
        there = {one.who for one in group.contenders} | {who for _, who, _ in group.skipped}
        assert there == {*peers.NAMES, "ctrlib"}
        assert group.repeats >= 5


def test_the_command_measures_writes_and_shows(tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--only", "start", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (path,) = tmp_path.glob("*.json")
    made = report.load(path)
    shown = made.ratios.iloc[0]
    assert shown["what"] == "ctrlib --help: seconds"
    assert shown["what"] in done.stdout
    assert made.ratios.iloc[1]["value"] > 1  # over a bare interpreter
    assert len(made.measurements) == 4
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_an_unknown_suite_is_refused_with_the_ones_there_are():
    command = [sys.executable, "-m", "benchmarks.run", "--only", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "speed" in done.stderr
    assert "train" in done.stderr


def test_suites_are_measured_again_into_a_file_of_the_same_machine():
    from typer import BadParameter

    from benchmarks.run import without

    machine = {"processor": "p", "vector_instructions": "AVX512", "cores": 2, "versions": {"torch": "2"}, "commit": "c"}
    rows = [{"suite": "train", "value": 1}, {"suite": "scale", "value": 2}]
    content = {"machine": machine, "suites": ["train", "scale"], "skipped": [], "measurements": rows}
    left = without(content, ["scale", "auc"], machine)
    assert left["measurements"] == rows[:1]
    assert left["suites"] == ["train", "auc", "scale"]
    assert left["measured_again"][0]["suites"] == ["scale", "auc"]
    with pytest.raises(BadParameter, match="cores"):
        without(content, ["scale"], {**machine, "cores": 3})
    with pytest.raises(BadParameter, match="vector_instructions"):
        without(content, ["scale"], {**machine, "vector_instructions": "AVX2"})
    with pytest.raises(BadParameter, match="together"):
        without(content, ["train"], machine)


@pytest.mark.parametrize("quick", [True, False])
def test_every_cohort_finds_as_many_rows_as_it_asks_for(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(suites, "stored_table", lambda folder, rows, codes=sizes.CODES: str(rows))
    for suite in (suites.train, suites.cohort, suites.precision, suites.scale):
        for group in suite(quick, tmp_path):
            for one in [one for one in group.contenders if one.job == "cohort"]:
                assert one.arguments["steps"] * sizes.BATCH <= int(one.arguments["table"]), one


def gpu_measurements() -> list[dict]:
    """Two repeats on a GPU: rates for the floor, a peer, ctrlib in both precisions."""
    rates = {name: 1e14 for name in sizes.ARCHITECTURES}
    return [
        *measurements("gpu", "products", "fp32", [1e14] * 2, detail=rates),
        *measurements("gpu", "bandwidth", "memory", [4e12] * 2),
        *measurements("gpu", "DeepFM", "deepctr-torch", [0.05, 0.06], peak=400.0),
        *measurements("gpu", "DeepFM", "ctrlib K=4", [0.002, 0.002], peak=2500.0),
        *measurements("gpu", "AUC", "tf32 - fp32", [-3e-4, 1e-4]),
    ]


def test_on_a_gpu_four_models_stand_beside_four_trainings_and_four_floors():
    made = tables(gpu_measurements())
    speed = row(made, "DeepFM: K=4 speed / DeepCTR-Torch")
    assert (speed["low"], speed["high"], speed["peak_mb"]) == (pytest.approx(100), pytest.approx(120), 2500.0)
    floor = sizes.cost("DeepFM", codes=sizes.GPU_CODES).floor_seconds(1e14, 4e12)
    assert row(made, "DeepFM: K=4 time / floor")["value"] == pytest.approx(0.002 / (4 * floor))
    assert f"{4000 * floor:.2f} ms" in row(made, "DeepFM: K=4 milliseconds per step")["note"]
    assert row(made, "DeepFM: largest AUC difference tf32 - fp32 over seeds")["value"] == pytest.approx(3e-4)


def test_the_newest_record_of_each_suite_is_shown(tmp_path: Path):
    """A record in which a suite failed, or was left out, does not take the place of one that has it."""
    precision = measurements("precision", "DeepFM", "fp32", [2.0])
    whole = [*precision, *measurements("precision", "DeepFM", "bf16", [1.0])]
    failed = {**measurements("precision", "DeepFM", "bf16", [1.0])[0], "error": "no such instructions"}
    train, floor = (
        train_measurements(),
        measurements("floor", "products", "fp32, highest", [1e11], detail={"DeepFM": 1e11}),
    )
    floor += measurements("floor", "products", "fp32, medium", [2e11], detail={"DeepFM": 2e11})
    start = measurements("start", "start", "ctrlib --help", [0.2])
    for name, found in {
        "2026-01-01-a-2-cores": [*train, *floor, *whole, *start],
        "2026-01-02-a-2-cores": [*train, *precision, failed],
        "2026-01-03-a-2-cores": [*floor, *start],
        "2026-01-04-a-2-cores-quick": start,
        "2026-01-05-b-16-cores-gpu": gpu_measurements(),
    }.items():
        suites = list(dict.fromkeys(one["suite"] for one in found))
        content = {"machine": {**MACHINE, "commit": name}, "suites": suites, "skipped": [], "measurements": found}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    shown = {suite: one.machine["commit"][8:10] for suite, one in report.newest(tmp_path).items()}
    assert shown == {"start": "03", "train": "02", "floor": "02", "precision": "01"}
    assert [one.machine["commit"][8:10] for one in report.newest(tmp_path, gpu=True).values()] == ["05"]


def test_what_takes_too_long_is_ended_with_all_it_started(monkeypatch):
    monkeypatch.setattr(process, "LIMIT_SECONDS", 6)
    mark = f"mark-{uuid.uuid4()}"
    assert process.run_child("nothing", {"hangs": mark})["error"] == "not finished after 6 s"
    assert not [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]


def test_bfloat16_is_not_measured_where_it_would_take_hours(monkeypatch):
    monkeypatch.setattr("ctrlib.fast.machine.multiplies_bfloat16", lambda: False)
    with pytest.raises(RuntimeError, match="no AVX-512"):
        jobs.products(1, batch=1, precision="bf16")


def test_one_process_a_repeat_measures_everybody_in_turn_and_gives_up_on_who_failed(tmp_path: Path):
    group = suites.Group(
        [
            suites.Contender("a", "fine", "nothing"),
            suites.Contender("b", "broken", "nothing", {"error": "it broke"}),
            suites.Contender(
                "c", "seeded", "start", {"what": "python"}, by_repeat=lambda repeat: {"tries": repeat + 1}
            ),
        ],
        repeats=2,
        together=1,
    )
    content = {"skipped": [], "measurements": []}
    run.measure("gpu", group, content, tmp_path / "made.json")
    found = [(one["what"], one["repeat"], "error" in one) for one in content["measurements"]]
    assert found == [("a", 0, False), ("b", 0, True), ("c", 0, False), ("a", 1, False), ("c", 1, False)]
    assert "it broke" in content["measurements"][1]["error"]
    assert content["measurements"][-1]["arguments"]["tries"] == 2
    assert json.loads((tmp_path / "made.json").read_text()) == content
