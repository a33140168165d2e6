"""Fat fractions against age: planted slopes found in their own unit, by the designs of volumes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import analysed, made_up, record, row
from cohortvol.errors import TableError
from cohortvol.stages.analyse.answers.companions import companion_slopes
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.store.schemas import COMPANIONS
from cohortvol.store.tables import write_table

PLANTED = {"F": 1.2, "M": 0.4}
"""Points per decade."""


def fat_of_livers(path, scans, **changed):
    """Fat fractions of livers that rise by `PLANTED`, in no relation to volumes."""
    age, sex = scans["age_years"].to_numpy(float), scans["sex"]
    noise = np.random.default_rng(4).normal(0, 1.5, len(scans))
    median = 5 + sex.map(PLANTED).fillna(0).to_numpy(float) * (age - 50) / 10 + noise
    table = pd.DataFrame({"scan_id": scans["scan_id"], "structure": "liver", "median": median})
    table = table.assign(companion="fat_fraction", unit="%", **changed)
    write_table(path, table.reindex(columns=list(COMPANIONS)), COMPANIONS)
    return table, Settings(companions=str(path))


def test_planted_slopes_are_found_in_points_per_decade(tmp_path):
    volumes, scans = made_up(900)
    table, settings = fat_of_livers(tmp_path / "c.parquet", scans)
    found = companion_slopes(cohort_of.build(volumes, scans), settings)
    assert set(found["unit"]) == {"%"}
    for sex, planted in PLANTED.items():
        m1 = row(found, structure="liver", sex=sex, model="M1")
        assert m1["slope_per_decade_ci_low"] < planted < m1["slope_per_decade_ci_high"]
        here = (scans["sex"] == sex).to_numpy() & scans["age_years"].notna().to_numpy()
        age, median = scans["age_years"][here], table["median"][here]
        assert m1["n_used"] == here.sum()
        assert m1["slope_per_decade"] == pytest.approx(10 * np.polyfit(age, median, 1)[0])
        assert m1["mean"] == pytest.approx(median.mean())
    assert {"M1", "M2"} == set(found["model"])
    others = found[found["structure"] != "liver"]
    assert others["n_used"].eq(0).all()
    assert others["slope_per_decade"].isna().all()


def test_slopes_do_not_depend_on_where_values_begin(tmp_path):
    volumes, scans = made_up(200)
    cohort = cohort_of.build(volumes, scans)
    table, settings = fat_of_livers(tmp_path / "c.parquet", scans)
    found = companion_slopes(cohort, settings)
    _, lower = fat_of_livers(tmp_path / "d.parquet", scans, median=table["median"] - 50)
    moved = companion_slopes(cohort, lower)
    np.testing.assert_allclose(moved["slope_per_decade"], found["slope_per_decade"], rtol=1e-9)
    np.testing.assert_allclose(moved["mean"], found["mean"] - 50)


def test_a_structure_whose_volume_is_not_used_has_no_value_that_is(tmp_path):
    volumes, scans = made_up(200)
    _, settings = fat_of_livers(tmp_path / "c.parquet", scans)
    everybody = companion_slopes(cohort_of.build(volumes, scans), settings)
    out = (volumes["structure"] == "liver") & volumes["scan_id"].isin(scans["scan_id"][:30])
    cut = volumes.assign(status=np.where(out, "cut", "ok"))
    fewer = companion_slopes(cohort_of.build(cut, scans), settings)
    n_all, n_cut = (
        row(one, structure="liver", sex="all", model="M1")["n_used"] for one in (everybody, fewer)
    )
    assert n_all - n_cut == scans["age_years"][:30].notna().sum()


def test_it_is_written_where_it_is_asked_for(tmp_path):
    volumes, scans = made_up(60)
    _, settings = fat_of_livers(tmp_path / "c.parquet", scans)
    analysed(tmp_path, volumes, scans, companions=settings.companions)
    written = pd.read_parquet(tmp_path / "out" / "companion_slopes.parquet")
    assert written["slope_per_decade"].notna().any()
    assert record(tmp_path)["settings"]["companions"] == "c.parquet"
    cohort = cohort_of.build(volumes, scans)
    assert companion_slopes(cohort, Settings()).empty
    _, strange = fat_of_livers(tmp_path / "x.parquet", scans.assign(scan_id="x" + scans["scan_id"]))
    with pytest.raises(TableError, match="none of its scans"):
        companion_slopes(cohort, strange)
