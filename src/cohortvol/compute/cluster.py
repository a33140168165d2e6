"""Jobs of a run in Slurm: those that wait in vain, and those whose driver was killed.

All jobs of a run have one name in Slurm. It is kept in the results folder while the run works
there: a second driver would submit the same shards again, so the next run cancels what is left of
it.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cohortvol.store.files import commit_text

log = logging.getLogger(__name__)

RUN = ".slurm-run"
"""File in a results folder: name of the jobs of the run that works there, or was killed there."""

CANCEL_LIMIT_SECONDS = 120.0
SECONDS_BETWEEN_LOOKS = 15.0
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FIELDS = "%A|%T|%k|%P|%l|%m|%r"
_PROFILE = "in the profile, under default-resources or set-resources"


# --- jobs of a run that was killed


def remember(results: Path, name: str) -> None:
    """Note under which name the jobs of this run are in Slurm."""
    commit_text(results / RUN, f"{name}\n")


def forget(results: Path) -> None:
    """Take the note away: the run has ended, and its jobs with it."""
    (results / RUN).unlink(missing_ok=True)


def name_of_run(results: Path) -> str | None:
    """The name that `remember` noted; None where no run is at work in Slurm or was killed."""
    try:
        name = (results / RUN).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return name if _NAME.fullmatch(name) else None


def cancel_left_over(results: Path) -> int:
    """Cancel jobs of an earlier run in a results folder, and wait until they are gone.

    To be called by who holds the folder (`cohortvol.store.locks.claim`): then that run has no
    driver. A worker that is cancelled finishes the scan in hand first. Where Slurm cannot be asked,
    nothing is cancelled: two jobs on one shard wait for each other (`cohortvol.stages.segment`).

    Returns
    -------
    int
        Number of jobs that were queued or running.
    """
    name = name_of_run(results)
    left = _ids(name) if name else []
    if name and left:
        _slurm("scancel", *left)
        end = time.monotonic() + CANCEL_LIMIT_SECONDS
        while _ids(name) and time.monotonic() < end:
            time.sleep(1)
    forget(results)
    return len(left)


def _ids(name: str) -> list[str]:
    """Ids of the jobs of this name that are queued, running or ending."""
    return _slurm("squeue", "--me", "--noheader", "--format=%A", f"--name={name}").split()


def _slurm(*words: str) -> str:
    """What a command of Slurm says; nothing, with a warning, where it cannot be had."""
    try:
        return output_of(words, 60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Slurm cannot be asked for jobs of a run that was killed (%s)", error)
        return ""


def output_of(words: tuple[str, ...], patience_s: float) -> str:
    """What a program prints; it must end well, and in time."""
    return subprocess.run(  # noqa: S603 - no shell, and `_NAME` admits no option
        words, capture_output=True, text=True, timeout=patience_s, check=True
    ).stdout


# --- jobs in the queue


@dataclass(frozen=True)
class Queued:
    """A job as squeue shows it.

    Attributes
    ----------
    what : str
        Rule and shard, as ``segment 0017``.
    time, memory : str
        What it asked for, as Slurm writes it: ``2:00:00``, ``16000M``.
    reason : str
        Why it does not run; ``None`` where it does.
    """

    id: str
    state: str
    what: str
    partition: str
    time: str
    memory: str
    reason: str


def queue(name: str, patience_s: float) -> list[Queued] | None:
    """Jobs of a run; None where Slurm is not there or does not answer in time."""
    words = ("squeue", "--noheader", f"--format={_FIELDS}", f"--name={name}")
    try:
        lines = [line.split("|", 6) for line in output_of(words, patience_s).splitlines()]
    except (OSError, subprocess.SubprocessError):
        return None
    return [
        Queued(
            id=line[0],
            state=line[1].lower(),
            what=line[2].removeprefix("rule_").replace("_wildcards_", " "),
            partition=line[3],
            time=line[4],
            memory=line[5],
            reason=line[6].strip("()"),
        )
        for line in lines
        if len(line) == 7
    ]


_PASSES = re.compile(
    r"None|Priority|Resources|Dependency|BeginTime|Cleaning|Licenses|Prolog|JobArrayTaskLimit"
    r"|(QOS|Assoc)(Grp(?!\w*(Minutes|Wall))\w*|\w*(Jobs|PerUser|PerAccount)\w*)"
)
"""Reasons that end by themselves, as other jobs end."""

_WHAT_TO_CHANGE = [
    (r"held", "it is held: `scontrol release` lets it go, where you held it yourself"),
    (
        r"memory|MemPer|MaxMem",
        f"set less `mem_mb` {_PROFILE}, or name a larger `slurm_partition`",
    ),
    (
        r"Minutes|GrpWall",
        f"the time of your account is used up: name another `slurm_account` {_PROFILE}",
    ),
    (
        r"time ?limit|wall|PartitionConfig",
        f"set a shorter `runtime` {_PROFILE}, or name a `slurm_partition` that gives more time",
    ),
    (r"cpu|processor|task", "set fewer threads: segment.threads in config.yaml, or set-threads"),
    (r"gres|gpu|tres", f"set the `gpu` or `gres` of segment {_PROFILE}: see `sinfo -o '%P %G'`"),
    (r"feature|constraint", f"set another `constraint` {_PROFILE}: see `sinfo -o '%P %f'`"),
    (
        r"reserv|ReqNodeNotAvail|NodeDown|maint",
        "its nodes are down or kept for others: see `scontrol show reservation`; a job with a "
        "shorter `runtime` may fit in before",
    ),
    (r"account", f"set `slurm_account` {_PROFILE}"),
    (r"qos", f"set `qos` {_PROFILE}"),
    (r"partition", f"name another `slurm_partition` {_PROFILE}: see `sinfo`"),
]


def what_to_change(reason: str) -> str | None:
    """What a user can do about a job that waits or was refused; None where it is its turn to wait.

    Parameters
    ----------
    reason : str
        Slurm's word, of squeue, or what sbatch said.
    """
    if _PASSES.fullmatch(reason):
        return None
    for words, what in _WHAT_TO_CHANGE:
        if re.search(words, reason, re.IGNORECASE):
            return what
    return "see `scontrol show job`, and `sinfo -o '%P %l %m %c %G'` for what the nodes have"


# --- said while a run goes on


class Watch:
    """Says why jobs of a run will not start, and why one was refused, as soon as it is known.

    Snakemake waits for a job that can never start as for any other.
    """

    def __init__(self, name: str, say: Callable[[str], None] | None = None) -> None:
        self._name = name
        self._say = say or _to_stderr
        self._told: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Look at the queue from time to time, until the process ends, and at what sbatch says."""
        logging.getLogger("snakemake.logging").addHandler(Refusals(self._say))
        threading.Thread(target=self._look_on, name="queue", daemon=True).start()

    def _look_on(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self.look()

    def look(self) -> None:
        """Tell of each rule once per reason."""
        waiting = [job for job in queue(self._name, 60) or [] if job.state == "pending"]
        kinds = Counter((job.what.partition(" ")[0], job.reason) for job in waiting)
        for job in waiting:
            kind = (job.what.partition(" ")[0], job.reason)
            what = what_to_change(job.reason)
            if what is None or kind in self._told:
                continue
            self._told.add(kind)
            more = f" and {kinds[kind] - 1:,} more" if kinds[kind] > 1 else ""
            self._say(
                f"job {job.id} ({job.what}){more} does not start: {job.reason}; it asks for "
                f"{job.time} and {job.memory} in partition {job.partition}\n  {what}"
            )


_REFUSAL = re.compile(r"sbatch failed.*?'(.*?)'\.?$", re.DOTALL | re.MULTILINE)
"""How Snakemake's plugin quotes sbatch."""


class Refusals(logging.Handler):
    """Of what Snakemake says, the errors of sbatch."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._say = say
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say what to change, once per rule and error."""
        found = _REFUSAL.search(_message(record))
        if found is None:
            return
        said = " ".join(found[1].replace("sbatch: error: ", "").split())
        rule = getattr(record, "rule_name", "")
        if f"{rule} {said}" not in self._told:
            self._told.add(f"{rule} {said}")
            self._say(f"Slurm refused a job of {rule}: {said}\n  {what_to_change(said)}")


def _message(record: logging.LogRecord) -> str:
    return str(getattr(record, "rule_msg", None) or record.getMessage())


def _to_stderr(text: str) -> None:
    print(f"cohortvol: {text}", file=sys.stderr, flush=True)
