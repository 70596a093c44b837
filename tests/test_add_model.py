"""The page "Add your own architecture": its code goes where it says, into a copy of the project, and works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "add_model.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The code of the page under a name."""
    found = re.findall(rf"^```{{code-block}} \w+\n:name: {name}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{name}: {len(found)} blocks"
    return found[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the module and of the tests of the architectures, with the page's file and entry in it."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "ctrlib", root / "ctrlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "browser.py", "small.py", "test_models.py"):
        (root / "tests").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, root / "tests")
    place = re.search(r"Save it as `(ctrlib/models/\w+\.py)`", PAGE)[1]
    (root / place).write_text(block("code-model"), encoding="utf-8")
    registry = re.search(r"At the end of `(ctrlib/models/\w+\.py)`", PAGE)[1]
    with (root / registry).open("a", encoding="utf-8") as file:
        file.write("\n" + block("code-registry"))
    return root


def run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_architecture_keeps_the_promises_of_all(project: Path) -> None:
    python, *rest = block("code-check").split()
    assert python == "python"
    report = run(project, sys.executable, *rest, "-q", "-p", "no:cacheprovider")
    passed = int(re.search(r"(\d+) passed", report)[1]) if "passed" in report else report.count(".")
    assert passed >= 13, report
    assert "failed" not in report


TRAIN = """
from pathlib import Path
import sys
sys.path.insert(0, "tests")
from small import make_run, refused, rows
from ctrlib.config import Coupling
from ctrlib.coupling import complete
from ctrlib.models import architecture_name, build_model
from ctrlib.training.loop import train

assert architecture_name("twotower") == "TwoTower"
other = member.model_copy(update={"init_seed": 2, "options": {}})
run = make_run([member, other], complete(2), epochs=2)
trained = train(run, rows(), device="cpu")
print(trained.history[-1]["valid_auc"], run.fingerprint)
shared = {"embedding_dim": 2, "hidden_units": (4,), "dropout": 0.0, "batch_norm": False}
for options in ({"left_fields": 3}, {"left_field": 1}):
    print(refused(build_model, "TwoTower", (3, 4, 5), 1, **shared, options=options))
"""


def test_it_trains_beside_others_with_its_option_in_which_a_mistake_is_one_line(project: Path) -> None:
    trained, first, second = run(project, sys.executable, "-c", block("code-use") + TRAIN).splitlines()
    auc, fingerprint = trained.split()
    assert float(auc) > 0.5
    assert len(fingerprint) == 16
    assert "left_fields=3" in first
    assert "unknown option of TwoTower 'left_field'; allowed: left_fields" in second
