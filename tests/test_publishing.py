"""What publishes the project: workflows, Binder, citation, hooks; commands and files exist, and no secret is needed."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
PROFILES = {path.name for path in (ROOT / "notebooks" / "profiles").iterdir()}
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"[\w.-]+==", line)
)
by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def steps(path: Path) -> list[dict]:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_for_tests_and_book():
    assert {path.stem for path in WORKFLOWS} == {"tests", "book"}


@by_name
def test_workflows_name_commands_that_exist(path):
    """``make`` targets, and programs of the environment that ``make env`` makes."""
    for command in (step["run"] for step in steps(path) if "run" in step):
        words = shlex.split(command)
        if words[0] == "make":
            settings = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            assert {word for word in words[1:] if "=" not in word} <= TARGETS
            assert set(settings) <= {"PROFILE"}
            assert {f"{name}.yaml" for name in settings.values()} <= PROFILES
        else:
            assert re.match(r"\.venv/bin/\w+$", words[0])
            assert Path(words[0]).name in LOCK


@by_name
def test_workflows_need_no_secret_and_ask_for_little(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert "secrets." not in text
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 180 for job in workflow["jobs"].values() if "make" in str(job))
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step)


def test_only_the_main_branch_is_deployed_and_from_where_the_book_is_built():
    text = next(path for path in WORKFLOWS if path.stem == "book").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    deploy = workflow["jobs"]["deploy"]
    assert deploy["if"] == "github.ref == 'refs/heads/main'"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    (upload,) = [step for step in steps(WORKFLOWS[0]) if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "_build/html"


def test_tested_pythons_are_those_of_the_project():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"].values()
    tested = job["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert tested == [f"3.{low}", f"3.{int(high) - 1}"]


def test_hooks_have_the_versions_of_the_lock():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    versions = {hook["repo"].rsplit("/", 1)[1].removesuffix("-pre-commit"): hook["rev"].lstrip("v") for hook in hooks}
    assert set(versions) == {"ruff", "nbstripout", "codespell"}
    assert {name: LOCK[name] for name in versions if name in LOCK} == {
        name: version for name, version in versions.items() if name in LOCK
    }
    for hook in (hook for repo in hooks for hook in repo["hooks"] if "files" in hook):
        assert re.search(hook["files"], "notebooks/01_train_independent.ipynb")


def test_dependabot_looks_after_what_is_there():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions"]


def test_binder_installs_the_lock():
    folder = ROOT / "binder"
    (asked,) = [line for line in (folder / "requirements.txt").read_text().splitlines() if line.startswith("-r ")]
    assert (folder / asked.removeprefix("-r ")).resolve() == ROOT / "requirements.lock"
    assert (folder / "runtime.txt").read_text() == "python-3.11\n"
    assert os.access(folder / "postBuild", os.X_OK)
    assert subprocess.run(["bash", "-n", folder / "postBuild"]).returncode == 0
    assert "- -r requirements.lock" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_one_version_and_one_title_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[1]
    assert citation["version"] == zenodo["version"] == version
    assert citation["title"] == zenodo["title"]
    assert citation["keywords"] == zenodo["keywords"]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in zenodo["creators"]]
    assert citation["license"] == zenodo["license"]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", "book/teach.md", "book/environment.md"])
def test_make_targets_and_paths_that_texts_name_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    named = set(re.findall(r"\bmake ([a-z]+)\b", " ".join([*blocks, *re.findall(r"`(make [^`]+)`", text)])))
    assert named <= TARGETS
    assert named
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    folders = {(ROOT / name).parent, ROOT}
    assert not [link for link in links if not any((folder / link).exists() for folder in folders)]
    paths = re.findall(r"`((?:ctrlib|book|tests|notebooks|binder)/[\w./]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
