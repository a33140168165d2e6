"""An error without labels: altered copies, their agreement, and what it says of the true Dice."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import nnunet_fixture
from cohortvol.cli import run as cohortvol
from cohortvol.errors import ConfigError
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages.segment import Segmenter
from cohortvol.store.tables import read_table
from cohortvol.tools.judge.consistency import (
    ALTERATIONS,
    CONSISTENCY,
    altered_copies,
    consistency_of,
)
from cohortvol.tools.judge.expectation import Expectation, expectation, left_out
from segment_cohort import AFFINE, scan, write_scan

pytestmark = pytest.mark.slow


class Thresholds:
    """A model of one organ that is easily found and one whose edge hangs on the grey value."""

    card = SimpleNamespace(labels={1: "liver", 2: "spleen", 3: "pancreas"})

    def segment(self, data, affine):
        labels = np.zeros(data.shape, np.uint8)
        labels[2:8, 2:8, 2:8] = np.where(data[2:8, 2:8, 2:8] > 200, 1, 0)
        labels[12:18, 2:8, 2:8] = np.where(data[12:18, 2:8, 2:8] > 500, 2, 0)
        return labels, 0.0


def phantom():
    """Liver of 900 where 200 would do; spleen of 450 to 550 around its threshold."""
    data = np.zeros((20, 10, 10), np.float32)
    data[2:8, 2:8, 2:8] = 900
    data[12:18, 2:8, 2:8] = np.linspace(450, 550, 6)[:, None, None]
    return data


def test_copies_keep_the_grid_the_type_and_about_the_range():
    data = phantom()
    copies = dict(altered_copies(data))
    assert list(copies) == list(ALTERATIONS)
    for copy in copies.values():
        assert (copy.shape, copy.dtype) == (data.shape, data.dtype)
        assert np.corrcoef(copy.ravel(), data.ravel())[0, 1] > 0.9
    assert copies["darker"].mean() < data.mean() < copies["brighter"].mean()
    assert copies["shaded"][5, 2, 5] < data[5, 5, 5] < copies["shaded"][5, 7, 5]
    again = dict(altered_copies(data))
    assert all((again[name] == copy).all() for name, copy in copies.items())


def test_a_scan_of_one_grey_value_has_copies_too():
    for _, copy in altered_copies(np.full((4, 5, 6), 7.0, np.float32)):
        assert np.isfinite(copy).all()


def test_what_hangs_on_the_grey_value_agrees_less_than_what_does_not():
    table, labels = consistency_of(Thresholds(), phantom(), np.eye(4))
    table = table.set_index("structure")
    assert list(table.index) == ["liver", "spleen"]  # no copy has any pancreas
    assert table.loc["liver", "agreement"] == 1
    assert table.loc["liver", "volume_spread_pct"] == 0
    spleen = table.loc["spleen"]
    assert spleen["agreement_least"] < spleen["agreement"] < 0.9
    assert spleen["volume_spread_pct"] > 50
    assert (labels == Thresholds().segment(phantom(), None)[0]).all()


def labelled_rows(agreement, dice, scans=None):
    n = len(agreement)
    return pd.DataFrame(
        {"scan": scans or [str(i) for i in range(n)], "structure": "liver",
         "agreement": agreement, "dice": dice}
    )  # fmt: skip


def test_the_expected_dice_never_falls_with_agreement():
    random = np.random.default_rng(1)
    agreement = random.uniform(0.4, 1, 200)
    dice = np.clip(agreement - 0.1 + random.normal(0, 0.05, 200), 0, 1)
    found = expectation(labelled_rows(agreement, dice), "nnunet", "200 drawn")
    at = found.of(np.linspace(0, 1, 50))
    assert (np.diff(at) >= 0).all()
    assert found.of(np.array([0.7]))[0] == pytest.approx(0.6, abs=0.03)
    assert found.error == pytest.approx(0.04, abs=0.015)  # mean distance of normal noise: 0.8 SD
    assert (found.n_scans, found.note) == (200, "200 drawn")
    assert found.correlation > 0.9


def test_agreement_that_tells_nothing_is_said_to_tell_nothing():
    random = np.random.default_rng(2)
    rows = labelled_rows(random.uniform(0.4, 1, 300), random.uniform(0.4, 1, 300))
    found = expectation(rows, "nnunet")
    assert abs(found.correlation) < 0.15
    assert found.error > 0.12


def test_a_scan_has_no_part_in_what_is_expected_of_it():
    rows = labelled_rows([0.5, 0.6, 0.7, 0.8, 0.9, 0.9], [0.5, 0.6, 0.7, 0.8, 0.9, 0.1],
                         ["a", "b", "c", "d", "e", "bad"])  # fmt: skip
    assert left_out(rows).iloc[-1] == pytest.approx(0.9)
    assert left_out(rows).iloc[-2] < 0.8


def test_too_few_labelled_scans_tell_nothing():
    with pytest.raises(ConfigError, match="2 labelled scans; 5 are needed"):
        expectation(labelled_rows([0.5, 0.6], [0.5, 0.6]), "nnunet")


# --- a real network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny nnU-Net with random weights."""
    trained = nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return import_nnunet([Source(trained)], folder, model_id="tiny", licence="test").folder


@pytest.fixture
def labelled(model, tmp_path):
    """Six scans whose label maps are the model's own, the more voxels lost the later the scan."""
    segmenter = Segmenter.load(model, "nnunet", device="cpu")
    folder = tmp_path / "labelled"
    for n in range(6):
        write_scan(folder / "images" / f"image_{n}.nii.gz", scan(n), AFFINE)
        labels, _ = segmenter.segment(scan(n), AFFINE)
        labels.flat[np.flatnonzero(labels)[: 20 * n]] = 0
        if n == 5:
            labels[labels == 1] = 0
        write_scan(folder / "labels" / f"label_{n}.nii.gz", labels, AFFINE)
    return folder


def test_labelled_scans_say_what_to_expect_of_others(model, labelled, tmp_path, capsys):
    mine = shutil.copytree(model, tmp_path / "mine")
    before = json.loads((mine / "card.json").read_text())
    words = ["models", "consistency", str(mine), "--scans", str(labelled), "--device", "cpu"]
    assert cohortvol([*words, "--out", str(tmp_path / "new")]) == 0
    assert "nobody has measured" in capsys.readouterr().out
    found = read_table(tmp_path / "new" / "consistency.parquet", CONSISTENCY)
    assert found[["dice", "dice_expected"]].isna().all(axis=None)
    assert not (tmp_path / "new" / "agreement.png").exists()

    assert cohortvol([*words, "--out", str(tmp_path / "known"), "--labelled", "--write"]) == 0
    known = read_table(tmp_path / "known" / "consistency.parquet", CONSISTENCY)
    assert known.loc[known["scan"] == "0", "dice"].eq(1).all()
    assert known["dice"].min() < 1
    undrawn = known[known["scan"] == "5"].set_index("structure")["dice"]
    assert undrawn.isna().sum() == 1  # of the liver the label map of scan 5 has nothing
    assert known["agreement"].tolist() == found["agreement"].tolist()
    caption = (tmp_path / "known" / "agreement.txt").read_text()
    assert "labelled scans against their agreement" in caption
    after = json.loads((mine / "card.json").read_text())
    on_card = after.pop("consistency")
    assert after == before
    assert (on_card["profile"], on_card["n_scans"], on_card["note"]) == ("nnunet", 6, "")

    assert cohortvol([*words, "--out", str(tmp_path / "expected")]) == 0
    expected = read_table(tmp_path / "expected" / "consistency.parquet", CONSISTENCY)
    line = Expectation.of_card(mine, "nnunet")
    assert expected["dice_expected"].tolist() == line.of(expected["agreement"]).tolist()
    assert expected["dice"].isna().all()
    assert Expectation.of_card(mine, "fast") is None


def test_folds_of_a_training_segment_the_scans_that_they_have_not_seen(model, labelled, tmp_path):
    trained = nnunet_fixture.results_folder(tmp_path / "nnUNet_results", folds=2)
    other = import_nnunet(
        [Source(trained, folds=["1"])], tmp_path / "other", model_id="other", licence="test"
    ).folder
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for folder, networks in ((right, (model, other)), (wrong, (other, model))):
        for fold, network in enumerate(networks):
            shutil.copytree(network, folder / str(fold) / "model")
    segmenters = [Segmenter.load(network, "nnunet", device="cpu") for network in (model, other)]
    for n in range(6):
        labels, _ = segmenters[n % 2].segment(scan(n), AFFINE)
        for folder in (right, wrong):
            write_scan(folder / str(n % 2) / "images" / f"case_{n}.nii.gz", scan(n), AFFINE)
            write_scan(folder / str(n % 2) / "labels" / f"case_{n}.nii.gz", labels, AFFINE)
    mine = shutil.copytree(model, tmp_path / "mine")
    words = ["models", "consistency", str(mine), "--labelled", "--device", "cpu"]
    for folder in (right, wrong):
        out = tmp_path / f"out-{folder.name}"
        assert cohortvol([*words, "--scans", str(folder), "--out", str(out), "--write"]) == 0
        found = read_table(out / "consistency.parquet", CONSISTENCY)
        assert set(found["scan"]) == {f"case_{n}" for n in range(6)}
        assert (found["dice"].dropna() == 1).all() == (folder is right)
    assert json.loads((mine / "card.json").read_text())["consistency"]["n_scans"] == 6
    assert "consistency" not in json.loads((right / "0" / "model" / "card.json").read_text())


def test_what_cannot_be_read_is_left_out_and_nothing_at_all_is_an_error(
    model, labelled, tmp_path, capsys
):
    (labelled / "images" / "image_1.nii.gz").write_bytes(b"no image")
    words = ["models", "consistency", str(model), "--scans", str(labelled), "--device", "cpu"]
    assert cohortvol([*words, "--out", str(tmp_path / "out")]) == 0
    found = read_table(tmp_path / "out" / "consistency.parquet", CONSISTENCY)
    assert set(found["scan"]) == {f"image_{n}" for n in (0, 2, 3, 4, 5)}
    assert "image_1: left out (SRC_NOT_NIFTI" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    words[4] = str(empty)
    assert cohortvol([*words, "--out", str(tmp_path / "out")]) == 64
    assert cohortvol([*words, "--write", "--out", str(tmp_path / "out")]) == 64
