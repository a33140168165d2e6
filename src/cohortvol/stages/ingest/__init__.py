"""Is this scan usable: bytes, header, geometry, voxels."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol import reasons
from cohortvol.anatomy.geometry import spacing_mm
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import OutputError, ScanError, TemporaryError, log_unforeseen
from cohortvol.models.channels import dixon_part
from cohortvol.models.orientation import in_words, look
from cohortvol.stages.ingest import companions, sidecar
from cohortvol.stages.ingest.archive import Archive, opened
from cohortvol.stages.ingest.channels import (
    Grey,
    check_declared,
    digest_of_channels,
    in_one,
    missing,
    together,
)
from cohortvol.stages.ingest.dicom import (
    check_decoders,
    dixon_named,
    dixon_of_type,
    is_dicom,
    to_nifti,
)
from cohortvol.stages.ingest.grid import check_grid, describe_grid
from cohortvol.stages.ingest.header import Header, parse_header
from cohortvol.stages.ingest.label_maps import digest_of_label_map
from cohortvol.stages.ingest.rules import Rules
from cohortvol.stages.ingest.source import check_place, read_source
from cohortvol.stages.ingest.voxels import check_voxels, digest_of_values
from cohortvol.store.archives import is_archive
from cohortvol.store.channels import further_images
from cohortvol.store.companions import as_json, from_json
from cohortvol.store.files import commit_bytes, make_folder
from cohortvol.store.schemas import INGEST, SERIES, SHARD
from cohortvol.store.stations import gaps_of
from cohortvol.store.storage import of_scan
from cohortvol.store.tables import append_rows, read_table, write_table

__all__ = ["Rules", "check_decoders", "check_scan", "run"]

log = logging.getLogger(__name__)

# A fault of the machine or of ours, not of the data.
_FAILURES = ("IO_", "BUG_")


def run(shard: Path, out: Path, rules: Rules | None = None, threads: int = 1) -> pd.DataFrame:
    """Check every scan of one shard and write the ingest table.

    Whatever is wrong with a scan becomes its row; the shard goes on. DICOM, and the volume chosen
    of a 4D image, become ``ingest/<shard>/<scan_id>.nii.gz``; what DICOM folders hold is listed
    in ``ingest/series/<shard>.parquet``.

    Parameters
    ----------
    shard : Path
        ``manifest/shards/<shard>.parquet``.
    out : Path
        ``ingest/<shard>.parquet``.
    rules : Rules, optional
        Limits; the defaults if not given.
    threads : int
        Scans read at a time.

    Returns
    -------
    pandas.DataFrame
        What was written, sorted by ``scan_id``.

    Raises
    ------
    TableError
        If the shard's table cannot be read.
    InstallationError
        If there is DICOM and no decoder for some of its kinds.
    TemporaryError
        If memory runs out, the disk is full, or the storage fails.
    """
    limits = rules or Rules()
    scans = read_table(shard, SHARD).sort_values("scan_id")
    cells = zip(scans["more_images"], scans["companions"], strict=True)
    others = filter(None, chain.from_iterable(further_images(*both) for both in cells))
    given = map(Path, [*scans["image"], *others])
    if any(is_archive(image) or is_dicom(image) for image in given):
        check_decoders()
    images, series = out.with_suffix(""), out.parent / "series" / out.name
    stacks: list[dict[str, Any]] = []

    def row(
        scan_id: str, image: str, more: object, beside: object, sequence: object, dseg: object
    ) -> dict[str, Any]:
        start = time.perf_counter()
        found: list[dict[str, Any]] = []
        sources, made = _images_of(image, more), dseg if isinstance(dseg, str) else None
        converted = images / f"{scan_id}.nii.gz"
        of_scan = _row(scan_id, sources, from_json(beside), made, converted, limits, found)
        stacks.extend({"scan_id": scan_id, **stack} for stack in found)
        named = dixon_named(sequence) if isinstance(sequence, str) else None
        dixon = of_scan.get("dixon") or named
        what = " ".join(filter(None, map(of_scan.get, ("state", "reason", "detail"))))
        log.info("%s: %s, %.1f s", scan_id, what, time.perf_counter() - start)
        return {"scan_id": scan_id, **of_scan, "dixon": dixon}

    with ThreadPoolExecutor(threads) as pool:
        columns = ("scan_id", "image", "more_images", "companions", "sequence", "dseg")
        rows = list(pool.map(row, *(scans[name] for name in columns)))
    if stacks:
        stacks.sort(key=lambda stack: stack["scan_id"])
        make_folder(series.parent)
        write_table(series, append_rows(stacks, SERIES), SERIES)
    else:
        series.unlink(missing_ok=True)
    table = append_rows(rows, INGEST)
    write_table(out, table, INGEST)
    counts = Counter(row["state"] for row in rows)
    log.info("%s: %s", shard.stem, ", ".join(f"{n} {state}" for state, n in counts.items()))
    return table


def check_scan(path: Path, rules: Rules | None = None) -> dict[str, Any]:
    """Everything the ingest table says about a usable NIfTI image.

    Parameters
    ----------
    path : Path
        A ``.nii`` or ``.nii.gz`` file.
    rules : Rules, optional
        Limits; the defaults if not given.

    Returns
    -------
    dict
        ``n_bytes``, ``image_sha256``, ``voxels_sha256``, the grid, ``intensity_min``,
        ``intensity_max`` and ``warnings``; ``volume`` where it is one of several.

    Raises
    ------
    ScanError
        With the reason why the image is not usable.
    """
    found: dict[str, Any] = {}
    _check_into(found, path, rules or Rules())
    return found


def _check_into(
    found: dict[str, Any], path: Path, rules: Rules, converted: Path | None = None
) -> Grey:
    """Put what is learned of a scan into `found`, which keeps it when a later check fails.

    One volume chosen from several is written to `converted`, if given, and is the scan from then.
    """
    headers: list[Header] = []

    def content_size(head: bytes) -> int:
        headers.append(parse_header(head, rules))
        return headers[-1].n_content

    source = read_source(path, content_size, rules.allow_roots)
    found.update(n_bytes=source.n_bytes, image_sha256=source.sha256)
    header = headers[-1]
    affine, grid_warnings = check_grid(header.fields, header.shape, rules)
    found.update(describe_grid(header.shape, affine))
    stored = np.frombuffer(source.content, header.dtype, offset=header.offset)
    volumes = stored.reshape(header.n_volumes, *header.shape[::-1])
    voxels = volumes[0 if rules.volume is None or len(volumes) == 1 else rules.volume - 1]
    low, high, voxel_warnings = check_voxels(
        _without(gaps_of(found.get("stations")), voxels), rules
    )
    ends = sorted(header.slope * value + header.intercept for value in (low, high))
    if max(map(abs, ends)) > float(np.finfo(np.float32).max):
        detail = f"from {ends[0]:.3g} to {ends[1]:.3g}, beyond single precision"
        raise ScanError("VOX_NONFINITE", detail)
    digest = digest_of_values(voxels, header.slope, header.intercept, ends)
    found.update(voxels_sha256=digest)
    grey = Grey(voxels, header.slope, header.intercept, affine)
    codes = ["W_EXTRA_BYTES"] if source.has_extra else []
    if len(volumes) > 1:
        codes.append("W_VOLUME_SELECTED")
        found.update(volume=rules.volume)
        if converted is not None:
            found.update(_written(converted, nifti_gz(grey.values(), affine)))
    codes += [*header.warnings, *grid_warnings, *voxel_warnings]
    if (twin := sidecar.resampled_twin(path)) is not None:
        raise ScanError("DCM_SPACING_IRREGULAR", f"dcm2niix made {twin} beside it, to equal steps")
    said = sidecar.read(path)
    if sidecar.step_is_thickness(said, spacing_mm(affine)):
        codes.append("QC_SCALE")
    if (hours := sidecar.time_of_day_h(said)) is not None:
        found.update(header_time_of_day_h=hours)
    if (part := dixon_of_type(sidecar.image_type(said))) is not None:
        found.update(dixon=part)
    if rules.orientation != "off":
        turned = voxels.T if header.slope > 0 else voxels.T.astype(np.float32) * header.slope
        verdict = look(turned, affine)
        found.update(body_orientation=verdict.turn and in_words(verdict.turn))
        if verdict.is_turned:
            codes.append("QC_ORIENTATION")
    found.update(
        intensity_min=ends[0],
        intensity_max=ends[1],
        warnings=";".join(codes) or None,
    )
    return grey


def _without(gaps: Sequence[tuple[int, int]], voxels: np.ndarray) -> np.ndarray:
    """Voxels (K, J, I) but for the slices that no station shows, which hold nothing by intent."""
    empty = [k for first, last in gaps for k in range(first, last + 1)]
    return np.delete(voxels, empty, axis=0) if empty else voxels


def _written(out: Path, content: bytes) -> dict[str, Any]:
    """Write an image; what the ingest table says of its file."""
    sha256 = commit_bytes(out, content)
    return {"image": str(out.absolute()), "n_bytes": len(content), "image_sha256": sha256}


def _images_of(image: str, more: object) -> list[Path | None]:
    """Images of a scan in the order of its channels; None where one is missing."""
    return [Path(image), *(Path(path) if path else None for path in further_images(more, None))]


def _one(
    found: dict[str, Any], image: Path, converted: Path, rules: Rules, series: list[dict[str, Any]]
) -> Grey:
    """Check one image, wherever it lies, and put what is learned into `found`."""
    found.update(image=str(image))
    if is_archive(image):
        check_place(image, rules.allow_roots)
        return of_scan(image, lambda: _packed(found, image, converted, rules, series))
    if is_dicom(image):
        check_place(image, rules.allow_roots)
        return _dicom(found, image, converted, rules, series)
    return _check_into(found, image, rules, converted)


def _dicom(
    found: dict[str, Any],
    source: Path | Archive,
    converted: Path,
    rules: Rules,
    series: list[dict[str, Any]],
) -> Grey:
    covariates, codes = to_nifti(source, converted, rules, series)
    found.update(covariates, image=str(converted.absolute()))
    grey = _check_into(found, converted, replace(rules, allow_roots=()), converted)
    found["warnings"] = _joined(codes, found["warnings"])
    return grey


def _packed(
    found: dict[str, Any], image: Path, converted: Path, rules: Rules, series: list[dict[str, Any]]
) -> Grey:
    """Check what an archive holds: DICOM as of a folder, else the only NIfTI image."""
    series.clear()  # begun anew, where the storage failed
    with opened(image, rules) as archive:
        try:
            return _dicom(found, archive, converted, rules, series)
        except ScanError as error:
            if error.reason != "SRC_EMPTY":
                raise
        place, n_others = archive.lay_image()
        if n_others:
            series += [{"n_images": n_others, "chosen": False, "reason": "DCM_FOREIGN_FILE"}]
        grey = _check_into(found, place, replace(rules, allow_roots=()))
        found.update(_written(converted, nifti_gz(grey.values(), grey.affine)))
        return grey


def _several(
    found: dict[str, Any],
    images: list[Path | None],
    converted: Path,
    rules: Rules,
    series: list[dict[str, Any]],
) -> Grey:
    """Check every channel of a scan, and write one image of them all to `converted`; the first.

    Where one place holds DICOM and all channels are parts of a Dixon acquisition, each is the
    series there that is this part.
    """
    names = rules.channels
    given = [image for image in images[: len(names)] if image is not None]
    parts = [dixon_part(name) for name in names]
    is_one = is_archive(given[0]) or is_dicom(given[0])
    from_one = len(images) == 1 and all(parts) and is_one
    if from_one:
        given *= len(names)
    if len(given) < len(names):
        raise ScanError("IMG_CHANNEL_MISSING", missing(names, images))
    greys: dict[str, Grey] = {}
    facts: list[dict[str, Any]] = []
    listed: list[list[dict[str, Any]]] = [[] for _ in names]
    for n, (name, image) in enumerate(zip(names, given, strict=True), start=1):
        of_channel: dict[str, Any] = {}
        place = converted.with_name(converted.name.replace(".nii.gz", f".{n}.nii.gz"))
        limits = rules if n == 1 else replace(rules, orientation="off")
        limits = replace(limits, dixon=(str(parts[n - 1]),)) if from_one else limits
        try:
            greys[name] = _one(of_channel, image, place, limits, listed[n - 1])
        except ScanError as error:
            told = f"{name}: {error.detail}" if error.detail else name
            if from_one and parts[n - 1] not in {row.get("dixon") for row in listed[n - 1]}:
                raise ScanError("IMG_CHANNEL_MISSING", f"no series of {name}") from error
            raise ScanError(error.reason, told) from error
        finally:
            place.unlink(missing_ok=True)  # what was converted is part of the whole from here on
            series[:] = in_one(listed) if from_one else chain.from_iterable(listed)
            if n == 1:
                found.update({**of_channel, "image": found["image"]})
        check_declared(name, of_channel.get("dixon"))
        facts.append(of_channel)
    digests = [of_channel["voxels_sha256"] for of_channel in facts]
    make_folder(converted.parent)
    found.update(_written(converted, together(greys, digests)))
    found.update(
        volume=None,
        channels=";".join(names),
        voxels_sha256=digest_of_channels(digests),
        dixon=dixon_part(names[0]) or found.get("dixon"),
        warnings=_joined(*(of_channel["warnings"] for of_channel in facts)),
    )
    return greys[names[0]]


def _joined(*codes: str | list[str] | None) -> str | None:
    """Codes once each, joined by ;."""
    told = (one.split(";") if isinstance(one, str) else one or [] for one in codes)
    return ";".join(filter(None, dict.fromkeys(chain.from_iterable(told)))) or None


def _row(
    scan_id: str,
    images: list[Path | None],
    beside: Mapping[str, str],
    dseg: str | None,
    converted: Path,
    rules: Rules,
    series: list[dict[str, Any]],
) -> dict[str, Any]:
    found: dict[str, Any] = {"state": "ready", "image": str(images[0]), "dseg": dseg}
    try:
        if dseg is not None:
            found.update(dseg_sha256=digest_of_label_map(dseg, rules.allow_roots))
        read = _several if rules.channels else _one
        what: Any = images if rules.channels else images[0]
        grid = read(found, what, converted, rules, series).grid
        if len(images) > max(1, len(rules.channels)):
            found["warnings"] = _joined(found["warnings"], "W_CHANNELS_UNUSED")
        session = companions.Session(grid, Path(str(images[0])), beside, converted)
        known = companions.found_of(session, rules, series, _one)
        if any("reason" in one for one in known.values()):
            found["warnings"] = _joined(found["warnings"], "W_COMPANION_UNUSED")
        found["companions"] = as_json(known)
    except ScanError as error:
        state = _state_of(error.reason)
        found.update(state=state, reason=error.reason, detail=error.detail or None)
    except (OutputError, TemporaryError):
        raise  # no scan is to blame where nothing can be written or read
    except MemoryError as error:
        raise TemporaryError(
            f"{scan_id}: not enough memory to check the image\n"
            "  Give the job more memory, or lower ingest.max_voxels."
        ) from error
    except Exception as error:
        detail = log_unforeseen(log, scan_id, error)
        found.update(state="failed", reason="BUG_UNEXPECTED", detail=detail)
    return found


def _state_of(reason: str) -> str:
    if reason.startswith(_FAILURES):
        return "failed"
    known = reasons.load().get(reason)
    return "skipped" if known is not None and known.class_ == "skip" else "quarantined"
