"""Kinds of nnU-Net beside the plainest, planned and run by nnunetv2 itself, with random weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from cohortvol import cli
from cohortvol.errors import ModelError
from cohortvol.models.card import load_card, restrict, segmentation_key
from cohortvol.models.folders import verify
from cohortvol.models.networks import Source, check, import_nnunet
from cohortvol.stages.segment import Segmenter
from nnunet_compared import PROFILES, compared, imported
from nnunet_trained import CHANNELS, Chosen, Training, storages, train_and_predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REGIONS = Training(kind="regions", trained=False)
LOW = Training(kind="masked", configuration="3d_lowres", trained=False)
CASCADE = Training(kind="masked", configuration="3d_cascade_fullres", trained=False)
ALONE = {
    "regions": REGIONS,
    "two channels": Training(kind="two channels", trained=False),
    "four channels": Training(kind="four channels", configuration="2d", trained=False),
    **{
        kind: Training(kind=kind, configuration="2d", trained=False)
        for kind in ("CT", "no normalisation", "0 to 1", "RGB")
    },
    "never mirrored": Training(
        kind="never mirrored",
        configuration="2d",
        folds="0 1 2 3 4",
        trained=False,
        checkpoint="checkpoint_best.pth",
    ),
}
TOGETHER = {
    "cascade": Chosen((CASCADE,)),
    "2D and cascade": Chosen((replace(LOW, configuration="2d", folds="0 1"), CASCADE)),
    "regions in 2D and 3D": Chosen((replace(REGIONS, configuration="2d"), REGIONS)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What nnU-Net left, and what it made of scans in ``scans``."""
    folder = tmp_path_factory.mktemp("nnunet")
    scans, few = folder / "scans", folder / "few"
    for kind in ("masked", *ALONE):
        (scans / kind).mkdir(parents=True)
        (few / kind).mkdir(parents=True)
        for channel in range(n_channels := len(CHANNELS.get(kind, ("MR",)))):
            several = channel if n_channels > 1 else None
            for name, one in storages(("RAS", "LPS"), several, kind).items():
                nib.save(one, scans / kind / f"{name}_{channel:04}.nii.gz")
            shutil.copy(scans / kind / f"LPS_{channel:04}.nii.gz", few / kind)
    members = [one for chosen in TOGETHER.values() for one in chosen.members]
    trainings = dict.fromkeys([LOW, *ALONE.values(), *members])
    train_and_predict(folder, [*trainings], scans, few, [*TOGETHER.values()])
    return folder


def assert_equal(found, n_scans):
    assert len(found) == n_scans
    assert {name: one.n_differ for name, one in found.items()} == dict.fromkeys(found, 0)
    assert max(one.n_labels for one in found.values()) > 1


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("which", ALONE)
def test_no_voxel_differs_of_one_training(folder, tmp_path, which, profile):
    training, passes = ALONE[which], PROFILES[profile]
    card = imported(Chosen((training,)), folder, tmp_path / "model")
    names = CHANNELS.get(which, ())
    assert card.channels == (names if len(names) > 1 else ())
    expected = training.labels(folder, passes)
    if which == "never mirrored":  # there is one way to run it
        assert card.profiles == ("nnunet", "fast")
        profile = "nnunet"
    found = compared(card, profile, folder / "scans" / which, expected)
    assert_equal(found, 1 if passes == "predicted" else 4)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("which", TOGETHER)
def test_no_voxel_differs_of_parts_that_go_together(folder, tmp_path, which, profile):
    chosen, passes = TOGETHER[which], PROFILES[profile]
    scans = folder / "scans" / chosen.members[0].kind
    as_predicted = imported(chosen, folder, tmp_path / "predicted")
    found = compared(as_predicted, profile, scans, chosen.labels(folder, passes))
    assert_equal(found, 1 if passes == "predicted" else 4)
    kept = imported(chosen, folder, tmp_path / "kept", keeps_largest=True)
    assert kept.parts[-1].keep_largest
    after = compared(kept, profile, scans, chosen.kept(folder, passes))
    assert_equal(after, len(found))
    removed = any(changed(path) for path in chosen.labels(folder, passes).glob("*.nii.gz"))
    assert removed or passes == "predicted", "nothing was removed"  # that is one scan alone


def changed(path):
    """Whether nnU-Net's postprocessing changed a label map."""
    before, after = (nib.load(one).dataobj for one in (path, path.parent / "kept" / path.name))
    return not np.array_equal(before, after)


def test_regions_are_layers_of_which_one_alone_is_a_label_map(folder, tmp_path):
    card = imported(Chosen((REGIONS,)), folder, tmp_path / "model")
    assert card.labels_by_layer == [{1: "organs"}, {2: "spleen"}]
    both, spleen = (
        Segmenter.load(card.folder, "fast", "cpu", threads=1, roi=roi) for roi in ((), ("spleen",))
    )
    image = nib.load(folder / "scans/regions/LPS_0000.nii.gz")
    scan = image.get_fdata(dtype=np.float32), image.affine
    layers = both.segment(*scan)[0]
    assert np.array_equal(spleen.segment(*scan)[0], layers[..., 1])
    assert not np.any(layers[..., 1].astype(bool) & ~layers[..., 0].astype(bool))


def test_a_card_says_what_goes_together_and_the_key_knows(folder, tmp_path):
    card = imported(TOGETHER["2D and cascade"], folder, tmp_path / "model", keeps_largest=True)
    before, cascade = card.parts[1:]
    assert [part.configuration for part in card.parts] == ["2d", "3d_lowres", "3d_cascade_fullres"]
    assert (before.labels, dict(card.parts[0].labels)) == ({}, {})
    assert (cascade.previous, cascade.averaged_with) == (before.name, (card.parts[0].name,))
    assert load_card(card.folder) == card
    verify(card)
    check(card)
    keys = {
        segmentation_key(replace(card, parts=(*card.parts[:2], replace(cascade, **change))))
        for change in ({}, {"averaged_with": ()}, {"keep_largest": ()}, {"previous": None})
    }
    assert len(keys) == 4
    assert restrict(card, ["spleen"]).parts[:2] == card.parts[:2]


def test_an_ensemble_says_how_sure_it_is_together(folder, tmp_path):
    image = nib.load(folder / "scans/masked/small_0000.nii.gz")
    scan = image.get_fdata(dtype=np.float32), image.affine
    card = imported(TOGETHER["2D and cascade"], folder, tmp_path / "model")
    segmenter = Segmenter.load(card.folder, "nnunet-nomirror+softmax", "cpu", threads=1)
    predicted = segmenter.predict(segmenter.prepare(*scan))
    counted = np.bincount(segmenter.finish(predicted).ravel())
    sure = predicted.softmax
    assert sure["softmax_labels"] == [1, 2]
    expected = np.array(sure["expected_ratio"]) * counted[1:]
    assert 0 < expected.sum() < image.shape[0] * image.shape[1] * image.shape[2]
    assert all(spread > 0 for spread in sure["spread_ratio"])


def importing(folder, tmp_path, capsys, *words):
    given = ["models", "import", *map(str, words), "--id", "mine", "--licence", "test"]
    code = cli.run([*given, "--models-dir", str(tmp_path / "models")])
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split()), tmp_path / "models" / "mine"


def test_a_cascade_without_its_earlier_stage_is_refused(folder, tmp_path, capsys):
    alone = tmp_path / CASCADE.results(folder).name
    shutil.copytree(CASCADE.results(folder), alone)
    code, said, model = importing(folder, tmp_path, capsys, alone)
    assert code == 64
    assert "sees what 3d_lowres found, and that is not with it; say where it is: --previous" in said
    assert not model.exists()
    wrong = replace(LOW, configuration="2d").results(folder)
    code, said, model = importing(folder, tmp_path, capsys, alone, "--previous", wrong)
    assert (code, model.exists()) == (64, False)
    assert "wants the label map of 3d_lowres, the card names 2d" in said
    code, said, model = importing(
        folder, tmp_path, capsys, alone, "--previous", LOW.results(folder)
    )
    assert (code, len(load_card(model).parts)) == (0, 2)
    assert "3d_cascade_fullres sees the label map of 3d_lowres beside the image" in said


def test_an_ensemble_is_imported_from_one_zip(folder, tmp_path, capsys):
    chosen = TOGETHER["2D and cascade"]
    dataset = LOW.results(folder).parent
    archive = shutil.make_archive(str(tmp_path / "exported"), "zip", dataset.parent, dataset.name)
    trainings = ("--training", "2d", "--training", "3d_cascade_fullres")
    words = (*trainings, "--postprocessing", chosen.postprocessing(folder))
    code, said, model = importing(folder, tmp_path, capsys, archive, *words)
    assert code == 0
    assert "The probabilities of 2d and 3d_cascade_fullres are averaged." in said
    assert "largest connected piece is kept" in said
    of_folders = imported(chosen, folder, tmp_path / "folders", keeps_largest=True)
    assert [part.canary for part in load_card(model).parts] == [
        part.canary for part in of_folders.parts
    ]


def test_an_earlier_stage_that_is_averaged_too_is_one_part(folder, tmp_path):
    for members in ((LOW, CASCADE), (CASCADE, LOW)):
        card = imported(Chosen(members), folder, tmp_path / members[0].configuration)
        low, cascade = card.parts
        assert (low.labels, cascade.previous) == ({}, low.name)
        assert cascade.averaged_with == (low.name,)
        verify(card)


def test_networks_of_other_labels_or_given_twice_are_no_ensemble(folder, tmp_path):
    how = {"model_id": "m", "licence": "x", "ensemble": True}
    regions = TOGETHER["regions in 2D and 3D"].members[0].results(folder)
    flat, low = (Source(place, part=place.name) for place in (regions, LOW.results(folder)))
    with pytest.raises(ModelError, match="which it needs, has other labels"):
        import_nnunet([flat, low], tmp_path / "m", **how)
    with pytest.raises(ModelError, match="several trainings, each given once"):
        import_nnunet([low, replace(low, part="again")], tmp_path / "m", **how)
    with pytest.raises(ModelError, match="of label 7, which"):
        import_nnunet(
            [replace(low, keep_largest=((7,),))], tmp_path / "m", model_id="m", licence="x"
        )
