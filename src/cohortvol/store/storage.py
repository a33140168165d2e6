"""What a file system must keep, tried out on files of our own, and what to do while it does not.

A disk or a server that fails is asked again, with pauses. Where it fails for good, the run pauses
(`TemporaryError`, exit code 75): the scans are not to blame.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cohortvol.errors import OutputError, ScanError, TemporaryError

T = TypeVar("T")

FAULTS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""Errors of the storage, not of the file: the disk, the server, or the way to it."""

WAITS_S = (0.1, 0.3, 1.0, 2.0)
"""Pauses between attempts, s; there is one attempt more."""

RACERS = 8
ROUNDS = 20

ELSEWHERE = "Put the results on another file system: a local disk, NFS, Lustre or GPFS."


# --- patience


def is_fault(error: BaseException | None) -> bool:
    """Whether an error says that the storage fails, and nothing of the file."""
    return isinstance(error, OSError) and error.errno in FAULTS


def patiently(act: Callable[[], T]) -> T:
    """What `act` returns, begun anew after a pause while the storage fails, five times in all.

    `act` must open its files itself: a handle that went stale stays so.

    Raises
    ------
    OSError
        What the last attempt met.
    """
    for wait_s in WAITS_S:
        try:
            return act()
        except OSError as error:
            if not is_fault(error):
                raise
            time.sleep(wait_s)
    return act()


def of_ours(path: Path, act: Callable[[], T]) -> T:
    """`patiently` for a file that we made: where the storage fails for good, the run pauses.

    Raises
    ------
    TemporaryError
        If every attempt met a fault of the storage.
    OSError
        If anything else is wrong with the file.
    """
    try:
        return patiently(act)
    except OSError as error:
        if not is_fault(error):
            raise
        raise at_fault(path, error) from error


def of_scan(path: Path, act: Callable[[], T]) -> T:
    """`patiently` for an image: one that cannot be read is a row, a whole disk a pause.

    What tells them apart is whether the folder of the image can still be listed.

    Raises
    ------
    ScanError
        ``IO_READ_ERROR`` if this file alone cannot be read.
    TemporaryError
        If its folder cannot be read either.
    OSError
        If anything else is wrong with the file.
    """
    try:
        return patiently(act)
    except OSError as error:
        if not is_fault(error):
            raise
        try:
            with os.scandir(path.parent) as entries:
                next(entries, None)
        except OSError as of_folder:
            if is_fault(of_folder):
                raise TemporaryError(
                    f"the storage of the images is at fault ({of_folder.strerror})\n"
                    "  Nothing finished was lost. Run again when it is back."
                ) from error
        detail = f"{error.strerror}, {len(WAITS_S) + 1} attempts"
        raise ScanError("IO_READ_ERROR", detail) from error


def at_fault(path: Path | None, error: OSError) -> TemporaryError:
    """The error that pauses a run because the storage fails."""
    return TemporaryError(
        f"{path or 'a file'}: the storage is at fault ({error.strerror})\n"
        "  Nothing finished was lost. Run again when it is back."
    )


# --- refusals

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk, a quota or a limit that admits no more bytes."""

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of what the file system refuses to write what it means and what to do.

    Raises
    ------
    OutputError
        If the folder refuses the file.
    TemporaryError
        If the disk or the quota is full, or the storage fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise no_space(path, error) from error
        if error.errno in _REFUSED:
            raise refused(path, error) from error
        if is_fault(error):
            raise at_fault(path, error) from error
        raise


def no_space(path: Path | None, error: OSError) -> TemporaryError:
    """The error that pauses a run because nothing more can be written."""
    return TemporaryError(
        f"{path or 'a file'}: no space left to write it (IO_NO_SPACE: {error.strerror})\n"
        "  Nothing finished was lost. Free space or raise the quota, then run again."
    )


def refused(path: Path | None, error: OSError) -> OutputError:
    """The error that ends a run because its folder cannot be written."""
    return OutputError(
        f"{path or 'a file'}: cannot be written (IO_READ_ONLY: {error.strerror})\n"
        "  Choose another output folder with `results:` in the config, or make this one writable."
    )


# --- names, folders and time


def temporary_beside(final: Path) -> Path:
    """A hidden name beside a file, nobody else's; `cohortvol.store.files.sweep` knows them."""
    return final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def nearest(folder: Path) -> Path:
    """A folder, or the nearest place above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk: those it got, and those it lost."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def now_s(folder: Path) -> float:
    """Time of the server that keeps a folder, as it writes it beside files, s since the epoch."""
    probe = temporary_beside(folder / "now")
    try:
        probe.touch()
        os.utime(probe)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


ROOM_BYTES = 2**20
"""What must fit on a disk that is not full."""


def check_room(folder: Path) -> None:
    """Raise unless `folder` takes a file of `ROOM_BYTES`; nothing is left behind.

    Raises
    ------
    OutputError
        If it refuses files.
    TemporaryError
        If it is full, or the storage fails.
    """
    probe = temporary_beside(folder / "room")
    with explained(folder):
        try:
            with open(probe, "xb") as stream:
                stream.write(bytes(ROOM_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            probe.unlink(missing_ok=True)


# --- trials


@contextmanager
def place_for_trials(folder: Path) -> Iterator[Path]:
    """A hidden folder on the file system of `folder`, which need not exist; gone afterwards."""
    above = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    own = temporary_beside(above / "trial")
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def made_once(folder: Path) -> None:
    """Of several that make one file at the same time, one alone must succeed."""

    def make(path: Path) -> bool:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        for number in range(ROUNDS):
            winners = sum(pool.map(make, [folder / f"once-{number}"] * RACERS))
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
    sync_folder(folder)


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


NEEDED = ("exclusive create", "atomic rename", "fsync")
"""Guarantees that every run needs; flock can be done without, hard links most runs can."""


def self_test(folder: Path, *, with_hard_links: bool = False) -> None:
    """Raise unless the file system of `folder` keeps what every write relies on.

    The trials of `cohortvol doctor`, in some 50 ms on a local disk.

    Parameters
    ----------
    folder : Path
        A folder that is there.
    with_hard_links : bool
        Try these too: the salt of hashed ids is made with one.

    Raises
    ------
    OutputError
        ``IO_NOT_ATOMIC``, or ``IO_READ_ONLY`` if it cannot be written.
    TemporaryError
        If the disk is full or fails.
    """
    of_the_folder = FULL | FAULTS | {errno.EACCES, errno.EROFS}
    with explained(folder), place_for_trials(folder) as place:
        for name in (*NEEDED, *(["hard link"] if with_hard_links else [])):
            try:
                GUARANTEES[name][0](place)
            except OSError as error:
                if error.errno in of_the_folder:
                    raise
                raise OutputError(
                    f"{folder}: IO_NOT_ATOMIC, this file system does not keep a promise "
                    f"({name}: {error.strerror or error})\n"
                    f"  A run that is interrupted there could leave half a file. {ELSEWHERE}"
                ) from error
