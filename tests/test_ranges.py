"""What cannot be true enters no result and is counted, wherever it comes from."""

from __future__ import annotations

import warnings
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from analyse_fixture import made_up
from cohortvol import ranges, reasons
from cohortvol.stages.analyse.answers.reference import scores
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.describe import dropped, flow
from cohortvol.stages.analyse.cohort.inputs import read_scans
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.run import sentences
from cohortvol.stages.assemble import accounting, intake
from cohortvol.stages.assemble.following import OUT_OF_RANGE
from cohortvol.stages.ingest.dicom.headers import covariates
from cohortvol.stages.manifest import read_manifest
from cohortvol.stages.report.tables import inputs as report_inputs
from cohortvol.store.schemas import INGEST, MANIFEST, SCANS
from cohortvol.store.tables import append_rows, to_arrow, to_pandas, write_table
from cohortvol.tools.evaluate.groups import read_scans as read_groups
from results_folder import ingest_row, manifest_row

EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),  # what fails is small as it is
)
RANGES = {"age_years": ranges.age_range(), **ranges.SIZES}
N = 60

numbers = st.one_of(
    st.sampled_from([0, -0.0, -1, 1.75, 17.5, 120, 120.01, 175, 260.5, 999, 1500, 15000, 70000]),
    st.floats(-1e3, 1e3).map(lambda value: round(value, 3)),
    st.sampled_from([1e9, -1e9, 5e-324]),
)


def volumes_and_scans(n: int = N) -> tuple[pd.DataFrame, pd.DataFrame]:
    volumes, scans = made_up(n)
    volumes = volumes[volumes["structure"] == "liver"].assign(qc="pass", model="total_mr")
    return volumes, scans.assign(qc="pass", field_strength_t=1.5)


def outside(name: str, value: float) -> bool:
    return not pd.isna(value) and not RANGES[name].low <= value <= RANGES[name].high


# ---------------------------------------------------------------- tables given to analyse


@pytest.mark.slow
@EXAMPLES
@given(
    st.dictionaries(
        st.tuples(
            st.integers(0, N - 1),
            st.sampled_from(["age_years", "height_cm", "weight_kg", "field_strength_t"]),
        ),
        numbers,
        max_size=12,
    )
)
def test_what_a_table_says_outside_a_range_reaches_no_regression_and_is_counted(changed):
    volumes, scans = volumes_and_scans()
    known = scans.copy()
    for (row, name), value in changed.items():
        scans.loc[row, name] = value
        known.loc[row, name] = np.nan if outside(name, value) else value
    bmi = known["weight_kg"] / (known["height_cm"] / 100) ** 2
    strange = ~bmi.between(RANGES["bmi"].low, RANGES["bmi"].high) & bmi.notna()
    known.loc[strange, "height_cm"] = np.nan
    found, clean = cohort_of.build(volumes, scans), cohort_of.build(volumes, known)

    used = found.scans[found.usable(0)]
    for name, allowed in RANGES.items():
        values = used[name].dropna()
        assert values.between(allowed.low, allowed.high).all(), (name, values.max(), changed)
    slopes, expected = (trends(cohort, Settings())[0] for cohort in (found, clean))
    pd.testing.assert_frame_equal(slopes, expected, obj=f"slopes with {changed}")

    bad_ages = sum(
        outside("age_years", v) for (_, name), v in changed.items() if name == "age_years"
    )
    steps = {(step, reason): n for step, reason, n in flow(found).to_numpy()}
    assert steps.get(("unusable", "age outside its range"), 0) == bad_ages
    m1 = slopes[(slopes["sex"] == "all") & (slopes["model"] == "M1")].iloc[0]
    assert m1["n_used"] + m1["n_dropped"] == N
    rows = dropped(found).reindex(columns=["structure", "reason", "n"])
    counts = rows.groupby("reason")["n"].sum()
    assert m1["n_dropped"] == counts.drop(list(cohort_of.SIZE_REASONS), errors="ignore").sum()
    sizes = counts.reindex(list(cohort_of.SIZE_REASONS)).fillna(0).sum()
    assert sizes == (found.usable(0) & ~found.has_size).sum()
    told = " ".join(sentences(found, slopes, Settings()))
    for name in ("age_years", "height_cm", "weight_kg", "field_strength_t"):
        n = sum(outside(name, value) for (_, column), value in changed.items() if column == name)
        assert (f"of {name} outside" in told) == (n > 0), told
    assert ("of bmi outside" in told) == strange.any(), told


@pytest.mark.parametrize(("height", "weight"), [(1.75, 80), (175, 80_000), (75, 180), (0, 80)])
def test_metres_grams_and_what_was_exchanged_leave_the_size_unknown_and_counted(height, weight):
    volumes, scans = volumes_and_scans()
    scans.loc[3, ["height_cm", "weight_kg"]] = [height, weight]
    found = cohort_of.build(volumes, scans)
    assert not found.has_size[3]
    assert dropped(found).set_index("reason")["n"].to_dict() == {cohort_of.SIZE_IMPLAUSIBLE: 1}
    assert flow(found)["step"].tolist().count("out of range") >= 1


def test_sizes_that_are_all_in_metres_are_counted_though_no_model_has_them():
    volumes, scans = volumes_and_scans()
    scans["height_cm"] /= 100
    found = cohort_of.build(volumes, scans)
    assert dropped(found).set_index("reason")["n"].to_dict() == {cohort_of.SIZE_IMPLAUSIBLE: N}
    assert f"{N} values of height_cm outside 30 to 260 cm" in " ".join(
        sentences(found, trends(found, Settings())[0], Settings())
    )


def test_three_ages_of_999_leave_the_slope_as_it_is():
    volumes, scans = volumes_and_scans(900)
    before = trends(cohort_of.build(volumes, scans), Settings())[0].iloc[0]
    scans.loc[[5, 300, 700], "age_years"] = 999.0
    after = trends(cohort_of.build(volumes, scans), Settings())[0].iloc[0]
    assert after["n_dropped"] == before["n_dropped"] + 3
    assert after["slope_pct_per_decade"] == pytest.approx(before["slope_pct_per_decade"], abs=0.1)


def test_the_range_of_ages_is_a_setting():
    volumes, scans = volumes_and_scans()
    narrow = cohort_of.build(volumes, scans, age_range_years=(40, 60))
    ages = scans["age_years"]
    assert narrow.outside["age_years"].sum() == ((ages < 40) | (ages > 60)).sum()


def test_a_scan_of_an_age_that_cannot_be_has_no_score():
    volumes, scans = volumes_and_scans()
    scans.loc[0, "age_years"] = 999.0
    knots = {"knots_years": [20.0, 50.0, 90.0], "coefficients": [7.0, 0.0, 0.0]}
    model = {"structure": "liver", "age_low_years": 0.0, "age_high_years": 2000.0}
    model |= {"family": "BCCG", "shapes": {"L": {"at_50_years": 0.0, "per_decade": 0.0}}}
    model |= {"ratio_low": 0.1, "ratio_high": 10.0, "M": knots, "S": knots, "terms": []}
    models = [{**model, "sex": sex} for sex in ("F", "M")]
    table = scores(cohort_of.build(volumes, scans), {"models": models, "refused": []})
    first = table[table["scan_id"] == scans["scan_id"][0]].iloc[0]
    assert (first["reason"], np.isnan(first["z"])) == ("age outside its range", True)
    assert table["z"].notna().sum() == N - 1


def test_an_age_that_cannot_be_is_not_drawn_either(tmp_path):
    _, scans = volumes_and_scans()
    scans.loc[0, "age_years"] = 999.0
    scans.to_csv(tmp_path / "scans.csv", index=False)
    assert read_scans(tmp_path / "scans.csv")["age_years"].max() == 999  # as it stands there
    drawn = report_inputs.read_scans(tmp_path / "scans.csv")["age_years"]
    assert (drawn.isna().sum(), drawn.max() <= 120) == (1, True)


def test_an_age_that_cannot_be_is_in_no_third_of_an_evaluation(tmp_path, caplog):
    ages = [20, 30, 40, 50, 60, 999]
    table = pd.DataFrame({"scan_id": list("abcdef"), "age_years": ages})
    table.to_csv(tmp_path / "scans.csv", index=False)
    thirds = read_groups(tmp_path / "scans.csv", list("abcdef")).groups["age_tertile"]
    assert thirds["f"] == "outside 0 to 120 years"
    assert thirds["e"] == "over 47 years"
    assert "1 value of age_years outside 0 to 120 years" in caplog.text


# ---------------------------------------------------------------- DICOM headers


def header(**fields: str) -> dict:
    image = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that no scanner writes
        for name, value in fields.items():
            setattr(image, name, value)
        return covariates(image)


def taken_in(header: dict, *limits: tuple[float, float], **of_manifest) -> pd.DataFrame:
    """The intake of one scan, from tables as the stages write them."""
    rows = [manifest_row(2, "sub-01", "0000", **of_manifest)]
    manifest = to_pandas(to_arrow(append_rows(rows, MANIFEST), MANIFEST))
    rows = [ingest_row("sub-01", **header)]
    ingested = to_pandas(to_arrow(append_rows(rows, INGEST), INGEST)).assign(shard="0000")
    found = intake(manifest, ingested, *limits)
    return found.assign(warnings=found["warnings"].fillna(""))


days = st.dates(date(1, 1, 1), date(9999, 12, 31)).map(lambda day: day.strftime("%Y%m%d").zfill(8))


@pytest.mark.slow
@EXAMPLES
@given(
    age=st.one_of(
        st.tuples(st.integers(0, 999), st.sampled_from("DWMY")).map(lambda a: f"{a[0]:03}{a[1]}"),
        st.sampled_from(["", "48", "999", "Y999", "-01Y"]),
    ),
    tesla=st.one_of(numbers.map(lambda value: f"{value:.6g}"), st.sampled_from(["", "1.5", "3"])),
    day=st.one_of(days, st.sampled_from(["", "29991231", "20180403", "yesterday"])),
    of_manifest=st.sampled_from([None, 48.5]),
)
def test_what_a_header_says_outside_a_range_is_null_and_marked(age, tesla, day, of_manifest):
    given_by = header(PatientAge=age, MagneticFieldStrength=tesla, AcquisitionDate=day)
    row = taken_in(given_by, age_years=of_manifest).iloc[0]
    codes = row["warnings"].split(";")
    for name in ("age_years", "field_strength_t"):
        value, raw = row[name], given_by[f"header_{name}"]
        assert not outside(name, value), (name, raw, value)
        lost = raw is not None and outside(name, raw) and (name, of_manifest) != ("age_years", 48.5)
        assert (OUT_OF_RANGE[name] in codes) == lost, (name, raw, codes)
        assert pd.isna(value) or not lost
    raw = given_by["header_acquisition_date"]
    future = raw is not None and raw > str(ranges.last_day())
    assert (OUT_OF_RANGE[ranges.DATE] in codes) == future, (raw, codes)
    assert pd.isna(row["acquisition_date"]) == (raw is None or future)
    assert ("CLN_AGE_MISSING" in codes) == pd.isna(row["age_years"])


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("header_age_years", 999.0, "CLN_HEADER_AGE"),
        ("header_field_strength_t", 25.0, "CLN_HEADER_VALUE"),
        ("header_acquisition_date", "2999-01-01", "CLN_HEADER_DATE"),
        ("header_time_of_day_h", 0.0, "CLN_HEADER_TIME"),
    ],
)
def test_a_mark_of_a_header_is_counted_in_the_accounts(field, value, code):
    row = taken_in({field: value}).assign(state="done", qc="pass", qc_auto="pass", review=None)
    told = accounting(row.assign(qc_flags=row["warnings"], reason=None), n_manifest=1)
    assert f"unknown: 1 {code}  {reasons.load()[code].sentence}" in told


def test_a_code_in_a_header_is_no_age_that_contradicts_the_manifest():
    def codes(age: float, *limits: tuple[float, float]) -> str:
        found = taken_in({"header_age_years": age}, *limits, age_years=48.0)
        return found["warnings"].iloc[0]

    assert codes(999.0) == ""
    assert codes(17.0, (18, 100)) == "CLN_AGE_CONFLICT"  # an age all the same


def test_an_age_taken_out_by_assemble_is_counted_as_such_by_analyse(tmp_path):
    volumes, scans = volumes_and_scans()
    scans["qc_flags"] = ""
    scans.loc[0, ["age_years", "qc_flags"]] = [np.nan, "CLN_AGE_MISSING;CLN_HEADER_AGE"]
    scans.loc[1, ["age_years", "qc_flags"]] = [np.nan, "CLN_AGE_MISSING"]
    scans["manifest_line"] = np.arange(N) + 2
    write_table(tmp_path / "scans.parquet", scans, SCANS)
    found = cohort_of.build(volumes, read_scans(tmp_path / "scans.parquet"))
    counts = dropped(found).set_index("reason")["n"].to_dict()
    assert counts == {"age missing": 1, "age outside its range": 1}


# ---------------------------------------------------------------- manifests

WRITTEN = ("{:g}", "{:.3f}", "{:e}", "{:03.0f}Y", "{:.0f} kg", "+{:g}")


@EXAMPLES
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                name: st.one_of(
                    st.tuples(st.sampled_from(WRITTEN), numbers).map(lambda a: a[0].format(a[1])),
                    st.sampled_from(["", "n/a", "nan", "inf", "1e400", "9" * 400, "abc"]),
                )
                for name in ("age_years", "height_cm", "weight_kg", "field_strength_t")
            }
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["20180403", "2999-01-01", "2018-04-03", "", "9999-12-31"]),
)
def test_what_a_manifest_says_outside_a_range_makes_a_bad_row(tmp_path_factory, rows, day):
    path = tmp_path_factory.mktemp("manifest") / "scans.csv"
    table = pd.DataFrame(rows).assign(acquisition_date=day, image="scan.nii.gz")
    table["scan_id"] = [f"s{place}" for place in range(len(rows))]
    table.to_csv(path, index=False)
    read = read_manifest(path, bad_rows="quarantine")
    for (_, row), written in zip(read.iterrows(), rows, strict=True):
        for name, text in written.items():
            assert not outside(name, row[name]), (name, text, row[name])
            lost = pd.isna(row[name]) and text not in ("", "n/a", "nan")
            assert not lost or row["state"] == "quarantined", (name, text)
        if day.startswith(("2999", "9999")):
            assert row["state"] == "quarantined"
            assert pd.isna(row["acquisition_date"])
