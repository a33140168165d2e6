"""Which way round a body lies, whatever the header says of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from cohortvol import config
from cohortvol.errors import ConfigError
from cohortvol.models import orientation
from cohortvol.models.card import load_card, restrict
from cohortvol.models.orientation import (
    SHARPENED,
    TURNS,
    N,
    Verdict,
    from_torch,
    in_words,
    judge,
    look,
    packaged,
    picture,
    scores,
    turned,
)
from cohortvol.stages.ingest import Rules, check_scan
from cohortvol.tools.simulate import run as simulate
from cohortvol.tools.train import orientation as training
from cohortvol.workflow.flow import ingest_settings
from nifti_files import saved
from workflow_run import REPOSITORY

pytestmark = pytest.mark.slow

MIRRORED = TURNS.index(((0, 1, 2), (True, False, False)))
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 0, 5.0, -120], [0, 3.0, 0, 40], [0, 0, 0, 1]])
"""Array axes to the left, up and to the front."""


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return training.Scorer().eval()


@pytest.fixture(scope="module")
def weights(untrained):
    return from_torch({name: tensor.numpy() for name, tensor in untrained.state_dict().items()})


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """Six simulated scans that nothing was trained on."""
    folder = tmp_path_factory.mktemp("bodies")
    simulate.run(folder, n=6, seed=4711)
    return [nib.load(path) for path in sorted((folder / "images").glob("*.nii.gz"))]


def some_image(seed=0, shape=(90, 60, 50)):
    return np.random.default_rng(seed).gamma(2.0, 100.0, shape).astype(np.int16)


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "RSA", "PIR", "ASL", "SPL"])
def test_a_picture_does_not_depend_on_how_the_image_is_stored(axes):
    image = nib.Nifti1Image(some_image(), AFFINE)
    here = nib.orientations.io_orientation(AFFINE)
    turn = nib.orientations.ornt_transform(here, nib.orientations.axcodes2ornt(axes))
    moved = image.as_reoriented(turn)
    expected = picture(np.asarray(image.dataobj), image.affine)
    np.testing.assert_allclose(
        picture(np.asarray(moved.dataobj), moved.affine), expected, atol=0.02
    )
    assert expected.shape == (N, N, N)


def test_every_bin_is_the_mean_of_what_lies_in_it():
    voxels = np.zeros((60, 60, 60), np.float32)
    voxels[30:] = 100.0  # the right half
    found = picture(voxels, np.diag([5.5, 5.5, 5.5, 1.0]))
    inside = slice(3, 33)  # 330 mm of 396
    assert np.allclose(found[inside, inside, inside][:15], 0)
    assert np.allclose(found[inside, inside, inside][15:], 1)
    assert found[:3].max() == found[33:].max() == 0


@pytest.mark.parametrize("factor", [0.001, -3.0, 1e6])
def test_the_scale_of_the_grey_values_does_not_matter(factor):
    voxels = some_image().astype(float)
    expected = picture(voxels if factor > 0 else -voxels, AFFINE)
    np.testing.assert_allclose(picture(voxels * factor + 7, AFFINE), expected, atol=1e-3)


# --- scores ------------------------------------------------------------------------------------


def test_there_are_48_turns_each_with_words_of_its_own():
    marked = np.arange(27).reshape(3, 3, 3)
    assert len({turned(marked, turn).tobytes() for turn in TURNS}) == 48
    assert len({in_words(turn) for turn in TURNS}) == 48
    assert in_words(TURNS[0]) == "as the header says"
    assert in_words(TURNS[MIRRORED]) == "mirrored left to right"
    upside_down = ((0, 1, 2), (False, True, True))
    assert in_words(upside_down) == "turned by 180 degrees about the axis from left to right"


def test_scores_are_those_of_the_network_that_was_trained(untrained, weights):
    body = picture(some_image(), AFFINE)
    copies = torch.from_numpy(np.stack([turned(body, turn) for turn in TURNS])[:, None])
    with torch.no_grad():
        expected = untrained(copies).numpy()
    np.testing.assert_allclose(scores(body, weights), expected, atol=1e-5)


def test_scores_of_a_whole_abdomen_are_sharpened_and_those_of_a_slab_are_not(weights):
    whole = np.zeros((N, N, N), np.float32)
    whole[3:33, 8:28, 10:26] = 1.0  # 330 x 220 x 176 mm
    slab = whole.copy()
    slab[:, :, 20:] = 0  # 110 mm
    for each, factor in ((whole, SHARPENED), (slab, 1.0)):
        plain = [orientation._score(turned(each, turn), weights) for turn in TURNS]
        np.testing.assert_allclose(scores(each, weights), np.array(plain) * factor)


@pytest.mark.parametrize("n", [1, MIRRORED, 12, 30, 47])
def test_a_turned_picture_has_the_same_scores_in_another_order(weights, n):
    body = picture(some_image(), AFFINE)
    same = scores(turned(body, TURNS[n]), weights)
    np.testing.assert_allclose(np.sort(same), np.sort(scores(body, weights)), atol=1e-5)


def scored(**high):
    found = np.zeros(48)
    for n, value in high.items():
        found[int(n[1:])] = value
    return found


def test_a_header_is_believed_where_nothing_speaks_against_it_and_a_picture_only_if_it_is_sure():
    assert judge(scored(_0=10)).turn == TURNS[0]
    assert judge(scored()).turn is None
    assert judge(scored(_0=10, _4=10)).turn is None
    assert judge(scored(_4=10)).turn is None  # most headers are right
    assert judge(scored(_4=20)).turn == TURNS[4]
    assert judge(scored(_4=20)).is_turned
    assert not Verdict(TURNS[0], 1.0).is_turned
    assert not Verdict(None, 0.5).is_turned


# --- the weights that come with cohortvol ------------------------------------------------------


def flipped(body, axes):
    """The voxels of an image reversed along these axes of the body."""
    codes = nib.aff2axcodes(body.affine)
    here = [next(n for n, code in enumerate(codes) if code in _ENDS[axis]) for axis in axes]
    return np.flip(np.asarray(body.dataobj), here)


_ENDS = ("LR", "PA", "IS")
FLIPS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
WORDS = {
    (0,): "mirrored left to right", (1,): "mirrored front to back", (2,): "mirrored head to feet",
    (0, 1): "turned by 180 degrees about the axis from feet to head",
    (0, 2): "turned by 180 degrees about the axis from back to front",
    (1, 2): "turned by 180 degrees about the axis from left to right",
}  # fmt: skip


def test_sound_bodies_are_not_called_turned_and_flipped_ones_are_found_or_not_told(bodies):
    """Scans that are new to the network; how often it is right is in benchmarks/README.md."""
    n_found = 0
    for body in bodies:
        assert not look(np.asarray(body.dataobj), body.affine).is_turned
        for axes in FLIPS:
            verdict = look(flipped(body, axes), body.affine)
            if verdict.turn is not None:
                assert in_words(verdict.turn) == WORDS[axes]
                n_found += 1
    assert n_found >= len(bodies)


def test_noise_and_small_images_cannot_be_told():
    assert look(some_image(shape=(100, 100, 100)), np.diag([3.0, 3, 3, 1])).turn is None
    assert look(some_image(shape=(40, 300, 20)), np.diag([1.0, 1, 4, 1])).turn is None


# --- in ingest ---------------------------------------------------------------------------------


def test_ingest_marks_a_turned_scan_and_says_what_it_looks_like(bodies, tmp_path):
    body, axes = next(
        (body, axes)
        for body in bodies
        for axes in FLIPS
        if look(flipped(body, axes), body.affine).is_turned
    )
    for name, data in (("sound", np.asarray(body.dataobj)), ("turned", flipped(body, axes))):
        path = saved(tmp_path, nib.Nifti1Image(data, body.affine).to_bytes(), f"{name}.nii")
        found = check_scan(path)
        marked = "QC_ORIENTATION" in (found["warnings"] or "").split(";")
        assert marked == (name == "turned")
        if marked:
            assert found["body_orientation"] == WORDS[axes]
        aside = check_scan(path, Rules(orientation="off"))
        assert "body_orientation" not in aside
        assert "QC_ORIENTATION" not in (aside["warnings"] or "")


@pytest.mark.parametrize(
    ("setting", "roi", "expected"),
    [("auto", [], "check"), ("auto", ["spleen"], "check"), ("off", [], "off"),
     ("check", [], "check")],
)  # fmt: skip
def test_what_is_looked_at_follows_from_the_model(setting, roi, expected):
    card = restrict(load_card(REPOSITORY / "models" / "embedded-v2"), roi)
    settings = config.check({"ingest": {"orientation": setting}})
    assert ingest_settings(settings, card)["orientation"] == expected
    assert "watch" not in ingest_settings(settings, card)


# --- training ----------------------------------------------------------------------------------


def test_training_writes_weights_that_can_be_run_and_scores_out_of_fold(tmp_path):
    for n in range(4):
        (tmp_path / "real").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(some_image(n), AFFINE), tmp_path / "real" / f"s{n}.nii.gz")
    for again in ("one", "two"):
        training.run(tmp_path / "real", None, tmp_path / again, steps=2, folds=2, seed=5)
    names = {"fold_0.safetensors", "fold_1.safetensors", "orientation.safetensors"}
    made = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(made) == names | {"out_of_fold.csv"}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    lines = made["out_of_fold.csv"].decode().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["s0", "s1", "s2", "s3"]
    assert all(len(line.split(",")) == 49 for line in lines)


@pytest.mark.parametrize("given", ["nothing", "few"])
def test_too_little_to_train_on_is_refused(tmp_path, given):
    nib.save(nib.Nifti1Image(some_image(), AFFINE), tmp_path / "s.nii.gz")
    real = None if given == "nothing" else tmp_path
    with pytest.raises(ConfigError):
        training.run(real, None, tmp_path / "out", steps=1, folds=4, seed=1)


def test_the_packaged_weights_fit_the_network():
    net = training.Scorer()
    shapes = from_torch({name: tensor.numpy() for name, tensor in net.state_dict().items()})
    assert {name: array.shape for name, array in packaged().items()} == {
        name: array.shape for name, array in shapes.items()
    }
