"""Slurm: its programs, its partitions, and what the profile assumes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cohortvol.compute.profiles import asks_for_gpu, by_rule, defaults_of
from cohortvol.tools.doctor.commands import ask, there
from cohortvol.tools.doctor.findings import Finding, failed, passed, skipped, warned

PROGRAMS = ("sinfo", "sbatch", "squeue", "scancel", "scontrol")
PLUGIN = "snakemake-executor-plugin-slurm"
SYSTEM_CONFIG = Path("/etc/slurm/slurm.conf")
CHECKS_BEFORE_FORGOTTEN = 3
"""Looks at the queue that a finished job should be seen in before Slurm forgets it."""

_UP = "up"
_FIELDS = "%R|%a|%D|%l|%G"


def is_there() -> bool:
    """Whether this machine has anything of Slurm."""
    return any(there(name) for name in PROGRAMS)


def programs(environment: Mapping[str, str]) -> Finding:
    """Whether the programs that the profile uses are there, and what version they are."""
    if not is_there():
        return skipped(
            "no Slurm on this machine", "Nothing, unless jobs are to be submitted from here."
        )
    missing = [name for name in PROGRAMS if not there(name)]
    if missing:
        return failed(
            f"{', '.join(missing)} cannot be found",
            "Load the module of Slurm, or install its client programs on this machine.",
        )
    version = ask("sinfo", "--version")
    if version is None:
        return failed("sinfo does not start", "Have the installation of Slurm looked at.")
    if environment.get("SLURM_CONF") and not SYSTEM_CONFIG.exists():
        return warned(
            f"{version}; its configuration is named by SLURM_CONF only",
            f"Snakemake's plugin takes SLURM_CONF away: put the configuration at {SYSTEM_CONFIG}.",
        )
    return passed(version)


def plugin() -> Finding:
    """Whether Snakemake can submit to Slurm."""
    try:
        return passed(f"{PLUGIN} {metadata.version(PLUGIN)}")
    except metadata.PackageNotFoundError:
        what = f"Install it: `pip install -c constraints.txt {PLUGIN}`."
        if is_there():
            return failed(f"{PLUGIN} is not installed", what)
        return skipped(f"{PLUGIN} is not installed, and no Slurm is here", what)


def partitions(profile: Mapping[str, Any]) -> Finding:
    """Whether a partition is up, one has GPUs, and the profile names none that is not there."""
    if not is_there():
        return skipped("no Slurm on this machine", "Nothing.")
    listed = ask("sinfo", "--noheader", f"--format={_FIELDS}")
    if listed is None:
        return failed(
            "sinfo gets no answer from the controller of Slurm",
            "Ask whoever runs the cluster whether slurmctld is up; try `scontrol ping`.",
        )
    rows = [line.strip().split("|") for line in listed.splitlines()]
    rows = [row for row in rows if len(row) == _FIELDS.count("|") + 1]
    up = {row[0] for row in rows if row[1] == _UP}
    says = "; ".join(f"{name}: {_nodes(name, rows)}" for name in sorted({row[0] for row in rows}))
    wanted = sorted(_partitions_of(profile) - {row[0] for row in rows})
    if wanted:
        return failed(
            f"the profile names {', '.join(wanted)}; there is {says or 'none'}",
            "Set slurm_partition in the profile to one of these.",
        )
    if not up:
        return failed(says or "no partition", "Ask whoever runs the cluster when one will be up.")
    if not any(gpus_of(row[4]) and row[0] in up for row in rows):
        return warned(
            f"{says}; none has GPUs (gres)",
            "Scans are segmented on processors: set the `gpu` of segment to 0 in the profile.",
        )
    return passed(says)


def gpus_of(gres: str) -> list[str]:
    """The GPUs among the generic resources of a node, such as ``gpu:a100:4``.

    ``lscratch:800,gpu:a100:4(S:0-1,3)`` has one kind, wherever it stands in the list.
    """
    resources = re.split(r",(?![^(]*\))", gres)
    return [one.partition("(")[0] for one in resources if re.match(r"gpu(?![A-Za-z0-9_])", one)]


def segment(profile: Mapping[str, Any]) -> Finding:
    """Whether the profiles together leave segment its GPU, and the warning before its time ends."""
    if profile.get("executor") != "slurm":
        return skipped("the profile is not for Slurm", "Name those you use with --profile.")
    own = by_rule(profile).get("segment", {})
    lines = []
    if not asks_for_gpu(own):
        lines.append("gpu: 1")
    if "--signal" not in str(own.get("slurm_extra", defaults_of(profile).get("slurm_extra", ""))):
        lines.append("slurm_extra: \"'--signal=TERM@120'\"")
    if not lines:
        return passed("segment has a GPU, and a signal two minutes before its time ends")
    lacks = {"g": "asks for no GPU", "s": "gets no signal before its time ends"}
    return warned(
        f"segment {' and '.join(lacks[line[0]] for line in lines)}; it has "
        + (", ".join(f"{name}: {value}" for name, value in own.items()) or "nothing of its own"),
        "A later profile replaces set-resources as a whole. Put beside what it has for segment: "
        + "; ".join(f"`{line}`" for line in lines)
        + (", unless scans are to be segmented on processors." if lines[0][0] == "g" else "."),
    )


def _nodes(name: str, rows: list[list[str]]) -> str:
    own = [row for row in rows if row[0] == name]
    gpus = sorted({one for row in own for one in gpus_of(row[4])})
    state = "" if any(row[1] == _UP for row in own) else f" {own[0][1]},"
    return (
        f"{state} {sum(int(row[2]) for row in own)} nodes, at most {own[0][3]}"
        + (f", {', '.join(gpus)}" if gpus else "")
    ).strip()


def _partitions_of(profile: Mapping[str, Any]) -> set[str]:
    """Every ``slurm_partition`` of a profile."""
    groups = [defaults_of(profile), *by_rule(profile).values()]
    named = (group.get("slurm_partition") for group in groups)
    return {part for value in named if isinstance(value, str) for part in value.split(",")}


def forgotten(profile: Mapping[str, Any]) -> Finding:
    """Whether a finished job is seen before Slurm forgets it (MinJobAge)."""
    if not is_there():
        return skipped("no Slurm on this machine", "Nothing.")
    if profile.get("slurm-status-command") != "squeue":
        return skipped("the profile asks sacct, not squeue", "Nothing.")
    shown = ask("scontrol", "show", "config")
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", shown or "", re.M)
    if found is None:
        return failed(
            "scontrol does not tell MinJobAge", "Try `scontrol show config`; is slurmctld up?"
        )
    age, interval = int(found[1]), int(profile.get("seconds-between-status-checks", 10))
    says = f"Slurm forgets a finished job after {age} s; the profile looks every {interval} s"
    if age == 0:
        return passed(f"Slurm forgets no finished job; the profile looks every {interval} s")
    if interval >= age:
        return failed(
            says, f"Set seconds-between-status-checks to {max(age // 6, 1)}, or raise MinJobAge."
        )
    if interval * CHECKS_BEFORE_FORGOTTEN > age:
        return warned(
            says, f"Set seconds-between-status-checks to {max(age // 6, 1)}, or raise MinJobAge."
        )
    return passed(says)
