"""The workflow in a process of its own, as a person starts it in the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def tables_of(results):
    """The last file of assemble, for tests that look at no figure: analyse and report take half
    the time of a small cohort."""
    return str(results / "files.sha256")


def command(manifest, results, *words, **settings):
    """``snakemake`` on two cores, with files to make and options; settings as for ``--config``."""
    given = {"manifest": manifest, "results": results, **settings}
    return [
        sys.executable, "-m", "snakemake", "--cores", "2", *words, "--config",
        *(f"{name}={value}" for name, value in given.items()),
    ]  # fmt: skip


def run(manifest, results, *words, code=0, **settings):
    """The process, which must have ended with `code`."""
    words = command(manifest, results, *words, **settings)
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-5000:]
    return done
