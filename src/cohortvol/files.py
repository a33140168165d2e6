"""The one way this project writes a file: complete, or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib
import json
import logging
import os
import secrets
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from cohortvol.errors import InUseError, OutputError, TemporaryError

try:
    inflate: Any = importlib.import_module("isal.isal_zlib")
except ImportError:  # a platform without isal: the same interface, about half as fast
    inflate = zlib

log = logging.getLogger(__name__)

IN_USE = ".in-use"
"""File in a results folder that the run working there holds a lock on."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TemporaryError(
                f"{path}: no space left to write it ({error.strerror})\n"
                "  Nothing finished was lost. Free space or raise the quota, then run again."
            ) from error
        if error.errno in _REFUSED:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror})\n"
                "  Choose another output folder with `results:` in the config, or make this "
                "one writable."
            ) from error
        raise


def make_folder(path: Path) -> Path:
    """Create a folder with its parents, or say why that cannot be."""
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def commit(final: Path, write: Callable[[BinaryIO], Any], mode: int = 0o666) -> str:
    """Write `final` through `write` so that a reader sees the old file or the whole new one.

    A temporary name with a leading dot in the same folder, fsync, rename, fsync of the
    folder. Whatever kills the process, `final` is never half written.

    Parameters
    ----------
    final : Path
        The file to make or replace; its folder is created.
    write : callable
        Called with the open binary file.
    mode : int
        Permissions of the file, less what the process's umask takes away.

    Returns
    -------
    str
        sha256 of the bytes written, in hex.

    Raises
    ------
    OutputError
        If the folder refuses the file.
    TemporaryError
        If the disk or the quota is full; a file already at `final` is untouched.
    """
    with _temporary(final, write, mode) as temporary:
        digest = sha256_of(temporary)
        os.replace(temporary, final)
    return digest


def commit_once(final: Path, content: bytes, mode: int = 0o600) -> None:
    """`commit` for a file that is not there yet; a file that is there is left alone."""
    with _temporary(final, lambda stream: stream.write(content), mode) as temporary:
        with suppress(FileExistsError):
            os.link(temporary, final)


@contextmanager
def _temporary(final: Path, write: Callable[[BinaryIO], Any], mode: int) -> Iterator[Path]:
    """A synced file beside `final`, to be given its name; what the caller did is synced after."""
    make_folder(final.parent)
    temporary = final.parent / f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with _explained(final):
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
            folder = os.open(final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def commit_bytes(final: Path, content: bytes) -> str:
    """`commit` for bytes that are there already."""
    return commit(final, lambda stream: stream.write(content))


def commit_text(final: Path, text: str) -> str:
    """`commit` for text, encoded as UTF-8."""
    return commit_bytes(final, text.encode())


def commit_json(final: Path, value: Any) -> str:
    """`commit` for JSON with sorted keys, so that equal values give equal bytes."""
    return commit_text(final, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


DIGESTS = "files.sha256"
"""List that a stage commits last: sha256 and name of what it wrote, for `sha256sum -c`."""


def commit_digests(folder: Path, files: Iterable[Path], last: str) -> None:
    """Write `DIGESTS` in `folder` for these files, in order of their names relative to it.

    The file named `last` in the folder ends the list, so that one cut short is seen to be.
    """
    names = sorted({os.path.relpath(path, folder) for path in files} - {last})
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in (*names, last)]
    commit_text(folder / DIGESTS, "".join(lines))


def check_writable(folder: Path) -> None:
    """Raise unless `folder` can be written, or made where it is missing; nothing is left behind.

    Raises
    ------
    OutputError
        If the folder, or the nearest one above it that exists, refuses a file.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    probe = nearest / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with _explained(folder):
        probe.touch()
        probe.unlink()


def keep_from_others() -> None:
    """What this process makes from now on is not for users outside its group (umask 027)."""
    os.umask(os.umask(0o027) | 0o027)


def is_world_readable(folder: Path) -> bool:
    """Whether every user of the machine can look into an existing folder."""
    open_ways = [place.stat().st_mode & 0o001 for place in folder.resolve().parents]
    return bool(folder.stat().st_mode & 0o004) and all(open_ways)


def warn_if_world_readable(folder: Path) -> None:
    """Say so where every user of the machine can look into an existing folder."""
    if folder.is_dir() and is_world_readable(folder):
        log.warning(
            "%s: can be read by every user of this machine (SEC_WORLD_READABLE); "
            "`chmod o= %s` closes it",
            folder,
            folder,
        )


def claim(folder: Path) -> IO[str]:
    """Hold a results folder for this process, until the file returned is closed.

    The kernel gives the lock back when the process ends, however it ends, so that a killed run
    leaves nothing to clean up. On a file system without locks nobody is kept out.

    Raises
    ------
    InUseError
        If another process holds the folder; the message says which.
    """
    return lock(
        make_folder(folder) / IN_USE,
        f"{folder}: {{owner}} is working in this results folder\n"
        "  Wait until it has finished, or end it, then run the same command again.",
    )


def lock(path: Path, refusal: str) -> IO[str]:
    """Hold a file for this process, until the file returned is closed; see `claim`.

    Parameters
    ----------
    path : Path
        The file; made if it is not there, and it names its holder.
    refusal : str
        Message where another process holds it, with ``{owner}`` for that process.

    Raises
    ------
    InUseError
        If another process holds it.
    """
    with _explained(path):
        stream = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        owner = stream.read().strip() or "another process"
        stream.close()
        raise InUseError(refusal.replace("{owner}", owner)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    stream.flush()
    return stream


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a JSON-serialisable value in canonical form, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
