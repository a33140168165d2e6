"""Labels are those of ``nnUNetv2_predict`` on every storage of a scan, whatever reads it there.

nnU-Nets are planned, preprocessed, trained (two iterations) and run by nnunetv2 itself.
"""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import pytest

from cohortvol import cli
from cohortvol.errors import ModelError
from cohortvol.models.card import AS_STORED, load_card
from cohortvol.models.networks import Source, import_nnunet
from nnunet_compared import PROFILES, compared
from nnunet_fixture import PLANS, results_folder
from nnunet_trained import Training, storages, train_and_predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORAGES = ("RAS", "LPS", "LAS", "RSA")
MODELS = {
    "2D": Training("SimpleITKIO", "ExperimentPlanner", "2d", "0"),
    "3D": Training("SimpleITKIO", "ExperimentPlanner", "3d_fullres", "0"),
    "ResEnc M, fold all": Training("SimpleITKIO", "nnUNetPlannerResEncM", "3d_fullres", "all"),
    "ignore label": Training("NibabelIO", "ExperimentPlanner", "3d_fullres", "0"),
    "turned to RAS": Training("NibabelIOWithReorient", "ExperimentPlanner", "3d_fullres", "0"),
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One scan on other axes, one turned by 20 degrees, one smaller than a patch."""
    folder = tmp_path_factory.mktemp("scans")
    for name, one in storages(STORAGES).items():
        nib.save(one, folder / f"{name}_0000.nii.gz")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scans):
    """Folder of a model of `MODELS`: what nnU-Net trained, and what it made of the scans."""
    folder = tmp_path_factory.mktemp("nnunet")
    few = tmp_path_factory.mktemp("few")
    for name in ("RSA", "small"):
        shutil.copy(scans / f"{name}_0000.nii.gz", few)
    train_and_predict(folder, list(MODELS.values()), scans, few)
    return folder


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("which", MODELS)
def test_no_voxel_differs_from_nnunetv2_predict(trained, scans, tmp_path, which, profile):
    reader, source = MODELS[which].reader, Source(MODELS[which].results(trained))
    card = import_nnunet([source], tmp_path / "model", model_id="model", licence="test")
    assert card.profiles == ("nnunet", "nnunet-nomirror", "fast")
    assert card.parts[0].mirror_axes == ((0, 1) if which == "2D" else (0, 1, 2))
    assert card.orientation == ("RAS" if reader == "NibabelIOWithReorient" else AS_STORED)
    found = compared(card, profile, scans, MODELS[which].labels(trained, PROFILES[profile]))
    assert len(found) == (2 if profile == "nnunet" else 6)
    assert {name: one.n_differ for name, one in found.items()} == dict.fromkeys(found, 0)
    assert min(one.n_labels for one in found.values()) > 1


def test_the_axes_of_the_training_images_are_read_from_nnunets_validation(trained, tmp_path):
    axes = {}
    for which in ("3D", "ignore label", "turned to RAS"):
        source = Source(MODELS[which].results(trained))
        card = import_nnunet([source], tmp_path / which, model_id="m", licence="test")
        axes[which] = card.stored_axes
    assert axes == {"3D": "LPS", "ignore label": "RAS", "turned to RAS": None}


# --- what an import says ---------------------------------------------------------------------


def imported(tmp_path, capsys, *words, **plans):
    results = results_folder(tmp_path / "trained", plans=PLANS | plans)
    models = tmp_path / "models"
    given = ["models", "import", str(results), "--id", "mine", "--licence", "test", *words]
    code = cli.run([*given, "--models-dir", str(models)])
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split()), models / "mine"


def test_an_import_says_that_axes_are_not_known_and_takes_them(tmp_path, capsys):
    code, said, _ = imported(tmp_path / "a", capsys)
    assert code == 0
    assert "Say it with --stored-axes" in said
    code, said, folder = imported(tmp_path / "b", capsys, "--stored-axes", "LPS")
    assert (code, load_card(folder).stored_axes) == (0, "LPS")
    assert "scans on others are flagged (QC_AXES)" in said
    code, said, folder = imported(tmp_path / "c", capsys, "--orientation", "LPS")
    assert (code, load_card(folder).orientation) == (0, "LPS")
    assert "as they are stored" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--orientation", "ASL"), "this version knows RAS, LPS, as-stored"),
        (("--stored-axes", "LLS"), "axis codes such as LPS"),
        (("--orientation", "RAS", "--stored-axes", "LPS"), "though scans are turned"),
    ],
)
def test_axes_that_are_none_are_refused(tmp_path, capsys, words, message):
    code, said, folder = imported(tmp_path, capsys, *words)
    assert code == 64
    assert message in said
    assert not folder.exists()


def test_a_reader_that_is_not_known_asks_for_the_axes(tmp_path, capsys):
    code, said, _ = imported(tmp_path / "a", capsys, image_reader_writer="Tiff3DIO")
    assert code == 64
    assert "plans.json names the reader Tiff3DIO" in said
    words = ("--orientation", "as-stored")
    code, _, folder = imported(tmp_path / "b", capsys, *words, image_reader_writer="Tiff3DIO")
    assert (code, load_card(folder).orientation) == (0, AS_STORED)


def test_two_parts_that_are_read_otherwise_are_refused(tmp_path):
    sources = [
        Source(
            results_folder(tmp_path / reader, plans=PLANS | {"image_reader_writer": reader}), reader
        )
        for reader in ("SimpleITKIO", "NibabelIOWithReorient")
    ]
    with pytest.raises(ModelError, match="does not follow"):
        import_nnunet(sources, tmp_path / "model", model_id="model", licence="test")


def test_cards_of_before_say_ras_and_stay_what_they_were(tmp_path):
    results = results_folder(tmp_path / "trained")
    folder = import_nnunet(
        [Source(results)], tmp_path / "model", model_id="m", licence="test", orientation="RAS"
    ).folder
    card = json.loads((folder / "card.json").read_text())
    del card["stored_axes"]
    (folder / "card.json").write_text(json.dumps(card))
    assert (load_card(folder).orientation, load_card(folder).stored_axes) == ("RAS", None)
