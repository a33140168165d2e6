"""One run of Snakemake over a results folder: held for as long as it lasts, planned, and told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cohortvol.compute.cluster import Watch, cancel_left_over, forget, remember
from cohortvol.compute.partitions import Partitions
from cohortvol.errors import FINISHED_WITH_PROBLEMS
from cohortvol.models.card import Card, load_card, restrict
from cohortvol.models.folders import find_model, verify
from cohortvol.store.files import (
    check_writable,
    keep_from_others,
    refuse_planted_below,
    warn_if_world_readable,
)
from cohortvol.store.locks import claim
from cohortvol.store.machine import check_interpreter
from cohortvol.workflow import engine
from cohortvol.workflow.flow import RULES, Flow
from cohortvol.workflow.settings import check_files, options, settings_of
from cohortvol.workflow.told import told_without_traceback

if TYPE_CHECKING:
    from cohortvol.store.withdrawals import Unknown
    from cohortvol.workflow.plan import NextRun

ATTEMPTS = 4
"""Of a job of segment in all. Each is a job of its own in a cluster, with more memory and time."""


class Run:
    """What the rules ask, in the process that starts the jobs and in those of the jobs.

    Snakefiles are parsed in every job, so nothing here reads a table before it is asked to.

    Attributes
    ----------
    config : dict
        All settings, checked.
    model : Card
        The model, restricted to the structures wanted.
    flow : Flow
        What every job reads and makes, and the settings that its results depend on.
    next : NextRun or None
        What this run does, by what the records in the results folder say that its files were made
        of. The outputs of these jobs are forced; that Snakemake sees no other reason, what all
        other jobs read is ancient. None in the processes of jobs, which do what they are told.
    """

    def __init__(self, workflow: Any) -> None:
        """Check the config and find the model; a problem ends the process with a message."""
        use_commands_beside_python()
        keep_from_others()
        self.workflow = workflow
        with told_without_traceback():
            check_interpreter()
            self.config = settings_of(workflow)
            self.results = Path(self.config["results"])
            if not engine.lints():
                check_files(self.config)
                check_writable(self.results)
            found = find_model(self.config["model"], Path(self.config["models_dir"]))
            self.model: Card = restrict(load_card(found), self.config["roi"])
            self.flow = Flow(self.config, self.model)
            _ = self.flow.settings
        if self.model.elsewhere:
            engine.leave_the_gpu(workflow, "segment")
        self.next: NextRun | None = None
        self._held: IO[str] | None = None
        self._is_held = self._is_asked = False
        self._unknown: list[Unknown] = []
        self._started = time.time()

    # ---- before it is planned --------------------------------------------------------------------

    def hold(self) -> None:
        """Keep other runs out of the results folder until this process ends, however it ends.

        Called first by what is asked of every plan: before a table is judged, removed or made.
        Jobs, on whatever machine, work for the one who holds it; a dry run looks without holding.
        """
        acts = engine.runs_jobs(self.workflow)
        if self._is_held or not engine.is_driver(self.workflow) or not (acts or engine.deletes()):
            return
        self._is_held = True
        with told_without_traceback():
            self._held = claim(self.results)
        if engine.submits_to_slurm(self.workflow):
            Partitions.ask().bound(engine.rules_of(self.workflow))

    def ask_first(self) -> None:
        """Once, where a run is planned, before anything is known of the shards."""
        self.hold()
        if self._is_asked or not engine.is_driver(self.workflow) or engine.touches(self.workflow):
            return
        self._is_asked = True
        from cohortvol.tools.verify.clock import bring_to_present
        from cohortvol.tools.verify.quick import remove_damaged
        from cohortvol.workflow.plan import render_jobs

        found = self._ask(self._forced())
        if engine.is_dry_run(self.workflow):
            sys.stderr.write(render_jobs(found.why, found.counts))
        elif engine.runs_jobs(self.workflow):
            remove_damaged(self.results, found.damaged)
            bring_to_present(self.results)

    def ask_again(self) -> None:
        """Once the manifest stage has run: what it wrote is known now."""
        if self.next is not None and "manifest" in self.next.why:
            self._ask([name for name in self._forced() if name != "manifest"])

    def _ask(self, forced: Iterable[str]) -> NextRun:
        """Find out which jobs must run, and have Snakemake run these."""
        from cohortvol.workflow.plan import next_run

        before = set() if self.next is None else self.next.outputs
        with told_without_traceback():
            found = next_run(self.config, self.model, forced)
        files, instead_of = (
            [f"{self.config['results']}/{name}" for name in names]
            for names in (found.outputs, before)
        )
        engine.force(self.workflow, files, instead_of)
        self.next = found
        return found

    def _forced(self) -> Iterable[str]:
        """Rules that are to run in any case, or files in the results folder."""
        asked = engine.forced_by_user(self.workflow)
        if asked is None:
            return RULES
        return [name.removeprefix(f"{self.config['results']}/") for name in asked]

    # ---- inputs and params of rules --------------------------------------------------------------

    def by_record(self, stage: str, files: Any) -> Callable[[Any], Any]:
        """What a job reads, of which Snakemake is to compare no times."""

        def of_job(wildcards: Any) -> Any:
            self.ask_first()
            found = files(wildcards) if callable(files) else files
            job = f"{stage} {wildcards.get('shard', '')}".strip()
            runs = self.next is not None and job in self.next.why
            return found if runs else engine.ancient(found)

        return of_job

    def record_of(self, stage: str) -> Callable[[Any], str]:
        """Description of a job, which its command keeps as the record of what it made."""

        def of_job(wildcards: Any) -> str:
            if stage == "manifest":
                job = self.flow.manifest({})
            elif "shard" in wildcards.keys():
                job = self.flow.of_shard(stage, wildcards.shard)
            else:
                job = self.flow.of_cohort(stage)
            return job.text(self.config["results"])

        return of_job

    def kept_options(self, wildcards: Any) -> list[str]:
        """Where volumes stand in for the label maps of a shard, if these are not kept."""
        if self.config["keep_label_maps"]:
            return []
        folder = f"{self.config['results']}/measure/{self.model.id}/kept"
        table = f"{folder}/{wildcards.shard}.parquet"
        return options({"kept": table, "measuring": self.flow.measuring})

    @property
    def retries(self) -> int:
        """Of segment."""
        return engine.retries(self.workflow, ATTEMPTS - 1)

    # ---- its start and its end -------------------------------------------------------------------

    def start(self) -> None:
        """Before the first job, and in the process that starts the jobs alone."""
        self._started = time.time()
        with told_without_traceback():
            self._check_storage()
            if left := cancel_left_over(self.results):
                _tell(
                    f"{left} Slurm jobs of a run that was killed here were cancelled; "
                    "scans that they finished are kept"
                )
            if name := engine.slurm_run_name(self.workflow):
                remember(self.results, name)
                Watch(name).start()
            warn_if_world_readable(self.results)
            verify(self.model)
            self._check_manifest()

    def succeed(self) -> None:
        """At the end, in that process too; with exit code 3 where the list names strangers."""
        forget(self.results)
        self._tell_end(None)
        self._tell_unknown()
        if self._unknown:
            sys.exit(FINISHED_WITH_PROBLEMS)

    def fail(self) -> None:
        """At the end of a run in which jobs failed."""
        self._tell_end(engine.failed_jobs(self.workflow))

    def _tell_end(self, failed: list[tuple[str, str]] | None) -> None:
        """How far the cohort came, what its jobs took, and what failed and why.

        Logs name scans, so their ends are shown here and by no job: what a job prints stands in
        the log of the cluster, outside the results folder.
        """
        from cohortvol.tools.status import closing_words

        sys.stderr.write(closing_words(self.results, self.model.id, self._started, failed))

    def _tell_unknown(self) -> None:
        """Say whom of the list of withdrawals nobody knows."""
        for unknown in self._unknown:
            _tell(unknown.text())

    def _check_storage(self) -> None:
        """Refuse a file system on which a run that is interrupted could leave half a file, and
        folders in it that are links of others.
        """
        from cohortvol.store.storage import self_test

        refuse_planted_below(self.results)
        self_test(self.results, with_hard_links=self.config["hash_ids"])

    def _check_manifest(self) -> None:
        """Read the manifest once, so that its bad rows are a short message and not a failed job.

        So are ids of the list of withdrawals that were never known here, and decoders that are
        missing where something in the manifest may be DICOM.
        """
        from cohortvol.stages.manifest import all_images, check, check_label_maps, from_config

        manifest = Path(self.config["manifest"])
        given = from_config(self.config)
        rows = check(manifest, self.results, **given, tell=self._unknown.append)
        self._tell_unknown()
        check_label_maps(self.model, rows, self.config["manifest"])
        images = all_images(rows)
        if not all(image.lower().endswith((".nii", ".nii.gz")) for image in images):
            from cohortvol.stages.ingest import check_decoders

            check_decoders()


def use_commands_beside_python() -> None:
    """Have rules call the `cohortvol` beside the Python that runs Snakemake, activated or not."""
    beside = str(Path(sys.executable).parent)
    os.environ.update(PATH=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def _tell(text: str) -> None:
    print(f"cohortvol: {text}", file=sys.stderr)
