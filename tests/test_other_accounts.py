"""Results that are closed to an account: it is told so, whatever it asks, and never half of it."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from cohortvol import cli
from cohortvol.errors import BUG, OK, OutputError
from threshold_cohort import (
    Row,
    Settings,
    Source,
    Stages,
    image_bytes,
    threshold_in_place_of_the_network,
)

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


@contextmanager
def as_nobody():
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture(scope="module")
def results():
    """A finished cohort that everybody may read, not below a folder that is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    before = os.umask(0o022)
    source = Source(folder / "source")
    for number, content in enumerate((10, 13, 6)):
        name = f"scan-{number}"
        source.rows.append(Row(name, f"person-{number}", f"{name}.nii.gz", 40 + number))
        source.write_image(f"{name}.nii.gz", image_bytes(content))
    source.write()
    with threshold_in_place_of_the_network():
        Stages(source, Settings(), folder / "results").all()
    for path in (folder / "results").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with open(folder / "withdrawn.csv", "w", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["subject_id"], ["person-9"]])
    yield folder / "results", {
        "status": ["status", "--results"],
        "explain": ["explain", "scan-1", "--results"],
        "verify": ["verify", "--results"],
        "withdrawn": ["verify", "--withdrawn", f"{folder}/withdrawn.csv", "--results"],
        "resources": ["resources", "--results"],
        "review": ["review", "--todo", "--out", "/dev/shm/todo-of-nobody.csv", "--results"],  # noqa: S108
        "plan": [
            "plan", "--manifest", f"{folder}/source/scans.csv",
            "--model", f"{folder}/source/models/threshold", "--results",
        ],
    }  # fmt: skip
    os.umask(before)
    shutil.rmtree(folder)


COMMANDS = ("status", "explain", "verify", "withdrawn", "resources", "review", "plan")
CLOSED = (
    ".", "manifest", "manifest/scans.parquet", "manifest/index.tsv", "manifest/shards", "ingest",
    "ingest/0000.parquet", "segment", "segment/threshold/0000", "segment/threshold/0000.parquet",
    "segment/threshold/0000/scan-1.json", "measure/threshold", "measure/threshold/0000.parquet",
    "volumes.parquet", "scans.parquet", "files.sha256",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_an_account_may_not_read_it_is_told(results, command, capsys):
    folder, commands = results
    arguments = [*commands[command], str(folder)]
    cli.run(arguments)
    capsys.readouterr()
    with as_nobody():
        whole = cli.run(arguments), capsys.readouterr().out
    wrong = []
    for closed in CLOSED:
        place = folder / closed
        mode = place.stat().st_mode
        place.chmod(0)
        try:
            with as_nobody():
                code = cli.run(arguments)
        finally:
            place.chmod(mode)
        out, err = capsys.readouterr()
        if (code, out) == whole:
            continue
        told = str(folder) in err and len(err.strip().splitlines()) <= 3
        if code in (OK, BUG) or not told or "bug" in err or "account" not in err:
            wrong.append(f"{closed}: exit {code}\n{out}{err}")
    assert wrong == [], "\n\n".join(wrong)


@pytest.mark.parametrize("place", ["segment", "segment/threshold", "segment/threshold/0000"])
def test_a_shard_is_not_written_where_a_link_of_another_account_leads(results, tmp_path, place):
    copy = tmp_path / "results"
    shutil.copytree(results[0], copy)
    shutil.rmtree(copy / place)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (copy / place).symlink_to(elsewhere)
    os.lchown(copy / place, NOBODY, NOBODY)
    stages = Stages(Source(results[0].parent / "source"), Settings(), copy)
    with pytest.raises(OutputError, match="SEC_PLANTED"), threshold_in_place_of_the_network():
        stages.segment("0000")
    assert list(elsewhere.iterdir()) == []
    os.lchown(copy / place, 0, 0)
    with threshold_in_place_of_the_network():
        stages.segment("0000")
    assert list(elsewhere.iterdir()) != []
