"""Lists of people who withdrew, as they come; and everything of them gone from a folder."""

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
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import withdrawal_lists
from cohortvol import cli
from cohortvol.errors import ConfigError, TableError, WithdrawalError
from cohortvol.stages import manifest
from cohortvol.stages.manifest.removal import remove_scans
from cohortvol.store import schemas, tables
from cohortvol.store.records import Job, Outdated, noted
from cohortvol.store.withdrawals import read_withdrawals, unknown_of
from cohortvol.tools.verify.search import search
from results_folder import MODEL, ResultsFolder, ingest_row

pytestmark = pytest.mark.slow


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
    assert set(read_withdrawals(list_of(tmp_path, text, name))) == ids


def test_a_parquet_list_is_read_too(tmp_path):
    pd.DataFrame({"subject_id": ["a", "b"]}).to_parquet(tmp_path / "w.parquet")
    assert read_withdrawals(tmp_path / "w.parquet") == {"a": 2, "b": 3}


def test_a_table_whose_ids_cannot_be_told_is_refused(tmp_path):
    path = list_of(tmp_path, "person,date\nsub-01,2026-11-01\n")
    with pytest.raises(TableError, match="no column subject_id or participant_id or scan_id"):
        read_withdrawals(path)
    with pytest.raises(TableError, match=r"none\.csv: no such file"):
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
    assert table(results, "shards.parquet", schemas.SHARDS)["scan_id"].tolist() == ["b-1", "c-1"]
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


LISTED, INGESTED = "manifest/shards/0000.parquet", "ingest/0000.parquet"
INGEST = Job("ingest", "0000", (INGESTED,), {"list_of_scans": LISTED})


def ingest(results, rows):
    """The table of ingest, with the record of what it was made of."""
    table = tables.append_rows([ingest_row(scan_id) for scan_id, _ in sorted(rows)], schemas.INGEST)
    with noted(INGEST.text(results)):
        tables.write_table(results / INGESTED, table, schemas.INGEST)


def why(results):
    """Why the next run makes this table again, if it does."""
    return Outdated(results).why(INGEST, ["0000"])


def test_tables_of_those_who_stay_are_not_made_again(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    ingest(results, ROWS)
    assert why(results) is None
    for _ in range(2):
        manifest.run(cohort(tmp_path, ROWS), results, withdrawals=list_of(tmp_path, "anna\n"))
        found = tables.read_table(results / INGESTED, schemas.INGEST)["scan_id"].tolist()
        assert (found, why(results)) == (["b-1", "c-1"], None)


def test_a_shard_that_also_gets_a_new_scan_has_work(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    ingest(results, ROWS)
    grown = cohort(tmp_path, [*ROWS, ("d-1", "dora")])
    manifest.run(grown, results, withdrawals=list_of(tmp_path, "anna\n"))
    assert why(results) == "list of scans changed"


def test_a_subject_who_consents_again_is_read_again(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results)
    before = (results / LISTED).read_bytes()
    ingest(results, ROWS)
    manifest.run(cohort(tmp_path, ROWS), results, withdrawals=list_of(tmp_path, "anna\n"))
    assert why(results) is None
    manifest.run(cohort(tmp_path, ROWS), results)
    assert (results / LISTED).read_bytes() == before
    assert why(results) == "list of scans changed"


@pytest.mark.parametrize(
    ("rows", "meanwhile"),
    [(ROWS[:1], ROWS[:1]), (ROWS, [*ROWS, ("d-1", "dora")])],
    ids=["emptied", "grown"],
)
def test_a_shard_whose_list_comes_back_as_it_was_is_read_again(tmp_path, rows, meanwhile):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, rows), results)
    before = (results / LISTED).read_bytes()
    ingest(results, rows)
    withdrawn = list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, meanwhile), results, withdrawals=withdrawn)
    manifest.run(cohort(tmp_path, rows), results)
    assert (results / LISTED).read_bytes() == before
    assert "a-1" not in tables.read_table(results / INGESTED, schemas.INGEST)["scan_id"].tolist()
    assert why(results) == "list of scans changed"


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


# --- lists of which nobody, or not everybody, is known ---------------------------------------


@pytest.mark.parametrize(
    ("listed", "near", "how"),
    [
        ("ANNA", "anna", "other case of letters"),
        ("an na", "anna", "blanks or characters that do not show"),
        ("an\u200bna", "anna", "blanks or characters that do not show"),
        ("\uff41nna", "anna", "another form of Unicode"),
        ("sub-anna", "anna", "with or without sub-"),
        ("anna # left", "anna", "more than the id"),
        ("anna;2026", "anna", "more than the id"),
        ('="anna"', "anna", "more than the id"),
        ("71", "0071", "leading zeros"),
        ("071.0", "0071", "more than the id"),
        ("1000012.0", "1000012", "more than the id"),
        ("1000012,0", "1000012", "more than the id"),
        ("1.000.012", "1000012", "more than the id"),
        ("1.000012E+06", "1000012", "a number that lost digits"),
        ("site-a-1", "site_a_1", "dashes and underscores"),
        ("SITE-A-1", "site_a_1", "in several ways"),
        ("nobody", None, ""),
        ("anna2", None, ""),
    ],
)
def test_an_id_that_was_never_known_is_told_with_what_it_is_nearly(listed, near, how):
    known = {"anna", "bert", "0071", "1000012", "site_a_1"}
    found = unknown_of(Path("w.csv"), {listed: 3, "bert": 4}, {"bert"}, known)
    assert found.ids == {listed: (3, how, near)}
    assert not found.is_all
    assert f"line 3: {listed!r}" in found.text()
    assert listed not in found.text(named=False)
    assert near is None or near not in found.text(named=False)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_list_of_which_nobody_is_known_stops_before_anything_is_made(tmp_path, hashed):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ROWS), results, hash_ids=hashed)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    withdrawn = list_of(tmp_path, "ANNA\nnobody\n")
    for act in (manifest.check, manifest.run):
        with pytest.raises(WithdrawalError, match="none of the 2 ids was ever known") as raised:
            act(cohort(tmp_path, ROWS), results, hash_ids=hashed, withdrawals=withdrawn, named=True)
        assert raised.value.exit_code == 3
        assert ("nearly 'anna'" in str(raised.value)) is not hashed
        assert "other case of letters" in str(raised.value)
    after = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert after == before
    assert search(results, withdrawn)["exit_code"] == 3


def test_ids_that_were_never_here_are_told_and_stop_nothing(tmp_path, capsys):
    results = tmp_path / "results"
    withdrawn = list_of(tmp_path, "anna\nbert-\nnobody\n")
    words = ["manifest", "--manifest", str(cohort(tmp_path, ROWS)), "--results", str(results)]
    assert cli.run(words) == 0
    for _ in range(2):
        assert cli.run([*words, "--withdrawals", str(withdrawn)]) == 3
        told = capsys.readouterr().err
        assert "2 of 3 ids were never known here" in told
        assert "line 2: 'bert-'; nearly 'bert' (dashes and underscores)" in told
        assert "line 3: 'nobody'\n" in told
    assert cli.run([*words, "--withdrawals", str(withdrawn), "--as-job"]) == 0
    told = capsys.readouterr().err
    assert "line 2; nearly one that is" in told
    assert "bert" not in told
    found = search(results, withdrawn)
    assert found["hits"] == {}
    assert found["unknown"] == {2: "dashes and underscores", 3: ""}
    assert found["exit_code"] == 3


@pytest.mark.parametrize("hashed", [False, True])
def test_a_list_that_was_applied_is_known_when_nothing_here_names_them_any_more(tmp_path, hashed):
    results, withdrawn = tmp_path / "results", list_of(tmp_path, "anna\n")
    manifest.run(cohort(tmp_path, ROWS), results, hash_ids=hashed)
    manifest.run(cohort(tmp_path, ROWS), results, hash_ids=hashed, withdrawals=withdrawn)
    rest = cohort(tmp_path, ROWS[1:2])
    for _ in range(2):
        manifest.run(rest, results, hash_ids=hashed, withdrawals=withdrawn)
    assert search(results, withdrawn)["exit_code"] == 0
    assert search(results, list_of(tmp_path, "a-1\n"))["exit_code"] == 0
    near = search(results, list_of(tmp_path, "Anna\n"))
    assert near["unknown"] == {1: "of somebody who was removed before"}
    assert not [path for path in results.rglob("*") if path.is_file() and names(path, b"anna")]


def names(path, text):
    return text in path.read_bytes() or text in path.name.encode()


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


# --- where a name may be ---------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return withdrawal_lists.Cohort(tmp_path_factory.mktemp("lists"))


@pytest.mark.parametrize("one", withdrawal_lists.LISTS[::20], ids=lambda one: one.name)
def test_a_list_in_any_dialect_removes_and_proves_or_is_refused(
    finished, one, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert finished.judge(one) in withdrawal_lists.OUTCOMES


def test_there_are_lists_of_every_outcome_and_200_at_least():
    assert len({(one.file, one.content) for one in withdrawal_lists.LISTS}) >= 200


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
