"""Every fault of a scan gets its reason, and none goes unseen."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dicom_fixture
from cohortvol import reasons
from cohortvol.errors import ScanError
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules, check_scan, source
from cohortvol.store import storage
from cohortvol.store.schemas import SHARD
from cohortvol.store.tables import append_rows, write_table
from nifti_files import FAULTS, nifti, reason_of, saved


@pytest.mark.parametrize(
    ("code", "make"),
    [(code, make) for code, _, make in FAULTS],
    ids=[f"{code}: {name}" for code, name, _ in FAULTS],
)
def test_a_fault_gets_its_reason(tmp_path, code, make):
    assert reason_of(make(tmp_path)) == code


def test_every_reason_that_ingest_gives_is_provoked_by_a_test():
    elsewhere = {"SRC_PERMISSION", "SRC_OUTSIDE_ROOT", "SRC_CHANGED"}  # below
    elsewhere |= {code for code, _, _ in dicom_fixture.FAULTS} | {"DCM_CONVERSION"}  # test_dicom
    known = {
        reason.code
        for reason in reasons.load().values()
        if reason.stage == "ingest" and reason.class_ in ("quarantine", "skip") and reason.produced
    }
    elsewhere |= {"DCM_NOT_WANTED"}
    # test_channels, test_hostile_archives, test_dicom_stations
    others = ("IMG_CHANNEL_", "SRC_ARCHIVE_", "DCM_STATION")
    elsewhere |= {code for code in known if code.startswith(others)}
    assert {code for code, _, _ in FAULTS} | elsewhere == known | {"QC_ZERO_SLICES"}


def detail_of(path):
    with pytest.raises(ScanError) as raised:
        check_scan(path)
    return raised.value.detail


def test_the_text_of_an_error_page_is_shown_as_numbers(tmp_path):
    path = saved(tmp_path, b"<html>Doe, Jane not found</html>" * 30, "scan.nii.gz")
    assert detail_of(path) == f"first bytes {b'<html>Doe, Jane '.hex(' ')}"


def test_two_voxel_sizes_are_told_with_the_two_volumes(tmp_path):
    qform, sform = np.diag([2.0, 2, 10, 1]), np.diag([1.2, 1.2, 5, 1])
    detail = detail_of(saved(tmp_path, nifti(affine=qform, sform=sform)))
    assert "= 7.2 mm3" in detail
    assert "= 40 mm3" in detail


def test_what_is_missing_is_told_in_bytes(tmp_path):
    content = nifti()
    detail = detail_of(saved(tmp_path, content[:-100]))
    assert detail == f"{len(content) - 100} of {len(content)} bytes"


BOMB = """
import resource, sys
from pathlib import Path
from cohortvol.errors import ScanError
from cohortvol.stages.ingest import check_scan
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_scan(Path(sys.argv[1]))
except ScanError as error:
    print(error.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_file_of_a_few_megabytes_that_unpacks_to_gigabytes_takes_no_memory(tmp_path):
    zeros = gzip.compress(bytes(1 << 28), 9)
    path = saved(tmp_path, gzip.compress(nifti()) + 12 * zeros, "scan.nii.gz")  # 3 GiB of zeros
    assert path.stat().st_size < 4 << 20
    done = subprocess.run(
        [sys.executable, "-c", BOMB, path], capture_output=True, text=True, check=True
    )
    reason, mebibytes = done.stdout.split()
    assert reason == "IMG_TOO_LARGE"
    assert int(mebibytes) < 100


def test_a_pipe_or_a_device_in_a_shard_is_a_row_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "scan.nii.gz")
    images = [tmp_path / "scan.nii.gz", "/dev/zero", "/dev/null"]
    shard = tmp_path / "0000.parquet"
    rows = [{"scan_id": f"s{n}", "image": str(image)} for n, image in enumerate(images)]
    write_table(shard, append_rows(rows, SHARD), SHARD)
    table = ingest.run(shard, tmp_path / "out.parquet")
    assert table["reason"].tolist() == ["SRC_NOT_REGULAR"] * 3


def test_an_unreadable_file_is_told_from_a_missing_one(tmp_path, monkeypatch):
    path = saved(tmp_path, nifti())

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(source.os, "open", refuse)
    assert reason_of(path) == "SRC_PERMISSION"


def test_a_link_out_of_the_allowed_folders_is_refused(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    target = saved(outside, nifti())
    (inside / "scan.nii").symlink_to(target)
    assert check_scan(inside / "scan.nii")["n_bytes"] == target.stat().st_size
    rules = Rules(allow_roots=(str(inside),))
    assert reason_of(inside / "scan.nii", rules) == "SRC_OUTSIDE_ROOT"
    assert check_scan(target, Rules(allow_roots=(str(outside),)))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, nifti())
    parse = ingest.parse_header

    def grow(head, rules):
        with open(path, "ab") as stream:
            stream.write(b"more")
        return parse(head, rules)

    monkeypatch.setattr(ingest, "parse_header", grow)
    assert reason_of(path) == "SRC_CHANGED"


def test_a_folder_is_no_nifti_file(tmp_path):
    assert reason_of(tmp_path) == "SRC_UNSUPPORTED_FORMAT"


@pytest.mark.parametrize("failures", [0, 4, 5])
def test_a_failing_disk_is_tried_five_times(tmp_path, monkeypatch, failures):
    path = saved(tmp_path, nifti())
    read, left = source._read_once, [None] * failures

    def fail_at_first(*args):
        if left:
            left.pop()
            raise OSError(errno.ESTALE, "stale")
        return read(*args)

    monkeypatch.setattr(storage, "WAITS_S", (0, 0, 0, 0))
    monkeypatch.setattr(source, "_read_once", fail_at_first)
    if failures < 5:
        assert check_scan(path)
    else:
        assert reason_of(path) == "IO_READ_ERROR"


# --- damage at random ------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_no_damaged_header_gives_anything_but_a_reason(tmp_path_factory, changes):
    data = bytearray(nifti())
    for position, value in changes:
        data[position] = value
    path = saved(tmp_path_factory.mktemp("header"), bytes(data))
    with suppress(ScanError):  # any other exception is a bug
        check_scan(path)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_packed_image_goes_unseen(tmp_path_factory, place, bit):
    good = gzip.compress(nifti(), 6)
    data = bytearray(good)
    data[int(place * len(data))] ^= 1 << bit
    path = saved(tmp_path_factory.mktemp("flip"), bytes(data), "scan.nii.gz")
    try:
        found = check_scan(path)
    except ScanError:
        return
    whole = check_scan(saved(path.parent, good, "good.nii.gz"))
    assert found | {"image_sha256": None} == whole | {"image_sha256": None}  # in gzip's own header
