"""The simplest cohorts have a page that shows what there is and says what cannot be said.

``benchmarks/subsets.py`` makes one for every subset of the manifest's optional columns.
"""

from __future__ import annotations

import numpy as np
import pytest

from analyse_fixture import made_up
from cohortvol.drawing import pages, style
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.describe import summary
from cohortvol.stages.analyse.cohort.limits import cannot_say
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.fits.batch import fit_many
from subset_cohort import GROUPS, Cell, cells, faults_of, page_of, results_of

pytestmark = pytest.mark.slow

CORNERS = [
    Cell((), 1),
    Cell((), 20),
    Cell(("sex",), 2),
    Cell(("age",), 2),
    Cell(("age", "sex"), 20),
    Cell(tuple(GROUPS), 1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("subsets")


@pytest.mark.parametrize("cell", CORNERS, ids=str)
def test_a_cohort_of_few_columns_and_scans_has_a_page(folder, cell, monkeypatch):
    monkeypatch.setattr(style, "FORMATS", ("png",))
    monkeypatch.setattr(style, "DPI", 50)
    monkeypatch.setattr(pages, "SCREEN_PX", 320)
    results = results_of(folder, cell)
    for public in (False, True):
        page = page_of(results, public=public)
        assert faults_of(page, cell, public=public) == [], page


def test_every_subset_of_columns_is_a_cell_with_every_number_of_scans():
    found = list(cells())
    assert len(set(found)) == len(found) == 2 ** len(GROUPS) * 4


def cohort(n=40, **changed):
    volumes, scans = made_up(n)
    return cohort_of.build(volumes, scans.assign(**changed))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (cohort(age_years=np.nan), "No ages are known: no trends"),
        (cohort(age_years=999.0), "No age inside 0 to 120 years is known: no trends"),
        (cohort(age_years=50.0), "All ages are equal: no trends"),
        (cohort(7), "7 people have a known age, and a trend needs 10: no trends"),
        (cohort(1), "1 person has a known age, and a trend needs 10: no trends"),
        (cohort(12, subject_id="one"), "1 person has a known age"),
        (cohort(state="failed"), "No scan was measured and passed QC"),
        (cohort(sex="F"), "All whose sex is known are of one sex"),
        (cohort(sex=None), "No sex is known"),
        (cohort(height_cm=np.nan), "No height and weight are known"),
        (cohort(height_cm=1.75), "No height and weight are known"),
    ],
)
def test_what_cannot_be_said_is_said_with_its_reason(found, said):
    sentences = cannot_say(found, trends(found, Settings())[0], Settings())
    assert any(sentence.startswith(said) for sentence in sentences), sentences


def test_a_cohort_with_everything_lacks_nothing():
    found = cohort(400)
    assert cannot_say(found, trends(found, Settings())[0], Settings()) == []


def test_volumes_of_people_of_unknown_age_or_sex_are_described():
    volumes, scans = made_up(40)
    scans.loc[:9, "age_years"] = np.nan
    scans.loc[10:14, "sex"] = None
    table = summary(cohort_of.build(volumes, scans), Settings())
    liver = table[table["structure"] == "liver"].set_index("sex")["n"]
    assert (liver["all"], liver["F"] + liver["M"]) == (40, 35)


def test_no_rows_are_too_few_for_any_number_of_structures():
    for structures in (1, 3):
        found = fit_many(np.empty((0, 2)), np.empty((0, structures, 2)))
        assert [error.reason for error in found] == ["ANA_TOO_FEW"] * structures
