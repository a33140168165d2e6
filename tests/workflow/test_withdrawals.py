"""People withdraw from a finished cohort: the real workflow removes them, and proves it."""

import csv
import json
import re
import shutil
import time

import pandas as pd
import pytest

import dicom_fixture
import warm
from planted import found_in, written
from workflow_run import REPOSITORY, run

MODEL = "embedded-v2"
CANARY = re.compile(rb"CANARY[-A-Za-z0-9]*")
LOGS = REPOSITORY / ".snakemake" / "log"
STAY = ("stay-a", "stay-b", "stay-c")
GONE = ("CANARYanna", "CANARYbert", "CANARYcleo")
"""Anna has an image, Bert one of DICOM, and Cleo one that cannot be used."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def snakemake(*words, **settings):
    done = run(*words, shard_size=3, **settings)
    return done.stdout + done.stderr


def search(results, withdrawn):
    words = ("verify", "--results", results, "--withdrawn", withdrawn, "--json")
    done = warm.run("cohortvol", *words, cwd=REPOSITORY)
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"]
    # Snakemake keeps copies of other tests' results in the same checkout.
    found["hits"] = {
        name: hit
        for name, hit in found["hits"].items()
        if not name.startswith(".snakemake/backups/") or str(results) in name
    }
    return found


@pytest.fixture(scope="module")
def folder(simulated, tmp_path_factory):
    """Images, a manifest with everybody, one without those who leave, and the list of these."""
    folder = tmp_path_factory.mktemp("source")
    simulated(folder / "simulated", 4)
    images = sorted((folder / "simulated" / "images").glob("*.nii.gz"))
    broken = folder / "broken.nii.gz"
    broken.write_bytes(images[0].read_bytes()[:2000])
    series = dicom_fixture.write_series(folder / "series")
    rows = [
        ("stay-a_1", "stay-a", images[0]),
        ("CANARYanna_1", "CANARYanna", images[1]),
        ("stay-b_1", "stay-b", images[2]),
        ("CANARYbert_1", "CANARYbert", series),
        ("stay-c_1", "stay-c", images[3]),
        ("CANARYcleo_1", "CANARYcleo", broken),
    ]
    write(folder / "everybody.csv", rows)
    write(folder / "without.csv", [row for row in rows if row[1] in STAY])
    (folder / "withdrawn.csv").write_text("\n".join(GONE))
    return folder


def write(path, rows):
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["scan_id", "subject_id", "image", "age_years", "sex"])
        out.writerows([scan, who, image, 50 + n, "F"] for n, (scan, who, image) in enumerate(rows))


@pytest.fixture(scope="module")
def everybody(folder, tmp_path_factory):
    results = tmp_path_factory.mktemp("everybody") / "results"
    snakemake(folder / "everybody.csv", results)
    return results


@pytest.fixture
def given(folder, tmp_path):
    """The manifests and the list, newer than every result."""
    for name in ("everybody.csv", "without.csv", "withdrawn.csv"):
        (tmp_path / name).write_text((folder / name).read_text())
    return tmp_path


@pytest.fixture
def copy(everybody, tmp_path):
    return shutil.copytree(everybody, tmp_path / "results", symlinks=True)


def receipts(results):
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in results.glob("segment/*/*/*.json")
    }


def test_everything_of_the_withdrawn_goes_and_nobody_else_is_computed_again(given, copy, tmp_path):
    assert search(copy, given / "withdrawn.csv")["hits"]
    snakemake(given / "everybody.csv", copy)  # moved: converted images are made anew
    shutil.copytree(copy / "segment" / MODEL, copy / "segment" / "another-model")
    shutil.copytree(copy / "measure" / MODEL, copy / "measure" / "another-model")
    before = receipts(copy)
    began = time.time()
    told = snakemake(given / "everybody.csv", copy, withdrawals=given / "withdrawn.csv")
    assert "3 in the list, 3 of them known here; 3 scans" in told
    assert "rule segment" not in told
    assert "rule ingest" not in told
    found = search(copy, given / "withdrawn.csv")
    assert found["hits"] == {}
    assert found["files"] > 60
    assert not [path for path in written(copy, began) if found_in(CANARY, path)]
    after = receipts(copy)
    assert {name for name in before if "CANARY" in name} == set(before) - set(after)
    assert all(after[name] == before[name] for name in after)
    assert "Nothing to be done" in snakemake(
        given / "everybody.csv", copy, withdrawals=given / "withdrawn.csv"
    )


def test_the_tables_are_those_of_a_cohort_that_never_had_them(given, copy, tmp_path):
    never = tmp_path / "never"
    snakemake(given / "without.csv", never)
    # The rows left the manifest as well, and before the list was given.
    snakemake(given / "without.csv", copy)
    snakemake(given / "without.csv", copy, withdrawals=given / "withdrawn.csv")
    assert search(copy, given / "withdrawn.csv")["hits"] == {}
    for name in ("volumes.parquet", "analyse/slopes.parquet", "report/figures/trends.svg"):
        assert (copy / name).read_bytes() == (never / name).read_bytes(), name
    tables = [pd.read_parquet(results / "scans.parquet") for results in (copy, never)]
    places = ["shard", "label_map"]  # nobody who stays changes places
    assert tables[0].drop(columns=places).equals(tables[1].drop(columns=places))


def test_with_hashed_ids_ids_and_keys_go(folder, tmp_path):
    results = tmp_path / "results"
    snakemake(folder / "everybody.csv", results, hash_ids="true")
    before = search(results, folder / "withdrawn.csv")
    assert before["with_keys"]
    assert {"private/ids.csv", "scans.parquet"} < set(before["hits"])
    segmented = receipts(results)
    given = {"hash_ids": "true", "withdrawals": folder / "withdrawn.csv"}
    told = snakemake(folder / "everybody.csv", results, **given)
    assert "rule segment" not in told
    assert search(results, folder / "withdrawn.csv")["hits"] == {}
    left = receipts(results)
    assert len(left) == 3
    assert left.items() <= segmented.items()
    verified = warm.run("cohortvol", "verify", "--deep", "--results", results, cwd=REPOSITORY)
    assert verified.returncode == 0, verified.stdout


def test_decisions_on_them_and_bad_rows_of_theirs_stop_nothing(given, copy, tmp_path):
    decisions = tmp_path / "decisions.csv"
    head = "scan_id,structure,decision,reviewer,date,note"
    rows = [f"{scan}_1,,exclude,ab,2026-11-20,x" for scan in ("CANARYanna", "stay-a")]
    decisions.write_text("\n".join([head, *rows]))
    text = (given / "everybody.csv").read_text().replace(",53,", ",CANARYage,")
    (given / "bad.csv").write_text(text)
    settings = {"withdrawals": given / "withdrawn.csv", "decisions": decisions}
    told = snakemake(given / "bad.csv", copy, **settings)
    assert "CANARY" not in (copy / "logs" / "assemble" / "assemble.log").read_text()
    assert "CANARYage" not in told
    assert search(copy, given / "withdrawn.csv")["hits"] == {}
    scans = pd.read_parquet(copy / "scans.parquet").set_index("scan_id")
    assert scans.loc["stay-a_1", "review"] == "exclude"


def test_a_list_with_people_whom_nobody_knows_ends_with_3_and_says_who(given, copy, tmp_path):
    (given / "some.csv").write_text("CANARYanna\nCANARYBERT\nxq-1704\n")
    of_before = {f".snakemake/log/{path.name}" for path in LOGS.glob("*")}  # of other tests
    words = ("--rerun-triggers", "mtime", "input")
    done = run(given / "everybody.csv", copy, *words, code=3, shard_size=3,
               withdrawals=given / "some.csv")  # fmt: skip
    said = "line 2: 'CANARYBERT'; nearly 'CANARYbert' (other case of letters)"
    assert done.stderr.count(said) == 2  # before the first job, and at the end
    assert (copy / "report" / "index.html").exists()
    scans = set(pd.read_parquet(copy / "scans.parquet")["subject_id"])
    assert scans == {*STAY, "CANARYbert", "CANARYcleo"}
    assert not [path for path in copy.rglob("*") if path.is_file() and b"BERT" in path.read_bytes()]
    found = search(copy, given / "some.csv")
    assert set(found["hits"]) <= of_before
    assert set(found["unknown"]) == {"2", "3"}


def test_a_list_of_which_nobody_is_known_stops_the_run_before_it_makes_anything(given, copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (given / "none.csv").write_text("subject_id\nCANARYANNA\n")
    words = ("--rerun-triggers", "mtime", "input")
    done = run(given / "everybody.csv", copy, *words, code=3, shard_size=3,
               withdrawals=given / "none.csv")  # fmt: skip
    assert "none of the 1 ids was ever known here: nobody is withdrawn" in done.stderr
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {copy / ".in-use"}
    (given / "none.csv").write_text("subject_id;date\nCANARYanna;2026-11-01\n")
    done = run(given / "everybody.csv", copy, *words, code=64, shard_size=3,
               withdrawals=given / "none.csv")  # fmt: skip
    assert "is separated by semicolons (TAB_DELIMITER)" in done.stderr
