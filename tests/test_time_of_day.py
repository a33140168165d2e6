"""The time of day: from the header to M2, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pydicom
import pytest
import statsmodels.formula.api as smf
from pydicom.dataset import Dataset

from analyse_fixture import analysed, made_up, row
from cohortvol import ranges
from cohortvol.errors import ConfigError
from cohortvol.stages import report
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.answers.time_of_day import time_of_day
from cohortvol.stages.analyse.cohort import hours, usable
from cohortvol.stages.analyse.cohort.describe import dropped, flow
from cohortvol.stages.analyse.cohort.settings import Settings, checked
from cohortvol.stages.analyse.fits.designs import harmonic
from cohortvol.stages.ingest import check_scan
from cohortvol.stages.ingest.clock import hours_of
from cohortvol.stages.ingest.dicom.headers import covariates
from cohortvol.stages.manifest.bids_tables import time_of
from cohortvol.stages.manifest.values import BadValueError, Rules, parse_covariate
from nifti_files import image_voxels, nifti, saved
from test_ranges import taken_in

RULES = Rules(sex_codes={}, ages=ranges.age_range())

# ---------------------------------------------------------------- headers


def header(*, frames: str = "", **fields: object) -> float | None:
    image = Dataset()
    for name, value in fields.items():
        setattr(image, name, value)
    if frames:
        content, frame = Dataset(), Dataset()
        content.FrameAcquisitionDateTime = frames
        frame.FrameContentSequence = pydicom.Sequence([content])
        image.PerFrameFunctionalGroupsSequence = pydicom.Sequence([frame])
    return covariates(image)["header_time_of_day_h"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("134501.25", 13.75),
        ("1345", 13.75),
        ("08", 8.0),
        ("13:45:1.25", 13.75),  # dcm2niix does not pad
        ("8:06:00.0", 8.1),
        ("250000", 25.0),
        ("000030", 0.0),
        ("", None),
        (None, None),
        ("anon", None),
        (13.75, None),
    ],
)
def test_a_time_is_hours_since_midnight_to_the_minute(text, value):
    assert hours_of(text) == value


def test_which_field_of_a_header_gives_the_time():
    late = {"SeriesTime": "180000", "ContentTime": "190000"}
    assert header(AcquisitionTime="081500", **late) == 8.25
    assert header(AcquisitionDateTime="20180403093000.5+0200", **late) == 9.5
    assert header(frames="20180403100000", **late) == 10.0
    assert header(ImageType=["ORIGINAL", "PRIMARY"], **late) == 18.0
    assert header(ImageType=["ORIGINAL", "PRIMARY"], ContentTime="190000") == 19.0
    # a derived series began when it was computed
    assert header(ImageType=["DERIVED", "SECONDARY"], **late) is None
    assert header(ImageType=["DERIVED", "PRIMARY"], AcquisitionTime="081500", **late) == 8.25
    assert header(StudyTime="070000") is None


@pytest.mark.parametrize("kept", ["MODIFIED", "REMOVED"])
def test_a_time_that_was_changed_for_privacy_is_none(kept):
    said = {"LongitudinalTemporalInformationModified": kept}
    assert header(AcquisitionTime="081500", **said) is None
    assert header(AcquisitionTime="081500", LongitudinalTemporalInformationModified="UNMODIFIED")


@pytest.mark.parametrize(
    ("said", "of_manifest", "taken", "coded"),
    [
        (8.25, None, 8.25, False),
        (8.25, 9.5, 9.5, False),  # the manifest wins
        (0.0, None, None, True),  # midnight: taken out
        (25.0, None, None, True),
        (25.0, 9.5, 9.5, False),
        (None, None, None, False),
    ],
)
def test_a_time_that_cannot_be_true_is_unknown_with_its_reason(said, of_manifest, taken, coded):
    given = {} if of_manifest is None else {"time_of_day_h": of_manifest}
    found = taken_in({"header_time_of_day_h": said}, **given).iloc[0]
    time = found["time_of_day_h"]
    assert (None if pd.isna(time) else time) == taken
    assert ("CLN_HEADER_TIME" in found["warnings"].split(";")) == coded


def test_the_sidecar_of_an_image_gives_it(tmp_path):
    path = saved(tmp_path, nifti(image_voxels()))
    assert "header_time_of_day_h" not in check_scan(path)
    sidecar = path.with_name(path.name.split(".")[0] + ".json")
    sidecar.write_text(json.dumps({"AcquisitionTime": "13:45:2.002500"}))
    assert check_scan(path)["header_time_of_day_h"] == 13.75


# ---------------------------------------------------------------- M2

AMPLITUDE, PEAK_H = 0.06, 5.0


def by_the_hour(n=1500, seed=5, *, first=6.5, last=20.5, amplitude=AMPLITUDE):
    """Livers that follow the hour; the older come early, so that M1 is off by it."""
    volumes, scans = made_up(n, seed)
    rng = np.random.default_rng(seed)
    age = scans["age_years"].to_numpy()
    share = np.clip(rng.normal(0.5 - 0.008 * (age - 55), 0.25, n), 0, 1)
    hour = np.round((first + (last - first) * share) * 60) / 60
    turn = 2 * np.pi * (hour - PEAK_H) / 24
    log_ml = np.log(1500) - 0.03 * (age - 50) / 10 + amplitude * np.cos(turn)
    liver = volumes[volumes["structure"] == "liver"].assign(
        volume_ml=np.exp(log_ml + rng.normal(0, 0.1, n))
    )
    scans = scans.drop(columns=["height_cm", "weight_kg", "site"])
    return liver, scans.assign(time_of_day_h=hour)


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hours")
    return folder, analysed(folder, *by_the_hour(), quantile_check=False, bootstrap_draws=100)


def test_m2_is_the_regression_with_a_sine_and_a_cosine(adjusted):
    _, found = adjusted
    volumes, scans = by_the_hour()
    turn = 2 * np.pi * scans["time_of_day_h"] / 24
    data = scans.assign(
        y=np.log(volumes["volume_ml"].to_numpy()),
        ml=volumes["volume_ml"].to_numpy(),
        decades=scans["age_years"] / 10,
        s=np.sin(turn),
        c=np.cos(turn),
    )
    theirs = smf.ols("y ~ decades + sex + s + c", data).fit(cov_type="HC3", use_t=True)
    slope = row(found["slopes"], structure="liver", sex="all", model="M2")
    assert slope["adjusted_for"] == "time of day"
    low, high = theirs.conf_int().loc["decades"]
    for name, value in (("", theirs.params["decades"]), ("_ci_low", low), ("_ci_high", high)):
        ours = slope[f"slope_pct_per_decade{name}"]
        assert ours == pytest.approx(100 * np.expm1(value), rel=1e-9), name

    day = found["time_of_day"].iloc[0]
    assert (day["from_h"], day["to_h"], day["n_used"]) == (8, 12, 1500)
    step = dict(zip("sc", np.diff(harmonic(np.array([8.0, 12.0])), axis=0)[0], strict=True))
    contrast = [step.get(name, 0.0) for name in theirs.params.index]
    low, high = theirs.t_test(contrast).conf_int()[0]
    for name, value in (
        ("difference_pct", theirs.t_test(contrast).effect[0]),
        ("difference_pct_ci_low", low),
        ("difference_pct_ci_high", high),
    ):
        assert day[name] == pytest.approx(100 * np.expm1(value), rel=1e-9), name
    in_ml = smf.ols("ml ~ decades + sex + s + c", data).fit(cov_type="HC3", use_t=True)
    low, high = in_ml.t_test(contrast).conf_int()[0]
    assert day["difference_ml_ci_low"] == pytest.approx(low, rel=1e-9)
    both = theirs.wald_test("s = 0, c = 0", use_f=True, scalar=True)
    assert day["log10_p"] == pytest.approx(np.log10(both.pvalue), rel=1e-8)


def test_the_planted_amplitude_peak_and_difference_come_back(adjusted):
    _, found = adjusted
    day = found["time_of_day"].iloc[0]
    assert day["amplitude_pct"] == pytest.approx(100 * np.expm1(AMPLITUDE), abs=1.2)
    assert day["peak_h"] == pytest.approx(PEAK_H, abs=1.5)
    true = 100 * np.expm1(AMPLITUDE * np.diff(np.cos(2 * np.pi * (np.array([8, 12]) - 5) / 24))[0])
    assert day["difference_pct_ci_low"] < true < day["difference_pct_ci_high"]
    assert day["difference_pct_ci_high"] < 0
    # who comes early is older: M1 takes the hour for age, M2 does not
    slopes = found["slopes"].query("sex == 'all'").set_index("model")
    planted = 100 * np.expm1(-0.03)
    low, high = "slope_pct_per_decade_ci_low", "slope_pct_per_decade_ci_high"
    assert slopes.loc["M2", low] < planted < slopes.loc["M2", high]
    assert not slopes.loc["M1", low] < planted < slopes.loc["M1", high]


@pytest.mark.slow
def test_the_page_shows_it_and_a_public_page_no_time(adjusted, tmp_path):
    folder, _ = adjusted
    tables = {name: folder / f"{name}.csv" for name in ("volumes", "scans")}
    page = report.run(folder / "out", **tables, out=tmp_path / "report").read_text("utf-8")
    assert "the time of day as one harmonic of 24 hours" in page
    assert "M2 and M3 adjust for the time of day" in page
    assert 'id="table-time_of_day"' in page
    assert "8 to 12" in page
    assert "Time of day, h" in page
    report.run(folder / "out", **tables, out=tmp_path / "public/report", public=True)
    public = (tmp_path / "public/report/index.html").read_text("utf-8")
    assert "M2 and M3 adjust for the time of day" in public
    assert 'id="table-time_of_day"' not in public
    assert "Time of day, h" not in public
    handed_on = tmp_path / "public/report/tables"
    assert (
        pd.read_csv(handed_on / "time_of_day.csv").drop(columns="structure").isna().all(axis=None)
    )
    assert "time_of_day" not in (handed_on / "table1.csv").read_text()


def small(**settings):
    return by_the_hour(400, **settings)


def cohort_of(volumes, scans, wish="auto"):
    return hours.decided(usable.build(volumes, scans), wish)


def slopes_of(volumes, scans, wish="auto"):
    return trends(cohort_of(volumes, scans, wish), Settings())[0].query("sex == 'all'")


def test_scans_without_a_time_leave_m2_only_where_asked():
    volumes, scans = small()
    scans.loc[:99, "time_of_day_h"] = np.nan
    assert set(slopes_of(volumes, scans)["model"]) == {"M1"}
    cohort = cohort_of(volumes, scans)
    assert time_of_day(cohort, Settings()).empty
    why = "known of less than 95 % of the scans"
    assert hours.why_not(cohort, "auto") == why
    told = hours.said(cohort, "auto", adjusted=False)
    assert told == [f"No model adjusts for the time of day ({why})."]

    used = slopes_of(volumes, scans, "always").set_index("model")["n_used"]
    assert used.to_dict() == {"M1": 400, "M2": 300}
    counted = dropped(cohort_of(volumes, scans, "always")).set_index("reason")["n"]
    assert counted.to_dict() == {"further covariate missing (M2 only)": 100}

    assert set(slopes_of(*small(), "never")["model"]) == {"M1"}
    with pytest.raises(ConfigError, match="it must be auto, always or never"):
        checked({"time_of_day": "yes"})


def test_the_same_hour_for_all_is_no_covariate():
    assert set(slopes_of(*small(first=9.0, last=10.0))["model"]) == {"M1"}
    # two hours only, which a sine and a cosine cannot tell from an intercept and one another
    volumes, scans = small()
    scans["time_of_day_h"] = np.where(scans["time_of_day_h"] > 13, 18.0, 6.0)
    assert set(slopes_of(volumes, scans, "always")["model"]) == {"M1"}


def test_where_other_terms_give_the_hour_it_is_left_out_with_a_note():
    volumes, scans = small()
    site = np.arange(400) % 4
    scans = scans.assign(time_of_day_h=np.array([7.0, 11, 15, 19])[site])
    scans["scanner"] = np.where(site < 2, "one", "other")
    m2 = slopes_of(volumes, scans).query("model == 'M2'").iloc[0]
    assert m2["adjusted_for"] == "scanner, time of day"
    scans["scanner"] = site.astype(str)
    m2 = slopes_of(volumes, scans).query("model == 'M2'").iloc[0]
    assert m2["adjusted_for"] == "scanner"
    gone = "left out because other terms give it: time of day (sin), time of day (cos)"
    assert gone in m2["note"]
    day = time_of_day(cohort_of(volumes, scans), Settings()).iloc[0]
    assert np.isnan(day["p_value"])
    assert gone in day["note"]


@pytest.mark.parametrize(
    ("first", "last", "between"), [(8.5, 12.2, (9, 12)), (12.8, 17.2, (14, 17))]
)
def test_hours_without_scans_are_not_compared(first, last, between):
    day = time_of_day(cohort_of(*small(first=first, last=last)), Settings()).iloc[0]
    assert (day["from_h"], day["to_h"]) == between
    assert "amplitude_pct" not in day or np.isnan(day["amplitude_pct"])
    assert "amplitude and peak need scans over 12 hours of the day" in day["note"]


# ---------------------------------------------------------------- times that are none


def test_one_minute_for_a_whole_site_is_no_time():
    volumes, scans = small()
    scans["site"] = np.where(np.arange(400) % 2, "A", "B")
    scans.loc[scans["site"] == "A", "time_of_day_h"] = 12.0
    scans.loc[scans.index[1], "time_of_day_h"] = 14.5
    assert hours.stand_ins(scans).sum() == 199
    cohort = cohort_of(volumes, scans)
    assert cohort.remarks[0].startswith("199 scans have the same minute of the day")
    assert cohort.scans["time_of_day_h"].notna().sum() == 201
    assert not cohort.time_of_day
    # hours that people wrote down are not constant
    morning = scans.assign(time_of_day_h=np.where(np.arange(400) % 3, 9.0, 14.0))
    assert not hours.stand_ins(morning).any()
    assert not hours.stand_ins(scans[scans["site"] == "A"].head(9)).any()


def test_a_time_outside_the_day_counts_as_unknown_in_a_table_of_others():
    volumes, scans = small()
    scans.loc[[0, 1], "time_of_day_h"] = [0.0, 26.0]
    cohort = cohort_of(volumes, scans)
    assert cohort.scans["time_of_day_h"].isna().sum() == 2
    counted = flow(cohort).set_index("reason")["n"]
    assert counted[f"time_of_day_h outside {ranges.SIZES['time_of_day_h']}"] == 2


# ---------------------------------------------------------------- the confounder

APART = "Sites scan at different hours"


def test_sites_that_scan_at_other_hours_are_named_as_a_confounder():
    volumes, scans = small()
    late = scans["time_of_day_h"] > 13
    rng = np.random.default_rng(2)
    scans["site"] = np.where(late ^ (rng.random(400) < 0.2), "A", "B")
    cohort = cohort_of(volumes, scans)
    _, said = hours.said(cohort, "auto", adjusted=True)
    assert said.startswith(APART)
    assert "M1 compares sites at different hours" in said
    _, said = hours.said(cohort_of(volumes, scans, "never"), "never", adjusted=False)
    assert "a trend with age may be one" in said
    # the same with times an hour and less apart
    scans["time_of_day_h"] = 12 + 0.06 * (scans["time_of_day_h"] - 12)
    assert len(hours.said(cohort_of(volumes, scans), "auto", adjusted=False)) == 1


def test_nothing_is_said_of_sites_that_scan_at_the_same_hours():
    volumes, scans = small()
    for seed in range(20):
        scans["site"] = np.random.default_rng(seed).choice(["A", "B", "C"], 400)
        assert not hours.sites_apart(cohort_of(volumes, scans)), seed


def test_an_acq_time_of_bids_gives_day_and_hour():
    assert time_of("2011-02-04T23:59:59.5") == "23:59"
    assert time_of("10:11:12") == "10:11"
    assert time_of("1921-01-01T00:00:00") == ""
    assert time_of("2011-02-04") == time_of("n/a") == ""


@pytest.mark.parametrize(("text", "value"), [("9.5", 9.5), ("09:30", 9.5), ("9:30:59", 9.5)])
def test_the_manifest_gives_it_as_hours_or_as_a_clock_shows_it(text, value):
    assert parse_covariate("time_of_day_h", text, RULES) == value


@pytest.mark.parametrize(
    ("text", "code"),
    [("0", "CLN_IMPLAUSIBLE"), ("26:00", "CLN_IMPLAUSIBLE"), ("am", "CLN_UNPARSED")],
)
def test_a_bad_time_in_the_manifest_is_refused(text, code):
    with pytest.raises(BadValueError) as error:
        parse_covariate("time_of_day_h", text, RULES)
    assert error.value.code == code
