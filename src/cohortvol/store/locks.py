"""Locks: one run in a results folder, and who holds it; no lock is a planted link."""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from cohortvol.errors import InUseError
from cohortvol.store.files import make_folder, open_own
from cohortvol.store.storage import (
    explained,
)

IN_USE = ".in-use"
"""File in a results folder that the run working there holds a lock on."""
NAME_LOOKS, SECONDS_BETWEEN_LOOKS = 10, 0.1
"""How long a lock is held by nobody in particular before that is told."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def claim(folder: Path) -> IO[str]:
    """Hold a results folder for this process, until the file returned is closed.

    The kernel gives the lock back when the process ends, however it ends, so that a killed run
    leaves nothing to clean up: programs that it started do not get the file. On a file system
    without locks nobody is kept out.

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
    OutputError
        If it is no file of its own, such as a link that another account put there.
    """
    with explained(path):
        stream = open_own(path)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _name_in(stream)
        stream.close()
        raise InUseError(refusal.replace("{owner}", owner)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            stream.close()
            raise
    if os.fstat(stream.fileno()).st_nlink == 1:  # a second name may be somebody's file
        with suppress(OSError):  # as on a full disk: the name is for people, the lock holds anyway
            os.truncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"{_this_process()}\n".encode())
            os.fsync(stream.fileno())  # so that other machines read it
    return stream


def _this_process() -> str:
    """``process 7 on node1 (mia, since 2026-11-29 08:03:34+00:00)``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container whose accounts do not know this one
        user = f"user {os.getuid()}"
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} ({user}, since {now})"


def _name_in(stream: IO[str]) -> str:
    """Who holds a lock; whoever has just taken it may need a moment to write that."""
    for _ in range(NAME_LOOKS):
        stream.seek(0)
        if name := stream.readline().strip():
            return name
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return "another process"
