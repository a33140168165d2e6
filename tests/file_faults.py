"""Kills, full disks and second drivers at any call that changes a file."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from make_like import Killed

CALLS = ("open", "fsync", "replace", "link", "unlink", "mkdir", "utime", "rename")
"""Functions of `os` through which files are made, changed and taken away."""


class Disk:
    """Counts calls that change files, and lets something happen at one of them.

    Parameters
    ----------
    at : int
        Number of the call before which it happens; none if 0.
    stage : str, optional
        Rule of the job with whose start the count begins; that of the whole run if not given.
    happens : callable
        What; `kill` if not given.
    bytes_left : int, optional
        Space on the disk; each file that is written takes of it.
    """

    def __init__(
        self,
        at: int = 0,
        stage: str | None = None,
        happens: Callable[[], Any] | None = None,
        bytes_left: int | None = None,
    ) -> None:
        self.calls = 0
        self.stage = stage
        self.at, self.happens = at, happens or self.kill
        self.bytes_left = bytes_left
        self.happened = False
        self._dead = False

    def job_starts(self, rule: str) -> None:
        """Told of each job, see `stage`."""
        if rule == self.stage:
            self.stage = None

    def kill(self) -> None:
        """From here on this process does nothing to a file any more."""
        self._dead = True
        raise Killed

    def revive(self) -> bool:
        """The one that was killed had a parent, which goes on."""
        self._dead = False
        return True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """All calls of this process go through this disk."""
        with ExitStack() as patches:
            for name in CALLS:
                patches.enter_context(mock.patch.object(os, name, self._counted(getattr(os, name))))
            opened = mock.patch("cohortvol.files.open", self._open, create=True)
            patches.enter_context(opened)
            yield

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise Killed
            self.calls += self.stage is None
            if self.calls >= self.at > 0 and not self.happened:
                self.happened = True
                self.happens()
            return call(*args, **kwargs)

        return counted

    def _open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if mode != "xb":
            return open(path, mode, **options)
        return _Written(self, io.FileIO(path, mode, **options))


class _Written(io.BufferedWriter):
    def __init__(self, disk: Disk, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._disk = disk

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        left = self._disk.bytes_left
        if left is not None:
            self._disk.bytes_left = max(left - size, 0)
            if size > left:
                self._disk.happened = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)
