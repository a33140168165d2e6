"""Segment: every scan of a shard gets a label map once, also by a worker that is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from cohortvol.errors import TemporaryError
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store.files import sha256_of
from segment_cohort import AFFINE, Shard, scan, write_ingest, write_scan
from segment_fixture import N_SCANS, Killed, with_faults

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(model, images, tmp_path_factory):
    shard = Shard(tmp_path_factory.mktemp("undisturbed"), model, images)
    run_shard(**shard.arguments(), device="cpu")
    return shard


def copy_of(finished: Shard, results: Path) -> Shard:
    shutil.copytree(finished.results, results)
    return Shard(results, finished.model, finished.images)


# --- the worker


def test_every_ready_scan_gets_a_label_map_a_receipt_and_a_row(undisturbed, images):
    table = undisturbed.table()
    assert list(table.index) == sorted(images)
    assert set(table["state"]) == {"segmented"}
    for scan_id, row in table.iterrows():
        path = undisturbed.results / row["label_map"]
        assert path == undisturbed.folder / f"{scan_id}_dseg.nii.gz"
        assert sha256_of(path) == row["label_map_sha256"]
        assert row["image_sha256"] == sha256_of(images[scan_id])
        assert row["attempts"] == 1
        assert 0 < row["seconds_network"] <= row["seconds"]
        receipt = json.loads(undisturbed.receipts()[scan_id])
        assert receipt["numerics"] == {
            "device": "cpu",
            "precision": "float32",
            "threads": torch.get_num_threads(),
        }
        label_map = nib.load(path)
        np.testing.assert_allclose(label_map.affine, AFFINE, atol=1e-5)
        assert label_map.shape == scan(0).shape
    assert (undisturbed.folder / "dseg.tsv").read_text() == (
        "index\tname\n1\tliver\n2\tspleen\n3\tkidney_left\n"
    )
    assert not list(undisturbed.folder.glob("*.started.json"))
    assert [path.name for path in undisturbed.folder.glob(".*")] == [".in-use"]


@pytest.fixture
def no_model_needed(monkeypatch):
    monkeypatch.setattr("cohortvol.stages.segment.infer.Segmenter.load", never)


def never(*_args, **_options):
    raise AssertionError("the model was loaded")


def test_a_second_run_loads_no_model_and_writes_no_receipt(undisturbed, tmp_path, no_model_needed):
    again = copy_of(undisturbed, tmp_path / "again")
    before, table = again.receipts(), again.out.read_bytes()
    again.out.unlink()
    assert run_shard(**again.arguments()) == {"segmented": N_SCANS}
    assert again.receipts() == before
    assert again.out.read_bytes() == table


@pytest.mark.parametrize("workers", [0, 3])
def test_label_maps_do_not_depend_on_how_many_read_ahead(undisturbed, shard, workers):
    run_shard(**shard.arguments(), device="cpu", workers=workers)
    name = "label_map_sha256"
    assert shard.table()[name].tolist() == undisturbed.table()[name].tolist()


def test_the_networks_thread_waits_for_no_mark_and_no_receipt(shard, monkeypatch):
    """On a slow disk it would wait between two scans, and the GPU with it."""
    seen = {}
    for name in ("claim", "finish"):
        step = getattr(ShardFolder, name)

        def noted(*given, name=name, step=step):
            seen[name] = threading.current_thread()
            return step(*given)

        monkeypatch.setattr(ShardFolder, name, noted)
    run_shard(**shard.arguments(), device="cpu", workers=1)
    assert set(seen) == {"claim", "finish"}
    assert threading.current_thread() not in seen.values()


def test_without_workers_everything_is_done_in_one_thread(shard, segmenter, monkeypatch):
    seen = set()
    for name in ("prepare", "predict", "finish"):
        step = getattr(Segmenter, name)

        def noted(*scan, step=step):
            seen.add(threading.current_thread())
            return step(*scan)

        monkeypatch.setattr(Segmenter, name, noted)
    run_shard(**shard.arguments(), device="cpu", workers=0)
    assert seen == {threading.current_thread()}


def test_only_ready_scans_are_rows_and_a_shard_without_any_is_an_empty_table(
    undisturbed, tmp_path, no_model_needed
):
    again = copy_of(undisturbed, tmp_path / "again")
    write_ingest(again.ingest, again.images, s1="quarantined")
    run_shard(**again.arguments())
    assert list(again.table().index) == ["s0", "s2", "s3", "s4", "s5"]
    assert "s1" in again.receipts()
    write_ingest(again.ingest, {})
    assert run_shard(**again.arguments()) == {}
    assert len(again.table()) == 0


def spoil_label_map(shard):
    (shard.folder / "s2_dseg.nii.gz").write_bytes(b"cut")


def lose_label_map(shard):
    (shard.folder / "s2_dseg.nii.gz").unlink()


def tear_receipt(shard):
    (shard.folder / "s2.json").write_text('{"state": "segm')


def fail_receipt(shard):
    path = shard.folder / "s2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed"}))


@pytest.mark.parametrize("damage", [spoil_label_map, lose_label_map, tear_receipt, fail_receipt])
def test_only_the_scan_whose_receipt_does_not_stand_is_segmented_again(
    undisturbed, tmp_path, damage
):
    again = copy_of(undisturbed, tmp_path / "again")
    before, label_maps = again.receipts(), again.label_maps()
    damage(again)
    run_shard(**again.arguments(), device="cpu")
    after = again.receipts()
    assert {scan_id for scan_id in after if after[scan_id] != before[scan_id]} == {"s2"}
    assert again.label_maps() == label_maps


def test_a_changed_image_or_model_or_nothing_but_the_mtime(undisturbed, model, tmp_path):
    again = copy_of(undisturbed, tmp_path / "again")
    before = again.receipts()
    again.images = dict(again.images) | {"s0": tmp_path / "new.nii.gz"}
    write_scan(again.images["s0"], scan(77), AFFINE)
    again.images["s1"].touch()
    write_ingest(again.ingest, again.images)
    run_shard(**again.arguments(), device="cpu")
    after = again.receipts()
    assert {scan_id for scan_id in after if after[scan_id] != before[scan_id]} == {"s0"}
    other = tmp_path / "other"
    shutil.copytree(model, other)
    card = json.loads((other / "card.json").read_text())
    card["labels"] = {"1": "liver", "2": "spleen", "4": "kidney_left"}
    (other / "card.json").write_text(json.dumps(card))
    again.model = other
    run_shard(**again.arguments(), device="cpu")
    last = again.receipts()
    assert all(last[scan_id] != after[scan_id] for scan_id in last)


def test_a_file_that_is_not_what_ingest_read_is_quarantined_and_looked_at_again(
    undisturbed, tmp_path
):
    again = copy_of(undisturbed, tmp_path / "again")
    again.images = {
        "s0": again.images["s0"], "t1": tmp_path / "t1.nii.gz", "t2": tmp_path / "t2.nii.gz"
    }  # fmt: skip
    write_scan(again.images["t1"], scan(1), AFFINE)
    write_scan(again.images["t2"], scan(2), AFFINE)
    write_ingest(again.ingest, again.images)
    content = again.images["t1"].read_bytes()
    write_scan(again.images["t1"], scan(3), AFFINE)
    again.images["t2"].unlink()
    run_shard(**again.arguments(), device="cpu")
    table = again.table()
    assert list(table["state"]) == ["segmented", "quarantined", "quarantined"]
    assert list(table["reason"][1:]) == ["SRC_CHANGED", "SRC_MISSING"]
    assert table["label_map"].isna().sum() == 2
    again.images["t1"].write_bytes(content)
    run_shard(**again.arguments(), device="cpu")
    assert list(again.table()["state"]) == ["segmented", "segmented", "quarantined"]


def test_a_receipt_goes_before_its_label_map_is_replaced(
    undisturbed, tmp_path, segmenter, monkeypatch
):
    again = copy_of(undisturbed, tmp_path / "again")
    lose_label_map(again)
    with_faults(monkeypatch, segmenter, {1: Killed()})
    with pytest.raises(Killed):
        run_shard(**again.arguments())
    assert sorted(again.receipts()) == ["s0", "s1", "s3", "s4", "s5"]


# --- kills


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.01)


def same_but_for_the_clock(shard: Shard) -> pd.DataFrame:
    return shard.table().drop(columns=["attempts", "started_utc", "seconds", "seconds_network"])


def test_killed_at_random_moments_it_ends_where_an_undisturbed_run_does(shard, undisturbed):
    moments = random.Random(20260301)  # noqa: S311
    for kill in range(2):
        before, marks = shard.receipts(), shard.marks()
        process = shard.start()
        wait_for(lambda marks=marks: shard.marks() != marks, process)
        if kill == 0:
            wait_for(shard.receipts, process)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        after = shard.receipts()
        assert {scan_id: after.get(scan_id) for scan_id in before} == before
    assert before  # something had been finished before the last kill
    process = shard.start()
    _, log = process.communicate(timeout=240)
    assert process.returncode == 0, log.decode()
    last = shard.receipts()
    assert {scan_id: last[scan_id] for scan_id in after} == after
    assert shard.label_maps() == undisturbed.label_maps()
    pd.testing.assert_frame_equal(
        same_but_for_the_clock(shard), same_but_for_the_clock(undisturbed)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_each_signal_to_stop_is_heard_after_the_scan_in_hand(shard, segmenter, monkeypatch, number):
    faulty = with_faults(monkeypatch, segmenter, {})
    real, before = faulty.predict, signal.getsignal(number)

    def predict(prepared):
        if faulty.calls == 1:
            os.kill(os.getpid(), number)
        return real(prepared)

    faulty.predict = predict
    with pytest.raises(TemporaryError, match=f"stopped by {number.name}, 4 scans left"):
        run_shard(**shard.arguments())
    assert sorted(shard.receipts()) == ["s0", "s1"]
    assert signal.getsignal(number) is before


def test_told_to_stop_it_finishes_the_scan_in_hand_and_exits_75(shard, undisturbed):
    process = shard.start()
    wait_for(shard.receipts, process)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=240)
    assert process.returncode == 75, log.decode()
    assert "stopped by SIGTERM" in log.decode()
    assert not list(shard.folder.glob("*.started.json"))
    assert not shard.out.exists()
    before = shard.receipts()
    assert 0 < len(before) < N_SCANS
    run_shard(**shard.arguments(), device="cpu")
    after = shard.receipts()
    assert {scan_id: after[scan_id] for scan_id in before} == before
    assert shard.label_maps() == undisturbed.label_maps()


def test_a_second_job_on_the_same_shard_waits_and_finds_it_finished(
    shard, undisturbed, monkeypatch, caplog
):
    monkeypatch.setattr("cohortvol.stages.segment.worker.LOOK_AGAIN_SECONDS", 0.1)
    process = shard.start()
    wait_for(shard.receipts, process)
    assert run_shard(**shard.arguments(), device="cpu") == {"segmented": N_SCANS}
    assert "0000: process" in caplog.text
    assert "is working on this shard; waiting for it" in caplog.text
    assert process.wait(timeout=60) == 0
    assert shard.label_maps() == undisturbed.label_maps()
    assert all(json.loads(text)["attempts"] == 1 for text in shard.receipts().values())
    process.stderr.close()
