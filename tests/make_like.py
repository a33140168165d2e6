"""Decides as Snakemake does which stages run, from the rules of this workflow, in this process.

A run of Snakemake takes seconds before its first job; a state machine wants thousands of runs.
``tests/workflow/test_make_like.py`` puts the two side by side. What is kept of Snakemake 9:

* a job runs if an output that is asked for is missing, an input is newer than its oldest output and
  not the file it was made from, its params or the set of its inputs changed;
* the checkpoint first, then the rest is planned anew; jobs behind one that runs run as well;
* of what a killed run left unfinished it notices the outputs of manifest and assemble alone;
* outputs go before a job starts and after one that failed; those of ``update()`` are put back;
* outputs get the time of the end of their job, which may not be before that of its inputs.

Inputs of over 1 MB, of which Snakemake compares the times alone, are not meant.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cohortvol
from cohortvol.errors import CohortvolError
from cohortvol.files import claim, sha256_of
from cohortvol.machine import error_to_act_on
from cohortvol.models import load_card, segmentation_key, verify
from cohortvol.verify.clock import bring_to_present
from cohortvol.verify.quick import remove_damaged, remove_unfinished
from threshold_cohort import Settings, Source, Stages

STAGES = ("manifest", "ingest", "segment", "measure", "assemble")
RETRIES = {"segment": 2}


@dataclass(frozen=True)
class Job:
    """A rule for one shard, or for the cohort."""

    rule: str
    shard: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    params: frozenset[str]
    run: Callable[[], Any] = field(compare=False)
    updated: tuple[Path, ...] = ()
    waits_for_checkpoint: bool = False

    @property
    def name(self) -> str:
        return f"{self.rule} {self.shard}".strip()


@dataclass(frozen=True)
class Record:
    """What Snakemake keeps of an output below ``.snakemake/metadata``."""

    inputs: tuple[Path, ...]
    params: frozenset[str]
    checksums: dict[Path, str]


@dataclass
class Outcome:
    """What a run did: jobs that it started, in order, and those that failed."""

    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.failed


class MakeLike:
    """One results folder and what is remembered of it between runs, as in ``.snakemake``."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.records: dict[Path, Record] = {}
        self.unfinished: set[Path] = set()
        self.at_work = False

    def forget(self) -> None:
        """``rm -r .snakemake``."""
        self.records.clear()
        self.unfinished.clear()

    def run(
        self,
        source: Source,
        settings: Settings,
        *,
        forced: Iterable[str] = (),
        order: random.Random | None = None,
        end_of_killed_job: Callable[[], bool] = lambda: False,
        starts: Callable[[str], None] = lambda rule: None,
        at_work: Callable[[bool], None] = lambda is_at_work: None,
    ) -> Outcome:
        """``snakemake``, with ``--forcerun`` for some rules.

        Parameters
        ----------
        source, settings
            What the config names.
        forced : iterable of str
            Rules.
        order : random.Random, optional
            Order in which jobs that could run at once do.
        end_of_killed_job : callable
            Asked where a job was killed: whether this process lives on.
        starts : callable
            Told the rule of each job that starts.
        at_work : callable
            Told when the process of a job begins, and when it ends.

        Raises
        ------
        InUseError
            If another run is in the folder.
        """
        stages = Stages(source, settings, self.results)
        run = _Run(self, stages, frozenset(forced), end_of_killed_job, starts, at_work)
        return run.go(order or random.Random(0))  # noqa: S311


class _Run:
    def __init__(
        self,
        kept: MakeLike,
        stages: Stages,
        forced: frozenset[str],
        end_of_killed_job: Callable[[], bool],
        starts: Callable[[str], None],
        at_work: Callable[[bool], None],
    ) -> None:
        self.kept, self.stages, self.forced = kept, stages, forced
        self.end_of_killed_job, self.starts, self.at_work = end_of_killed_job, starts, at_work
        self.results = kept.results
        self.finished: set[str] = set()
        self.incomplete = set(kept.unfinished)

    def go(self, order: random.Random) -> Outcome:
        outcome = Outcome()
        with claim(self.results):
            remove_damaged(self.results)
            remove_unfinished(self.results, self._marked)
            bring_to_present(self.results)
            if plan := self._plan():
                self._work(plan, outcome, order)
        return outcome

    def _work(self, plan: list[Job], outcome: Outcome, order: random.Random) -> None:
        with self._at_work():
            verify(load_card(self.stages.model))
            self.stages.check()
            while plan:
                ready = [
                    job
                    for job in plan
                    if not any(set(job.inputs) & set(other.outputs) for other in plan)
                    and not (job.waits_for_checkpoint and job is not plan[0])
                ]
                job = order.choice(ready)
                plan.remove(job)
                if self._do(job, outcome):
                    self.finished.add(job.name)
                    if job.rule == "manifest":
                        plan = self._plan()
                else:
                    plan = [other for other in plan if not self._depends(other, job)]

    def _marked(self, tables: list[str]) -> set[str]:
        return {name for name in tables if self.results / name in self.kept.unfinished}

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.kept.at_work = True
        try:
            yield
        finally:
            self.kept.at_work = False

    def _depends(self, job: Job, on: Job) -> bool:
        """Whether a job can do nothing without another: the table of the same shard, or all."""
        behind = STAGES.index(job.rule) > STAGES.index(on.rule)
        return behind and (not job.shard or not on.shard or job.shard == on.shard)

    def _do(self, job: Job, outcome: Outcome) -> bool:
        """Run a job, again if it may be; whether it ended well."""
        for _ in range(1 + RETRIES.get(job.rule, 0)):
            outcome.ran.append(job.name)
            self.starts(job.rule)
            self.kept.unfinished |= set(job.outputs)
            backups = {path: path.read_bytes() for path in job.updated if path.exists()}
            self._remove(path for path in job.outputs if path not in job.updated)
            try:
                with _child(self.end_of_killed_job, self.at_work):
                    job.run()
            except (CohortvolError, KilledJobError) as error:
                outcome.failed[job.name] = str(error)
                self._failed(job, backups)
                continue
            outcome.failed.pop(job.name, None)
            for path in job.outputs:
                os.utime(path)
            newest = max((_time(path) for path in job.inputs), default=0.0)
            if any(_time(path) < newest for path in job.outputs):
                outcome.failed[job.name] = "older than its input: the clock was set back"
                self._forget(job)
                return False
            checksums = {path: sha256_of(path) for path in job.inputs}
            for path in job.outputs:
                self.kept.records[path] = Record(job.inputs, job.params, checksums)
            self.kept.unfinished -= set(job.outputs)
            return True
        return False

    def _failed(self, job: Job, backups: dict[Path, bytes]) -> None:
        checksums = {path: sha256_of(path) for path in job.inputs if path.exists()}
        for path in job.outputs:
            if path in backups:
                path.write_bytes(backups[path])
            self.kept.records[path] = Record(job.inputs, job.params, checksums)
        self.kept.unfinished -= set(job.outputs)
        self._remove(path for path in job.outputs if path not in backups)

    def _forget(self, job: Job) -> None:
        for path in job.outputs:
            self.kept.records.pop(path, None)
        self.kept.unfinished -= set(job.outputs)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.exists():
                os.unlink(path)

    def _plan(self) -> list[Job]:
        """Jobs that must run, in order of the stages."""
        manifest = self._manifest()
        jobs = [manifest, self._assemble(None)]
        scans, _, index = manifest.outputs  # the first stands for the checkpoint
        needed = self._needed(jobs, [scans, index, jobs[-1].outputs[-1]])
        known = all(path.exists() for path in manifest.outputs)
        if manifest in needed or not known:
            return needed
        shards = self.stages.shards()
        of_shards = [job for shard in shards for job in self._of_shard(shard)]
        jobs = [manifest, *of_shards, self._assemble(shards)]
        wanted = [path for job in (manifest, *of_shards) for path in job.outputs[-1:]]
        return self._needed(jobs, [*wanted, jobs[-1].outputs[-1]])

    def _needed(self, jobs: list[Job], wanted: list[Path]) -> list[Job]:
        """`DAG.update_needrun`: the jobs that must run so that what is wanted is there, and new."""
        waiting = [job for job in jobs if job.name not in self.finished]
        makes = {path: job for job in jobs for path in job.outputs}
        behind = {
            job.name: [other for other in jobs if set(other.inputs) & set(job.outputs)]
            for job in jobs
        }
        queue = [
            makes[path]
            for path in wanted
            if path in makes and not path.exists() and makes[path] in waiting
        ]
        masked: set[str] = set()
        for job in waiting:
            if job.name in masked:
                continue
            if self._has_reason(job, behind[job.name]):
                queue.append(job)
                masked |= {other.name for other in _all_behind(job, behind)}
        needed: set[str] = set()
        while queue:
            job = queue.pop()
            if job.name in needed or job not in waiting:
                continue
            needed.add(job.name)
            queue += behind[job.name]
            queue += [makes[path] for path in job.inputs if path in makes and not path.exists()]
        return [job for job in jobs if job.name in needed]

    def _has_reason(self, job: Job, behind: list[Job]) -> bool:
        if job.rule in self.forced:
            return True
        if not job.shard and any(path in self.incomplete and path.exists() for path in job.outputs):
            return True
        if job.waits_for_checkpoint:
            return False
        times = [_times(one.outputs) for one in (job, *behind)]
        oldest = next((min(found) for found in times if found), None)
        if oldest is not None and any(
            path.exists() and _time(path) > oldest and not self._same(job, path)
            for path in job.inputs
        ):
            return True
        records = [self.kept.records.get(path) for path in job.outputs]
        if None in records:
            return False
        return any(
            record.params != job.params or record.inputs != job.inputs
            for record in records
            if record is not None
        )

    def _same(self, job: Job, path: Path) -> bool:
        """Whether an input has the bytes that every output was made from."""
        records = [self.kept.records.get(output) for output in job.outputs]
        known = {record.checksums.get(path) if record else None for record in records}
        return known == {sha256_of(path)}

    def _manifest(self) -> Job:
        folder, stages = self.results / "manifest", self.stages
        return Job(
            "manifest",
            "",
            (stages.source.manifest, stages.source.withdrawals),
            (folder / "scans.parquet", folder / "shards.parquet", folder / "index.tsv"),
            _params(
                stages.settings.shard_size,
                sha256_of(stages.source.manifest),
                sha256_of(stages.source.withdrawals),
            ),
            stages.manifest,
            updated=(folder / "scans.parquet", folder / "shards.parquet"),
        )

    def _of_shard(self, shard: str) -> Iterator[Job]:
        stages, results, settings = self.stages, self.results, self.stages.settings
        card = load_card(stages.model)
        ingest = results / f"ingest/{shard}.parquet"
        segment = results / f"segment/{card.id}/{shard}.parquet"
        measure = results / f"measure/{card.id}/{shard}.parquet"
        yield Job(
            "ingest",
            shard,
            (results / f"manifest/shards/{shard}.parquet",),
            (ingest,),
            _params(settings.min_slices),
            lambda: stages.ingest(shard),
        )
        yield Job(
            "segment",
            shard,
            (ingest,),
            (segment,),
            _params(
                segmentation_key(card, settings.profile),
                stages.model,
                settings.profile,
                settings.workers,
                None if settings.keep_label_maps else settings.measuring,
            ),
            lambda: stages.segment(shard),
        )
        yield Job(
            "measure",
            shard,
            (ingest, segment),
            (measure,),
            _params(
                stages.model,
                settings.min_largest_fraction,
                settings.keep_label_maps,
                cohortvol.__version__,
            ),
            lambda: stages.measure(shard),
        )

    def _assemble(self, shards: list[str] | None) -> Job:
        results, settings = self.results, self.stages.settings
        outputs = ("volumes.parquet", "scans.parquet", "assemble.json", "files.sha256")
        tables = [
            results / f"{place}/{shard}.parquet"
            for place in ("ingest", f"segment/{settings.model}", f"measure/{settings.model}")
            for shard in shards or []
        ]
        return Job(
            "assemble",
            "",
            (results / "manifest/scans.parquet", *sorted(tables)),
            tuple(results / name for name in outputs),
            _params(settings.model, settings.outlier_max_z),
            self.stages.assemble,
            waits_for_checkpoint=shards is None,
        )


class KilledJobError(Exception):
    """The process of a job was killed, and the one that started it was not."""


class Killed(BaseException):
    """The process is no more; what was on the disk stays as it is."""


@contextmanager
def _child(end: Callable[[], bool], at_work: Callable[[bool], None]) -> Iterator[None]:
    """The job's own process: its end is that of the run only where `end` says no."""
    at_work(True)
    try:
        yield
    except OSError as error:
        if (told := error_to_act_on(error)) is None:
            raise
        raise told from error
    except Killed as error:
        if not end():
            raise
        raise KilledJobError("killed") from error
    finally:
        at_work(False)


def _all_behind(job: Job, behind: dict[str, list[Job]]) -> list[Job]:
    found: list[Job] = []
    queue = [job]
    while queue:
        for other in behind[queue.pop().name]:
            if other not in found:
                found.append(other)
                queue.append(other)
    return found


def _params(*values: Any) -> frozenset[str]:
    return frozenset(f"{position}: {value!r}" for position, value in enumerate(values))


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _times(paths: Iterable[Path]) -> list[float]:
    return [_time(path) for path in paths if path.exists()]
