"""Where a trained nnU-Net lies: in a folder, or packed in a zip of which nothing else is taken."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from cohortvol.errors import ModelError, TemporaryError
from cohortvol.models.files import MOST_BYTES, shown
from cohortvol.store.files import sha256_of
from cohortvol.store.storage import explained

MAX_UNZIPPED_BYTES = 16 * 2**30
_PLANS = ("plans.json", "dataset.json")
_WANTED = re.compile(
    r"(?P<place>(?:.*/)?)(?P<file>plans\.json|dataset\.json|"
    r"fold_(?:all|[0-9]{1,3})/[A-Za-z0-9_]{1,64}\.pth)",
    re.DOTALL,
)


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
            yield Path(temporary)
    else:
        raise ModelError(f"{source}: neither a folder nor a zip of a trained nnU-Net v2")


def _find_trained(folder: Path) -> Path:
    places = {
        str(path.parent): path.parent
        for path in folder.glob("**/plans.json")
        if (path.parent / "dataset.json").is_file() and any(path.parent.glob("fold_*"))
    }
    return places[_only(folder, places)]


def _only(source: Path, places: Iterable[str]) -> str:
    found = sorted(places)
    if len(found) != 1:
        lines = "".join(f"\n  {shown(place, 200)}" for place in found[:8])
        raise ModelError(
            f"{source}: {len(found)} trained nnU-Nets (plans.json, dataset.json, fold_*) in it, "
            f"need exactly one{lines}"
        )
    return found[0]


def _unzip(source: Path, folder: Path) -> None:
    """Take plans, dataset and checkpoints out of a zip; nothing else, and no links."""
    try:
        with zipfile.ZipFile(source) as archive:
            _take_out(source, archive, folder)
    except (
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error),
        *(NotImplementedError, RuntimeError),  # a way of packing that is not known; a password
    ) as error:
        raise ModelError(
            f"{source}: damaged zip (MOD_CORRUPT): {shown(str(error), 200)}\n"
            "  Download or copy it again."
        ) from error


def _take_out(source: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    """Files of the one training in a zip, under names of ours: none of the zip becomes a path."""
    trainings: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for member in archive.infolist():
        wanted = _WANTED.fullmatch(member.filename)
        if wanted is None:
            continue
        _check_safe(source, member)
        files = trainings.setdefault(wanted["place"], {})
        if wanted["file"] in files:
            raise ModelError(
                f"{source}: {shown(member.filename, 200)} stands twice in it (MOD_CORRUPT)\n"
                "  Which of the two is meant nobody can know. Zip the folder again."
            )
        files[wanted["file"]] = member
    whole = [
        place
        for place, files in trainings.items()
        if {*_PLANS} <= set(files) and len(files) > len(_PLANS)
    ]
    chosen = trainings[_only(source, whole)]
    needed = sum(member.file_size for member in chosen.values())
    if needed > MAX_UNZIPPED_BYTES:
        raise ModelError(f"{source}: more than {MAX_UNZIPPED_BYTES} bytes when unzipped")
    if needed > (free := shutil.disk_usage(folder).free):
        raise TemporaryError(
            f"{source}: {needed:,} bytes when unzipped, {free:,} free in {folder.parent} "
            "(IO_NO_SPACE)\n  Set TMPDIR to a folder with more room."
        )
    for name, member in chosen.items():
        if name in _PLANS and member.file_size > MOST_BYTES:
            raise ModelError(
                f"{source}: {name} of {member.file_size:,} bytes; at most {MOST_BYTES:,}"
            )
        target = folder / name
        with explained(target):
            target.parent.mkdir(exist_ok=True)
            with archive.open(member) as packed, open(target, "xb") as unpacked:
                _copy_at_most(packed, unpacked, member.file_size, source)


def _check_safe(source: Path, member: zipfile.ZipInfo) -> None:
    """Its name is not used; but whoever made such a zip is not to be trusted with the rest."""
    place = PurePosixPath(member.filename)
    link = stat.S_ISLNK(member.external_attr >> 16)
    if link or place.is_absolute() or ".." in place.parts or "\\" in member.filename:
        raise ModelError(f"{source}: unsafe member {shown(member.filename, 200)!r}")


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
