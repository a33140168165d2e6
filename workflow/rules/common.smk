# Config checked, model found, the list of shards. No science, and no table is read here: this
# file is parsed again inside every cluster job.
import json
import os
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from snakemake.utils import update_config

import cohortvol
from cohortvol.compute.cluster import Watch, cancel_left_over, forget, remember
from cohortvol.config import check, read_yaml
from cohortvol.errors import FINISHED_WITH_PROBLEMS, ConfigError
from cohortvol.store.files import (check_writable, keep_from_others, refuse_planted_below, warn_if_world_readable)
from cohortvol.store.locks import (claim)
from cohortvol.workflow.flow import RULES, Flow
from cohortvol.store.machine import check_interpreter, error_to_act_on
from cohortvol.models.card import (load_card, restrict)
from cohortvol.models.folders import (find_model, verify)
from cohortvol.compute.partitions import Partitions
from cohortvol.store.records import read_index

# The rules call the `cohortvol` beside the Python that runs Snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

keep_from_others()


@contextmanager
def told_without_traceback():
    """Print an error that the user can act on, and end with its exit code."""
    try:
        yield
    except Exception as error:
        told = error_to_act_on(error)
        if told is None:
            raise
        print(f"cohortvol: {told}", file=sys.stderr)
        sys.exit(told.exit_code)


def check_exists(path, setting):
    """Raise unless the file that a setting names is there."""
    if not Path(path).exists():
        raise ConfigError(
            f"{setting}: no such file: {path}\n"
            f"  Name it with `{setting}` in config/config.yaml, or on the command line:\n"
            "  snakemake --cores 2 --config manifest=my/scans.csv results=results/mine"
        )


JSON_WORDS = ("true", "false", "null")


def typed(value):
    """A value of ``--config 'analyse={fdr: 0.1}'``, in which Snakemake leaves all words as text."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def with_typed_values(config, given):
    """The config with what was given on the command line in its right types."""
    sections = {
        name: {**(config[name] or {}), **typed(value)}
        for name, value in given.items()
        if isinstance(value, dict)
    }
    words = {name: typed(value) for name, value in given.items() if value in JSON_WORDS}
    return {**config, **sections, **words}


def config_files():
    """Files of settings, of which the later wins: ours, then those of the command line.

    They are read again, as Snakemake reads them by the rules of YAML 1.1, to which `no` is False
    and `012` is ten.
    """
    given = workflow.config_settings
    ours = [path for path in workflow.configfiles if path not in given.configfiles]
    return [
        *map(Path, [] if given.replace_workflow_config else ours),
        *given.configfiles,
    ]


def options(settings):
    """Settings as command-line options: ``{"min_slices": 8}`` is ``["--min-slices", "8"]``.

    A range stands after its option as two values; an option of a list of names is repeated; a
    switch that is off is ``--no-...``. None and an empty list leave it out.
    """
    words = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            words += [word for item in value for word in (option, item)]
        elif isinstance(value, list):
            words += [option, *map(str, value)]
        elif isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        elif value is not None:
            words += [option, str(value)]
    return words


with told_without_traceback():
    check_interpreter()
    config = {}
    for path in config_files():
        settings = read_yaml(path)
        check(settings, source=path)
        update_config(config, settings)
    update_config(config, workflow.config_settings.config)
    config = check(
        with_typed_values(config, workflow.config_settings.config), source="--config"
    )
    MANIFEST, RESULTS = Path(config["manifest"]), Path(config["results"])
    if "--lint" not in sys.argv:
        check_exists(config["manifest"], setting="manifest")
        for setting, path in (
            ("decisions", config["decisions"]),
            ("withdrawals", config["withdrawals"]),
            ("measure.plausible_ml", config["measure"]["plausible_ml"]),
            ("analyse.literature", config["analyse"]["literature"]),
            ("report.planted", config["report"]["planted"]),
        ):
            if path is not None:
                check_exists(path, setting=setting)
        check_writable(RESULTS)
    MODEL = restrict(
        load_card(find_model(config["model"], Path(config["models_dir"]))),
        config["roi"],
    )
    # What every job reads and makes, and the settings that its results depend on.
    FLOW = Flow(config, MODEL)
    FLOW.settings


# Model to compare with, and where it was run.
OTHER = config["agreement"]["model"]
OTHER_RESULTS = config["agreement"]["results"] or config["results"]
if OTHER and "--lint" not in sys.argv:
    with told_without_traceback():
        if not config["keep_label_maps"]:
            raise ConfigError(
                "agreement.model: label maps are compared, and keep_label_maps is false"
            )
        check_exists(f"{OTHER_RESULTS}/measure/{OTHER}", setting="agreement.model")


# Attempts of a job of segment in all. Each is a job of its own in a cluster, with more memory and
# time; the Snakemake inside a job starts it once.
ATTEMPTS = 4
RETRIES = ATTEMPTS - 1 if workflow.is_main_process else 0


REPORT_TEMPLATES = [
    str(path) for path in sorted(Path("reports").rglob("*")) if path.is_file()
]


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


def slurm_name():
    """Name of this run's jobs in Slurm, or None where it submits none."""
    return getattr(getattr(workflow.scheduler, "_executor", None), "run_uuid", None)


@cache
def hold():
    """Keep other runs out of the results folder until this process ends, however it ends.

    Called first by what is asked of every plan: before a table is judged, removed or made. Jobs, on
    whatever machine, work for the one who holds it; a dry run looks without holding.
    """
    deletes = any(word.startswith("--delete") for word in sys.argv)
    acts = workflow.executor_plugin is not None and not workflow.dryrun
    if not workflow.is_main_process or not (acts or deletes):
        return None
    with told_without_traceback():
        held = claim(RESULTS)
    if acts and workflow.executor_plugin.name == "slurm":
        Partitions.ask().bound(workflow.rules)
    return held


# Before the first job, and in the process that starts the jobs alone.
onstart:
    global STARTED
    STARTED = time.time()
    with told_without_traceback():
        check_storage()
        if left := cancel_left_over(RESULTS):
            print(
                f"cohortvol: {left} Slurm jobs of a run that was killed here were cancelled; "
                "scans that they finished are kept",
                file=sys.stderr,
            )
        if RUN_NAME := slurm_name():
            remember(RESULTS, RUN_NAME)
            Watch(RUN_NAME).start()
        warn_if_world_readable(RESULTS)
        verify(MODEL)
        check_manifest()


# At the end, in that process too. Logs name scans, so their ends are shown here and by no job:
# what a job prints stands in the log of the cluster, outside the results folder.
onsuccess:
    forget(RESULTS)
    tell_end()
    tell_unknown(exits=True)


onerror:
    tell_end(failed_jobs())


def tell_end(failed=None):
    """How far the cohort came, what its jobs took, and what failed and why."""
    from cohortvol.tools.status import closing_words

    sys.stderr.write(closing_words(RESULTS, MODEL.id, STARTED, failed))


def failed_jobs():
    """Rule and log of each job of this run that failed, and was not repeated with success."""
    failed = getattr(workflow.scheduler, "failed", ())
    jobs = [one for job in failed for one in (job.jobs if job.is_group() else [job])]
    return sorted((job.rule.name, str(job.log[0]) if job.log else "") for job in jobs)


# Ids of the list of withdrawals that were never known here, in the process that starts the jobs.
UNKNOWN = []


def tell_unknown(exits=False):
    """Say whom of the list of withdrawals nobody knows; at the end of the run, with exit code 3."""
    for unknown in UNKNOWN:
        print(f"cohortvol: {unknown.text()}", file=sys.stderr)
    if exits and UNKNOWN:
        sys.exit(FINISHED_WITH_PROBLEMS)


def check_storage():
    """Refuse a file system on which a run that is interrupted could leave half a file, and folders
    in it that are links of others.
    """
    from cohortvol.store.storage import self_test

    refuse_planted_below(RESULTS)
    self_test(RESULTS, with_hard_links=config["hash_ids"])


def check_manifest():
    """Read the manifest once, so that its bad rows are a short message and not a failed job.

    So are ids of the list of withdrawals that were never known here, and decoders that are missing
    where something in the manifest may be DICOM.
    """
    from cohortvol.stages.manifest import (check, from_config)

    rows = check(MANIFEST, RESULTS, **from_config(config), tell=UNKNOWN.append)
    tell_unknown()
    images = rows["image"].dropna()
    if not images.str.lower().str.endswith((".nii", ".nii.gz")).all():
        from cohortvol.stages.ingest import check_decoders

        check_decoders()


def manifest_files(wildcards):
    """The table of scans, or the files of a BIDS dataset that are about all of it."""
    hold()
    if not MANIFEST.is_dir():
        return config["manifest"]
    return [str(MANIFEST / name) for name in BIDS_FILES if (MANIFEST / name).is_file()]


def manifest_path(wildcards):
    """The table of scans or the dataset, as a param of the rule that reads it."""
    return config["manifest"]


def results_folder(wildcards):
    """The results folder, as a param of the rules that work in the whole of it."""
    return config["results"]


# What this run does, by what the records in the results folder say that its files were made of.
# The outputs of these jobs are forced; that Snakemake sees no other reason, what all other jobs
# read is ancient. None in the processes of jobs, which do what they are told.
RUN = None


def ask(forced):
    """Find out which jobs must run, and have Snakemake run these."""
    global RUN
    from cohortvol.workflow.plan import next_run

    before = set() if RUN is None else RUN.outputs
    with told_without_traceback():
        RUN = next_run(config, MODEL, forced)
    for names, change in (
        (before, workflow.dag.forcefiles.difference_update),
        (RUN.outputs, workflow.dag.forcefiles.update),
    ):
        change(f"{config['results']}/{name}" for name in names)


@cache
def ask_first():
    """Once, where a run is planned, before anything is known of the shards."""
    hold()
    if not workflow.is_main_process or workflow.touch:
        return
    from cohortvol.workflow.plan import render_jobs
    from cohortvol.tools.verify.clock import bring_to_present
    from cohortvol.tools.verify.quick import remove_damaged

    ask(forced_by_user())
    if workflow.dryrun:
        sys.stderr.write(render_jobs(RUN.why, RUN.counts))
    elif workflow.executor_plugin:
        remove_damaged(RESULTS, RUN.damaged)
        bring_to_present(RESULTS)


def ask_again():
    """Once the manifest stage has run: what it wrote is known now."""
    if RUN is not None and "manifest" in RUN.why:
        ask([name for name in forced_by_user() if name != "manifest"])


def forced_by_user():
    """Rules that are to run in any case, or files in the results folder."""
    if workflow.dag_settings.forceall:
        return RULES
    asked = workflow.dag_settings.forcerun
    return [name.removeprefix(f"{config['results']}/") for name in asked]


def by_record(stage, files):
    """What a job reads, of which Snakemake is to compare no times."""

    def of_job(wildcards):
        ask_first()
        found = files(wildcards) if callable(files) else files
        job = f"{stage} {wildcards.get('shard', '')}".strip()
        return found if RUN is not None and job in RUN.why else ancient(found)

    return of_job


def record_of(stage):
    """Description of a job, which its command keeps as the record of what it made."""

    def of_job(wildcards):
        if stage == "manifest":
            job = FLOW.manifest({})
        elif "shard" in wildcards.keys():
            job = FLOW.of_shard(stage, wildcards.shard)
        else:
            job = FLOW.of_cohort(stage)
        return job.text(config["results"])

    return of_job


def kept_options(wildcards):
    """Where volumes stand in for the label maps of a shard, if these are not kept."""
    if config["keep_label_maps"]:
        return []
    table = f"{config['results']}/measure/{MODEL.id}/kept/{wildcards.shard}.parquet"
    return options({"kept": table, "measuring": FLOW.measuring})


def shards():
    """Every shard that holds a scan, from the index that the manifest stage wrote."""
    ask_first()
    checkpoints.manifest.get()
    ask_again()
    return read_index(RESULTS)


def shard_list(wildcards):
    """The scans of one shard; rewritten by the manifest stage only when they change."""
    checkpoints.manifest.get()
    ask_again()
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
