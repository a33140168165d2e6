"""Lists of people who withdrew, as they come; and their rows gone from every table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import withdrawal_lists
import withdrawal_trial
from cohortvol import cli
from cohortvol.errors import TableError, WithdrawalError
from cohortvol.stages import manifest
from cohortvol.store import schemas, tables
from cohortvol.store.withdrawals import read_withdrawals, unknown_of
from cohortvol.tools.verify.search import search
from results_folder import MODEL
from withdrawn_cohort import INGESTED, LISTED, ROWS, cohort, ingest, list_of, names, table, why

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return withdrawal_trial.Cohort(tmp_path_factory.mktemp("lists"))


@pytest.mark.parametrize("one", withdrawal_lists.LISTS[::20], ids=lambda one: one.name)
def test_a_list_in_any_dialect_removes_and_proves_or_is_refused(
    finished, one, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert finished.judge(one) in withdrawal_trial.OUTCOMES


def test_there_are_lists_of_every_outcome_and_200_at_least():
    assert len({(one.file, one.content) for one in withdrawal_lists.LISTS}) >= 200
