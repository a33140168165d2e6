"""The style of figures: structures by organ system, colours that everyone tells apart."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from cohortvol.drawing import style
from cohortvol.stages.report.figures import rows, systems

pytestmark = pytest.mark.slow


def test_groups_are_not_parted_from_their_heading():
    groups = [("Digestive", ["a", "b", "c"]), ("Muscles", ["d", "e"])]
    pages = list(rows.pages_of_groups(groups, 5))
    assert [part.names for part in pages] == [["Digestive", "a", "b", "c"], ["Muscles", "d", "e"]]
    pages = list(rows.pages_of_groups(groups, 3))
    assert [part.names for part in pages][1] == ["Digestive", "c"]  # the heading is said again


@pytest.mark.parametrize(
    ("structure", "system"),
    [
        ("iliopsoas_left", "Muscles"),
        ("kidneys", "Urinary and genital"),
        ("hip_left", "Bones and discs"),
        ("aorta", "Heart and vessels"),
        ("a_new_thing", "Other"),
    ],
)
def test_structures_are_grouped_by_their_organ_system(structure, system):
    assert systems.system_of(structure) == system


MACHADO = {  # severity 1, linear RGB (Machado, Oliveira and Fernandes 2009)
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(colour):
    parts = np.array(to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb_linear):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb_linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", [None, *MACHADO])
def test_the_colours_of_the_sexes_are_told_apart_by_everyone(kind):
    matrix = np.eye(3) if kind is None else np.array(MACHADO[kind])
    women, men = (lab(matrix @ linear(style.SEX_COLOUR[sex])) for sex in ("F", "M"))
    assert np.linalg.norm(women - men) >= 40
    assert style.SEX_LINE["F"] != style.SEX_LINE["M"]


def test_the_colours_of_the_sexes_stand_out_from_white():
    for sex in ("F", "M"):
        luminance = linear(style.SEX_COLOUR[sex]) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3
