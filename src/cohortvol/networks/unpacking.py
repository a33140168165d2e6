"""Where a trained nnU-Net lies: in a folder, or packed in a zip of which nothing else is taken."""

from __future__ import annotations

import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from cohortvol.errors import ModelError
from cohortvol.files import sha256_of

MAX_UNZIPPED_BYTES = 16 * 2**30
_WANTED = re.compile(r"(^|/)(plans\.json|dataset\.json|fold_(all|\d+)/[A-Za-z0-9_]+\.pth)$")


@contextmanager
def trained_folder(source: Path, sha256: str | None) -> Iterator[Path]:
    """The one folder with plans.json and dataset.json in a folder or a zip."""
    if source.is_dir():
        yield _find_trained(source)
    elif source.is_file() and zipfile.is_zipfile(source):
        if sha256 is not None:
            check_sha256(source, sha256)
        with tempfile.TemporaryDirectory(prefix="cohortvol-import-") as temporary:
            _unzip(source, Path(temporary))
            yield _find_trained(Path(temporary))
    else:
        raise ModelError(f"{source}: neither a folder nor a zip of a trained nnU-Net v2")


def _find_trained(folder: Path) -> Path:
    places = sorted(
        path.parent
        for path in folder.glob("**/plans.json")
        if (path.parent / "dataset.json").is_file() and any(path.parent.glob("fold_*"))
    )
    if len(places) != 1:
        found = "\n".join(f"  {place}" for place in places)
        raise ModelError(
            f"{folder}: {len(places)} trained nnU-Nets (plans.json, dataset.json, fold_*) in it, "
            f"need exactly one\n{found}".rstrip()
        )
    return places[0]


def _unzip(source: Path, folder: Path) -> None:
    """Take plans, dataset and checkpoints out of a zip; nothing else, and no links."""
    try:
        _take_out(source, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"{source}: damaged zip (MOD_CORRUPT): {error}\n  Download or copy it again."
        ) from error


def _take_out(source: Path, folder: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        members = [member for member in archive.infolist() if _WANTED.search(member.filename)]
        if sum(member.file_size for member in members) > MAX_UNZIPPED_BYTES:
            raise ModelError(f"{source}: more than {MAX_UNZIPPED_BYTES} bytes when unzipped")
        for member in members:
            place = PurePosixPath(member.filename)
            link = stat.S_ISLNK(member.external_attr >> 16)
            if link or place.is_absolute() or ".." in place.parts or "\\" in member.filename:
                raise ModelError(f"{source}: unsafe member {member.filename!r}")
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, open(target, "xb") as unpacked:
                _copy_at_most(packed, unpacked, member.file_size, source)


def _copy_at_most(packed: Any, unpacked: Any, size: int, source: Path) -> None:
    while chunk := packed.read(2**20):
        size -= len(chunk)
        if size < 0:
            raise ModelError(f"{source}: a member is larger than the zip says")
        unpacked.write(chunk)


def check_sha256(path: Path, expected: str) -> None:
    """Raise ModelError unless a file has this sha256."""
    found = sha256_of(path)
    if found != expected.lower():
        raise ModelError(f"{path}: sha256 {found} (MOD_CHECKSUM)\n  expected {expected.lower()}")
