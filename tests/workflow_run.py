"""The workflow in a process of its own, as a person starts it in the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import warm

REPOSITORY = Path(__file__).resolve().parents[1]


def tables_of(results):
    """The last file of assemble, for tests that look at no figure: analyse and report take half
    the time of a small cohort."""
    return str(results / "files.sha256")


def arguments(manifest, results, *words, **settings):
    """Two cores, files to make and options; settings as for ``--config``."""
    given = {"manifest": manifest, "results": results, **settings}
    pairs = (f"{name}={value}" for name, value in given.items())
    return ["--cores", "2", *map(str, words), "--config", *pairs]


def command(manifest, results, *words, **settings):
    """``snakemake``, to be started from nothing."""
    return [sys.executable, "-m", "snakemake", *arguments(manifest, results, *words, **settings)]


def run(manifest, results, *words, code=0, **settings):
    """What ``snakemake`` said, which must have ended with `code`."""
    given = arguments(manifest, results, *words, **settings)
    done = warm.run("snakemake", *given, cwd=REPOSITORY)
    assert done.returncode == code, done.stderr[-5000:]
    return done
