"""The digest of the code that decides numbers: what changes it, and what becomes of the runs of other code."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import make_run, member, refused
from stores import here, quick, rewrite

import ctrlib
from ctrlib.config import Checkpoint
from ctrlib.coupling import complete
from ctrlib.models import MODELS
from ctrlib.store import battery, code
from ctrlib.store.code import PACKAGE, TRAINING, all_parts, definitions, function_code, other_parts, run_code
from ctrlib.store.ensure import ensure_all, train_task
from ctrlib.store.record import read_record
from ctrlib.store.runs import RunStore
from ctrlib.training.loop import train


def copy(tmp_path: Path, name: str, module: str = "", old: str = "", new: str = "") -> Path:
    """A copy of the package in which the text of a module is changed."""
    package = tmp_path / name / "ctrlib"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    if module:
        text = (package / module).read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        (package / module).write_text(text.replace(old, new), encoding="utf-8")
    return package


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {part for part in before if before[part] != after[part]}


@pytest.mark.parametrize(
    ("module", "old", "new", "parts"),
    [
        ("training/loop.py", "MIN_GAIN = 1e-6", "MIN_GAIN = 2e-6", {"training"}),
        ("models/deepfm.py", "        return ", "        return 2 * ", {"DeepFM"}),
        ("models/layers.py", "EMBEDDING_STD = 1e-4", "EMBEDDING_STD = 1e-3", {"training", *MODELS}),
        ("fast/kernels.py", "COLUMNS = 1500", "COLUMNS = 1000", {"training"}),
        ("data/synthetic.py", "LATENT_RANK = 3", "LATENT_RANK = 2", {"synthetic"}),
        ("models/deepfm.py", "class DeepFM(FM):", "SIZE = 3\n\n\nclass DeepFM(FM):", set()),
        ("training/loop.py", "MIN_GAIN = 1e-6", "MIN_GAIN: float = 1e-6  # rises by this", set()),
        ("models/__init__.py", '    "LR": LR,\n', '    "LR": LR,\n    "LR2": LR,\n', set()),
        ("errors.py", "class UserError", "class Unused: ...\n\n\nclass UserError", set()),
        ("config.py", "    epochs: int = Field", "    unused: int = 3\n    epochs: int = Field", set()),
    ],
)
def test_what_decides_numbers_changes_the_digest_of_its_part_alone(tmp_path, module, old, new, parts) -> None:
    other = copy(tmp_path, "other", module, old, new)
    assert changed(all_parts(), all_parts(other)) - {"LR2"} == parts


def test_a_function_may_move_to_another_module(tmp_path) -> None:
    package = copy(tmp_path, "moved")
    text = (package / "training" / "evaluation.py").read_text(encoding="utf-8")
    (package / "training" / "prediction.py").write_text(text, encoding="utf-8")
    loop = package / "training" / "loop.py"
    loop.write_text(
        loop.read_text(encoding="utf-8").replace("training.evaluation import", "training.prediction import")
    )
    assert changed(all_parts(), all_parts(package)) == set()


def test_all_that_a_training_calls_is_covered(tmp_path) -> None:
    """Whatever of the core and of ``fast`` runs is among what the digest covers, settings and errors aside."""
    called = set()

    def note(frame, event, _) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            module = str(Path(frame.f_code.co_filename).relative_to(PACKAGE)).removesuffix(".py").replace(os.sep, ".")
            called.add((module.removesuffix(".__init__"), frame.f_code.co_qualname.partition(".")[0]))

    members = [member(n, architecture=name, dropout=0.2) for n, name in enumerate(MODELS)]
    runs = [make_run(members, complete(len(members)), averaging="ema", patience=1, keep="best", embedding_l2=1e-3)]
    runs += [
        make_run([member(1), member(2)], complete(2), embeddings="shared", coupling={"peer_weighting": "adaptive"})
    ]
    rows = ctrlib.load_data(runs[0].data)
    sys.setprofile(note)
    try:
        for run in runs:
            train(run, rows, device="cpu")
    finally:
        sys.setprofile(None)
    roots = [*TRAINING, *(f"models.{architecture.__name__}" for architecture in MODELS.values())]
    covered = definitions(PACKAGE, *roots).keys()
    rooms = ("coupling", "models", "training", "fast")
    called.discard(("training.dataset", "Split"))  # rows have a fingerprint of their own
    wanted = {one for one in called if one[0].startswith(rooms) and not one[1].startswith("<")}
    assert len(wanted) > 60
    assert wanted - covered == set()


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_every_python_gives_the_same_digests(version) -> None:
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    if not (python := next((place for place in reversed(places) if place), None)):
        pytest.skip(f"no Python {version} here")
    script = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import json; from ctrlib.store.code import all_parts"
    )
    done = subprocess.run([python, "-c", f"{script}; print(json.dumps(all_parts()))"], capture_output=True, text=True)
    if "No module named" in done.stderr or "pyenv" in done.stderr:
        pytest.skip(f"Python {version} is not usable here")
    assert json.loads(done.stdout) == all_parts()


def test_a_measure_is_covered_with_its_statistics() -> None:
    from ctrlib.study.baselines import baseline_scores

    inside = {name for _, name in definitions(PACKAGE, "study.baselines.baseline_scores")}
    assert {"logistic_regression", "auc_of_rows"} <= inside
    assert "measured" not in inside
    assert len(function_code(baseline_scores)) == 16


def test_a_run_of_other_code_is_trained_again_and_said(tmp_path) -> None:
    """By a real process that has another DeepFM; the run of a DCN counts for both."""
    store = RunStore(tmp_path / "runs")
    runs = [quick(1), make_run([member(1, architecture="DCN")], epochs=1)]
    first = here(store, runs)
    other = copy(tmp_path, "other", "models/deepfm.py", "        return ", "        return 1.5 * ")
    script = (
        "import sys; from pathlib import Path; from ctrlib.config import Run; from ctrlib.store.runs import RunStore\n"
        "runs = [Run.model_validate_json(line) for line in sys.argv[2:]]\n"
        "RunStore(Path(sys.argv[1])).ensure(runs, 'cpu', 1)"
    )
    command = [sys.executable, "-c", script, str(store.root), *(run.model_dump_json() for run in runs)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(other.parent)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2 runs: 1 in the store, 1 to train"
    assert lines[1].startswith("1 of them are in the store, by other code (DeepFM): they will be trained again; ")
    theirs = [read_record(record.folder).content for record in first]
    assert theirs[0]["code"]["DeepFM"] != first[0].content["code"]["DeepFM"]
    assert theirs[0]["test"] != first[0].content["test"]
    assert theirs[1] == first[1].content
    said: list[str] = []
    ensure_all(store, runs, "cpu", 1, show=said.append)
    assert "by other code (DeepFM)" in said[1]
    assert read_record(first[0].folder).content["test"] == first[0].content["test"]


def test_what_builds_on_it_follows_only_if_its_weights_are_others(tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    start = quick(1)
    heir = make_run([member(1)], start=[Checkpoint(run=start.fingerprint)], epochs=1)
    before = here(store, [start, heir])
    rewrite(before[0].folder / "run.json", code={**run_code(start), "training": "0" * 16})
    assert store.find(heir) is None
    assert [store.find(run, verify=False) for run in (start, heir)] == [None, None]
    assert "needed, was trained by other code (training)" in refused(store.train, heir)
    said: list[str] = []
    fresh = RunStore(store.root)
    ensure_all(fresh, [heir], "cpu", 1, show=said.append)
    assert "1 of them are in the store, from other weights" in said[1]
    assert read_record(before[1].folder).content == before[1].content, "the same bits came out: it is as it was"
    assert all(fresh.find(run, verify=False) for run in (start, heir))
    rewrite(before[1].folder / "run.json", weights={start.fingerprint: "0" * 64})
    assert fresh.find(heir) is None
    assert fresh.find(start)


def test_records_from_before_count(tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    (record,) = here(store, [quick(1)])
    content = json.loads((record.folder / "run.json").read_bytes())
    del content["checksum"], content["code"], content["weights"]
    from ctrlib.data.files import seal

    (record.folder / "run.json").write_text(seal(content))
    assert RunStore(store.root).find(quick(1)).content.get("code") is None


def test_a_worker_of_other_code_refuses(tmp_path) -> None:
    run = quick(1)
    other = {**run_code(run), "DeepFM": "0" * 16}
    task = (str(tmp_path), 60.0, None, run.fingerprint, run.model_dump_json(), other, "cpu", 1)
    assert "has other code of ctrlib (DeepFM)" in refused(train_task, *task)


@pytest.mark.long
def test_a_change_of_names_is_settled_and_one_of_numbers_is_not(tmp_path, monkeypatch) -> None:
    """Under a real commit whose trainer has another name for a constant, and another mean."""
    monkeypatch.setattr(code, "SAME", tmp_path / "same_code.json")
    for name, module, old, new in (
        ("renamed", "training/evaluation.py", "EVALUATION_ROWS", "ROWS_AT_ONCE"),
        ("other", "coupling.py", "(own - target) ** 2", "(own - target).abs()"),
    ):
        root = copy(tmp_path, name).parent
        path = root / "ctrlib" / module
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *command], cwd=root, check=True)
        before = all_parts(root / "ctrlib")
        assert other_parts(before) == ["training"]
        differ, parts = battery.settle("HEAD", root)
        assert (bool(differ), parts) == ((False, ["training"]) if name == "renamed" else (True, []))
        assert other_parts(before) == ([] if name == "renamed" else ["training"])


def test_every_training_of_the_battery_is_another() -> None:
    found = dict(battery.battery())
    assert len(set(found.values())) == len(found) > 20


def test_a_commit_that_is_not_there_is_one_line(tmp_path) -> None:
    assert "commit 'nonsense'" in refused(battery.settle, "nonsense", tmp_path)


TOWER = """
from torch import nn
from ctrlib.models.layers import FirstOrder

SCALE = 1.0

class Scaled(nn.Module):
    def __init__(self, field_dims):
        super().__init__()
        self.first_order = FirstOrder(field_dims)

    def forward(self, ids):
        return SCALE * self.first_order(ids)
"""


def test_a_registered_class_trains_here_and_its_source_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for scale in ("1.0", "2.0"):
        (tmp_path / "elsewhere.py").write_text(TOWER.replace("1.0", scale))
        importlib.invalidate_caches()
        sys.modules.pop("elsewhere", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        model = ctrlib.register_model(importlib.import_module("elsewhere").Scaled)
        runs = [make_run([member(n, architecture="Scaled")], epochs=1) for n in (1, 2)]
        records = RunStore(tmp_path / scale).ensure(runs, "cpu", workers=2)
        digests.append(records[0].content["code"])
    del MODELS["Scaled"]
    assert changed(*digests) == {"Scaled"}
    model.__name__ = "DeepFM"
    assert "there is an architecture 'DeepFM' already" in refused(ctrlib.register_model, model)
