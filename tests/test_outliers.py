"""Volumes far from the cohort: found at any age, unmoved by each other, in any order."""

import numpy as np
import pandas as pd
import pytest

from cohortvol.stages.assemble.decisions import QC
from cohortvol.stages.assemble.outliers import outlier_z, resistant_line, with_outliers

N = 400
SPREAD = 0.2


def cohort(n=N, seed=0):
    """Livers that shrink by 8 % per decade, larger in men; scans and volumes."""
    rng = np.random.default_rng(seed)
    scans = pd.DataFrame(
        {
            "scan_id": [f"sub-{i:05d}" for i in range(n)],
            "age_years": rng.uniform(20, 90, n).round(1),
            "sex": rng.choice(["F", "M"], n),
        }
    )
    log_ml = (
        np.log(1500)
        + np.log1p(-0.08) * (scans["age_years"] - 50) / 10
        + 0.5 * (scans["sex"] == "M")
        + SPREAD * rng.standard_normal(n)
    )
    return scans, np.exp(log_ml.to_numpy())


def volumes(scans, volume_ml, **columns):
    frame = pd.DataFrame(
        {
            "scan_id": scans["scan_id"],
            "structure": "liver",
            "volume_ml": volume_ml,
            "status": "ok",
            "cut_by_fov": False,
            "qc": "pass",
            "qc_flags": "",
        }
        | columns
    )
    texts = ["scan_id", "structure", "status", "qc", "qc_flags"]
    return frame.assign(qc=pd.Categorical(frame["qc"], QC)).astype(dict.fromkeys(texts, "category"))


def flagged(scans, table, max_z=5.0):
    marked = with_outliers(table, outlier_z(table, scans), max_z)
    return marked[marked["qc_flags"].astype(str).str.contains("QC_OUTLIER_COHORT")]


def test_the_score_is_that_of_least_squares_where_nothing_is_out_of_line():
    scans, volume_ml = cohort(4000)
    z = outlier_z(volumes(scans, volume_ml), scans)
    men = (scans["sex"] == "M").to_numpy(float)
    x = np.column_stack([np.ones(len(scans)), scans["age_years"], men, scans["age_years"] * men])
    residual = np.log(volume_ml) - x @ np.linalg.lstsq(x, np.log(volume_ml), rcond=None)[0]
    assert np.corrcoef(z, residual)[0, 1] > 0.999
    assert z.std() == pytest.approx(1, abs=0.05)


def test_a_volume_ordinary_for_the_young_is_an_outlier_in_the_old():
    scans, volume_ml = cohort()
    old = int(scans["age_years"].idxmax())
    volume_ml[old] *= np.exp(6 * SPREAD)
    found = flagged(scans, volumes(scans, volume_ml))
    assert found["scan_id"].tolist() == [scans.loc[old, "scan_id"]]
    assert found["qc"].tolist() == ["flag"]  # never out of the trends for this
    assert found["volume_ml"].notna().all()
    assert found["outlier_z"].item() > 5


def test_many_outliers_hide_neither_themselves_nor_move_the_others():
    scans, volume_ml = cohort()
    before = outlier_z(volumes(scans, volume_ml), scans)
    bad = scans["age_years"].nlargest(N // 20).index  # the worst place: one end of the line
    spoilt = volume_ml.copy()
    spoilt[bad] *= 10
    after = outlier_z(volumes(scans, spoilt), scans)
    assert (after[bad] > 5).all()
    others = scans.index.difference(bad)
    assert np.abs(after - before)[others].max() < 0.6
    least_squares = np.polyfit(scans["age_years"], np.log(spoilt), 1)[0]
    assert least_squares > -0.001  # -0.0083 per year without them


def test_the_order_of_the_rows_changes_nothing():
    scans, volume_ml = cohort()
    scans["age_years"] = scans["age_years"].round(-1)  # ties
    z = outlier_z(volumes(scans, volume_ml), scans)
    mixed = np.random.default_rng(1).permutation(N)
    moved = outlier_z(
        volumes(scans.iloc[mixed], volume_ml[mixed]), scans.sample(frac=1, random_state=2)
    )
    assert np.array_equal(moved, z[mixed])


def test_too_few_scans_have_no_score():
    scans, volume_ml = cohort(200)
    women = np.flatnonzero(scans["sex"] == "F")
    few = volume_ml.copy()
    few[women[29:]] = np.nan
    z = outlier_z(volumes(scans, few), scans)
    assert np.isnan(z[women]).all()
    assert np.isfinite(z[scans["sex"] == "M"]).all()
    assert np.isfinite(outlier_z(volumes(scans, few), scans, min_scans=29)[women[:29]]).all()


def test_what_was_not_measured_has_no_score():
    scans, volume_ml = cohort()
    volume_ml[:3] = np.nan
    z = outlier_z(volumes(scans, volume_ml), scans)
    assert np.isnan(z[:3]).all()
    assert np.isfinite(z[3:]).all()


def test_a_cut_volume_is_a_lower_bound_and_enters_no_fit():
    scans, volume_ml = cohort()
    whole = outlier_z(volumes(scans, volume_ml), scans)
    cut = np.arange(N) % 3 == 0
    volume_ml[cut] *= np.exp(-8 * SPREAD)
    volume_ml[0] *= np.exp(16 * SPREAD)
    status = np.where(cut, "cut", "ok")
    table = volumes(scans, volume_ml, status=status, cut_by_fov=cut)
    assert np.abs(outlier_z(table, scans) - whole)[~cut].max() < 0.6
    assert flagged(scans, table)["scan_id"].tolist() == [scans.loc[0, "scan_id"]]


def test_an_excluded_volume_is_scored_and_stays_excluded_but_enters_no_fit():
    scans, volume_ml = cohort()
    volume_ml[:100] *= 20
    qc = np.where(np.arange(N) < 100, "exclude", "pass")
    table = volumes(scans, volume_ml, qc=qc, qc_flags=np.where(qc == "exclude", "QC_OUTLIER", ""))
    found = flagged(scans, table)
    assert len(found) == 100
    assert set(found["qc_flags"]) == {"QC_OUTLIER;QC_OUTLIER_COHORT"}
    assert set(found["qc"]) == {"exclude"}


def test_scans_without_age_or_sex_are_compared_with_what_is_known():
    scans, volume_ml = cohort()
    ageless = scans.assign(age_years=np.where(scans.index == 7, np.nan, scans["age_years"]))
    volume_ml[7] = 1500 * 40
    assert flagged(ageless, volumes(ageless, volume_ml))["scan_id"].tolist() == ["sub-00007"]
    unknown = scans.assign(sex=None, age_years=np.nan)
    z = outlier_z(volumes(unknown, volume_ml), unknown)
    assert np.isfinite(z).all()
    assert z[7] > 5


def test_volumes_that_are_all_alike_have_no_score():
    scans, _ = cohort()
    scans["age_years"] = 50.0
    assert np.isnan(outlier_z(volumes(scans, np.full(N, 1500.0)), scans)).all()


def test_by_chance_few_are_flagged_in_the_smallest_cohort_that_is_scored():
    n_flagged = n_scored = 0
    for seed in range(100):
        scans, volume_ml = cohort(66, seed)
        z = outlier_z(volumes(scans, volume_ml), scans)
        n_scored += np.isfinite(z).sum()
        n_flagged += (np.abs(z) > 5).sum()
    assert n_scored > 4000
    assert n_flagged <= n_scored / 1000, (n_flagged, n_scored)


def test_the_line_is_exact_on_a_line_and_flat_where_age_does_not_vary():
    x = np.array([3.0, 1.0, 2.0, 9.0, 5.0, 5.0])
    assert resistant_line(x, 4 - 0.5 * x) == pytest.approx(-0.5)
    assert resistant_line(np.full(6, 2.0), x) == 0.0


def test_the_tables_without_rows_stay_without_rows():
    scans, volume_ml = cohort(0)
    empty = volumes(scans, volume_ml)
    assert with_outliers(empty, outlier_z(empty, scans)).empty
