"""Which jobs must run, from the results folder and the settings alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortvol.errors import TableError
from cohortvol.models.card import Card
from cohortvol.stages.manifest import Foreseen, changed_images, foresee, from_config, sources
from cohortvol.store.records import LIST, Job, Outdated, read_index
from cohortvol.store.schemas import SCANS
from cohortvol.store.tables import read_arrow
from cohortvol.tools.verify.places import remake_of
from cohortvol.tools.verify.quick import damaged_tables
from cohortvol.workflow.flow import BEHIND, RULES, Flow


@dataclass(frozen=True)
class NextRun:
    """What a run will do.

    Attributes
    ----------
    reasons : dict of Job to str
        Why each job runs that does, in the order of the flow.
    n_jobs : dict of str to int
        Jobs of each rule, with those that need not run.
    shards : list of str
        Shards in use, with those that the manifest stage will add.
    foreseen : Foreseen or None
        What the manifest stage will write; None where it does not run.
    damaged : list of str
        Damaged tables, relative to the results folder.
    """

    reasons: dict[Job, str]
    n_jobs: dict[str, int]
    shards: list[str]
    foreseen: Foreseen | None
    damaged: list[str]

    @cached_property
    def why(self) -> dict[str, str]:
        """Rule and shard of each job that runs, with its reason."""
        return {job.name: reason for job, reason in self.reasons.items()}

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Of each rule, jobs that run, and all."""
        running = Counter(job.rule for job in self.reasons)
        return {rule: (running[rule], most) for rule, most in self.n_jobs.items()}

    @property
    def outputs(self) -> set[str]:
        """What these jobs make, relative to the results folder."""
        return {name for job in self.reasons for name in job.outputs}


def next_run(config: Mapping[str, Any], card: Card, forced: Iterable[str] = ()) -> NextRun:
    """What a run with these settings will do; nothing is written.

    Parameters
    ----------
    config : mapping
        The whole configuration, checked.
    card : Card
        Of the model, restricted to the structures wanted.
    forced : iterable of str
        Rules that are to run in any case, or files that are to be made again.

    Raises
    ------
    ManifestError
        If the manifest changed and cannot be read.
    ConfigError
        As `cohortvol.stages.manifest.run`.
    """
    flow, results = Flow(config, card), Path(config["results"])
    manifest, settings = Path(config["manifest"]), from_config(config)
    state = Outdated(results, forced)
    damaged = damaged_tables(results, state.verified()) if results.is_dir() else []
    state.without(gone for one in damaged for gone in remake_of(one))
    read = sources(manifest, settings["withdrawals"], settings["choice"])
    why = state.why(flow.manifest(read), ()) or _of_images(results, config["ingest"]["watch"])
    foreseen = None
    if why is not None:
        look = {**settings, "bad_rows": "quarantine", "shard_size": config["shard_size"]}
        foreseen = foresee(manifest, results, **look)
        state.without(foreseen.gone)
    shards = read_index(results) if foreseen is None else list(foreseen.lists)
    reasons: dict[Job, str] = {}
    n_jobs = dict.fromkeys(RULES, 0)
    running: dict[str, set[str]] = {rule: set() for rule in RULES}
    for job in flow.jobs(shards, read):
        n_jobs[job.rule] += 1
        if job.rule != "manifest":
            why = state.why(job, shards, _expected(job, foreseen)) or _behind(job, running)
        if why is not None:
            reasons[job] = why
            running[job.rule].add(job.shard)
    return NextRun(reasons, n_jobs, shards, foreseen, damaged)


def _of_images(results: Path, watch: str) -> str | None:
    if watch == "none":
        return None
    n_changed = changed_images(results, _done(results), look_at_done=watch == "all")
    return f"images of another size or time: {n_changed:,}" if n_changed else None


def _done(results: Path) -> set[str]:
    """Scans of which there are volumes."""
    try:
        scans = read_arrow(results / "scans.parquet", SCANS)
    except TableError:
        return set()
    states = zip(scans["scan_id"].to_pylist(), scans["state"].to_pylist(), strict=True)
    return {scan_id for scan_id, state in states if state == "done"}


def _expected(job: Job, foreseen: Foreseen | None) -> dict[str, frozenset[str | None]]:
    """Digests of what the manifest stage will have written when the job starts."""
    if foreseen is None:
        return {}
    if job.rule == "ingest":
        return {LIST: frozenset(foreseen.lists_sha256[job.shard])}
    if job.rule == "assemble":
        return {"manifest": frozenset({foreseen.rows_sha256})}
    return {}


def _behind(job: Job, running: Mapping[str, set[str]]) -> str | None:
    """The rule that runs before, of the same shard or of any."""
    for rule in BEHIND.get(job.rule, ()):
        if running[rule] if not job.shard else job.shard in running[rule]:
            return f"behind {rule}"
    return None
