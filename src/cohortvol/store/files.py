"""The one way this project writes a file: complete, or not at all."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from cohortvol.errors import OutputError
from cohortvol.store.storage import (
    explained,
    nearest,
    now_s,
    of_ours,
    patiently,
    sync_folder,
    temporary_beside,
)

try:
    inflate: Any = importlib.import_module("isal.isal_zlib")
except ImportError:  # a platform without isal: the same interface, about half as fast
    inflate = zlib

log = logging.getLogger(__name__)


def make_folder(path: Path) -> Path:
    """Create a folder with its parents, on the disk for good, or say why that cannot be."""
    with explained(path):
        patiently(lambda: _make_folder(path))
    return path


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        with suppress(PermissionError):  # of a folder of others that may be entered, not listed
            sync_folder(place.parent)


def commit(final: Path, write: Callable[[BinaryIO], Any], mode: int = 0o666) -> str:
    """Write `final` through `write` so that a reader sees the old file or the whole new one.

    A temporary name with a leading dot in the same folder, fsync, rename, fsync of the
    folder. Whatever kills the process or the machine, `final` is never half written, and when
    this returns it is on the disk.

    Parameters
    ----------
    final : Path
        The file to make or replace; its folder is created.
    write : callable
        Called with the open binary file; once more, with an empty one, where the storage fails.
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
        If the disk or the quota is full, or the storage fails five times. `final` is then the file
        that was there or the whole new one: the name may have been given before its folder could
        not be synced. Where the new one says what did not come about, the caller takes it back.
    """
    return _commit(final, write, mode, os.replace)


def commit_once(final: Path, content: bytes, mode: int = 0o600) -> None:
    """`commit` for a file that is not there yet; a file that is there is left alone."""

    def give_name(temporary: Path, name: Path) -> None:
        with suppress(FileExistsError):
            os.link(temporary, name)

    _commit(final, lambda stream: stream.write(content), mode, give_name)


def _commit(
    final: Path,
    write: Callable[[BinaryIO], Any],
    mode: int,
    give_name: Callable[[Path, Path], None],
) -> str:
    make_folder(final.parent)

    def attempt() -> str:
        temporary = temporary_beside(final)
        try:
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            digest = sha256_of(temporary)
            give_name(temporary, final)
            sync_folder(final.parent)
            return digest
        finally:
            with suppress(OSError):  # what was the matter with the file is the error to tell
                temporary.unlink(missing_ok=True)

    with explained(final):
        return patiently(attempt)


def remove(path: Path) -> None:
    """Delete a file, if it is there, before anything that is done next gets to the disk."""
    with explained(path):
        patiently(lambda: _remove(path))


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


STALE_AFTER_S = 3600.0
"""Age at which a temporary file is nobody's any more, s; writers take seconds."""


def sweep(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder, once they are old.

    Their age is told by the clock that dated them, the file server's, as that of this machine may
    be ahead of it and would make an old file of one that is being written.
    """
    left = of_ours(folder, lambda: [path for path in folder.glob(".*.tmp") if path.is_file()])
    if not left:
        return
    now = of_ours(folder, lambda: now_s(folder))
    for path in left:
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()


def commit_bytes(final: Path, content: bytes, mode: int = 0o666) -> str:
    """`commit` for bytes that are there already."""
    return commit(final, lambda stream: stream.write(content), mode)


def commit_text(final: Path, text: str, mode: int = 0o666) -> str:
    """`commit` for text, encoded as UTF-8."""
    return commit_bytes(final, text.encode(), mode)


def json_text(value: Any) -> str:
    """JSON with sorted keys, so that equal values give equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def commit_json(final: Path, value: Any) -> str:
    """`commit` for `json_text`."""
    return commit_text(final, json_text(value))


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
    probe = temporary_beside(nearest(folder) / "probe")
    with explained(folder):
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


def open_own(path: Path) -> IO[str]:
    """Open a file of ours for reading and writing, made where it is missing; nothing else.

    Who may write into the folder could have put a link to a file of somebody else there, or a
    pipe at which we would wait for ever.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a socket, a folder
            raise _not_ours(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_ours(path)
    return open(path, "r+", encoding="utf-8", opener=lambda *_: handle)


def _not_ours(path: Path) -> OutputError:
    return OutputError(
        f"{path}: is a link, or no plain file, and none that cohortvol made (SEC_PLANTED)\n"
        "  See who put it there (`ls -l`), delete it, and run again."
    )


def refuse_planted(*places: Path) -> None:
    """Raise where a place that results go to is a link that another account put there.

    A link is theirs if neither this account made it, nor root, nor the owner of the folder in
    which it lies. Links of one's own are followed: parts of the results may be on another disk.

    Raises
    ------
    OutputError
        ``SEC_PLANTED``, naming the link.
    """
    for place in places:
        if not place.is_symlink():
            continue
        made_by = place.lstat().st_uid
        if made_by not in (os.geteuid(), 0, place.absolute().parent.stat().st_uid):
            raise OutputError(
                f"{place}: is a link to {os.readlink(place)} that another account made "
                f"(user {made_by}, SEC_PLANTED)\n"
                "  Results would be written where it leads. Delete it, and run again."
            )


def refuse_planted_below(results: Path) -> None:
    """`refuse_planted` for the folders of stages, models and shards of a results folder."""
    for depth in range(1, 4):
        refuse_planted(*results.glob("/".join(["*"] * depth)))


def read_object(
    path: Path, read: Callable[[Path], bytes] = lambda path: path.read_bytes()
) -> dict[str, Any] | None:
    """A JSON object that `commit_json` wrote; None where there is none that is whole.

    `read` gives the bytes of a path, for files that may not lie by themselves.

    Raises
    ------
    TemporaryError
        If the storage fails, so that nobody can tell whether it is there.
    OutputError
        If this account may not read it.
    """
    try:
        value = json.loads(of_ours(path, lambda: read(path)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except PermissionError as error:
        raise OutputError(
            f"{path}: may not be read by this account\n"
            "  Run as the account that made the results, or have it made readable."
        ) from error
    return value if isinstance(value, dict) else None


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a JSON-serialisable value in canonical form, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
