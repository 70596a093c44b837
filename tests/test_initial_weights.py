"""The initial weights of every layer of every architecture, against the table on the page about the method."""

import re
from fnmatch import fnmatchcase
from math import prod, sqrt
from pathlib import Path

import pandas as pd
import pytest

from ctrlib.models import MODELS, build_model

METHOD = Path(__file__).resolve().parent.parent / "book" / "method.md"
SIZES = dict(embedding_dim=16, hidden_units=(200, 100), dropout=0.0)
FIELDS = 8


def _table():
    """Pairs of the patterns of parameters and the formula, a row each."""
    text = METHOD.read_text(encoding="utf-8")
    rows = re.search(r"\| Initial weights of .*?\n\n", text, re.DOTALL)[0].split("\n")[2:-2]
    cells = [row.split("|") for row in rows]
    return [(re.findall(r"`(\S*[.*]\S*)`", names), formula.strip(" `")) for _, names, formula, _ in cells]


def _formula(name):
    """The formula of the row that a parameter belongs to; that of biases comes before all others."""
    found = [formula for patterns, formula in reversed(_table()) for one in patterns if fnmatchcase(name, one)]
    assert found, f"the table has no row for {name}"
    assert found[0] == "0" or len(found) == 1, name
    return found[0]


def _expected(formula, shape, **more):
    names = {"sqrt": sqrt, "D": shape[-1], "inputs": shape[-1], "outputs": shape[-2] if len(shape) > 1 else 1, **more}
    return eval(formula, {"__builtins__": {}}, names)


def _off_by(weights, sd):
    """How many standard errors the measured standard deviation is from ``sd``."""
    return abs(weights.double().square().mean().sqrt().item() - sd) / (sd / sqrt(2 * prod(weights.shape)))


@pytest.mark.parametrize("architecture", MODELS)
def test_every_layer_starts_as_the_page_says(architecture):
    model = build_model(architecture, [300] * FIELDS, 1, **SIZES, batch_norm=False, options={})
    for name, weights in model.named_parameters():
        sd = _expected(_formula(name), weights.shape)
        assert (weights == 0).all() if sd == 0 else _off_by(weights.detach(), sd) < 5, (name, sd)


@pytest.mark.parametrize(("kind", "matrices"), [("field_interaction", 28), ("field_each", 7), ("field_all", 1)])
def test_bilinear_matrices_may_start_as_a_stack(kind, matrices):
    options = {"bilinear_type": kind, "bilinear_init": "stacked"}
    model = build_model("FiBiNET", [300] * FIELDS, 1, **SIZES, batch_norm=False, options=options)
    formula = re.search(r"which gives `(.*?)`", METHOD.read_text(encoding="utf-8"))[1]
    sd = _expected(formula, (16, 16), matrices=matrices) if matrices > 1 else 16**-0.5  # one matrix is no stack
    assert 19 < 16**-0.5 / _expected(formula, (16, 16), matrices=39 * 38 // 2) < 20, "a twentieth, says the page"
    assert _off_by(model.bilinear_raw.weight.detach(), sd) < 5


def test_what_the_page_says_of_fibinets_two_starts() -> None:
    table = pd.read_csv(METHOD.parent / "results" / "fibinet_start.csv").set_index("bilinear_init")
    ahead = [table.loc["per_matrix", f"epoch {n}"] - table.loc["stacked", f"epoch {n}"] for n in (1, 2, 3)]
    assert ahead[0] > 0 > max(ahead[1:])
