"""Disks that fill or fail under the worker: the shard pauses, and no scan is blamed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cohortvol.compute.resources import runs
from cohortvol.errors import ScanError, TemporaryError
from cohortvol.stages.segment.images import read_image
from cohortvol.stages.segment.pipeline import WRITE_BEHIND, Pipeline
from cohortvol.stages.segment.progress import ShardProgress
from cohortvol.stages.segment.receipts import ShardFolder, Work
from cohortvol.stages.segment.stopping import Stop
from cohortvol.store import storage
from cohortvol.store.files import make_folder, read_object, sha256_of
from segment_cohort import AFFINE, scan, write_scan
from storage_faults import FAILING, FULL, Failing, mounted


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.0,) * len(storage.WAITS_S))


class Threshold:
    """In place of a network: what is brighter than the mean."""

    dtype, device, numerics = np.float32, torch.device("cpu"), None

    def __init__(self, before=lambda number: None):
        self.before, self.calls = before, 0

    def prepare(self, data, affine):
        return SimpleNamespace(data=data, affine=affine)

    def predict(self, prepared):
        self.calls += 1
        self.before(self.calls)
        return SimpleNamespace(prepared=prepared, seconds_network=0.0, softmax=None)

    def finish(self, predicted):
        data = predicted.prepared.data
        return (data > data.mean()).astype(np.uint8)


N_SCANS = 12


@pytest.fixture
def works(tmp_path):
    found = []
    for n in range(N_SCANS):
        path = tmp_path / "images" / f"s{n:02}.nii.gz"
        write_scan(path, scan(n, (12, 10, 8)), AFFINE)
        found.append(Work(path.name[:3], path, sha256_of(path), "toy", "nnunet", "key"))
    return found


def segment(folder, works, segmenter):
    """The worker on a shard, as `run_shard` calls it."""
    shard = ShardFolder(make_folder(folder))
    shard.sweep()
    todo = [work for work in works if not shard.is_finished(work)]
    with ShardProgress("0000", len(todo), len(works) - len(todo)) as progress:
        Pipeline(shard, lambda: segmenter, progress, Stop(), 0, 1).run(todo)
    return shard


def states(shard, works):
    receipts = [shard.receipt(work.scan_id) for work in works]
    return Counter(receipt and receipt["state"] for receipt in receipts)


def assert_paused(shard, works, *, after):
    """Not one scan is blamed, none counts as started, and what was finished is whole."""
    found = states(shard, works)
    assert set(found) == {None, "segmented"}
    assert after <= found["segmented"] < N_SCANS
    assert [*shard.folder.glob("*.started.json")] == []
    assert [*shard.folder.glob(".*.tmp")] == []
    for work in works:
        if receipt := shard.receipt(work.scan_id):
            label_map = shard.label_map(work.scan_id)
            assert sha256_of(label_map) == receipt["label_map_sha256"]


@pytest.mark.parametrize("number", [*FULL, *FAILING, errno.EROFS])
def test_a_disk_that_fills_or_fails_pauses_the_shard(tmp_path, works, monkeypatch, number):
    shard = ShardFolder(tmp_path / "0000")
    started = []
    claim = ShardFolder.claim

    def counted(folder, work):
        started.append(work.scan_id)
        return claim(folder, work)

    with monkeypatch.context() as patched:
        patched.setattr(ShardFolder, "claim", counted)

        def break_disk(call):
            if call == 4:
                patched.setattr(os, "fsync", Failing(os.fsync, number))

        with pytest.raises(TemporaryError) as raised:
            segment(shard.folder, works, Threshold(break_disk))
    assert raised.value.exit_code == 75
    assert_paused(shard, works, after=1)
    assert len(started) <= 7  # those at work, and none after
    segment(shard.folder, works, Threshold())
    assert states(shard, works) == {"segmented": N_SCANS}
    assert {shard.receipt(work.scan_id)["attempts"] for work in works} == {1}


def test_a_shard_goes_on_where_a_small_disk_was_made_larger(tmp_path, works):
    with mounted(tmp_path / "disk", "size=56k") as disk:
        shard = ShardFolder(disk / "0000")
        with pytest.raises(TemporaryError, match="IO_NO_SPACE"):
            segment(shard.folder, works, Threshold())
        assert_paused(shard, works, after=1)
        before = {path.name: path.read_bytes() for path in shard.folder.glob("s*")}
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        segment(shard.folder, works, Threshold())
        assert states(shard, works) == {"segmented": N_SCANS}
        assert {name: (shard.folder / name).read_bytes() for name in before} == before


def test_a_receipt_that_cannot_be_read_now_is_not_taken_for_none(tmp_path, works, monkeypatch):
    """It would be deleted, and the scan segmented again."""
    shard = segment(tmp_path / "0000", works[:2], Threshold())
    before = {path.name: path.read_bytes() for path in shard.folder.iterdir()}
    real = Path.read_bytes
    of_receipts = Failing(real, errno.EIO, of=lambda path: path.suffix == ".json")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: of_receipts(path))
        with pytest.raises(TemporaryError, match="the storage is at fault"):
            segment(shard.folder, works[:2], Threshold())
    assert of_receipts.failed == 5
    assert {path.name: path.read_bytes() for path in shard.folder.iterdir()} == before
    of_receipts.left = 4
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: of_receipts(path))
        untouched = Threshold()
        segment(shard.folder, works[:2], untouched)
    assert untouched.calls == 0


def test_a_label_map_that_cannot_be_looked_at_now_is_not_taken_for_lost(
    tmp_path, works, monkeypatch
):
    shard = segment(tmp_path / "0000", works[:1], Threshold())
    real = Path.stat
    failing = Failing(real, errno.ESTALE, of=lambda path: path.name.endswith("_dseg.nii.gz"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", lambda path, **options: failing(path, **options))
        with pytest.raises(TemporaryError, match="the storage is at fault"):
            shard.is_finished(works[0])
        failing.left = 4
        assert shard.is_finished(works[0])


@pytest.mark.parametrize("number", FAILING)
def test_an_image_that_cannot_be_read_is_a_row_and_a_disk_of_them_is_not(
    works, monkeypatch, number
):
    image, sha256 = works[0].image, works[0].image_sha256
    failing = Failing(Path.read_bytes, number, 4)
    monkeypatch.setattr(Path, "read_bytes", lambda path: failing(path))
    assert read_image(image, sha256).data.shape == (12, 10, 8)
    failing.left = 5
    with pytest.raises(ScanError, match="IO_READ_ERROR"):
        read_image(image, sha256)
    failing.left = 5
    monkeypatch.setattr(os, "scandir", Failing(os.scandir, number))
    with pytest.raises(TemporaryError, match="the storage of the images is at fault") as raised:
        read_image(image, sha256)
    assert str(image) not in str(raised.value)


def test_where_the_images_are_gone_no_scan_is_blamed(tmp_path, works, monkeypatch):
    shard = ShardFolder(tmp_path / "0000")
    real = Path.read_bytes
    failing = Failing(real, errno.EIO, of=lambda path: path.name in ("s03.nii.gz", "s04.nii.gz"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: failing(path))
        gone = Failing(os.scandir, errno.EIO, of=lambda path: Path(path) == works[0].image.parent)
        patched.setattr(os, "scandir", gone)
        with pytest.raises(TemporaryError, match="storage of the images"):
            segment(shard.folder, works, Threshold())
    assert_paused(shard, works, after=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: failing(path))
        segment(shard.folder, works, Threshold())
    assert states(shard, works) == {"segmented": N_SCANS - 2, "failed": 2}


def test_what_is_newer_is_told_by_no_clock(tmp_path, works):
    """A receipt stands by what is in it, whatever the times of the files around it."""
    shard = segment(tmp_path / "0000", works[:2], Threshold())
    receipt = shard.receipt(works[0].scan_id)
    for n, path in enumerate(sorted(shard.folder.iterdir())):
        os.utime(path, (n * 1e6, n * 1e6))
    again = Threshold()
    segment(shard.folder, works[:2], again)
    assert again.calls == 0
    assert shard.receipt(works[0].scan_id) == receipt


@pytest.mark.parametrize(
    "content", [b"", b'{"starts": 1', b"[1]", b"null", b"\xff\xfe", b"\0" * 90]
)
def test_a_torn_record_is_none(tmp_path, works, content):
    shard = ShardFolder(tmp_path)
    for name in ("s00.json", "s00.started.json", "0000.resources.json"):
        (tmp_path / name).write_bytes(content)
    assert read_object(tmp_path / "s00.json") is None
    assert read_object(tmp_path / "none.json") is None
    assert shard.receipt("s00") is None
    assert not shard.is_finished(works[0])
    assert shard.starts(works[0]) == 0
    assert runs(tmp_path / "0000.resources.json") == []
    segment(tmp_path, works[:1], Threshold())
    assert json.loads((tmp_path / "s00.json").read_bytes())["state"] == "segmented"


assert WRITE_BEHIND < 4  # what `break_disk` counts on
