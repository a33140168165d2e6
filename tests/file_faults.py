"""Kills, full and failing disks and second drivers at any call that changes a file."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from make_like import Killed

CALLS = ("open", "fsync", "replace", "link", "unlink", "mkdir", "utime", "rename")
"""Functions of `os` through which files are made, changed and taken away."""


@dataclass(frozen=True)
class Fault:
    """How a disk fails.

    Attributes
    ----------
    number : int
        Error that the call gives, such as ``errno.EIO``.
    is_done : bool
        The first call that fails was done all the same, as where a server answers too late.
    extent : str
        What else fails: ``once``, nothing; ``kind``, every later call of this function; ``all``,
        every later call.
    """

    number: int
    is_done: bool
    extent: str

    def __str__(self) -> str:
        done = "after" if self.is_done else "before"
        return f"{errno.errorcode[self.number]} {done} the call, {self.extent}"


FAULTS = [
    Fault(number, is_done, extent)
    for number in (errno.EIO, errno.ENOSPC, errno.EROFS)
    for is_done in (False, True)
    for extent in ("once", "kind", "all")
]
"""Every way to fail."""


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
    fault : Fault, optional
        The call, the next one of a job, fails so, and others after it until that job ends; nothing
        else happens.
    """

    def __init__(
        self,
        at: int = 0,
        stage: str | None = None,
        happens: Callable[[], Any] | None = None,
        bytes_left: int | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.calls = 0
        self.fault = fault
        self.failing: set[str] = set()
        self._is_at_work = False
        self.stage = stage
        self.at, self.happens = at, happens or self.kill
        self.bytes_left = bytes_left
        self.happened = False
        self._dead = False

    def job_starts(self, rule: str) -> None:
        """Told of each job, see `stage`."""
        if rule == self.stage:
            self.stage = None

    def job_at_work(self, is_at_work: bool) -> None:
        """Told when the process of a job begins, and when it ends: by then the disk is back."""
        self._is_at_work = is_at_work
        if not is_at_work:
            self.failing.clear()

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
                counted = self._counted(getattr(os, name), name)
                patches.enter_context(mock.patch.object(os, name, counted))
            for module in ("files", "pack"):
                opened = mock.patch(f"cohortvol.store.{module}.open", self._open, create=True)
                patches.enter_context(opened)
            yield

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise Killed
            self.calls += self.stage is None
            writes = not _only_reads(name, args)
            fails = name in self.failing and (writes or self._fails_readers())
            may_happen = self.fault is None or (
                self._is_at_work and (writes or self._fails_readers())
            )
            if self.calls >= self.at > 0 and not self.happened and may_happen:
                self.happened = True
                if self.fault is None:
                    self.happens()
                else:
                    fails = True
                    self.failing |= _failing_after(name, self.fault.extent)
                    if self.fault.is_done:
                        _close(call(*args, **kwargs))
            if fails and self.fault is not None:
                raise OSError(self.fault.number, os.strerror(self.fault.number), *_path_of(args))
            return call(*args, **kwargs)

        return counted

    def _fails_readers(self) -> bool:
        """A disk that is full or read-only can be read."""
        return self.fault is not None and self.fault.number == errno.EIO

    def _open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if mode not in ("xb", "r+b"):
            return open(path, mode, **options)
        opened = {"opener": os.open, **options}
        return _Written(self, io.FileIO(path, mode.strip("+b") + "+b", **opened))


class _Written(io.BufferedRandom):
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


def _only_reads(name: str, arguments: tuple[Any, ...]) -> bool:
    return name == "open" and arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0


def _failing_after(name: str, extent: str) -> set[str]:
    """Functions that fail from a first fault on; what is read goes on."""
    return {"once": set(), "kind": {name}, "all": {*CALLS}}[extent]


def _close(handle: Any) -> None:
    if isinstance(handle, int):
        os.close(handle)


def _path_of(arguments: tuple[Any, ...]) -> list[str]:
    """The file, as the system names it in its errors."""
    return [str(path) for path in arguments[:1] if not isinstance(path, int)]
