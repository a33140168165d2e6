"""What the machine refuses or lacks is no bug, whoever meets it: one message and its exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from cohortvol import cli
from cohortvol.errors import BUG, TEMPORARY, USAGE, ScanError, TableError, TemporaryError
from cohortvol.store import schemas, tables
from cohortvol.store.machine import error_to_act_on, lacking
from cohortvol.tools.verify.quick import damaged_tables


def of_system(number, path="/data/results/a.parquet"):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "exit_code", "says"),
    [
        (of_system(errno.EACCES), USAGE, "/data/results/a.parquet: this account may not use it"),
        (of_system(errno.EPERM), USAGE, "this account may not use it"),
        (of_system(errno.EROFS), USAGE, "IO_READ_ONLY"),
        (of_system(errno.ENAMETOOLONG), USAGE, "too long for this file system"),
        (of_system(errno.ENOSPC), TEMPORARY, "IO_NO_SPACE"),
        (of_system(errno.EDQUOT), TEMPORARY, "IO_NO_SPACE"),
        (of_system(errno.EIO), TEMPORARY, "the storage is at fault"),
        (of_system(errno.ESTALE, None), TEMPORARY, "a file: the storage is at fault"),
        (of_system(errno.EMFILE), TEMPORARY, "too little: open files"),
        (of_system(errno.ENOMEM, None), TEMPORARY, "too little: memory"),
        (MemoryError(), TEMPORARY, "too little: memory"),
        (pa.ArrowMemoryError("malloc of size 64 failed"), TEMPORARY, "too little: memory"),
        (
            pa.ArrowException("Failed to launch worker thread: Resource temporarily unavailable"),
            TEMPORARY,
            "threads",
        ),
        (RuntimeError("can't start new thread"), TEMPORARY, "threads"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            ),
            TEMPORARY,
            "memory",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            TEMPORARY,
            "memory",
        ),
        (TableError("a table"), USAGE, "a table"),
    ],
)
def test_the_machine_is_no_bug_of_ours(monkeypatch, capsys, error, exit_code, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run(["status"]) == exit_code
    said = capsys.readouterr().err
    assert said.startswith("cohortvol status: "), said
    assert says in said
    assert "bug" not in said
    assert len(said.splitlines()) <= 3


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"), KeyError("a"), ImportError("cannot import name 'a'"),
        of_system(errno.ENOENT), of_system(errno.EEXIST), of_system(errno.EINVAL),
        RuntimeError("shapes differ"),
    ],
)  # fmt: skip
def test_what_may_be_a_bug_stays_one(monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert error_to_act_on(error) is None
    assert cli.run(["status"]) == BUG
    assert "this is a bug" in capsys.readouterr().err


def test_what_a_library_says_of_the_machine_is_heard_behind_its_own_error():
    try:
        try:
            raise of_system(errno.ENOSPC)
        except OSError as error:
            raise RuntimeError("could not save the figure") from error
    except RuntimeError as error:
        told = error_to_act_on(error)
    assert isinstance(told, TemporaryError)
    assert lacking(ScanError("SRC_MISSING")) is None


@pytest.mark.parametrize(
    "error",
    [of_system(errno.EMFILE), of_system(errno.ENOMEM), pa.ArrowMemoryError("malloc failed")],
)
def test_a_table_that_could_not_be_read_for_want_of_something_is_not_damaged(
    tmp_path, monkeypatch, error
):
    """It would be removed and made again; a person would be told to delete it."""
    path = tmp_path / "volumes.parquet"
    rows = tables.append_rows([{"scan_id": "a", "shard": "0"}], schemas.SHARDS)
    tables.write_table(path, rows, schemas.SHARDS)
    assert damaged_tables(tmp_path) == []

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(tables.pq, "ParquetFile", fail)
        patched.setattr(tables.pq, "read_metadata", fail)
        assert damaged_tables(tmp_path) == []
        with pytest.raises(TemporaryError, match="cannot be read, this machine gives too little"):
            tables.read_table(path, schemas.SHARDS)


def test_a_python_without_docstrings_is_refused_in_one_line():
    run = subprocess.run(
        [sys.executable, "-OO", "-c", "from cohortvol import cli; cli.main()", "doctor"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == USAGE
    assert run.stderr.startswith("cohortvol doctor: Python runs without docstrings (-OO"), (
        run.stderr
    )
