"""Where a trained nnU-Net lies: in a folder, or packed in a zip of which nothing else is taken."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from cohortvol.errors import ModelError, TemporaryError
from cohortvol.models.files import MOST_BYTES, shown
from cohortvol.store.archives import ZIP_DAMAGE, is_special, leads_out
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
def trained_folder(source: Path, sha256: str | None, training: str | None = None) -> Iterator[Path]:
    """The one folder with plans.json and dataset.json in a folder or a zip.

    Parameters
    ----------
    training : str, optional
        Which one where there are several: its name, ``Trainer__Plans__3d_fullres``, or the end of
        it, ``3d_fullres``.
    """
    if source.is_dir():
        yield _find_trained(source, training)
    elif source.is_file() and zipfile.is_zipfile(source):
        if sha256 is not None:
            check_sha256(source, sha256)
        with tempfile.TemporaryDirectory(prefix="cohortvol-import-") as temporary:
            _unzip(source, Path(temporary), training)
            yield Path(temporary)
    else:
        raise ModelError(f"{source}: neither a folder nor a zip of a trained nnU-Net v2")


def _find_trained(folder: Path, training: str | None) -> Path:
    places = {
        str(path.parent.relative_to(folder)): path.parent
        for path in folder.glob("**/plans.json")
        if (path.parent / "dataset.json").is_file() and any(path.parent.glob("fold_*"))
    }
    return places[_only(folder, places, training)]


def _only(source: Path, places: Iterable[str], training: str | None) -> str:
    """The place of the training that is meant."""
    all_of_them = sorted(places)
    found = [place for place in all_of_them if _is_meant(source, place, training)]
    if len(found) == 1:
        return found[0]
    lines = "".join(f"\n  {shown(place, 200)}" for place in all_of_them[:8])
    if not all_of_them:
        raise ModelError(f"{source}: no trained nnU-Net (plans.json, dataset.json, fold_*) in it")
    said = "need exactly one" if training is None else f"{len(found)} of them {training!r}"
    raise ModelError(
        f"{source}: {len(all_of_them)} trained nnU-Nets in it, {said}{lines}\n"
        "  Say which with --training, such as --training 3d_fullres."
    )


def _is_meant(source: Path, place: str, training: str | None) -> bool:
    name = PurePosixPath(place).name or source.name
    return training is None or training == name or name.endswith(f"__{training}")


def has_training(source: Path, training: str) -> bool:
    """Whether a zip holds a training of this name; see `trained_folder`."""
    with zipfile.ZipFile(source) as archive:
        found = (_WANTED.fullmatch(member.filename) for member in archive.infolist())
        return any(
            wanted is not None
            and wanted["file"] == "plans.json"
            and _is_meant(source, wanted["place"].rstrip("/"), training)
            for wanted in found
        )


def _unzip(source: Path, folder: Path, training: str | None) -> None:
    """Take plans, dataset and checkpoints out of a zip; nothing else, and no links."""
    try:
        with zipfile.ZipFile(source) as archive:
            _take_out(source, archive, folder, training)
    except ZIP_DAMAGE as error:
        raise ModelError(
            f"{source}: damaged zip (MOD_CORRUPT): {shown(str(error), 200)}\n"
            "  Download or copy it again."
        ) from error


def _take_out(source: Path, archive: zipfile.ZipFile, folder: Path, training: str | None) -> None:
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
    chosen = trainings[_only(source, whole, training)]
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
    if is_special(member) or leads_out(member.filename) or "\\" in member.filename:
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
        raise ModelError(
            f"{path}: sha256 {found} (MOD_CHECKSUM)\n  expected {expected.lower()}\n"
            "  Download or copy it again. What you packed yourself, import as a folder."
        )
