"""DICOM of a body in several table positions: put together, or a reason that says what was seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cohortvol.store.stations import gaps_of
from dicom_converted import converted, ingested, refused
from dicom_fixture import SHAPE, STEP_MM, write_series

N, OVERLAP = 10, 3
STUDY = "1.2.3.4"


def whole(n_slices, seed=0):
    """Stored values (rows, columns, slices), smooth enough for slices to follow one another."""
    row, column, k = np.meshgrid(*map(np.arange, (*SHAPE, n_slices)), indexing="ij")
    rng = np.random.default_rng(seed)
    waves = sum(
        np.sin(a * row + b * column + c * k + d)
        for a, b, c, d in rng.uniform((0, 0, 0, 0), (0.4, 0.4, 0.5, 6), (6, 4))
    )
    return np.rint(500 + 60 * waves + rng.normal(0, 3, row.shape)).astype(np.uint16)


def write_station(folder, number, body, gain=1.0, first=None, numbered=0, **fields):
    first = number * (N - OVERLAP) if first is None else first

    def change(image, k):
        image.ImagePositionPatient = [-20.0, -25.0, 100.0 + STEP_MM * (first + k)]
        values = np.rint(gain * body[:, :, first + k]).astype(np.uint16)
        image.PixelData = values.tobytes()
        image.InstanceNumber = numbered + k + 1

    said = {"FrameOfReferenceUID": STUDY, "StudyInstanceUID": STUDY} | fields
    return write_series(folder, n_slices=N, change=change, **said)


def write_body(folder, stations=range(3), seed=0, gains=(1.0, 1.0, 1.0), name="", **fields):
    body = whole(3 * N, seed)
    for number in stations:
        write_station(folder / f"{name}{number}", number, body, gains[number], **fields)
    return body[:, :, : 3 * N - 2 * OVERLAP].swapaxes(0, 1)


def test_stations_that_are_series_become_the_one_image_that_they_were_cut_from(tmp_path):
    body = write_body(tmp_path / "a")
    image, facts, codes, series = converted(tmp_path / "a", tmp_path)
    assert np.array_equal(np.asarray(image.dataobj), body)
    assert image.affine[2, 3] == 100.0
    assert [row["chosen"] for row in series] == [True] * 3
    told = json.loads(facts["stations"])
    assert [(one["first"], one["last"]) for one in told] == [(0, 9), (7, 16), (14, 23)]
    assert [one["shift_mm"] for one in told] == [None, 0.0, 0.0]
    assert len({one["series"] for one in told}) == 3
    assert codes == ["W_STATIONS"]


def test_stations_within_one_series_are_the_same_voxels(tmp_path):
    body = whole(3 * N)
    for number in range(3):
        write_station(
            tmp_path / "a", number, body, numbered=N * number, SeriesInstanceUID="1.2.3.5"
        )
    image, facts, codes, _ = converted(tmp_path / "a", tmp_path)
    assert np.array_equal(np.asarray(image.dataobj), body[:, :, : 3 * N - 6].swapaxes(0, 1))
    assert len(json.loads(facts["stations"])) == 3
    assert codes == ["W_STATIONS"]


def test_differing_gains_are_evened_out(tmp_path):
    body = write_body(tmp_path / "a", gains=(1.4, 1.0, 0.7))
    image, facts, _, _ = converted(tmp_path / "a", tmp_path)
    assert np.abs(np.asarray(image.dataobj) / body - 1).max() < 0.02
    gains = [one["gain"] for one in json.loads(facts["stations"])]
    assert gains == pytest.approx([1 / 1.4, 1.0, 1 / 0.7], rel=0.01)


def test_of_several_contrasts_the_one_asked_for_is_put_together(tmp_path):
    bodies = {}
    for seed, part in enumerate(("W", "F", "IN_PHASE")):
        kind = ["DERIVED", "PRIMARY", "M", part]
        bodies[part] = write_body(tmp_path / "a", seed=seed, name=part, ImageType=kind)
    for part, dixon in (("W", "water"), ("F", "fat")):
        image, facts, _, series = converted(tmp_path / "a", tmp_path, dixon=(dixon,))
        assert np.array_equal(np.asarray(image.dataobj), bodies[part])
        assert facts["dixon"] == dixon
        assert [row["dixon"] for row in series if row["chosen"]] == [dixon] * 3
    error = refused(tmp_path / "a", tmp_path)
    assert (error.reason, error.detail) == ("DCM_AMBIGUOUS_SERIES", "9 series fit the rules")


def test_a_station_that_one_contrast_lacks_is_missed(tmp_path):
    write_body(tmp_path / "a", name="F", ImageType=["DERIVED", "PRIMARY", "M", "F"])
    write_body(tmp_path / "a", [0, 1], 1, name="W", ImageType=["DERIVED", "PRIMARY", "M", "W"])
    error = refused(tmp_path / "a", tmp_path, dixon=("water",))
    assert error.reason == "DCM_STATION_MISSING"
    assert error.detail.startswith("fat has a station from 168 to 218 mm, water has none there")


def test_a_missing_station_is_a_gap_that_is_marked(tmp_path):
    body = write_body(tmp_path / "a", [0, 2])
    image, facts, codes, _ = converted(tmp_path / "a", tmp_path)
    voxels = np.asarray(image.dataobj)
    assert gaps_of(facts["stations"]) == [(10, 13)]
    assert not voxels[:, :, 10:14].any()
    assert np.array_equal(voxels[:, :, :10], body[:, :, :10])
    assert codes == ["W_STATIONS", "QC_STATION_GAP"]
    table, _ = ingested(tmp_path, {"a": tmp_path / "a"})
    assert table.loc["a", "state"] == "ready"
    assert "QC_STATION_GAP" in table.loc["a", "warnings"]
    assert gaps_of(table.loc["a", "stations"]) == [(10, 13)]


def test_a_body_that_moved_is_flagged(tmp_path):
    body = whole(3 * N)
    write_station(tmp_path / "a" / "0", 0, body)
    moved = np.roll(body, 1, axis=2)  # one slice, 5 mm, up
    write_station(tmp_path / "a" / "1", 1, moved)
    _, facts, codes, _ = converted(tmp_path / "a", tmp_path)
    assert facts["station_shift_mm"] == pytest.approx(STEP_MM, abs=1.0)
    assert "QC_STATION_SHIFT" in codes


def test_a_body_that_moved_too_far_to_be_measured_is_flagged_and_its_shift_is_null(tmp_path):
    body = whole(3 * N)
    write_station(tmp_path / "a" / "0", 0, body)
    moved = np.roll(body, -2, axis=2)  # 10 mm down, of the 15 mm that both show
    write_station(tmp_path / "a" / "1", 1, moved)
    write_station(tmp_path / "a" / "2", 2, moved)
    _, facts, codes, _ = converted(tmp_path / "a", tmp_path)
    assert facts["station_shift_mm"] is None
    assert [one["shift_mm"] for one in json.loads(facts["stations"])] == [None, None, 0.0]
    assert codes == ["W_STATIONS", "QC_STATION_UNMEASURED"]


def test_what_is_no_one_body_is_refused_with_what_was_seen(tmp_path):
    body = whole(3 * N)
    write_body(tmp_path / "twice")
    write_station(tmp_path / "twice" / "again", 1, whole(3 * N, 5))
    write_body(tmp_path / "people", [0, 1])
    write_station(tmp_path / "people" / "other", 2, body, PatientID="ANOTHER")
    write_body(tmp_path / "frames", [0, 1])
    write_station(tmp_path / "frames" / "other", 2, body, FrameOfReferenceUID="1.9")
    write_station(tmp_path / "strange" / "0", 0, body)
    write_station(tmp_path / "strange" / "1", 1, whole(3 * N, 9))
    for name, told in (
        ("twice", "a station is there twice"),
        ("people", "stations of 2 people"),
        ("frames", "stations of 2 frames of reference"),
        ("strange", "a correlation of"),
    ):
        error = refused(tmp_path / name, tmp_path)
        assert error.reason == "DCM_STATIONS_UNCLEAR", name
        assert told in error.detail, name
        assert "ANOTHER" not in error.detail


def test_phases_of_one_place_are_no_stations(tmp_path):
    for seed in range(2):
        write_station(tmp_path / "a" / str(seed), 0, whole(N, seed))
    assert refused(tmp_path / "a", tmp_path).reason == "DCM_AMBIGUOUS_SERIES"


def test_the_setting_refuses_or_counts(tmp_path):
    write_body(tmp_path / "a")
    assert refused(tmp_path / "a", tmp_path, stations="refuse").reason == "DCM_STATIONS_UNCLEAR"
    assert refused(tmp_path / "a", tmp_path, stations=4).reason == "DCM_STATION_MISSING"
    assert converted(tmp_path / "a", tmp_path, stations=3)[0].shape[2] == 24
