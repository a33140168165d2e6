"""An archive read in place: its members one after the other, and on the disk those that are used.

What a member is called decides nothing but of what kind it may be, and never becomes a path.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.members import CHUNK, Member, members_of
from cohortvol.stages.ingest.rules import Rules
from cohortvol.store.storage import explained

_NIFTI = (".nii.gz", ".nii")
_SIDECAR = ".json"


@dataclass(frozen=True)
class File:
    """A file of a folder or of an archive.

    Attributes
    ----------
    path : Path
        Where it lies, or will once an archive has laid it there.
    name : str
        Its name, without the folders it is in.
    head : callable
        Its first bytes, as many as tell DICOM from anything else.
    content : callable
        All of its bytes; of an archive, while it is the last that was given.
    """

    path: Path
    name: str
    head: Callable[[], bytes]
    content: Callable[[], bytes]


class Archive:
    """A zip or tar of images.

    Parameters
    ----------
    path : Path
        The archive, see `cohortvol.store.archives.is_archive`.
    scratch : Path
        Empty folder of this archive alone.
    rules : Rules
        Limits.
    """

    def __init__(self, path: Path, scratch: Path, rules: Rules) -> None:
        self._path, self._scratch, self._rules = path, scratch, rules
        self._facts = _facts(path)
        self._names: dict[int, str] = {}

    def files(self, n_head: int) -> Iterator[File]:
        """Every file in it, in its order, after what can be said of the whole was checked.

        Parameters
        ----------
        n_head : int
            First bytes of a file that `File.head` gives.

        Raises
        ------
        ScanError
            ``SRC_...`` of an archive that cannot be trusted or read to its end.
        """
        self._names.clear()
        for number, member in enumerate(members_of(self._path, self._rules)):
            self._names[number] = member.name
            opened = _Opened(member, n_head, self._rules)
            name = PurePosixPath(member.name).name
            yield File(self._place(number), name, opened.head, opened.content)

    def lay(self, paths: set[Path]) -> None:
        """Put files that `files` gave where it said that they lie."""
        self._lay({number: self._place(number) for number in self._numbers(paths)})

    def lay_image(self) -> tuple[Path, int]:
        """The only NIfTI image, laid out with its sidecar, and how many other files there are.

        Raises
        ------
        ScanError
            ``SRC_EMPTY`` or ``SRC_ARCHIVE_SEVERAL``, unless there is exactly one.
        """
        images = {
            number: name
            for number, name in self._names.items()
            if name.lower().endswith(_NIFTI) and not PurePosixPath(name).name.startswith(".")
        }
        if not images:
            raise ScanError("SRC_EMPTY", "an archive without DICOM and NIfTI files")
        if len(images) > 1:
            raise ScanError("SRC_ARCHIVE_SEVERAL", f"{len(images)} NIfTI images")
        ((number, name),) = images.items()
        end = next(end for end in _NIFTI if name.lower().endswith(end))
        image = self._scratch / f"image{end}"
        places = {number: image}
        for other, beside in self._names.items():
            if beside == name[: -len(end)] + _SIDECAR:
                places[other] = self._scratch / f"image{_SIDECAR}"
        self._lay(places)
        return image, len(self._names) - len(places)

    def _place(self, number: int) -> Path:
        return self._scratch / f"{number:06d}"

    def _numbers(self, paths: set[Path]) -> Iterator[int]:
        return (number for number in self._names if self._place(number) in paths)

    def _lay(self, places: Mapping[int, Path]) -> None:
        for number, member in enumerate(members_of(self._path, self._rules)):
            place = places.get(number)
            if place is None:
                continue
            with explained(place), open(place, "wb") as stream:
                while piece := member.read(CHUNK):
                    stream.write(piece)
        if _facts(self._path) != self._facts:
            raise ScanError("SRC_CHANGED", "another archive than the one read before")


def _facts(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Opened:
    """A member that may be asked for its beginning, and then for all of it."""

    def __init__(self, member: Member, n_head: int, rules: Rules) -> None:
        self._member, self._n_head, self._rules = member, n_head, rules
        self._begun = b""

    def head(self) -> bytes:
        if not self._begun:
            self._begun = self._member.read(self._n_head)
        return self._begun

    def content(self) -> bytes:
        self._rules.check_file(self._member.n_bytes)
        gathered = io.BytesIO()
        gathered.write(self._begun)
        while piece := self._member.read(CHUNK):
            gathered.write(piece)
        return gathered.getvalue()


@contextmanager
def opened(path: Path, rules: Rules) -> Iterator[Archive]:
    """An archive, with a folder for what is used of it, which nobody else may read and which goes.

    ``TMPDIR`` says where that folder is made.
    """
    with tempfile.TemporaryDirectory(prefix="cohortvol-") as scratch:
        yield Archive(path, Path(scratch), rules)
