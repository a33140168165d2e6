"""Reference: centiles of one cohort as a file, and where the organs of other scans lie in them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyse_fixture import made_up
from cohortvol.cli import run
from cohortvol.errors import ConfigError, TableError
from cohortvol.stages.analyse.answers import reference


def written(folder, volumes, scans):
    folder.mkdir(exist_ok=True)
    volumes.to_csv(folder / "volumes.csv", index=False)
    scans.to_csv(folder / "scans.csv", index=False)
    return folder / "volumes.csv", folder / "scans.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    volumes, scans = made_up(3000)
    volumes["model"] = "total_mr"
    reference.fit(*written(folder, volumes, scans), folder / "reference.json")
    return folder / "reference.json"


@pytest.fixture
def scored(model, tmp_path):
    def score(volumes, scans, **options):
        paths = written(tmp_path, volumes, scans)
        return reference.score(model, *paths, tmp_path / "scores.csv", **options)

    return score


def one(scans=None, **values):
    """One woman of 60 with a liver of 1,400 mL, changed as told."""
    person = {"scan_id": "new", "structure": "liver", "volume_ml": 1400.0, "age_years": 60.0}
    person |= {"sex": "F", **values}
    volumes = pd.DataFrame([{k: person[k] for k in person if k not in ("age_years", "sex")}])
    return volumes, pd.DataFrame([{k: person[k] for k in ("scan_id", "age_years", "sex")}])


def test_other_people_of_the_same_population_have_standard_normal_scores(scored):
    table = scored(*made_up(3000, seed=12))
    z = table.loc[table["structure"] == "liver", "z"].dropna()
    assert len(z) > 2900
    assert abs(z.mean()) < 0.06
    assert abs(z.std() - 1) < 0.04
    assert table["centile"].dropna().to_numpy() == pytest.approx(
        100 * stats.norm.cdf(table["z"].dropna())
    )
    share = (table["centile"] < 5).sum() / table["centile"].notna().sum()
    assert 0.04 < share < 0.06


def test_a_score_is_that_of_the_curve_read_from_the_file_by_hand(model, scored):
    entry = next(
        row
        for row in json.loads(model.read_text())["models"]
        if (row["structure"], row["sex"]) == ("liver", "F")
    )

    def at(part, age):  # the spline as the file says it, written anew
        k, c = part["knots_years"], part["coefficients"]

        def cubed(knot):
            return max(age - knot, 0.0) ** 3

        total = c[0] + c[1] * age
        for knot, weight in zip(k[:-2], c[2:], strict=True):
            bend = cubed(knot) - cubed(k[-2]) * (k[-1] - knot) / (k[-1] - k[-2])
            bend += cubed(k[-1]) * (k[-2] - knot) / (k[-1] - k[-2])
            total += weight * bend / (k[-1] - k[0]) ** 2
        return np.exp(total)

    assert entry["family"] == "BCCG"
    power = entry["shapes"]["L"]["at_50_years"]
    expected = ((1400 / at(entry["M"], 60.0)) ** power - 1) / (power * at(entry["S"], 60.0))
    assert scored(*one())["z"].iloc[0] == pytest.approx(expected, rel=1e-9)


def test_a_larger_liver_has_a_higher_centile_and_a_man_a_lower_one_for_the_same_liver(scored):
    z = [scored(*one(**change))["z"].iloc[0] for change in ({}, {"volume_ml": 1800.0})]
    assert z[0] < z[1]
    assert scored(*one(sex="M"))["z"].iloc[0] < z[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age_years": 99.0}, "age outside the reference: "),
        ({"age_years": 18.0}, "age outside the reference: "),
        ({"age_years": np.nan}, "age missing"),
        ({"sex": None}, "sex missing"),
        ({"structure": "heart"}, "structure not in the reference"),
        ({"status": "cut"}, "cut by the field of view"),
        ({"qc": "exclude"}, "failed QC"),
        ({"volume_ml": np.nan, "status": "absent"}, "absent"),
        ({"volume_ml": 0.0}, "not measured"),
    ],
)
def test_without_a_score_there_is_a_reason(scored, change, reason):
    row = scored(*one(**change)).iloc[0]
    assert pd.isna(row["z"])
    assert pd.isna(row["centile"])
    assert row["reason"].startswith(reason)


def test_every_scan_and_structure_has_its_row(scored):
    volumes, scans = made_up(30)
    table = scored(volumes[volumes["structure"] != "stomach"].iloc[:-1], scans)
    assert list(table["scan_id"]) == sorted(list(scans["scan_id"]) * 2)
    assert (table["z"].isna() == table["reason"].notna()).all()
    assert "not measured" in set(table["reason"])


def test_scores_are_written_as_csv_or_parquet(model, tmp_path):
    paths = written(tmp_path, *made_up(20))
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        reference.score(model, *paths, tmp_path / name)
        assert list(read(tmp_path / name).columns) == list(reference.SCORES)


def test_volumes_of_another_segmentation_model_are_refused_unless_told(scored):
    volumes, scans = one(model="mrsegmentator")
    with pytest.raises(ConfigError, match="volumes of mrsegmentator, but the reference is of tot"):
        scored(volumes, scans)
    assert scored(volumes, scans, any_model=True)["z"].notna().all()


def test_the_file_holds_no_person_and_no_small_count(tmp_path):
    volumes, scans = made_up(900)
    few = volumes["structure"].eq("stomach") & (volumes.index % 300 > 2)
    record = reference.fit(*written(tmp_path, volumes[~few], scans), tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert "sub-" not in text
    assert {row["structure"] for row in record["refused"]} == {"stomach"}
    assert {row["note"] for row in record["refused"]} == {
        "ANA_TOO_FEW: fewer than 300 usable subjects"
    }
    assert all(row["n"] >= 300 for row in record["models"])
    reference.fit(tmp_path / "volumes.csv", tmp_path / "scans.csv", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text


def test_a_cohort_too_small_for_any_centile_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(ConfigError, match=r"liver F: ANA_TOO_FEW: fewer than 300"):
        reference.fit(*written(tmp_path, *made_up(200)), tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a reference of this version"),
        ('{"format": "cohortvol reference 9"}', "not a reference of this version"),
        ('{"format": "cohortvol reference 3", "models": [{}]}', "damaged reference"),
        ('{"format": "cohortvol reference 3", "models": []}', "damaged reference"),
    ],
)
def test_a_file_that_is_no_reference_is_refused(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(TableError, match=message):
        reference.read_reference(tmp_path / "r.json")


def test_both_commands_work_from_the_command_line(tmp_path, capsys):
    volumes, scans = (str(path) for path in written(tmp_path, *made_up(700)))
    made, out = str(tmp_path / "r.json"), str(tmp_path / "scores.csv")
    fit = ["reference", "fit", "--volumes", volumes, "--scans", scans, "--out", made]
    assert run(fit) == 0
    score = ["reference", "score", "--reference", made, "--volumes", volumes, "--scans", scans]
    assert run([*score, "--out", out]) == 0
    assert pd.read_csv(out)["z"].abs().max() < 6
    assert run([*score[:3], str(tmp_path / "none.json"), *score[4:], "--out", out]) == 64
    assert "none.json: no such file" in capsys.readouterr().err


def at_a_site(n, seed, factor, spread=1.0, name="new"):
    volumes, scans = made_up(n, seed=seed)
    volumes["volume_ml"] *= factor
    if spread != 1:
        middle = volumes.groupby("structure")["volume_ml"].transform("median")
        volumes["volume_ml"] = middle * (volumes["volume_ml"] / middle) ** spread
    return volumes, scans.assign(site=name)


def test_a_site_that_is_off_is_named_and_can_be_adapted_to(scored, caplog):
    plain = scored(*at_a_site(400, 21, 1.15))
    assert "site new: liver scores +" in caplog.text
    assert "--adapt-by site" in caplog.text
    assert plain["z_adapted"].isna().all()
    adapted = scored(*at_a_site(400, 21, 1.15), adapt_by="site")
    liver = adapted[adapted["structure"] == "liver"].dropna(subset=["z"])
    assert liver["z"].mean() > 0.5
    assert abs(liver["z_adapted"].mean()) < 0.05
    assert abs(liver["z_adapted"].std() - 1) < 0.05
    assert (liver["shift_se"] < 0.1).all()


def test_a_site_like_the_reference_is_not_named(scored, caplog):
    scored(*at_a_site(400, 22, 1.0))
    assert "on average" not in caplog.text


def test_fewer_than_20_scans_of_a_site_adapt_nothing(scored):
    table = scored(*at_a_site(19, 23, 1.3), adapt_by="site")
    assert table["z_adapted"].isna().all()
    with pytest.raises(ConfigError, match="no column scanner"):
        scored(*at_a_site(19, 23, 1.3), adapt_by="scanner")


@pytest.mark.slow
def test_people_scanned_later_at_an_adapted_site_score_like_the_reference(scored):
    """Over 12 sites, each adapted to by 50 scans that it had before."""
    means, spreads = [], []
    for seed in range(12):
        before = scored(*at_a_site(50, 100 + seed, 1.15, spread=1.1), adapt_by="site")
        after = scored(*at_a_site(400, 200 + seed, 1.15, spread=1.1))
        one_of = before[before["structure"] == "liver"].dropna(subset=["shift"]).iloc[0]
        z = after.loc[after["structure"] == "liver", "z"].dropna()
        moved = (z - one_of["shift"]) / one_of["scale"]
        means.append(moved.mean())
        spreads.append(moved.std())
    assert abs(np.mean(means)) < 0.1  # 0.04 is the standard error of twelve sites
    assert 0.95 < np.mean(spreads) < 1.05


def test_volumes_far_outside_are_beyond_the_reference_and_have_no_ceiling(tmp_path):
    rng = np.random.default_rng(1)
    n = 1000
    spleen = 200 * np.exp(0.30 * rng.standard_normal(n))
    enlarged = rng.random(n) < 0.05
    spleen[enlarged] *= rng.uniform(3, 12, enlarged.sum())
    ids = [f"s{i}" for i in range(n)]
    people = pd.DataFrame({"scan_id": ids, "age_years": rng.uniform(20, 85, n), "sex": "F"})
    volumes = pd.DataFrame({"scan_id": ids, "structure": "spleen", "volume_ml": spleen})
    reference.fit(*written(tmp_path / "made", volumes, people), tmp_path / "r.json")
    sizes = {"large": 6000.0, "huge": 60000.0, "usual": 210.0, "tiny": 0.01}
    new = pd.DataFrame(
        [(name, "spleen", ml) for name, ml in sizes.items()], columns=volumes.columns
    )
    who = pd.DataFrame([(name, 50.0, "F") for name in sizes], columns=people.columns)
    paths = written(tmp_path / "new", new, who)
    table = reference.score(tmp_path / "r.json", *paths, tmp_path / "o.csv").set_index("scan_id")
    assert table.loc["huge", "beyond"] == "above"
    assert table.loc["tiny", "beyond"] == "below"
    assert pd.isna(table.loc["usual", "beyond"])
    assert table.loc["huge", "z"] > table.loc["large", "z"] > 2.5
    limits = json.loads((tmp_path / "r.json").read_text())["models"][0]
    for end in ("ratio_low", "ratio_high"):  # one digit: nobody's volume
        assert float(f"{limits[end]:.0e}") == pytest.approx(limits[end])
