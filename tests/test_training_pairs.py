"""Training pairs of random contrast: each on one grid, each under the subject it came from."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.errors import ConfigError
from cohortvol.tools.simulate import training
from cohortvol.tools.simulate.image import ORGANS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """One labelled scan of boxes under a name that is no number, and one simulated anatomy."""
    labelled, out = (tmp_path_factory.mktemp(name) for name in ("labelled", "pairs"))
    labels = np.zeros((60, 50, 30), np.uint8)
    labels[35:50, 10:35, 12:26] = 1
    labels[36:44, 8:16, 3:11] = 2
    labels[14:22, 8:16, 3:11] = 3
    labels[8:20, 8:22, 14:24] = 4
    body = np.zeros(labels.shape)
    body[4:56, 4:46] = 200
    noise = np.random.default_rng(0).normal(0, 25, labels.shape)
    image = np.clip(body + 90 * labels + noise * (body > 0), 0, None)
    affine = np.diag([-5.0, 5.0, 8.0, 1.0])
    for kind, name, data in (
        ("images", "image_a7", image.astype(np.float32)),
        ("labels", "label_a7", labels),
    ):
        (labelled / kind).mkdir()
        nib.save(nib.Nifti1Image(data, affine), labelled / kind / f"{name}.nii.gz")
    training.run(out, labelled, per_scan=2, n_simulated=1, seed=1)
    return out


def test_a_synthetic_case_carries_the_subject_of_its_label_map(pairs):
    cases = pd.read_csv(pairs / "cases.csv").set_index("case")
    assert cases.loc[["real_a7", "synth_a7_00", "synth_a7_01"], "subject"].eq("a7").all()
    assert list(cases["source"]) == ["real", "synthetic", "synthetic", "simulated"]


def test_image_and_label_map_are_on_one_grid_and_hold_the_organs(pairs):
    for case in pd.read_csv(pairs / "cases.csv")["case"]:
        image, labels = (
            nib.Nifti1Image.from_filename(pairs / kind / f"{case}.nii.gz")
            for kind in ("images", "labels")
        )
        assert image.shape == labels.shape
        assert np.array_equal(image.affine, labels.affine)
        found = set(np.unique(np.asarray(labels.dataobj)))
        assert found <= set(range(len(ORGANS) + 1))
        assert 1 in found


def test_two_images_of_one_label_map_differ_in_contrast_and_shape(pairs):
    first, second = (
        nib.Nifti1Image.from_filename(pairs / "images" / f"synth_a7_0{index}.nii.gz")
        for index in (0, 1)
    )
    assert first.shape != second.shape or not np.array_equal(first.dataobj, second.dataobj)


def test_recolouring_leaves_the_order_of_greys_outside_the_organs():
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 100, (12, 12, 12)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[:4] = 1
    signal, warped = training._recoloured(image, labels, np.indices(image.shape), rng)
    assert np.array_equal(warped, labels)
    far = np.s_[7:]  # beyond the smoothed edge of the liver
    order = np.argsort(image[far], axis=None)
    assert (np.diff(signal[far].ravel()[order]) >= 0).all()


def test_a_folder_without_labelled_scans_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no images/image_"):
        training.run(tmp_path / "out", tmp_path, per_scan=1, n_simulated=0, seed=1)
