"""`cohortvol doctor`: file systems, clocks, space, and who can read the results."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohortvol.errors import TableError
from cohortvol.models.card import load_card
from cohortvol.tools import check
from cohortvol.tools.doctor import Finding, Verdict, examine, place, storage

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "models" / "embedded-v2"


def verdict(finding: Finding) -> str:
    assert finding.says
    assert (finding.what_to_do == "") is (finding.verdict is Verdict.PASS)
    return finding.verdict.value


def test_a_sound_file_system_passes_and_nothing_is_left_behind(tmp_path):
    found = examine(storage.checks(tmp_path / "not" / "there"))
    assert {verdict(finding) for finding in found.values()} == {"PASS"}
    assert list(tmp_path.iterdir()) == []
    skipped = examine(storage.checks(None)).values()
    assert {verdict(finding) for finding in skipped} == {"SKIP"}


def fails(*_, **__):
    raise OSError(95, "Operation not supported")


def refuses(*_, **__):
    raise PermissionError(1, "Operation not permitted")


def half_written(source, target):
    """A rename as a copy: what file systems do that cannot rename over a file."""
    with open(source, "rb") as old, open(target, "wb") as new:
        while piece := old.read(4096):
            new.write(piece)
            new.flush()
    os.unlink(source)


def opens_anyway(path, flags, mode=0o777, *, opener=os.open, **beside):
    return opener(path, flags & ~os.O_EXCL, mode, **beside)


@pytest.mark.parametrize(
    ("module", "name", "broken", "check_name", "expected"),
    [
        (os, "open", opens_anyway, "exclusive create", "FAIL"),
        (os, "replace", half_written, "atomic rename", "FAIL"),
        (os, "replace", fails, "atomic rename", "FAIL"),
        (os, "link", fails, "hard link", "WARN"),
        (os, "link", refuses, "hard link", "WARN"),
        (os, "link", shutil.copy, "hard link", "WARN"),
        (os, "link", lambda a, b: os.path.exists(b) or os.symlink(a, b), "hard link", "WARN"),
        (os, "fsync", refuses, "fsync", "FAIL"),
        (os, "fsync", fails, "fsync", "FAIL"),
        (fcntl, "flock", fails, "flock", "WARN"),
        (fcntl, "flock", lambda *_: None, "flock", "WARN"),
    ],
)
def test_a_file_system_that_does_not_keep_a_promise_is_found(
    tmp_path, monkeypatch, module, name, broken, check_name, expected
):
    monkeypatch.setattr(module, name, broken)
    found = storage.checks(tmp_path)[check_name]()
    monkeypatch.undo()
    assert verdict(found) == expected
    assert "writable" not in found.what_to_do  # the folder is; it is the file system that refuses
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_file_system(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    found = storage.checks(tmp_path)["fsync"]()
    assert verdict(found) == "FAIL"
    assert found.what_to_do == "Make the folder writable."


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "PASS"), (-3, "WARN"), (90, "WARN"), (301, "FAIL"), (-4000, "FAIL")],
)
def test_clocks_that_are_apart_are_told(seconds, expected):
    assert verdict(place.apart(seconds)) == expected


def test_the_clock_of_the_file_server_is_read_off_a_file(tmp_path, monkeypatch):
    assert verdict(place.clock(tmp_path)) == "PASS"
    own = place.time.time
    monkeypatch.setattr(place.time, "time", lambda: own() - 3600)
    found = place.clock(tmp_path)
    assert verdict(found) == "FAIL"
    assert found.says == "the file server is 3,600 s ahead of this machine"


@pytest.mark.parametrize(
    ("free_gb", "need_gb", "expected"), [(9, 5, "PASS"), (5.5, 5, "WARN"), (4, 5, "FAIL")]
)
def test_what_the_cohort_needs_is_compared_with_the_disk(
    tmp_path, monkeypatch, free_gb, need_gb, expected
):
    disk = SimpleNamespace(f_bavail=free_gb * 1e9, f_frsize=1, f_files=10, f_favail=5000)
    monkeypatch.setattr(place.os, "statvfs", lambda _: disk)
    wanted = check.Remaining(1000, need_gb * 1e9)
    assert verdict(place.space(tmp_path, wanted)) == expected
    assert verdict(place.inodes(tmp_path, wanted)) == "PASS"
    assert verdict(place.inodes(tmp_path, check.Remaining(2000, 0))) == "FAIL"
    disk.f_files = disk.f_favail = 0
    assert verdict(place.inodes(tmp_path, wanted)) == "PASS"
    disk.f_bavail = 1e6
    assert verdict(place.space(tmp_path, None, "not known")) == "FAIL"
    assert verdict(place.space(None, None)) == "SKIP"


def test_what_is_segmented_already_needs_no_space(tmp_path):
    card = load_card(EMBEDDED)
    assert check.remaining(tmp_path, card) is None
    for folder in ("manifest/shards", "ingest", f"segment/{card.id}"):
        (tmp_path / folder).mkdir(parents=True)
    for shard, n_rows in (("0000", 3), ("0001", 4), ("0002", 5)):
        table = pa.table({"scan_id": ["x"] * n_rows})
        pq.write_table(table, tmp_path / "manifest" / "shards" / f"{shard}.parquet")
    grids = {"state": ["ready", "skipped", "ready", "quarantined"]}
    grids |= {"n_i": [10, 99, 1, None], "n_j": [20, 99, 2, None], "n_k": [30, 99, 3, None]}
    for shard in ("0000", "0001"):
        pq.write_table(pa.table(grids), tmp_path / "ingest" / f"{shard}.parquet")
    (tmp_path / "segment" / card.id / "0000.parquet").touch()
    found = check.remaining(tmp_path, card)
    assert found.n_scans == 2 + 5  # of shards 0001, and 0002, whose grids are not known
    assert found.n_bytes == pytest.approx(0.1 * (6000 + 6 + 5 * 320 * 260 * 72))
    (tmp_path / "ingest" / "0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match="shard 0001"):
        check.remaining(tmp_path, card)


def test_results_that_everyone_can_read_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "is_world_readable", lambda _: True)
    found = place.readers(tmp_path)
    assert verdict(found) == "WARN"
    assert "(SEC_WORLD_READABLE)" in found.says
    monkeypatch.undo()
    tmp_path.chmod(0o750)
    assert verdict(place.readers(tmp_path)) == "PASS"


def test_home_and_temporary_folder_must_be_writable(tmp_path, monkeypatch):
    assert verdict(place.home({"HOME": str(tmp_path)})) == "PASS"
    assert verdict(place.home({})) == "WARN"
    a_file = tmp_path / "file"
    a_file.touch()
    assert verdict(place.temporary(a_file)) == "FAIL"
    monkeypatch.setattr(Path, "mkdir", fails)
    assert verdict(place.home({"HOME": "/x", "XDG_CACHE_HOME": str(tmp_path)})) == "WARN"
    assert verdict(place.temporary(tmp_path)) == "FAIL"
