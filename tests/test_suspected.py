"""Volumes far outside the rest: said and counted, listed for the house, and left where they are."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import analysed, made_up
from cohortvol.stages import report
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort import usable
from cohortvol.stages.analyse.cohort.describe import flow
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.robustness.suspected import suspected, suspicions, with_suspected

ORGANS = {"liver": (1450, 0.2), "spleen": (180, 0.36), "kidney_left": (155, 0.18),
          "kidney_right": (150, 0.18), "kidneys": (305, 0.18)}  # fmt: skip


def tables(n=400, seed=1, sd=1.0):
    """Clean volumes; those of the kidneys go together, and the sum is that of both."""
    rng = np.random.default_rng(seed)
    scans = pd.DataFrame({"scan_id": [f"scan-{i:04d}" for i in range(n)]})
    scans["age_years"] = rng.uniform(20, 85, n)
    scans["sex"] = np.where(rng.random(n) < 0.5, "F", "M")
    level = -0.003 * (scans["age_years"] - 50) + 0.15 * (scans["sex"] == "M")
    noise = sd * rng.standard_normal((n, 4))
    noise[:, 3] = 0.8 * noise[:, 2] + 0.6 * noise[:, 3]
    wide = scans[["scan_id"]].copy()
    for (name, (median, spread)), column in zip(list(ORGANS.items())[:4], noise.T, strict=True):
        wide[name] = median * np.exp(level + spread * column)
    wide["kidneys"] = wide["kidney_left"] + wide["kidney_right"]
    return wide.melt("scan_id", var_name="structure", value_name="volume_ml"), scans


def changed(volumes, scan, structure, **values):
    at = (volumes["scan_id"] == f"scan-{scan:04d}") & (volumes["structure"] == structure)
    assert at.sum() == 1
    volumes = volumes.assign(**{name: volumes.get(name) for name in values})
    for name, value in values.items():
        was = volumes.loc[at, "volume_ml"]
        volumes.loc[at, name] = value(was) if callable(value) else value
    return volumes


def of(cohort: Cohort) -> pd.DataFrame:
    return suspected(cohort)[1]


def test_each_of_them_is_found_with_what_its_other_side_says():
    volumes, scans = tables()
    volumes = volumes.assign(status="ok")
    volumes = changed(volumes, 3, "kidney_left", volume_ml=12.0)  # one kidney
    volumes = changed(volumes, 3, "kidney_right", volume_ml=lambda was: was * 0 + 260)
    volumes = changed(volumes, 4, "kidney_right", volume_ml=80.0)  # a shrunken side, beside
    volumes = changed(volumes, 4, "kidney_left", volume_ml=190.0)  # a usual one
    volumes = changed(volumes, 5, "kidney_left", volume_ml=1200.0)  # polycystic
    volumes = changed(volumes, 5, "kidney_right", volume_ml=1000.0)
    volumes = changed(volumes, 6, "spleen", volume_ml=4.0)  # what a splenectomy left
    volumes = changed(volumes, 7, "liver", volume_ml=9000.0)
    volumes = changed(volumes, 8, "kidney_left", volume_ml=None, status="absent")  # agenesis
    volumes = changed(volumes, 8, "kidney_right", volume_ml=300.0)
    volumes = changed(volumes, 9, "kidney_left", volume_ml=None, status="absent")  # not found
    volumes = changed(volumes, 9, "kidney_right", volume_ml=150.0)  # beside a usual one
    cohort = usable.build(volumes, scans)
    listed = of(cohort)
    found = {
        (row["scan_id"], row["structure"]): (row["kind"], row["pattern"])
        for row in listed.to_dict("records")
    }
    assert found == {
        ("scan-0003", "kidney_left"): ("small", "one side, the other large"),
        ("scan-0004", "kidney_right"): ("small", "one side"),
        ("scan-0005", "kidney_left"): ("large", "both sides"),
        ("scan-0005", "kidney_right"): ("large", "both sides"),
        ("scan-0006", "spleen"): ("small", None),
        ("scan-0007", "liver"): ("large", None),
        ("scan-0008", "kidney_left"): ("not found", "one side, the other large"),
    }
    left = listed[listed["scan_id"] == "scan-0003"].iloc[0]
    assert left["of_usual_pct"] == pytest.approx(100 * left["volume_ml"] / left["usual_ml"])
    assert left["usual_ml"] == pytest.approx(155, rel=0.3)

    counted = suspected(cohort)[0].set_index(["structure", "kind"])
    assert counted["n"].sum() == 7
    assert (
        counted.loc[("kidney_left", "small"), ["n", "n_used", "n_other_large"]].tolist() == [1] * 3
    )
    assert counted.loc[("kidney_right", "small"), "n_beside_other"] == 1
    assert counted.loc[("kidney_right", "large"), "n_both_sides"] == 1
    assert 20 < counted.loc[("kidney_left", "small"), "limit_ml"] < 75


def test_nothing_is_left_out_for_it():
    volumes, scans = tables()
    volumes = changed(volumes.assign(status="ok"), 6, "spleen", volume_ml=4.0)
    cohort = usable.build(volumes, scans)
    before = trends(cohort, Settings())[0]
    assert len(of(cohort)) == 1
    assert (before.query("sex == 'all'")["n_used"] == 400).all()
    pd.testing.assert_frame_equal(before, trends(usable.build(volumes, scans), Settings())[0])


def test_what_the_manifest_calls_absent_is_not_suspected_again():
    volumes, scans = tables()
    volumes = changed(volumes.assign(status="ok"), 6, "spleen", volume_ml=4.0)
    assert len(of(usable.build(volumes, scans))) == 1
    scans["absent"] = np.where(scans["scan_id"] == "scan-0006", "spleen", None)
    assert of(usable.build(volumes, scans)).empty


def test_a_remnant_that_qc_left_out_is_listed_as_not_used():
    volumes, scans = tables()
    volumes = changed(volumes.assign(status="ok", qc="pass"), 6, "spleen", volume_ml=4.0)
    volumes = changed(volumes, 6, "spleen", qc="exclude")
    counted, listed = suspected(usable.build(volumes, scans))
    assert listed["used"].tolist() == [False]
    spleen = counted.set_index(["structure", "kind"]).loc[("spleen", "small")]
    assert (spleen["n"], spleen["n_used"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 300])
def test_clean_cohorts_have_few(n):
    """Normal deviates, and those of a t of 8 degrees of freedom: at most 5 in a thousand scans."""
    volumes, scans = tables(n)
    cohort = usable.build(volumes.assign(status="ok"), scans)
    rng = np.random.default_rng(n)
    medians, sds = np.array([ORGANS[name] for name in cohort.structures]).T
    shape, draws = cohort.volume_ml.shape, 3000 // n
    for noise, most in ((rng.standard_normal, 0.001), (lambda s: rng.standard_t(8, s), 0.005)):
        found = 0
        for _ in range(draws):
            drawn = replace(cohort, volume_ml=medians * np.exp(sds * noise(shape)))
            listed = of(drawn)
            found += listed["scan_id"].nunique() if len(listed) else 0
        assert found <= most * draws * n, noise


def test_nothing_is_said_of_few_volumes_or_of_volumes_that_are_all_alike():
    volumes, scans = tables(49)
    volumes = changed(volumes.assign(status="ok"), 6, "spleen", volume_ml=4.0)
    counted, listed = suspected(usable.build(volumes, scans))
    assert counted.empty
    assert listed.empty
    assert suspicions(counted, knows_cut=True) == []
    alike = tables(100)[0].assign(status="ok", volume_ml=100.0)
    assert of(usable.build(alike, tables(100)[1])).empty
    unknown = tables(100)[1].assign(sex=None)
    assert of(usable.build(tables(100)[0].assign(status="ok"), unknown)).empty


def test_a_cohort_of_one_sex_and_one_age_is_looked_at_too():
    volumes, scans = tables()
    volumes = changed(volumes.assign(status="ok"), 6, "spleen", volume_ml=4.0)
    scans = scans.assign(sex="F", age_years=50.0)
    assert of(usable.build(volumes, scans))["scan_id"].tolist() == ["scan-0006"]


def test_the_sentences_say_what_it_may_be_and_what_to_do():
    volumes, scans = tables()
    volumes = volumes.assign(status="ok")
    for scan in (3, 4):
        volumes = changed(volumes, scan, "kidney_left", volume_ml=12.0)
    volumes = changed(volumes, 7, "liver", volume_ml=9000.0)
    volumes = changed(volumes, 8, "kidney_left", volume_ml=None, status="absent")
    volumes = changed(volumes, 8, "kidney_right", volume_ml=300.0)
    cohort = usable.build(volumes, scans)
    counted, listed = suspected(cohort)
    said = suspicions(counted, knows_cut=True)
    assert [re.split(r" \(| and |, as", text)[0] for text in said] == [
        "2 volumes of kidney_left are so small",
        "1 scan has no kidney_left",
        "1 volume of liver is so large",
        "What was used of these volumes is in every result: nothing is left out because it is far "
        "from the rest. Look at them",
    ]
    assert "the column absent of the manifest" in said[-1]
    assert "the part inside the field of view" not in said[0]
    assert "the part inside the field of view" in suspicions(counted, knows_cut=False)[0]
    counts = with_suspected(flow(cohort), listed)
    assert counts[counts["step"] == "suspected"].set_index("reason")["n"].to_dict() == {
        "a volume far below the rest": 2,
        "a volume far above the rest": 1,
        "a side not found, the other large": 1,
    }
    assert with_suspected(flow(cohort), pd.DataFrame()).equals(flow(cohort))


@pytest.mark.slow
def test_the_house_gets_scan_ids_and_a_public_page_rounded_counts(tmp_path):
    volumes, scans = made_up(400)
    volumes = volumes[volumes["structure"] == "liver"].reset_index(drop=True)
    volumes.loc[:7, "volume_ml"] = np.linspace(30, 40, 8)
    found = analysed(tmp_path, volumes, scans, quantile_check=False, bootstrap_draws=100)
    ids = found["suspected_scans"]["scan_id"].tolist()
    assert ids == [f"sub-{i:05d}" for i in range(8)]
    files = {name: tmp_path / f"{name}.csv" for name in ("volumes", "scans")}
    page = report.run(tmp_path / "out", **files, out=tmp_path / "report").read_text("utf-8")
    assert "8 volumes of liver are so small" in page
    assert 'id="table-suspected"' in page
    report.run(tmp_path / "out", **files, out=tmp_path / "public/report", public=True)
    public = (tmp_path / "public/report/index.html").read_text("utf-8")
    assert "About 10 volumes of liver are so small" in public
    assert "8 volumes of liver" not in public
    handed_on = pd.read_csv(tmp_path / "public/report/tables/suspected.csv")
    counts = handed_on.set_index("kind")["n"]
    assert counts["small"] == 10
    everything = [path.read_bytes() for path in (tmp_path / "public/report").rglob("*.csv")]
    assert not any(ids[0].encode() in content for content in everything)
