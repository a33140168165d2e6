"""Damage to single tables is found, said in words, and repaired by deleting no more than needed."""

from __future__ import annotations

import errno
import json
import os

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cohortvol import cli
from cohortvol.errors import ConfigError, TableError
from cohortvol.store import schemas, tables
from cohortvol.store.files import commit_digests
from cohortvol.store.records import Job, noted
from cohortvol.tools.verify import quick
from cohortvol.tools.verify.folder import repair, verify
from cohortvol.tools.verify.places import effect_of, holds_no_results, remake_of
from cohortvol.tools.verify.quick import damaged_tables, remove_damaged
from results_folder import MODEL, ResultsFolder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "shards.parquet"
    frame = pd.DataFrame(
        {"scan_id": ["a", "b", "c"], "shard": "0000", "subject_id": ["a", "b", None]}
    )
    tables.write_table(path, frame, schemas.SHARDS)
    return path


def flips(path):
    """The file with each of its bytes changed in turn, with the place of the change."""
    content = path.read_bytes()
    for at, byte in enumerate(content):
        path.write_bytes(content[:at] + bytes([byte ^ 0x01]) + content[at + 1 :])
        yield at
    path.write_bytes(content)


def test_no_byte_of_a_table_can_change_unseen_but_the_version_of_its_writer(table):
    writer = pq.read_metadata(table).created_by.encode()
    start = table.read_bytes().index(writer)
    digits = {start + n for n, letter in enumerate(writer.decode()) if letter.isdigit()}
    unseen = set()
    for at in flips(table):
        try:
            tables.read_as_written(table, schemas.SHARDS)
            unseen.add(at)
        except TableError:
            continue
    assert unseen <= digits
    assert tables.read_as_written(table, schemas.SHARDS).num_rows == 3


def test_a_table_of_another_pyarrow_is_no_damage(table, monkeypatch):
    monkeypatch.setattr(tables.pa, "cpp_version", "1.0.0")
    assert tables.read_as_written(table, schemas.SHARDS).num_rows == 3


def test_a_list_of_digests_is_what_sha256sum_reads(tmp_path):
    for name in ("b.csv", "a.csv", "last.json"):
        (tmp_path / name).write_text(name)
    commit_digests(tmp_path, [tmp_path / "b.csv", tmp_path / "a.csv"], last="last.json")
    lines = (tmp_path / "files.sha256").read_text().splitlines()
    assert [line[64:] for line in lines] == ["  a.csv", "  b.csv", "  last.json"]


@pytest.fixture
def results(tmp_path):
    """A folder that was never finished: tables of the stages and nothing after them."""
    folder = ResultsFolder(tmp_path / "results").write()
    shards = folder.manifest[["scan_id", "shard"]].dropna()
    tables.write_table(folder.folder / "manifest/shards.parquet", shards, schemas.SHARDS)
    return folder.folder


def test_what_is_not_there_yet_is_listed_and_nothing_is_deleted_for_it(results):
    found = verify(results)
    missing = {one.path for one in found["problems"] if one.kind == "missing"}
    assert {"volumes.parquet", "manifest/shards/0000.parquet", "report/files.sha256"} <= missing
    assert f"segment/{MODEL}/0000/sub-01.json" in missing
    before = {path: path.read_bytes() for path in results.rglob("*.parquet")}
    missing_alone = [one for one in found["problems"] if one.path == "volumes.parquet"]
    assert repair(results, missing_alone) == []
    assert {path: path.read_bytes() for path in results.rglob("*.parquet")} == before


def test_a_damaged_table_is_a_line_with_what_becomes_of_it(results, capsys):
    path = results / "measure" / MODEL / "0000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert cli.run(["verify", "--results", str(results)]) == 3
    lines = capsys.readouterr().out.splitlines()
    of_table = [
        line for line in lines if line.startswith(f"measure/{MODEL}/0000.parquet: damaged: ")
    ]
    assert of_table
    assert of_table[0].endswith("; the shard is measured again")
    assert cli.run(["verify", "--results", str(results), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["damaged"] == 1
    assert sum(found["counts"].values()) == len(found["problems"])


def test_tables_that_do_not_fit_together_are_out_of_date(results):
    path = f"measure/{MODEL}/0000.parquet"
    rows = tables.read_table(results / path, schemas.VOLUMES)
    tables.write_table(results / path, rows[rows["scan_id"] != "sub-03"], schemas.VOLUMES)
    found = {one.path: one for one in verify(results)["problems"]}
    assert found[path].kind == "out of date"
    assert found[path].what == "lacks 1 and has 0 other scans than segment"
    assert found[path].remake == (path,)


def test_a_table_is_missed_where_no_scan_was_usable(results):
    rows = tables.read_table(results / "manifest/scans.parquet", schemas.MANIFEST)
    scans = rows[["manifest_line", "scan_id"]].assign(state="quarantined", reason="SRC_EMPTY")
    tables.write_table(results / "scans.parquet", scans, schemas.SCANS)
    path = f"measure/{MODEL}/0000.parquet"
    (results / path).unlink()
    found = {one.path: one.kind for one in verify(results)["problems"]}
    assert found[path] == "missing"


def test_a_folder_without_a_manifest_is_no_results_folder(tmp_path):
    with pytest.raises(ConfigError, match="not a results folder"):
        verify(tmp_path)


def test_a_label_map_goes_with_its_receipt_and_a_table_alone():
    of_scan = ["segment/m/0000/a_dseg.nii.gz", "segment/m/0000/a.json", "segment/m/0000.parquet"]
    assert remake_of(of_scan[0]) == remake_of(of_scan[1]) == of_scan
    assert effect_of(of_scan[0]) == "this scan is segmented again"
    assert remake_of("measure/m/0000.parquet") == ["measure/m/0000.parquet"]
    assert remake_of("private/salt") == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("logs/ingest/0000.log", True),
        (".in-use", True),
        ("segment/m/0000/.in-use", True),
        ("segment/m/0000/.a.json.12-ab.tmp", True),
        ("segment/m/0000/a.started.json", True),
        ("segment/m/0000.resources.json", True),
        ("segment/m/0000/a.json", False),
        ("report/index.html", False),
    ],
)
def test_only_these_files_hold_no_results(path, expected):
    assert holds_no_results(path) is expected


@pytest.mark.parametrize("cut", [0, 4, 300, -1, -5])
def test_a_table_cut_short_is_seen_without_reading_it(results, cut):
    assert damaged_tables(results) == []
    path = results / "ingest" / "0001.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    assert damaged_tables(results) == ["ingest/0001.parquet"]


def test_a_table_with_bytes_lost_in_its_middle_is_seen_without_reading_it(results):
    path = results / "ingest" / "0001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:200] + content[260:])
    assert damaged_tables(results) == ["ingest/0001.parquet"]


def test_a_flipped_bit_in_a_page_is_seen_before_a_run(results):
    path = results / "ingest" / "0001.parquet"
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start + 40] ^= 1
    path.write_bytes(content)
    assert damaged_tables(results) == ["ingest/0001.parquet"]
    assert damaged_tables(results, sound={"ingest/0001.parquet"}) == []


def test_a_damaged_table_is_removed(results):
    path = results / "manifest" / "scans.parquet"
    path.write_bytes(b"")
    assert damaged_tables(results) == ["manifest/scans.parquet"]
    remove_damaged(results, damaged_tables(results))
    assert not path.exists()
    assert not (results / "manifest" / "index.tsv").exists()  # so that the manifest runs


def test_a_table_of_another_list_of_scans_is_out_of_date_and_its_times_say_nothing(results):
    path, listed = "ingest/0001.parquet", "manifest/shards/0001.parquet"
    job = Job("ingest", "0001", (path,), {"list_of_scans": listed})
    with noted(job.text(results)):
        pass
    os.utime(results / path, (10**9, 10**9))

    def told():
        return [one.what for one in verify(results)["problems"] if one.path == path]

    assert told() == []
    table = tables.read_table(results / path, schemas.INGEST)[["scan_id", "image"]]
    tables.write_table(results / listed, table.assign(n_bytes=11), schemas.SHARD)
    assert told() == ["was made of another list of scans"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("reader", ["read_metadata", "ParquetFile"])
def test_a_table_that_cannot_be_read_now_is_not_deleted(results, monkeypatch, reader, number):
    def refuse(*_, **__):
        raise OSError(number, "not now")

    monkeypatch.setattr(quick.pq, reader, refuse)
    assert damaged_tables(results) == []
    assert (results / "ingest" / "0001.parquet").exists()
