"""Folders of DICOM with one file damaged: how many are taken for good though a voxel differs?

A sound folder and a damage are drawn by a seed. What ingest makes of the damaged folder is compared
with what it makes of the sound one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cohortvol import reasons
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules
from cohortvol.store.schemas import INGEST, SHARD
from cohortvol.store.tables import append_rows, read_table, write_table
from dicom_fixture import write_series

N_SLICES = 16
SIDE = 64
SPACING_MM = 4.5


def slice_of(k: int, seed: int = 0) -> np.ndarray:
    """A body with organs, as magnitude images show it: noise everywhere, 12 bits."""
    rng = np.random.default_rng([seed, k])
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    z = (k - N_SLICES / 2) / N_SLICES
    grey = 300.0 * ((x / 0.85) ** 2 + (y / 0.65) ** 2 < 1)
    grey += 350 * (((x + 0.4) / 0.35) ** 2 + (y / 0.4) ** 2 + (z / 0.6) ** 2 < 1)
    grey += 550 * (((x - 0.5) / 0.2) ** 2 + ((y - 0.1) / 0.25) ** 2 + (z / 0.4) ** 2 < 1)
    grey *= 1 + 0.3 * x + 0.1 * z
    noise = rng.normal(0, 25, (2, SIDE, SIDE))
    return np.hypot(grey + noise[0], noise[1]).astype(np.uint16)


def _as_scanned(syntax: str, seed: int, scale: bool, bits: int) -> Callable[[Dataset, int], None]:
    def change(image: Dataset, k: int) -> None:
        image.Rows = image.Columns = SIDE
        image.PixelSpacing = [SPACING_MM, SPACING_MM]
        image.BitsStored, image.HighBit = bits, bits - 1
        image.PixelData = slice_of(k, seed).tobytes()
        if scale:
            image.RescaleSlope, image.RescaleIntercept = 0.5, 0.0
        if syntax == ImplicitVRLittleEndian:
            image.file_meta.TransferSyntaxUID = syntax
        elif syntax != ExplicitVRLittleEndian:
            image.compress(syntax, generate_instance_uid=False)

    return change


SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
    "jpegls": JPEGLSLossless,
}


def scanned(
    folder: Path, syntax: str = "explicit", seed: int = 0, scale: bool = False, bits: int = 12,
    **fields: object,
) -> Path:  # fmt: skip
    """A sound series of 16 slices."""
    change = _as_scanned(SYNTAXES[syntax], seed, scale, bits)
    return write_series(folder, N_SLICES, change, **fields)


def session(folder: Path) -> Path:
    """The series among others: three localizers, another orientation, a report and a text."""
    scanned(folder)
    write_series(folder / "loc", n_slices=3, seed=5, SeriesDescription="localizer", SeriesNumber=1)
    scanned(folder / "phase", seed=3, ImageType=["ORIGINAL", "PRIMARY", "P"], SeriesNumber=5)
    report(folder / "SR0001")
    (folder / "notes.txt").write_text("as scanned")
    return folder


def report(path: Path) -> None:
    """A structured report, as many archives keep beside images."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = BasicTextSRStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = BasicTextSRStorage, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.StudyInstanceUID = generate_uid(), generate_uid()
    made.Modality, made.CompletionFlag = "SR", "COMPLETE"
    made.save_as(path, enforce_file_format=True)


SOUND: dict[str, Callable[[Path], Path]] = {
    "explicit": lambda folder: scanned(folder),
    "explicit, 16 bits": lambda folder: scanned(folder, bits=16),
    "implicit": lambda folder: scanned(folder, "implicit"),
    "scaled": lambda folder: scanned(folder, scale=True),
    "number promised": lambda folder: scanned(folder, ImagesInAcquisition=N_SLICES),
    "RLE": lambda folder: scanned(folder, "rle"),
    "JPEG 2000": lambda folder: scanned(folder, "jpeg2000"),
    "JPEG-LS": lambda folder: scanned(folder, "jpegls"),
    "session": session,
}
"""Folders of which ingest makes a scan."""

# --- damages: each changes one file of the series, and says which


def _bytes(change: Callable[[bytearray, np.random.Generator], bytes | bytearray]):
    def damage(path: Path, rng: np.random.Generator, _others: list[Path]) -> None:
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return damage


def _overwritten(start: int, stop: int, how: str):
    def change(data: bytearray, rng: np.random.Generator) -> bytearray:
        end = min(stop, len(data))
        data[start:end] = _filling(how, end - start, rng)
        return data

    return _bytes(change)


def _filling(how: str, n: int, rng: np.random.Generator) -> bytes:
    return {"zeros": bytes(n), "ones": b"\xff" * n, "random": rng.bytes(n)}[how]


def _pixels_at(data: bytes) -> int:
    return max(data.rfind(b"\xe0\x7f\x10\x00"), data.rfind(b"\x7f\xe0\x00\x10")) + 12


def _header_piece(how: str):
    """512 bytes anywhere in the header, or what there is of them."""

    def change(data: bytearray, rng: np.random.Generator) -> bytearray:
        end = _pixels_at(data)
        start = int(rng.integers(132, end - 64))
        stop = min(start + int(rng.integers(16, 512)), end)
        data[start:stop] = _filling(how, stop - start, rng)
        return data

    return _bytes(change)


def _header_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(132, _pixels_at(data) - 12))
    data[at] ^= 1 << int(rng.integers(8))
    return data


def _pixel_piece(how: str):
    """A sector of a disk, 512 bytes, of the pixels."""

    def change(data: bytearray, rng: np.random.Generator) -> bytearray:
        start = _pixels_at(data)
        at = int(rng.integers(start, max(start + 1, len(data) - 520)))
        stop = min(at + 512, len(data) - 8)
        data[at:stop] = _filling(how, stop - at, rng)
        return data

    return _bytes(change)


def _all_pixels(how: str):
    def change(data: bytearray, rng: np.random.Generator) -> bytearray:
        start = _pixels_at(data)
        data[start:] = _filling(how, len(data) - start, rng)
        return data

    return _bytes(change)


def _tag(name: str, value: Callable[[object, np.random.Generator], object]):
    """One value of the header another."""

    def damage(path: Path, rng: np.random.Generator, _others: list[Path]) -> None:
        image = dcmread(path)
        changed = value(image.get(name), rng)
        if changed is None:
            if name in image:
                del image[name]
        else:
            setattr(image, name, changed)
        image.save_as(path)

    return damage


def _digit(value: object, rng: np.random.Generator) -> list[float]:
    """A number of a list, off by a tenth, negative, or ten times as large."""
    numbers = [float(one) for one in value]
    at = int(rng.integers(len(numbers)))
    numbers[at] = [numbers[at] + 0.1, -numbers[at] - 1, 10 * numbers[at] + 1][rng.integers(3)]
    return numbers


def _of_another(other: Callable[[Path], Path]):
    """The file replaced by one of another series."""

    def damage(path: Path, rng: np.random.Generator, _others: list[Path]) -> None:
        foreign = path.parent / "foreign"
        files = sorted(other(foreign).iterdir())
        files[int(rng.integers(len(files)))].replace(path)
        shutil.rmtree(foreign)

    return damage


def _coronal(folder: Path) -> Path:
    def change(image: Dataset, k: int) -> None:
        _as_scanned(ExplicitVRLittleEndian, 8, False, 12)(image, k)
        image.ImagePositionPatient = [-20.0, 100.0 + 5.0 * k, 30.0]
        image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]

    return write_series(folder, N_SLICES, change, SeriesNumber=9)


def _copy_over(path: Path, rng: np.random.Generator, others: list[Path]) -> None:
    shutil.copyfile(others[int(rng.integers(len(others)))], path)


def _pixels_of_another(path: Path, rng: np.random.Generator, others: list[Path]) -> None:
    image, other = dcmread(path), dcmread(others[int(rng.integers(len(others)))])
    image.PixelData = other.PixelData
    image.save_as(path)


def _renamed(name: str):
    return lambda path, _rng, _others: path.rename(path.with_name(name.format(path.name)))


def _twice(path: Path, _rng: np.random.Generator, _others: list[Path]) -> None:
    shutil.copyfile(path, path.with_name("again"))


def _twice_otherwise(path: Path, rng: np.random.Generator, others: list[Path]) -> None:
    again = path.with_name("again")
    shutil.copyfile(path, again)
    _pixels_of_another(again, rng, others)


Damage = Callable[[Path, np.random.Generator, list[Path]], None]

DAMAGES: dict[str, Damage] = {
    **{f"cut at {n} bytes": _bytes(lambda data, _, n=n: data[:n]) for n in (300, 500, 1000)},
    "cut anywhere": _bytes(lambda data, rng: data[: rng.integers(1, len(data))]),
    "cut by 3 bytes": _bytes(lambda data, _: data[:-3]),
    "emptied": _bytes(lambda _data, _: b""),
    "all zeros": _bytes(lambda data, _: bytes(len(data))),
    "an error page": _bytes(lambda _data, _: b"<html>404 not found</html>" * 40),
    "bytes 400 to 800 zeros": _overwritten(400, 800, "zeros"),
    "mark zeros": _overwritten(128, 132, "zeros"),
    "zeros after the mark": _overwritten(132, 1 << 30, "zeros"),
    "random after the mark": _overwritten(132, 1 << 30, "random"),
    "file meta alone": _bytes(
        lambda data, _: data[: 144 + int.from_bytes(data[140:144], "little")]
    ),
    **{f"header, a piece {how}": _header_piece(how) for how in ("zeros", "ones", "random")},
    "header, one bit": _bytes(_header_bits),
    **{f"pixels, 512 bytes {how}": _pixel_piece(how) for how in ("zeros", "ones", "random")},
    **{f"pixels, all {how}": _all_pixels(how) for how in ("zeros", "ones", "random")},
    "SeriesInstanceUID": _tag("SeriesInstanceUID", lambda *_: generate_uid()),
    "no SeriesInstanceUID": _tag("SeriesInstanceUID", lambda *_: None),
    "SOPClassUID": _tag("SOPClassUID", lambda *_: "1.2.840.10008.5.1.4.1.1.66"),
    "ImagePositionPatient": _tag("ImagePositionPatient", _digit),
    "ImageOrientationPatient": _tag("ImageOrientationPatient", _digit),
    "PixelSpacing": _tag("PixelSpacing", _digit),
    "no ImagePositionPatient": _tag("ImagePositionPatient", lambda *_: None),
    "Rows": _tag("Rows", lambda rows, rng: rows + int(rng.choice([-1, 1, -32, 64]))),
    "Columns": _tag("Columns", lambda rows, rng: rows + int(rng.choice([-1, 1, -32, 64]))),
    "EchoTime": _tag("EchoTime", lambda echo, rng: float(echo) + rng.choice([0.1, -1, 10])),
    "ImageType": _tag("ImageType", lambda *_: ["DERIVED", "PRIMARY", "M", "ND"]),
    "Modality": _tag("Modality", lambda *_: "CR"),
    "SeriesDescription": _tag("SeriesDescription", lambda *_: "localizer"),
    "RescaleSlope": _tag(
        "RescaleSlope", lambda slope, rng: float(slope or 1) * rng.choice([1.1, 2, 10])
    ),
    "BitsStored": _tag("BitsStored", lambda *_: 8),
    "PixelRepresentation": _tag("PixelRepresentation", lambda *_: 1),
    "renamed to .txt": _renamed("{}.txt"),
    "renamed to a hidden name": _renamed(".{}.x7Gq"),
    "renamed to DICOMDIR": _renamed("DICOMDIR"),
    "renamed": _renamed("zzz{}"),
    "deleted to a copy of another": _copy_over,
    "pixels of another slice": _pixels_of_another,
    "there twice": _twice,
    "there twice with other pixels": _twice_otherwise,
    "of another series": _of_another(lambda folder: scanned(folder, seed=7, SeriesNumber=8)),
    "of a coronal series": _of_another(_coronal),
}  # fmt: skip
"""Ways to damage one file: the file, a generator, and the other files of its series."""


@dataclass(frozen=True)
class Case:
    """One damaged folder."""

    sound: str
    damage: str
    end: bool
    seed: int


def cases(n: int, seed: int = 0) -> list[Case]:
    """Every damage in turn on every sound folder in turn; the file is at an end of the stack half
    of the time, where no gap tells that it is missing."""
    rng = np.random.default_rng(seed)
    names, kinds = list(DAMAGES), list(SOUND)
    shift = rng.permutation(len(kinds))
    return [
        Case(
            kinds[shift[(i + i // len(names)) % len(kinds)]], names[i % len(names)],
            end=bool((i // len(names)) % 2 == 0), seed=int(rng.integers(1 << 32)),
        )
        for i in range(n)
    ]  # fmt: skip


def slices_in_order(folder: Path) -> list[Path]:
    """Files of the series that lies in the folder itself, by their position."""
    files = [path for path in folder.iterdir() if path.is_file()]
    placed = []
    for path in files:
        if path.read_bytes()[128:132] == b"DICM":
            header = dcmread(path, stop_before_pixels=True)
            if "ImagePositionPatient" in header:
                placed.append((float(header.ImagePositionPatient[2]), path.name, path))
    return [path for *_, path in sorted(placed)]


def damaged(case: Case, sound: Path, folder: Path) -> Path:
    """A copy of a sound folder with one file damaged."""
    shutil.copytree(sound, folder)
    rng = np.random.default_rng(case.seed)
    files = slices_in_order(folder)
    n = int(rng.choice([0, len(files) - 1])) if case.end else int(rng.integers(1, len(files) - 1))
    path = files.pop(n)
    DAMAGES[case.damage](path, rng, files)
    return folder


RULES = Rules(fov_range_mm=(30, 2500), orientation="off")


def ingested(folders: dict[str, Path], work: Path, rules: Rules = RULES):
    """Rows of the table INGEST, by scan."""
    rows = [{"scan_id": name, "image": str(path)} for name, path in folders.items()]
    shard, out = work / "shard.parquet", work / "ingest.parquet"
    write_table(shard, append_rows(rows, SHARD), SHARD)
    ingest.run(shard, out, rules)
    return read_table(out, INGEST).set_index("scan_id")


def answer(row, sound_row) -> str:
    """What became of a damaged folder, against the row of the sound one."""
    if row["state"] != "ready":
        return f"{row['state']} {row['reason']}"
    flags = [
        code for code in str(row["warnings"]).split(";")
        if code in reasons.load() and reasons.load()[code].class_ == "flag"
    ]  # fmt: skip
    if is_same(Path(row["image"]), Path(sound_row["image"])):
        return "ready as the sound scan" + (f", marked {flags[0]}" if flags else "")
    return f"ready, other voxels, marked {flags[0]}" if flags else ACCEPTED


ACCEPTED = "ACCEPTED AS GOOD with other voxels"


def is_same(one: Path, other: Path) -> bool:
    """Whether two images have equal grey values on one grid.

    A position may be off by 2 % of the step of 5 mm, as slices of a sound series may.
    """
    a, b = nib.load(one), nib.load(other)
    if a.shape != b.shape:
        return False
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = corners * [*np.array(a.shape) - 1, 1]
    moved_mm = np.abs((a.affine - b.affine) @ corners.T).max()
    return moved_mm < 0.11 and np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
