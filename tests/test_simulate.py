"""The synthetic cohort: exact volumes, planted trends, planted faults, one seed one cohort."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.errors import ConfigError
from cohortvol.store import schemas, tables
from cohortvol.tools.simulate import anatomy, cohort, compare, image, population, run
from cohortvol.tools.simulate.faults import FAULTS

pytestmark = pytest.mark.slow

VOLUMES_ML = {
    "liver": 1480.0,
    "spleen": 211.0,
    "kidney_left": 163.0,
    "kidney_right": 151.0,
    "pancreas": 70.0,
    "stomach": 240.0,
    "gallbladder": 19.0,
    "adrenal_gland_left": 4.2,
    "adrenal_gland_right": 3.3,
}


@pytest.fixture(scope="module")
def abdomen():
    return anatomy.build(VOLUMES_ML, height_cm=171, bmi=26, rng=np.random.default_rng(4))


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    run.run(out, n=14, seed=5, broken=True)
    return out


@pytest.mark.parametrize("structure", VOLUMES_ML)
def test_every_organ_holds_exactly_the_voxels_its_volume_asks_for(abdomen, structure):
    n_voxels = (abdomen.tissues == anatomy.TISSUE[structure]).sum()
    assert n_voxels == round(VOLUMES_ML[structure] * 1000 / anatomy.SPACING_MM**3)


def test_liver_lies_on_the_right_and_spleen_on_the_left(abdomen):
    def centre_mm(structure):
        spots = np.argwhere(abdomen.tissues == anatomy.TISSUE[structure])
        return nib.affines.apply_affine(abdomen.affine, spots.mean(axis=0))

    assert centre_mm("liver")[0] > 20 > -20 > centre_mm("spleen")[0]
    assert centre_mm("kidney_right")[0] > 20 > -20 > centre_mm("kidney_left")[0]


def test_an_organ_too_large_for_the_body_is_an_error():
    with pytest.raises(ValueError, match="no room for"):
        anatomy.build(VOLUMES_ML | {"stomach": 60000.0}, 150, 18, np.random.default_rng(0))


@pytest.mark.parametrize("orientation", ["LAS", "LSP", "RAS", "PIR"])
def test_label_map_keeps_the_volume_in_any_orientation(abdomen, orientation):
    acquisition = image.Acquisition(
        orientation=orientation,
        spacing_mm=(2.0, 2.0, 4.0),
        centre_mm=(0, 0, 20),
        extent_mm=(420, 340, 400),
        tilt_deg=4,
    )
    labels = image.label_map_of(image.organ_masks(abdomen), abdomen.affine, acquisition)
    shape, affine = image.grid_of(acquisition)
    assert labels.shape == shape
    assert "".join(nib.aff2axcodes(affine)) == orientation
    for index, structure in enumerate(image.ORGANS, start=1):
        volume_ml = (labels == index).sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
        assert volume_ml == pytest.approx(VOLUMES_ML[structure], rel=0.04)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        run.run(tmp_path / folder, n=1, seed=3)
    files = sorted(p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        first, second = (tmp_path / folder / file for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), file


def test_a_scan_does_not_depend_on_how_many_are_drawn(tmp_path, small_cohort):
    run.run(tmp_path, n=2, seed=5)
    faults = pd.read_csv(small_cohort / "faults.csv")
    sound = [s for s in ("sub-0001", "sub-0002") if s not in set(faults["scan_id"])]
    for scan_id in ("sub-0001", "sub-0002"):
        label_map = f"labels/{scan_id}.nii.gz"
        assert (tmp_path / label_map).read_bytes() == (small_cohort / label_map).read_bytes()
    for scan_id in sound:
        file = f"images/{scan_id}.nii.gz"
        assert (tmp_path / file).read_bytes() == (small_cohort / file).read_bytes()


def test_every_fault_is_planted_once_and_named(small_cohort):
    faults = pd.read_csv(small_cohort / "faults.csv")
    assert list(faults["fault"]) == [*FAULTS, "missing age", "duplicate id", "fat-water swap"]
    manifest = pd.read_csv(small_cohort / "manifest.csv")
    assert len(manifest) == 14
    assert manifest["scan_id"].duplicated().sum() == 1
    assert manifest["age_years"].isna().sum() == 1


def test_the_swapped_scan_is_called_water_and_shows_fat(small_cohort):
    faults = pd.read_csv(small_cohort / "faults.csv").set_index("fault")["scan_id"]
    swapped = faults["fat-water swap"]
    assert (faults == swapped).sum() == 1  # it is broken in no other way
    manifest = pd.read_csv(small_cohort / "manifest.csv").set_index("scan_id")
    assert manifest.loc[swapped, "sequence"] == run.DIXON
    grey, labels = (
        np.asarray(nib.load(small_cohort / folder / f"{swapped}.nii.gz").dataobj)
        for folder in ("images", "labels")
    )
    liver = grey[labels == 1 + image.ORGANS.index("liver")].mean()
    assert liver < 0.25 * np.percentile(grey, 95)


def test_truth_names_every_scan_and_its_share_in_view(small_cohort):
    truth = tables.read_table(small_cohort / "truth.parquet", run.TRUTH)
    assert len(truth) == 14 * len(image.ORGANS)
    assert truth["in_view"].between(0, 1).all()
    assert (truth["in_view"] > 0.999).mean() > 0.8


def test_too_few_scans_for_the_faults_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="at least"):
        run.run(tmp_path, n=5, seed=1, broken=True)


def test_log_volume_model_recovers_the_planted_slopes():
    """Adrenals and aorta have one slope at all ages, so M2 must find exactly that slope."""
    planted = cohort.planted_slopes(20_000).set_index(["structure", "sex", "model"])
    found = planted["planted_pct_per_decade"]
    assert found["adrenal_gland_left", "F", "M2"] == pytest.approx(3.0, abs=1e-6)
    assert found["aorta", "M", "M2"] == pytest.approx(9.0, abs=1e-6)
    assert found["stomach", "all", "M2"] == pytest.approx(0.0, abs=1e-6)
    for structure in ("kidney_left", "kidney_right", "liver", "spleen"):
        assert found[structure, "all", "M1"] < -2


def test_subjects_have_the_ages_of_the_seed_study():
    """Published: median 59, interquartile range 45 to 70."""
    age = cohort.draw_subjects(50_000, np.random.default_rng(0))["age_years"]
    assert age.between(18, 95).all()
    assert list(age.quantile([0.25, 0.5, 0.75])) == pytest.approx([45, 59, 70], abs=2)


def test_population_tables_have_the_schemas_of_the_stages(tmp_path):
    population.run(tmp_path, n=300, seed=2)
    scans = tables.read_table(tmp_path / "manifest" / "scans.parquet", schemas.MANIFEST)
    ingest = tables.read_table(tmp_path / "ingest" / "0000.parquet", schemas.INGEST)
    measured = tables.read_table(
        tmp_path / "measure" / population.MODEL / "0000.parquet", schemas.VOLUMES
    )
    assert len(scans) == len(ingest) == 300
    ready = (ingest["state"] == "ready").sum()
    assert len(measured) == ready * cohort.truth()["structure"].nunique()
    assert measured.loc[measured["status"] == "absent", "volume_ml"].isna().all()
    assert (measured["volume_ml"].dropna() > 0).all()


@pytest.mark.parametrize("n_layers", [1, 3])
def test_what_was_found_is_compared_whatever_label_and_layer_it_has(
    small_cohort, tmp_path, n_layers
):
    """A result equal to the truth, by a model that counts the organs from 11."""
    truth = tables.read_table(small_cohort / "truth.parquet", run.TRUTH)
    names = {scan_id: f"{scan_id}_dseg.nii.gz" for scan_id in truth["scan_id"].unique()[:4]}
    for scan_id, name in names.items():
        drawn = nib.load(small_cohort / "labels" / f"{scan_id}.nii.gz")
        labels = np.asarray(drawn.dataobj).astype(np.uint8)
        label_map = np.zeros((*labels.shape, n_layers), np.uint8)
        label_map[..., -1] = np.where(labels, labels + 10, 0)
        nib.save(nib.Nifti1Image(label_map, drawn.affine), tmp_path / name)
    label = truth["structure"].map({name: 11 + n for n, name in enumerate(image.ORGANS)})
    volumes = truth.assign(label=label)[truth["scan_id"].isin(names)]
    scans = pd.DataFrame({"scan_id": names.keys(), "label_map": names.values()})
    for name, rows, schema in (
        ("volumes", volumes, schemas.VOLUMES),
        ("scans", scans, schemas.SCANS),
    ):
        tables.write_table(tmp_path / f"{name}.parquet", rows.reindex(columns=list(schema)), schema)
    found = compare.volumes_against_truth(small_cohort, tmp_path)
    assert set(found["structure"]) == set(image.ORGANS)
    assert found["dice_mean"].tolist() == [1.0] * 4
    assert found["mean_absolute_error_pct"].tolist() == [0.0] * 4
