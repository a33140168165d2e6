"""Parts that see a box around what an earlier part found: labels, absence, refusals, keys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy import ndimage

import nnunet_fixture
from cohortvol.errors import ModelError
from cohortvol.models.card import card_json, load_card, restrict, segmentation_key
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import measure
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.store.files import sha256_of
from segment_cohort import Shard, scan, write_scan

SPACING, OF_THE_BOX, MARGIN_MM = [3.0, 3.0, 4.0], [1.5, 1.7, 3.1], 7.0
OBLIQUE = nib.affines.from_matvec([[-1.9, 0.2, 0.1], [0.2, 0.3, 3.8], [0.1, -2.2, 0.3]], [3, 4, 5])
OF_THE_NETWORK = 2
"""Label of the spleen in the first network."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"), folds=2)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    """The spleen, of which one network finds little; of another two structures in a box around."""
    sources = [
        Source(trained, "whole", ["0"], drop=["liver", "kidney_left"]),
        Source(
            trained, "box", ["1"], drop=["spleen"], layer=1, tile_step=0.5,
            rename={"liver": "pancreas", "kidney_left": "stomach"},
            crop=("spleen",), margin_mm=MARGIN_MM, spacing_mm=(1.5, 1.7, 3.1),
        ),
    ]  # fmt: skip
    return import_nnunet(
        sources, tmp_path_factory.mktemp("models") / "cropping", model_id="cropping",
        licence="test", orientation="RAS", spacing_mm=(3.0, 3.0, 4.0),
        profiles=("ts218", "fast", "nnunet"),
    ).folder  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return 5 * scan(3, (34, 25, 28))


def with_card(model, folder, change):
    """A copy of a model folder with another card."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def steps(trained, fold, image, spacing, step):
    """TotalSegmentator's: canonical axes, zoom, integers, nnU-Net, the nearest label back."""
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, tile_step_size=step
    )
    predictor.initialize_from_trained_model_folder(str(trained), (fold,))
    canonical = nib.as_closest_canonical(image)
    zooms = np.array(canonical.header.get_zooms()) / spacing
    zoomed = ndimage.zoom(canonical.get_fdata(), zooms, order=1, mode="nearest").astype(np.int32)
    there = predictor.predict_single_npy_array(
        zoomed.transpose(2, 1, 0)[None].astype(np.float32), {"spacing": spacing[::-1]}
    ).transpose(2, 1, 0)
    factors = np.array(canonical.shape) / there.shape
    back = ndimage.zoom(there, factors, order=0, mode="nearest")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(canonical.affine), nib.io_orientation(image.affine)
    )
    return nib.apply_orientation(back, turn)


def by_its_steps(trained, data, affine):
    """Label map of the model, and the box, by the libraries that TotalSegmentator uses."""
    image = nib.Nifti1Image(data.astype(float), affine)
    spleen = steps(trained, 0, image, SPACING, 0.8) == OF_THE_NETWORK
    margin = (np.full(3, MARGIN_MM) / image.header.get_zooms()).astype(int)
    box = tuple(
        slice(max(0, places.min() - more), min(n, places.max() + 1 + more))
        for places, more, n in zip(np.nonzero(spleen), margin, spleen.shape, strict=True)
    )
    inside = nib.Nifti1Image(data[box].astype(np.int32), image.slicer[box].affine, dtype=np.int32)
    expected = np.zeros((*data.shape, 2), np.uint8)
    expected[..., 0] = spleen
    expected[(*box, 1)] = np.array([0, 2, 0, 3])[steps(trained, 1, inside, OF_THE_BOX, 0.5)]
    return expected, box


@pytest.mark.slow
def test_labels_are_those_of_totalsegmentators_steps_on_a_crop(trained, model, data):
    labels, _ = Segmenter.load(model, "ts218", device="cpu").segment(data, OBLIQUE)
    expected, box = by_its_steps(trained, data, OBLIQUE)
    n_inside = [ends.stop - ends.start for ends in box]
    assert sum(n < whole for n, whole in zip(n_inside, data.shape, strict=True)) >= 2
    assert 30 < (expected[..., 0] > 0).sum() < 300
    assert 0 < (expected[..., 1] > 0).sum() < data[box].size
    np.testing.assert_array_equal(labels, expected)
