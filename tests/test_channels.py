"""Scans of several images on one grid, from the columns of the manifest to volumes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

import nnunet_fixture
from cohortvol import config
from cohortvol.models.card import load_card
from cohortvol.models.channels import dixon_part
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import ingest, manifest, measure
from cohortvol.stages.ingest import Rules
from cohortvol.stages.manifest import changed_images, read_manifest
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.store.schemas import INGEST, MANIFEST, RARE, SEGMENT, SERIES, SHARD
from cohortvol.store.tables import read_table
from cohortvol.tools.simulate import run as simulate
from cohortvol.workflow.flow import ingest_settings
from dicom_fixture import dixon_session

SHAPE = (26, 22, 20)
AFFINE = np.array([[-4.0, 0.2, 0, 50], [0.2, 4.0, 0, -40], [0, 0, 5.0, 7], [0, 0, 0, 1]])
CHANNELS = ("water", "fat")
PHASES = ("in_phase", "opposed_phase")


def dixon(seed: int = 0) -> dict[str, np.ndarray]:
    """Four images of a body of water in a rind of fat, int16."""
    rng = np.random.default_rng(seed)
    i, j, k = (np.linspace(-1, 1, n) for n in SHAPE)
    radius = np.sqrt(i[:, None, None] ** 2 + j[None, :, None] ** 2 + 0.2 * k[None, None, :] ** 2)
    water = gaussian_filter((radius < 0.6).astype(float), 1.2)
    fat = gaussian_filter(((radius >= 0.6) & (radius < 0.9)).astype(float), 1.2)
    images = {"water": water, "fat": fat, "in_phase": water + fat}
    images["opposed_phase"] = np.abs(water - fat)
    return {
        name: np.rint(400 * one + rng.normal(60, 8, SHAPE)).astype(np.int16)
        for name, one in images.items()
    }


def saved(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def cohort(tmp_path, rows: list[list[str]], columns=("image", "image_2"), **options):
    """A manifest of these images, read into a results folder."""
    table = pd.DataFrame(rows, columns=list(columns))
    table.insert(0, "scan_id", [f"s{n}" for n in range(1, len(rows) + 1)])
    table.to_csv(tmp_path / "scans.csv", index=False)
    results = tmp_path / "results"
    manifest.run(tmp_path / "scans.csv", results, **options)
    return results


def ingested(results, *channels: str, **rules) -> pd.DataFrame:
    limits = Rules(channels=channels, orientation="off", **rules)
    shard = results / "manifest/shards/0000.parquet"
    (results / "ingest").mkdir(exist_ok=True)
    ingest.run(shard, results / "ingest/0000.parquet", limits)
    return read_table(results / "ingest/0000.parquet", INGEST).set_index("scan_id")


# --- the manifest ------------------------------------------------------------------------------


def test_further_columns_of_images_are_paths_in_their_order(tmp_path):
    (tmp_path / "scans.csv").write_text(
        "scan_id,image_10,image,image_2,image_3\na,,w.nii,f.nii,\nb,,w.nii,,/x/o.nii\nc,,w.nii,,\n"
    )
    rows = read_manifest(tmp_path / "scans.csv")
    assert rows["image"].tolist() == [str(tmp_path / "w.nii")] * 3
    more = [json.loads(one) if isinstance(one, str) else None for one in rows["more_images"]]
    assert more == [[str(tmp_path / "f.nii")], ["", "/x/o.nii"], None]


def test_tables_of_scans_with_one_image_have_no_column_more(tmp_path):
    results = cohort(tmp_path, [["w.nii", ""]])
    for name, schema in (("scans", MANIFEST), ("shards/0000", SHARD)):
        path = results / f"manifest/{name}.parquet"
        assert not set(RARE) & set(pd.read_parquet(path).columns)
        assert read_table(path, schema)["more_images"].isna().all()


def test_a_channel_that_was_replaced_is_noticed(tmp_path):
    images = dixon()
    water, fat = (saved(tmp_path / f"{name}.nii", images[name]) for name in CHANNELS)
    results = cohort(tmp_path, [[str(water), str(fat)]])
    assert changed_images(results) == 0
    os.utime(fat, ns=(1, 1))
    assert changed_images(results) == 1


def test_with_hashed_ids_every_channel_is_a_link_that_goes_with_who_withdraws(tmp_path):
    images = dixon()
    water, fat = (saved(tmp_path / f"jane_{name}.nii", images[name]) for name in CHANNELS)
    other = saved(tmp_path / "john.nii", images["in_phase"])
    rows = [[str(water), str(fat)], [str(other), str(fat)]]
    results = cohort(tmp_path, rows, hash_ids=True)
    links = sorted(path.name for path in (results / "private/images").iterdir())
    keys = read_table(results / "manifest/scans.parquet", MANIFEST)["scan_id"].tolist()
    assert links == sorted(f"{key}{end}" for key in keys for end in (".nii", ".2.nii"))
    assert "jane" not in (results / "manifest/shards/0000.parquet").read_bytes().decode("latin1")
    assert ingested(results, *CHANNELS)["state"].tolist() == ["ready"] * 2
    (tmp_path / "gone.txt").write_text("s1\n")
    manifest.run(tmp_path / "scans.csv", results, hash_ids=True, withdrawals=tmp_path / "gone.txt")
    assert {path.name.split(".")[0] for path in results.rglob("*.nii*")} == {keys[1]}


# --- ingest ------------------------------------------------------------------------------------


def test_channels_become_one_image_with_their_own_grey_values(tmp_path):
    images = dixon()
    paths = [str(saved(tmp_path / f"{name}.nii", images[name])) for name in CHANNELS]
    row = ingested(cohort(tmp_path, [paths]), *CHANNELS).loc["s1"]
    assert (row["state"], row["channels"], row["dixon"]) == ("ready", "water;fat", "water")
    image = nib.load(row["image"])
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(image.affine, nib.load(paths[0]).affine)
    expected = np.stack([images[name] for name in CHANNELS], axis=-1)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
    assert [path.name for path in (tmp_path / "results/ingest/0000").iterdir()] == ["s1.nii.gz"]
    single = ingested(tmp_path / "results").loc["s1"]
    assert single["voxels_sha256"] != row["voxels_sha256"]
    assert (single["image"], single["warnings"]) == (paths[0], "W_CHANNELS_UNUSED")
    assert "channels" not in pd.read_parquet(tmp_path / "results/ingest/0000.parquet").columns


def test_scaled_channels_keep_their_values(tmp_path):
    images = dixon()
    scaled = nib.Nifti1Image(images["fat"], AFFINE)
    scaled.header.set_slope_inter(0.25, -3)
    nib.save(scaled, tmp_path / "fat.nii")
    water = saved(tmp_path / "water.nii", images["water"])
    row = ingested(cohort(tmp_path, [[str(water), "fat.nii"]]), *CHANNELS).loc["s1"]
    found = np.asarray(nib.load(row["image"]).dataobj)
    np.testing.assert_array_equal(found[..., 0], images["water"])
    np.testing.assert_array_equal(found[..., 1], nib.load(tmp_path / "fat.nii").get_fdata())


SHIFTED = AFFINE + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 0, 0]])
ROUNDED = np.round(AFFINE + 1e-4, 4)


@pytest.mark.parametrize(
    ("second", "affine", "reason", "told"),
    [
        ("fat", AFFINE, None, None),
        ("fat", ROUNDED, None, None),
        ("fat", SHIFTED, "IMG_CHANNEL_GRID", "water 26 x 22 x 20 of 4.005 x 4.005 x 5.000 mm"),
        ("shorter", AFFINE, "IMG_CHANNEL_GRID", "fat 26 x 22 x 19"),
        ("water", AFFINE, "IMG_CHANNEL_SAME", "water and fat hold the same grey values"),
        ("absent", AFFINE, "IMG_CHANNEL_MISSING", "no image of fat (image_2)"),
        ("nowhere", AFFINE, "SRC_MISSING", "fat"),
        ("blank", AFFINE, "VOX_CONSTANT", "fat: all 11440 voxels are 0"),
    ],
)
def test_what_is_wrong_with_a_channel_has_a_reason(tmp_path, second, affine, reason, told):
    images = dixon()
    images |= {"shorter": images["fat"][..., :-1], "blank": np.zeros(SHAPE, np.int16)}
    water = saved(tmp_path / "water.nii", images["water"])
    if second in images:
        saved(tmp_path / "second.nii", images[second], affine)
    results = cohort(tmp_path, [[str(water), "" if second == "absent" else "second.nii"]])
    row = ingested(results, *CHANNELS).loc["s1"]
    found = None if pd.isna(row["reason"]) else row["reason"]
    assert (found, row["state"]) == (reason, "quarantined" if reason else "ready")
    assert reason is None or told in row["detail"]
    assert row["image"] == str(water) or reason is None


@pytest.mark.parametrize("seed", range(3))
def test_in_phase_and_opposed_phase_that_changed_places_are_noticed(tmp_path, seed):
    images = dixon(seed)
    paths = [str(saved(tmp_path / f"{name}.nii", images[name])) for name in PHASES]
    rows = ingested(cohort(tmp_path, [paths, paths[::-1]]), "T1", "T2")
    assert rows["reason"].fillna("").tolist() == ["", ""]  # of these names nothing is known
    rows = ingested(tmp_path / "results", "IP", "opp")
    assert rows["reason"].fillna("").tolist() == ["", "IMG_CHANNEL_SWAPPED"]


def test_a_liver_dark_with_iron_in_phase_is_no_exchange(tmp_path):
    images = dixon()
    images["in_phase"][8:18, 6:16, 5:15] = 65  # in most of the water
    paths = [str(saved(tmp_path / f"{name}.nii", images[name])) for name in PHASES]
    rows = ingested(cohort(tmp_path, [paths]), *PHASES)
    assert rows["state"].tolist() == ["ready"]


@pytest.mark.parametrize(
    ("name", "part"),
    [("Water", "water"), ("dixon-fat", "fat"), ("in-phase", "in_phase"), ("OP", "opposed_phase"),
     ("fatsat", None), ("T1", None), ("water_fat", None)],
)  # fmt: skip
def test_names_of_channels_that_tell_a_part_of_dixon(name, part):
    assert dixon_part(name) == part


def test_channels_are_singled_out_of_one_folder_of_dicom(tmp_path):
    folder = dixon_session(tmp_path / "session")
    results = cohort(tmp_path, [[str(folder), ""]])
    row = ingested(results, "water", "fat", "in_phase").loc["s1"]
    assert (row["state"], row["channels"]) == ("ready", "water;fat;in_phase")
    found = np.asarray(nib.load(row["image"]).dataobj)
    series = read_table(results / "ingest/series/0000.parquet", SERIES)
    chosen = series["dixon"][series["chosen"].fillna(False)]
    assert sorted(chosen) == ["fat", "in_phase", "water"]
    assert len(series) == 4
    rows = [
        [str(folder / "water"), str(folder / "fat")],
        [str(folder / "fat"), str(folder / "water")],
    ]
    pairs = ingested(cohort(tmp_path, rows), *CHANNELS)
    assert pairs["reason"].fillna("").tolist() == ["", "IMG_CHANNEL_SWAPPED"]
    assert pairs.loc["s2", "detail"] == "the header of water says fat"
    pair = np.asarray(nib.load(pairs.loc["s1", "image"]).dataobj)
    np.testing.assert_array_equal(pair, found[..., :2])
    assert not np.array_equal(pair[..., 0], pair[..., 1])


def test_a_part_that_a_folder_of_dicom_lacks_has_a_reason(tmp_path):
    folder = dixon_session(tmp_path / "session")
    shutil.rmtree(folder / "fat")
    row = ingested(cohort(tmp_path, [[str(folder), ""]]), *CHANNELS).loc["s1"]
    assert (row["state"], row["reason"]) == ("quarantined", "IMG_CHANNEL_MISSING")
    assert row["detail"] == "no series of fat"
    assert not list((tmp_path / "results/ingest").rglob("*.nii.gz"))


@pytest.mark.slow
def test_simulated_dixon_scans_are_what_their_columns_say(tmp_path):
    simulate.run(tmp_path, n=1, seed=3, dixon=True)
    rows = read_manifest(tmp_path / "manifest.csv")
    paths = [rows.loc[0, "image"], *json.loads(rows.loc[0, "more_images"])]
    water, fat, in_phase, opposed = (
        np.asarray(nib.load(path).dataobj).astype(float) for path in paths
    )
    body = in_phase > in_phase.mean()
    assert np.median(np.abs(water + fat - in_phase)[body] / in_phase[body]) < 0.1
    assert (opposed[body] < 0.3 * in_phase[body]).mean() > 0.02, "they cancel at their borders"
    results = cohort(tmp_path, [paths[2:], paths[:1:-1]])
    rows = ingested(results, *PHASES)
    assert rows["reason"].fillna("").tolist() == ["", "IMG_CHANNEL_SWAPPED"]


# --- the network -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trained = nnunet_fixture.of_channels(folder / "trained", CHANNELS)
    return import_nnunet(
        [Source(trained)], folder / "pair", model_id="pair", licence="test",
        orientation="RAS",
    ).folder  # fmt: skip


def test_a_scan_of_two_channels_goes_from_the_manifest_to_volumes(tmp_path, model):
    images = dixon()
    paths = [str(saved(tmp_path / f"{name}.nii", images[name])) for name in CHANNELS]
    results = cohort(tmp_path, [paths])
    settings = ingest_settings(config.defaults(), load_card(model))
    assert settings["channels"] == list(CHANNELS)
    rows = ingested(results, *settings["channels"])
    folder = results / "segment/pair/0000"
    run_shard(results / "ingest/0000.parquet", model, folder, folder.with_suffix(".parquet"),
              threads=1, device="cpu")  # fmt: skip
    row = read_table(folder.with_suffix(".parquet"), SEGMENT).iloc[0]
    assert (row["state"], row["image_sha256"]) == ("segmented", rows.loc["s1", "image_sha256"])
    labels = np.asarray(nib.load(results / row["label_map"]).dataobj)
    segmenter = Segmenter.load(model, device="cpu", threads=1)
    both = np.stack([images[name] for name in CHANNELS], axis=-1).astype(np.float32)
    np.testing.assert_array_equal(labels, segmenter.segment(both, AFFINE)[0])
    exchanged, _ = segmenter.segment(both[..., ::-1], AFFINE)
    assert not np.array_equal(labels, exchanged), "the network sees which channel is which"
    out = results / "measure/pair/0000.parquet"
    out.parent.mkdir(parents=True)
    measure.run_shard(folder.with_suffix(".parquet"), results / "ingest/0000.parquet", model,
                      results, out, previews=out.with_name("p.parquet"))  # fmt: skip
    volumes = pd.read_parquet(out).set_index("structure")
    liver = labels == 1
    assert volumes.loc["liver", "n_voxels"] == liver.sum() > 0
    assert volumes.loc["liver", "mean_intensity"] == pytest.approx(images["water"][liver].mean())
    assert pd.read_parquet(out.with_name("p.parquet"))["png"].notna().all()


def test_a_model_of_one_channel_is_not_asked_for_channels():
    card = load_card(Path(__file__).parents[1] / "models/embedded-v2")
    assert "channels" not in ingest_settings(config.defaults(), card)


def test_a_scan_of_another_number_of_channels_is_no_label_map(tmp_path, model):
    water = saved(tmp_path / "water.nii", dixon()["water"])
    results = cohort(tmp_path, [[str(water), ""]])
    ingested(results)
    folder = results / "segment/pair/0000"
    run_shard(results / "ingest/0000.parquet", model, folder, folder.with_suffix(".parquet"),
              threads=1, device="cpu")  # fmt: skip
    row = read_table(folder.with_suffix(".parquet"), SEGMENT).iloc[0]
    assert (row["state"], row["reason"]) == ("quarantined", "IMG_CHANNEL_MISSING")
    assert row["detail"] == "1 channels, not 2: water, fat"


@pytest.mark.parametrize("order", [("water", "fat"), ("in_phase", "fat", "water")])
@pytest.mark.parametrize("swapped", [False, True])
def test_fat_for_water_is_noticed_in_whichever_channel_it_is(tmp_path, order, swapped):
    images = dixon()
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:16, 8:14, 8:12] = 1  # in the middle, where there is no fat
    other = {"water": "fat", "fat": "water"} if swapped else {}
    scan = np.stack([images[other.get(name, name)] for name in order], axis=-1) - 60
    saved(tmp_path / "labels.nii", labels)
    saved(tmp_path / "scan.nii", scan)
    read = measure.read_scan(tmp_path / "labels.nii", tmp_path / "scan.nii", 1, order)
    rows = measure.measure_scan(read, [{1: "liver"}])
    assert rows["qc_flags"].str.contains("QC_FW_SWAP").tolist() == [swapped]
