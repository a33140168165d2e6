"""QC of one scan: what is judged by data, what shows no abdomen, what is one piece, sums."""

import numpy as np
import pandas as pd
import pytest

from cohortvol.anatomy import structures
from cohortvol.errors import ConfigError
from cohortvol.stages import measure
from cohortvol.stages.measure.volumes import MEASURED, typed

VOLUMES_ML = {"liver": 1500.0, "spleen": 200.0, "kidney_left": 160.0, "kidney_right": 150.0}
X_MM = {"liver": 60.0, "spleen": -80.0, "kidney_left": -50.0, "kidney_right": 50.0}


def scan(volumes_ml=VOLUMES_ML, **changes):
    """Measured rows of an ordinary abdomen; `changes` are columns of one structure, by name."""
    rows = []
    for label, (structure, volume_ml) in enumerate(volumes_ml.items(), start=1):
        row = {"structure": structure, "label": label}
        if volume_ml is not None:
            row |= {
                "n_voxels": round(volume_ml * 100),
                "volume_ml": volume_ml,
                "cut_by_fov": False,
                "cut_faces": "",
                "cut_area_mm2": 0.0,
                "n_components": 1,
                "largest_component_fraction": 1.0,
                "centroid_ras_mm": [X_MM.get(structure, 0.0), 0.0, 0.0],
            }
        rows.append(row | changes.get(structure, {}))
    return typed(pd.DataFrame(rows, columns=list(MEASURED)))


def judged(volumes_ml=VOLUMES_ML, thresholds=None, **changes):
    rows = measure.judge(scan(volumes_ml, **changes), **(thresholds or {}))
    return rows.set_index("structure")


def flags(rows):
    return {name: set(codes.split(";")) - {""} for name, codes in rows["qc_flags"].items()}


def test_an_ordinary_abdomen_passes():
    assert (judged()["qc"] == "pass").all()


# --- what every scan shows -------------------------------------------------------------------


def test_an_organ_that_every_abdomen_shows_is_missed_and_another_only_absent():
    rows = judged(VOLUMES_ML | {"spleen": None, "gallbladder": None})
    assert flags(rows)["spleen"] == {"QC_ABSENT", "QC_MISSING_ORGAN"}
    assert flags(rows)["gallbladder"] == {"QC_ABSENT"}
    assert rows.loc[["spleen", "gallbladder"], "reason"].tolist() == ["QC_ABSENT"] * 2
    assert rows.loc["liver", "qc"] == "pass"


def test_what_every_scan_shows_is_for_the_user_to_say():
    rows = judged(VOLUMES_ML | {"spleen": None}, {"expected": ["gallbladder", "liver"]})
    assert flags(rows)["spleen"] == {"QC_ABSENT"}


@pytest.mark.parametrize(
    ("volumes_ml", "is_abdomen"),
    [
        ({"liver": None, "spleen": None, "kidney_left": None, "kidney_right": None}, False),
        ({"liver": 20.0, "spleen": 5.0, "kidney_left": None, "kidney_right": 60.0}, False),
        ({"liver": 9000.0, "spleen": 5.0, "kidney_left": None, "kidney_right": 60.0}, False),
        ({"liver": 1500.0, "spleen": None, "kidney_left": None, "kidney_right": 60.0}, True),
        ({"kidney_left": None, "kidney_right": 60.0}, True),
        ({"kidney_left": None, "kidney_right": None}, False),
        ({"liver": None}, True),  # one organ is no evidence
        ({"pancreas": None, "stomach": None}, True),
    ],
)
def test_a_scan_without_the_organs_of_an_abdomen_shows_something_else(volumes_ml, is_abdomen):
    rows = judged(volumes_ml)
    elsewhere = rows["qc_flags"].str.contains("QC_WRONG_BODY_PART")
    assert elsewhere.tolist() == [not is_abdomen] * len(rows)
    if not is_abdomen:
        assert (rows["qc"] == "exclude").all()
        assert not rows["qc_flags"].str.contains("QC_MISSING_ORGAN").any()


def test_a_cut_organ_is_evidence_of_an_abdomen_from_its_least_plausible_volume_on():
    cut = {"cut_by_fov": True, "cut_faces": "S", "cut_area_mm2": 90.0}
    only = {"liver": 400.0, "spleen": 40.0, "kidney_left": None, "kidney_right": None}
    assert not flags(judged(only, liver=cut, spleen=cut))["liver"] & {"QC_WRONG_BODY_PART"}
    small = only | {"spleen": 20.0}
    assert "QC_WRONG_BODY_PART" in flags(judged(small, liver=cut, spleen=cut))["liver"]


def test_where_nothing_is_expected_every_body_part_is_right():
    nothing = dict.fromkeys(VOLUMES_ML)
    rows = judged(nothing, {"expected": []})
    assert set(rows["qc_flags"]) == {"QC_ABSENT"}


# --- pieces ----------------------------------------------------------------------------------


def test_only_what_is_one_piece_in_every_body_can_fall_into_pieces():
    in_pieces = {"largest_component_fraction": 0.4, "n_components": 9}
    names = ("liver", "vertebrae", "small_bowel", "tibia", "subcutaneous_fat", "spindle")
    volumes_ml = VOLUMES_ML | dict.fromkeys(names, 400.0)
    rows = judged(volumes_ml, **dict.fromkeys(names, in_pieces))
    in_doubt = {name for name, codes in flags(rows).items() if "QC_FRAGMENTED" in codes}
    assert in_doubt == {"liver"}


def test_a_label_of_both_sides_is_never_said_to_be_one_piece():
    known = structures.load().values()
    assert not [s.name for s in known if s.laterality == "both" and s.one_piece]
    assert all(s.one_piece for s in known if s.laterality in ("left", "right"))


# --- sums ------------------------------------------------------------------------------------

SEGMENTS_ML = {f"liver_segment_{number}": 100.0 for number in range(1, 9)}


@pytest.mark.parametrize(
    ("liver_ml", "segments_ml", "holds"),
    [
        (800.0, {}, True),
        (784.5, {}, True),
        (784.0, {}, False),  # 2 % of 784 are 15.7
        (816.4, {}, False),
        (700.0, {"liver_segment_1": None}, True),
        (800.0, {"liver_segment_1": None}, False),
        (800.0, dict.fromkeys(SEGMENTS_ML), False),
        (None, {}, True),
    ],
)
def test_segments_of_a_liver_must_be_as_much_as_the_liver(liver_ml, segments_ml, holds):
    rows = judged({"liver": liver_ml, "stomach": 200.0} | SEGMENTS_ML | segments_ml)
    there = set(rows.index[rows["volume_ml"].notna()]) - {"stomach"}
    doubted = set() if holds else there
    assert {name for name, codes in flags(rows).items() if "QC_SUM" in codes} == doubted
    assert set(rows.loc[sorted(there), "qc"]) == {"pass" if holds else "flag"}


def test_a_model_that_knows_a_few_segments_has_no_sum():
    few = {"liver": 800.0, "liver_segment_1": 20.0, "liver_segment_4": 100.0}
    assert not set(judged(few)["qc_flags"]) - {""}


# --- plausible volumes of the user's own -----------------------------------------------------


def table(tmp_path, *rows, header="structure\tmin_ml\tmax_ml\tsource"):
    path = tmp_path / "own.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_of_an_own_table_replace_ours_and_leave_the_others(tmp_path):
    own = table(tmp_path, "liver\t1000\t2000\tmine", "tumour\t0\t50\tmine", "stomach\t\t\tempty")
    ranges = structures.plausible_ml_with(own)
    assert (ranges["liver"], ranges["tumour"]) == ((1000.0, 2000.0), (0.0, 50.0))
    assert ranges["spleen"] == structures.plausible_ml()["spleen"]
    assert "stomach" not in ranges
    assert structures.plausible_ml()["liver"] != (1000.0, 2000.0)


def test_an_own_table_names_every_line_that_cannot_be_used(tmp_path):
    own = table(tmp_path, "liver\t2000\t1000\tmine", "spleen\t1\tmany\tmine", "pancreas\t1\t2\t")
    with pytest.raises(ConfigError) as caught:
        structures.plausible_ml_with(own)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "line 2, liver", "line 3, spleen", "line 4, pancreas"
    ]  # fmt: skip


@pytest.mark.parametrize("header", ["structure\tleast\tsource", "structure\tmin_ml\tmax_ml"])
def test_an_own_table_without_its_columns_says_which_there_must_be(tmp_path, header):
    with pytest.raises(ConfigError, match=r"columns missing: .*(max_ml|source)"):
        structures.plausible_ml_with(table(tmp_path, "liver\t1\t2", header=header))


def test_every_structure_with_a_published_mean_has_a_range(shared_data):
    """A mean of the structure itself: of a part, an index or a trend no range follows."""
    path = shared_data.parent / "reference" / "reference_volumes.csv"
    if not path.exists():
        pytest.skip("no table of published volumes here")
    published = pd.read_csv(path).dropna(subset=["mean_ml"])["structure"].unique()
    known = [name for name in published if name in structures.load()]
    assert len(known) > 5
    assert set(known) <= set(structures.plausible_ml())


# --- sums ------------------------------------------------------------------------------------


def sum_of_kidneys(volumes_ml=VOLUMES_ML, **changes):
    rows = measure.judge(scan(volumes_ml, **changes))
    return measure.pair_sums(rows).set_index("structure").loc["kidneys"]


def test_a_sum_is_null_where_qc_excludes_a_side_and_says_why():
    kidneys = sum_of_kidneys(VOLUMES_ML | {"kidney_left": 5.0})
    assert pd.isna(kidneys["volume_ml"])
    assert pd.isna(kidneys["n_voxels"])
    assert kidneys[["status", "reason", "qc"]].tolist() == ["absent", "QC_OUTLIER", "exclude"]
    assert kidneys["qc_flags"] == "QC_OUTLIER"


def test_a_sum_with_an_absent_side_is_absent():
    kidneys = sum_of_kidneys(VOLUMES_ML | {"kidney_left": None})
    assert pd.isna(kidneys["volume_ml"])
    assert kidneys[["status", "reason", "qc"]].tolist() == ["absent", "QC_ABSENT", "exclude"]


def test_a_sum_with_a_cut_side_is_a_lower_bound():
    cut = {"cut_by_fov": True, "cut_faces": "I", "cut_area_mm2": 90.0}
    kidneys = sum_of_kidneys(kidney_left=cut)
    assert kidneys["volume_ml"] == 310.0
    assert kidneys[["status", "qc"]].tolist() == ["cut", "flag"]
    assert kidneys["cut_faces"] == "I"


# --- the edge of what was imaged -------------------------------------------------------------


def padded(axis=2, at_end=2, tapering=False):
    """Image and label map in which the liver reaches the last slice that is not padding."""
    rng = np.random.default_rng(1)
    image = rng.integers(1, 900, (12, 14, 10)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[4:8, 4:8, 3:8] = 1
    image[..., 8:] = 0
    if tapering:  # as a body in a background of zeros
        image[..., 7] = 0
        image[5:7, 5:7, 7] = 100
    moved = [np.moveaxis(x, 2, axis) for x in (image, labels)]
    return moved if at_end == 2 else [np.flip(x, axis) for x in moved]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at_end", [0, 2])
def test_what_reaches_the_last_filled_slice_is_cut_there(axis, at_end):
    image, labels = padded(axis, at_end)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    row = measure.structure_volumes(labels, affine, {1: "liver"}, image=image).iloc[0]
    assert row["cut_by_fov"]
    face_mm2 = 6.0 / affine[axis, axis]
    assert row["cut_area_mm2"] == pytest.approx(4 * 4 * face_mm2)
    assert row["cut_faces"] == ("LPI" if at_end == 0 else "RAS")[axis]
    without = measure.structure_volumes(labels, affine, {1: "liver"}).iloc[0]
    assert not without["cut_by_fov"]


def test_a_background_of_zeros_is_no_padding():
    image, labels = padded(tapering=True)
    row = measure.structure_volumes(labels, np.eye(4), {1: "liver"}, image=image).iloc[0]
    assert not row["cut_by_fov"]
