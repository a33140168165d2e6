"""Several images of one scan of a BIDS dataset, told apart by parts of their names."""

from __future__ import annotations

import json

import pytest

from bids_fixture import people, tsv, write_dataset
from cohortvol import config
from cohortvol.errors import ConfigError, ManifestError
from cohortvol.stages.manifest import Choice, read_manifest
from cohortvol.stages.manifest.reading import from_config

DIXON = ({"acq": "water"}, {"acq": "fat"})


def rows_of(root, channels=DIXON, **choice):
    """Rows by scan_id, missing values as None."""
    scans = read_manifest(root, choice=Choice(channels=channels, **choice))
    return scans.astype(object).where(scans.notna(), None).set_index("scan_id")


def dataset(tmp_path, *names, **files):
    """One subject's images of these names, after ``sub-01_``."""
    images = {f"sub-01/anat/sub-01_{name}.nii.gz": "" for name in names}
    return write_dataset(
        tmp_path, {"participants.tsv": people(("sub-01", 48, "F"))} | images | files
    )


def images_of(row):
    """Names of the images of a row in the order of the channels, without what they have alike."""
    paths = [row["image"], *json.loads(row["more_images"])]
    return [path.rsplit("/sub-01_", 1)[1].removesuffix(".nii.gz") for path in paths]


@pytest.mark.parametrize(
    ("channels", "names", "scan_id"),
    [
        (DIXON, ["acq-water_T1w", "acq-fat_T1w"], "sub-01_T1w"),
        (DIXON, ["acq-water_run-2_T1w", "acq-fat_run-2_T1w"], "sub-01_run-2_T1w"),
        (
            [{"part": "inphase"}, {"part": "outphase"}, {"part": "fat"}],
            ["acq-ax_part-inphase_dixon", "acq-ax_part-outphase_dixon", "acq-ax_part-fat_dixon"],
            "sub-01_acq-ax_dixon",
        ),
        ([{"echo": 2}, {"echo": 1}], ["echo-02_T1w", "echo-1_T1w"], "sub-01_T1w"),
        ([{"suffix": "inphase"}, {"suffix": "opp"}], ["inphase", "opp"], "sub-01_inphase"),
        (
            [{"acq": "dixon"}, {"acq": "dixon", "rec": "fat"}],
            ["acq-dixon_T1w", "acq-dixon_rec-fat_T1w"],
            "sub-01_T1w",
        ),
        (
            [{"acq": "d", "chunk": None}, {"acq": "d", "chunk": 1}],
            ["acq-d_T1w", "acq-d_chunk-1_T1w"],
            "sub-01_T1w",
        ),
        ([{"part": "mag"}, {"part": "phase"}], ["part-mag_T1w", "part-phase_T1w"], "sub-01_T1w"),
    ],
)
def test_images_alike_in_all_but_what_channels_name_are_one_scan(
    tmp_path, channels, names, scan_id
):
    rows = rows_of(dataset(tmp_path, *names, "T2w", "acq-localizer_T1w"), channels)
    assert rows.index.tolist() == [scan_id]
    assert rows["state"].tolist() == [None]
    assert images_of(rows.loc[scan_id]) == names


def test_two_runs_and_two_visits_are_scans_of_their_own(tmp_path):
    names = [f"acq-{part}_run-{run}_T1w" for run in (1, 2) for part in ("fat", "water")]
    more = {
        f"sub-01/ses-b/anat/sub-01_ses-b_acq-{part}_T1w.nii.gz": "" for part in ("water", "fat")
    }
    rows = rows_of(dataset(tmp_path, *names, **more))
    assert rows.index.tolist() == ["sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_ses-b_T1w"]
    assert images_of(rows.loc["sub-01_run-2_T1w"]) == ["acq-water_run-2_T1w", "acq-fat_run-2_T1w"]
    assert rows["session_id"].tolist() == [None, None, "ses-b"]


def test_preference_is_of_scans_and_not_of_channels(tmp_path):
    names = [f"acq-{part}_{rest}" for part in ("water", "fat") for rest in ("T1w", "rec-nd_T1w")]
    rows = rows_of(dataset(tmp_path, *names), entities={"rec": ["nd", None]})
    assert rows.index.tolist() == ["sub-01_rec-nd_T1w"]


@pytest.mark.parametrize(
    ("there", "detail"),
    [
        ("acq-water_T1w", "no image of acq: fat (image_2)"),
        ("acq-fat_T1w", "no image of acq: water (image)"),
    ],
)
def test_a_channel_that_is_not_there_is_a_row_with_its_reason(tmp_path, there, detail):
    root = dataset(tmp_path, there, "acq-water_run-1_T1w", "acq-fat_run-1_T1w")
    rows = rows_of(root)
    assert rows.loc["sub-01_T1w", ["state", "reason", "detail"]].tolist() == [
        "quarantined", "IMG_CHANNEL_MISSING", detail
    ]  # fmt: skip
    assert rows.loc["sub-01_run-1_T1w", "state"] is None


def test_a_dataset_without_one_whole_scan_says_so(tmp_path):
    with pytest.raises(ManifestError, match="1 scans without an image of every channel"):
        rows_of(dataset(tmp_path, "acq-fat_T1w"))


def test_two_files_of_one_channel_are_bad_rows(tmp_path):
    more = {"sub-01/anat/sub-01_acq-fat_T1w.nii": ""}
    with pytest.raises(ManifestError, match="ID_DUPLICATE"):
        rows_of(dataset(tmp_path, "acq-water_T1w", "acq-fat_T1w", **more))


def test_sidecars_and_day_are_those_of_the_first_channel(tmp_path):
    more = {
        "sub-01/anat/sub-01_acq-water_T1w.json": {"MagneticFieldStrength": 3},
        "sub-01/anat/sub-01_acq-fat_T1w.json": {"MagneticFieldStrength": 1.5},
        "sub-01/sub-01_scans.tsv": tsv(
            ("filename", "acq_time"), ("anat/sub-01_acq-water_T1w.nii.gz", "2020-03-01T10:30:00")
        ),
    }
    row = rows_of(dataset(tmp_path, "acq-water_T1w", "acq-fat_T1w", **more)).iloc[0]
    assert (row["field_strength_t"], str(row["acquisition_date"])[:10]) == (3.0, "2020-03-01")


@pytest.mark.parametrize(
    ("bids", "said"),
    [
        (
            {"channels": [{"acq": "a"}, {"acq": "b"}], "entities": {"acq": ["a"]}},
            "told apart by acq",
        ),
        ({"channels": [{"suffix": "a"}, {"suffix": "b"}], "suffix": ["a"]}, "told apart by suffix"),
        ({"channels": [{"suffix": "a"}, {"part": "b"}]}, "every channel needs a suffix"),
        ({"channels": [{"acq": "a"}, {"acq": "a"}]}, "channels"),
        ({"channels": [{}, {"acq": "a"}]}, "channels"),
        ({"channels": {"acq": ["a"]}}, "channels"),
    ],
)
def test_channels_that_cannot_be_told_apart_are_refused(tmp_path, bids, said):
    (tmp_path / "config.yaml").write_text(json.dumps({"bids": bids}))
    with pytest.raises(ConfigError, match=said):
        from_config(config.load(tmp_path / "config.yaml"))
