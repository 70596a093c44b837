"""The Python of the README and of pages: it runs as it stands, and what they say of the code is so."""

import ast
import re
from typing import get_args

import pytest
from pages import ROOT

from ctrlib import coupling
from ctrlib.config import Coupling, Topology


def python_of(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readmes_example_trains_three_models_alone_and_together(capsys) -> None:
    (example,) = python_of("README.md")
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    exec(compile(example, "README.md", "exec"), {})
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    found = {name: ast.literal_eval(aucs) for name, aucs in lines}
    assert list(found) == ["alone", "together"]
    assert all(len(aucs) == 3 and min(aucs) > 0.55 for aucs in found.values())
    assert found["alone"] != found["together"]


def test_the_code_on_the_page_about_the_loss_holds() -> None:
    (example,) = python_of("book/loss.md")
    exec(compile(example, "loss.md", "exec"), {})
    joint = example.replace("complete(2))", "complete(2), target='joint')")
    with pytest.raises(AssertionError):  # as the page says
        exec(compile(joint, "loss.md", "exec"), {})


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> dict:
    """The names that the page's code leaves, all its blocks in turn."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        exec(compile("\n".join(python_of("book/add_coupling.md")), "add_coupling.md", "exec"), names)
    return names


def test_the_example_trains_a_chain(executed) -> None:
    assert executed["run"].coupling.weights == ((0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (0.0, 5.0, 0.0))
    assert [row["peer_loss"] > 0 for row in executed["last"]] == [False, True, True]
    assert len(executed["record"].content["test"]) == 3


def test_the_example_is_a_topology_as_those_that_have_a_name(executed) -> None:
    """Same arguments, same kind of result, so that adding it takes the three steps that the page names."""
    chain = executed["chain"]
    assert "chain" not in get_args(Topology), "the page would ask for something that is there"
    for size in range(1, 5):
        Coupling(weights=chain(size, 2.0))
        assert len(coupling.connected_groups(chain(size, 2.0))) == 1


def test_the_page_about_couplings_names_what_there_is() -> None:
    page = (ROOT / "book" / "add_coupling.md").read_text(encoding="utf-8")
    for name in ("TOPOLOGIES", "difference", "peer_targets", "ring", "star", "solo"):
        assert name in page
        assert hasattr(coupling, name)
    for name in ("peer_weighting", "teacher_weight", "form", "target", "start"):
        assert f"`{name}`" in page
        assert name in Coupling.model_fields
