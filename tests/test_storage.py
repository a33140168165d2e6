"""Disks that are full, that fail, that may not be written: files are whole, or not there."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import time
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest

import nifti_files
from cohortvol.errors import OutputError, TableError, TemporaryError
from cohortvol.stages import ingest
from cohortvol.store import schemas, storage, tables
from cohortvol.store.files import check_writable, commit_bytes, commit_once, make_folder, remove
from storage_faults import FAILING, FULL, Failing, error_of, mounted


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.0,) * len(storage.WAITS_S))


@contextmanager
def no_file_larger_than(n_bytes):
    """A real limit: the kernel refuses the write in its middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- no space


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, call, number):
    commit_bytes(tmp_path / "a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, Failing(getattr(os, call), number))
        with pytest.raises(TemporaryError, match=r"a: no space left .*IO_NO_SPACE") as raised:
            commit_bytes(tmp_path / "a", b"new")
    assert raised.value.exit_code == 75
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def write_table_of(n_rows, path):
    rows = [{"scan_id": f"scan {n} {os.urandom(8).hex()}", "shard": "0"} for n in range(n_rows)]
    tables.write_table(path, tables.append_rows(rows, schemas.SHARDS), schemas.SHARDS)


@pytest.mark.parametrize(
    "write",
    [lambda path: commit_bytes(path, os.urandom(40_000)), lambda path: write_table_of(4000, path)],
    ids=["bytes", "table"],
)
def test_a_file_larger_than_the_limit_is_not_begun(tmp_path, write):
    commit_bytes(tmp_path / "a", b"old")
    refused = pytest.raises(TemporaryError, match=r"IO_NO_SPACE: File too large")
    with no_file_larger_than(20_000), refused:
        write(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_disk_that_is_full_is_used_again_once_there_is_room(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        commit_bytes(disk / "a", b"old")
        with pytest.raises(TemporaryError, match="IO_NO_SPACE"):
            commit_bytes(disk / "a", bytes(200_000))
        with pytest.raises(TemporaryError, match="IO_NO_SPACE"):
            write_table_of(8000, disk / "t.parquet")
        assert names(disk) == ["a"]
        assert (disk / "a").read_bytes() == b"old"
        commit_bytes(disk / "a", b"new")
        assert (disk / "a").read_bytes() == b"new"


def test_a_disk_that_fills_while_images_are_made_is_no_fault_of_the_scans(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 30_000, (24, 24, 12, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, nifti_files.AFFINE), tmp_path / "a.nii.gz")
    rows = [{"scan_id": f"s{n}", "image": str(tmp_path / "a.nii.gz")} for n in range(3)]
    listed, out = tmp_path / "shards" / "0000.parquet", tmp_path / "ingest" / "0000.parquet"
    tables.write_table(listed, tables.append_rows(rows, schemas.SHARD), schemas.SHARD)
    rules = ingest.Rules(volume=1)
    with no_file_larger_than(8_000), pytest.raises(TemporaryError, match="IO_NO_SPACE"):
        ingest.run(listed, out, rules)
    assert not out.exists()
    assert set(ingest.run(listed, out, rules)["state"]) == {"ready"}


# --- read only


def test_a_read_only_disk_is_refused_before_any_work(tmp_path):
    with mounted(tmp_path / "disk", "ro") as disk:
        for refused in (check_writable, make_folder, storage.self_test):
            with pytest.raises(OutputError, match=r"IO_READ_ONLY: Read-only file system"):
                refused(disk if refused is storage.self_test else disk / "results")
        with pytest.raises(OutputError, match="IO_READ_ONLY"):
            commit_bytes(disk / "a", b"a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="IO_READ_ONLY"):
        check_writable(tmp_path / "results")


# --- failing


@pytest.mark.parametrize("number", FAILING)
@pytest.mark.parametrize("times", [4, 5])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "link"])
def test_a_write_that_fails_is_begun_anew_five_times(tmp_path, monkeypatch, call, times, number):
    commit_bytes(tmp_path / "a", b"old")
    write = commit_once if call == "link" else commit_bytes
    final = tmp_path / ("b" if call == "link" else "a")
    failing = Failing(getattr(os, call), number, times)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        if times < 5:
            write(final, b"new")
        else:
            with pytest.raises(TemporaryError, match="the storage is at fault"):
                write(final, b"new")
    assert failing.failed == times
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == {"a": b"old"} | ({final.name: b"new"} if times < 5 else {})


@pytest.mark.parametrize("call", ["replace", "link", "unlink", "mkdir"])
def test_a_call_that_was_done_though_it_failed_does_no_harm(tmp_path, monkeypatch, call):
    """As a server that answers too late: the client sees an error, the file has its name."""
    commit_bytes(tmp_path / "gone", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, Failing(getattr(os, call), errno.EIO, 1, afterwards=True))
        {
            "replace": lambda: commit_bytes(tmp_path / "a", b"new"),
            "link": lambda: commit_once(tmp_path / "a", b"new"),
            "unlink": lambda: remove(tmp_path / "gone"),
            "mkdir": lambda: make_folder(tmp_path / "new"),
        }[call]()
    expected = {
        "replace": ["a", "gone"], "link": ["a", "gone"], "unlink": [], "mkdir": ["gone", "new"],
    }  # fmt: skip
    assert names(tmp_path) == expected[call]


def test_pauses_between_attempts_grow(monkeypatch):
    slept, attempts = [], []
    monkeypatch.undo()
    monkeypatch.setattr(time, "sleep", slept.append)

    def fail():
        attempts.append(1)
        raise error_of(errno.ESTALE)

    with pytest.raises(OSError, match="Stale"):
        storage.patiently(fail)
    assert len(attempts) == 5
    assert slept == sorted(slept)
    assert 2 < sum(slept) < 10


def test_other_errors_are_not_waited_for():
    attempts = []

    def fail():
        attempts.append(1)
        raise error_of(errno.EACCES)

    with pytest.raises(PermissionError):
        storage.patiently(fail)
    assert len(attempts) == 1


def test_a_table_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_table_of(3, path)
    failing = Failing(tables.pq.ParquetFile, errno.EIO, 4)
    monkeypatch.setattr(tables.pq, "ParquetFile", failing)
    assert len(tables.read_table(path, schemas.SHARDS)) == 3
    failing.left = 5
    with pytest.raises(TemporaryError, match="the storage is at fault"):
        tables.read_table(path, schemas.SHARDS)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TableError, match="damaged table"):
        tables.read_table(path, schemas.SHARDS)


def test_dicom_is_known_for_dicom_by_a_disk_that_answers_late(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(bytes(128) + b"DICM")
    failing = Failing(builtins.open, errno.ESTALE, 4)
    monkeypatch.setattr(builtins, "open", failing)
    assert ingest.is_dicom(path)
    assert failing.failed == 4
