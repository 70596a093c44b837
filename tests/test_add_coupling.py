"""The page on adding a coupling: its example runs as it stands, and what it says of the code is so."""

import re
from pathlib import Path
from typing import get_args

import pytest

from ctrlib import coupling
from ctrlib.config import Coupling, Topology

PAGE = (Path(__file__).resolve().parents[1] / "book" / "add_coupling.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> dict:
    """The names that the page's code leaves, all its blocks in turn."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        exec(compile("\n".join(CODE), "add_coupling.md", "exec"), names)
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


def test_the_page_names_what_there_is() -> None:
    for name in ("TOPOLOGIES", "difference", "peer_targets", "ring", "star", "solo"):
        assert name in PAGE
        assert hasattr(coupling, name)
    for name in ("peer_weighting", "teacher_weight", "form", "target", "start"):
        assert f"`{name}`" in PAGE
        assert name in Coupling.model_fields
