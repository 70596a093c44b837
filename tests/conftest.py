"""Shared fixtures: the executed tiny study, the one book built from it, and one running browser."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from browser import browse  # noqa: F401 (a fixture)
from hypothesis import settings

# A busy machine is no failure; where CI is set, the drawn inputs are the same every time, so that a change is judged by
# itself. At a desk they are new each time, and find what nobody thought of.
settings.register_profile("unhurried", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("unhurried")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests compare bits

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny.yaml"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With several processes (``-n 2``) the files that share the tiny study, its book or the browser go to one of them;
    each other file goes as a whole to whichever is free."""
    from xdist.scheduler import LoadScopeScheduling

    shared = re.compile(r"\b(tiny_study|built_book|browse)\b")

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "book" if shared.search((ROOT / file).read_text(encoding="utf-8")) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files in a folder of their own, so that building leaves no trace in the checkout."""
    from ctrlib.publish.book import TOP_FILES

    root = tmp_path_factory.mktemp("a project with späces")
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".venv")
    for name in ("book", "notebooks", "ctrlib", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=left_out)
    for name in TOP_FILES:
        shutil.copy2(ROOT / name, root / name)
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    listed = {Path(chapter["file"]).name for part in toc["parts"] for chapter in part["chapters"]}
    later = [
        f"notebooks/{path.stem}" for path in sorted((root / "notebooks").glob("*.ipynb")) if path.stem not in listed
    ]
    if later:  # notebooks that are no page yet, because their runs are not published, are executed and built as well
        toc["parts"].append({"caption": "To come", "chapters": [{"file": name} for name in later]})
        (root / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def tiny_study(project_copy: Path) -> dict[str, object]:
    """Every notebook executed with the smallest settings, in a store of its own; outcomes by notebook number."""
    from ctrlib.run.execute import execute_all
    from ctrlib.run.plan import plan
    from ctrlib.run.training import train_planned

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLIB_RUNS", str(project_copy / "runs"))
        jobs = plan(project_copy, str(TINY), [], {})
        lacking = train_planned(jobs, lines.append)
        assert not lacking, lacking
        outcomes = list(execute_all(jobs, project_copy, lines.append, at_once=4))
        return {"outcomes": {one.job.number: one for one in outcomes}, "lines": lines, "root": project_copy}


@pytest.fixture(scope="session")
def built_book(tiny_study: dict[str, object]) -> Path:
    """The html folder of a strict build (every warning an error) from the tiny study: the one build of all tests."""
    from ctrlib.publish.book import render

    failed = [f"{o.job.name}: {o.error}" for o in tiny_study["outcomes"].values() if o.state == "failed"]
    assert not failed, failed
    root = tiny_study["root"]
    return render(root, root / "_build" / "study" / "tiny").parent
