"""Disks that are full or fail: calls that raise, and a small disk of its own."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager

import pytest

from cohortvol.store.files import make_folder

FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
FAILING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT]


def error_of(number):
    return OSError(number, os.strerror(number))


class Failing:
    """A call that fails so many times, or always; where it is asked to, after it was done."""

    def __init__(self, call, number, times=10**9, *, afterwards=False, of=None):
        self.call, self.number, self.left = call, number, times
        self.afterwards, self.of, self.failed = afterwards, of, 0

    def __call__(self, *arguments, **options):
        if self.left and (self.of is None or self.of(arguments[0])):
            self.left -= 1
            self.failed += 1
            if self.afterwards:
                self.call(*arguments, **options)
            raise error_of(self.number)
        return self.call(*arguments, **options)


@contextmanager
def mounted(folder, options):
    """A small disk of its own; root can have one."""
    make_folder(folder)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
