"""Snakemake itself on a cohort of tiny scans: what it says that it will do, and what it does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import warm
from make_like import STAGES, Outcome
from threshold_cohort import Settings, Source

REPOSITORY = Path(__file__).resolve().parents[1]
CLONED = ("config", "envs", "models", "profiles", "reports", "workflow", "Snakefile")

# Python imports a module of this name when it starts: the threshold in place of the network.
SITE = """
import sys, types
class Infer(types.ModuleType):
    def __getattr__(self, name):
        if name != "Segmenter":
            raise AttributeError(name)
        from threshold_cohort import ThresholdSegmenter
        return ThresholdSegmenter
sys.modules["cohortvol.stages.segment.infer"] = Infer("cohortvol.stages.segment.infer")

import errno, os
if full := os.environ.get("NO_SPACE_FOR"):
    replace = os.replace
    def refused(source, target):
        if os.fspath(target).endswith(full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)
    os.replace = refused
"""

# The rules up to assemble: the pages behind them are drawn from the final tables alone.
SHORT = """
configfile: "config/config.yaml"
include: "workflow/rules/common.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/assemble.smk"
rule all:
    default_target: True
    input: "<results>/files.sha256", "<results>/manifest/index.tsv", shard_tables
"""


def clone(folder: Path, *, short: bool) -> Path:
    """What a clone of the repository holds of the workflow; with `short` up to assemble alone."""
    folder.mkdir(parents=True)
    for name in CLONED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copyfile
        copy(REPOSITORY / name, folder / name)
    if short:
        (folder / "Snakefile").write_text(SHORT)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    return folder


@dataclass
class Driven:
    """One cohort, as a person works on it from a clone."""

    checkout: Path
    source: Source
    results: str
    settings: Settings
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def place(self) -> Path:
        """The results folder."""
        return self.checkout / self.results

    def run(self, *words: str, code: int = 0, **environment: str) -> list[str]:
        """``snakemake``; the jobs that it started, in their order."""
        return self._jobs(self._snakemake(*words, code=code, **environment).stderr)

    def end(self, *words: str) -> tuple[int, list[str], str]:
        """Exit code of ``snakemake``, jobs that it started, and what it said."""
        done = self._process("snakemake", *self._given(*words))
        return done.returncode, self._jobs(done.stderr), done.stderr

    def told(self, *words: str) -> tuple[list[str], dict[str, int]]:
        """``snakemake -n``: jobs that it lists, and of each rule those that we count."""
        done = self._snakemake("--dry-run", *words)
        counts = re.findall(r"^  (\w+) +([\d,]+)(?: of [\d,]+)?  ", done.stderr, flags=re.M)
        listed = sorted(set(self._jobs(done.stdout + done.stderr)))
        return listed, {rule: int(n.replace(",", "")) for rule, n in counts}

    def plan(self) -> dict[str, str]:
        """``cohortvol plan``: jobs, each with its reason."""
        done = self._process("cohortvol", "plan", "--config", self._config(), "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["jobs"])

    def _snakemake(
        self, *words: str, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = self._process("snakemake", *self._given(*words), **environment)
        assert done.returncode == code, done.stderr[-5000:]
        return done

    def _given(self, *words: str) -> tuple[str, ...]:
        return ("--cores", "2", *words, "--configfile", self._config())

    def _process(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        places = [self.checkout / "site", REPOSITORY / "src", REPOSITORY / "tests"]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
        return warm.run(*words, cwd=self.checkout, environment=environment)

    def _config(self) -> str:
        self.source.write()
        self.source.model(self.settings)
        chosen = {**self.settings.config(self.source, Path(self.results)), **dict(self.more)}
        path = self.checkout / "run.yaml"
        path.write_text(yaml.safe_dump(chosen))
        return str(path)

    def _jobs(self, text: str) -> list[str]:
        started = re.split(r"^(?:local)?(?:rule|checkpoint) ", text, flags=re.M)[1:]
        jobs = [
            f"{one.partition(':')[0]} {''.join(re.findall('wildcards: shard=([0-9]+)', one))}"
            for one in started
        ]
        return [job.strip() for job in jobs if job != "all "]


class SnakemakeItself:
    """In place of `make_like.MakeLike`: Snakemake, from a clone of its own."""

    def __init__(self, results: Path, clone_in: Path) -> None:
        self.results, self.checkout, self.at_work = results, clone_in, False
        if not clone_in.exists():
            clone(clone_in, short=True)

    def told(
        self, source: Source, settings: Settings, forced: Iterable[str] = ()
    ) -> dict[str, str]:
        """What ``cohortvol plan`` says; ``snakemake -n`` must say the same."""
        driven = self._driven(source, settings)
        words = _forced(forced)
        listed, counts = driven.told(*words)
        if words:  # which `cohortvol plan` does not take
            return dict.fromkeys([*listed], "") if "manifest" not in listed else {}
        plan = {job: why for job, why in driven.plan().items() if job.split()[0] in STAGES}
        of_rules = {rule: n for rule, n in counts.items() if rule in STAGES}
        assert of_rules == dict(Counter(job.split()[0] for job in plan)), (of_rules, plan)
        behind = sorted(job for job in plan if "manifest" not in plan or " " not in job)
        assert listed == behind, f"-n lists {listed}, plan {plan}"
        return plan

    def run(
        self, source: Source, settings: Settings, *, forced: Iterable[str] = (), **_: Any
    ) -> Outcome:
        driven = self._driven(source, settings)
        code, ran, said = driven.end(*_forced(forced))
        assert "Traceback" not in said, said[-3000:]
        return Outcome(ran=ran, failed={} if code == 0 else {"snakemake": said[-3000:]})

    def _driven(self, source: Source, settings: Settings) -> Driven:
        return Driven(self.checkout, source, str(self.results), settings)


def _forced(rules: Iterable[str]) -> list[str]:
    return ["--forcerun", *sorted(rules)] if rules else []
