"""What a file system must keep, and folders, homes and clocks that a run cannot rely on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cohortvol.errors import OutputError, TemporaryError
from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store import storage
from storage_faults import Failing, error_of, mounted

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.0,) * len(storage.WAITS_S))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- promises of the file system


def refuse(*_, **__):
    raise error_of(errno.EOPNOTSUPP)


def test_a_sound_file_system_passes_at_once_and_nothing_is_left(tmp_path):
    began = time.process_time()  # of this process alone, whatever else runs
    storage.self_test(tmp_path, with_hard_links=True)
    assert time.process_time() - began < 2  # some 0.05 s
    assert names(tmp_path) == []


def opens_anyway(path, flags, mode=0o777, *, opener=os.open, **beside):
    return opener(path, flags & ~os.O_EXCL, mode, **beside)


@pytest.mark.parametrize(
    ("name", "broken", "promise"),
    [
        ("open", opens_anyway, "exclusive create"),
        ("replace", refuse, "atomic rename"),
        ("fsync", refuse, "fsync"),
        ("link", refuse, "hard link"),
        ("link", shutil.copy, "hard link"),
    ],
)
def test_a_file_system_that_breaks_a_promise_is_refused_with_advice(
    tmp_path, monkeypatch, name, broken, promise
):
    with monkeypatch.context() as patched:
        patched.setattr(os, name, broken)
        with pytest.raises(OutputError, match=rf"IO_NOT_ATOMIC.*\({promise}: ") as raised:
            storage.self_test(tmp_path, with_hard_links=True)
        if name == "link":
            storage.self_test(tmp_path)  # only hashed ids need it
    assert "Put the results on another file system" in str(raised.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_is_full_or_fails_breaks_no_promise(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, number))
    with pytest.raises(TemporaryError):
        storage.self_test(tmp_path)


@pytest.mark.slow
def test_a_run_tries_the_file_system_first_and_needs_no_home(tmp_path):
    """HOME is missing, as in many containers; Snakemake is given another place for its cache."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\ndef link(*_, **__):\n    raise OSError(95, 'Operation not supported')\n"
        "os.link = link\n"
    )
    (tmp_path / "scans.csv").write_text(f"scan_id,image\na,{tmp_path}/a.nii.gz\n")
    results = tmp_path / "results"
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY / "src")]),
        "HOME": str(tmp_path / "no" / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    run = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--cores", "1", "--directory", str(tmp_path),
            "--snakefile", str(REPOSITORY / "Snakefile"),
            "--configfile", str(REPOSITORY / "config" / "config.yaml"),
            "--config", f"manifest={tmp_path / 'scans.csv'}", f"results={results}",
            "bad_rows=quarantine", "hash_ids=true", f"models_dir={REPOSITORY / 'models'}",
        ],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode != 0
    assert "IO_NOT_ATOMIC" in run.stderr, run.stderr
    assert "(hard link: Operation not supported)" in run.stderr
    assert {path.name for path in results.iterdir()} == {".in-use"}


# --- folders and homes


@pytest.mark.parametrize("times", [4, 5])
def test_a_folder_that_cannot_be_listed_now_is_waited_for(tmp_path, monkeypatch, times):
    shard = ShardFolder(tmp_path)
    failing = Failing(os.scandir, errno.EIO, times)
    monkeypatch.setattr(os, "scandir", failing)
    if times == 4:
        shard.sweep()
    else:
        with pytest.raises(TemporaryError, match="the storage is at fault"):
            shard.sweep()
    assert failing.failed == times


@pytest.mark.slow
def test_figures_are_drawn_without_a_home_and_with_next_to_no_temporary_folder(tmp_path):
    script = (
        "from cohortvol.drawing import style\n"
        "from matplotlib.figure import Figure\n"
        "figure = Figure(); figure.text(0.5, 0.5, 'organ'); figure.savefig('figure.png')\n"
    )
    with mounted(tmp_path / "tiny", "size=16k") as tiny:
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={
                "PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(tiny),
                "HOME": str(tmp_path / "none"),
            },
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "figure.png").stat().st_size > 1000
