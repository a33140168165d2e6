"""No sentence of the page is untrue of any cohort, and a lie would be found."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortvol.errors import TableError
from cohortvol.models.card import card_json, segmentation_key
from cohortvol.models.told import told_run
from cohortvol.stages.report.page import html as page
from cohortvol.stages.report.page.answer import answer
from cohortvol.stages.report.page.sentences import methods, notices
from cohortvol.stages.report.tables.flow import count_flow
from made_tables import made

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import page_truth
import random_cohorts
from page_card import drawn_card

FIGURES = ("trends", "forest", "quartiles", "sensitivity", "centiles", "repeats")
OF_ANALYSE = (
    *("below zero", "fixed effects", "no factor", "one sex", "no trend"),
    *("lines of the trends", "rows of all"),
)
"""Names of claims about what a page says only after a true analysis."""
SAID = [claim for claim in page_truth.CLAIMS if claim.name not in OF_ANALYSE]


@cache
def page_of(seed: int) -> tuple[str, page_truth.Cohort]:
    """The sentences of a random cohort, as the page places them, and its tables."""
    analysis, texts, scans = made(seed)
    rng = np.random.default_rng(seed)
    figures = {name for name in FIGURES if rng.random() < 0.5}
    for name, table, column in (
        ("centiles", "centiles", "p50_ml"),
        ("repeats", "within_between", "within_pct_per_decade"),
    ):
        figures -= {name}
        figures |= {name} if analysis.table(table)[column].notna().any() else set()
    card = drawn_card(seed, Path("model"))
    profile = str(rng.choice(card.profiles))
    scans = [row | {"profile": profile} for row in scans]
    as_json = json.loads(json.dumps(card_json(card)))
    cohort = page_truth.Cohort(texts, analysis.record, scans, figures=figures, card=as_json)
    flow = count_flow(analysis.flow)
    said = [flow.sentence(), notices.small(analysis)]
    level = analysis.settings["fdr"]
    first = None if notices.all_small(analysis) else answer(analysis, level=level)
    rows = ""
    if first:
        said += [*first.sentences, f"(95 % CI), {first.model}: slopes.", first.together]
        said += [notices.m2(analysis)] * first.adjusted + ["Clear: q."]
        for row in first.rows:
            rows += (
                f'<tbody class="{"control" if row.control else row.kind}"><tr><th '
                f'scope="rowgroup" ></th><th scope="row">{escape(row.name)}</th>'
                f'<td class="rate">{escape(row.slope)}</td><td class="sure">{escape(row.sure)}'
                "</td></tbody>"
            )
    if all(row["state"] == "done" for row in scans):
        said.append("None: every scan of the manifest was measured.")
    by = methods.segmented(card.id, told_run(card, profile), made_elsewhere=False)
    how = methods.said(analysis, flow, by, public=False)
    if analysis.has_trends:
        absent = notices.absent(analysis, public=False)
        said += [notices.size(analysis), *(absent[name] for name in FIGURES if name not in figures)]
        said += [text for name, text in how.items() if name != "no_trend"]
    else:
        said += [how[name] for name in ("manifest", "segmented", "no_trend")]
    return rows + " " + escape(" ".join(filter(None, said)) + " "), cohort


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_sentence_is_untrue_of_tables_drawn_at_random(seed):
    assert page_truth.untrue(*page_of(seed), SAID) == []


@pytest.mark.parametrize("claim", SAID, ids=lambda claim: claim.name)
def test_a_lie_is_found(claim):
    for seed in range(200):
        html, cohort = page_of(seed)
        if not page_truth.found(claim, page_truth.words(html)):
            continue
        lie = re.sub(claim.lie[0], claim.lie[1], html, count=1)
        if lie != html:
            break
    else:
        pytest.fail("no cohort of which this is said")
    wrong = page_truth.untrue(lie, cohort, SAID)
    assert any(text.startswith(f"{claim.name}:") for text in wrong), wrong


def test_a_structure_under_the_wrong_heading_or_surer_than_it_is_is_found():
    lies = (
        ('class="(smaller|larger|bends|unclear|untested)"', 'class="control"', "stands under"),
        (r'(class="rate">\D*)\d', r"\g<1>97", "97"),
        (r"(\d) of \d other", r"\1 of 99 other", "99 other"),
        ('"sure">q = 0', '"sure">q = 0.9; q = 0', "q = 0.9"),
        ("; bends<", "<", "bends"),
        ("(published agree)", "published; 7 of 7 published agree", "7 of 7"),
    )
    for pattern, replacement, mark in lies:
        for seed in range(200):
            html, cohort = page_of(seed)
            lie = re.sub(pattern, replacement, html, count=1)
            if lie != html:
                break
        assert any(mark in text for text in page_truth.untrue(lie, cohort, SAID)), pattern


def test_a_row_of_missing_values_stands_only_where_there_are_any():
    analysis, _, _ = made(0)
    cells = [("all", "0 (0.0 %)"), ("F", "0 (0.0 %)"), ("M", "0")]  # of no men none is missing
    for text, there in (("0 (0.0 %)", False), ("3 (9.1 %)", True)):
        values = [("age_years", "missing", group, value, 1) for group, value in cells[1:]]
        values.append(("age_years", "missing", "all", text, 1))
        table = pd.DataFrame(values, columns=["variable", "level", "group", "value", "n"])
        shown = page.table1(dataclasses.replace(analysis, table1=table))
        assert bool(shown.rows) == there


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1535, 7])  # both sexes, sites, volumes below 0; no sex, sizes
def test_no_sentence_of_a_whole_page_is_untrue_and_lies_are_found(seed, tmp_path):
    assert random_cohorts.tried(seed, tmp_path, quick=True) == []
    figures = tmp_path / "r" / "figures"
    tables = tmp_path / "a", tmp_path / "s.csv", tmp_path / "v.csv"
    cohort = page_truth.Cohort.read(*tables, figures, tmp_path / "model/card.json")
    html = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    for claim in page_truth.CLAIMS:
        if claim.name in OF_ANALYSE and page_truth.found(claim, page_truth.words(html)):
            wrong = page_truth.untrue(re.sub(*claim.lie, html), cohort)
            assert any(text.startswith(f"{claim.name}:") for text in wrong), claim.name


def test_methods_say_in_which_numbers_the_networks_multiplied():
    def said(*values, public=False):
        return page.precision_of(pd.DataFrame({"precision": values}, dtype=object), public=public)

    assert said("float32", None) == ["The networks multiplied in float32."]
    assert said("float32", "bfloat16", "float32") == [
        "The networks multiplied in bfloat16 (1 scans) or float32 (2 scans), as the processor of "
        "each job could."
    ]
    assert said("float32", "bfloat16", public=True) == [
        "The networks multiplied in bfloat16 or float32, as the processor of each job could."
    ]
    assert said(None) == page.precision_of(pd.DataFrame({"model": ["a"]})) == []


def test_scans_of_another_model_are_refused(tmp_path):
    card = drawn_card(1, tmp_path / "model")
    ways = {"profile": ["nnunet", None], "segmentation_key": [segmentation_key(card), None]}
    scans = pd.DataFrame(ways)
    assert page.told_of(scans, card) == told_run(card, "nnunet")
    assert page.told_of(scans.drop(columns="profile"), card) == []
    with pytest.raises(TableError, match=r"not the model that .*\n  scans       key 00, profile"):
        page.told_of(scans.assign(segmentation_key=["00", None]), card)
