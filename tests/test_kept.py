"""Rows and pictures that stand in for label maps: when they count, and when they do not."""

import pandas as pd
import pytest

from cohortvol.stages.segment.receipts import Claim, Outcome, ShardFolder, Work
from cohortvol.store.files import digest_of
from cohortvol.store.kept import Kept, forget, measuring_key, table_of
from cohortvol.store.schemas import PREVIEWS, VOLUMES
from cohortvol.store.tables import append_rows
from results_folder import volume_row

SCAN = {"scan_id": "sub-01", "dixon": None, "intensity_min": 0.0, "intensity_max": 900.0}
SEGMENTED = SCAN | {"label_map_sha256": "of the label map"}


@pytest.fixture
def table(tmp_path):
    """Two structures and a picture of one scan, put away under the settings "now"."""
    path = table_of(tmp_path / "measure" / "toy" / "0000.parquet")
    rows = [volume_row("sub-01", "liver", 1500.0), volume_row("sub-01", "spleen", 200.0)]
    picture = {"scan_id": "sub-01", "png": b"picture", "outlines": "{}"}
    Kept(path, "now").commit(
        [SEGMENTED], append_rows(rows, VOLUMES), append_rows([picture], PREVIEWS)
    )
    return path


def test_rows_count_for_the_label_map_and_the_settings_they_were_made_of(table):
    kept = Kept(table, "now")
    assert kept.label_map_sha256(SCAN) == "of the label map"
    assert kept.rows("sub-01")["volume_ml"].tolist() == [1500.0, 200.0]
    assert kept.pictures("sub-01")[0]["png"] == b"picture"
    assert Kept(table, "other").label_map_sha256(SCAN) is None
    assert kept.label_map_sha256(SCAN | {"dixon": "water"}) is None
    assert kept.label_map_sha256(SCAN | {"scan_id": "sub-02"}) is None


def test_rows_whose_picture_is_lost_do_not_count(table):
    (table.parent / "previews" / table.name).unlink()
    assert Kept(table, "now").label_map_sha256(SCAN) is None


def test_a_damaged_table_stands_in_for_nothing(table):
    table.write_bytes(table.read_bytes()[:-20])
    assert Kept(table, "now").label_map_sha256(SCAN) is None


def test_rows_of_other_scans_stay_when_more_are_put_away(table):
    rows = append_rows([volume_row("sub-02", "liver", 1400.0)], VOLUMES)
    second = SEGMENTED | {"scan_id": "sub-02", "label_map_sha256": "of the second"}
    Kept(table, "now").commit([second], rows, append_rows([], PREVIEWS))
    kept = Kept(table, "now")
    assert kept.label_map_sha256(SCAN) == "of the label map"
    assert kept.label_map_sha256(second) == "of the second"


def test_nothing_is_left_once_label_maps_are_kept_again(table):
    forget(table.parents[1] / table.name)
    assert not [path for path in table.parent.rglob("*") if path.is_file()]


def test_a_key_knows_a_missing_number_from_none(table):
    unknown = pd.Series(SCAN | {"intensity_max": float("nan")})
    assert measuring_key("now", unknown) == measuring_key("now", SCAN | {"intensity_max": None})
    assert measuring_key("now", unknown) != measuring_key("now", SCAN)


def test_a_key_knows_how_stations_lie_and_is_as_it_was_for_scans_of_one():
    one = measuring_key("now", SCAN)
    assert measuring_key("now", SCAN | {"stations": None}) == one
    gap, none = ('[{"first": 0, "last": 9}, {"first": 12, "last": 20}]', "[]")
    assert len({one, *(measuring_key("now", SCAN | {"stations": at}) for at in (gap, none))}) == 3
    assert one == digest_of(["now", None, 0.0, 900.0])[:16], "scans are not measured again for it"


@pytest.mark.parametrize(
    ("measured", "is_there", "finished"),
    [(None, True, True), (None, False, False), ("right", False, True), ("wrong", False, False)],
)
def test_a_scan_without_its_label_map_is_finished_only_by_rows_made_of_it(
    tmp_path, measured, is_there, finished
):
    shard = ShardFolder(tmp_path)
    work = Work("sub-01", tmp_path / "image.nii.gz", "image", "toy", "nnunet", "key",
                measured_sha256=measured)  # fmt: skip
    shard.label_map("sub-01").write_bytes(b"12345")
    shard.finish(
        Claim(work, 1, 1, "2026-01-01"),
        Outcome("segmented", label_map_sha256="right", label_map_bytes=5),
    )
    if not is_there:
        shard.label_map("sub-01").unlink()
    assert shard.is_finished(work) is finished
