"""Every architecture has a colour of its own, told apart by colour-blind eyes; one without a colour is drawn too."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from ctrlib.models import MODELS
from ctrlib.study import figures
from ctrlib.study.parameters import StudyParameters

# Machado, Oliveira and Fernandes 2009, A Physiologically-based Model for Simulation of Color Vision Deficiency,
# severity 1: what linear RGB becomes.
SEEN_BY = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = (0.95047, 1.0, 1.08883)


SHEET = (Path(__file__).parents[1] / "book" / "_static" / "figures.css").read_text(encoding="utf-8")
DARK = {f"#{name}": colour for name, colour in re.findall(r"--fig-([0-9a-f]{6}): (#[0-9a-f]{6});", SHEET)}


def linear(colour: str) -> np.ndarray:
    """Light of red, green and blue of a hex colour, 0 to 1."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colour: str, eyes: str) -> np.ndarray:
    """CIE L*a*b* of a hex colour as some eyes see it."""
    xyz = np.array(TO_XYZ) @ np.clip(np.array(SEEN_BY[eyes]) @ linear(colour), 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(colours: list[str], eyes: str) -> float:
    """Distance of the two colours that are nearest to each other."""
    return min(np.linalg.norm(lab(a, eyes) - lab(b, eyes)) for a, b in combinations(colours, 2))


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours (WCAG 2)."""
    dark, light = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_colours_differ_for_all_eyes_in_the_light_and_in_the_dark(eyes: str) -> None:
    assert list(figures.COLOURS) == list(MODELS)
    colours = [colour.lower() for colour in (*figures.COLOURS.values(), figures.INK)]
    assert apart(colours, eyes) > 15
    assert apart([DARK[colour] for colour in colours], eyes) > 15
    assert apart(["#D55E00", "#999933"], "deuteranopia") < 15, "a confusion would be noticed"


def test_colours_stand_out_from_a_dark_page_and_words_can_be_read() -> None:
    drawn = [colour.lower() for colour in (*figures.COLOURS.values(), *figures.PALETTE, figures.GREY)]
    assert {*drawn, figures.INK.lower(), figures.REFERENCE.lower()} <= DARK.keys()
    assert min(contrast(DARK[colour], "#121212") for colour in drawn) > 3
    assert contrast(DARK[figures.INK], "#121212") > 7
    assert contrast(DARK[figures.INK], DARK["#d9d9d9"]) > 4.5, "the words on it are in ink"
    assert min(contrast("#ffffff", figures.VERDICTS[name]) for name in ("supported", "contradicted")) > 4.5


def test_an_architecture_without_a_colour_is_drawn() -> None:
    table = pd.DataFrame({"gap": [0.1, 0.2], "effect": [0.0, 0.1], "architecture": ["DCNv2", "TwoTower"]})
    assert len(figures.gap_scatter(table).get_legend().get_texts()) == 2


def test_a_name_that_begins_like_another_keeps_its_colour() -> None:
    rows = pd.DataFrame({"what": ["DCNv2: speed", "four runs: speed"], "value": 1.0, "low": 0.9, "high": 1.1})
    lines = figures.ranges(rows, "ratio", reference=1).collections[::2]
    expected = [figures.COLOURS["DCNv2"].lower(), figures.INK]
    assert [to_hex(line.get_colors()[0]) for line in lines] == expected


def test_the_parameter_names_every_architecture() -> None:
    description = StudyParameters.model_fields["architecture"].description
    assert [name.strip() for name in description.split(",")][: len(MODELS)] == list(MODELS)
