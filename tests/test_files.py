"""Writing files: complete or not at all, in a folder that is ours alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cohortvol.errors import InUseError, OutputError
from cohortvol.store.files import (
    check_writable,
    commit,
    commit_json,
    refuse_planted_below,
    sha256_of,
    sweep,
    warn_if_world_readable,
)
from cohortvol.store.locks import IN_USE, claim, lock

HOLD = (
    "import sys, time; from pathlib import Path; from cohortvol.store.locks import claim;"
    "held = claim(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_a_file_is_committed_with_the_checksum_of_its_bytes(tmp_path):
    digest = commit(tmp_path / "new" / "a.bin", lambda stream: stream.write(b"abc"))
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"abc"
    assert digest == sha256_of(tmp_path / "new" / "a.bin")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    commit(tmp_path / "a.bin", lambda stream: stream.write(b"old"))

    def broken(stream):
        stream.write(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit(tmp_path / "a.bin", broken)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_private_file_is_for_its_owner_alone(tmp_path):
    commit(tmp_path / "a", lambda stream: stream.write(b"a"), mode=0o600)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_everyone_can_look_into_is_named(tmp_path, monkeypatch, caplog):
    modes = dict.fromkeys([tmp_path, *tmp_path.parents], 0o40755)
    real = Path.stat

    def opened(path, **options):
        found = real(path, **options)
        return os.stat_result((modes.get(path, found.st_mode), *found[1:]))

    monkeypatch.setattr(Path, "stat", opened)
    warn_if_world_readable(tmp_path)
    assert (
        f"{tmp_path}: can be read by every user of this machine (SEC_WORLD_READABLE)" in caplog.text
    )
    caplog.clear()
    modes[tmp_path] = 0o40750
    warn_if_world_readable(tmp_path)
    modes |= {tmp_path: 0o40755, tmp_path.parent: 0o40750}  # nobody gets as far as that
    warn_if_world_readable(tmp_path)
    warn_if_world_readable(tmp_path / "nowhere")
    assert caplog.text == ""


@pytest.mark.parametrize("ahead_s", [-86_400, 86_400])
def test_a_clock_that_is_wrong_deletes_no_file_that_is_being_written(
    tmp_path, monkeypatch, ahead_s
):
    (tmp_path / ".a.json.1-ab.tmp").touch()
    (tmp_path / ".b.json.1-ab.tmp").touch()
    old = time.time() - 2 * 3600
    os.utime(tmp_path / ".b.json.1-ab.tmp", (old, old))
    own = time.time
    monkeypatch.setattr(time, "time", lambda: own() + ahead_s)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".a.json.1-ab.tmp"]


def test_a_folder_without_temporary_files_is_swept_without_a_write(tmp_path, monkeypatch):
    (tmp_path / "a.json").touch()
    before = tmp_path.stat().st_mtime_ns
    monkeypatch.setattr(Path, "touch", lambda *_, **__: pytest.fail("it was written to"))
    sweep(tmp_path)
    assert tmp_path.stat().st_mtime_ns == before


def test_equal_values_give_equal_json(tmp_path):
    first = commit_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert first == commit_json(tmp_path / "b.json", {"a": [1.5], "b": 1})


def test_a_folder_that_can_be_made_is_writable_and_is_not_made_by_asking(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/cohortvol", "/dev/null/results", "a_file", "a_file/deep"])
def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    with pytest.raises(OutputError, match=place):
        check_writable(Path(place))


def test_a_second_run_in_a_folder_is_told_which_process_is_there(tmp_path):
    with (
        claim(tmp_path / "results"),
        pytest.raises(
            InUseError, match=rf"process {os.getpid()} on \S+ \(.+, since 2.+\) is working in this"
        ),
    ):
        claim(tmp_path / "results")


def test_a_killed_run_leaves_the_folder_free(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"held\n"
    with pytest.raises(InUseError):
        claim(tmp_path)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    claim(tmp_path).close()


# --- what others may put into a folder that they can write to


def a_link(path, target):
    path.symlink_to(target)


def a_link_to_nothing(path, target):
    path.symlink_to(target.with_name("not there"))


def a_pipe(path, target):
    os.mkfifo(path)


def a_folder(path, target):
    path.mkdir()


def a_socket(path, target):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize("plant", [a_link, a_link_to_nothing, a_pipe, a_folder, a_socket])
def test_a_lock_is_taken_on_no_file_but_our_own(tmp_path, plant):
    target = tmp_path / "precious"
    target.write_text("of the victim")
    results = tmp_path / "results"
    results.mkdir()
    plant(results / IN_USE, target)
    with pytest.raises(OutputError, match=r"\.in-use: .*SEC_PLANTED"):
        claim(results)
    with pytest.raises(OutputError, match="SEC_PLANTED"):
        lock(results / IN_USE, "held")
    assert target.read_text() == "of the victim"
    assert not (tmp_path / "not there").exists()


def test_a_second_name_of_a_file_is_held_and_not_written_to(tmp_path):
    """As hard links of somebody's file are, where the system lets others make them; or backups."""
    target = tmp_path / "precious"
    target.write_text("of the victim")
    os.link(target, tmp_path / IN_USE)
    with claim(tmp_path), pytest.raises(InUseError):
        claim(tmp_path)
    assert target.read_text() == "of the victim"


OTHER, THIRD = 12345, 54321
"""Accounts that need not exist."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other accounts")
@pytest.mark.parametrize("place", ["segment", "segment/model", "segment/model/0000"])
@pytest.mark.parametrize(
    ("made_by", "folder_of", "is_refused"),
    [(OTHER, 0, True), (OTHER, THIRD, True), (0, THIRD, False), (OTHER, OTHER, False)],
)
def test_a_folder_of_results_is_no_link_of_another_account(
    tmp_path, place, made_by, folder_of, is_refused
):
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = results / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    os.chown(link.parent, folder_of, -1)
    os.lchown(link, made_by, -1)
    if is_refused:
        with pytest.raises(OutputError, match=rf"{link}: is a link to {elsewhere} .*SEC_PLANTED"):
            refuse_planted_below(results)
    else:
        refuse_planted_below(results)
