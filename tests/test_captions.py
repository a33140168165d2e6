"""Captions, titles, keys and alt texts say of a page of a figure what its rows are."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cohortvol.drawing import pages, style
from cohortvol.stages.report.figures import boxes, gallery, heatmap, panels, trends
from cohortvol.stages.report.page.sentences import captions
from cohortvol.stages.report.run import _texts
from cohortvol.stages.report.tables.flow import count_flow
from cohortvol.stages.report.tables.inputs import BESIDE_COLUMNS
from made_tables import STRUCTURES, made

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import page_figures

JINJA = pages.environment(pages.templates_folder())
KINDS = ("trends", "volumes", "forest", "quartiles", "heatmap", "missing", "sides")
WITH_KEY = ("trends", "heatmap", "sides")
CLAIMS = [claim for claim in page_figures.CLAIMS if set(claim.figures) & set(KINDS)]
STATISTICS = ("Spearman ρ with age", "Slope M1, %/decade", "Bend, q", "Men against women, %")


def rows(kind: str, rng: np.random.Generator, sexes: list[str], *, slopes: bool) -> pd.DataFrame:
    """What a page of a figure may be drawn from, where there are slopes, or none."""
    names = list(rng.permutation(STRUCTURES)[: rng.integers(1, 4)])
    found = []
    for name, sex in product(names, sexes):
        one = {"structure": name, "sex": sex, "n_used": int(rng.integers(3, 2000))}
        if kind in page_figures.SCANS:
            mark = str(rng.choice(["scan", "hexagon"]))
            n = rng.integers(1, 30) if mark == "hexagon" else None
            found += [one | {"kind": mark, "n": n, "model": None}] * int(rng.integers(0, 4))
            if kind == "trends" and slopes:
                models = [(), ("M1",), ("M1", "spline"), ("spline",)][rng.integers(4)]
                found += [one | {"kind": "fit", "model": model} for model in models]
        elif kind == "volumes":
            found += [one | {"kind": mark} for mark in ("box", "scan") if rng.random() < 0.7]
        elif kind == "forest":
            if rng.random() < 0.8 or not found:
                found.append(one | {"average": rng.random() < 0.3, "negative_control": False})
        elif kind == "heatmap":
            found += [one | {"statistic": text} for text in STATISTICS if rng.random() < 0.5]
        elif kind == "missing":
            found += [
                {"structure": name, "variable": variable, "level": "M", "n_scans": one["n_used"]}
                for variable in page_figures.THIRDS
                if rng.random() < 0.7
            ]
        else:
            found.append(one)
    data = pd.DataFrame(found)
    return data.rename(columns={"structure": "pair"}) if kind == "sides" else data


@cache
def page_of(kind: str, seed: int) -> page_figures.Shown | None:
    """A page drawn at random, with what is said of it; None where nothing is on it."""
    rng = np.random.default_rng(seed)
    analysis, _, _ = made(seed)
    flow = count_flow(analysis.flow)
    data = rows(kind, rng, analysis.sexes, slopes=analysis.has_trends)
    if data.empty or (kind == "heatmap" and "Slope" not in str(set(data["statistic"]))):
        return None
    names = list(dict.fromkeys(data["pair" if kind == "sides" else "structure"]))
    n_points = int(captions.n_drawn(data) + rng.integers(3)) if kind == "trends" else 0
    points = pd.DataFrame({"structure": names[:1] * n_points, "age_years": 50.0, "sex": "F"})
    subject = gallery.Subject(analysis, points, flow)
    page = panels.Page(Figure(), data, names)
    context = gallery._of_page(kind, page, subject, number=1, n_pages=1)
    texts = _texts(analysis, flow)
    key: list[str] = []
    if kind == "trends":
        trends._key(page.figure, data)
        key = [text.get_text() for text in page.figure.legends[0].get_texts()]
    elif kind == "sides":
        key = [str(line.get_label()) for line in panels.people_key(data)]
    elif kind == "heatmap":
        key = [str(p.get_label()) for p in heatmap._entries(0.05, captions.columns(data))]
    said = pages.caption(JINJA, kind, texts | context)
    sexes = list(data["sex"].unique()) if kind == "volumes" else analysis.sexes
    title = captions.title(kind, data, sexes)
    alt = captions.alt(kind, data, analysis.sexes, names)
    as_text = list(csv.DictReader(io.StringIO(data.to_csv(index=False))))
    return page_figures.Shown(kind, as_text, f"{title}. {said}", alt, key, len(analysis.sexes))


def claims_of(kind: str) -> list[page_figures.Claim]:
    """Those that can be judged by what `page_of` makes."""
    return [c for c in CLAIMS if kind in WITH_KEY or not c.name.endswith("of the key")]


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_nothing_untrue_is_said_of_a_page_drawn_at_random(kind, seed):
    page = page_of(kind, seed)
    assert page is None or page_figures.untrue([page], claims_of(kind)) == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_another_page_says_is_found(claim):
    kind = next(
        kind for kind in claim.figures if kind in (WITH_KEY if "key" in claim.name else KINDS)
    )
    all_pages = [page for seed in range(25) if (page := page_of(kind, seed)) is not None]
    one = all_pages[0]
    other = next(page for page in all_pages if claim.true(page) != claim.true(one))
    mixed = page_figures.Shown(kind, one.rows, other.caption, other.alt, other.key, one.sexes)
    wrong = page_figures.untrue([mixed], [claim])
    assert [text.split(" (")[0] for text in wrong] == [claim.name]


def test_a_cohort_of_women_has_no_men_in_its_keys_and_captions():
    data = pd.DataFrame({"structure": ["liver"], "sex": ["F"], "kind": ["scan"]})
    assert [line.get_label() for line in panels.people_key(data)] == ["women: scans"]
    assert captions.scans(data) == "Each mark is one scan"
    assert captions.title("trends", data, ["F"]).endswith("by structure")


def test_a_structure_without_a_box_has_no_panel_of_boxes():
    analysis, _, _ = made(3)
    first, *others = analysis.structures()
    box = {"q25_ml": 1.0, "median_ml": 2.0, "q75_ml": 3.0}
    row = {"sex": analysis.sexes[0], "quartile": 1, "age_above_years": None, "age_to_years": 50.58}
    table = pd.DataFrame(
        [row | box | {"structure": first}, *({**row, "structure": n} for n in others)]
    )
    quartiles = table.reindex(columns=BESIDE_COLUMNS["quartiles"])
    with style.journal_style():
        (page,) = boxes.box_pages(replace(analysis, beside={"quartiles": quartiles}))
    assert page.structures == [first]
    assert page.figure.axes[0].get_xticklabels()[0].get_text() == "to 50.6"


def test_a_page_of_few_and_of_many_scans_explains_marks_and_hexagons():
    data = pd.DataFrame(
        {"structure": ["liver"] * 2, "sex": ["F", "M"], "kind": ["scan", "hexagon"], "n": [1, 600]}
    )
    assert [line.get_label() for line in panels.people_key(data)] == ["women: scans", "men: scans"]
    said = captions.scans(data)
    assert said.startswith("Hexagons hold scans, deeper with more; in panels of 500 scans or fewer")
    assert captions.n_drawn(data) == 601
    assert style.listed(["age"]) == "age"
