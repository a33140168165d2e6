"""Does what Snakemake does with the jobs of this workflow, in this process.

A run of Snakemake takes seconds before its first job; a state machine wants thousands of runs.
``tests/workflow/test_make_like.py`` puts the two side by side. Which jobs run, both ask
`cohortvol.workflow.plan.next_run`; what is kept of Snakemake 9 beside:

* the checkpoint first, then the rest is planned anew;
* outputs go before a job starts and after one that failed; those of ``update()`` are put back;
* outputs get the time of the end of their job, which may not be before that of its inputs.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cohortvol.errors import CohortvolError
from cohortvol.models.folders import verify
from cohortvol.store.locks import claim
from cohortvol.store.machine import error_to_act_on
from cohortvol.store.records import Job
from cohortvol.tools.verify.clock import bring_to_present
from cohortvol.tools.verify.quick import remove_damaged
from cohortvol.workflow.flow import BEHIND
from cohortvol.workflow.plan import NextRun, next_run
from threshold_cohort import Settings, Source, Stages

STAGES = ("manifest", "ingest", "segment", "measure", "assemble")
RETRIES = {"segment": 2}
UPDATED = ("manifest/scans.parquet", "manifest/shards.parquet")


@dataclass
class Outcome:
    """What a run did: jobs that it was said to do, those that it started, in order, and failed."""

    told: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.failed


class MakeLike:
    """Runs of one results folder, of which nothing is remembered but what lies in it."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.at_work = False

    def told(
        self, source: Source, settings: Settings, forced: Iterable[str] = ()
    ) -> dict[str, str]:
        """``snakemake -n`` and ``cohortvol plan``: the jobs of the next run, with reasons."""
        stages = Stages(source, settings, self.results)
        return {job.name: why for job, why in _jobs(self._plan(stages, forced)).items()}

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
        chance = order or random.Random(0)  # noqa: S311
        forced = [rule for rule in STAGES if rule in forced]
        asked = self._plan(stages, forced)
        remove_damaged(self.results, asked.damaged)
        bring_to_present(self.results)
        todo = list(_jobs(asked))
        outcome = Outcome([job.name for job in todo])
        if not todo:
            return outcome
        with claim(self.results), self._at_work():
            verify(stages.card)
            stages.check()
            while todo:
                job = chance.choice([job for job in todo if not _waits(job, todo)])
                todo.remove(job)
                work = _Work(self.results, stages, job, outcome)
                if work.done(end_of_killed_job, starts, at_work):
                    if job.rule == "manifest":
                        rest = [rule for rule in forced if rule != "manifest"]
                        todo = list(_jobs(self._plan(stages, rest)))
                else:
                    todo = [other for other in todo if not _is_behind(other, job)]
        return outcome

    def _plan(self, stages: Stages, forced: Iterable[str]) -> NextRun:
        return next_run(stages.config, stages.card, forced)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False


def _jobs(asked: NextRun) -> dict[Job, str]:
    """Those up to assemble: the pages behind them are drawn from the final tables alone."""
    return {job: why for job, why in asked.reasons.items() if job.rule in STAGES}


def _waits(job: Job, todo: Iterable[Job]) -> bool:
    """Whether a job that this one reads of is still to be done."""
    return any(
        other.rule == "manifest" or (other.rule in BEHIND.get(job.rule, ()) and _same(other, job))
        for other in todo
        if other is not job
    )


def _same(one: Job, other: Job) -> bool:
    return not one.shard or not other.shard or one.shard == other.shard


def _is_behind(job: Job, on: Job) -> bool:
    """Whether a job can do nothing without another: the table of the same shard, or all."""
    return STAGES.index(job.rule) > STAGES.index(on.rule) and _same(job, on)


class _Work:
    """One job."""

    def __init__(self, results: Path, stages: Stages, job: Job, outcome: Outcome) -> None:
        self.job, self.outcome = job, outcome
        stage = getattr(stages, job.rule)
        self.run = (lambda: stage(job.shard)) if job.shard else stage
        self.updated = [results / name for name in job.outputs if name in UPDATED]
        self.outputs = [results / name for name in job.outputs]
        files = [name for role in job.inputs for name in job.files(role, stages.shards())]
        own = (stages.source.manifest, stages.source.withdrawals)
        self.inputs = [results / name for name in files] or list(own)

    def done(
        self,
        end_of_killed_job: Callable[[], bool],
        starts: Callable[[str], None],
        at_work: Callable[[bool], None],
    ) -> bool:
        """Run the job, again if it may be; whether it ended well."""
        job, failed = self.job, self.outcome.failed
        for _ in range(1 + RETRIES.get(job.rule, 0)):
            self.outcome.ran.append(job.name)
            starts(job.rule)
            backups = {path: path.read_bytes() for path in self.updated if path.exists()}
            _remove(path for path in self.outputs if path not in self.updated)
            try:
                with _child(end_of_killed_job, at_work):
                    self.run()
            except (CohortvolError, KilledJobError) as error:
                failed[job.name] = str(error)
                for path, content in backups.items():
                    path.write_bytes(content)
                _remove(path for path in self.outputs if path not in backups)
                continue
            failed.pop(job.name, None)
            for path in self.outputs:
                os.utime(path)
            newest = max((_time(path) for path in self.inputs if path.exists()), default=0.0)
            if any(_time(path) < newest for path in self.outputs):
                failed[job.name] = "older than its input: the clock was set back"
                return False
            return True
        return False


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


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


def _time(path: Path) -> float:
    return path.stat().st_mtime
