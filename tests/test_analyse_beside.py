"""Analyse: published slopes, measurement error, left and right; cohorts that are small or odd."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import analysed, made_up, record, row
from cohortvol.errors import TableError
from cohortvol.stages.analyse.answers.asymmetry import asymmetry, pairs
from cohortvol.stages.analyse.answers.literature import literature, references
from cohortvol.stages.analyse.answers.two_models import two_models
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.fits.joint import problems
from cohortvol.stages.analyse.robustness.measurement_error import (
    lowest_published_dice,
    tipping,
    volume_ratios,
)
from cohortvol.store.schemas import AGREEMENT
from cohortvol.store.tables import write_table

SETTINGS = Settings()


@pytest.fixture
def compared(tmp_path):
    """Verdict on the liver of women, -3 %/decade, against one published row."""

    def verdict(slope=-3.0, n=1000, **published):
        values = {"structure": "liver", "sex": "F", "modality": "MRI", "evidence": "VERIFIED"}
        values |= {"source": "this test", **published}
        pd.DataFrame([values]).to_csv(tmp_path / "more.csv", index=False)
        volumes, scans = made_up(n)
        scans = scans[scans["sex"] == "F"].drop(columns=["height_cm", "weight_kg"])
        change = np.log1p(slope / 100) - np.log1p(-3 / 100)
        ages = volumes["scan_id"].map(scans.set_index("scan_id")["age_years"])
        volumes = volumes[ages.notna() & (volumes["structure"] == "liver")]
        volumes = volumes.assign(volume_ml=volumes["volume_ml"] * np.exp(change * ages / 10))
        cohort = cohort_of.build(volumes, scans)
        table = literature(cohort, Settings(literature=str(tmp_path / "more.csv")))
        return row(table, structure="liver", sex="F", source="this test")

    return verdict


@pytest.mark.parametrize(
    ("published", "verdict"),
    [
        ({"direction": "decrease"}, "sign agrees"),
        ({"direction": "increase"}, "conflict"),
        ({"direction": "none"}, "conflict"),
        ({"direction": "peak"}, "no reference"),
        ({"mean_ml": 1400}, "no reference"),
        ({"slope_pct_per_decade": -3.8}, "CI holds the reference"),
        ({"slope_pct_per_decade": -9.0, "direction": "decrease"}, "sign agrees, size differs"),
        ({"slope_pct_per_decade": 2.0}, "conflict"),
        ({"slope_ml_per_decade": -60.0}, "CI holds the reference"),
        ({"slope_ml_per_decade": -150.0}, "sign agrees, size differs"),
        ({"slope_ml_per_decade": 60.0}, "conflict"),
    ],
)
def test_verdict_on_a_falling_liver(compared, published, verdict):
    found = compared(**published)
    assert found["slope_pct_per_decade_ci_high"] < 0
    assert found["verdict"] == verdict


@pytest.mark.parametrize("direction", ["increase", "decrease", "none"])
def test_a_slope_that_may_be_zero_has_no_direction(compared, direction):
    found = compared(slope=1.5, direction=direction)
    assert found["slope_pct_per_decade_ci_low"] < 0 < found["slope_pct_per_decade_ci_high"]
    assert found["verdict"] == ("CI holds the reference" if direction == "none" else "cannot tell")


def test_a_reference_of_some_ages_is_compared_with_the_slope_at_these_ages(compared):
    whole = compared(direction="decrease")
    young = compared(direction="decrease", age_low_years=20, age_high_years=40)
    assert young["n_used"] < 0.4 * whole["n_used"]
    assert young["slope_pct_per_decade"] != whole["slope_pct_per_decade"]
    none = compared(direction="decrease", age_low_years=100)
    assert pd.isna(none["verdict"])
    assert none["note"].startswith("ANA_TOO_FEW: 0 usable subjects")


def test_unverified_values_are_not_plotted(compared):
    assert compared(direction="decrease")["plotted"]
    assert not compared(direction="decrease", evidence="UNVERIFIED")["plotted"]


def test_of_the_paper_that_is_replicated_only_signs_are_known():
    known = references()
    paper = known[known["source"].str.contains("241613")]
    assert set(paper["direction"]) == {"increase", "decrease"}
    assert paper[["slope_pct_per_decade", "slope_ml_per_decade", "mean_ml"]].isna().all(axis=None)
    assert set(known["evidence"]) == {"VERIFIED", "DERIVED", "UNVERIFIED"}
    assert not known["structure"].str.contains("per_m2").any()  # no volumes in mL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": "SURE"}, "column evidence, line 2: 'SURE'"),
        ({"sex": "female"}, "column sex, line 2: 'female'"),
        ({"direction": "up"}, "column direction, line 2: 'up'"),
        ({"slope_pct_per_decade": "a lot"}, "'a lot' is no number"),
        ({"modality": ""}, "column modality, line 2"),
    ],
)
def test_a_wrong_row_of_literature_is_named(tmp_path, change, message):
    row = {"structure": "liver", "sex": "F", "modality": "MRI", "evidence": "DERIVED"}
    pd.DataFrame([{**row, "source": "x", **change}]).to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(TableError, match=message):
        references(tmp_path / "l.csv")


def test_a_table_of_literature_that_lacks_a_column_or_is_not_there_is_refused(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        references(tmp_path / "none.csv")
    (tmp_path / "l.csv").write_text("structure,sex\nliver,F\n")
    with pytest.raises(TableError, match="column missing: modality, evidence, source"):
        references(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("dice", "low", "high"), [(0.96, 0.92, 1.08), (0.85, 0.74, 1.35), (0.70, 0.54, 1.86)]
)
def test_volume_ratios_that_a_dice_allows(dice, low, high):
    assert volume_ratios(dice) == pytest.approx((low, high), abs=0.005)


def slopes_of(**values):
    one = {"structure": "liver", "sex": "F", "model": "M1"}
    for name, value in zip(("", "_ci_low", "_ci_high"), values["slope"], strict=True):
        one[f"slope_pct_per_decade{name}"] = value
    return pd.DataFrame([one])


@pytest.fixture
def of_total_mr():
    volumes, scans = made_up(300)
    return cohort_of.build(volumes.assign(model="total_mr"), scans)


def test_the_drift_that_cancels_a_slope(of_total_mr):
    found = tipping(of_total_mr, slopes_of(slope=(-4.0, -5.0, -3.0))).iloc[0]
    assert 0.96 * (1 + found["bias_pct_per_decade"] / 100) == pytest.approx(1)
    assert 0.97 * (1 + found["bias_ci_pct_per_decade"] / 100) == pytest.approx(1)
    ages = of_total_mr.scans["age_years"]
    decades = (np.percentile(ages, 95) - np.percentile(ages, 5)) / 10
    assert found["bias_over_ages_pct"] == pytest.approx(100 * (0.96**-decades - 1))
    rising = tipping(of_total_mr, slopes_of(slope=(2.0, 1.0, 3.0))).iloc[0]
    assert 1.01 * (1 + rising["bias_ci_pct_per_decade"] / 100) == pytest.approx(1)
    unsure = tipping(of_total_mr, slopes_of(slope=(2.0, -1.0, 3.0))).iloc[0]
    assert unsure["bias_ci_pct_per_decade"] == 0


def test_a_slope_within_the_published_dice_could_be_an_error_of_segmentation(of_total_mr):
    dice, test_set = lowest_published_dice("total_mr")["liver"]
    small, large = (
        tipping(of_total_mr, slopes_of(slope=slope)).iloc[0]
        for slope in ((-0.2, -0.3, -0.1), (-15.0, -16.0, -14.0))
    )
    assert (small["dice"], small["test_set"]) == (dice, test_set)
    assert small["within_dice"]
    assert not large["within_dice"]


def test_models_without_published_dice_say_so():
    volumes, scans = made_up(300)
    for model, note in (
        ("own", "no Dice published of model own"),
        ("total_mr_6mm", "no Dice published of model total_mr_6mm"),
        (None, "the tables do not name the segmentation model"),
    ):
        cohort = cohort_of.build(volumes.assign(model=model), scans)
        found = tipping(cohort, slopes_of(slope=(-4.0, -5.0, -3.0))).iloc[0]
        assert found["note"] == note
        assert not math.isnan(found["bias_pct_per_decade"])
    assert lowest_published_dice("total_mr_80") == lowest_published_dice("total_mr")
    nothing = tipping(cohort, slopes_of(slope=(np.nan,) * 3)).iloc[0]
    assert nothing["note"] == "no slope to cancel"


def paired(n=800, drift=0.0, seed=4):
    volumes, scans = made_up(n, seed)
    liver = volumes[volumes["structure"] == "liver"].reset_index(drop=True)
    random = np.random.default_rng(seed)
    tilt = 0.04 + drift * (scans["age_years"] - 50) / 10 + random.normal(0, 0.03, n)
    sides = [
        liver.assign(
            structure=f"kidney_{side}", volume_ml=liver["volume_ml"] * (1 + sign * tilt / 2)
        )
        for side, sign in (("left", 1), ("right", -1))
    ]
    return pd.concat(sides, ignore_index=True), scans


def test_left_and_right_are_compared():
    volumes, scans = paired(drift=0.01)
    found = row(asymmetry(cohort_of.build(volumes, scans), SETTINGS), pair="kidney", sex="all")
    assert found["slope_points_per_decade"] == pytest.approx(1.0, abs=0.2)  # % of the mean
    assert found["slope_points_per_decade_ci_low"] > 0.5
    wide = volumes.pivot(index="scan_id", columns="structure", values="volume_ml")
    difference = wide["kidney_left"] - wide["kidney_right"]
    assert found["bias_ml"] == pytest.approx(difference.mean())
    assert found["limit_low_ml"] == pytest.approx(difference.mean() - 1.96 * difference.std())
    assert found["limit_high_ml"] == pytest.approx(difference.mean() + 1.96 * difference.std())
    inside = difference.between(found["limit_low_ml"], found["limit_high_ml"]).mean()
    assert 0.92 < inside < 0.98


def test_swapping_left_and_right_turns_the_asymmetry_round():
    volumes, scans = paired(drift=0.01)
    swapped = volumes.assign(
        structure=volumes["structure"].map(
            {"kidney_left": "kidney_right", "kidney_right": "kidney_left"}
        )
    )
    one, other = (
        row(asymmetry(cohort_of.build(v, scans), SETTINGS), pair="kidney", sex="F")
        for v in (volumes, swapped)
    )
    for name in ("asymmetry_mean_pct", "slope_points_per_decade", "bias_ml"):
        assert one[name] == pytest.approx(-other[name])
        assert one[name] > 0


def test_a_side_that_is_cut_takes_the_scan_out():
    volumes, scans = paired()
    volumes["status"] = "ok"
    volumes.loc[:9, "status"] = "cut"
    found = row(asymmetry(cohort_of.build(volumes, scans), SETTINGS), pair="kidney", sex="all")
    assert found["n_used"] == 790
    assert abs(found["slope_points_per_decade"]) < 0.2


def test_only_structures_with_two_sides_are_pairs():
    assert pairs(("liver", "kidney_left", "lung_left", "kidney_right")) == [("kidney", 1, 3)]


def odd(kind):
    volumes, scans = made_up(300)
    if kind == "one structure, 65 rows, no height":
        scans = scans.head(65).drop(columns=["height_cm", "weight_kg"])
        volumes = volumes[volumes["structure"] == "liver"]
    elif kind == "one sex":
        scans = scans[scans["sex"] == "M"]
    elif kind == "one site":
        scans = scans.assign(site="A")
    elif kind == "constant volume":
        volumes = volumes.assign(volume_ml=1500.0)
    elif kind == "constant age":
        scans = scans.assign(age_years=50.0)
    elif kind == "20 rows":
        scans = scans.head(20)
    elif kind == "1 row":
        scans = scans.head(1)
    elif kind == "no sex known":
        scans = scans.assign(sex=None)
    elif kind == "no subject, state or site":
        scans = scans[["scan_id", "age_years", "sex"]]
    elif kind == "all cut":
        volumes = volumes.assign(status="cut")
    elif kind == "nobody counts":
        scans = scans.assign(state="failed")
    elif kind == "people scanned twice":
        scans = scans.assign(subject_id=[f"p{i // 2}" for i in range(300)])
    elif kind == "size of a few":
        scans.loc[5:, ["height_cm", "weight_kg"]] = np.nan
    keep = volumes["scan_id"].isin(scans["scan_id"])
    return volumes[keep], scans


BESIDE = (
    "centiles",
    "within_between",
    "sensitivity",
    "literature",
    "tipping",
)


@pytest.mark.parametrize(
    "kind",
    [
        "one structure, 65 rows, no height",
        "one sex",
        "one site",
        "constant volume",
        "constant age",
        "20 rows",
        "1 row",
        "no sex known",
        "no subject, state or site",
        "all cut",
        "nobody counts",
        "people scanned twice",
        "size of a few",
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_cohorts_get_a_note_for_every_number_that_is_missing(tmp_path, kind):
    found = analysed(tmp_path, *odd(kind), quantile_check=False)
    for name in BESIDE:
        table = found[name]
        assert len(table), name
        value = {
            "centiles": "p50_ml",
            "within_between": "within_pct_per_decade",
            "sensitivity": "slope_pct_per_decade",
            "literature": "slope_pct_per_decade",
            "tipping": "bias_pct_per_decade",
        }[name]
        silent = table[table[value].isna() & table["note"].isna()]
        assert silent.empty, (name, silent.head().to_dict("records"))


def test_a_path_of_literature_is_not_written_into_the_results(tmp_path):
    folder = tmp_path / "somewhere private"
    folder.mkdir()
    (folder / "mine.csv").write_text(
        "structure,sex,modality,evidence,source\nliver,F,MRI,DERIVED,x\n"
    )
    analysed(tmp_path, *made_up(60), literature=str(folder / "mine.csv"))
    assert "private" not in (tmp_path / "out" / "analyse.json").read_text()
    written = record(tmp_path)
    assert written["settings"]["literature"] == "mine.csv"
    assert set(written["inputs"]) == {"volumes", "scans", "literature"}


def test_where_no_sex_is_known_all_have_one_slope_and_no_term_of_sex():
    _, scans = made_up(200)
    scans = scans.assign(sex=None, subject=np.arange(200))
    log_volume = 7 - 0.05 * (scans["age_years"].to_numpy() - 50) / 10
    found, why = problems(scans, log_volume, np.empty((200, 0)), 50.0, 10)
    assert [problem.design.shape for problem in found] == [(200, 2)]
    assert set(why) == {"F", "M"}


def compared_with_another(path, drift, n=900):
    """A cohort, and the other model's liver, larger by 2 %, and by `drift` % per decade more."""
    volumes, scans = made_up(n)
    random = np.random.default_rng(6)
    difference = 2 + drift * (scans["age_years"] - 55) / 10 + random.normal(0, 1, n)
    table = pd.DataFrame({"scan_id": scans["scan_id"], "structure": "liver"})
    table = table.assign(other_model="other", volume_difference_pct=difference, dice=0.9)
    write_table(path, table.reindex(columns=list(AGREEMENT)), AGREEMENT)
    return cohort_of.build(volumes, scans), Settings(agreement=str(path))


def test_another_model_is_compared_by_age_and_sex(tmp_path):
    found = two_models(*compared_with_another(tmp_path / "a.parquet", drift=1.0))
    assert set(found["structure"]) == {"liver"}
    everyone = row(found, variable="all")
    assert everyone["difference_mean_pct"] == pytest.approx(2, abs=0.3)
    assert everyone["n_used"] == 900
    young, middle, old = found.loc[found["variable"] == "age_years", "difference_mean_pct"]
    assert young < middle - 1.5 < old - 3  # thirds are 23 years apart
    women, men = found.loc[found["variable"] == "sex", "difference_mean_pct"]
    assert women == pytest.approx(men, abs=0.5)
    thirds = found[found["variable"] == "age_years"]
    assert thirds["n_used"].sum() == 900
    half = 1.96 * (thirds["limit_high_pct"] - thirds["limit_low_pct"]) / 3.92
    assert (half > 1.96).all()


def test_another_model_is_not_asked_for_unless_named(tmp_path):
    cohort, settings = compared_with_another(tmp_path / "a.parquet", drift=0.0, n=60)
    assert two_models(cohort, SETTINGS).empty
    few = two_models(cohort_of.build(*made_up(6)), settings)
    assert few["note"].str.startswith("ANA_TOO_FEW").all()
    assert not few["n_used"].between(1, 4).any()
    volumes, scans = made_up(20)
    strangers = [frame.assign(scan_id="x" + frame["scan_id"]) for frame in (volumes, scans)]
    with pytest.raises(TableError, match="none of its scans"):
        two_models(cohort_of.build(*strangers), settings)
