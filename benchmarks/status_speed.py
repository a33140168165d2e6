"""How long `cohortvol status` and `resources` take on a cohort of 100,000 scans.

    python benchmarks/status_speed.py
    python benchmarks/status_speed.py --scans 8672 --out results/status-speed

A results folder is made of tables alone, as the stages write them: 64 scans a shard, 41 structures
a scan, the records of the jobs. Half of the shards are measured, 200 are being segmented (32
receipts each), the others wait; then all are measured; then the cohort is assembled. Each time is
that of the whole command in a process of its own, the least of three.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from cohortvol.store import schemas, tables

MODEL = "toy"
PER_SHARD = 64
STRUCTURES = 41
AT_WORK = 200
RECEIPTS = 32
SECONDS = 12.0


def main() -> None:
    """Make the folder, time the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("results/status-speed"))
    options = parser.parse_args()
    folder, n_scans = options.out, options.scans
    shards = [f"{number:04d}" for number in range(-(-n_scans // PER_SHARD))]
    scans = {
        shard: [
            f"sub-{number:06d}"
            for number in range(n * PER_SHARD, min((n + 1) * PER_SHARD, n_scans))
        ]
        for n, shard in enumerate(shards)
    }
    half, at_work = shards[: len(shards) // 2], shards[len(shards) // 2 :][:AT_WORK]
    write_manifest(folder, scans)
    for stage in ("ingest", "segment", "measure"):
        for shard in shards if stage == "ingest" else half:
            write_stage(folder, stage, shard, scans[shard])
    now = time.time()
    for shard in at_work:
        write_record(folder / "segment" / MODEL / f"{shard}.parquet", RECEIPTS, None, now)
        for n, scan_id in enumerate(scans[shard][:RECEIPTS]):
            receipt = folder / "segment" / MODEL / shard / f"{scan_id}.json"
            receipt.parent.mkdir(exist_ok=True)
            receipt.write_text(json.dumps({"scan_id": scan_id, "state": "segmented"}))
            ended = now - (RECEIPTS - 1 - n) * SECONDS
            os.utime(receipt, (ended, ended))
    timed(f"half measured, {len(at_work)} shards at work", folder)
    for stage in ("segment", "measure"):
        for shard in shards[len(half) :]:
            write_stage(folder, stage, shard, scans[shard])
    timed("all measured", folder)
    write_final(folder, scans)
    timed("assembled", folder)


def timed(what: str, folder: Path) -> None:
    """Print the time of each command on the folder as it is."""
    for command in (["status"], ["status", "--json"], ["resources"]):
        words = ["cohortvol", *command, "--results", str(folder)]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
            if done.returncode not in (0, 3, 75):
                raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
        print(f"{what}: cohortvol {' '.join(command)} {min(seconds):.2f} s", flush=True)


def write_manifest(folder: Path, scans: dict[str, list[str]]) -> None:
    """The manifest's tables, as far as they are read."""
    rows = [
        {"manifest_line": 2, "scan_id": scan_id, "image": f"/data/{scan_id}.nii.gz", "shard": shard}
        for shard, ids in scans.items()
        for scan_id in ids
    ]
    table = pd.DataFrame(rows)
    table["manifest_line"] += table.index
    tables.write_table(folder / "manifest/scans.parquet", table, schemas.MANIFEST)
    index = "".join(f"{shard}\t{len(ids)}\n" for shard, ids in scans.items())
    (folder / "manifest/index.tsv").write_text("shard\tn_scans\n" + index)
    for shard, ids in scans.items():
        path = folder / "manifest/shards" / f"{shard}.parquet"
        frame = pd.DataFrame({"scan_id": ids, "image": [f"/data/{name}.nii.gz" for name in ids]})
        tables.write_table(path, frame, schemas.SHARD)


def write_stage(folder: Path, stage: str, shard: str, ids: list[str]) -> None:
    """A shard's table of one stage, every 50th scan quarantined by ingest, and its job's record."""
    broken = set(ids[::50])
    ready = [scan_id for scan_id in ids if scan_id not in broken]
    if stage == "ingest":
        rows = [{"scan_id": scan_id, "state": "ready", "n_i": 320} for scan_id in ready]
        rows += [
            {"scan_id": scan_id, "state": "quarantined", "reason": "SRC_TRUNCATED"}
            for scan_id in broken
        ]
        path, schema = folder / "ingest" / f"{shard}.parquet", schemas.INGEST
    elif stage == "segment":
        start = datetime.now(UTC) - timedelta(seconds=SECONDS * len(ready))
        rows = [
            {"scan_id": scan_id, "state": "segmented", "seconds": SECONDS, "seconds_network": 9.0}
            | {"started_utc": (start + n * timedelta(seconds=SECONDS)).isoformat()}
            for n, scan_id in enumerate(ready)
        ]
        path, schema = folder / "segment" / MODEL / f"{shard}.parquet", schemas.SEGMENT
    else:
        rows = [
            {"scan_id": scan_id, "structure": f"structure_{n}", "volume_ml": 1500.0 + n}
            | {"status": "ok", "qc": "pass", "qc_flags": ""}
            for scan_id in ready
            for n in range(STRUCTURES)
        ]
        path, schema = folder / "measure" / MODEL / f"{shard}.parquet", schemas.VOLUMES
    write_record(path, len(ids), 0, time.time())
    tables.write_table(path, tables.append_rows(rows, schema), schema)


def write_record(table: Path, n_scans: int, exit_code: int | None, now: float) -> None:
    """What the job of a shard took."""
    seconds = n_scans * SECONDS + 20
    run = {
        "device": "cuda", "exit_code": exit_code, "gpu_memory_mb": 5120, "gpu_name": "a GPU",
        "host": "n1", "memory_mb": 6100, "n_scans": n_scans, "seconds": seconds,
        "seconds_cpu": 1.7 * seconds, "seconds_network": 9.0 * n_scans, "seconds_startup": 20.0,
        "slurm_job": "1", "started_utc": datetime.fromtimestamp(now - seconds, UTC).isoformat(),
    }  # fmt: skip
    path = table.with_name(f"{table.stem}.resources.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": [run]}))


def write_final(folder: Path, scans: dict[str, list[str]]) -> None:
    """The table of scans that assemble writes; of the volumes, that there are some."""
    every = [scan_id for ids in scans.values() for scan_id in ids]
    rows = [{"scan_id": scan_id, "state": "done", "model": MODEL} for scan_id in every]
    for name, frame, schema in (
        ("volumes", tables.append_rows([], schemas.VOLUMES), schemas.VOLUMES),
        ("scans", tables.append_rows(rows, schemas.SCANS), schemas.SCANS),
    ):
        tables.write_table(folder / f"{name}.parquet", frame, schema)


if __name__ == "__main__":
    main()
