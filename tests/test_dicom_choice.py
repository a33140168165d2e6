"""The choice among the series of a DICOM folder, and what ingest makes of the chosen one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.store.schemas import INGEST, SERIES
from cohortvol.store.tables import read_table
from dicom_converted import N, converted, ingested, refused
from dicom_fixture import STEP_MM, pixels, write_series

pytestmark = pytest.mark.slow


@pytest.fixture
def session(tmp_path):
    """A Dixon acquisition of four parts, a coronal series, a localizer and a contrast series."""
    folder = tmp_path / "session"
    for seed, part in enumerate(("IN_PHASE", "OPP_PHASE", "W", "F")):
        derived = "DERIVED" if part in ("W", "F") else "ORIGINAL"
        write_series(
            folder / part, seed=seed,
            ImageType=[derived, "PRIMARY", "M", part], SeriesDescription="t1_vibe_dixon",
        )  # fmt: skip

    def coronal(image, k):
        image.ImagePositionPatient = [-20.0, 100.0 + STEP_MM * k, 30.0]
        image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]

    write_series(folder / "haste", change=coronal, seed=4, SeriesDescription="t2_haste_cor")
    write_series(folder / "loc", n_slices=3, seed=5, SeriesDescription="localizer")
    write_series(
        folder / "late", seed=6, SeriesDescription="t1_vibe_late", ContrastBolusAgent="agent"
    )
    return folder


@pytest.mark.parametrize(
    ("rules", "seed"),
    [
        ({"dixon": ("in_phase",)}, 0),
        ({"dixon": ("opposed_phase",)}, 1),
        ({"dixon": ("water", "in_phase")}, 2),
        ({"dixon": ("fat",)}, 3),
        ({"plane": ("coronal", "axial")}, 4),
        ({"sequence": "haste|trufi"}, 4),
        ({"contrast": "with"}, 6),
        ({"contrast": "without", "plane": ("axial",), "dixon": ("in_phase", "water")}, 0),
    ],
)
def test_the_rule_singles_out_one_series_and_every_other_has_its_reason(
    session, tmp_path, rules, seed
):
    image, _, _, series = converted(session, tmp_path, **rules)
    stored = {values.tobytes() for values in np.asarray(image.dataobj).T.swapaxes(1, 2)}
    assert {pixels(k, seed).T.tobytes() for k in range(N)} == stored
    assert len(series) == 7
    assert [row["chosen"] for row in series].count(True) == 1
    assert all((row["reason"] is None) == row["chosen"] for row in series)


def test_several_that_fit_are_no_choice(session, tmp_path):
    error = refused(session, tmp_path)
    assert error.reason == "DCM_AMBIGUOUS_SERIES"
    assert error.detail == "6 series fit the rules; 1 others left out"


def test_none_that_fits_is_named_after_the_largest(session, tmp_path):
    assert refused(session, tmp_path, plane=("sagittal",)).reason == "DCM_NOT_WANTED"


def test_a_derived_series_can_be_allowed(tmp_path):
    folder = write_series(tmp_path / "a", ImageType=["DERIVED", "PRIMARY", "MPR"])
    assert converted(folder, tmp_path, derived="allow")[0].shape[2] == N


def test_a_folder_becomes_an_image_that_went_through_every_check(tmp_path):
    good = write_series(tmp_path / "good")
    bad = write_series(tmp_path / "bad", leave_out=[3])
    scout = write_series(tmp_path / "scout", SeriesDescription="localizer")
    table, out = ingested(tmp_path, {"good": good, "bad": bad, "scout": scout})
    assert table["state"].to_dict() == {"good": "ready", "bad": "quarantined", "scout": "skipped"}
    assert table["reason"].dropna().to_dict() == {
        "bad": "DCM_MISSING_SLICE", "scout": "DCM_LOCALIZER"
    }  # fmt: skip
    image = Path(table.loc["good", "image"])
    assert image == out.parent / "0000" / "good.nii.gz"
    assert table.loc["good", ["n_i", "n_j", "n_k"]].tolist() == [36, 40, N]
    headers = [name for name in INGEST if name.startswith("header_")]
    assert table.loc["good", headers].tolist() == [
        57.0, "F", "2018-04-03", 10.25, "SIEMENS Aera", 1.5, "GR"
    ]  # fmt: skip
    series = read_table(out.parent / "series" / "0000.parquet", SERIES).set_index("scan_id")
    assert series["chosen"].to_dict() == {"good": True, "bad": True, "scout": False}


def test_the_part_of_a_dixon_acquisition_is_kept_where_the_header_declares_it(tmp_path):
    images = {}
    for name, image_type, description in (
        ("typed", "F", "t1_vibe"),
        ("described", "M", "dixon_W"),
        ("untold", "M", "water excitation"),
    ):
        kind = ["ORIGINAL", "PRIMARY", "M", image_type]
        images[name] = write_series(tmp_path / name, ImageType=kind, SeriesDescription=description)
    table, _ = ingested(tmp_path, images)
    assert table["dixon"].dropna().to_dict() == {"typed": "fat", "described": "water"}


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = write_series(tmp_path / "a")
    first, _ = ingested(tmp_path / "one", {"a": folder})
    second, _ = ingested(tmp_path / "two", {"a": folder})
    assert first.loc["a", "image_sha256"] == second.loc["a", "image_sha256"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # said of our writing it
def test_nothing_of_a_person_is_in_what_is_written(tmp_path, caplog, capfd, recwarn):
    folder = write_series(
        tmp_path / "a", SeriesDescription="CANARY description t1", PatientAge="CANARY AGE",
        StudyTime="CANARY TIME",
    )  # fmt: skip
    recwarn.clear()
    caplog.clear()
    broken = write_series(tmp_path / "b", SeriesDescription="CANARY localizer", leave_out=[3])
    with caplog.at_level("DEBUG"):
        _, out = ingested(tmp_path, {"a": folder, "b": broken})
    written = [path for path in out.parent.rglob("*") if path.is_file()]
    assert len(written) == 3
    for path in written:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = nib.load(path).to_bytes()
        if path.suffix == ".parquet":
            content = pd.read_parquet(path).to_csv().encode()
        assert b"CANARY" not in content.upper(), path.name
        assert b"19610203" not in content
    said = capfd.readouterr()
    warned = "".join(str(warning.message) for warning in recwarn)
    assert "CANARY" not in (caplog.text + said.out + said.err + warned).upper()


def test_the_place_of_a_folder_is_checked_too(tmp_path):
    folder = write_series(tmp_path / "a")
    table, _ = ingested(tmp_path, {"a": folder}, allow_roots=(str(tmp_path / "elsewhere"),))
    assert table.loc["a", "reason"] == "SRC_OUTSIDE_ROOT"
    table, _ = ingested(tmp_path, {"a": folder}, allow_roots=(str(tmp_path),))
    assert table.loc["a", "state"] == "ready"
