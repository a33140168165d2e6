"""Other images of a scan on its grid: from columns, DICOM and BIDS to values in its structures."""

from __future__ import annotations

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_fixture import people, write_dataset
from cohortvol import config
from cohortvol.errors import ConfigError
from cohortvol.stages import ingest, manifest
from cohortvol.stages.assemble.companions import unfolded
from cohortvol.stages.ingest import Rules
from cohortvol.stages.manifest import Choice, all_images, changed_images, read_manifest
from cohortvol.stages.measure import measure_shard
from cohortvol.store import companions
from cohortvol.store.files import sha256_of
from cohortvol.store.kept import measuring_key
from cohortvol.store.schemas import INGEST, MANIFEST, SEGMENT, SERIES, SHARD, VOLUMES
from cohortvol.store.tables import append_rows, read_table, to_arrow, to_pandas
from dicom_fixture import dixon_session, write_series
from results_folder import volume_row

SHAPE = (24, 22, 20)
AFFINE = np.array([[-4.0, 0.2, 0, 50], [0.2, 4.0, 0, -40], [0, 0, 5.0, 7], [0, 0, 0, 1]])
LAYERS = [{1: "liver", 2: "spleen", 3: "kidney_left", 4: "kidney_right"}]
BOXES = {1: (2, 10, 3, 12), 2: (17, 22, 3, 9), 3: (17, 21, 12, 17), 4: (4, 8, 14, 18)}
SLICES = slice(4, 16)
FAT = {"fat_fraction": {}}


def label_map() -> np.ndarray:
    """Four organs, none at an edge."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, (i, i_end, j, j_end) in BOXES.items():
        labels[i:i_end, j:j_end, SLICES] = label
    return labels


def person(seed: int, liver_pct: float) -> dict[str, np.ndarray]:
    """Water and fat signals, and the map of their ratio in tenths of a percent, with noise.

    The liver has the fat fraction given, spleen and kidneys 2 %, muscle beside them 3 %, and what
    surrounds them 95 %.
    """
    rng = np.random.default_rng(seed)
    share = np.full(SHAPE, 0.95)
    share[11:16] = 0.03
    for label in BOXES:
        share[label_map() == label] = liver_pct / 100 if label == 1 else 0.02
    fat = 800 * share + rng.normal(0, 12, SHAPE)
    water = 800 * (1 - share) + rng.normal(0, 12, SHAPE)
    fraction = np.clip(fat / (fat + water), 0, 1)
    signals = {"water": water, "fat": fat}
    found = {name: np.clip(np.rint(one), 0, None) for name, one in signals.items()}
    return {name: one.astype(np.int16) for name, one in found.items()} | {
        "fat_fraction": np.rint(1000 * fraction).astype(np.int16)
    }


def saved(path, data, affine=AFFINE, slope=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return str(path)


def read(tmp_path, rows: dict[str, dict[str, str]], **options):
    """A manifest of these rows, by id, read into a results folder."""
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    table.to_csv(tmp_path / "scans.csv", index_label="scan_id")
    results = tmp_path / "results"
    manifest.run(tmp_path / "scans.csv", results, **options)
    return results


def ingested(results, section, **rules) -> pd.DataFrame:
    """The table INGEST by scan, with what was found of each companion."""
    (results / "ingest").mkdir(exist_ok=True)
    limits = Rules(orientation="off", companions=companions.from_config(section), **rules)
    out = results / "ingest/0000.parquet"
    ingest.run(results / "manifest/shards/0000.parquet", out, limits)
    table = read_table(out, INGEST).set_index("scan_id", drop=False)
    return table.assign(found=table["companions"].map(companions.from_json))


def measured(results, rows: pd.DataFrame) -> pd.DataFrame:
    """The table COMPANIONS of scans whose label maps are those of `label_map`."""
    segmented = []
    for scan in rows.itertuples():
        path = results / f"{scan.scan_id}_dseg.nii.gz"
        saved(path, label_map(), nib.load(scan.image).affine)
        segmented.append(
            {"scan_id": scan.scan_id, "state": "segmented", "model": "toy", "profile": "p",
             "image_sha256": scan.image_sha256, "label_map": path.name,
             "label_map_sha256": sha256_of(path)}
        )  # fmt: skip
    table = to_pandas(to_arrow(append_rows(segmented, SEGMENT), SEGMENT))
    known = rows[list(INGEST)].reset_index(drop=True)
    volumes, _ = measure_shard(table, known, LAYERS, results, plausible_ml={})
    assert volumes["volume_ml"].notna().all(), "volumes are there, whatever companions are"
    table = unfolded(to_arrow(volumes, VOLUMES))
    return table.to_pandas().set_index(["scan_id", "companion", "structure"])


# --- the must: planted values ------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.1, None])
def test_planted_fat_fractions_of_livers_are_recovered_within_half_a_point(tmp_path, factor):
    planted = {f"s{n}": pct for n, pct in enumerate((1.5, 4.0, 8.5, 17.0, 29.0, 42.0))}
    slope = 1.0 if factor else 0.1
    rows = {}
    for n, (scan_id, pct) in enumerate(planted.items()):
        images = person(n, pct)
        rows[scan_id] = {
            "image": saved(tmp_path / f"{scan_id}_w.nii", images["water"]),
            "companion_fat_fraction": saved(
                tmp_path / f"{scan_id}_ff.nii", images["fat_fraction"], slope=slope
            ),
        }
    section = {"fat_fraction": {"factor": factor}}
    found = measured(tmp_path / "results", ingested(read(tmp_path, rows), section))
    livers = found.xs("liver", level="structure").droplevel("companion")
    for name in ("median", "mean"):
        assert np.abs(livers[name] - pd.Series(planted)).max() < 0.5, livers[name]
    assert (livers["sd"] > 0.3).all()
    assert found["unit"].eq("%").all()
    assert livers["n_voxels"].eq((label_map() == 1).sum()).all()
    kidneys = found.xs("kidneys", level="structure")
    assert kidneys["n_voxels"].eq(np.isin(label_map(), (3, 4)).sum()).all()
    assert np.abs(kidneys["mean"] - 2).max() < 0.5
    assert found["reason"].isna().all()


def test_values_are_those_of_the_voxels_of_the_structure(tmp_path):
    images = person(1, 6.0)
    water, fat = (saved(tmp_path / f"{name}.nii", images[name]) for name in ("water", "fat"))
    results = read(
        tmp_path, {"s": {"image": water, "companion_water": water, "companion_fat": fat}}
    )
    found = measured(results, ingested(results, {"water": None, "fat": {}})).loc["s"]
    for name in ("water", "fat"):
        voxels = images[name][label_map() == 2]
        row = found.loc[(name, "spleen")]
        assert row[["median", "mean", "sd"]].tolist() == pytest.approx(
            [np.median(voxels), voxels.mean(), voxels.std()]
        )
        assert pd.isna(row["unit"]), "grey values have none"
        assert row["n_voxels"] == voxels.size


# --- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "told"),
    [
        ("other grid", "IMG_COMPANION_GRID", "; the scan 24 x 22 x 20 of 4.005"),
        ("no path", "IMG_COMPANION_MISSING", "no companion_fat_fraction"),
        ("no file", "SRC_MISSING", None),
        ("torn", "SRC_TRUNCATED", None),
        ("stored in tenths", "IMG_COMPANION_RANGE", "outside 0 to 100"),
        ("stored as shares", "IMG_COMPANION_RANGE", "as of shares of 1"),
        ("a water image", "IMG_COMPANION_RANGE", "outside 0 to 100"),
        ("below 0", "IMG_COMPANION_RANGE", "from -5"),
        ("exchanged", "IMG_COMPANION_SWAPPED", None),
    ],
)
def test_a_companion_that_cannot_be_used_has_a_reason_and_volumes_stay(
    tmp_path, change, reason, told
):
    images = person(1, 6.0)
    fraction = images["fat_fraction"] / np.float32(10)
    data = {
        "stored in tenths": images["fat_fraction"],
        "stored as shares": fraction / 100,
        "a water image": images["water"],
        "below 0": fraction - np.float32(5),
        "exchanged": 100 - fraction,
    }.get(change, fraction)
    moved = AFFINE + np.diag([0, 0, 0.4, 0]) if change == "other grid" else AFFINE
    path = saved(tmp_path / "ff.nii", data, moved)
    if change == "torn":
        os.truncate(path, os.path.getsize(path) // 2)
    if change == "no file":
        os.unlink(path)
    given = "" if change == "no path" else path
    water = saved(tmp_path / "w.nii", images["water"])
    results = read(tmp_path, {"s": {"image": water, "companion_fat_fraction": given}})
    row = ingested(results, FAT).loc["s"]
    assert row["state"] == "ready"
    if change != "exchanged":  # which only the organs tell
        assert row["found"]["fat_fraction"]["reason"] == reason
        assert told is None or told in row["found"]["fat_fraction"]["detail"]
        assert row["warnings"] == "W_COMPANION_UNUSED"
    found = measured(results, ingested(results, FAT)).loc["s"]
    assert found["reason"].eq(reason).all()
    assert found[["n_voxels", "median", "mean", "sd"]].isna().all(axis=None), "null and never 0"


def test_a_companion_that_changed_since_it_was_checked_is_not_measured(tmp_path):
    images = person(1, 6.0)
    path = saved(tmp_path / "f.nii", images["fat"])
    water = saved(tmp_path / "w.nii", images["water"])
    results = read(tmp_path, {"s": {"image": water, "companion_fat": path}})
    rows = ingested(results, {"fat": {}})
    saved(tmp_path / "f.nii", images["fat"] + np.int16(1))
    assert measured(results, rows)["reason"].eq("SRC_CHANGED").all()


def test_water_and_fat_that_changed_places_are_told_by_the_organs(tmp_path):
    images = person(1, 6.0)
    water, fat = (saved(tmp_path / f"{name}.nii", images[name]) for name in ("water", "fat"))
    results = read(
        tmp_path, {"s": {"image": water, "companion_water": fat, "companion_fat": water}}
    )
    found = measured(results, ingested(results, {"water": {}, "fat": {}}))
    assert found["reason"].eq("IMG_COMPANION_SWAPPED").all()


def test_what_the_config_does_not_say_is_as_the_kind_has_it():
    fat, other = companions.from_config({"t2": {"unit": "ms"}, "fat_fraction": {"factor": 100}})
    assert (fat.unit, fat.factor, fat.low, fat.high, fat.above) == ("%", 100, 0, 100, 1)
    assert (other.unit, other.low, other.high) == ("ms", None, None)
    wide = companions.from_config({"fat_fraction": {"range": [-20, 120]}})[0]
    assert (wide.low, wide.high) == (-20, 120)
    with pytest.raises(ConfigError, match=r"companions\.t2\.range is \[5, 1\]"):
        config.check({"companions": {"t2": {"range": [5, 1]}}})
    with pytest.raises(ConfigError, match=r"unknown|must be"):
        config.check({"companions": {"t2": {"units": "ms"}}})


# --- where they come from ----------------------------------------------------------------------


def test_parts_of_dixon_are_taken_of_the_folder_of_the_scan(tmp_path):
    folder = dixon_session(tmp_path / "session")
    write_series(folder / "ff", seed=7, SeriesDescription="t1_vibe_dixon_FF",
                 ImageType=["DERIVED", "PRIMARY", "M", "FAT_FRACTION"])  # fmt: skip
    results = read(tmp_path, {"s": {"image": str(folder)}})
    section = {"fat": {}, "fat_fraction": {"range": [0, 10000]}, "in_phase": {}}
    row = ingested(results, section, dixon=("water",)).loc["s"]
    assert (row["state"], row["dixon"]) == ("ready", "water")
    assert [one.get("reason") for one in row["found"].values()] == [None] * 3
    names = sorted(path.name for path in (results / "ingest/0000").iterdir())
    assert names == ["s.fat.nii.gz", "s.fat_fraction.nii.gz", "s.in_phase.nii.gz", "s.nii.gz"]
    series = read_table(results / "ingest/series/0000.parquet", SERIES)
    assert len(series) == 5
    assert series["chosen"].fillna(False).sum() == 4
    own = {"image": str(folder / "water"), "companion_fat": str(folder / "fat")}
    parted = read(tmp_path, {"s": own})
    other = ingested(parted, {"fat": {}}).loc["s"]
    assert other["found"]["fat"]["image_sha256"] == row["found"]["fat"]["image_sha256"]
    swapped = read(tmp_path, {"s": own | {"companion_fat": str(folder / "in_phase")}})
    told = ingested(swapped, {"fat": {}}).loc["s", "found"]["fat"]
    assert (told["reason"], told["detail"]) == (
        "IMG_COMPANION_SWAPPED", "the header says in_phase"
    )  # fmt: skip
    assert not (results / "ingest/0000/s.fat.nii.gz").exists()


def test_parts_of_dixon_are_taken_of_the_archive_of_the_scan_and_never_the_scan_itself(tmp_path):
    folder = dixon_session(tmp_path / "session")
    archive = shutil.make_archive(str(tmp_path / "session"), "zip", folder)
    water = saved(tmp_path / "nifti" / "w.nii", person(1, 5.0)["water"])
    single = shutil.make_archive(str(tmp_path / "one"), "zip", tmp_path / "nifti")
    rows = {"a": {"image": archive}, "b": {"image": str(folder)}, "c": {"image": single},
            "d": {"image": water}}  # fmt: skip
    table = ingested(read(tmp_path, rows), {"fat": {}}, dixon=("water",))
    assert table["state"].eq("ready").all()
    of_archive, of_folder, of_single, of_file = (one["fat"] for one in table["found"])
    assert of_archive["image_sha256"] == of_folder["image_sha256"]
    assert of_archive["image"].endswith("/a.fat.nii.gz")
    assert [one["reason"] for one in (of_single, of_file)] == ["IMG_COMPANION_MISSING"] * 2
    left = {path.name for path in (tmp_path / "results/ingest/0000").iterdir()}
    assert left == {"a.nii.gz", "a.fat.nii.gz", "b.nii.gz", "b.fat.nii.gz", "c.nii.gz"}


def test_a_map_of_fat_fraction_is_no_scan_unless_asked_for(tmp_path):
    folder = tmp_path / "session"
    kinds = {"ip": "IN_PHASE", "ff": "FAT_FRACTION"}
    for seed, (name, kind) in enumerate(kinds.items()):
        write_series(folder / name, seed=seed, ImageType=["ORIGINAL", "PRIMARY", "M", kind])
    results = read(tmp_path, {"s": {"image": str(folder)}})
    row = ingested(results, {}).loc["s"]
    assert (row["state"], row["dixon"]) == ("ready", "in_phase")
    series = read_table(results / "ingest/series/0000.parquet", SERIES)
    assert sorted(series["reason"].dropna()) == ["DCM_DERIVED"]
    assert ingested(results, {}, derived="allow").loc["s", "reason"] == "DCM_AMBIGUOUS_SERIES"


def test_a_folder_without_the_part_says_so(tmp_path):
    folder = dixon_session(tmp_path / "session")
    row = ingested(read(tmp_path, {"s": {"image": str(folder)}}), FAT, dixon=("water",)).loc["s"]
    told = row["found"]["fat_fraction"]
    assert (told["reason"], told["detail"]) == (
        "IMG_COMPANION_MISSING", "no series of fat_fraction"
    )  # fmt: skip
    assert row["state"] == "ready"


def test_companions_of_bids_are_told_by_parts_of_their_names(tmp_path):
    names = ["run-1_T1w", "run-1_PDFF", "run-2_T1w", "acq-fat_run-2_T1w", "acq-x_run-2_PDFF"]
    files = {f"sub-01/anat/sub-01_{name}.nii.gz": "" for name in names}
    root = write_dataset(tmp_path, {"participants.tsv": people(("sub-01", 48, "F"))} | files)
    telling = {"fat_fraction": {"suffix": "PDFF"}, "fat": {"acq": "fat"}}
    choice = Choice(entities={"acq": [None]}, companions=telling)
    rows = read_manifest(root, choice=choice).set_index("scan_id")
    found = rows["companions"].map(companions.from_json)
    ends = {
        scan: {name: os.path.basename(path) for name, path in of.items()}
        for scan, of in found.items()
    }
    assert ends == {
        "sub-01_run-1_T1w": {"fat_fraction": "sub-01_run-1_PDFF.nii.gz"},
        "sub-01_run-2_T1w": {"fat": "sub-01_acq-fat_run-2_T1w.nii.gz"},
    }
    given = config.check({"bids": {"companions": telling}})["bids"]
    assert Choice(**given).companions == telling


# --- keys, withdrawals, changes ----------------------------------------------------------------


def test_tables_without_companions_are_as_they_were(tmp_path):
    water = saved(tmp_path / "w.nii", person(1, 5.0)["water"])
    results = read(tmp_path, {"s": {"image": water}})
    ingested(results, {})
    for name, schema in (("manifest/scans", MANIFEST), ("manifest/shards/0000", SHARD),
                         ("ingest/0000", INGEST)):  # fmt: skip
        path = results / f"{name}.parquet"
        assert "companions" not in pd.read_parquet(path).columns
        assert read_table(path, schema)["companions"].isna().all()
    volumes = append_rows([volume_row("s", "liver", 1500.0)], VOLUMES)
    assert len(unfolded(to_arrow(volumes, VOLUMES))) == 0


def test_a_companion_that_was_replaced_is_noticed_and_is_part_of_the_key(tmp_path):
    images = person(1, 5.0)
    water = saved(tmp_path / "w.nii", images["water"])
    fat = saved(tmp_path / "f.nii", images["fat"])
    results = read(tmp_path, {"s": {"image": water, "companion_fat": fat}})
    assert all_images(read_table(results / "manifest/scans.parquet", MANIFEST)) == [water, fat]
    key = measuring_key("now", ingested(results, {"fat": {}}).loc["s"])
    assert changed_images(results) == 0
    saved(tmp_path / "f.nii", images["fat"] + np.int16(1))
    os.utime(fat, ns=(1, 1))
    assert changed_images(results) == 1
    row = ingested(results, {"fat": {}}).loc["s"]
    assert measuring_key("now", row) != key
    told = json.loads(row["companions"])
    told["fat"]["image"] = "/moved/f.nii"
    moved = row.to_dict() | {"companions": json.dumps(told)}
    assert measuring_key("now", moved) == measuring_key("now", row)
    assert measuring_key("now", ingested(results, {}).loc["s"]) != key


def test_with_hashed_ids_a_companion_is_a_link_that_goes_with_who_withdraws(tmp_path):
    images = person(1, 5.0)
    rows = {
        name: {
            "image": saved(tmp_path / f"{name}_w.nii", images["water"]),
            "companion_fat": saved(tmp_path / f"{name}_f.nii", images["fat"]),
        }
        for name in ("jane", "john")
    }
    results = read(tmp_path, rows, hash_ids=True)
    keys = read_table(results / "manifest/scans.parquet", MANIFEST)["scan_id"].tolist()
    links = sorted(path.name for path in (results / "private/images").iterdir())
    assert links == sorted(f"{key}{end}" for key in keys for end in (".companion_fat.nii", ".nii"))
    assert "jane" not in (results / "manifest/shards/0000.parquet").read_bytes().decode("latin1")
    found = ingested(results, {"fat": {}})["found"]
    assert [set(one["fat"]) for one in found] == [
        {"unit", "factor", "image", "n_bytes", "image_sha256"}
    ] * 2
    (tmp_path / "gone.txt").write_text("jane\n")
    manifest.run(tmp_path / "scans.csv", results, hash_ids=True, withdrawals=tmp_path / "gone.txt")
    left = {path.name.split(".")[0] for path in results.rglob("*.nii*")}
    assert left == {keys[1]}
