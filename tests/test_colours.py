"""Every architecture has a colour of its own, told apart by colour-blind eyes; one without a colour is drawn too."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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


def lab(colour: str, eyes: str) -> np.ndarray:
    """CIE L*a*b* of a hex colour as some eyes see it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(SEEN_BY[eyes]) @ linear, 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_architecture_has_a_colour() -> None:
    assert list(figures.COLOURS) == list(MODELS)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_colours_differ_for_all_eyes(eyes: str) -> None:
    colours = [*figures.COLOURS.values(), figures.INK]
    apart = {pair: np.linalg.norm(lab(pair[0], eyes) - lab(pair[1], eyes)) for pair in combinations(colours, 2)}
    assert min(apart.values()) > 15, min(apart, key=apart.get)


def in_the_dark() -> dict[str, str]:
    """Colour -> what it becomes on a dark page."""
    sheet = (Path(__file__).parents[1] / "book" / "_static" / "figures.css").read_text(encoding="utf-8")
    return {f"#{name}": colour for name, colour in re.findall(r"--fig-([0-9a-f]{6}): (#[0-9a-f]{6});", sheet)}


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours (WCAG 2)."""
    parts = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in (a, b)])
    light = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return (light.max() + 0.05) / (light.min() + 0.05)


def test_every_colour_is_known_in_the_dark() -> None:
    used = {*figures.COLOURS.values(), *figures.PALETTE, figures.INK, figures.GREY, figures.REFERENCE}
    assert {colour.lower() for colour in used} <= in_the_dark().keys()


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_colours_differ_in_the_dark(eyes: str) -> None:
    dark = in_the_dark()
    colours = [dark[colour.lower()] for colour in [*figures.COLOURS.values(), figures.INK]]
    apart = {pair: np.linalg.norm(lab(pair[0], eyes) - lab(pair[1], eyes)) for pair in combinations(colours, 2)}
    assert min(apart.values()) > 15, min(apart, key=apart.get)


def test_colours_stand_out_from_a_dark_page() -> None:
    dark = in_the_dark()
    drawn = [colour.lower() for colour in [*figures.COLOURS.values(), *figures.PALETTE, figures.GREY]]
    assert min(contrast(dark[colour], "#121212") for colour in drawn) > 3
    assert contrast(dark[figures.INK], "#121212") > 7
    assert contrast(dark[figures.INK], dark["#d9d9d9"]) > 4.5, "the words on it are in ink"


def test_words_on_a_verdict_can_be_read() -> None:
    assert min(contrast("#ffffff", figures.VERDICTS[name]) for name in ("supported", "contradicted")) > 4.5


def test_a_confusion_would_be_noticed() -> None:
    assert np.linalg.norm(lab("#D55E00", "deuteranopia") - lab("#999933", "deuteranopia")) < 15


def test_an_architecture_without_a_colour_is_drawn() -> None:
    table = pd.DataFrame({"gap": [0.1, 0.2], "effect": [0.0, 0.1], "architecture": ["DCNv2", "TwoTower"]})
    assert len(figures.gap_scatter(table).get_legend().get_texts()) == 2


def test_a_name_that_begins_like_another_keeps_its_colour() -> None:
    rows = pd.DataFrame({"what": ["DCNv2: speed", "four runs: speed"], "value": 1.0, "low": 0.9, "high": 1.1})
    ax = figures.ranges(rows, "ratio", reference=1)
    drawn = [line.get_colors()[0] for line in ax.collections[::2]]
    assert [figures.COLOURS["DCNv2"].lower(), figures.INK] == [as_hex(colour) for colour in drawn]


def as_hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def test_the_parameter_names_every_architecture() -> None:
    description = StudyParameters.model_fields["architecture"].description
    assert [name.strip() for name in description.split(",")][: len(MODELS)] == list(MODELS)
