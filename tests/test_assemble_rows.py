"""The cohort's table out of those of the shards: in order, and few rows of it at a time."""

import numpy as np
import pandas as pd
import pytest

from cohortvol.stages.assemble import rows
from cohortvol.store import schemas, tables
from results_folder import absent_row, volume_row

HELD = {name: schemas.VOLUMES[name] for name in ("scan_id", "structure", "volume_ml", "bbox", "qc")}
WRITTEN = {name: column for name, column in schemas.VOLUMES.items() if name not in schemas.RARE}
BOUNDS = [3, 12, 0, 0, 7, 8]


@pytest.fixture
def shards(tmp_path):
    """Tables of five shards whose scans lie between one another, and the scans but for one."""
    paths, scan_ids = [], [f"sub-{number:02d}" for number in range(23)]
    for shard in range(5):
        measured = [
            row | {"volume_ml": 10.0 * number + label}
            for number, scan_id in list(enumerate(scan_ids))[shard::5]
            for label, row in enumerate(
                [volume_row(scan_id, "spleen", 1.0, bbox=BOUNDS), absent_row(scan_id, "liver")]
            )
        ]
        paths.append(tmp_path / f"{shard:04d}.parquet")
        tables.write_table(
            paths[-1], tables.append_rows(measured, schemas.VOLUMES), schemas.VOLUMES
        )
    return paths, pd.Series(scan_ids).drop(7)


def test_rows_are_held_by_scan_and_within_a_scan_as_measured(shards):
    _, held = rows.read_rows(shards[0], HELD, shards[1])
    scans = [scan_id for scan_id in shards[1] for _ in range(2)]
    assert held["scan_id"].tolist() == scans
    assert held["structure"].tolist() == ["spleen", "liver"] * 22
    assert held.loc[held["scan_id"] == "sub-08", "volume_ml"].tolist() == [80.0, 81.0]
    assert held[list(rows.BOX)].iloc[:2].values.tolist() == [[10, 1, 2], [0, 0, 0]]


def test_a_table_made_in_blocks_has_the_bytes_of_one_that_was_whole(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(tables.LAYOUT, "row_group_size", 4)
    monkeypatch.setattr(rows, "ROW_GROUP", 4)
    monkeypatch.setattr(rows, "BLOCK", 12)
    found, held = rows.read_rows(shards[0], HELD, shards[1])
    verdicts = pd.DataFrame({"qc": pd.Categorical(np.where(held["volume_ml"] > 40, "flag", None))})
    whole = pd.concat([tables.read_table(path, WRITTEN) for path in shards[0]])
    whole = whole[whole["scan_id"].isin(shards[1])].sort_values("scan_id", kind="stable")
    whole["qc"] = np.where(whole["volume_ml"] > 40, "flag", None)
    expected = tables.write_table(tmp_path / "whole.parquet", whole, WRITTEN)
    in_blocks = tmp_path / "in_blocks.parquet"
    written = tables.write_groups(in_blocks, WRITTEN, lambda: found.groups(WRITTEN, verdicts))
    assert written == expected


def test_no_more_rows_are_held_than_a_block_and_a_shard(shards, monkeypatch):
    monkeypatch.setattr(rows, "ROW_GROUP", 4)
    monkeypatch.setattr(rows, "BLOCK", 12)
    found, _ = rows.read_rows(shards[0], HELD, shards[1])
    blocks = []
    read = rows.Rows._read
    monkeypatch.setattr(rows.Rows, "_read", lambda *args: blocks.append(read(*args)) or blocks[-1])
    groups = [len(group) for group in found.groups(WRITTEN, pd.DataFrame())]
    assert groups == [4] * 11
    assert [len(block) for block in blocks] == [12, 12, 12, 8]


def test_a_cohort_without_rows_is_one_group_without_rows():
    found, held = rows.read_rows([], HELD, pd.Series([], dtype=object))
    assert held.empty
    assert [len(group) for group in found.groups(WRITTEN, pd.DataFrame())] == [0]
