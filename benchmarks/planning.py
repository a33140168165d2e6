"""Time and memory to plan a cohort, beside a workflow with a job for every scan and stage.

    python benchmarks/planning.py --scans 8672 100000 --per-scan 8672

Each figure is a dry run of Snakemake in a process of its own: before anything was ingested, and
when all is done. The images need not exist.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from cohortvol import config
from cohortvol.models.card import load_card
from cohortvol.models.folders import find_model
from cohortvol.stages.manifest import from_config, sources
from cohortvol.store.records import noted, read_index
from cohortvol.workflow.flow import Flow

REPOSITORY = Path(__file__).resolve().parents[1]
BYTES_OF_TABLE = 100_000
"""Of each table of a shard; those of 64 scans with four structures are smaller, pictures larger."""

NOTHING = "No job is to run."

PER_SCAN = """
SCANS = [f"s{{n:06d}}" for n in range({n})]
rule all:
    input: expand("measure/{{scan}}.parquet", scan=SCANS)
rule ingest:
    output: "ingest/{{scan}}.parquet"
    shell: "true"
rule segment:
    input: "ingest/{{scan}}.parquet"
    output: "segment/{{scan}}.parquet"
    shell: "true"
rule measure:
    input: "segment/{{scan}}.parquet"
    output: "measure/{{scan}}.parquet"
    shell: "true"
"""


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="*", default=[8672, 100_000])
    parser.add_argument("--per-scan", type=int, nargs="*", default=[8672])
    parser.add_argument("--out", type=Path, default=Path("results/planning"))
    options = parser.parse_args()
    for n in options.scans:
        shutil.rmtree(options.out, ignore_errors=True)
        options.out.mkdir(parents=True)
        manifest = options.out / "manifest.csv"
        rows = {"scan_id": [f"s{number:06d}" for number in range(n)], "age_years": 50, "sex": "F"}
        pd.DataFrame(rows).assign(image="nowhere.nii.gz").to_csv(manifest, index=False)
        results = options.out / "results"
        tell(f"{n} scans, shards of 64: manifest", [
            "cohortvol", "manifest", "--manifest", str(manifest), "--results", str(results)
        ])  # fmt: skip
        words = ["snakemake", "--profile", "slurm", "--quiet", "all", "--config",
                 f"manifest={manifest}", f"results={results}"]  # fmt: skip
        tell(f"{n} scans, shards of 64: dry run, nothing done", [*words, "-n"])
        finish(manifest, results)
        tell(f"{n} scans, shards of 64: dry run, all done", [*words, "-n"], NOTHING)
    for n in options.per_scan:
        folder = options.out / "per-scan"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Snakefile").write_text(PER_SCAN.format(n=n))
        tell(f"{n} scans, a job per scan and stage: dry run", [
            "snakemake", "-n", "--quiet", "all", "--scheduler", "greedy",
            "--snakefile", str(folder / "Snakefile"), "--directory", str(folder),
        ])  # fmt: skip


def finish(manifest: Path, results: Path) -> None:
    """Every file that the workflow makes, with the record of what it was made of."""
    settings = config.check({"manifest": str(manifest), "results": str(results)})
    card = load_card(find_model(settings["model"], REPOSITORY / settings["models_dir"]))
    flow = Flow(settings, card)
    given = from_config(settings)
    table = io.BytesIO()
    pd.DataFrame({"scan_id": ["s000000"]}).to_parquet(table)
    for job in flow.jobs(read_index(results), {}):
        for name in job.outputs:
            path = results / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(table.getvalue() + os.urandom(BYTES_OF_TABLE))
        is_first = job.rule == "manifest"
        with noted(
            job.text(results),
            (lambda: sources(manifest, None, given["choice"])) if is_first else None,
        ):
            pass


def tell(what: str, words: list[str], must_say: str = "") -> None:
    """Run a command; print its wall time, processor time and greatest memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [Path(sys.executable).parent / words[0], *words[1:]], cwd=REPOSITORY,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    said = process.stderr.read() if process.stderr else b""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) or must_say not in said.decode():
        sys.exit(f"{what}: {said.decode()[-3000:]}")
    print(
        f"{what}: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of processor, "
        f"{used.ru_maxrss / 1024:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
