"""Everything of who withdrew is gone from a folder, or found wherever it is left."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
import zlib

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohortvol.errors import ConfigError, TableError
from cohortvol.stages import manifest
from cohortvol.stages.manifest.removal import remove_scans
from cohortvol.store import schemas, tables
from cohortvol.tools.verify.search import search
from results_folder import MODEL, ResultsFolder, ingest_row
from withdrawn_cohort import ROWS, cohort, list_of

pytestmark = pytest.mark.slow


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


def test_a_damaged_record_of_removals_is_found_and_begun_anew(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    record = results / "private" / "withdrawn.json"
    assert record.stat().st_mode & 0o077 == 0
    record.write_bytes(record.read_bytes().replace(b"a", b"b"))
    with pytest.raises(TableError, match=r"withdrawn\.json: damaged"):
        search(results, withdrawn)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    assert search(results, withdrawn)["exit_code"] == 0


def test_a_single_scan_may_be_withdrawn_and_its_subject_stays(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "scan_id\na-1\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    scans = manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    assert scans["scan_id"].tolist() == ["b-1", "a-2", "c-1"]
    assert search(results, withdrawn)["exit_code"] == 0


def png_with(text):
    data = b"Author\0\0" + zlib.compress(text)
    size = len(data).to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n" + size + b"zTXt" + data + zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    )


def zip_with(text, name="inner.txt"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return stream.getvalue()


def tar_with(text):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("inner.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return stream.getvalue()


def parquet_with(text, way):
    words = pa.array([text.decode(), "other"])
    table = pa.table({"note": words})
    if way == "dictionary":
        table = pa.table({"note": words.dictionary_encode()}).slice(1)
    elif way == "metadata":
        table = pa.table({"note": ["other"]}).replace_schema_metadata({"who": text})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


PLACES = {
    "plain.txt": lambda text: b"of " + text,
    "windows.txt": lambda text: text.decode().encode("utf-16"),
    "data.zip": zip_with,
    "zip.zip": lambda text: zip_with(zip_with(text)),
    "name.zip": lambda text: zip_with(b"x", text.decode()),
    "data.tar.gz": tar_with,
    "data.gz": gzip.compress,
    "data.bz2": bz2.compress,
    "data.xz": lzma.compress,
    "data.zst": lambda text: pa.compress(text, "zstd", asbytes=True),
    "picture.png": png_with,
    "picture.svg": lambda text: b"<svg><desc>" + text + b"</desc></svg>",
    "page.html": lambda text: b"<img src='data:;base64," + base64.b64encode(png_with(text)),
    "page.pdf": lambda text: b"%PDF-1.4\nstream\n" + zlib.compress(text) + b"\nendstream",
    "kerned.pdf": lambda text: b"%PDF-1.4\n[(" + text[:4] + b") -30 (" + text[4:] + b")] TJ",
    "titled.pdf": lambda text: (
        b"%PDF-1.4\n/Title <FEFF" + text.decode().encode("utf-16-be").hex().encode() + b">"
    ),
    "values.parquet": lambda text: parquet_with(text, "values"),
    "dictionary.parquet": lambda text: parquet_with(text, "dictionary"),
    "metadata.parquet": lambda text: parquet_with(text, "metadata"),
    "escaped.json": lambda text: json.dumps({"note": text.decode()}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_scans_and_images_of_who_is_gone_are_found_wherever_they_lie(tmp_path, name):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    rows = [("CANARY-m\u00fc", "anna"), ("b-1", "bert")] if name == "escaped.json" else [
        ("CANARY-1", "anna"), ("b-1", "bert")
    ]  # fmt: skip
    hashed = name == "escaped.json"
    manifest.run(cohort(tmp_path, rows), results, hash_ids=hashed)
    manifest.run(cohort(tmp_path, rows), results, hash_ids=hashed, withdrawals=withdrawn)
    for wanted in (rows[0][0], str(tmp_path / f"{rows[0][0]}.nii"), f"{rows[0][0]}.nii"):
        (results / name).write_bytes(PLACES[name](wanted.encode()))
        found = search(results, withdrawn)
        assert set(found["hits"]) == {name}, wanted
        assert found["exit_code"] == 3
    (results / name).write_bytes(PLACES[name](b"CANARY-12"))
    assert search(results, withdrawn)["exit_code"] == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c"),
        ("a.gz", gzip.compress(b"text", mtime=0)[:-9]),
        ("a.zip", b"PK\x03\x04"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_looked_into_is_no_proof(tmp_path, name, content):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    (results / name).write_bytes(content)
    found = search(results, withdrawn)
    assert set(found["unread"]) == {name}
    assert found["exit_code"] == 3


def test_folders_of_snakemake_and_empty_ones_are_searched_too(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    beside = tmp_path / ".snakemake"
    record = base64.urlsafe_b64encode(b"results/segment/m/0000/a-2_dseg.nii.gz").decode()
    for path, text in {f"metadata/{record}": "{}", "log/run.log": "no file a-1.nii"}.items():
        (beside / path).parent.mkdir(parents=True)
        (beside / path).write_text(text)
    (results / "a-1").mkdir()
    os.symlink("/data/anna", results / "link", target_is_directory=True)
    found = search(results, withdrawn, beside=[beside, tmp_path / "none"])
    logs = {str(beside / "metadata" / record), str(beside / "log" / "run.log")}
    assert set(found["hits"]) == {"a-1", "link", *logs}


def test_with_hashed_ids_nothing_is_proven_without_their_salt(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results, hash_ids=True)
    salt = (results / "private" / "salt").rename(tmp_path / "salt")
    with pytest.raises(ConfigError, match="--salt-file"):
        search(results, withdrawn)
    other = tmp_path / "other"
    other.write_bytes(bytes(32))
    with pytest.raises(ConfigError, match="not the salt"):
        search(results, withdrawn, other)
    assert "manifest/scans.parquet" in search(results, withdrawn, salt)["hits"]


def test_an_image_that_somebody_else_has_too_is_not_looked_for(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    path = cohort(tmp_path, ROWS)
    path.write_text(path.read_text().replace("a-1.nii", "b-1.nii"))
    manifest.run(path, results)
    manifest.run(path, results, withdrawals=withdrawn)
    assert search(results, withdrawn)["exit_code"] == 0


def with_label_maps(tmp_path, of_anna, of_others):
    """A manifest whose label maps lie at such paths, with the scan's number for {}."""
    path = cohort(tmp_path, ROWS)
    lines = path.read_text().splitlines()
    given = [(of_anna if subject == "anna" else of_others).format(scan) for scan, subject in ROWS]
    rows = [",".join(pair) for pair in zip(lines, ["dseg", *given], strict=True)]
    return list_of(tmp_path, "\n".join(rows) + "\n", "scans.csv")


@pytest.mark.parametrize(
    ("of_anna", "of_others", "told"),
    [
        ("/seg/M7{}.nii.gz", "/seg/{}.nii.gz", "copied M7a-1.nii.gz"),
        ("/seg/M7{}", "/seg/{}", "listed /seg/M7a-1/liver.nii.gz"),
        ("/seg/M7{}/*.nii.gz", "/seg/{}/*.nii.gz", "listed seg/M7a-1/liver.nii.gz"),
        ("/seg/M7{}_*.nii.gz", "/seg/{}_*.nii.gz", "read /seg/M7a-1_liver.nii.gz"),
        ("/seg/*/M7{}.nii.gz", "/seg/*/{}.nii.gz", "read /seg/liver/M7a-1.nii.gz"),
        ("/seg/*_M7{}_x.nii", "/seg/*_{}_x.nii", "read liver_M7a-1_x.nii"),
    ],
)
@pytest.mark.parametrize("removed", [False, True])
def test_label_maps_made_elsewhere_are_looked_for(tmp_path, of_anna, of_others, told, removed):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    path = with_label_maps(tmp_path, of_anna, of_others)
    manifest.run(path, results)
    if removed:
        manifest.run(path, results, withdrawals=withdrawn)
    before = search(results, withdrawn)["hits"]
    assert bool(before) != removed
    (results / "mine.log").write_text(told)
    assert search(results, withdrawn)["hits"] == before | {"mine.log": 1}
    for other in ("read /seg/liver.nii.gz and seg/b-1/liver.nii.gz", "*.nii.gz /seg/b-1_liver.nii"):
        (results / "mine.log").write_text(other)
        assert search(results, withdrawn)["hits"] == before


def test_the_digest_of_a_label_map_made_elsewhere_is_looked_for(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    rows = [ingest_row(scan_id, dseg_sha256=f"labels{n}") for n, (scan_id, _) in enumerate(ROWS)]
    ingested = tables.append_rows(rows, schemas.INGEST)
    tables.write_table(results / "ingest" / "0000.parquet", ingested, schemas.INGEST)
    for text, is_theirs in (("labels2", True), ("labels1", False)):
        (results / "mine.json").write_text(json.dumps({"sha256": text}))
        assert ("mine.json" in search(results, withdrawn)["hits"]) == is_theirs


def test_the_digest_of_a_companion_is_looked_for_and_remembered(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    rows = [
        ingest_row(
            scan_id,
            companions=json.dumps(
                {"fat": {"image_sha256": f"fat of {n}", "image": f"/elsewhere/fat{n}.nii.gz"}}
            ),
        )
        for n, (scan_id, _) in enumerate(ROWS)
    ]
    path = results / "ingest" / "0000.parquet"
    tables.write_table(path, tables.append_rows(rows, schemas.INGEST), schemas.INGEST)
    told = {"fat of 2": True, "fat2.nii.gz": True, "fat of 1": False, "fat1.nii.gz": False}
    for is_removed in (False, True):
        if is_removed:
            manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
        for text, is_theirs in told.items():
            (results / "mine.json").write_text(json.dumps({"told": text}))
            hits = search(results, withdrawn)["hits"]
            assert ("mine.json" in hits) == is_theirs, (is_removed, text)


def test_tables_of_decisions_in_the_folder_lose_their_rows_and_inputs_do_not(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    head = "scan_id,structure,decision,reviewer,date,note,why\n"
    todo = results / "review" / "todo.csv"
    todo.parent.mkdir()
    kept = head + 'b-1,liver,exclude,kk,2026-11-01,"two\nlines",flag\n'
    todo.write_text(kept + 'a-1,*,,,,"three\n\nlines",flag\n' + "c-1,*,,,,,\n")
    other = results / "mine.csv"
    other.write_text("scan_id,note\na-1,x\n")
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    assert todo.read_text() == kept + "c-1,*,,,,,\n"
    assert set(search(results, withdrawn)["hits"]) == {"mine.csv"}


def test_the_receipt_of_a_scan_that_left_the_manifest_may_name_the_same_image(tmp_path):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results)
    rows = [ingest_row(scan_id, image_sha256="same-bytes") for scan_id, _ in ROWS]
    ingested = tables.append_rows(rows, schemas.INGEST)
    tables.write_table(results / "ingest" / "0000.parquet", ingested, schemas.INGEST)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=withdrawn)
    left = pd.read_parquet(results / "ingest" / "0000.parquet")
    assert search(results, withdrawn)["hits"] == {}
    tables.write_table(results / "ingest" / "0000.parquet", left[:0], schemas.INGEST)
    receipt = ResultsFolder(results).receipt("0000", "b-1", image_sha256="same-bytes")
    assert search(results, withdrawn)["hits"] == {}
    receipt.rename(results / "mine.json").write_text('{"sha256": "same-bytes"}')
    assert set(search(results, withdrawn)["hits"]) == {"mine.json"}
