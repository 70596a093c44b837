"""What publishes the project: workflows, Binder, citation, hooks; commands and files exist, and no secret is needed."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from footer import bibtex, footer

from ctrlib.store.environment import source_commit

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
PROFILES = {path.name for path in (ROOT / "notebooks" / "profiles").iterdir()}
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"[\w.-]+==", line)
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path | str) -> dict:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


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
    workflow = read(path)
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 180 for job in workflow["jobs"].values() if "make" in str(job))
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step)


def test_tested_pythons_are_those_of_the_project():
    (job,) = read(".github/workflows/tests.yml")["jobs"].values()
    low, high = re.search(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert job["strategy"]["matrix"]["python"] == [f"3.{low}", f"3.{int(high) - 1}"]


def test_hooks_have_the_versions_of_the_lock():
    hooks = read(".pre-commit-config.yaml")["repos"]
    versions = {hook["repo"].rsplit("/", 1)[1].removesuffix("-pre-commit"): hook["rev"].lstrip("v") for hook in hooks}
    assert set(versions) == {"ruff", "nbstripout", "codespell"}
    assert all(LOCK.get(name, version) == version for name, version in versions.items())
    for hook in (hook for repo in hooks for hook in repo["hooks"] if "files" in hook):
        assert re.search(hook["files"], "notebooks/01_train_independent.ipynb")


def test_binder_installs_the_lock():
    folder = ROOT / "binder"
    (asked,) = [line for line in (folder / "requirements.txt").read_text().splitlines() if line.startswith("-r ")]
    assert (folder / asked.removeprefix("-r ")).resolve() == ROOT / "requirements.lock"
    assert (folder / "runtime.txt").read_text() == "python-3.11\n"
    assert os.access(folder / "postBuild", os.X_OK)
    assert subprocess.run(["bash", "-n", folder / "postBuild"]).returncode == 0
    assert "- -r requirements.lock" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_one_version_and_one_title_everywhere():
    citation, zenodo = read("CITATION.cff"), json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    for name in ("version", "title", "keywords", "license"):
        assert citation[name] == zenodo[name]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in zenodo["creators"]]


def test_the_footer_says_licences_version_date_and_how_to_cite(tmp_path):
    (tmp_path / "CITATION.cff").write_bytes((ROOT / "CITATION.cff").read_bytes())
    (tmp_path / "notebooks").mkdir()
    for n, days in enumerate(("2025-01-02", "2025-03-04 to 2025-05-06")):
        page = f"*This page shows:* profile *tiny*, data *a*, 1 run, trained {days}; page made 2026-01-02."
        (tmp_path / "notebooks" / f"{n}.ipynb").write_text(page, encoding="utf-8")
    citation, text = read("CITATION.cff"), footer(tmp_path, date(2026, 1, 2))
    said = BeautifulSoup(text, "html.parser")
    assert all(word in said.p.text for word in ("CC BY 4.0", "MIT", f"Version {citation['version']}", "2026-01-02"))
    assert "Profile tiny; newest run of 2025-05-06." in said.p.text
    assert "Profile" not in footer(ROOT, date(2026, 1, 2)), "no page of these sources was executed"
    entry = said.select_one(".highlight pre").text
    assert entry == bibtex(citation, source_commit())
    assert f"title = {{{citation['title']}}}" in entry
    assert all(one["name"] in entry for one in citation["authors"])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", "book/teach.md", "book/environment.md"])
def test_make_targets_and_paths_that_texts_name_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    named = set(re.findall(r"\bmake ([a-z-]+)\b", " ".join([*blocks, *re.findall(r"`(make [^`]+)`", text)])))
    assert named <= TARGETS
    assert named
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    folders = {(ROOT / name).parent, ROOT}
    assert not [link for link in links if not any((folder / link).exists() for folder in folders)]
    paths = re.findall(r"`((?:ctrlib|book|tests|notebooks|binder)/[\w./]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
