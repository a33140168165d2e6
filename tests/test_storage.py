"""Disks that are full, that fail, that may not be written: the run pauses, nothing is lost."""

from __future__ import annotations

import builtins
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

import nifti_files
from cohortvol.compute.resources import runs
from cohortvol.errors import OutputError, ScanError, TableError, TemporaryError
from cohortvol.stages import ingest
from cohortvol.stages.segment.images import read_image
from cohortvol.stages.segment.pipeline import WRITE_BEHIND, Pipeline
from cohortvol.stages.segment.progress import ShardProgress
from cohortvol.stages.segment.receipts import ShardFolder, Work
from cohortvol.stages.segment.stopping import Stop
from cohortvol.store import schemas, storage, tables
from cohortvol.store.files import (
    check_writable,
    commit_bytes,
    commit_once,
    make_folder,
    read_object,
    remove,
    sha256_of,
)
from segment_cohort import AFFINE, scan, write_scan

REPOSITORY = Path(__file__).resolve().parents[1]
FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
FAILING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.0,) * len(storage.WAITS_S))


def error_of(number):
    return OSError(number, os.strerror(number))


class Failing:
    """A call that fails so many times, or always; where it is asked to, after it was done."""

    def __init__(self, call, number, times=10**9, *, afterwards=False, of=None):
        self.call, self.number, self.left = call, number, times
        self.afterwards, self.of, self.failed = afterwards, of, 0

    def __call__(self, *arguments, **options):
        if self.left and (self.of is None or self.of(arguments[0])):
            self.left -= 1
            self.failed += 1
            if self.afterwards:
                self.call(*arguments, **options)
            raise error_of(self.number)
        return self.call(*arguments, **options)


@contextmanager
def mounted(folder, options):
    """A small disk of its own; root can have one."""
    make_folder(folder)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


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


def test_dicom_is_known_for_dicom_by_a_disk_that_answers_late(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(bytes(128) + b"DICM")
    failing = Failing(builtins.open, errno.ESTALE, 4)
    monkeypatch.setattr(builtins, "open", failing)
    assert ingest.is_dicom(path)
    assert failing.failed == 4


# --- promises of the file system


def refuse(*_, **__):
    raise error_of(errno.EOPNOTSUPP)


def test_a_sound_file_system_passes_at_once_and_nothing_is_left(tmp_path):
    began = time.process_time()  # of this process alone, whatever else runs
    storage.self_test(tmp_path, with_hard_links=True)
    assert time.process_time() - began < 2  # some 0.05 s
    assert names(tmp_path) == []


def opens_anyway(path, flags, mode=0o777, *, opener=os.open, **beside):
    return opener(path, flags & ~os.O_EXCL, mode, **beside)


@pytest.mark.parametrize(
    ("name", "broken", "promise"),
    [
        ("open", opens_anyway, "exclusive create"),
        ("replace", refuse, "atomic rename"),
        ("fsync", refuse, "fsync"),
        ("link", refuse, "hard link"),
        ("link", shutil.copy, "hard link"),
    ],
)
def test_a_file_system_that_breaks_a_promise_is_refused_with_advice(
    tmp_path, monkeypatch, name, broken, promise
):
    with monkeypatch.context() as patched:
        patched.setattr(os, name, broken)
        with pytest.raises(OutputError, match=rf"IO_NOT_ATOMIC.*\({promise}: ") as raised:
            storage.self_test(tmp_path, with_hard_links=True)
        if name == "link":
            storage.self_test(tmp_path)  # only hashed ids need it
    assert "Put the results on another file system" in str(raised.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_is_full_or_fails_breaks_no_promise(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, number))
    with pytest.raises(TemporaryError):
        storage.self_test(tmp_path)


@pytest.mark.slow
def test_a_run_tries_the_file_system_first_and_needs_no_home(tmp_path):
    """HOME is missing, as in many containers; Snakemake is given another place for its cache."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\ndef link(*_, **__):\n    raise OSError(95, 'Operation not supported')\n"
        "os.link = link\n"
    )
    (tmp_path / "scans.csv").write_text(f"scan_id,image\na,{tmp_path}/a.nii.gz\n")
    results = tmp_path / "results"
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY / "src")]),
        "HOME": str(tmp_path / "no" / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    run = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--cores", "1", "--directory", str(tmp_path),
            "--snakefile", str(REPOSITORY / "Snakefile"),
            "--configfile", str(REPOSITORY / "config" / "config.yaml"),
            "--config", f"manifest={tmp_path / 'scans.csv'}", f"results={results}",
            "bad_rows=quarantine", "hash_ids=true", f"models_dir={REPOSITORY / 'models'}",
        ],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode != 0
    assert "IO_NOT_ATOMIC" in run.stderr, run.stderr
    assert "(hard link: Operation not supported)" in run.stderr
    assert {path.name for path in results.iterdir()} == {".in-use"}


# --- clocks, homes, torn records


@pytest.mark.parametrize("times", [4, 5])
def test_a_folder_that_cannot_be_listed_now_is_waited_for(tmp_path, monkeypatch, times):
    shard = ShardFolder(tmp_path)
    failing = Failing(os.scandir, errno.EIO, times)
    monkeypatch.setattr(os, "scandir", failing)
    if times == 4:
        shard.sweep()
    else:
        with pytest.raises(TemporaryError, match="the storage is at fault"):
            shard.sweep()
    assert failing.failed == times


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


@pytest.mark.slow
def test_figures_are_drawn_without_a_home_and_with_next_to_no_temporary_folder(tmp_path):
    script = (
        "from cohortvol.drawing import style\n"
        "from matplotlib.figure import Figure\n"
        "figure = Figure(); figure.text(0.5, 0.5, 'organ'); figure.savefig('figure.png')\n"
    )
    with mounted(tmp_path / "tiny", "size=16k") as tiny:
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={
                "PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(tiny),
                "HOME": str(tmp_path / "none"),
            },
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "figure.png").stat().st_size > 1000


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
