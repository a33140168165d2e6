"""Published centiles beside the people here: of the same ages, with a share that can be counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyse_fixture import row
from cohortvol.errors import TableError
from cohortvol.stages.analyse.answers.literature import CENTILES, references
from cohortvol.stages.analyse.answers.published_centiles import published_centiles
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.settings import Settings

HEAD = "structure,sex,modality,evidence,source,age_ref_years,band_low_years,band_high_years"


def given(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return Settings(literature=str(path))


def cohort(n=400, seed=1):
    """Kidneys of women: 100 mL below 60 years, 80 mL after, SD 10 mL."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(30, 90, n)
    ids = [f"s{k}" for k in range(n)]
    scans = pd.DataFrame({"scan_id": ids, "age_years": age, "sex": "F", "subject_id": ids})
    volume = np.where(age < 60, 100, 80) + rng.normal(0, 10, n)
    volumes = pd.DataFrame({"scan_id": ids, "structure": "kidney_right", "volume_ml": volume})
    return volumes, scans


def compared(tmp_path, text, volumes, scans):
    table = published_centiles(cohort_of.build(volumes, scans), given(tmp_path, text))
    return table[table["source"] == "mine"]


def test_who_lies_below_is_counted_among_people_of_the_printed_ages(tmp_path):
    volumes, scans = cohort()
    text = f"{HEAD},p5_ml,p50_ml\nkidney_right,F,MRI,VERIFIED,mine,,40,59,83.6,95\n"
    found = compared(tmp_path, text, volumes, scans)
    here = scans["age_years"].between(40, 60, inclusive="left").to_numpy()
    of_them = volumes.loc[here, "volume_ml"]
    five = row(found, reference_centile=5.0)
    assert five["n_used"] == here.sum()
    assert (five["age_from_years"], five["age_below_years"]) == (40, 60)
    assert five["below_pct"] == pytest.approx(100 * (of_them < 83.6).mean())
    wilson = stats.binomtest(int((of_them < 83.6).sum()), int(here.sum())).proportion_ci(
        method="wilson"
    )
    assert five["below_pct_ci_low"] == pytest.approx(100 * wilson.low, rel=1e-6)
    assert five["below_pct_ci_high"] == pytest.approx(100 * wilson.high, rel=1e-6)
    middle = row(found, reference_centile=50.0)
    assert middle["here_ml"] == pytest.approx(of_them.median(), rel=0.01)
    assert middle["ratio"] == pytest.approx(middle["here_ml"] / 95)


def test_without_a_band_the_ages_are_those_around_the_printed_one_or_all(tmp_path):
    volumes, scans = cohort()
    rows = "kidney_right,F,MRI,VERIFIED,mine,70,,,80\nkidney_right,both,MRI,VERIFIED,mine,,,,90\n"
    found = compared(tmp_path, f"{HEAD},p50_ml\n{rows}", volumes, scans)
    around = row(found, sex="F")
    assert around["n_used"] == scans["age_years"].between(60, 80).sum()
    assert around["below_pct_ci_low"] < 50 < around["below_pct_ci_high"]
    assert row(found, sex="all")["n_used"] == len(scans)


def test_people_count_once_and_too_few_are_not_compared(tmp_path):
    volumes, scans = cohort(30)
    text = f"{HEAD},p50_ml\nkidney_right,F,MRI,VERIFIED,mine,,,,95\n"
    again = scans.assign(scan_id=scans["scan_id"] + "b", age_years=scans["age_years"] + 1)
    more = volumes.assign(scan_id=volumes["scan_id"] + "b")
    twice = compared(tmp_path, text, pd.concat([volumes, more]), pd.concat([scans, again]))
    assert twice["n_used"].tolist() == [30]
    few = compared(tmp_path, text, volumes.head(8), scans.head(8)).iloc[0]
    assert few["note"].startswith("ANA_TOO_FEW")
    assert "below_pct" not in few or pd.isna(few["below_pct"])


def test_centiles_that_do_not_rise_are_refused_by_line(tmp_path):
    text = f"{HEAD},p5_ml,p50_ml\nkidney_right,F,MRI,VERIFIED,mine,,,,95,90\n"
    given(tmp_path, text)
    with pytest.raises(TableError, match=r"line 2: its centiles are 95, 90 mL"):
        references(tmp_path / "mine.csv")


def test_shipped_centiles_stand_in_the_source_as_printed():
    known = references()
    printed = known[[*CENTILES.values()]].notna().any(axis=1)
    assert printed.sum() >= 14
    for _, one in known[printed].iterrows():
        for name in ("p2_5_ml", "p25_ml", "p75_ml", "p97_5_ml"):
            if pd.notna(one[name]):
                assert f"{one[name]:g}" in one["source"].replace(".0", ""), one["source"]
        if pd.notna(one["p50_ml"]):
            assert "median" in one["source"]
            assert one["p50_ml"] == one["mean_ml"]
