"""Label maps that were made elsewhere: taken where they can be, and a reason where they cannot."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import threshold_cohort
from cohortvol import cli
from cohortvol.errors import (
    ConfigError,
    ManifestError,
    ModelError,
    ScanError,
    TableError,
    TemporaryError,
)
from cohortvol.models.card import choose_profile, load_card, restrict, segmentation_key
from cohortvol.models.label_table import read_labels, write_model
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import assemble, ingest, manifest, measure, segment
from cohortvol.stages.segment.elsewhere import LabelMaps
from cohortvol.stages.segment.receipts import Work
from cohortvol.store import label_maps
from cohortvol.store.files import sha256_of
from cohortvol.store.keys import read_map
from cohortvol.store.schemas import INGEST
from cohortvol.store.tables import read_table, write_table
from cohortvol.tools.doctor import model as of_model
from cohortvol.tools.status import explain
from cohortvol.tools.verify.folder import verify
from nnunet_fixture import results_folder
from segment_cohort import AFFINE, Shard, write_scan
from segment_cohort import scan as drawn_scan

SHAPE = (12, 11, 9)
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.3)) @ AFFINE
TABLE = (
    "label\tname\tstructure\n1\tliver\tliver\n2\tmilz\tspleen\n7\tunused\t\n9\tlast\tkidney_left\n"
)


def model_of(folder: Path, text: str = TABLE, name: str = "given") -> Path:
    """The model folder of a table of labels."""
    table = folder / f"{name}.tsv"
    table.write_text(text, encoding="utf-8")
    write_model(read_labels(str(table)), folder / name, model_id=name)
    return folder / name


def labels_of(seed: int = 1, labels: tuple[int, ...] = (0, 1, 2, 9)) -> np.ndarray:
    """A label map of random voxels."""
    return np.random.default_rng(seed).choice(labels, SHAPE).astype(np.uint8)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


class Scan:
    """A scan, and a label map of it that was made elsewhere."""

    def __init__(self, folder: Path, text: str = TABLE) -> None:
        self.folder = folder
        self.card = load_card(model_of(folder, text))
        self.image = write(folder / "scan.nii.gz", np.zeros(SHAPE, np.int16))

    def take(self, dseg: Path | str | None, roi: tuple[str, ...] = ()) -> np.ndarray:
        """The label map as segment takes it."""
        given = str(dseg or "")
        digest = label_maps.digest_of_files(given) if given else None
        work = Work("one", self.image, "", "given", "elsewhere", "", dseg=given, dseg_sha256=digest)
        reader = LabelMaps(restrict(self.card, roi))
        return reader.finish(reader.predict(reader.read(work)))

    def refused(self, dseg: Path | str | None) -> tuple[str, str]:
        """Reason and detail."""
        with pytest.raises(ScanError) as caught:
            self.take(dseg)
        return caught.value.reason, caught.value.detail

    def masks(self, voxels: np.ndarray, **inside: int) -> Path:
        """A folder with a file per structure; `inside` names other values than 1."""
        for label, name in self.card.elsewhere.items():
            mask = (voxels == label) * np.uint8(inside.get(name, 1))
            write(self.folder / "masks" / f"{name}.nii.gz", mask)
        return self.folder / "masks"


@pytest.fixture
def scan(tmp_path):
    return Scan(tmp_path)


# ---- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_a_label_map_is_taken_as_it_is_in_whatever_type_it_is_stored(scan, dtype):
    voxels = labels_of()
    taken = scan.take(write(scan.folder / "one.nii.gz", voxels.astype(dtype)))
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, voxels)


def test_a_file_per_structure_gives_the_same_as_one_of_all(scan):
    voxels = labels_of()
    folder = scan.masks(voxels, milz=255, last=9)
    np.testing.assert_array_equal(scan.take(folder), voxels)
    flat = [path.rename(scan.folder / f"7_{path.name}") for path in folder.iterdir()]
    np.testing.assert_array_equal(scan.take(scan.folder / "7_*.nii.gz"), voxels)
    for path in flat:
        name = path.name.removeprefix("7_").removesuffix(".nii.gz")
        (scan.folder / "by_name" / name).mkdir(parents=True)
        path.rename(scan.folder / "by_name" / name / "seven.nii.gz")
    np.testing.assert_array_equal(scan.take(scan.folder / "by_name" / "*" / "seven.nii.gz"), voxels)


def test_axes_stored_in_another_order_are_turned_to_those_of_the_scan(scan):
    voxels = labels_of()
    ras = nib.as_closest_canonical(nib.Nifti1Image(voxels, OBLIQUE))
    assert ras.shape != SHAPE
    nib.save(ras, scan.folder / "ras.nii.gz")
    np.testing.assert_array_equal(scan.take(scan.folder / "ras.nii.gz"), voxels)


def test_a_header_that_was_rounded_is_on_the_same_grid(scan):
    voxels = labels_of()
    rounded = write(scan.folder / "one.nii.gz", voxels, OBLIQUE.round(3))
    np.testing.assert_array_equal(scan.take(rounded), voxels)


def test_labels_that_are_no_result_become_background_and_others_may_be_put_together(tmp_path):
    rows = ("1\tupper\tlung_left", "2\tlower\tlung_left", "3\tx\t", "300\tliver\tliver")
    text = "\n".join(["label\tname\tstructure", *rows, ""])
    scan = Scan(tmp_path, text)
    voxels = labels_of(labels=(0, 1, 2, 3)).astype(np.uint16)
    voxels[0] = 300
    expected = np.select([voxels == 300, (voxels == 1) | (voxels == 2)], [300, 1])
    taken = scan.take(write(tmp_path / "one.nii", voxels))
    assert taken.dtype == np.uint16
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(scan.take(scan.masks(voxels)), expected)
    assert scan.card.labels == {1: "lung_left", 300: "liver"}


def test_an_empty_label_map_is_one_in_which_nothing_was_found(scan):
    empty = np.zeros(SHAPE, np.uint8)
    assert not scan.take(write(scan.folder / "one.nii.gz", empty)).any()
    assert not scan.take(scan.masks(empty)).any()


OVERLAPPING = "index\tname\tlayer\n1\tliver\t0\n2\tspleen\t0\n3\tskeletal_muscle\t1\n"


def test_structures_that_overlap_are_taken_in_layers(tmp_path):
    scan = Scan(tmp_path, OVERLAPPING)
    below = labels_of(1, (0, 1, 2))
    muscle = labels_of(2, (0, 3))
    layered = np.stack([below, muscle], axis=-1)
    np.testing.assert_array_equal(scan.take(write(tmp_path / "both.nii.gz", layered)), layered)
    for name, mask in (("liver", below == 1), ("spleen", below == 2), ("skeletal_muscle", muscle)):
        write(tmp_path / "masks" / f"{name}.nii", (mask > 0).astype(np.uint8))
    np.testing.assert_array_equal(scan.take(tmp_path / "masks"), layered)
    one = scan.take(write(tmp_path / "one.nii.gz", np.where(below, below, muscle)))
    np.testing.assert_array_equal(one, np.stack([below, np.where(below, 0, muscle)], axis=-1))
    upper = scan.take(tmp_path / "both.nii.gz", roi=("skeletal_muscle",))
    np.testing.assert_array_equal(upper, muscle)
    wrong = write(tmp_path / "wrong.nii.gz", np.stack([muscle, below], axis=-1))
    assert scan.refused(wrong) == ("DSEG_UNKNOWN_LABEL", "1, 2, 3")


def test_of_a_file_per_structure_only_those_wanted_need_be_there(scan):
    voxels = labels_of()
    folder = scan.masks(voxels)
    (folder / "milz.nii.gz").unlink()
    assert scan.refused(folder) == ("DSEG_MISSING", "no file of milz")
    np.testing.assert_array_equal(scan.take(folder, roi=("liver",)), voxels == 1)


# ---- what is refused -----------------------------------------------------------------------------


def shifted(mm: float) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), [mm, 0, 0]) @ OBLIQUE


@pytest.mark.parametrize(
    ("voxels", "affine", "reason", "said"),
    [
        (labels_of()[1:], OBLIQUE, "DSEG_GRID", "11 x 11 x 9 voxels"),
        (labels_of(), shifted(0.5), "DSEG_GRID", "up to 0.5 mm away"),
        (labels_of(), OBLIQUE * [1.02, 1, 1, 1], "DSEG_GRID", "2.040"),
        (labels_of(), AFFINE, "DSEG_GRID", "mm away"),
        (labels_of()[::-1], OBLIQUE @ np.diag([-1, 1, 1, 1]), "DSEG_GRID", "mm away"),
        (labels_of() + np.uint8(3), OBLIQUE, "DSEG_UNKNOWN_LABEL", "3, 4, 5, 12"),
        (labels_of() * np.float32(0.5), OBLIQUE, "DSEG_VALUES", "no whole numbers"),
        (labels_of() * np.float32(np.nan), OBLIQUE, "DSEG_VALUES", "no whole numbers"),
        (-labels_of().astype(np.int16), OBLIQUE, "DSEG_VALUES", "labels from -9 to 0"),
        (labels_of() * np.int32(10000), OBLIQUE, "DSEG_VALUES", "to 90000"),
        (labels_of() + 1j, OBLIQUE, "DSEG_VALUES", "complex"),
        (np.stack([labels_of()] * 2, -1), OBLIQUE, "DSEG_VALUES", "2 volumes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_label_map_of_the_scan_has_a_reason(scan, voxels, affine, reason, said):
    found, detail = scan.refused(write(scan.folder / "one.nii.gz", voxels, affine))
    assert found == reason
    assert said in detail


def test_a_header_without_axes_is_not_taken_for_that_of_the_scan(scan):
    image = nib.Nifti1Image(labels_of(), OBLIQUE)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, scan.folder / "one.nii.gz")
    assert scan.refused(scan.folder / "one.nii.gz")[0] == "DSEG_GRID"


def test_files_that_are_missing_or_damaged_have_a_reason(scan):
    assert scan.refused(None) == ("DSEG_MISSING", "the manifest names none")
    assert scan.refused(scan.folder / "nowhere.nii.gz") == ("DSEG_MISSING", "")
    (scan.folder / "empty").mkdir()
    assert scan.refused(scan.folder / "empty") == ("DSEG_MISSING", "")
    whole = write(scan.folder / "one.nii.gz", labels_of()).read_bytes()
    damaged = bytearray(whole)
    damaged[-6] ^= 1  # its checksum
    for content, reason in (
        (b"", "DSEG_EMPTY"),
        (b"not an image", "DSEG_UNREADABLE"),
        (whole[: len(whole) // 2], "DSEG_UNREADABLE"),
        (bytes(damaged), "DSEG_UNREADABLE"),
        (gzip.decompress(whole)[:-100], "DSEG_UNREADABLE"),
    ):
        (scan.folder / "one.nii.gz").write_bytes(content)
        assert scan.refused(scan.folder / "one.nii.gz")[0] == reason
    folder = scan.masks(labels_of())
    (folder / "liver.nii").write_bytes(b"")
    assert scan.refused(folder) == ("DSEG_UNREADABLE", "two files of liver")


def test_masks_that_overlap_or_hold_several_labels_have_a_reason(scan):
    folder = scan.masks(labels_of())
    write(folder / "milz.nii.gz", (labels_of() == 1).astype(np.uint8))
    n_voxels = int((labels_of() == 1).sum())
    assert scan.refused(folder) == ("DSEG_OVERLAP", f"{n_voxels} voxels of milz and liver")
    write(folder / "milz.nii.gz", labels_of())
    reason, detail = scan.refused(folder)
    assert (reason, detail) == (
        "DSEG_UNKNOWN_LABEL",
        "milz: values 1, 2, 9, where a mask has 0 and 1",
    )


def test_bytes_that_ingest_did_not_see_are_not_taken(scan):
    path = write(scan.folder / "one.nii.gz", labels_of())
    work = Work("one", scan.image, "", "given", "elsewhere", "", dseg=str(path), dseg_sha256="0")
    with pytest.raises(ScanError, match="DSEG_CHANGED"):
        LabelMaps(scan.card).read(work)


# ---- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_structures", "some"),
    [
        ("total_mr", 50, {5: "liver", 22: "heart"}),
        ("vibesegmentator", 71, {5: "liver", 68: "intervertebral_discs", 36: "inferior_vena_cava"}),
        ("mrsegmentator", 40, {}),
    ],
)
def test_the_labels_of_published_programs_are_known(tmp_path, capsys, name, n_structures, some):
    words = ["models", "label-table", name, "--id", "given", "--models-dir", str(tmp_path)]
    assert cli.run(words) == 0
    card = load_card(tmp_path / "given")
    assert len(card.labels) == n_structures
    assert some.items() <= card.labels.items()
    assert 20 in card.elsewhere
    assert (20 in card.labels) == (name != "vibesegmentator")
    shown = capsys.readouterr().out
    assert ("Known and left out: unused." in shown) == (name == "vibesegmentator")
    assert cli.run(["models", "verify", "given", "--models-dir", str(tmp_path)]) == 0
    assert cli.run(["models", "list", "--models-dir", str(tmp_path)]) == 0
    assert "no network: label maps" in capsys.readouterr().out
    assert cli.run(words) == 64, "the folder is there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label\tname\n", "no rows"),
        ("label\tcolour\n1\tred\n", "neither a column name"),
        ("label\tname\n1\tliver\n1\tspleen\n", "label 1 stands there twice"),
        ("label\tname\n1\tliver\n2\tliver\n", "name liver stands there twice"),
        ("label\tname\n-1\tliver\n", "line 2: '-1' is no whole number"),
        ("label\tname\n70000\tliver\n", "line 2: '70000' is no whole number"),
        ("label\tname\n0\tliver\n", "label 0 is background, not liver"),
        ("label\tname\n1\t\n", "line 2: it has no name"),
        ("label\tname\tlayer\n1\tliver\tx\n", "'x' is no whole number"),
        ("label\tname\tlayer\n1\tliver\t1\n", "in layers 1, not 0, 1"),
        ("label\tname\tstructure\n1\tliver\t\n", "no label of the table has a structure"),
        ("label\tname\tlayer\tstructure\n1\ta\t0\tliver\n2\tb\t1\tliver\n", "is in 2 layers"),
        ("label\tname\n1\ta/b\n", "it must be"),
    ],
)
def test_a_table_that_says_nothing_certain_is_refused(tmp_path, text, said):
    with pytest.raises((ConfigError, ModelError, TableError), match="given") as caught:
        model_of(tmp_path, text)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["given.tsv"], "nothing is left"


def test_a_vocabulary_that_is_misspelt_is_told():
    with pytest.raises(ConfigError, match="did you mean 'vibesegmentator'"):
        read_labels("vibesegmentater")


def test_rows_without_labels_are_counted_and_background_is_no_label(tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("name\nliver\nspleen\n")
    assert [(one.label, one.structure) for one in read_labels(str(table))] == [
        (1, "liver"),
        (2, "spleen"),
    ]
    table.write_text("index,name\n0,background\n4,liver\n")
    assert [one.label for one in read_labels(str(table))] == [4]


def test_the_key_follows_the_table_and_a_network_is_never_asked_for(tmp_path, capsys):
    card = load_card(model_of(tmp_path))
    renamed = load_card(model_of(tmp_path, TABLE.replace("milz", "rate"), "renamed"))
    assert segmentation_key(card) != segmentation_key(renamed)
    with pytest.raises(ModelError, match=r"hold no softmax.*\n.*segment.profile to elsewhere"):
        choose_profile(card, "elsewhere+softmax")
    assert of_model.canary(card, pytest.fail).verdict == "SKIP"
    with pytest.raises(ModelError, match="were made elsewhere, so there is no network"):
        segment.Segmenter.load(card.folder)
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    words = ["models", "calibrate", "given", "--labelled", str(labelled)]
    assert cli.run([*words, "--models-dir", str(tmp_path)]) == 64
    capsys.readouterr()


@pytest.mark.parametrize(
    "change",
    [
        {"profiles": ["elsewhere", "nnunet"]},
        {"profiles": ["nnunet"], "default_profile": "nnunet"},
        {"elsewhere": {}},
        {"elsewhere": {"1": "liver"}},
        {"elsewhere": {"1": "liver", "2": "liver", "9": "x"}},
        {"elsewhere": {"1": "../liver", "2": "b", "9": "x"}},
    ],
)
def test_a_card_that_is_half_a_network_is_refused(tmp_path, change):
    path = model_of(tmp_path) / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **change}))
    with pytest.raises(ModelError):
        load_card(path.parent)


# ---- a cohort ------------------------------------------------------------------------------------

STEP = 100
"""Grey values of a label; the network of these tests reads it off the scan."""


class ReadsLabels(threshold_cohort.ThresholdSegmenter):
    """The worker's network, which finds every label that the scan was drawn with."""

    @classmethod
    def load(cls, folder, profile=None, **_):
        return cls([])

    def finish(self, predicted):
        return (predicted.prepared.data // STEP).astype(np.uint8)


def network_model(folder: Path, labels: dict[int, str], n_labels: int) -> Path:
    """A model of networks with these labels, of which the dataset may have more."""
    threshold_cohort.write_model(folder)
    part = folder / "parts" / "threshold"
    names = {labels.get(index, f"other{index}"): index for index in range(1, n_labels + 1)}
    dataset = json.loads((part / "dataset.json").read_text())
    (part / "dataset.json").write_text(json.dumps({**dataset, "labels": {"background": 0} | names}))
    save_file({"none": np.zeros(1, np.float32)}, part / "fold_0.safetensors")
    card = json.loads((folder / "card.json").read_text())
    card["labels"] = card["parts"][0]["labels"] = labels
    for name in card["parts"][0]["files"]:
        card["parts"][0]["files"][name] = sha256_of(folder / name)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def drawn(seed: int, labels: list[int], results: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A label map in which most labels are, and a scan that shows those that are results."""
    random = np.random.default_rng(seed)
    shape = (14, 13, 8 + seed % 2)
    voxels = np.zeros(shape, np.uint8)
    for label in random.permutation(labels)[: -len(labels) // 10]:
        corner = [int(random.integers(0, n - 1)) for n in shape]
        box = tuple(slice(c, c + int(random.integers(1, 5))) for c in corner)
        voxels[box] = label
    shown = np.where(np.isin(voxels, results), voxels, 0)
    image = shown.astype(np.int16) * STEP + random.integers(1, STEP, shape).astype(np.int16)
    return voxels, image


def cohort(folder: Path, n: int, card_labels: dict[int, str], names: dict[int, str]) -> Path:
    """A manifest of `n` scans; every other label map is a folder with a file per structure."""
    rows = []
    affine = np.diag([-5.5, 5.5, 6, 1])
    for number in range(n):
        voxels, image = drawn(number, [*names], [*card_labels])
        scan_id, place = f"s{number:03d}", folder / "dseg" / f"s{number:03d}"
        write(folder / "images" / f"{scan_id}.nii", image, affine)
        if number % 2:
            for label, name in names.items():
                if label in card_labels:
                    write(place / f"{name}.nii", (voxels == label).astype(np.uint8), affine)
        else:
            write(place.with_suffix(".nii.gz"), voxels, affine)
        dseg = f"dseg/{scan_id}" if number % 2 else f"dseg/{scan_id}.nii.gz"
        rows.append({"scan_id": scan_id, "image": f"images/{scan_id}.nii", "dseg": dseg})
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"


Tables = tuple[pd.DataFrame, pd.DataFrame]


def through(scans: Path, results: Path, model: Path, **settings) -> Tables:
    """Volumes and scans of a cohort, by the stages themselves."""
    manifest.run(scans, results, shard_size=64, **settings)
    name = load_card(model).id
    for listed in sorted((results / "manifest/shards").glob("*.parquet")):
        places = {
            stage: results / place / listed.name
            for stage, place in (
                ("ingest", "ingest"),
                ("segment", f"segment/{name}"),
                ("measure", f"measure/{name}"),
            )
        }
        ingest.run(listed, places["ingest"], ingest.Rules(fov_range_mm=(40, 2500)))
        segment.run_shard(
            places["ingest"], model, places["segment"].with_suffix(""), places["segment"], workers=0
        )
        measure.run_shard(places["segment"], places["ingest"], model, results, places["measure"])
    assemble.run(results, name)
    return pd.read_parquet(results / "volumes.parquet"), pd.read_parquet(results / "scans.parquet")


MADE_BY = ["model", "profile", "segmentation_key", "label_map"]


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "n_labels"), [("total_mr", 50), ("vibesegmentator", 72)])
def test_the_tables_are_those_of_our_own_worker(tmp_path, vocabulary, n_labels):
    """100 label maps each: half of them a file, half of them a file per structure."""
    table = read_labels(vocabulary)
    given = write_model(table, tmp_path / "given", model_id="given")
    names = {one.label: one.name for one in table}
    assert [*names] == [*range(1, n_labels + 1)]
    own = network_model(tmp_path / "own", dict(given.labels), n_labels)
    scans = cohort(tmp_path, 100, dict(given.labels), names)
    with mock.patch("cohortvol.stages.segment.infer.Segmenter", ReadsLabels):
        volumes, states = through(scans, tmp_path / "results_own", own)
    volumes_given, states_given = through(scans, tmp_path / "results_given", given.folder)
    assert set(states["state"]) == {"done"}
    assert volumes["volume_ml"].notna().sum() > 100 * n_labels / 2
    pd.testing.assert_frame_equal(
        volumes.drop(columns=["model", "profile"]), volumes_given.drop(columns=["model", "profile"])
    )
    pd.testing.assert_frame_equal(states.drop(columns=MADE_BY), states_given.drop(columns=MADE_BY))
    assert set(states_given["profile"]) == {"elsewhere"}


@pytest.fixture
def small(tmp_path):
    """Four scans with three labels, and the model of their label maps."""
    labels = {1: "liver", 2: "milz", 9: "last"}
    scans = cohort(tmp_path, 4, {1: "liver", 2: "spleen", 9: "kidney_left"}, labels)
    return scans, model_of(tmp_path), tmp_path / "results"


def receipts(results: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in results.glob("segment/given/*/s*.json")}


def states_of(results: Path) -> dict[str, tuple[str, str | None]]:
    table = pd.read_parquet(results / "scans.parquet")
    reasons = table["reason"].astype(object).where(table["reason"].notna(), None)
    return dict(zip(table["scan_id"], zip(table["state"], reasons, strict=True), strict=True))


def test_a_label_map_that_changes_or_comes_is_taken_again_and_no_other(small):
    scans, model, results = small
    late = scans.parent / "dseg" / "s002.nii.gz"
    content = late.read_bytes()
    late.unlink()
    write(scans.parent / "dseg" / "s001" / "milz.nii", np.zeros(SHAPE, np.uint8))
    through(scans, results, model)
    assert states_of(results) == {
        "s000": ("done", None),
        "s001": ("quarantined", "DSEG_GRID"),
        "s002": ("quarantined", "DSEG_MISSING"),
        "s003": ("done", None),
    }
    before = receipts(results)
    assert manifest.changed_images(results) == 0
    through(scans, results, model)
    assert receipts(results) == before
    late.write_bytes(content)
    changed = scans.parent / "dseg" / "s003" / "last.nii"
    image = nib.load(changed)
    write(changed, np.zeros(image.shape, np.uint8), image.affine)
    assert manifest.changed_images(results) == 2
    through(scans, results, model)
    after = receipts(results)
    assert {name for name in before if before[name] != after[name]} == {"s002", "s003"}
    assert states_of(results)["s002"] == ("done", None)
    volumes = pd.read_parquet(results / "volumes.parquet").set_index(["scan_id", "structure"])
    gone = volumes.loc[("s003", "kidney_left")]
    assert (gone["status"], gone["reason"]) == ("absent", "QC_ABSENT")
    assert pd.isna(gone["volume_ml"])
    softmax = ["volume_expected_ml", "volume_low_ml", "volume_high_ml", "interval"]
    assert volumes[softmax].isna().all(axis=None), "no network said how sure it was"
    assert wrong(results) == []


def wrong(results: Path) -> list[str]:
    """Files that `verify` complains of, before anything was analysed."""
    problems = verify(results, deep=True)["problems"]
    return [one.path for one in problems if not one.path.startswith(("analyse", "report"))]


def test_a_shard_that_was_stopped_goes_on_where_it_was(small):
    scans, model, results = small
    read = LabelMaps.read
    with mock.patch.object(LabelMaps, "read", autospec=True) as stopped:
        stopped.side_effect = lambda self, work: (
            read(self, work) if work.scan_id < "s002" else full_disk()
        )
        with pytest.raises(TemporaryError):
            through(scans, results, model)
    done = receipts(results)
    assert sorted(done) == ["s000", "s001"]
    through(scans, results, model)
    assert done.items() <= receipts(results).items()
    assert {state for state, _ in states_of(results).values()} == {"done"}


def full_disk():
    raise TemporaryError("the disk is full")


def test_with_hashed_ids_no_path_is_shown_and_a_pattern_is_refused(small):
    scans, model, results = small
    through(scans, results, model, hash_ids=True)
    assert {state for state, _ in states_of(results).values()} == {"done"}
    key = {text: key for key, text in read_map(results).items() if key[0] == "s"}
    links = results / "private" / "label_maps"
    assert (links / f"{key['s000']}.nii.gz").resolve() == scans.parent / "dseg" / "s000.nii.gz"
    assert (links / key["s001"]).resolve() == scans.parent / "dseg" / "s001"
    shown = b"".join(path.read_bytes() for path in results.rglob("*.parquet"))
    assert b"s001" not in shown
    (links / key["s001"]).unlink()
    assert wrong(results) == [f"private/label_maps/{key['s001']}"]
    withdrawn = scans.parent / "withdrawn.txt"
    withdrawn.write_text("s000\n")
    manifest.run(scans, results, shard_size=64, hash_ids=True, withdrawals=withdrawn)
    assert not any(key["s000"] in str(path) for path in results.rglob("*"))
    rows = scans.read_text().replace("dseg/s000.nii.gz", "dseg/s000_*.nii.gz")
    scans.write_text(rows)
    found = manifest.read_manifest(scans, bad_rows="quarantine")
    assert found["reason"].isna().all()
    manifest.run(scans, results, shard_size=64, hash_ids=True, bad_rows="quarantine")
    found = pd.read_parquet(results / "manifest" / "scans.parquet")
    assert found["reason"].fillna("").tolist() == ["DSEG_PATTERN", "", "", ""]


def test_who_withdrew_leaves_no_path_of_a_label_map(small):
    scans, model, results = small
    (scans.parent / "dseg" / "s001").rename(scans.parent / "dseg" / "of-her")
    scans.write_text(scans.read_text().replace("dseg/s001", "dseg/of-her"))
    through(scans, results, model)
    (results / "logs").mkdir()
    log = results / "logs" / "other.log"
    log.write_text("one line\nread dseg/of-her, it was slow\n")
    withdrawn = scans.parent / "withdrawn.txt"
    withdrawn.write_text("s001\n")
    manifest.run(scans, results, shard_size=64, withdrawals=withdrawn)
    files = [path for path in results.rglob("*") if path.is_file()]
    for word in ("s001", "of-her"):
        assert not any(word in path.name or word.encode() in path.read_bytes() for path in files)
    assert log.read_text() == "one line\n"


def test_label_maps_lie_only_where_images_may(small):
    scans, _, results = small
    manifest.run(scans, results, shard_size=64)
    listed, out = results / "manifest/shards/0000.parquet", results / "ingest/0000.parquet"
    ingest.run(listed, out, ingest.Rules(allow_roots=(str(scans.parent / "images"),)))
    table = read_table(out, INGEST)
    assert set(table["reason"]) == {"SRC_OUTSIDE_ROOT"}
    assert set(table["detail"]) == {"its label map"}
    ingest.run(listed, out, ingest.Rules(allow_roots=(str(scans.parent),)))
    assert set(read_table(out, INGEST)["state"]) == {"ready"}


def test_two_stars_are_a_bad_row(small):
    scans, _, results = small
    scans.write_text(scans.read_text().replace("dseg/s001", "dseg/*/s001*.nii"))
    with pytest.raises(ManifestError, match=r"DSEG_PATTERN +one \* at most"):
        manifest.run(scans, results, shard_size=64)


def test_check_reads_the_label_maps_too(small, tmp_path, capsys):
    scans, model, results = small
    (scans.parent / "dseg" / "s001" / "milz.nii").unlink()
    settings = scans.parent / "settings.yaml"
    settings.write_text(f"results: {results}\n")
    words = ["check", str(scans), "--config", str(settings), "--model", str(model)]
    assert cli.run(words) == 3
    shown = capsys.readouterr().out
    assert "3 can be used" in shown
    assert "DSEG_MISSING" in shown
    assert "No network is run, and no GPU needed" in shown
    pd.read_csv(scans).drop(columns="dseg").to_csv(scans, index=False)
    assert cli.run(words) == 64
    assert "no row has a path in the column dseg" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, nnunetv2=None)
from cohortvol.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_no_torch_is_needed_and_ends_are_told(small):
    scans, model, results = small
    (scans.parent / "dseg" / "s000.nii.gz").write_bytes(b"")
    manifest.run(scans, results, shard_size=64)
    out = results / "segment/given/0000.parquet"
    ingested = results / "ingest/0000.parquet"
    ingest.run(results / "manifest/shards/0000.parquet", ingested)
    words = ["segment", "--ingest", ingested, "--model", model, "--folder", out.with_suffix("")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, words), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "s000: quarantined DSEG_EMPTY" in done.stderr
    receipt = json.loads((out.with_suffix("") / "s001.json").read_text())
    assert {"cohortvol", "python", "numpy", "nibabel"} == set(receipt["versions"])
    measure.run_shard(out, ingested, model, results, results / "measure/given/0000.parquet")
    told = explain(results, "s000")
    assert told["state"] == "quarantined"
    assert [one["reason"] for one in told["reasons"]] == ["DSEG_EMPTY"]


NAMES = ({}, {"liver": "aorta", "spleen": "face", "kidney_left": "heart"})
"""By layer, what the labels of the tiny network are called."""


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_label_maps_of_our_own_worker_come_back_as_they_were(tmp_path, layers):
    """Its label map and `dseg.tsv` are a label map made elsewhere and its table."""
    trained = results_folder(tmp_path / "trained")
    sources = [Source(trained, f"part{n}", layer=n, rename=NAMES[n]) for n in range(layers)]
    own = tmp_path / "models" / "tiny"
    import_nnunet(sources, own, model_id="tiny", licence="CC0-1.0")
    images = {}
    for seed in range(3):
        images[f"sub-{seed}"] = tmp_path / "images" / f"sub-{seed}.nii.gz"
        write_scan(images[f"sub-{seed}"], drawn_scan(seed), AFFINE)
    shard = Shard(tmp_path / "results", own, images)
    segment.run_shard(**shard.arguments(), threads=1, device="cpu", workers=0)
    table = shard.folder / "dseg.tsv"
    model = write_model(read_labels(str(table)), tmp_path / "models/given", model_id="given").folder
    assert load_card(model).labels_by_layer == load_card(own).labels_by_layer
    ingested = read_table(shard.ingest, INGEST)
    ingested["dseg"] = [str(shard.folder / f"{name}_dseg.nii.gz") for name in ingested["scan_id"]]
    ingested["dseg_sha256"] = [sha256_of(Path(path)) for path in ingested["dseg"]]
    write_table(shard.ingest, ingested, INGEST)
    out = tmp_path / "results/segment/given/0000.parquet"
    segment.run_shard(shard.ingest, model, out.with_suffix(""), out, workers=0)
    assert {path.name: path.read_bytes() for path in out.with_suffix("").glob("*.gz")} == (
        shard.label_maps()
    )
    tables = []
    for segmented, folder in ((shard.out, own), (out, model)):
        measured = tmp_path / "measured.parquet"
        measure.run_shard(segmented, shard.ingest, folder, tmp_path / "results", measured)
        tables.append(pd.read_parquet(measured).drop(columns=["model", "profile"]))
    assert tables[0]["volume_ml"].notna().any()
    pd.testing.assert_frame_equal(*tables)
