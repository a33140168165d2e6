"""Columns of one's own: from the manifest to M2, and structures that surgery took."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analyse_fixture import analysed, made_up, record, row
from cohortvol import cli, config
from cohortvol.errors import ConfigError, ManifestError, TableError
from cohortvol.stages import manifest, report
from cohortvol.stages.manifest.bids import read_bids
from cohortvol.store.schemas import MANIFEST, SCANS
from cohortvol.store.tables import read_table

OWN = {"waist_cm": "continuous", "smoker": "factor"}


def confounded(n=1500, seed=3):
    """The liver follows waist and smoking alone, and both differ with age: its true slope is 0."""
    volumes, scans = made_up(n, seed)
    rng = np.random.default_rng(seed)
    age = scans["age_years"].to_numpy()
    waist = 80 + 0.4 * (age - 50) + rng.normal(0, 9, n)
    smoker = np.where(rng.random(n) < 0.7 - 0.006 * age, "yes", "no")
    log_ml = np.log(1500) + 0.01 * (waist - 80) - 0.08 * (smoker == "yes") + rng.normal(0, 0.1, n)
    liver = volumes["structure"] == "liver"
    volumes.loc[liver, "volume_ml"] = np.exp(log_ml)
    scans = scans.drop(columns=["height_cm", "weight_kg", "site"])
    return volumes[liver], scans.assign(waist_cm=waist, smoker=smoker)


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return folder, analysed(folder, *confounded(), covariates=OWN)


def test_m2_is_the_regression_with_the_further_columns(adjusted):
    folder, found = adjusted
    slope = row(found["slopes"], structure="liver", sex="all", model="M2")
    assert slope["adjusted_for"] == "waist_cm, smoker"
    volumes, scans = confounded()
    data = scans.assign(y=np.log(volumes["volume_ml"].to_numpy()), decades=scans["age_years"] / 10)
    theirs = smf.ols("y ~ decades + sex + waist_cm + smoker", data).fit(cov_type="HC3", use_t=True)
    for ours, value in (
        ("slope_pct_per_decade", theirs.params["decades"]),
        ("slope_pct_per_decade_ci_low", theirs.conf_int().loc["decades", 0]),
        ("slope_pct_per_decade_ci_high", theirs.conf_int().loc["decades", 1]),
    ):
        assert slope[ours] == pytest.approx(100 * np.expm1(value), rel=1e-9), ours
    assert slope["slope_pct_per_decade_ci_low"] < 0 < slope["slope_pct_per_decade_ci_high"]
    naive = row(found["slopes"], structure="liver", sex="all", model="M1")
    assert naive["slope_pct_per_decade_ci_low"] > 2
    said = record(folder)
    assert said["covariates"]["adjusted_for"] == ["waist_cm", "smoker"]
    assert said["covariates"]["continuous"] == ["waist_cm"]
    assert "M2 and M3 have fixed effects of smoker; M1 has not." in said["sentences"]


def test_the_page_says_what_was_adjusted_for(adjusted):
    folder, _ = adjusted
    tables = {name: folder / f"{name}.csv" for name in ("volumes", "scans")}
    page = report.run(folder / "out", **tables, out=folder / "report").read_text("utf-8")
    assert "Model M2 adjusts for waist_cm and smoker besides" in page
    assert "waist_cm as a line, the others as fixed effects" in page


def test_scans_without_a_number_are_left_out_of_m2_and_counted(tmp_path):
    volumes, scans = confounded()
    scans.loc[:99, "waist_cm"] = np.nan
    scans.loc[100:149, "smoker"] = None
    found = analysed(tmp_path, volumes, scans, covariates=OWN)
    used = found["slopes"].query("sex == 'all'").set_index("model")["n_used"]
    assert used.to_dict() == {"M1": 1500, "M2": 1400}
    dropped = found["dropped"].set_index("reason")["n"]
    assert dropped.to_dict() == {"further covariate missing (M2 only)": 100}
    sensitive = found["sensitivity"].query("sex == 'all' and model == 'M2'")
    assert set(sensitive["n_used"].dropna()) <= {1400, 1399, 1398, 1397}


def test_a_name_that_is_nowhere_and_a_kind_that_is_none_are_refused(tmp_path):
    volumes, scans = confounded(200)
    with pytest.raises(TableError, match=r"no column wasit_cm, .*did you mean 'waist_cm'"):
        analysed(tmp_path / "a", volumes, scans, covariates={"wasit_cm": "continuous"})
    with pytest.raises(ConfigError, match="it must be continuous or factor"):
        analysed(tmp_path / "b", volumes, scans, covariates={"waist_cm": "number"})
    with pytest.raises(TableError, match="column smoker: 200 values are not numbers"):
        analysed(tmp_path / "c", volumes, scans, covariates={"smoker": "continuous"})


# ---------------------------------------------------------------- the manifest

ROWS = (
    "scan_id,image,subject_id,waist_cm,smoker,cluster_id,sampling_weight,stratum,absent\n"
    "a,a.nii.gz,p1,88.5,yes,fam1,12.5,north,spleen\n"
    "b,b.nii.gz,p2,,no,fam1,3,south,\n"
    "c,c.nii.gz,p3,n/a,,fam2,,,kidney_left; spleen\n"
)


def read(folder, text, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scans.csv").write_text(text)
    manifest.run(folder / "scans.csv", folder / "results", **settings)
    return read_table(folder / "results/manifest/scans.parquet", MANIFEST).set_index("scan_id")


def test_further_columns_stand_in_the_table_as_they_were_given(tmp_path):
    scans = read(tmp_path, ROWS, covariates=OWN)
    further = [json.loads(cell) for cell in scans["further"].dropna()]
    assert further == [{"smoker": "yes", "waist_cm": "88.5"}, {"smoker": "no"}]
    assert pd.isna(scans["further"]["c"])
    assert scans["cluster_id"].tolist() == ["fam1", "fam1", "fam2"]
    assert scans["sampling_weight"].tolist()[:2] == [12.5, 3.0]
    assert scans["absent"].tolist()[0] == "spleen"
    assert scans["absent"].tolist()[2] == "kidney_left;spleen"


def test_no_family_stands_in_the_results_where_ids_are_hashed(tmp_path):
    scans = read(tmp_path, ROWS, covariates=OWN, hash_ids=True)
    first, second, third = scans.sort_values("manifest_line")["cluster_id"]
    assert first == second != third
    assert first.startswith("c_")
    below = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert not [path for path in below if b"fam1" in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("88.5", "wide"), r"waist_cm +'?wide'? +CLN_UNPARSED +a number with a point"),
        (("12.5", "0"), r"sampling_weight +'?0'? +CLN_IMPLAUSIBLE +above 0"),
        (("12.5", "12 people"), r"sampling_weight +.*CLN_UNPARSED +a number of people"),
        (("kidney_left; spleen", "left kidney"), r"absent +.*CLN_UNPARSED +names of structures"),
        (
            ("waist_cm,", "wasit_cm,"),
            r"no column 'waist_cm'; `covariates` names it; did you mean 'wasit_cm'",
        ),
    ],
)
def test_values_that_are_none_are_named(tmp_path, change, message):
    with pytest.raises(ManifestError, match=message):
        read(tmp_path, ROWS.replace(*change), covariates=OWN)


@pytest.mark.parametrize("name", ["age_years", "bmi", "waist circumference", "1st"])
def test_names_with_a_use_of_their_own_or_that_are_none_are_refused(tmp_path, capsys, name):
    (tmp_path / "scans.csv").write_text(ROWS)
    given = json.dumps({name: "continuous"})
    words = ["manifest", "--manifest", str(tmp_path / "scans.csv"), "--results", str(tmp_path)]
    assert cli.run([*words, "--covariates", given]) == 64
    assert "none that has a use already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", [*MANIFEST, *SCANS, "bmi", "subject", "cluster"])
def test_no_column_of_ours_can_be_taken_for_one_of_theirs(name):
    """analyse would read it from the scans table, in place of what the manifest says."""
    with pytest.raises(ConfigError, match="names of further columns"):
        config.check({"covariates": {name: "continuous"}}, source="config")


def test_a_bids_dataset_has_them_in_its_own_tables(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (tmp_path / "participants.tsv").write_text("participant_id\twaist_cm\nsub-1\t91\nsub-2\tn/a\n")
    for subject in ("sub-1", "sub-2"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        (tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz").touch()
    rows = read_bids(tmp_path, further=("waist_cm",)).rows
    assert [one.get("waist_cm") for one in rows] == ["91", "n/a"]
    manifest.run(tmp_path, tmp_path.parent / "results", covariates={"waist_cm": "continuous"})
    scans = read_table(tmp_path.parent / "results/manifest/scans.parquet", MANIFEST)
    assert scans["further"].iloc[0] == '{"waist_cm": "91"}'
    assert pd.isna(scans["further"].iloc[1])


def test_a_manifest_made_of_a_folder_keeps_what_its_table_has(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.nii.gz").touch()
    people = tmp_path / "people.csv"
    people.write_text("scan_id,age_years,waist_cm\na,50,88.5\nb,60,\n")
    made = manifest.from_folder(tmp_path, people)
    assert made["waist_cm"].tolist() == ["88.5", ""]
    assert made["age_years"].tolist() == ["50", "60"]


# ---------------------------------------------------------------- surgery


def test_who_had_it_taken_is_counted_apart_and_stands_for_nobody(tmp_path):
    volumes, scans = made_up(1200, 5)
    left, right = (
        volumes[volumes["structure"] == "stomach"].assign(structure=f"kidney_{side}", label=label)
        for side, label in (("left", 7), ("right", 8))
    )
    both = left.assign(structure="kidneys", label=None, volume_ml=2 * left["volume_ml"])
    volumes = pd.concat([volumes, left, right, both], ignore_index=True)
    scans["absent"] = None
    scans.loc[:29, "absent"] = "kidney_left"
    scans.loc[30:39, "absent"] = "kidneys;splen"
    found = analysed(tmp_path, volumes, scans)
    dropped = found["dropped"].query("reason == 'taken by surgery'").set_index("structure")["n"]
    assert dropped.to_dict() == {"kidney_left": 40, "kidney_right": 10, "kidneys": 40}
    used = found["slopes"].query("sex == 'all' and model == 'M1'").set_index("structure")["n_used"]
    assert used[["liver", "kidney_left", "kidney_right", "kidneys"]].tolist() == [
        1200,
        1160,
        1190,
        1160,
    ]
    missing = found["missingness"].query("structure == 'kidneys' and variable == 'sex'")
    assert missing["n_scans"].sum() == 1160
    assert missing["n_unusable"].fillna(0).sum() == 0
    said = record(tmp_path)["sentences"]
    assert "The column absent names what was not measured here: splen." in said
    assert any(one.startswith("90 volumes are left out because surgery took") for one in said)
    of_ipw = found["sensitivity"].query("structure == 'kidneys' and analysis == 'ipw'")
    assert of_ipw["note"].str.contains("10 scans that are not usable are needed").all()
