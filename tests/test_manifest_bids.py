"""A BIDS dataset as a manifest: which images are scans, and what its tables say of them."""

import logging

import pandas as pd
import pytest

from bids_fixture import people, tsv, write_dataset
from cohortvol.errors import ManifestError
from cohortvol.stages import manifest
from cohortvol.stages.manifest import Choice, read_manifest
from cohortvol.store.schemas import MANIFEST
from cohortvol.store.tables import read_table


def read(root, **settings):
    """Rows by scan_id, missing values as None."""
    scans = read_manifest(root, **settings)
    return scans.astype(object).where(scans.notna(), None).set_index("scan_id")


def ids(root, **choice):
    """Scans that a choice admits."""
    return list(read(root, choice=Choice(**choice)).index)


def one(tmp_path, files=(), **settings):
    """The one scan of a dataset with these files besides."""
    given = {
        "participants.tsv": people(("sub-01", 48, "F")),
        "sub-01/anat/sub-01_T1w.nii.gz": "",
        **dict(files),
    }
    return read(write_dataset(tmp_path, given), **settings).iloc[0]


# --- which images ----------------------------------------------------------------------------

TREE = {
    "participants.tsv": people(("sub-01", 48, "F"), ("sub-02", 50, "M")),
    "sub-01/ses-a/anat/sub-01_ses-a_run-01_T1w.nii.gz": "",
    "sub-01/ses-a/anat/sub-01_ses-a_run-02_T1w.nii.gz": "",
    "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii": "",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-dixon_T1w.nii.gz": "",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-dixon_part-phase_T1w.nii.gz": "",
    "sub-01/ses-b/anat/sub-01_ses-b_defacemask.nii.gz": "",
    "sub-01/ses-b/func/sub-01_ses-b_task-rest_bold.nii.gz": "",
    "sub-02/anat/sub-02_T1w.nii.gz": "",
    "sub-02/anat/sub-02_T1w.json": "{}",
    "derivatives/x/sub-02/anat/sub-02_desc-x_T1w.nii.gz": "",
    "sourcedata/sub-02/anat/sub-02_T1w.nii.gz": "",
}


def test_every_image_of_the_datatype_is_a_scan_but_masks_and_phases(tmp_path):
    root = write_dataset(tmp_path, TREE)
    scans = read(root)
    assert list(scans.index) == [
        "sub-01_ses-a_T2w",
        "sub-01_ses-a_run-01_T1w",
        "sub-01_ses-a_run-02_T1w",
        "sub-01_ses-b_acq-dixon_T1w",
        "sub-02_T1w",
    ]
    assert list(scans["subject_id"]) == ["sub-01"] * 4 + ["sub-02"]
    assert list(scans["session_id"]) == ["ses-a"] * 3 + ["ses-b", None]
    assert scans["image"].iloc[0] == str(root / "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"suffix": ["T2w", "T1w"]}, ["01_ses-a_T2w", "01_ses-b_acq-dixon_T1w", "02_T1w"]),
        ({"suffix": ["T2w"]}, ["01_ses-a_T2w"]),
        ({"entities": {"run": [2]}}, ["01_ses-a_run-02_T1w"]),
        ({"entities": {"run": ["01"]}}, ["01_ses-a_run-01_T1w"]),
        (
            {"suffix": ["T1w"], "entities": {"run": [2, 1, None]}},
            ["01_ses-a_run-02_T1w", "01_ses-b_acq-dixon_T1w", "02_T1w"],
        ),
        ({"entities": {"part": ["phase"]}}, ["01_ses-b_acq-dixon_part-phase_T1w"]),
        ({"datatype": "func"}, ["01_ses-b_task-rest_bold"]),
    ],
)
def test_a_list_is_an_order_of_preference_within_a_session(tmp_path, choice, expected):
    scans = read(write_dataset(tmp_path, TREE), choice=Choice(**choice))
    assert [name for name in scans.index if "_" in name] == ["sub-" + name for name in expected]


@pytest.mark.parametrize("suffix", ["T1map", "R2starmap", "PDFF", "TB1map", "MTsat"])
def test_a_map_of_a_quantity_is_a_scan_only_where_it_is_asked_for(tmp_path, suffix):
    mapped = f"sub-01/anat/sub-01_{suffix}.nii.gz"
    assert one(tmp_path, {mapped: ""}).name == "sub-01_T1w"
    assert ids(tmp_path, suffix=[suffix]) == [f"sub-01_{suffix}"]
    assert ids(tmp_path, channels=[{"suffix": suffix}, {"suffix": "T1w"}]) == [f"sub-01_{suffix}"]


def test_a_participant_without_such_an_image_is_a_row_with_a_reason(tmp_path):
    scans = read(write_dataset(tmp_path, TREE), choice=Choice(suffix=["T2w"]))
    assert scans.loc["sub-02", ["state", "reason"]].tolist() == ["quarantined", "SRC_MISSING"]
    assert scans.loc["sub-02", "image"] is None


def test_an_image_of_a_subject_without_a_row_is_skipped_and_kept(tmp_path):
    tree = TREE | {"participants.tsv": people(("sub-02", 50, "M"), ("sub-09", 60, "F"))}
    manifest.run(write_dataset(tmp_path / "data", tree), tmp_path / "results")
    scans = read_table(tmp_path / "results/manifest/scans.parquet", MANIFEST).set_index("scan_id")
    assert (scans.loc[scans["subject_id"] == "sub-01", "reason"] == "ID_NO_CLINICAL").all()
    assert (scans.loc[scans["subject_id"] == "sub-01", "state"] == "skipped").all()
    assert scans.loc["sub-09", "reason"] == "SRC_MISSING"
    assert scans["shard"].notna().sum() == 1
    assert scans["manifest_line"].is_unique


def test_without_participants_tsv_every_scan_is_measured_without_covariates(tmp_path, caplog):
    tree = {name: content for name, content in TREE.items() if name != "participants.tsv"}
    with caplog.at_level(logging.WARNING):
        scans = read(write_dataset(tmp_path, tree))
    assert scans["state"].isna().all()
    assert scans["age_years"].isna().all()
    assert "no participants.tsv" in caplog.text


@pytest.mark.parametrize(
    "name", ["sub-01_T1w_brain.nii.gz", "T1w.nii.gz", "sub-02_T1w.nii.gz", "sub-01_T1w.NII.GZ"]
)
def test_a_name_that_is_not_of_bids_or_of_another_subject_is_no_scan_and_counted(
    tmp_path, caplog, name
):
    with caplog.at_level(logging.WARNING):
        row = one(tmp_path, {f"sub-01/anat/{name}": ""})
    assert row.name == "sub-01_T1w"
    assert "1 files left out" in caplog.text


def test_two_files_of_one_name_are_listed_as_bad_rows(tmp_path):
    with pytest.raises(ManifestError) as raised:
        one(tmp_path, {"sub-01/anat/sub-01_T1w.nii": ""})
    assert "sub-01/anat/sub-01_T1w.nii " in str(raised.value)
    assert str(raised.value).count("ID_DUPLICATE") == 2


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("sub-01/", ["sub-02_T1w"]),
        ("*_T1w.nii.gz", ["sub-01_ses-a_T2w"]),
        ("/sub-01/ses-b", ["sub-01_ses-a_T2w", "sub-01_ses-a_run-01_T1w",
                           "sub-01_ses-a_run-02_T1w", "sub-02_T1w"]),
        ("**/anat/*run-0?_T1w*", ["sub-01_ses-a_T2w", "sub-01_ses-b_acq-dixon_T1w", "sub-02_T1w"]),
        ("sub-0[23]/", ["sub-01_ses-a_T2w", "sub-01_ses-a_run-01_T1w",
                        "sub-01_ses-a_run-02_T1w", "sub-01_ses-b_acq-dixon_T1w"]),
        ("sub-0[!2-9]/", ["sub-02_T1w"]),
        ("sub-0[^1]/", ["sub-01_ses-a_T2w", "sub-01_ses-a_run-01_T1w",
                        "sub-01_ses-a_run-02_T1w", "sub-01_ses-b_acq-dixon_T1w"]),
        ("sub-01[/]ses-b", None),
        ("sub-0[12", None),
        ("/*_T1w.nii.gz", None),
        ("# sub-01/", None),
    ],
)  # fmt: skip
def test_what_bidsignore_names_is_left_out(tmp_path, pattern, left):
    root = write_dataset(tmp_path, TREE | {".bidsignore": f"\n{pattern}\n"})
    found = [name for name, row in read(root).iterrows() if row["state"] is None]
    everything = ids(write_dataset(tmp_path / "all", TREE))
    assert found == (everything if left is None else left)


def test_a_folder_without_description_or_subjects_is_refused(tmp_path):
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(ManifestError, match=r"without dataset_description\.json"):
        read(tmp_path)
    with pytest.raises(ManifestError, match="without any sub-<label> folder"):
        read(write_dataset(tmp_path / "empty", {}))


def test_a_dataset_in_which_nothing_is_admitted_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="holds no scan"):
        ids(write_dataset(tmp_path, TREE), suffix=["FLAIR"])


def test_order_of_files_on_disk_changes_nothing(tmp_path):
    first = read(write_dataset(tmp_path / "a", TREE)).drop(columns="image")
    second = read(write_dataset(tmp_path / "b", dict(reversed(TREE.items()))))
    pd.testing.assert_frame_equal(first, second.drop(columns="image"))


# --- covariates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sex"), [("F", "F"), ("male", "M"), ("FEMALE", "F"), ("other", None), ("n/a", None)]
)
def test_sex_is_read_in_the_words_of_the_standard(tmp_path, text, sex):
    assert one(tmp_path, {"participants.tsv": people(("sub-01", 48, text))})["sex"] == sex


def test_codes_of_sex_are_read_where_the_dataset_or_the_config_explains_them(tmp_path):
    table = {"participants.tsv": people(("sub-01", 48, "1"))}
    with pytest.raises(ManifestError, match="CLN_SEX_CODING"):
        one(tmp_path, table)
    assert one(tmp_path, table, sex_codes={"1": "F"})["sex"] == "F"
    levels = {"participants.json": {"sex": {"Levels": {"1": "Male", "2": "female"}}}}
    assert one(tmp_path, table | levels)["sex"] == "M"


@pytest.mark.parametrize(
    ("column", "value", "unit", "name", "expected"),
    [
        ("age", 48, None, "age_years", 48),
        ("age", 576, "months", "age_years", 48),
        ("age", 17532, "day", "age_years", 48),
        ("age", "n/a", None, "age_years", None),
        ("age", "89+", None, "age_years", None),
        ("height", 1.75, "m", "height_cm", 175),
        ("height", 175, "cm", "height_cm", 175),
        ("height", 175, None, "height_cm", None),
        ("height_cm", 175, None, "height_cm", 175),
        ("weight", 70, None, "weight_kg", 70),
        ("weight", 154, "lb", "weight_kg", 69.853225),
        ("site", "n/a", None, "site", None),
        ("site", "A", None, "site", "A"),
    ],
)
def test_units_are_those_that_the_dataset_states(tmp_path, column, value, unit, name, expected):
    files = {"participants.tsv": people(("sub-01", value), columns=("participant_id", column))}
    if unit:
        files["participants.json"] = {column: {"Units": unit}}
    found = one(tmp_path, files)[name]
    assert found == (expected if isinstance(expected, str | None) else pytest.approx(expected))


def test_a_unit_that_is_not_understood_is_named(tmp_path):
    with pytest.raises(ManifestError, match="age is in 'gestational weeks'"):
        one(tmp_path, {"participants.json": {"age": {"Units": "gestational weeks"}}})


def test_a_bad_value_is_listed_with_the_image_it_belongs_to(tmp_path):
    with pytest.raises(ManifestError) as raised:
        one(tmp_path, {"participants.tsv": people(("sub-01", "4x", "F"))})
    assert "sub-01/anat/sub-01_T1w.nii.gz  age_years  '4x'  CLN_AGE_UNPARSED" in str(raised.value)


VISITS = {
    "participants.tsv": people(("sub-01", 48, "F")),
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz": "",
    "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz": "",
}


def test_the_age_of_a_person_is_not_that_of_several_visits(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        scans = read(write_dataset(tmp_path, VISITS))
    assert scans["age_years"].isna().all()
    assert (scans["sex"] == "F").all()
    assert "2 scans without age" in caplog.text


def test_sessions_tsv_gives_age_weight_and_day_of_a_visit(tmp_path):
    table = tsv(
        ("session_id", "age", "weight", "acq_time"),
        ("ses-a", 48, 70, "2011-02-03T10:11:12"),
        ("ses-b", "n/a", 72, "n/a"),
    )
    scans = read(write_dataset(tmp_path, VISITS | {"sub-01/sub-01_sessions.tsv": table}))
    assert scans["age_years"].tolist() == [48, None]
    assert scans["weight_kg"].tolist() == [70, 72]
    assert scans["acquisition_date"].tolist() == ["2011-02-03", None]


def test_units_of_sessions_are_inherited_and_overridden(tmp_path):
    table = tsv(("session_id", "age"), ("ses-a", 600), ("ses-b", 612))
    months = {"sessions.json": {"age": {"Units": "month"}}}
    files = VISITS | months | {"sub-01/sub-01_sessions.tsv": table}
    assert read(write_dataset(tmp_path / "a", files))["age_years"].tolist() == [50, 51]
    files |= {"sub-01/sub-01_sessions.json": {"age": {"Units": "week"}}}
    assert read(write_dataset(tmp_path / "b", files))["age_years"].tolist() == pytest.approx(
        [600 * 7 / 365.25, 612 * 7 / 365.25]
    )


def test_scans_tsv_gives_the_day_of_an_image(tmp_path):
    table = tsv(
        ("filename", "acq_time"),
        ("anat/sub-01_ses-a_T1w.nii.gz", "2011-02-04T23:59:59.5"),
    )
    sessions = tsv(("session_id", "acq_time"), ("ses-a", "2011-02-03"), ("ses-b", "2012-01-01"))
    files = {
        "sub-01/ses-a/sub-01_ses-a_scans.tsv": table,
        "sub-01/ses-b/sub-01_ses-b_scans.tsv": tsv(
            ("filename", "acq_time"), ("anat/sub-01_ses-b_T1w.nii.gz", "10:11:12")
        ),
        "sub-01/sub-01_sessions.tsv": sessions,
    }
    scans = read(write_dataset(tmp_path, VISITS | files))
    assert scans["acquisition_date"].tolist() == ["2011-02-04", "2012-01-01"]


def test_sidecars_are_inherited_and_the_lower_one_wins(tmp_path):
    row = one(
        tmp_path,
        {
            "T1w.json": {"MagneticFieldStrength": 3, "Manufacturer": "Maker"},
            "T2w.json": {"ManufacturersModelName": "of another suffix"},
            "acq-x_T1w.json": {"ManufacturersModelName": "of another entity"},
            "sub-01/sub-01_T1w.json": {
                "MagneticFieldStrength": 2,
                "ScanningSequence": ["GR", "SE"],
            },
            "sub-01/anat/sub-01_T1w.json": {
                "MagneticFieldStrength": 1.5,
                "ContrastBolusIngredient": "GADOLINIUM",
                "PatientName": "Doe^Jane",
            },
        },
    )
    assert row["field_strength_t"] == 1.5
    assert row["scanner"] == "Maker"
    assert row["sequence"] == "GR SE"
    assert row["contrast"] == "GADOLINIUM"
    assert "Doe" not in str(row.tolist())


def test_a_table_is_believed_before_a_sidecar_and_a_name_says_contrast(tmp_path):
    files = {
        "participants.tsv": people(("sub-01", "A"), columns=("participant_id", "scanner")),
        "sub-01/anat/sub-01_ce-gd_T1w.nii.gz": "",
        "T1w.json": {"Manufacturer": "B", "ContrastBolusIngredient": "UNKNOWN"},
    }
    scans = read(write_dataset(tmp_path, files))
    assert scans[["scanner", "contrast"]].to_numpy().tolist() == [["A", "gd"]]


@pytest.mark.parametrize(
    "broken",
    [
        {"sub-01/anat/sub-01_T1w.json": "{"},
        {"sub-01/anat/sub-01_T1w.json": "[]"},
        {"sub-01/sub-01_scans.tsv": "filename\tacq_time\nx\n"},
        {"sub-01/sub-01_sessions.tsv": "session\tage\nses-a\t4\n"},
        {"sub-01/sub-01_sessions.json": '{"age": {"Units": "fortnights"}}'},
        {"sub-01/sub-01_scans.tsv": b"filename\n\xff\n"},
    ],
)
def test_a_broken_file_beside_a_scan_makes_its_row_bad_and_no_other(tmp_path, broken):
    files = {
        "participants.tsv": people(("sub-01", 48, "F"), ("sub-02", 50, "M")),
        "sub-01/anat/sub-01_T1w.nii.gz": "",
        "sub-02/anat/sub-02_T1w.nii.gz": "",
    }
    root = write_dataset(tmp_path, files | broken)
    with pytest.raises(ManifestError, match="1 of 2 rows"):
        read(root)
    scans = read(root, bad_rows="quarantine")
    assert scans["reason"].tolist() == ["TAB_SIDECAR", None]
    assert next(iter(broken)) in scans["detail"].iloc[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("participants.tsv", "age\n1\n", "no column 'participant_id'"),
        ("participants.tsv", people(("sub-01", 1, "F"), ("sub-01", 2, "F")), "lines 2, 3"),
        ("participants.tsv", people(("01", 1, "F")), "TAB_JOIN"),
        ("participants.json", "{", "is not JSON"),
        ("T1w.json", "[]", "must hold a JSON object"),
        ("dataset_description.json", "", "is not JSON"),
        (".bidsignore", "!sub-01\n", "patterns with !"),
        (".bidsignore", "sub-0[9-1]\n", "brackets that are not understood"),
    ],
)
def test_a_broken_file_of_the_whole_dataset_stops_with_its_name(tmp_path, name, content, message):
    with pytest.raises(ManifestError, match=message) as raised:
        one(tmp_path, {name: content})
    assert name in str(raised.value)


def test_a_linked_image_without_content_is_a_scan_for_ingest_to_refuse(tmp_path):
    files = {"participants.tsv": people(("sub-01", 48, "F")), "sub-01/anat/x": ""}
    root = write_dataset(tmp_path, files)
    (root / "sub-01/anat/sub-01_T1w.nii.gz").symlink_to("../../.git/annex/objects/x")
    assert list(read(root).index) == ["sub-01_T1w"]
