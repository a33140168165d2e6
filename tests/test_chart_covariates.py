"""Centiles that depend on covariates of one's own: what these add, where charts are drawn."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analyse_fixture import analysed
from cohortvol import config
from cohortvol.errors import ConfigError, EstimateError, TableError
from cohortvol.stages.analyse.answers import reference
from cohortvol.stages.analyse.fits.centile_model import fit
from cohortvol.stages.analyse.fits.chart_terms import columns_of, terms_of

OWN = {"waist_cm": "continuous", "smoker": "factor"}
PER_CM, OF_SMOKERS, OF_FORMER = 0.012, -0.10, -0.04


def people(n, seed):
    """Livers that follow age, waist and smoking."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 85, n)
    waist = 90 + 0.2 * (age - 50) + rng.normal(0, 11, n)
    smoker = rng.choice(["no", "former", "yes"], n, p=[0.55, 0.25, 0.2])
    shift = PER_CM * (waist - 90)
    shift += np.select([smoker == "yes", smoker == "former"], [OF_SMOKERS, OF_FORMER], 0.0)
    volume = 1500 * np.exp(-0.003 * (age - 50) + shift + 0.12 * rng.standard_normal(n))
    ids = [f"s{number}" for number in range(n)]
    scans = pd.DataFrame({"scan_id": ids, "age_years": age, "sex": "F", "waist_cm": waist})
    scans["smoker"] = smoker
    return pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": volume}), scans


def written(folder, volumes, scans):
    folder.mkdir(exist_ok=True, parents=True)
    volumes.to_csv(folder / "volumes.csv", index=False)
    scans.to_csv(folder / "scans.csv", index=False)
    return folder / "volumes.csv", folder / "scans.csv"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    paths = written(folder, *people(2000, 1))
    reference.fit(*paths, folder / "with.json", covariates=OWN)
    reference.fit(*paths, folder / "without.json")
    return folder


def test_the_file_says_what_each_covariate_adds_and_where_charts_are_drawn(saved):
    record = json.loads((saved / "with.json").read_text())
    assert record["covariates"] == OWN
    (model,) = record["models"]
    waist, smoker = model["terms"]
    assert waist["name"] == "waist_cm"
    assert waist["at"] == pytest.approx(90, abs=1)
    assert waist["at"] == round(waist["at"])  # nobody's own
    assert waist["per_unit"] == pytest.approx(PER_CM, abs=0.001)
    assert (smoker["name"], smoker["at"]) == ("smoker", "no")
    assert smoker["groups"] == {
        "former": pytest.approx(OF_FORMER, abs=0.02),
        "yes": pytest.approx(OF_SMOKERS, abs=0.02),
    }
    assert json.loads((saved / "without.json").read_text())["models"][0]["terms"] == []


def test_with_a_normal_ln_volume_the_terms_are_those_of_least_squares():
    volumes, scans = people(800, 2)
    data = scans.assign(y=np.log(volumes["volume_ml"]))
    terms = terms_of(scans, OWN)
    model = fit(
        data["age_years"].to_numpy(),
        volumes["volume_ml"].to_numpy(),
        further=columns_of(terms, scans),
    )
    formula = "y ~ age_years + waist_cm + C(smoker, Treatment('no'))"
    theirs = smf.ols(formula, data).fit()  # a line of age for a spline: near, not equal
    expected = [theirs.params["waist_cm"], *theirs.params.filter(like="T.").to_numpy()]
    assert model.terms == pytest.approx(expected, abs=4e-3)


def test_scores_of_others_are_standard_normal_whatever_their_covariates(saved, tmp_path):
    paths = written(tmp_path, *people(3000, 3))
    scans = pd.read_csv(paths[1])
    z = {}
    for name in ("with", "without"):
        table = reference.score(saved / f"{name}.json", *paths, tmp_path / "out.csv")
        z[name] = table.set_index("scan_id")["z"].reindex(scans["scan_id"]).to_numpy()
    assert np.nanmean(z["with"]) == pytest.approx(0, abs=0.08)
    assert np.nanstd(z["with"]) == pytest.approx(1, abs=0.05)
    known = ~np.isnan(z["with"])
    for name, least, most in (("with", 0, 0.05), ("without", 0.5, 1)):
        r = np.corrcoef(scans["waist_cm"][known], z[name][known])[0, 1]
        assert least <= abs(r) < most, name


def test_who_lacks_a_covariate_has_no_score_and_a_table_without_it_is_refused(saved, tmp_path):
    volumes, scans = people(40, 4)
    scans.loc[scans.index[0], "waist_cm"] = np.nan
    scans.loc[scans.index[1], "smoker"] = "cigars"
    scans.loc[:, "age_years"] = 50.0
    paths = written(tmp_path, volumes, scans)
    table = reference.score(saved / "with.json", *paths, tmp_path / "out.csv").set_index("scan_id")
    assert table.loc["s0", "reason"] == reference.MISSING + "waist_cm"
    assert table.loc["s1", "reason"] == reference.OTHER_GROUP + "smoker"
    assert table["z"].isna().sum() == 2
    with pytest.raises(TableError, match=r"no column waist_cm, which the reference .*with.json"):
        reference.score(
            saved / "with.json",
            *written(tmp_path, volumes, scans.drop(columns="waist_cm")),
            tmp_path / "out.csv",
        )


def test_charts_are_drawn_at_a_stated_value_of_people_who_have_one(tmp_path):
    volumes, scans = people(1500, 5)
    scans.loc[:99, "waist_cm"] = np.nan
    scans.loc[100:109, "smoker"] = "pipe"  # too few for a term
    options = {"covariates": OWN, "bootstrap_draws": 100}
    found = analysed(tmp_path, volumes, scans, centile_covariates=["waist_cm", "smoker"], **options)
    curve = found["centiles"].dropna(subset=["age_years"])
    (drawn_at,) = set(curve["drawn_at"])
    waist, smoker = drawn_at.split(", ")
    assert smoker == "smoker no"
    assert set(curve["n_used"]) == {1390}
    near = curve[(curve["age_years"] - 50).abs() < 0.5].iloc[0]
    for centile, z in ((5, -1.645), (50, 0.0), (95, 1.645)):
        expected = 1500 * np.exp(PER_CM * (float(waist.split()[1]) - 90) + 0.12 * z)
        assert near[f"p{centile}_ml"] == pytest.approx(expected, rel=0.03)
        assert near[f"quantile_p{centile}_ml"] == pytest.approx(expected, rel=0.05)
    assert found["calibration"]["difference_points"].abs().max() < 6
    worms = found["worms"]
    assert (worms.loc[worms["band"] == 0, "deviation"].abs() < 0.4).all()


def test_of_several_scans_the_first_with_a_value_counts(tmp_path):
    volumes, scans = people(600, 8)
    scans["subject_id"] = scans["scan_id"]
    later = scans.assign(scan_id=scans["scan_id"] + "b", age_years=scans["age_years"] + 1)
    scans.loc[:49, "waist_cm"] = np.nan
    paths = written(
        tmp_path,
        pd.concat([volumes, volumes.assign(scan_id=volumes["scan_id"] + "b")]),
        pd.concat([scans, later]),
    )
    record = reference.fit(*paths, tmp_path / "out.json", covariates=OWN)
    assert record["models"][0]["n"] == 600


def test_a_name_that_is_no_covariate_is_refused_before_anything_runs(tmp_path):
    given = {"covariates": OWN, "analyse": {"centile_covariates": ["waist"]}}
    with pytest.raises(
        ConfigError, match="waist is not among `covariates`; did you mean 'waist_cm"
    ):
        config.check(given)
    with pytest.raises(ConfigError, match="centile_covariates names waist"):
        analysed(tmp_path, *people(60, 6), covariates=OWN, centile_covariates=["waist"])


def test_a_covariate_that_does_not_differ_has_no_term_and_two_that_tell_the_same_are_refused():
    volumes, scans = people(400, 7)
    assert terms_of(scans.assign(waist_cm=90.0), OWN)[0].name == "smoker"
    assert terms_of(scans.assign(smoker="no"), {"smoker": "factor"}) == ()
    twice = scans.assign(also_cm=scans["waist_cm"] * 2.54)
    terms = terms_of(twice, {"waist_cm": "continuous", "also_cm": "continuous"})
    with pytest.raises(EstimateError, match="covariates that tell the same"):
        fit(
            scans["age_years"].to_numpy(),
            volumes["volume_ml"].to_numpy(),
            further=columns_of(terms, twice),
        )
