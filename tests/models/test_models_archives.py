"""Models that come as archives: zips that mean harm, came damaged, or hold several trainings."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

import nnunet_fixture
from cohortvol import cli
from cohortvol.errors import ModelError
from cohortvol.models.card import load_card
from cohortvol.models.networks import Source, import_nnunet, unpacking
from nnunet_fixture import imported


def member(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name  # as it is: the constructor would put a backslash right
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "unsafe",
    [
        member("../plans.json"),
        member("model/../../plans.json"),
        member("/elsewhere/plans.json"),
        member("a\\b/plans.json"),
        member("model/plans.json", stat.S_IFLNK | 0o777),
        member("model/fold_0/checkpoint_final.pth", stat.S_IFLNK | 0o777),
    ],
    ids=lambda info: info.filename,
)
def test_a_zip_that_reaches_out_of_its_folder_is_refused(tmp_path, unsafe):
    archive = tmp_path / "slip.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(unsafe, "/etc/passwd")
    with pytest.raises(ModelError, match="unsafe member"):
        imported(archive, tmp_path / "models" / "bad")
    assert {path.name for path in tmp_path.rglob("*")} == {"slip.zip"}


def zipped(trained: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(trained.rglob("*.*")):
            file.write(path, path.relative_to(trained.parent))
    return archive


def test_a_zip_that_would_fill_the_disk_is_refused_before_it_is_unpacked(
    trained, tmp_path, monkeypatch
):
    archive = zipped(trained, tmp_path / "bomb.zip")
    monkeypatch.setattr(unpacking, "MAX_UNZIPPED_BYTES", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(ModelError, match="more than 1000 bytes when unzipped"):
        imported(archive, tmp_path / "bad")


def test_a_member_is_never_longer_than_the_zip_says(tmp_path):
    with pytest.raises(ModelError, match="larger than the zip says"):
        unpacking._copy_at_most(io.BytesIO(bytes(100)), io.BytesIO(), 99, tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_zip_that_came_damaged_is_told_so(trained, tmp_path, share):
    archive = zipped(trained, tmp_path / "damaged.zip")
    content = bytearray(archive.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged zip \(MOD_CORRUPT\)"):
        imported(archive, tmp_path / "bad")
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="neither a folder nor a zip"):
        imported(archive, tmp_path / "bad")


def test_a_tar_is_not_unpacked(trained, tmp_path):
    archive = tmp_path / "model.tar"
    with tarfile.open(archive, "w") as file:
        file.add(trained / "plans.json", "plans.json")
    with pytest.raises(ModelError, match="neither a folder nor a zip"):
        imported(archive, tmp_path / "bad")


def two_trainings(folder):
    """A 2D and a 3D training of one data set, as ``nnUNetv2_export_model_to_zip`` packs them."""
    for name in ("2d", "3d_fullres"):
        nnunet_fixture.write_results(
            folder / "Dataset001_Tiny" / f"nnUNetTrainer__nnUNetPlans__{name}",
            nnunet_fixture.PLANS, nnunet_fixture.DATASET, 1,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("is_zip", [False, True])
def test_of_several_trainings_one_is_chosen_by_name(tmp_path, is_zip, capsys):
    place = two_trainings(tmp_path / "exported")
    if is_zip:
        place = Path(shutil.make_archive(str(tmp_path / "model"), "zip", place))
    words = ["models", "import", str(place), "--id", "m", "--licence", "x", "--orientation", "RAS",
             "--models-dir", str(tmp_path / "models")]  # fmt: skip
    assert cli.run(words) == 64
    said = capsys.readouterr().err
    assert "2 trained nnU-Nets in it, need exactly one" in said
    assert "Dataset001_Tiny/nnUNetTrainer__nnUNetPlans__2d" in said
    assert "Say which with --training, such as --training 3d_fullres" in said
    assert "cohortvol-import" not in said
    assert cli.run([*words, "--training", "3d_lowres"]) == 64
    assert "0 of them '3d_lowres'" in capsys.readouterr().err
    assert cli.run([*words, "--training", "3d_fullres"]) == 0
    assert load_card(tmp_path / "models" / "m").parts[0].configuration == "3d_fullres"


def test_a_training_that_has_not_ended_names_the_option_that_takes_it(tmp_path):
    results = nnunet_fixture.results_folder(tmp_path / "trained")
    final = results / "fold_0" / "checkpoint_final.pth"
    final.rename(final.with_name("checkpoint_best.pth"))
    how = {"model_id": "m", "licence": "x", "orientation": "RAS"}
    with pytest.raises(ModelError, match=r"--checkpoint checkpoint_best\.pth takes what there is"):
        import_nnunet([Source(results)], tmp_path / "m", **how)
    card = import_nnunet([Source(results)], tmp_path / "m", **how, checkpoint="checkpoint_best.pth")
    assert card.parts[0].folds == ("0",)
