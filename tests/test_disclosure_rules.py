"""The rules of a public report: numbers are rounded, texts lose counts, columns have rules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cohortvol.stages.analyse.outputs import SCHEMAS
from cohortvol.stages.report.run import BESIDE, FROM_ANALYSIS
from cohortvol.stages.report.tables import disclosure, flow, rounding, rules
from cohortvol.stages.report.tables.inputs import ANALYSE_COLUMNS, ANALYSE_OPTIONAL, BESIDE_COLUMNS
from cohortvol.store.schemas import real, whole

pytestmark = pytest.mark.slow


def test_quartiles_are_rounded_to_what_n_supports_and_ages_end_at_90():
    assert disclosure._quartiles("age_years", "88.0 (71.5–93.1)", 400) == "88 (72–90+)"
    assert disclosure._quartiles("age_years", "88.0 (71.5–93.1)", 40) == "90+ (70–90+)"
    assert disclosure._quartiles("weight_kg", "98.0 (91.5–103.1)", 400) == "98 (91.5–103)"
    assert disclosure._quartiles("weight_kg", "98.0 (91.5–103.1)", 19) == "–"


def test_reasons_of_few_scans_are_added_up_within_their_step():
    table = pd.DataFrame(
        [
            ("manifest", None, 30),
            ("quarantined", "SRC_EMPTY", 2),
            ("quarantined", "SRC_MISSING", 4),
            ("quarantined", "HDR_DIM", 12),
            ("failed", "RUN_CRASHED", 3),
            ("done", None, 9),
            ("usable for trends", None, 9),
        ],
        columns=["step", "reason", "n"],
    )
    counted = flow.count_flow(disclosure._flow(table), rounded=True)
    assert counted.reasons["quarantined"] == {"other reasons": 5, "HDR_DIM": 10}
    assert counted.sentence() == (
        "30 rows in the manifest: 10 measured, 15 quarantined, 0 skipped, <5 failed. "
        "Counts are rounded to multiples of five."
    )


def test_sentences_of_the_analysis_lose_their_small_counts():
    said = disclosure._without_small_counts
    assert (
        said("3 volumes cut by the field of view")
        == "Fewer than 5 volumes cut by the field of view"
    )
    assert said("1,234 volumes cut") == "About 1,235 volumes cut"
    assert said("The data are cross-sectional") == "The data are cross-sectional"


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        (
            "F: ANA_TOO_FEW: 3 usable subjects, at least 10 needed",
            "F: ANA_TOO_FEW: at least 10 needed",
        ),
        ("ANA_TOO_FEW: 7 usable scans, 10 needed", "ANA_TOO_FEW: 10 needed"),
        ("ANA_TOO_FEW: 4 rows for 6 terms", "ANA_TOO_FEW: too few rows for 6 terms"),
        ("ANA_TOO_FEW: 4 subjects for 6 terms", "ANA_TOO_FEW: too few subjects for 6 terms"),
        (
            "ANA_TOO_FEW: 3 subjects scanned at several ages, 200 needed",
            "ANA_TOO_FEW: subjects scanned at several ages, 200 needed",
        ),
        (
            "ANA_REPEATED_MEASURES: 1,034 scans of 1,033 people",
            "ANA_REPEATED_MEASURES: several scans of one person",
        ),
        ("site: 2 levels pooled (fewer than 20 scans)", None),
        ("no Dice published of model embedded-v2", None),
        ("outside the ages of the scans, 31 to 77 years; F only",
         "outside the ages of the scans, … to … years; F only"),
        ("descriptive only: n < 100 per sex; F only", None),
    ],
)  # fmt: skip
def test_notes_lose_their_counts_and_keep_their_thresholds(note, shown):
    assert rules._without_counts(note) == (shown or note)


READ = {
    name: [*columns, *ANALYSE_OPTIONAL.get(name, [])] for name, columns in ANALYSE_COLUMNS.items()
}
READ |= BESIDE_COLUMNS
OWN_WAY = {"flow", "table1"}
"""Tables whose cells are made anew and not column by column."""


def test_every_table_that_is_passed_on_has_a_rule_for_each_of_its_columns():
    assert {*FROM_ANALYSIS, *BESIDE} - OWN_WAY <= set(rules.RULES)
    for name, own in rules.RULES.items():
        assert set(own) == set(READ[name]), name
        numeric = {
            column for column in own if SCHEMAS[f"analyse/{name}"][column].type in (real, whole)
        }
        assert not {column for column in numeric if own[column] is rules.words}, name


NOT_OF_PEOPLE = {
    *("age_years", "age_from_years", "age_below_years", "quartile"),
    *("dice", "ratio_low", "ratio_high"),
}


def test_a_number_is_given_as_it_is_only_where_it_does_not_come_from_people():
    as_it_is = {
        column
        for own in rules.RULES.values()
        for column, rule in own.items()
        if rule is rules.constant and not column.startswith("reference_")
    }
    assert as_it_is == NOT_OF_PEOPLE


def test_a_number_under_the_name_of_a_text_is_left_out():
    table = pd.DataFrame({"structure": ["liver"], "sex": [37.25], "n": [400]})
    assert rules.by_rule("summary", table)["sex"].isna().all()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    n=st.integers(rounding.LEAST_N, 5000),
    sd=st.floats(1e-3, 1e3),
    of_one=st.floats(-4, 4),
)
def test_one_person_moves_a_mean_by_no_more_than_a_step(n, sd, of_one):
    moved = abs(of_one) * sd / n
    step = float(rounding.step_of(sd / np.sqrt(n), n))
    assert moved <= step * (1 + 1e-9), (moved, step)
    assert step <= sd / np.sqrt(n) * max(1, 10 / np.sqrt(n)) * (1 + 1e-9)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(value=st.floats(-1e5, 1e5), exponent=st.integers(-3, 3), first=st.sampled_from([1, 2, 5]))
def test_what_is_rounded_is_the_nearest_multiple_and_no_digit_more(value, exponent, first):
    step = first * 10.0**exponent
    found = float(rounding.to_step(value, step))
    assert abs(found - value) <= step / 2 * (1 + 1e-6) + 1e-9
    assert len(f"{found!r}".split(".")[1]) <= max(1, -exponent), found


@settings(deadline=None, derandomize=True, max_examples=300)
@given(p=st.floats(0, 1))
def test_p_has_one_digit_a_floor_and_stays_on_its_side_of_a_level(p):
    found = rules._one_digit(p)
    assert found >= rules.LEAST_P
    assert f"{found:.1g}" == f"{found:g}"
    assert all((found < level) == (p < level) for level in (0.05, 0.1)), (p, found)
    assert abs(found - p) <= 0.051


@pytest.mark.parametrize("n", [60, 150, 420, 2000])
def test_rho_and_p_do_not_give_n_away(n):
    draw = np.random.default_rng(n)
    for _ in range(20):
        x = draw.normal(size=n)
        y = draw.normal(size=n) - 0.3 * x
        rho, p = stats.spearmanr(x, y)
        table = pd.DataFrame({"spearman_rho": [rho], "p_value": [p], "n_used": [n]})
        shown = rules.by_rule("correlations", table)
        step = float(rounding.step_of(1 / np.sqrt(n), n))
        fits = [
            other
            for other in range(n - 12, n + 13)
            for told in np.linspace(-0.5, 0.5, 41) * step + shown["spearman_rho"][0]
            if rules._one_digit(_p_of(told, other)) == shown["p_value"][0]
        ]
        assert len(set(fits)) >= 9, (n, rho, p, sorted(set(fits)))


def _p_of(rho: float, n: int) -> float:
    t = rho * np.sqrt((n - 2) / max(1 - rho**2, 1e-12))
    return float(2 * stats.t.sf(abs(t), n - 2))
