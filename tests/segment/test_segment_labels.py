"""Segment: labels as nnU-Net gives them, on the scan's own grid."""

from __future__ import annotations

import json
import shutil
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy import ndimage

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ConfigError, ModelError
from cohortvol.stages import measure
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.stages.segment.body import body_box
from cohortvol.stages.segment.images import read_image
from cohortvol.store.files import sha256_of
from segment_cohort import AFFINE, Shard, scan
from segment_fixture import with_card

pytestmark = pytest.mark.slow


# --- labels


def nnunet_predictor(trained, step):
    """nnU-Net's own, started its own way."""
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, tile_step_size=step
    )
    predictor.initialize_from_trained_model_folder(str(trained), (0,))
    return predictor


def test_labels_are_those_of_nnunet_itself(trained, segmenter):
    """nnU-Net's own predictor, started its own way, on the same voxels in its own layout."""
    data, affine = scan(3), np.diag([2.5, 2.0, 5.0, 1.0])
    predictor = nnunet_predictor(trained, 0.5)
    expected = predictor.predict_single_npy_array(
        data.transpose(2, 1, 0)[None], {"spacing": [5.0, 2.0, 2.5]}
    )
    labels, _ = segmenter.segment(data, affine)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected.transpose(2, 1, 0))


OBLIQUE = nib.affines.from_matvec([[-1.9, 0.2, 0.1], [0.2, 0.3, 3.8], [0.1, -2.2, 0.3]], [3, 4, 5])


@pytest.mark.parametrize(("profile", "order", "step"), [("paper", 3, 0.5), ("ts218", 1, 0.8)])
def test_labels_are_those_of_totalsegmentators_steps(
    trained, model, tmp_path, profile, order, step
):
    """Its steps by the libraries it uses: canonical axes, zoom, int32, nnU-Net, zoom of order 0."""
    spacing = [2.0, 2.0, 4.0]
    profiles = {"profiles": ["paper", "ts218"], "default_profile": "paper", "spacing_mm": spacing}
    segmenter = Segmenter.load(with_card(model, tmp_path / "ts", **profiles), profile, device="cpu")
    data = 5 * scan(3, (34, 25, 28))
    labels, _ = segmenter.segment(data, OBLIQUE)

    canonical = nib.as_closest_canonical(nib.Nifti1Image(data.astype(float), OBLIQUE))
    zooms = np.array(canonical.header.get_zooms()) / spacing
    zoomed = ndimage.zoom(canonical.get_fdata(), zooms, order=order, mode="nearest")
    image = zoomed.astype(np.int32).transpose(2, 1, 0)[None].astype(np.float32)
    predictor = nnunet_predictor(trained, step)
    there = predictor.predict_single_npy_array(image, {"spacing": spacing[::-1]}).transpose(2, 1, 0)
    factors = np.array(canonical.shape) / there.shape
    back = ndimage.zoom(there, factors, order=0, mode="nearest")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(canonical.affine), nib.io_orientation(OBLIQUE)
    )
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, nib.apply_orientation(back, turn))


ZOOMING = {"spacing_mm": [2.6, 2.1, 3.7], "profiles": ["ts218", "fast"], "default_profile": "fast"}


@pytest.mark.parametrize("parent", ["nnunet", "ts218"])
def test_fast_prepares_and_labels_a_scan_as_its_parent_does(model, tmp_path, parent):
    """Also where the rim of the padding is cut to 0 by the parent, so that its box is smaller."""
    folder = with_card(model, tmp_path / "ts", **ZOOMING) if parent == "ts218" else model
    slow, fast = (Segmenter.load(folder, name, device="cpu") for name in (parent, "fast"))
    data = np.zeros((36, 33, 24))
    data[4:-5, 6:-3] = 1  # fractions of it are what the parent cuts
    data[5:-6, 7:-4] = 100 * scan(3, (25, 22, 24))
    data = np.round(data)
    expected = slow.prepare(data, AFFINE)
    found = fast.prepare(data.astype(np.float32), AFFINE)
    assert found.inputs.keys() == expected.inputs.keys()
    for mine, theirs in zip(found.inputs.values(), expected.inputs.values(), strict=True):
        assert (mine.box, mine.shape) == (theirs.box, theirs.shape)
        assert mine.cropped < mine.shape
        np.testing.assert_allclose(mine.data, theirs.data, atol=2 / data.std())
    labels, theirs = fast.segment(data, AFFINE)[0], slow.segment(data, AFFINE)[0]
    assert len(np.unique(theirs)) > 2
    assert np.mean(labels != theirs) < 0.002


def test_fast_keeps_the_fractions_that_its_parent_cuts(model, tmp_path):
    fast = Segmenter.load(with_card(model, tmp_path / "ts", **ZOOMING), device="cpu")
    data = scan(3)
    prepared = (fast.prepare(values, AFFINE).inputs for values in (data, data / data.max()))
    whole, parts = (next(iter(inputs.values())) for inputs in prepared)
    assert whole.box == parts.box
    np.testing.assert_allclose(whole.data, parts.data, atol=1e-4)


def test_a_profile_that_zooms_needs_a_spacing_on_the_card(model, tmp_path):
    folder = with_card(model, tmp_path / "ts", profiles=["ts218"], default_profile="ts218")
    with pytest.raises(ModelError, match="spacing that the card does not name"):
        Segmenter.load(folder, device="cpu")


def test_a_model_may_want_its_scans_in_lps(model, segmenter, tmp_path):
    lps = Segmenter.load(with_card(model, tmp_path / "lps", orientation="LPS"), device="cpu")
    data, affine = scan(4, (22, 20, 12)), np.diag([-2.0, -2.5, 4.0, 1.0])
    labels, _ = lps.segment(data, affine)
    as_if_ras, _ = segmenter.segment(data, np.diag([2.0, 2.5, 4.0, 1.0]))
    np.testing.assert_array_equal(labels, as_if_ras)


def test_a_label_the_card_leaves_out_is_background(model, segmenter, tmp_path):
    card = json.loads((model / "card.json").read_text())
    card["parts"][0]["labels"] = {"1": "liver", "3": "kidney_left"}
    less = with_card(
        model, tmp_path / "less", parts=card["parts"], labels={"1": "liver", "3": "kidney_left"}
    )
    labels, _ = Segmenter.load(less, device="cpu").segment(scan(3), AFFINE)
    whole, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.where(whole == 2, 0, whole))


AXES = list(permutations(range(3)))
FLIPS = list(product([1, -1], repeat=3))


@pytest.mark.parametrize(("axes", "flips"), list(zip(AXES, FLIPS[1:7], strict=True)))
def test_labels_do_not_depend_on_the_order_the_voxels_are_stored_in(segmenter, axes, flips):
    data, spacing = scan(4, (22, 20, 12)), np.array([2.0, 2.5, 4.0])
    reference, _ = segmenter.segment(data, np.diag([*spacing, 1.0]))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, axes] * flips
    stored = data.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]
    labels, _ = segmenter.segment(stored, affine)
    expected = reference.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]
    np.testing.assert_array_equal(labels, expected)


def test_later_parts_win_and_labels_are_the_models(model, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text())
    first = card["parts"][0]
    shutil.copytree(folder / "parts" / "main", folder / "parts" / "second")
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "labels": {"1": "aorta", "2": "pancreas", "3": "kidney_left"}}
    card |= {"parts": [first, second]}
    card["labels"] = {
        "7": "liver",
        "8": "spleen",
        "3": "kidney_left",
        "300": "aorta",
        "5": "pancreas",
    }
    (folder / "card.json").write_text(json.dumps(card))
    data, affine = scan(3), np.diag([2.5, 2.0, 5.0, 1.0])
    local, _ = Segmenter.load(model, device="cpu").segment(data, affine)
    labels, _ = Segmenter.load(folder, device="cpu").segment(data, affine)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, np.array([0, 300, 5, 3])[local])


@pytest.fixture(scope="module")
def layered(model, tmp_path_factory):
    """The model twice, the second time as other structures in a layer of their own."""
    card = json.loads((model / "card.json").read_text())
    first = card["parts"][0]
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "layer": 1, "labels": {"1": "aorta", "2": "face"}}
    labels = card["labels"] | {"4": "face", "5": "aorta"}
    folder = tmp_path_factory.mktemp("models") / "layered"
    with_card(model, folder, parts=[first, second], labels=labels)
    shutil.copytree(model / "parts" / "main", folder / "parts" / "second")
    return folder


def test_layers_do_not_touch_each_other(layered, segmenter):
    labels, _ = Segmenter.load(layered, device="cpu").segment(scan(3), AFFINE)
    one, _ = segmenter.segment(scan(3), AFFINE)
    expected = np.stack([one, np.array([0, 5, 4, 0], np.uint8)[one]], axis=-1)
    np.testing.assert_array_equal(labels, expected)


def test_a_roi_of_one_layer_gives_a_3d_label_map(layered, segmenter):
    labels, _ = Segmenter.load(layered, device="cpu", roi=["aorta"]).segment(scan(3), AFFINE)
    one, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.array([0, 5, 0, 0])[one])


def body_in_air(shape=(60, 50, 16)):
    """A bright block in dim noise."""
    data = np.random.default_rng(3).uniform(0, 20, shape).astype(np.float32)
    data[22:40, 20:34, 2:14] += 500 + 10 * scan(3, (18, 14, 12))
    return data


def test_the_body_is_found_with_a_margin_whatever_lies_around_it():
    data = body_in_air()
    box = body_box(data, np.array([5.0, 5.0, 10.0]))
    assert [(ends.start, ends.stop) for ends in box] == [(18, 44), (16, 38), (0, 16)]
    fine = body_box(data.repeat(2, axis=0), np.array([2.5, 5.0, 10.0]))
    assert (fine[0].start, fine[0].stop) == (36, 88)


def test_the_body_alone_is_segmented_where_the_profile_says_so(model, segmenter):
    affine = np.diag([-5.0, 5.0, 10.0, 1.0])  # the first axis runs from right to left
    data = body_in_air()
    cropped = Segmenter.load(model, "nnunet+body", device="cpu")
    labels, _ = cropped.segment(data, affine)
    alone, _ = segmenter.segment(data[18:44, 16:38], affine)
    assert labels.shape == data.shape
    np.testing.assert_array_equal(labels[18:44, 16:38], alone)
    assert labels.sum() == alone.sum() > 0


def test_no_organ_lies_outside_the_body(shared_data):
    folder = shared_data / "chaos_mr_t2spir"
    for path in sorted((folder / "images").glob("*.nii.gz")):
        image = nib.load(path)
        labels = np.asarray(nib.load(_labels_of(path)).dataobj) > 0
        box = body_box(image.get_fdata(), np.array(image.header.get_zooms()))
        assert labels.any()
        assert labels[box].sum() == labels.sum(), path.name


def _labels_of(image):
    return image.parents[1] / "labels" / image.name.replace("image", "label")


def test_a_roi_runs_only_the_parts_it_needs(model, segmenter, tmp_path):
    card = json.loads((model / "card.json").read_text())
    first = card["parts"][0]
    shutil.copytree(model, tmp_path / "two")
    shutil.copytree(model / "parts" / "main", tmp_path / "two" / "parts" / "second")
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "labels": {"1": "aorta", "2": "pancreas", "3": "stomach"}}
    card |= {"parts": [second, first]}
    card["labels"] = dict(
        enumerate(["aorta", "pancreas", "stomach", *first["labels"].values()], start=1)
    )
    (tmp_path / "two" / "card.json").write_text(json.dumps(card))
    chosen = Segmenter.load(tmp_path / "two", device="cpu", roi=["liver", "kidney_left"])
    assert [part.name for part in chosen.card.parts] == ["main"]
    labels, _ = chosen.segment(scan(3), AFFINE)
    whole, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.array([0, 4, 0, 6])[whole])
    with pytest.raises(ConfigError, match="no structure 'livr'; did you mean 'liver'"):
        Segmenter.load(tmp_path / "two", device="cpu", roi=["livr"])


# --- files


def test_a_label_map_has_the_grid_of_its_scan_and_a_header_of_its_own(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti_gz(labels, AFFINE))
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nifti_gz(labels, AFFINE) == path.read_bytes()


def test_a_sheared_grid_is_kept_by_the_sform_alone(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.7
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti_gz(np.zeros((2, 3, 4), np.uint8), sheared))
    image = nib.load(path)
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(image.affine, sheared, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_scans_are_read_with_their_scaling_and_one_volume_is_3d(tmp_path, name, kind):
    path = tmp_path / name
    image = kind(np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, path)
    found = read_image(path, sha256_of(path))
    expected = np.asarray(nib.load(path).dataobj)[..., 0]
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, expected)
    np.testing.assert_allclose(found.affine, AFFINE)


def test_a_model_with_layers_is_segmented_and_measured_file_by_file(
    layered, segmenter, images, tmp_path
):
    shard = Shard(tmp_path / "results", layered, {"s3": images["s3"]})
    run_shard(**shard.arguments(), device="cpu")
    label_map = nib.load(shard.folder / "s3_dseg.nii.gz")
    assert label_map.shape == (*scan(3).shape, 2)
    names = (shard.folder / "dseg.tsv").read_text().splitlines()
    assert names[0] == "index\tname\tlayer"
    assert names[3:] == ["3\tkidney_left\t0", "4\tface\t1", "5\taorta\t1"]
    measured = shard.results / "measure" / "tiny" / "0000.parquet"
    measure.run_shard(
        segment=shard.out, ingest=shard.ingest, model=layered, results=shard.results, out=measured
    )
    found = pd.read_parquet(measured).set_index("structure")["n_voxels"].fillna(0)
    labels, _ = segmenter.segment(scan(3), AFFINE)
    liver, spleen, kidney = np.bincount(labels.ravel(), minlength=4)[1:]
    order = ["liver", "spleen", "kidney_left", "face", "aorta"]
    assert found.loc[order].tolist() == [liver, spleen, kidney, spleen, liver]
