"""Segment: crashes, want of memory, lost devices and full disks while a shard is segmented."""

from __future__ import annotations

import errno
import re
import shutil
import sys

import pytest
import torch

from cohortvol.errors import InstallationError, ModelError, ScanError, TemporaryError
from cohortvol.stages.segment import run_shard
from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store import of_scans
from segment_cohort import AFFINE, scan
from segment_fixture import N_SCANS, Killed, with_faults

pytestmark = pytest.mark.slow


def test_a_crash_in_one_scan_is_that_scans_row(shard, segmenter, monkeypatch):
    faults = {2: ZeroDivisionError("boo"), 4: ScanError("SEG_NONFINITE", "3 of 9 logits")}
    with_faults(monkeypatch, segmenter, faults)
    assert run_shard(**shard.arguments()) == {"segmented": 4, "failed": 2}
    table = shard.table()
    assert table.loc["s1", "reason"] == "BUG_UNEXPECTED"
    assert table.loc["s1", "detail"].startswith("ZeroDivisionError ")
    assert tuple(table.loc["s3", ["reason", "detail"]]) == ("SEG_NONFINITE", "3 of 9 logits")
    run_shard(**shard.arguments())  # failed scans are tried again, and only they
    assert list(shard.table()["attempts"]) == [1, 2, 1, 2, 1, 1]


def test_equal_crashes_have_one_hash_and_their_text_is_written_nowhere(
    shard, segmenter, monkeypatch, caplog
):
    caplog.set_level("INFO", "cohortvol")
    crashes = {1: KeyError("Doe"), 3: KeyError("/data/Doe.nii"), 5: ValueError("Doe")}
    with_faults(monkeypatch, segmenter, crashes)
    assert run_shard(**shard.arguments()) == {"segmented": 3, "failed": 3}
    table = shard.table()
    assert (table.loc[["s0", "s2", "s4"], "reason"] == "BUG_UNEXPECTED").all()
    first, second, third = table.loc[["s0", "s2", "s4"], "detail"]
    assert first == second
    assert third.startswith("ValueError ")
    written = b"".join(shard.receipts().values()).decode()
    assert "Doe" not in caplog.text + written + "".join(table["detail"].dropna())


def test_out_of_memory_is_tried_once_more_at_the_end(shard, segmenter, monkeypatch):
    again = ScanError("RUN_GPU_OOM", "")
    faulty = with_faults(monkeypatch, segmenter, {1: again, 2: MemoryError(), N_SCANS + 1: again})
    assert run_shard(**shard.arguments()) == {"segmented": 5, "failed": 1}
    assert faulty.calls == N_SCANS + 2
    table = shard.table()
    assert table.loc["s0", "reason"] == "RUN_GPU_OOM"
    assert list(table["attempts"]) == [2, 2, 1, 1, 1, 1]


def test_a_scan_that_does_not_fit_waits_for_a_job_with_more_memory(shard, segmenter, monkeypatch):
    for_lack_of_memory = {1: MemoryError(), N_SCANS + 1: MemoryError()}
    with_faults(monkeypatch, segmenter, for_lack_of_memory)
    with pytest.raises(TemporaryError, match="not enough memory for s0\n"):
        run_shard(**shard.arguments(), attempts_left=1)
    assert sorted(shard.receipts()) == ["s1", "s2", "s3", "s4", "s5"]
    with_faults(monkeypatch, segmenter, {1: MemoryError(), 2: MemoryError()})
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS - 1, "failed": 1}
    assert shard.table().loc["s0", "reason"] == "RUN_HOST_OOM"
    with_faults(monkeypatch, segmenter, {})
    assert run_shard(**shard.arguments(), attempts_left=0) == {"segmented": N_SCANS}


def test_out_of_memory_after_the_network_is_tried_once_more_too(shard, segmenter, monkeypatch):
    faulty = with_faults(monkeypatch, segmenter, {})
    whole, errors = faulty.finish, [MemoryError()]
    monkeypatch.setattr(
        faulty, "finish", lambda predicted: raise_(errors.pop()) if errors else whole(predicted)
    )
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}
    assert faulty.calls == N_SCANS + 1


def raise_(error):
    raise error


def test_the_log_has_a_line_for_every_scan_and_its_reason(shard, segmenter, monkeypatch, caplog):
    with_faults(monkeypatch, segmenter, {2: ScanError("SEG_NONFINITE", "3 of 9 logits")})
    monkeypatch.setattr("cohortvol.stages.segment.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"):
        run_shard(**shard.arguments())
    assert "0000: 6 scans to segment, 0 finished" in caplog.text
    for n in range(N_SCANS):
        how = "failed SEG_NONFINITE 3 of 9 logits" if n == 1 else "segmented"
        assert len(re.findall(rf" s{n}: {how}, \d+\.\d s$", caplog.text, re.M)) == 1
    assert "0000: 1 failed, 5 segmented" in caplog.text
    assert "s per scan, about 0 min left" in caplog.text


def test_a_lost_gpu_ends_the_run_with_what_is_done(shard, segmenter, monkeypatch):
    with_faults(monkeypatch, segmenter, {4: TemporaryError("the GPU is gone")})
    with pytest.raises(TemporaryError, match="GPU is gone"):
        run_shard(**shard.arguments())
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not shard.out.exists()
    run_shard(**shard.arguments())
    assert set(shard.table()["state"]) == {"segmented"}


def test_a_gpu_that_no_repetition_mends_ends_the_run_with_64_and_blames_no_scan(
    shard, segmenter, monkeypatch
):
    with_faults(monkeypatch, segmenter, {4: InstallationError("no kernel image is available")})
    with pytest.raises(InstallationError, match="no kernel image") as told:
        run_shard(**shard.arguments())
    assert told.value.exit_code == 64
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not list(shard.folder.glob("*.started.json"))
    run_shard(**shard.arguments())
    assert set(shard.table()["state"]) == {"segmented"}


def test_a_torch_that_does_not_load_ends_the_run_with_64(shard, monkeypatch):
    monkeypatch.setitem(sys.modules, "cohortvol.stages.segment.infer", None)
    with pytest.raises(ImportError, match="halted"):  # our own module: a bug stays one
        run_shard(**shard.arguments())

    class NoLibrary:
        def find_spec(self, name, path=None, target=None):
            if name == "cohortvol.stages.segment.infer":
                raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cohortvol.stages.segment.infer")
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(InstallationError, match="torch and nnU-Net cannot be loaded"):
        run_shard(**shard.arguments())
    assert shard.receipts() == {}


def test_a_full_disk_pauses_the_run_and_blames_no_scan(shard, segmenter, monkeypatch):
    with_faults(monkeypatch, segmenter, {})

    def full(final, write):
        raise TemporaryError(f"{final}: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(of_scans, "commit_bytes", full)
        with pytest.raises(TemporaryError, match="no space left"):
            run_shard(**shard.arguments())
    assert shard.receipts() == {}
    assert not list(shard.folder.glob("*.started.json"))
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}


def test_a_scan_that_cannot_be_claimed_pauses_the_run_once_those_before_it_are_kept(
    shard, segmenter, monkeypatch
):
    with_faults(monkeypatch, segmenter, {})
    claim = ShardFolder.claim

    def full(folder, work):
        if work.scan_id == "s3":
            raise OSError(errno.ENOSPC, "no space left")
        return claim(folder, work)

    with monkeypatch.context() as patched:
        patched.setattr(ShardFolder, "claim", full)
        with pytest.raises(TemporaryError, match="no space left"):
            run_shard(**shard.arguments(), workers=2)
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not list(shard.folder.glob("*.started.json"))
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}


def test_a_scan_that_kills_the_worker_comes_last_then_is_given_up(shard, segmenter, monkeypatch):
    done = []
    for run in range(3):
        faulty = with_faults(monkeypatch, segmenter, {})
        deadly = segmenter.prepare(scan(0), AFFINE).inputs["main"].data

        def predict(prepared, real=faulty.predict, run=run, deadly=deadly):
            if torch.equal(prepared.inputs["main"].data, deadly):
                raise Killed
            done.append(run)
            return real(prepared)

        faulty.predict = predict
        with pytest.raises(Killed):
            run_shard(**shard.arguments())
    # s1 was being read when s0 killed the first run, so it is as suspect as s0 and waits as well.
    assert done == [1] * (N_SCANS - 2) + [2]
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS - 1, "failed": 1}
    row = shard.table().loc["s0"]
    assert (row["reason"], row["detail"]) == ("RUN_CRASHED", "3 starts without an end")


def test_a_corrupted_model_stops_the_shard_before_any_scan(shard, tmp_path):
    shutil.copytree(shard.model, tmp_path / "model")
    shard.model = tmp_path / "model"
    with open(shard.model / "parts/main/fold_0.safetensors", "ab") as stream:
        stream.write(b"!")
    with pytest.raises(ModelError, match=r"fold_0\.safetensors"):
        run_shard(**shard.arguments())
    assert not shard.folder.exists()
