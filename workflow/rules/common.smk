# What the rules share. The Python behind it is cohortvol.workflow; this file is parsed again inside
# every cluster job, so no table is read here.
import json
from pathlib import Path

from cohortvol.store.records import read_index
from cohortvol.workflow.run import ATTEMPTS, Run
from cohortvol.workflow.settings import options, other_results

RUN = Run(workflow)
config = RUN.config
MODEL = RUN.model
by_record, record_of = RUN.by_record, RUN.record_of


# Model to compare with, and where it was run.
OTHER, OTHER_RESULTS = config["agreement"]["model"], other_results(config)


BIDS_FILES = (
    "dataset_description.json",
    "participants.tsv",
    "participants.json",
    "sessions.json",
    ".bidsignore",
)


pathvars:
    results=config["results"],
    model=MODEL.id,
    logs="<results>/logs",


wildcard_constraints:
    shard="[0-9]+",


onstart:
    RUN.start()


onsuccess:
    RUN.succeed()


onerror:
    RUN.fail()


def manifest_files(wildcards):
    """The table of scans, or the files of a BIDS dataset that are about all of it."""
    RUN.hold()
    manifest = Path(config["manifest"])
    if not manifest.is_dir():
        return config["manifest"]
    return [str(manifest / name) for name in BIDS_FILES if (manifest / name).is_file()]


def manifest_path(wildcards):
    """The table of scans or the dataset, as a param of the rule that reads it."""
    return config["manifest"]


def results_folder(wildcards):
    """The results folder, as a param of the rules that work in the whole of it."""
    return config["results"]


def shards():
    """Every shard that holds a scan, from the index that the manifest stage wrote."""
    RUN.ask_first()
    checkpoints.manifest.get()
    RUN.ask_again()
    return read_index(RUN.results)


def shard_list(wildcards):
    """The scans of one shard; rewritten by the manifest stage only when they change."""
    checkpoints.manifest.get()
    RUN.ask_again()
    return "<results>/manifest/shards/{shard}.parquet"


# Pictures of the scans of each shard, and which scan each of those in the report is; where wanted.
PREVIEWS, CONTACT_SHEET, PREVIEW_FOLDER = {}, {}, None
if config["previews"]:
    PREVIEWS = {"previews": "<results>/measure/<model>/previews/{shard}.parquet"}
if config["previews"] and not config["report"]["public"]:
    CONTACT_SHEET = {"contact_sheet": "<results>/contact_sheet.csv"}
    PREVIEW_FOLDER = f"{config['results']}/measure/{MODEL.id}/previews"


def ingest_tables(wildcards):
    return expand("<results>/ingest/{shard}.parquet", shard=shards())


def segment_tables(wildcards):
    return expand("<results>/segment/<model>/{shard}.parquet", shard=shards())


def measure_tables(wildcards):
    return expand("<results>/measure/<model>/{shard}.parquet", shard=shards())


def other_tables(wildcards):
    """What the comparison of a shard reads of the other model: of a run that has ended."""
    if config["agreement"]["results"] is not None:
        return f"{OTHER_RESULTS}/volumes.parquet"
    return [
        f"<results>/{stage}/{OTHER}/{wildcards.shard}.parquet"
        for stage in ("segment", "measure")
    ]


def agreement_tables(wildcards):
    if OTHER is None:
        return []
    return expand("<results>/agreement/<model>/{shard}.parquet", shard=shards())


def preview_tables(wildcards):
    return expand(list(PREVIEWS.values()), shard=shards())


def shard_tables(wildcards):
    """Every table of every shard: a missing one is made again, even behind a finished report."""
    return [
        *ingest_tables(wildcards),
        *segment_tables(wildcards),
        *measure_tables(wildcards),
        *preview_tables(wildcards),
        *agreement_tables(wildcards),
    ]
