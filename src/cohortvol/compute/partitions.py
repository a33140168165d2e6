"""What the partitions of a Slurm cluster have, so that no job asks for more than there is."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cohortvol.compute.cluster import output_of

log = logging.getLogger(__name__)

LIMIT_SECONDS = 20.0
MEMORY = "mem_mb"
RESOURCES = (MEMORY, "runtime")
"""Resources of a rule that grow with each attempt: MB as Slurm counts them, and minutes."""

_MINUTES = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")
_KEYS = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Most:
    """The most that a job of a partition may have; None where there is no limit or none is told."""

    mem_mb: int | None = None
    runtime: int | None = None


class Partitions:
    """Limits of partitions by name; the cluster's default partition is None."""

    def __init__(self, most: dict[str | None, Most]) -> None:
        self._most = most
        self._told: set[tuple[str, str]] = set()

    @classmethod
    def ask(cls) -> Partitions:
        """Those of the cluster that this machine submits to; none where it cannot be asked."""
        try:
            shown = output_of(("scontrol", "--oneliner", "show", "partition"), LIMIT_SECONDS)
            nodes = output_of(("sinfo", "--noheader", "--exact", "--format=%R|%m"), LIMIT_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("Slurm does not tell what its partitions have (%s)", error)
            return cls({})
        return cls(read_limits(shown, nodes))

    def bound(self, rules: Iterable[Any]) -> None:
        """Have no attempt of a rule ask for more than its partition has, by rule or by profile.

        Parameters
        ----------
        rules : iterable of snakemake.rules.Rule
            Their resources are replaced.
        """
        for rule in rules:
            for name in RESOURCES:
                if name in rule.resources:
                    rule.resources[name] = self._bounded(rule.resources, name)

    def _bounded(self, resources: Mapping[str, Any], name: str) -> Any:
        wanted, partition = resources[name], resources.get("slurm_partition")

        # Snakemake gives what the names of these arguments ask for.
        def value(
            wildcards: Any, input: Any, attempt: int, threads: int, rulename: str, async_run: Any
        ) -> Any:
            given = {
                "input": input,
                "attempt": attempt,
                "threads": threads,
                "rulename": rulename,
                "async_run": async_run,
            }
            asked = wanted.evaluate(wildcards, **given).value
            where = partition and partition.evaluate(wildcards, **given).value
            if not isinstance(asked, int):
                return asked
            return self.within(rulename, name, asked, where, attempt)

        return type(wanted)(name, value, raw=wanted.raw)

    def within(
        self, rule: str, resource: str, asked: int, partition: str | None, attempt: int
    ) -> int:
        """What an attempt of a rule may ask for; the first time it is less than it wanted is told.

        Parameters
        ----------
        rule : str
            Name of the rule.
        resource : str
            ``mem_mb`` or ``runtime``.
        asked : int
            What the rule or the profile wants: MB or minutes.
        partition : str or None
            As given to ``sbatch``, such as ``gpu`` or ``gpu,long``, of which the largest counts.
        attempt : int
            From 1.
        """
        most = self._of(partition, resource)
        if most is None or asked <= most:
            return asked
        if (rule, resource) not in self._told:
            self._told.add((rule, resource))
            log.warning("%s", _less(rule, resource, asked, most, partition, attempt))
        return most

    def _of(self, partition: str | None, resource: str) -> int | None:
        names: Iterable[str | None] = partition.split(",") if partition else [None]
        found = [getattr(self._most.get(name, Most()), resource) for name in names]
        return None if None in found else max(found)


def read_limits(shown: str, nodes: str) -> dict[str | None, Most]:
    """Limits by partition, from what two programs of Slurm print.

    Parameters
    ----------
    shown : str
        ``scontrol --oneliner show partition``.
    nodes : str
        ``sinfo --noheader --exact --format=%R|%m``: partition, and memory of a kind of its nodes.
    """
    largest: dict[str, int] = {}
    for line in nodes.splitlines():
        name, _, memory = line.strip().partition("|")
        if memory.isdecimal():
            largest[name] = max(largest.get(name, 0), int(memory))
    most: dict[str | None, Most] = {}
    for line in shown.splitlines():
        keys = dict(_KEYS.findall(line))
        if "PartitionName" not in keys:
            continue
        name = keys["PartitionName"]
        limits = [largest.get(name), _number(keys.get("MaxMemPerNode"))]
        known = [limit for limit in limits if limit]
        most[name] = Most(min(known, default=None), _minutes(keys.get("MaxTime")))
        if keys.get("Default") == "YES":
            most[None] = most[name]
    return most


def _less(
    rule: str, resource: str, asked: int, most: int, partition: str | None, attempt: int
) -> str:
    unit = "MB" if resource == MEMORY else "minutes"
    where = f"partition {partition}" if partition else "the default partition"
    return (
        f"cohortvol: attempt {attempt} of {rule} asks for {most:,} {unit} in place of {asked:,}: "
        f"no job of {where} can have more\n"
        f"  Where that is too little, set `slurm_partition` of {rule} in the profile to one that "
        f"gives more; where it is enough, set `{resource}` to it."
    )


def _minutes(time: str | None) -> int | None:
    """``1-02:00:00`` in minutes; None for no limit."""
    found = _MINUTES.fullmatch(time or "")
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
