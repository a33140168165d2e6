"""Archives: what counts as one, and what in one is not to be trusted."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import PurePosixPath, PureWindowsPath

ENDS = (".zip", ".tar", ".tar.gz", ".tgz")
"""Ends of names of archives of images, in any case of letters."""

ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error),
    *(NotImplementedError, RuntimeError),  # a way of packing that is not known; a password
)
"""What `zipfile` raises of bytes that it cannot read."""


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a path is by its name an archive of images, and not a folder of such a name."""
    return os.fspath(path).lower().endswith(ENDS) and not os.path.isdir(path)


def leads_out(name: str) -> bool:
    """Whether the name of a member is no path below the archive, read as Unix or Windows does."""
    place = PurePosixPath(name.replace("\\", "/"))
    return place.is_absolute() or ".." in place.parts or PureWindowsPath(name).is_absolute()


def is_special(member: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is said to be a link, a device or a pipe."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR)
