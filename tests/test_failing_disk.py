"""A fault at every call of every kind of write: no scan is blamed, and the next attempt is right.

All stages at every call: ``python benchmarks/failing_disk.py``.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cohortvol.compute.cluster import remember
from cohortvol.errors import CohortvolError, OutputError, TemporaryError
from cohortvol.stages.segment.receipts import Outcome, ShardFolder, Work
from cohortvol.store import keys, schemas, storage, tables
from cohortvol.store.files import (
    DIGESTS,
    commit_bytes,
    commit_digests,
    commit_once,
    make_folder,
    remove,
)
from cohortvol.store.machine import error_to_act_on
from cohortvol.store.of_scans import PACK, take_out
from cohortvol.store.pack import read_contents
from failing_disk import trial, ways
from file_faults import FAULTS, Disk

pytestmark = pytest.mark.slow

OLD, NEW = b"old", b"new, and longer"
WORK = Work("a", Path("a.nii.gz"), "1" * 64, "toy", "nnunet", "key")
EARLIER = dataclasses.replace(WORK, segmentation_key="key of an earlier model")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.0,) * len(storage.WAITS_S))
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def start(folder):
    return ShardFolder(folder).claim(WORK)


def end(folder):
    shard = ShardFolder(folder)
    commit_bytes(shard.label_map("a"), NEW)
    shard.finish(shard.claim(WORK), Outcome("segmented", label_map_bytes=len(NEW)))


def give_up(folder):
    ShardFolder(folder).give_up(WORK)


def packed_end(folder):
    shard = ShardFolder(folder, "packed")
    shard.commit_label_map("a", NEW)
    shard.finish(shard.claim(WORK), Outcome("segmented", label_map_bytes=len(NEW)))


def packed_earlier(folder):
    shard = ShardFolder(folder, "packed")
    shard.commit_label_map("a", OLD)
    shard.finish(shard.claim(EARLIER), Outcome("segmented", label_map_bytes=len(OLD)))


def packed_start(folder):
    ShardFolder(folder, "packed").claim(WORK)
    assert ShardFolder(folder).receipt("a") is None


def take_over(folder):
    ShardFolder(folder, "packed").sweep()
    assert {*read_contents(folder / PACK).members} == {"a.json", "a_dseg.nii.gz"}


def give_up_packing(folder):
    ShardFolder(folder).sweep()


def take_out_all(folder):
    take_out(folder, lambda name: name.startswith("a"))


def earlier_model(folder):
    shard = ShardFolder(folder)
    commit_bytes(shard.label_map("a"), OLD)
    shard.finish(shard.claim(EARLIER), Outcome("segmented", label_map_bytes=len(OLD)))


def killed_twice(folder):
    ShardFolder(folder).claim(WORK)
    ShardFolder(folder).claim(WORK)


def old_file(folder):
    commit_bytes(folder / "a", OLD)


def table(folder):
    rows = tables.append_rows([{"scan_id": "a", "shard": "0"}], schemas.SHARDS)
    tables.write_table(folder / "t.parquet", rows, schemas.SHARDS)


def hashed(folder):
    opened = keys.open_keys(folder, None, has_keys=False)
    opened.scan("a")
    opened.save()


def two_and_their_digests(folder):
    for name in ("a", "b"):
        commit_bytes(folder / name, NEW)
    commit_digests(folder, [folder / "a"], last="b")


def nothing(folder):
    """Nothing was there before."""


WRITES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], set[str]]] = {
    "commit": (nothing, lambda folder: commit_bytes(folder / "b" / "a", NEW), {"b/a"}),
    "commit over an old file": (old_file, lambda folder: commit_bytes(folder / "a", NEW), {"a"}),
    "commit once": (nothing, lambda folder: commit_once(folder / "a", NEW), {"a"}),
    "a table": (nothing, table, {"t.parquet"}),
    "digests": (old_file, two_and_their_digests, {"a", "b", DIGESTS}),
    "remove": (old_file, lambda folder: remove(folder / "a"), set()),
    "folders": (nothing, lambda folder: make_folder(folder / "b" / "c"), set()),
    "start": (nothing, start, {"a.started.json"}),
    "start after another model": (earlier_model, start, {"a.started.json", "a_dseg.nii.gz"}),
    "start after two that were killed": (killed_twice, start, {"a.started.json"}),
    "end": (nothing, end, {"a.json", "a_dseg.nii.gz"}),
    "end, packed": (nothing, packed_end, {PACK}),
    "start after another model, packed": (packed_earlier, packed_start, {PACK, "a.started.json"}),
    "packing": (earlier_model, take_over, {PACK}),
    "unpacking": (packed_earlier, give_up_packing, {"a.json", "a_dseg.nii.gz"}),
    "taking out of a pack": (packed_earlier, take_out_all, {".in-use"}),
    "giving up": (killed_twice, give_up, {"a.json"}),
    "keys": (nothing, hashed, {"private/salt", "private/ids.csv"}),
    "name of jobs": (nothing, lambda folder: remember(folder, "run"), {".slurm-run"}),
}
"""What was before, what is done, and which files are there after it."""


def files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".tmp")
    }


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_fails_at_any_call_says_so_and_is_done_by_the_next_attempt(tmp_path, write):
    before, act, after = WRITES[write]
    n_faults = 0
    for number, fault in enumerate(FAULTS):
        at = 1
        while True:
            folder = make_folder(tmp_path / f"{number}-{at}")
            before(folder)
            disk, how = Disk(at, fault=fault), f"{write}, call {at}: {fault}"
            disk.job_at_work(True)
            try:
                with disk.watched():
                    act(folder)
            except (CohortvolError, OSError) as error:
                told = error_to_act_on(error)
                right = OutputError if fault.number == errno.EROFS else TemporaryError
                assert type(told) is right, f"{how}: {told!r}"
            else:
                assert files(folder) == after, how
            disk.job_at_work(False)
            for path in folder.rglob("*.json"):
                assert json.loads(path.read_bytes()), how
            if not disk.happened:
                break
            n_faults += 1
            act(folder)
            assert files(folder) == after, how
            shutil.rmtree(folder)
            at += 1
    assert n_faults >= len(FAULTS), f"{write}: {n_faults} faults"


@pytest.mark.parametrize("starts", [0, 2])
def test_a_start_that_cannot_be_marked_does_not_count(tmp_path, starts):
    """Whatever fails after the mark has its name, if there is any way to take it back."""
    n_refused = 0
    for number, fault in enumerate(FAULTS):
        for at in range(1, 30):
            folder = make_folder(tmp_path / f"{number}-{at}")
            shard = ShardFolder(folder)
            for _ in range(starts):
                shard.claim(WORK)
            disk, how = Disk(at, fault=fault), f"{starts} starts, call {at}: {fault}"
            disk.job_at_work(True)
            try:
                with disk.watched():
                    shard.claim(WORK)
            except CohortvolError:
                n_refused += 1
                can_remove = "unlink" not in disk.failing
                can_write = disk.failing.isdisjoint({"open", "fsync", "replace"})
                possible = {starts}
                if starts and not can_write:
                    possible |= {0}
                if not can_remove and not (starts and can_write):
                    possible |= {starts + 1}
                assert shard.starts(WORK) in possible, how
            else:
                assert shard.starts(WORK) == starts + 1, how
            shutil.rmtree(folder)
    assert n_refused > len(FAULTS), n_refused


def test_no_start_counts_of_a_scan_whose_receipt_has_its_name(tmp_path, monkeypatch):
    """Its folder could not be synced, so the run pauses; the next one finds the scan finished."""
    killed_twice(tmp_path)
    shard = ShardFolder(tmp_path)
    claim = shard.claim(WORK)
    commit_bytes(shard.label_map("a"), NEW)
    real = storage.sync_folder

    def fail(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cohortvol.store.files.sync_folder", fail)
    with pytest.raises(TemporaryError):
        shard.finish(claim, Outcome("segmented", label_map_bytes=len(NEW)))
    shard.give_back(claim)
    monkeypatch.setattr("cohortvol.store.files.sync_folder", real)
    assert shard.is_finished(WORK)
    assert shard.starts(WORK) == 0


def test_starts_of_others_are_not_forgotten_with_one_that_is_taken_back(tmp_path):
    shard = ShardFolder(tmp_path)
    shard.claim(WORK)
    claim = shard.claim(WORK)
    shard.give_back(claim)
    assert shard.starts(WORK) == 1
    again = shard.claim(WORK)
    assert (again.starts, again.attempts) == (claim.starts, claim.attempts)


EVERY = 41
"""One way in so many is tried here."""


@pytest.mark.parametrize(("stage", "what", "fault"), [*ways()][::EVERY])
def test_a_stage_on_a_failing_disk_blames_no_scan_and_the_next_run_is_right(stage, what, fault):
    calls = [at for at in range(3, 60, 25) if trial(stage, what, fault, at)]
    assert calls, "the disk never failed"
