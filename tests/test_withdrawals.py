"""Lists of people who withdrew, as they come; and everything of them gone from a folder."""

from __future__ import annotations

import gzip
import os

import pandas as pd
import pytest

from cohortvol import manifest, tables
from cohortvol.errors import ConfigError
from cohortvol.manifest.removal import remove_scans
from cohortvol.verify.search import search
from cohortvol.withdrawals import read_withdrawals
from results_folder import MODEL, ResultsFolder, ingest_row


def list_of(tmp_path, text, name="withdrawn.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("w.csv", "subject_id,date\nsub-01,2026-11-01\n sub-02 ,\n", {"sub-01", "sub-02"}),
        ("w.tsv", "participant_id\tsite\nsub-01\tA\n", {"sub-01"}),
        ("w12345_20261101.csv", "1000012\n1000034\n", {"1000012", "1000034"}),
        ("w.txt", "\ufeffJane Doe\n\nM\u00fcller\n", {"Jane Doe", "M\u00fcller"}),
        ("w.txt", "Mu\u0308ller\n", {"M\u00fcller"}),
        ("w.csv", "scan_id\nsub-01_T1w\n", {"sub-01_T1w"}),
        ("w.csv", "subject_id\n", set()),
        ("w.csv", "", set()),
    ],
)
def test_a_list_is_read_in_the_forms_in_which_it_comes(tmp_path, name, text, ids):
    assert read_withdrawals(list_of(tmp_path, text, name)) == ids


def test_a_parquet_list_is_read_too(tmp_path):
    pd.DataFrame({"subject_id": ["a", "b"]}).to_parquet(tmp_path / "w.parquet")
    assert read_withdrawals(tmp_path / "w.parquet") == {"a", "b"}


def test_a_table_whose_ids_cannot_be_told_is_refused(tmp_path):
    path = list_of(tmp_path, "person,date\nsub-01,2026-11-01\n")
    with pytest.raises(ConfigError, match="no column subject_id or participant_id or scan_id"):
        read_withdrawals(path)
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read"):
        read_withdrawals(tmp_path / "none.csv")


def cohort(tmp_path, rows):
    """A manifest of these (scan_id, subject_id), all with an image."""
    for scan_id, _ in rows:
        image = tmp_path / f"{scan_id}.nii"
        if not image.exists():
            image.write_bytes(b"x" * 10)
    lines = [f"{scan_id},{scan_id}.nii,{subject}\n" for scan_id, subject in rows]
    return list_of(tmp_path, "scan_id,image,subject_id\n" + "".join(lines), "scans.csv")


ROWS = [("a-1", "anna"), ("b-1", "bert"), ("a-2", "anna"), ("c-1", "cleo")]


def table(results, name, columns):
    return tables.read_table(results / "manifest" / name, columns)


def test_rows_of_a_withdrawn_subject_leave_every_table_of_the_manifest(tmp_path, capsys):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results, shard_size=2)
    withdrawn = list_of(tmp_path, "anna\nnobody\n")
    scans = manifest.run(cohort(tmp_path, ROWS), results, shard_size=2, withdrawals=withdrawn)
    assert scans["scan_id"].tolist() == ["b-1", "c-1"]
    assert scans["manifest_line"].tolist() == [3, 5]
    assert scans["shard"].tolist() == ["0000", "0001"]
    assert table(results, "shards.parquet", tables.SHARDS)["scan_id"].tolist() == ["b-1", "c-1"]
    assert "2 in the list, 1 of them known here; 2 scans" in capsys.readouterr().out
    assert search(results, list_of(tmp_path, "scan_id\na-1\na-2\nanna\n"))["hits"] == {}


def test_the_first_run_may_have_a_list_already(tmp_path):
    scans = manifest.run(
        cohort(tmp_path, ROWS), tmp_path / "results", withdrawals=list_of(tmp_path, "anna\n")
    )
    assert scans["scan_id"].tolist() == ["b-1", "c-1"]


def test_a_subject_that_left_the_manifest_long_ago_is_found(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    for _ in range(2):  # after the first, manifest/scans.parquet knows nothing of her
        manifest.run(cohort(tmp_path, ROWS[1:2]), results)
    label_map = results / "segment" / MODEL / "0000" / "a-2_dseg.nii.gz"
    label_map.parent.mkdir(parents=True)
    label_map.write_bytes(b"hers")
    manifest.run(cohort(tmp_path, ROWS[1:2]), results, withdrawals=list_of(tmp_path, "anna\n"))
    assert not label_map.exists()


def test_a_corrected_subject_is_withdrawn_under_its_new_name(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, [("a-1", "ana"), ("b-1", "bert")]), results)
    receipt = results / "segment" / MODEL / "0000" / "a-1.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text("{}")
    renamed = cohort(tmp_path, [("a-1", "anna"), ("b-1", "bert")])
    manifest.run(renamed, results, withdrawals=list_of(tmp_path, "anna\n"))
    assert not receipt.exists()


def test_tables_of_those_who_stay_keep_their_times(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    rows = [ingest_row(scan_id) for scan_id, _ in sorted(ROWS)]
    ingested = results / "ingest" / "0000.parquet"
    tables.write_table(ingested, tables.append_rows(rows, tables.INGEST), tables.INGEST)
    shard = results / "manifest" / "shards" / "0000.parquet"
    before = [path.stat().st_mtime_ns for path in (shard, ingested)]
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=list_of(tmp_path, "anna\n"))
    assert [path.stat().st_mtime_ns for path in (shard, ingested)] == before
    assert tables.read_table(ingested, tables.INGEST)["scan_id"].tolist() == ["b-1", "c-1"]
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=list_of(tmp_path, "anna\n"))
    assert shard.stat().st_mtime_ns == before[0]


def test_a_shard_that_also_gets_a_new_scan_has_work(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    ingested = results / "ingest" / "0000.parquet"
    rows = tables.append_rows([ingest_row("a-1"), ingest_row("b-1")], tables.INGEST)
    tables.write_table(ingested, rows, tables.INGEST)
    grown = cohort(tmp_path, [*ROWS, ("d-1", "dora")])
    manifest.run(grown, results, withdrawals=list_of(tmp_path, "anna\n"))
    assert not ingested.exists()


def test_a_subject_who_consents_again_is_read_again(tmp_path):
    results = tmp_path / "results"
    listed = results / "manifest" / "shards" / "0000.parquet"
    manifest.run(cohort(tmp_path, ROWS), results)
    before = listed.read_bytes()
    ingested = results / "ingest" / "0000.parquet"
    rows = tables.append_rows([ingest_row(scan_id) for scan_id, _ in ROWS], tables.INGEST)
    tables.write_table(ingested, rows, tables.INGEST)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=list_of(tmp_path, "anna\n"))
    assert ingested.exists()
    manifest.run(cohort(tmp_path, ROWS), results)
    assert listed.read_bytes() == before  # Snakemake sees nothing new in it
    assert not ingested.exists()


def test_a_bad_row_of_a_withdrawn_subject_is_no_complaint(tmp_path):
    path = list_of(
        tmp_path, "scan_id,image,subject_id\nbad id,x.nii,anna\nb-1,b.nii,bert\n", "m.csv"
    )
    scans = manifest.check(path, tmp_path / "r", withdrawals=list_of(tmp_path, "anna\n"))
    assert scans["scan_id"].tolist() == ["b-1"]


def test_files_of_a_scan_go_and_those_with_a_longer_name_stay(tmp_path):
    folder = ResultsFolder(tmp_path)
    folder.write()
    shard = tmp_path / "segment" / MODEL / "0000"
    gone, kept = [], []
    for scan_id, files in (("sub-01", gone), ("sub-010", kept), ("sub-01_dseg", kept)):
        for end in (".json", "_dseg.nii.gz", ".started.json"):
            files.append(shard / f"{scan_id}{end}")
        files.append(shard / f".{scan_id}.json.12-ab.tmp")
    for path in (*gone, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    log = tmp_path / "logs" / "ingest" / "0000.log"
    log.parent.mkdir(parents=True)
    log.write_text("sub-01: quarantined\nsub-010: quarantined\n0000: 2 ready\n")
    remove_scans(tmp_path, {"sub-01": "0000"}, {"sub-01"})
    assert not [path for path in gone if path.exists()]
    assert not [path for path in kept if not path.exists()]
    assert log.read_text() == "sub-010: quarantined\n0000: 2 ready\n"
    for place in ("ingest", f"segment/{MODEL}", f"measure/{MODEL}"):
        left = pd.read_parquet(tmp_path / place / "0000.parquet")["scan_id"]
        assert "sub-01" not in set(left), place
        assert len(left), place


def test_what_a_killed_writer_left_of_any_table_goes(tmp_path):
    ResultsFolder(tmp_path).write()
    left = [tmp_path / name for name in ("measure/toy/.0000.parquet.1-a.tmp", ".scans.1-a.tmp")]
    for path in left:
        path.write_text("sub-01")
    remove_scans(tmp_path, {"sub-01": "0000"}, {"sub-01"})
    assert not [path for path in left if path.exists()]


def test_a_damaged_table_of_the_shard_goes_as_it_may_hold_the_scan(tmp_path):
    ResultsFolder(tmp_path).write()
    path = tmp_path / "ingest" / "0000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    remove_scans(tmp_path, {"sub-01": "0000"}, {"sub-01"})
    assert not path.exists()


def test_the_search_finds_ids_in_names_bytes_columns_and_links(tmp_path):
    results = tmp_path / "results"
    ResultsFolder(results).write()
    (results / "logs").mkdir()
    (results / "logs" / "a.log").write_text("wrote sub-03_T1w\n")
    (results / "sub-03.txt").write_text("")
    (results / "packed.nii.gz").write_bytes(gzip.compress(b"0" * 1000) + gzip.compress(b" sub-03 "))
    (results / "other.txt").write_text("sub-030 xsub-03 sub-031")
    (results / "escaped.json").write_text('{"name": "M\\u00fcller"}')
    os.symlink("/data/sub-03.nii", results / "link")
    found = search(results, list_of(tmp_path, "sub-03\nM\u00fcller\n"))
    text = {"logs/a.log", "sub-03.txt", "packed.nii.gz", "escaped.json", "link"}
    parquet = {
        "manifest/scans.parquet", "ingest/0000.parquet", f"segment/{MODEL}/0000.parquet",
        f"measure/{MODEL}/0000.parquet",
    }  # fmt: skip
    assert set(found["hits"]) == text | parquet
    assert found["exit_code"] == 3
    assert found["files"] == sum(len(names) for _, _, names in os.walk(results))


def test_a_short_id_is_looked_for_where_ids_stand_alone(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "numbers.csv").write_text("n,volume_ml\n12,34\n")
    (results / "scans.csv").write_text("scan_id,n\n12,1\n")
    found = search(results, list_of(tmp_path, "12\n"))
    assert set(found["hits"]) == {"scans.csv"}
    assert found["short"] == 1
