"""A finished results folder, damaged file by file: found, deleted, and made again as it was."""

import csv
import os
import re
import shutil

import pytest

import dicom_fixture
from cohortvol.tools.verify.folder import repair, verify
from cohortvol.tools.verify.places import holds_no_results
from workflow_run import run

MODEL = "embedded-v2"
FINAL = ("volumes.parquet", "scans.parquet", "analyse/slopes.csv", "report/index.html")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def manifest(simulated, tmp_path_factory):
    """Four simulated scans and one of DICOM, in two shards, under hashed ids."""
    folder = tmp_path_factory.mktemp("source")
    simulated(folder / "simulated", 4)
    images = sorted((folder / "simulated" / "images").glob("*.nii.gz"))
    images.append(dicom_fixture.write_series(folder / "series"))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["scan_id", "image", "age_years", "sex"])
        rows.writerows([f"scan {n}", image, 40 + n, "F"] for n, image in enumerate(images))
    return folder / "manifest.csv"


def snakemake(*words):
    done = run(*words, shard_size=3, hash_ids="true")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(manifest, tmp_path_factory):
    """The finished folder. A test that changes a file in it puts it back."""
    folder = tmp_path_factory.mktemp("run") / "results"
    snakemake(manifest, folder)
    return folder


def names_of(results):
    found = (path for path in results.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(str(path.relative_to(results)) for path in found)


class Damaged:
    """A file that is damaged in one way while this is entered, and then as it was."""

    def __init__(self, path, way):
        self.path, self.way = path, way

    def __enter__(self):
        self.stat = self.path.lstat()
        self.link = self.path.readlink() if self.path.is_symlink() else None
        self.content = b"" if self.link else self.path.read_bytes()
        damage(self.path, self.way)

    def __exit__(self, *_):
        self.path.unlink(missing_ok=True)
        if self.link is not None:
            self.path.symlink_to(self.link)
            return
        self.path.write_bytes(self.content)
        self.path.chmod(self.stat.st_mode)
        times(self.path, self.stat.st_mtime_ns)


def times(path, mtime_ns):
    os.utime(path, ns=(mtime_ns, mtime_ns))


def damage(path, way):
    """Change a file without changing its time, as a failing disk does."""
    if way == "deleted":
        path.unlink()
        return
    mtime_ns = path.stat().st_mtime_ns
    content = path.read_bytes()
    if way == "cut short":
        path.write_bytes(content[: len(content) * 2 // 3])
    else:
        at = int(way * (len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :])
    times(path, mtime_ns)


def is_found(results, name):
    """Whether verify reports the file; or, of a list of digests, a file that does not fit it."""
    found = verify(results, deep=True)
    assert found["exit_code"] == (3 if found["problems"] else 0)
    reported = {one.path for one in found["problems"]}
    if name.endswith("files.sha256"):
        reported.update(*(one.remake for one in found["problems"]))
    return name in reported


def test_a_finished_folder_is_whole(results):
    found = verify(results, deep=True)
    assert [str(one) for one in found["problems"]] == []
    counted = [name for name in names_of(results) if not holds_no_results(name)]
    assert found["files"] >= len(counted) - 7  # the salt and links
    links = [name for name in counted if name.startswith("private/")]
    assert len(links) == 7


@pytest.mark.parametrize("way", ["deleted", "cut short", 0.0, 0.4, 1.0])
def test_no_file_with_results_can_be_damaged_unseen(results, way):
    unseen = []
    for name in names_of(results):
        path = results / name
        is_link = path.is_symlink()
        if holds_no_results(name) or (is_link and way != "deleted"):
            continue
        with Damaged(path, way):
            if not is_found(results, name):
                unseen.append(name)
    assert unseen == []
    assert verify(results, deep=True)["problems"] == []


def place(results, pattern):
    return sorted(str(path.relative_to(results)) for path in results.glob(pattern))[0]


def planned(output):
    """Jobs of each rule that a dry run lists."""
    table = output[output.index("Job stats") :].split("total")[0]
    return dict(re.findall(r"^(\w+) +(\d+)$", table, re.M))


@pytest.mark.parametrize(
    ("pattern", "rules"),
    [
        ("manifest/scans.parquet", {"manifest"}),
        ("manifest/shards.parquet", {"manifest"}),
        ("manifest/shards/0001.parquet", {"manifest"}),
        ("manifest/index.tsv", {"manifest"}),
        ("private/ids.csv", {"manifest"}),
        ("private/images/*", {"manifest"}),
        ("ingest/0000.parquet", {"ingest", "segment", "measure"}),
        ("ingest/series/*.parquet", {"ingest", "segment", "measure"}),
        ("ingest/0001/*.nii.gz", {"ingest", "segment", "measure"}),
        (f"segment/{MODEL}/0000.parquet", {"segment", "measure"}),
        (f"segment/{MODEL}/0000/*.json", {"segment", "measure"}),
        (f"segment/{MODEL}/0000/*_dseg.nii.gz", {"segment", "measure"}),
        (f"segment/{MODEL}/0000/dseg.tsv", {"segment", "measure"}),
        (f"measure/{MODEL}/0000.parquet", {"measure"}),
        (f"measure/{MODEL}/previews/0000.parquet", {"measure"}),
        ("volumes.parquet", set()),
        ("scans.parquet", set()),
        ("assemble.json", set()),
        ("files.sha256", set()),
    ],
)
def test_a_repaired_folder_has_that_shard_alone_made_again(manifest, results, pattern, rules):
    jobs = planned_after_repair(manifest, results, pattern)
    if rules == {"manifest"}:
        assert "manifest" in jobs
        return
    shard = dict.fromkeys(rules, "1")
    once = dict.fromkeys(("all", "assemble", "analyse", "report"), "1")
    assert jobs == shard | once


@pytest.mark.parametrize(
    ("pattern", "rules"),
    [
        ("analyse/analyse.json", ("analyse", "report")),
        ("analyse/slopes.parquet", ("analyse", "report")),
        ("analyse/curves.csv", ("analyse", "report")),
        ("analyse/files.sha256", ("analyse", "report")),
        ("report/index.html", ("report",)),
        ("report/figures/flow.pdf", ("report",)),
        ("report/tables/slopes.csv", ("report",)),
        ("contact_sheet.csv", ("report",)),
    ],
)
def test_a_repaired_page_is_drawn_again_alone(manifest, results, pattern, rules):
    jobs = planned_after_repair(manifest, results, pattern)
    assert jobs == dict.fromkeys(("all", *rules), "1")


def planned_after_repair(manifest, results, pattern):
    """Jobs planned in the folder after one file was damaged and the damage repaired."""
    sound = shutil.copytree(results, results.parent / "sound", symlinks=True)
    try:
        damage_one(results, pattern)
        found = verify(results, deep=True)
        assert found["problems"]
        repair(results, found["problems"])
        return planned(snakemake(manifest, results, "--dry-run"))
    finally:
        shutil.rmtree(results)
        sound.rename(results)


def damage_one(results, pattern):
    path = results / place(results, pattern)
    damage(path, "deleted" if path.is_symlink() else 0.4)


def test_everything_damaged_at_once_is_repaired_to_the_same_bytes(manifest, results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "results", symlinks=True)
    for pattern in (
        "manifest/index.tsv",
        "ingest/0000.parquet",
        "ingest/0001/*.nii.gz",
        f"segment/{MODEL}/0000/*_dseg.nii.gz",
        f"segment/{MODEL}/0001/*.json",
        f"measure/{MODEL}/previews/0001.parquet",
        "scans.parquet",
        "analyse/curves.csv",
        "report/figures/flow.pdf",
        "contact_sheet.csv",
    ):
        damage_one(copy, pattern)
    gone = {place(copy, f"segment/{MODEL}/{shard}/*.json") for shard in ("0000", "0001")}
    before = receipts(copy)
    repair(copy, verify(copy, deep=True)["problems"])
    snakemake(manifest, copy)
    after = receipts(copy)
    assert {name for name in before if before[name] != after[name]} == gone
    assert verify(copy, deep=True)["problems"] == []
    for name in FINAL:
        assert (copy / name).read_bytes() == (results / name).read_bytes(), name


def receipts(results):
    return {str(p.relative_to(results)): p.read_bytes() for p in results.rglob("[ps]_*.json")}


def test_a_run_repairs_tables_that_were_cut_short_by_itself_and_says_so(
    manifest, results, tmp_path
):
    copy = shutil.copytree(results, tmp_path / "results", symlinks=True)
    before = receipts(copy)
    cut = [f"measure/{MODEL}/0000.parquet", "ingest/0001.parquet", "volumes.parquet"]
    for name in cut:
        damage(copy / name, "cut short")
    told = snakemake(manifest, copy, "--dry-run")
    assert "volumes.parquet is not there" in told
    assert all((copy / name).exists() for name in cut)
    told = snakemake(manifest, copy)
    for name in cut:
        assert told.count(f"{copy / name}: a damaged table; removed") == 1
    assert receipts(copy) == before
    for name in FINAL:
        assert (copy / name).read_bytes() == (results / name).read_bytes(), name
