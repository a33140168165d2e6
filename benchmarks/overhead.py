"""What a cluster job takes beside the work in it: wall time of the job minus that of its worker.

    python tests/slurm/lab.py run -- python benchmarks/overhead.py --scans 48

Slurm tells when each job began and ended, to a second; the worker leaves its own age in
``<shard>.resources.json``. The difference is Snakemake, started again inside the job.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from statistics import mean, median

from chaos import run, small_scans


def main() -> None:
    """Run a small cohort on Slurm and print a line per stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=48)
    parser.add_argument("--shard-size", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1, help="at a time")
    parser.add_argument("--out", type=Path, default=Path("results/overhead"))
    options = parser.parse_args()
    manifest = small_scans(options.out / "source", options.scans)
    results = options.out / "results"
    polls = ("--seconds-between-status-checks", "3")
    words = ("--profile", "slurm", "--jobs", str(options.jobs), *polls)
    if run(manifest, results, options.shard_size, *words).wait():
        sys.exit(f"the run failed; see {results.with_suffix('.log')}")
    wall_s = walls()
    seconds = defaultdict(list)
    for record in results.rglob("*.resources.json"):
        stage = record.relative_to(results).parts[0]
        for job in json.loads(record.read_text())["runs"]:
            if job["slurm_job"] in wall_s:
                seconds[stage].append((wall_s[job["slurm_job"]], job["seconds"]))
    for stage, pairs in sorted(seconds.items()):
        jobs, workers = zip(*pairs, strict=True)
        beside = [job - worker for job, worker in pairs]
        print(
            f"{stage}: {len(pairs)} jobs of {mean(jobs):.1f} s, of which the worker "
            f"{mean(workers):.1f} s; beside it {mean(beside):.1f} s, median {median(beside):.1f} s"
        )


def walls() -> dict[str, float]:
    """Seconds from start to end of every job that Slurm still remembers."""
    told = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True)
    found = re.findall(r"JobId=(\d+) .* StartTime=(\S+) EndTime=(\S+) ", told.stdout)
    return {
        job: (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
        for job, start, end in found
        if "Unknown" not in (start, end)
    }


if __name__ == "__main__":
    main()
