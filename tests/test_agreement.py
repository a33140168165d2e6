"""Two models on the same scans: overlap and volumes of what both know, and what it flags."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.anatomy.overlap import dice_by_structure
from cohortvol.cli import run as command_line
from cohortvol.errors import ConfigError, TableError
from cohortvol.models.catalogue import label_map
from cohortvol.stages import assemble
from cohortvol.store import schemas, tables
from cohortvol.store.files import sha256_of
from cohortvol.tools import agreement
from results_folder import ResultsFolder, ingest_row, segment_row, volume_row

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])  # a voxel is 0.006 mL


def boxes(**starts):
    """Label map with a box of 4 x 4 x 4 voxels for each label, at this first index on axis 0."""
    labels = np.zeros((20, 10, 10), np.uint8)
    for label, start in starts.items():
        labels[start : start + 4, 2:6, 2:6] = int(label[1:])
    return labels


class Cohort:
    """Scans sub-01 and sub-03 of shard 0000 segmented by one or several models."""

    def __init__(self, folder):
        self.results = ResultsFolder(folder)
        rows = self.results.manifest["scan_id"].isin(["sub-01", "sub-03"])
        self.results.manifest = self.results.manifest[rows]
        self.results.ingest = {"0000": [ingest_row("sub-01"), ingest_row("sub-03")]}
        self.results.segment, self.results.measure = {}, {}
        self.results.write()
        shards = pd.DataFrame({"scan_id": ["sub-01", "sub-03"], "shard": "0000"})
        tables.write_table(folder / "manifest/shards.parquet", shards, schemas.SHARDS)
        self.folder = folder

    def segmented(self, model, structures, maps, **values):
        segment, measure = [], []
        for scan_id, labels in maps.items():
            row = segment_row(scan_id, "0000", model=model, **values)
            row["label_map"] = f"segment/{model}/0000/{scan_id}_dseg.nii.gz"
            path = self.folder / row["label_map"]
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(labels, AFFINE), path)
            segment.append(row | {"label_map_sha256": sha256_of(path)})
            for label, structure in structures.items():
                n_voxels = int((labels == label).sum())
                found = volume_row(scan_id, structure, 0.006 * n_voxels, label=label, model=model)
                absent = {"volume_ml": None, "n_voxels": None, "status": "absent"}
                absent |= {"qc": "exclude", "reason": "QC_ABSENT", "qc_flags": "QC_ABSENT"}
                measure.append(found if n_voxels else found | absent)
        for stage, rows, schema in (
            ("segment", segment, schemas.SEGMENT), ("measure", measure, schemas.VOLUMES),
        ):  # fmt: skip
            frame = tables.append_rows(rows, schema)
            tables.write_table(self.folder / stage / model / "0000.parquet", frame, schema)
        return self


ONE = {1: "liver", 2: "spleen", 3: "spine"}
OTHER = {5: "spleen", 1: "liver", 9: "vertebrae"}


@pytest.fixture
def cohort(tmp_path):
    """Model `toy` and model `other`; in sub-03 they disagree on the spleen."""
    made = Cohort(tmp_path / "results")
    made.segmented("toy", ONE, {"sub-01": boxes(_1=0, _2=10), "sub-03": boxes(_1=0, _2=10)})
    return made.segmented(
        "other", OTHER, {"sub-01": boxes(_1=0, _5=11), "sub-03": boxes(_1=1, _5=13)}
    )


def compared(cohort, **options):
    return agreement.run(cohort.folder, "toy", "other", **options).set_index(
        ["scan_id", "structure"]
    )


def test_dice_is_that_of_the_boxes_worked_out_by_hand(cohort):
    found = compared(cohort)
    assert found["dice"].to_dict() == {
        ("sub-01", "liver"): 1.0,
        ("sub-01", "spleen"): 0.75,  # 3 of 4 layers shared
        ("sub-03", "liver"): 0.75,
        ("sub-03", "spleen"): 0.25,
    }
    assert found["reason"].isna().all()
    assert set(found["other_profile"]) == {"nnunet"}


def test_volumes_differ_in_percent_of_their_mean(cohort):
    labels = boxes(_1=0)
    labels[4:8, 2:6, 2:4] = 1  # 96 voxels beside 64
    cohort.segmented("other", OTHER, {"sub-01": labels})
    row = compared(cohort).loc["sub-01", "liver"]
    assert (row["volume_ml"], row["other_volume_ml"]) == pytest.approx((0.384, 0.576))
    assert row["volume_difference_pct"] == pytest.approx(40.0)


def test_what_two_models_mean_differently_is_not_compared(cohort):
    assert set(compared(cohort).index.get_level_values("structure")) == {"liver", "spleen"}


def test_mrsegmentator_and_total_mr_share_names_only_where_they_mean_the_same():
    names = [
        {structure for _, structure in label_map(weights).values()}
        for weights in ("mrsegmentator", "850", "851")
    ]
    shared = names[0] & (names[1] | names[2])
    assert {"liver", "heart", "esophagus", "hip_left"} <= shared
    assert "spine" in names[0]
    assert not {"spine", "vertebrae"} & shared


def test_a_structure_that_one_found_and_the_other_did_not_has_no_overlap(cohort):
    cohort.segmented("other", OTHER, {"sub-01": boxes(_1=0)})
    row = compared(cohort).loc["sub-01", "spleen"]
    assert row["dice"] == 0.0
    assert pd.isna(row["volume_difference_pct"])
    assert pd.isna(row["other_volume_ml"])


def test_a_structure_that_neither_found_has_no_dice(cohort):
    for model, structures in (("toy", ONE), ("other", OTHER)):
        cohort.segmented(model, structures, {"sub-01": boxes(_1=0)})
    assert pd.isna(compared(cohort).loc[("sub-01", "spleen"), "dice"])


def test_a_scan_the_other_model_did_not_do_is_a_row_with_its_reason(cohort):
    cohort.segmented("other", OTHER, {"sub-03": boxes(_1=0)})
    rows = compared(cohort).reset_index()
    alone = rows[rows["scan_id"] == "sub-01"]
    assert alone["reason"].tolist() == ["QC_NOT_COMPARED"]
    assert alone["dice"].isna().all()


def test_label_maps_of_other_bytes_of_the_image_are_not_compared(cohort):
    cohort.segmented("other", OTHER, {"sub-01": boxes(_1=0)}, image_sha256="later bytes")
    assert set(compared(cohort)["reason"]) == {"QC_NOT_COMPARED"}


def test_a_label_map_that_changed_is_not_compared(cohort):
    path = cohort.folder / "segment/other/0000/sub-01_dseg.nii.gz"
    nib.save(nib.Nifti1Image(boxes(_1=5), AFFINE), path)
    rows = compared(cohort).reset_index()
    assert rows.loc[rows["reason"].notna(), "scan_id"].tolist() == ["sub-01"]


def test_label_maps_on_different_grids_are_not_compared(cohort):
    cohort.segmented("other", OTHER, {"sub-01": boxes(_1=0)[:-1]})
    assert set(compared(cohort)["reason"]) == {"QC_NOT_COMPARED"}


def test_two_profiles_of_one_model_are_compared_from_two_folders(cohort, tmp_path):
    second = Cohort(tmp_path / "second")
    second.segmented("toy", ONE, {"sub-01": boxes(_1=2, _2=10)}, profile="fast")
    found = agreement.run(cohort.folder, "toy", "toy", second.folder).set_index("structure")
    assert found.loc["liver", "dice"] == 0.5
    assert found.loc["liver", ["profile", "other_profile"]].tolist() == ["nnunet", "fast"]


def test_a_model_is_not_compared_with_itself(cohort):
    with pytest.raises(ConfigError, match="--other-results"):
        agreement.run(cohort.folder, "toy", "toy")


def test_a_model_that_was_not_run_is_answered_with_those_that_were(cohort):
    with pytest.raises(ConfigError, match="did you mean 'other'"):
        agreement.run(cohort.folder, "toy", "othre")


# --- in the cohort's tables ------------------------------------------------------------------


def assembled(cohort, **options):
    assemble.run(cohort.folder, "toy", settings=assemble.Settings(**options))
    volumes = tables.read_table(cohort.folder / "volumes.parquet", schemas.VOLUMES)
    scans = tables.read_table(cohort.folder / "scans.parquet", schemas.SCANS)
    return volumes.set_index(["scan_id", "structure"]), scans.set_index("scan_id")


def test_a_structure_that_two_models_place_differently_is_flagged_with_its_scan(cohort):
    compared(cohort)
    volumes, scans = assembled(cohort, min_dice=0.7)
    assert volumes["qc_flags"].str.contains("QC_DISAGREE").to_dict() == {
        ("sub-01", "liver"): False, ("sub-01", "spleen"): False, ("sub-01", "spine"): False,
        ("sub-03", "liver"): False, ("sub-03", "spleen"): True, ("sub-03", "spine"): False,
    }  # fmt: skip
    assert volumes.loc[("sub-03", "spleen"), "qc"] == "flag"
    assert scans["qc"].to_dict() == {"sub-01": "pass", "sub-03": "flag"}
    table = tables.read_table(cohort.folder / "agreement.parquet", schemas.AGREEMENT)
    assert len(table) == 4


def test_the_least_overlap_is_a_setting(cohort):
    compared(cohort)
    volumes, _ = assembled(cohort, min_dice=0.8)
    assert volumes["qc_flags"].str.contains("QC_DISAGREE").sum() == 3


def test_review_judges_by_the_settings_of_the_run(cohort, tmp_path):
    compared(cohort)
    assembled(cohort, min_dice=0.7)
    todo = tmp_path / "todo.csv"
    words = ["review", "--todo", "--results", str(cohort.folder), "--out", str(todo)]
    assert command_line([*words, "--model", "toy", "--sample", "0"]) == 0
    assert [line.split(",")[:2] for line in todo.read_text().splitlines()[1:]] == [
        ["sub-03", "spleen"]
    ]


def test_what_could_not_be_compared_is_noted_and_asks_for_nobody(cohort):
    cohort.segmented("other", OTHER, {"sub-03": boxes(_1=0, _5=10)})
    compared(cohort)
    volumes, scans = assembled(cohort, min_dice=0.7)
    assert scans["qc"].to_dict() == {"sub-01": "pass", "sub-03": "pass"}
    assert "QC_NOT_COMPARED" in scans.loc["sub-01", "qc_flags"]
    assert volumes.loc[("sub-01", "liver"), "qc"] == "pass"


def test_without_the_setting_nothing_is_compared_and_no_old_table_stays(cohort):
    compared(cohort)
    assembled(cohort, min_dice=0.7)
    volumes, _ = assembled(cohort)
    assert not volumes["qc_flags"].fillna("").str.contains("QC_DISAGREE").any()
    assert not (cohort.folder / "agreement.parquet").exists()


def test_a_shard_that_was_not_compared_is_named(cohort):
    with pytest.raises(TableError, match=r"agreement/toy/0000\.parquet: no such table"):
        assembled(cohort, min_dice=0.7)


def test_the_command_prints_a_line_per_structure(cohort, capsys):
    words = ["agreement", "--results", str(cohort.folder), "--model", "toy", "--other-model"]
    assert command_line([*words, "other"]) == 0
    printed = capsys.readouterr().out
    assert "liver" in printed
    assert "spleen" in printed
    assert command_line([*words, "nobody"]) == 64


# --- the coefficient -------------------------------------------------------------------------


def test_dice_looks_into_every_layer():
    flat = boxes(_1=0, _2=10)
    first = np.stack([np.where(flat == 1, 1, 0), np.where(flat == 2, 2, 0)], axis=-1)
    labels = {"liver": 1, "spleen": 2}
    assert dice_by_structure(first, labels, flat, labels) == {"liver": 1.0, "spleen": 1.0}
    assert dice_by_structure(flat, labels, first, labels) == {"liver": 1.0, "spleen": 1.0}


def test_dice_agrees_with_masks_on_random_label_maps():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, (2, 9, 8, 7))
    ours, theirs = {"a": 1, "b": 3, "c": 5}, {"b": 2, "a": 4}
    found = dice_by_structure(first, ours, second, theirs)
    for name in ("a", "b"):
        masks = first == ours[name], second == theirs[name]
        expected = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        assert found[name] == pytest.approx(expected)
    assert list(found) == ["a", "b"]
