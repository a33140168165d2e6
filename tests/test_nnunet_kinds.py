"""Kinds of nnU-Net beside the plainest, trained (two iterations) and run by nnunetv2 itself."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages.segment import Segmenter
from nnunet_trained import CHANNELS, Training, storages, train_and_predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REGIONS = Training("SimpleITKIO", "ExperimentPlanner", "3d_fullres", "0", "regions")
SEVERAL = {
    "two channels": Training("SimpleITKIO", "ExperimentPlanner", "3d_fullres", "0", "two channels"),
    "four channels": Training("SimpleITKIO", "ExperimentPlanner", "2d", "0", "four channels"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What nnU-Net trained, and what it made of scans in ``scans``."""
    folder = tmp_path_factory.mktemp("nnunet")
    scans, few = folder / "scans", folder / "few"
    scans.mkdir()
    few.mkdir()
    for kind, names in {"regions": ["MR"], **CHANNELS}.items():
        (scans / kind).mkdir()
        (few / kind).mkdir()
        for channel in range(len(names)):
            several = channel if len(names) > 1 else None
            for name, one in storages(("RAS", "LPS"), several).items():
                nib.save(one, scans / kind / f"{name}_{channel:04}.nii.gz")
            shutil.copy(scans / kind / f"LPS_{channel:04}.nii.gz", few / kind)
    train_and_predict(folder, [REGIONS, *SEVERAL.values()], scans, few)
    return folder


@pytest.mark.parametrize(
    ("profile", "kind"), [("nnunet", "predicted"), ("nnunet-nomirror", "unmirrored")]
)
def test_regions_are_layers_of_which_nnunets_own_map_can_be_made(folder, tmp_path, profile, kind):
    source = Source(REGIONS.results(folder))
    card = import_nnunet([source], tmp_path / "model", model_id="model", licence="test")
    assert card.labels_by_layer == [{1: "organs"}, {2: "spleen"}]
    segmenter = Segmenter.load(card.folder, profile, "cpu", threads=1)
    predicted = sorted(REGIONS.labels(folder, kind).glob("*.nii.gz"))
    assert len(predicted) == (1 if kind == "predicted" else 4)
    for path in predicted:
        image = nib.load(folder / "scans/regions" / path.name.replace(".nii.gz", "_0000.nii.gz"))
        expected = np.asarray(nib.load(path).dataobj)
        labels, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
        organs, spleen = labels[..., 0] == 1, labels[..., 1] == 2
        own_map = np.where(spleen, 2, organs)  # written one after the other
        assert np.count_nonzero(own_map != expected) == 0, path.name
        assert not np.any(spleen & ~organs), "all is organs, the spleen too"
        assert path.name == "small.nii.gz" or len(np.unique(expected)) == 3, path.name


def test_one_region_of_a_model_is_a_label_map_of_one_layer(folder, tmp_path):
    source = Source(REGIONS.results(folder))
    card = import_nnunet([source], tmp_path / "model", model_id="model", licence="test")
    both, spleen = (
        Segmenter.load(card.folder, "fast", "cpu", threads=1, roi=roi) for roi in ((), ("spleen",))
    )
    image = nib.load(folder / "scans/regions/LPS_0000.nii.gz")
    scan = image.get_fdata(dtype=np.float32), image.affine
    assert np.array_equal(spleen.segment(*scan)[0], both.segment(*scan)[0][..., 1])


@pytest.mark.parametrize(
    ("profile", "kind"), [("nnunet", "predicted"), ("nnunet-nomirror", "unmirrored")]
)
@pytest.mark.parametrize("which", SEVERAL)
def test_no_voxel_differs_where_a_scan_has_several_channels(folder, tmp_path, which, profile, kind):
    source = Source(SEVERAL[which].results(folder))
    card = import_nnunet([source], tmp_path / "model", model_id="model", licence="test")
    assert card.channels == CHANNELS[which]
    segmenter = Segmenter.load(card.folder, profile, "cpu", threads=1)
    predicted = sorted(SEVERAL[which].labels(folder, kind).glob("*.nii.gz"))
    assert len(predicted) == (1 if kind == "predicted" else 4)
    for path in predicted:
        name = path.name.removesuffix(".nii.gz")
        images = [
            nib.load(folder / "scans" / which / f"{name}_{channel:04}.nii.gz")
            for channel in range(len(card.channels))
        ]
        expected = np.asarray(nib.load(path).dataobj)
        scan = np.stack([one.get_fdata(dtype=np.float32) for one in images], axis=-1)
        labels, _ = segmenter.segment(scan, images[0].affine)
        assert np.count_nonzero(labels != expected) == 0, path.name
        assert path.name == "small.nii.gz" or len(np.unique(expected)) > 1, path.name
