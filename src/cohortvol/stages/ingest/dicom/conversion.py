"""One volume from its files: dcm2niix converts, pydicom says whether it did.

dcm2niix ends with success where slices are missing, straightens tilted stacks, and splits or merges
what it was given. So the grid is proven before (`stacks.ordered`), and of its images only one with
that very grid and the grey values of the series is taken. Where there is none, the slices are put
together as pydicom reads them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from dcm2niix import bin as DCM2NIIX
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    JPEG2000,
    UID,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cohortvol.errors import InstallationError, ScanError
from cohortvol.stages.ingest.dicom.frames import NATIVE, Frame, count
from cohortvol.stages.ingest.dicom.jpeg2000 import bytes_more
from cohortvol.stages.ingest.dicom.stacks import MAX_LOST, Volume

LIMIT_S = 900
MAX_SHIFT_VOXELS = 0.05
"""How far a corner may lie from where the headers put it."""

SAME_LENGTH = 4
"""Bytes by which JPEG 2000 of sound slices differs, packed again: 1 where the same library packed
them, 3 of another's."""

ODD_LENGTH = 6
"""Times the usual difference from the middle, beyond."""

_PACKINGS = (JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless)
"""Transfer syntaxes that pydicom must read; for the older JPEG there is dcm2niix alone."""

_OPTIONS = ("-z", "n", "-b", "n", "-p", "n", "-i", "n", "-f", "%s_%e_%r")
# not packed, no sidecar (it holds names), grey values as displayed, nothing left out


def check_decoders() -> None:
    """Raise unless everything is there that packed images need, before any scan needs it.

    Raises
    ------
    InstallationError
        ``ENV_CODEC_MISSING`` with what is missing.
    """
    missing = [syntax.name for syntax in _PACKINGS if not _has_decoder(syntax)]
    if shutil.which(str(DCM2NIIX)) is None:
        missing.append("dcm2niix")
    if missing:
        raise InstallationError(
            f"no decoder for DICOM images (ENV_CODEC_MISSING): {', '.join(missing)}\n"
            "  Install cohortvol again with all that it depends on: `make install`, or "
            "`pip install --force-reinstall dcm2niix pylibjpeg pylibjpeg-openjpeg pyjpegls`."
        )


def convert(volume: Volume, scratch: Path) -> tuple[np.ndarray, list[str]]:
    """Grey values (column, row, slice) of a volume, and ``W_...`` and ``QC_...`` codes.

    Parameters
    ----------
    volume : Volume
        Frames in order, and their grid.
    scratch : Path
        Existing folder for files that are gone afterwards.

    Raises
    ------
    ScanError
        ``DCM_CONVERSION`` if neither gives an image that is the series; ``SRC_TRUNCATED``;
        ``DCM_UNREADABLE_FILE`` where JPEG 2000 of a few slices is not what their pictures need.
    """
    codes = _scale_codes(volume)
    samples = _samples(volume)
    _check_lengths(volume)
    if not samples:
        codes.append("W_NOT_COMPARED")
    with TemporaryDirectory(dir=scratch, prefix=".dicom-") as folder:
        for image, affine in _images_of_dcm2niix(volume, Path(folder)):
            grey = _on_the_grid(image, affine, volume)
            if grey is not None and _are_equal(grey, samples):
                return _smallest_type(grey), codes
    if not samples:
        raise ScanError(
            "DCM_CONVERSION", "no image has the grid of the series, and no decoder for its pixels"
        )
    return np.stack(_greys(volume.frames), axis=-1), [*codes, "W_CONVERTER_DIFFERS"]


def _scale_codes(volume: Volume) -> list[str]:
    """Whether slices differ in scale: most, as of some scanners, or a few, as after damage."""
    scales = Counter((frame.slope, frame.intercept) for frame in volume.frames)
    n_others = len(volume.frames) - max(scales.values())
    if n_others == 0:
        return []
    is_odd = n_others <= MAX_LOST * len(volume.frames)
    return ["W_SCALE_VARIES", "QC_ODD_SLICE"] if is_odd else ["W_SCALE_VARIES"]


def _check_lengths(volume: Volume) -> None:
    """JPEG 2000 is as long, packed again, in all slices or in none."""
    more = np.array(list(_bytes_more(volume)))
    if np.isnan(more).all():
        return
    away = np.abs(more - np.nanmedian(more))
    as_usual = away <= SAME_LENGTH + ODD_LENGTH * np.nanmedian(away)
    n_odd = int((~as_usual).sum())
    if 0 < n_odd <= MAX_LOST * len(more):
        detail = f"the pixels of {n_odd} of {len(more)} slices are not as long as they must be"
        raise ScanError("DCM_UNREADABLE_FILE", detail)


def _bytes_more(volume: Volume) -> Iterator[float]:
    """Of every frame that is JPEG 2000; NaN where nothing can be said."""
    indices = defaultdict(list)
    for frame in volume.frames:
        if _syntax(frame) in (JPEG2000, JPEG2000Lossless):
            indices[frame.path].append(frame.index)
    for path, wanted in indices.items():
        file = dcmread(path)
        frames = generate_frames(file.PixelData, number_of_frames=file.get("NumberOfFrames", 1))
        packed = list(frames)
        for index in wanted:
            more = bytes_more(packed[index], file.BitsStored)
            yield np.nan if more is None else more


def _images_of_dcm2niix(volume: Volume, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every 3-D image that it makes of the files, but those it interpolated to equal distances."""
    given, made = folder / "in", folder / "out"
    given.mkdir()
    made.mkdir()
    for number, path in enumerate(sorted({frame.path.absolute() for frame in volume.frames})):
        (given / f"{number:06d}.dcm").symlink_to(path)
    command = [str(DCM2NIIX), *_OPTIONS, "-o", str(made), str(given)]
    with suppress(subprocess.TimeoutExpired):  # its images are looked at, its exit code lies
        subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)  # noqa: S603
    for path in sorted(made.glob("*.nii")):
        if "_Eq" in path.stem:
            continue
        loaded = nib.Nifti1Image.from_filename(path)
        data = np.asanyarray(loaded.dataobj)
        if data.dtype.names is None and data.ndim >= 3:
            for image in np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0):
                yield image, loaded.affine


def _on_the_grid(image: np.ndarray, affine: np.ndarray, volume: Volume) -> np.ndarray | None:
    """The image with the axes of the volume, if both have one grid."""
    try:
        to_volume = np.linalg.inv(volume.affine) @ affine
    except np.linalg.LinAlgError:
        return None
    turns = nib.orientations.io_orientation(to_volume)
    if np.isnan(turns).any():
        return None
    moved = nib.orientations.apply_orientation(image, turns)
    if moved.shape != volume.shape:
        return None
    moved_to_volume = to_volume @ nib.orientations.inv_ornt_aff(turns, image.shape)
    i, j, k = np.array(volume.shape) - 1
    corners = np.array([[0, 0, 0, 1], [i, 0, 0, 1], [0, j, 0, 1], [0, 0, k, 1], [i, j, k, 1]])
    shift = np.abs(corners @ moved_to_volume.T - corners).max()
    return np.asarray(moved) if shift <= MAX_SHIFT_VOXELS else None


def _samples(volume: Volume) -> dict[int, np.ndarray]:
    """Slices as pydicom reads them; empty if it has no decoder.

    The first, middle and last, as the bytes of plain pixels have been counted; every one of
    packed pixels, of which a converter fills up what is missing, and where scales differ.
    """
    n = len(volume.frames)
    syntaxes = [_syntax(frame) for frame in volume.frames]
    if not all(syntax in NATIVE or _has_decoder(syntax) for syntax in set(syntaxes)):
        return {}
    wanted = {0, n // 2, n - 1} | {k for k in range(n) if syntaxes[k] not in NATIVE}
    if len({(frame.slope, frame.intercept) for frame in volume.frames}) > 1:
        wanted = set(range(n))
    places = sorted(wanted)
    return dict(zip(places, _greys([volume.frames[k] for k in places]), strict=True))


def _syntax(frame: Frame) -> UID:
    return UID(frame.facts.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))


def _has_decoder(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _greys(frames: Sequence[Frame]) -> list[np.ndarray]:
    """Grey values of frames, (column, row) each. Every file is read once: headers may be long."""
    of_file: dict[Path, list[Frame]] = defaultdict(list)
    for frame in frames:
        of_file[frame.path].append(frame)
    greys = {}
    for path, wanted in of_file.items():
        wanted.sort(key=lambda frame: frame.index)
        try:
            for frame, stored in zip(wanted, _stored(path, wanted), strict=True):
                scaled = stored.astype(float).T * frame.slope + frame.intercept
                greys[path, frame.index] = scaled.astype(np.float32)
        except (ValueError, EOFError, IndexError, RuntimeError) as error:
            detail = f"pixels cannot be read: {type(error).__name__}"
            raise ScanError("SRC_TRUNCATED", detail) from None
    return [greys[frame.path, frame.index] for frame in frames]


def _stored(path: Path, wanted: Sequence[Frame]) -> Iterator[np.ndarray]:
    """Stored values of some frames of a file, in its order.

    Where they are all it has, packed ones are walked through once, which needs no table of offsets.
    """
    indices = [frame.index for frame in wanted]
    facts = wanted[0].facts
    is_whole = 1 < len(indices) == count(facts, "NumberOfFrames")
    source: Path | Dataset = path
    if "TransferSyntaxUID" not in facts.file_meta:  # a file without the preamble has none
        source = dcmread(path, force=True)
        source.file_meta.TransferSyntaxUID = _syntax(wanted[0])
    return iter_pixels(source, indices=None if is_whole else indices, raw=True)


def _are_equal(grey: np.ndarray, samples: dict[int, np.ndarray]) -> bool:
    return all(
        np.allclose(grey[:, :, k], sample, rtol=1e-5, atol=1e-5 * max(1.0, float(np.ptp(sample))))
        for k, sample in samples.items()
    )


def _smallest_type(grey: np.ndarray) -> np.ndarray:
    """Stored integers as they are, scaled ones as float32."""
    if grey.dtype.kind in "iu" and grey.dtype.itemsize <= 2:
        return grey
    return grey.astype(np.float32)
