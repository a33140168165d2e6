"""Models that see several images of a scan: a fixed spacing, boxes, and being judged."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

import crop_steps
import nnunet_fixture
from cohortvol.errors import ConfigError
from cohortvol.models.card import load_card
from cohortvol.stages.segment import Segmenter
from cohortvol.tools.judge import calibrate, consistency
from crop_steps import OBLIQUE
from segment_cohort import scan

CHANNELS = ("water", "fat")
WITH_A_SMALL_BOX = 3
"""Fold of the fixture that finds a few voxels of the spleen."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.of_channels(tmp_path_factory.mktemp("trained") / "a", CHANNELS, folds=4)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    return crop_steps.model_of(trained, tmp_path_factory.mktemp("models"), WITH_A_SMALL_BOX)


@pytest.fixture(scope="module")
def exact(model):
    return Segmenter.load(model, "ts218", device="cpu", threads=1)


def channels(seed: int = 3) -> list[np.ndarray]:
    return [5 * scan(seed + n, (34, 25, 28)) for n in range(len(CHANNELS))]


@pytest.mark.slow
def test_every_channel_is_zoomed_as_a_scan_is_and_so_is_the_box_of_all(trained, exact):
    labels, _ = exact.segment(np.stack(channels(), axis=-1), OBLIQUE)
    expected, box = crop_steps.by_its_steps(trained, channels(), OBLIQUE, WITH_A_SMALL_BOX)
    assert all(ends.stop - ends.start < n for ends, n in zip(box, labels.shape, strict=False))
    assert all((expected[..., layer] > 0).any() for layer in (0, 1))
    np.testing.assert_array_equal(labels, expected)
    exchanged, _ = exact.segment(np.stack(channels()[::-1], axis=-1), OBLIQUE)
    assert not np.array_equal(exchanged, labels)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["fast", "ts218+body+softmax"])
def test_the_other_profiles_see_the_channels_too(model, exact, profile):
    whole = np.round(np.stack(channels(), axis=-1))
    expected, _ = exact.segment(whole, OBLIQUE)
    labels, _ = Segmenter.load(model, profile, device="cpu", threads=1).segment(whole, OBLIQUE)
    assert np.mean(labels[..., 0] != expected[..., 0]) < 0.002
    assert np.mean(labels[..., 1] != expected[..., 1]) < 0.01


# --- judged ------------------------------------------------------------------------------------


def labelled(folder, segmenter, n_scans=2):
    """Scans whose labels in layer 1 are what the model finds, under its own indices."""
    for n in range(n_scans):
        images = channels(3 + n)
        labels, _ = segmenter.segment(np.stack(images, axis=-1), OBLIQUE)
        places = {"images": images[0], "images_2": images[1], "labels": labels[..., 1]}
        for name, voxels in places.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, OBLIQUE), folder / name / f"s{n}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory, exact):
    return labelled(tmp_path_factory.mktemp("labelled"), exact)


@pytest.mark.slow
def test_intervals_are_calibrated_on_all_channels_of_labelled_scans(model, scans):
    found = calibrate.measured(model, scans, "ts218", device="cpu", threads=1)
    assert found["structure"].tolist() == ["pancreas"] * 2
    assert (found["dice"] == 1).all()
    assert (found["volume_ml"] == found["true_ml"]).all()


@pytest.mark.slow
def test_agreement_is_that_of_copies_of_all_channels(model, exact, scans, tmp_path):
    images = np.stack(channels(), axis=-1)
    copies = dict(consistency.altered_copies(images))
    for n in range(len(CHANNELS)):
        alone = dict(consistency.altered_copies(images[..., n]))
        for name in ("darker", "brighter", "shaded"):
            np.testing.assert_array_equal(copies[name][..., n], alone[name])
    noise = (copies["noisy"] - images).reshape(-1, len(CHANNELS))
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.05
    found, _ = consistency.run(
        model, scans, tmp_path, labelled=False, profile="ts218", device="cpu", threads=1
    )
    expected, _ = consistency.consistency_of(exact, images, OBLIQUE)
    of_first = found[found["scan"] == "s0"].set_index("structure")["agreement"]
    assert of_first.to_dict() == expected.set_index("structure")["agreement"].to_dict()
    assert (of_first < 1).any()


def test_a_channel_that_is_not_there_is_named_before_anything_runs(model, scans, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("images", "labels"):
        (tmp_path / name / "s0.nii.gz").symlink_to(scans / name / "s0.nii.gz")
    said = (
        r"images_2/s0.nii.gz: not there; it would be fat of s0.nii.gz\n  Model cropping sees water"
    )
    with pytest.raises(ConfigError, match=said):
        calibrate.measured(model, tmp_path)
    with pytest.raises(ConfigError, match=said):
        consistency.scans_of(tmp_path, load_card(model))


@pytest.mark.slow
def test_channels_on_two_grids_are_refused(model, scans, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(scans / name)
    (tmp_path / "images_2").mkdir()
    for path in (scans / "images_2").iterdir():
        moved = nib.Nifti1Image(nib.load(path).dataobj, OBLIQUE + np.eye(4))
        nib.save(moved, tmp_path / "images_2" / path.name)
    with pytest.raises(ConfigError, match="s0: the image and the images_2 are on different grids"):
        calibrate.measured(model, tmp_path, "ts218", device="cpu", threads=1)
