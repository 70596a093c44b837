"""The reference part: tables made from the code, and an API page for every module that is meant to be used."""

import re
from typing import Annotated, Literal

import pytest
from fleet import LOGS, fleet_rows, limit_rows, limits, on_paper
from pages import ROOT
from pydantic import BaseModel, Field
from reference import allowed, literal, package_rows, parameter_rows, spans, table

from ctrlib.run.plan import declared_parameters, find_notebooks
from ctrlib.study.parameters import StudyParameters


class Sample(BaseModel):
    whole: int = Field(ge=2, le=1000)
    share: float = Field(ge=0, lt=1)
    words: tuple[Literal["a", "b"], ...] = Field(min_length=1)
    many: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2)
    either: str | None = None


WORDS = {
    "whole": "whole number, from 2 to 1,000",
    "share": "number, from 0 below 1",
    "words": "list: `a`, `b`",
    "many": "list: whole number, from 1, at least 2 of them",
    "either": "text or none",
}
TYPED = {(1, 2): "`[1, 2]`", 1e-5: "`1e-05`", "mse": "`mse`", "": '`""`', None: "`null`", True: "`True`"}


def test_types_limits_and_defaults_are_said_in_words():
    assert {name: allowed(field.annotation, field.metadata) for name, field in Sample.model_fields.items()} == WORDS
    assert {value: literal(value) for value in TYPED} == TYPED
    assert spans(["01", "02", "03", "07", "12", "13"]) == "01 to 03, 07, 12 to 13"
    assert table(["a"], [["x|y"]]) == "| a |\n| :-- |\n| x\\|y |"


def test_every_parameter_of_a_notebook_is_listed_with_its_default():
    rows = {row[0].strip("`"): row for row in parameter_rows(ROOT)}
    declared = {
        name: value for path in find_notebooks(ROOT).values() for name, value in declared_parameters(path).items()
    }
    assert set(rows) == set(declared)
    assert set(rows) <= set(StudyParameters.model_fields)
    for name, value in declared.items():
        assert literal(value) in rows[name][2]
        assert len(rows[name][3]) > 10


def test_every_asked_package_is_listed_with_its_locked_version():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    *asked, rest = package_rows(ROOT)
    assert len(asked) >= 15
    for name, version, why in asked:
        assert re.search(rf"(?im)^{name.strip('`').replace('_', '[-_]')}=={re.escape(version)}$", lock)
        assert why
    assert len(asked) + len(rest[2].split(", ")) == len(re.findall(r"^[\w.-]+==", lock, flags=re.MULTILINE))


def test_built_tables_and_api_are_there(built_book):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (built_book / "book").glob("*.html")}
    assert pages["parameters"].count("<tr") > 60
    assert "number, above 0 to 10" in pages["parameters"]
    assert pages["provenance"].count('href="../notebooks/') >= len(find_notebooks(ROOT))
    api = "".join(pages[name] for name in ("api_training", "api_measuring", "api_data"))
    named = ("coupling.peer_loss", "training.loop.train", "store.runs.RunStore", "training.auc.auc", "run.plan.plan")
    for name in named:
        assert f'id="ctrlib.{name}"' in api
    assert "_auc" not in re.findall(r'id="ctrlib\.stats\.metrics\.(\w+)"', api)


def test_the_papers_grid_on_many_cards():
    for log in LOGS:
        made = on_paper(ROOT, log)
        assert made.takes(1) == pytest.approx(made.alone)
        assert made.alone / 8 <= made.takes(8) <= 1.05 * made.alone / 8, "what the page says of 8 cards"
        assert 1.05 * made.alone / 64 <= made.takes(64), "and of 64"
        assert made.chain < made.takes(64), "a chain is left"
        assert 0 < made.kept < made.written
        cards = [count for count, _ in limits(ROOT, "Criteo").values()]
        assert cards == sorted(cards)
    assert [row[0] for row in fleet_rows(ROOT)][:3] == ["1", "8", "64"]
    assert "GB" in limit_rows(ROOT)[-1][1]
