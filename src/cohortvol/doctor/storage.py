"""What the file system of a results folder must keep, tried out on files of our own."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cohortvol.doctor.findings import Check, Finding, failed, passed, skipped, warned

RACERS = 8
ROUNDS = 50
ELSEWHERE = "Put the results on another file system: a local disk, NFS, Lustre or GPFS."


@contextmanager
def place_for_trials(folder: Path) -> Iterator[Path]:
    """A hidden folder on the file system of `folder`, which need not exist; gone afterwards."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    own = nearest / f".doctor-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def made_once(folder: Path) -> None:
    """Of several that make one file at the same time, one alone must succeed."""
    for number in range(ROUNDS):
        path = folder / f"once-{number}"

        def make(_: int, path: Path = path) -> bool:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(RACERS) as pool:
            winners = sum(pool.map(make, range(RACERS)))
        if winners != 1:
            raise OSError(f"{winners} of {RACERS} made the same new file")


def replaced_whole(folder: Path) -> None:
    """While a file is replaced, a reader must see the old one or the new one."""
    final, contents = folder / "final", (b"a" * 65536, b"b" * 65536)
    final.write_bytes(contents[0])
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                if final.read_bytes() not in contents:
                    wrong.append("a reader saw half a file")
            except OSError as error:
                wrong.append(f"a reader saw no file ({error.strerror})")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(ROUNDS):
            temporary = folder / f".final-{number}"
            temporary.write_bytes(contents[number % 2])
            os.replace(temporary, final)
    finally:
        stop.set()
        reader.join()
    if wrong:
        raise OSError(wrong[0])


def linked_once(folder: Path) -> None:
    """A second name for a file, which must be refused where the name is taken."""
    first, second = folder / "linked", folder / "second"
    first.write_bytes(b"1")
    os.link(first, second)
    if os.stat(second).st_ino != os.stat(first).st_ino:
        raise OSError("a hard link is another file")
    try:
        os.link(first, second)
    except FileExistsError:
        return
    raise OSError("a hard link replaced a file")


def synced(folder: Path) -> None:
    """Bytes and names must be forced to the disk."""
    with open(folder / "synced", "xb") as stream:
        stream.write(b"1")
        stream.flush()
        os.fsync(stream.fileno())
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def locked(folder: Path) -> None:
    """Who holds a lock must keep others out, and give it back when the file is closed."""
    path = folder / "locked"
    with open(path, "w") as first, open(path, "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise OSError("two hold the same lock")
        first.close()
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


GUARANTEES: dict[str, tuple[Callable[[Path], None], str]] = {
    "exclusive create": (made_once, "of several that make a file, one succeeds"),
    "atomic rename": (replaced_whole, "a reader sees the old file or the new one"),
    "hard link": (linked_once, "a name that is taken stays"),
    "fsync": (synced, "files and folders"),
    "flock": (locked, "a lock keeps others out"),
}
"""Name of a check to the trial and to what it showed."""

_WITHOUT = {
    "flock": "Two runs in this folder would not notice each other: start one at a time.",
}
"""What cohortvol can do without, with what follows."""


def checks(folder: Path | None) -> dict[str, Check]:
    """A check for every guarantee; SKIP without a folder."""
    return {name: _check_of(name, folder) for name in GUARANTEES}


def _check_of(name: str, folder: Path | None) -> Check:
    trial, shown = GUARANTEES[name]

    def check() -> Finding:
        if folder is None:
            return skipped("no results folder named", "Name it with --results.")
        try:
            with place_for_trials(folder) as place:
                trial(place)
        except PermissionError as error:
            return failed(f"{folder}: {error.strerror}", "Make the folder writable.")
        except OSError as error:
            says = f"{folder}: {error.strerror or error}"
            return warned(says, _WITHOUT[name]) if name in _WITHOUT else failed(says, ELSEWHERE)
        return passed(shown)

    return check
