"""The scans of one shard: read, measure, draw, and write. A scan that fails is rows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.anatomy.structures import plausible_ml_with
from cohortvol.errors import (
    GeometryError,
    ModelError,
    ScanError,
    TemporaryError,
    UnknownLabelError,
    log_unforeseen,
)
from cohortvol.models.card import load_card, restrict
from cohortvol.models.inference import truncates
from cohortvol.models.intervals import Calibration, Softmax, softmax_by_label
from cohortvol.stages.measure.companions import with_companions
from cohortvol.stages.measure.dixon import PARTS, SWAP_RATIO, is_swapped
from cohortvol.stages.measure.interval import COLUMNS, with_intervals
from cohortvol.stages.measure.preview import draw_preview
from cohortvol.stages.measure.quality import judge, pair_sums
from cohortvol.stages.measure.reading import Scan, check_unchanged, read_scan
from cohortvol.stages.measure.volumes import MEASURED, structure_volumes, typed
from cohortvol.store.kept import Kept, forget
from cohortvol.store.of_scans import discard
from cohortvol.store.schemas import INGEST, PREVIEWS, SEGMENT, VOLUMES
from cohortvol.store.stations import gaps_of
from cohortvol.store.storage import is_fault, patiently
from cohortvol.store.tables import append_rows, read_table, write_table

log = logging.getLogger(__name__)

_OF_INGEST = (
    *("image", "channels", "dixon", "stations", "intensity_min", "intensity_max", "orientation"),
    "companions",
)
MIN_GREY_LEVELS = 100
"""Whole grey levels that a scan must have where a profile cuts the fractions off."""


def measure_scan(
    scan: Scan,
    layers: Sequence[Mapping[int, str]],
    *,
    softmax: Softmax | None = None,
    calibration: Calibration | None = None,
    dixon: str | None = None,
    swap_ratio: float = SWAP_RATIO,
    scan_codes: Sequence[str] = (),
    **thresholds: Any,
) -> pd.DataFrame:
    """Judged volumes with their intervals, and pair sums, of one scan.

    Parameters
    ----------
    scan : Scan
    layers : sequence of mapping of int to str
        Label index to structure name for each layer; most models have one.
    softmax, calibration
        See `with_intervals`.
    dixon : str, optional
        Part of a Dixon acquisition that the image is called; water and fat are checked for a
        swap.
    swap_ratio : float
        Passed to `is_swapped`.
    scan_codes, **thresholds
        Passed to `judge`.

    Raises
    ------
    UnknownLabelError
        If a layer of the label map holds an index missing from its mapping.
    """
    measured = [
        structure_volumes(
            scan.label_map[..., layer], scan.affine, structures, image=scan.image, gaps=scan.gaps
        )
        for layer, structures in enumerate(layers)
    ]
    codes = list(scan_codes)
    parts = {**({dixon: scan.image} if dixon in PARTS else {}), **scan.parts}
    labelled = [(scan.label_map[..., n], structures) for n, structures in enumerate(layers)]
    if any(is_swapped(image, labelled, part, swap_ratio) for part, image in parts.items()):
        codes.append("QC_FW_SWAP")
    judged = judge(
        pd.concat(measured).sort_values("label", ignore_index=True), scan_codes=codes, **thresholds
    )
    judged = typed(with_intervals(judged, softmax or {}, calibration))
    return pd.concat([judged, pair_sums(judged)], ignore_index=True)


def failed_scan(structures: Mapping[int, str], reason: str) -> pd.DataFrame:
    """Rows of a scan that could not be measured: every structure ``failed`` for one reason."""
    rows = [
        {"structure": structure, "label": label, "status": "failed", "reason": reason}
        | {"qc": "exclude", "qc_flags": ""}
        for label, structure in structures.items()
    ]
    columns = [*MEASURED, *COLUMNS, "status", "reason", "qc", "qc_flags"]
    failed = typed(pd.DataFrame(rows, columns=columns))
    return pd.concat([failed, pair_sums(failed)], ignore_index=True)


def run_shard(
    segment: Path,
    ingest: Path,
    model: Path,
    results: Path,
    out: Path,
    roi: Sequence[str] = (),
    plausible_ml: Path | None = None,
    previews: Path | None = None,
    kept: Kept | None = None,
    **thresholds: Any,
) -> int:
    """Measure the segmented scans of one shard and write its tables.

    Parameters
    ----------
    segment, ingest : Path
        The shard's tables of these stages.
    model : Path
        Model folder; its card names the labels.
    results : Path
        Results folder, to which label maps are relative.
    out : Path
        Table to write: scans in order of scan_id, structures in order of label, sums last.
    roi : sequence of str
        Structures that were segmented; all of the model's if empty.
    plausible_ml : Path, optional
        Table of plausible volumes, in place of rows of the packaged one.
    previews : Path, optional
        Table of pictures to write: one small one for each scan that was measured.
    kept : Kept, optional
        Where rows and pictures are put away before the label maps are removed. Without it label
        maps stay.
    **thresholds
        Passed to `measure_scan`.

    Returns
    -------
    int
        Number of scans, those that failed too.
    """
    card = restrict(load_card(model), roi)
    segmented = read_table(segment, SEGMENT)
    segmented = segmented[segmented["state"] == "segmented"]
    others = sorted(set(segmented["model"]) - {card.id})
    if others:
        raise ModelError(
            f"{segment}: segmented with {', '.join(others)}, not with {card.id}\n"
            f"  Pass the folder of that model with --model, or segment the shard with {card.id}."
        )
    calibrations = {name: card.calibration(name) for name in segmented["profile"].unique()}
    if plausible_ml is not None:
        thresholds["plausible_ml"] = plausible_ml_with(plausible_ml)
    volumes, pictures = measure_shard(
        segmented,
        read_table(ingest, INGEST),
        card.labels_by_layer,
        results,
        calibrations,
        stored_axes=card.stored_axes,
        with_previews=previews is not None,
        kept=kept,
        **thresholds,
    )
    write_table(out, volumes, VOLUMES)
    if previews is not None:
        write_table(previews, pictures, PREVIEWS)
    if kept is None:
        forget(out)
    n_failed = volumes.loc[volumes["status"] == "failed", "scan_id"].nunique()
    log.info("%s: %d measured, %d failed", out.stem, len(segmented) - n_failed, n_failed)
    return len(segmented)


def measure_shard(
    segmented: pd.DataFrame,
    ingested: pd.DataFrame,
    layers: Sequence[Mapping[int, str]],
    results: Path,
    calibrations: Mapping[str, Calibration | None] | None = None,
    *,
    stored_axes: str | None = None,
    with_previews: bool = False,
    kept: Kept | None = None,
    **thresholds: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the tables VOLUMES and PREVIEWS for these scans.

    A scan that fails is rows with a reason in the first, and none in the second. `calibrations`
    holds what the model's intervals are worth in each profile; `stored_axes` are those on which it
    was trained, where it takes scans as they are stored. With `kept` the rows are put away
    and the label maps of scans that did not fail are removed.
    """
    joined = segmented.merge(
        ingested[["scan_id", *_OF_INGEST]], on="scan_id", how="left", validate="1:1"
    )
    tables, pictures = [], []
    scans = joined.sort_values("scan_id").to_dict("records")
    for scan in scans:
        if kept is not None and kept.label_map_sha256(scan) == scan["label_map_sha256"]:
            tables.append(kept.rows(scan["scan_id"]))
            pictures += kept.pictures(scan["scan_id"]) if with_previews else []
            continue
        start = time.perf_counter()
        codes = [] if stored_axes in (None, scan["orientation"]) else ["QC_AXES"]
        rows, picture = _measured_and_drawn(
            scan,
            layers,
            results,
            with_previews,
            calibration=(calibrations or {}).get(scan["profile"]),
            scan_codes=codes,
            **thresholds,
        )
        for name in ("profile", "model", "scan_id"):
            rows.insert(0, name, scan[name])
        tables.append(rows)
        pictures += picture
        state = "failed" if rows["status"].eq("failed").all() else "measured"
        log.info("%s: %s, %.1f s", scan["scan_id"], state, time.perf_counter() - start)
    volumes = pd.concat(tables, ignore_index=True) if tables else append_rows([], VOLUMES)
    volumes = volumes.reindex(columns=list(VOLUMES))
    drawn = append_rows(pictures, PREVIEWS)
    if kept is not None:
        _without_label_maps(scans, volumes, drawn, results, kept)
    return volumes, drawn


def _without_label_maps(
    scans: Sequence[Mapping[str, Any]],
    volumes: pd.DataFrame,
    pictures: pd.DataFrame,
    results: Path,
    kept: Kept,
) -> None:
    """Put rows and pictures away, and only then remove what they were made of."""
    failed = set(volumes.loc[volumes["status"] == "failed", "scan_id"])
    measured = [scan for scan in scans if scan["scan_id"] not in failed]
    kept.commit(measured, volumes, pictures)
    discard(results / scan["label_map"] for scan in measured)


def _measured_and_drawn(
    scan: dict[str, Any],
    layers: Sequence[Mapping[int, str]],
    results: Path,
    with_preview: bool,
    **thresholds: Any,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """One scan, of which no voxel stays in memory: its rows, and its picture if it has one."""
    voxels, rows = _measured_or_failed(scan, layers, results, **thresholds)
    if voxels is None or not with_preview:
        return rows, []
    return rows, [{"scan_id": scan["scan_id"]} | _preview(scan, voxels, layers, rows)]


def _preview(
    scan: Mapping[str, Any],
    voxels: Scan,
    layers: Sequence[Mapping[int, str]],
    judged: pd.DataFrame,
) -> dict[str, Any]:
    """A row of PREVIEWS without its scan_id. No picture is worth the volumes of a scan."""
    try:
        drawn = draw_preview(voxels.label_map, voxels.image, voxels.affine, layers, judged)
    except Exception as error:
        log_unforeseen(log, scan["scan_id"], error)
        return {"reason": "BUG_UNEXPECTED"}
    outlines = json.dumps(drawn.outlines)
    shown = {"structure": drawn.structure, "structure_colour": drawn.structure_colour}
    return shown | {"outlines": outlines, "png": drawn.png}


def _measured_or_failed(
    scan: dict[str, Any],
    layers: Sequence[Mapping[int, str]],
    results: Path,
    scan_codes: Sequence[str],
    **thresholds: Any,
) -> tuple[Scan | None, pd.DataFrame]:
    label_map, image = results / scan["label_map"], Path(scan["image"])
    try:
        voxels = patiently(lambda: _read_unchanged(scan, label_map, image, len(layers)))
        codes = [*scan_codes, *(["QC_FEW_GREY_LEVELS"] if _has_few_grey_levels(scan) else [])]
        rows = measure_scan(
            voxels,
            layers,
            softmax=softmax_by_label(scan),
            dixon=scan["dixon"],
            scan_codes=codes,
            **thresholds,
        )
        ratio = thresholds.get("swap_ratio", SWAP_RATIO)
        return voxels, with_companions(rows, voxels, layers, scan["companions"], ratio)
    except MemoryError as error:
        raise TemporaryError(f"{scan['scan_id']}: not enough memory to measure it") from error
    except ScanError as error:
        reason, shown = error.reason, str(error)
    except GeometryError as error:
        reason, shown = "BUG_GRID", str(error)
    except UnknownLabelError as error:
        reason, shown = "BUG_RANGE", str(error)
    except Exception as error:
        if isinstance(error, OSError) and is_fault(error):
            raise TemporaryError(
                f"{scan['scan_id']}: the storage is at fault ({error.strerror})"
            ) from error
        reason, shown = "BUG_UNEXPECTED", log_unforeseen(log, scan["scan_id"], error)
    log.warning("%s: failed with %s: %s", scan["scan_id"], reason, shown)
    structures = {label: name for layer in layers for label, name in layer.items()}
    return None, failed_scan(dict(sorted(structures.items())), reason)


def _has_few_grey_levels(scan: Mapping[str, Any]) -> bool:
    """Whether cutting the fractions off leaves too little of the scan for the network."""
    levels = scan["intensity_max"] - scan["intensity_min"]
    return bool(truncates(scan["profile"]) and levels < MIN_GREY_LEVELS)


def _read_unchanged(scan: Mapping[str, Any], label_map: Path, image: Path, n_layers: int) -> Scan:
    """The two files that belong together, of which neither has changed since."""
    check_unchanged(label_map, scan["label_map_sha256"], "BUG_DIVERGED")
    check_unchanged(image, scan["image_sha256"], "SRC_CHANGED")
    channels = scan["channels"].split(";") if isinstance(scan["channels"], str) else ()
    gaps = gaps_of(scan["stations"])
    return replace(read_scan(label_map, image, n_layers, channels), gaps=gaps)
