"""One shard through the stages: every table, image, label map and receipt of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.store import of_scans
from cohortvol.store.channels import further_images
from cohortvol.store.companions import from_json
from cohortvol.store.keys import IMAGES, LABEL_MAPS, PRIVATE
from cohortvol.store.records import path_of_record
from cohortvol.store.schemas import (
    AGREEMENT,
    INGEST,
    KEPT,
    PREVIEWS,
    SEGMENT,
    SERIES,
    SHARD,
    VOLUMES,
)
from cohortvol.tools.verify.reading import Folder, receipt_is_whole

Row = dict[str, Any]

_AFTER_CHOICE = {"DCM_AMBIGUOUS_SERIES", "DCM_LOCALIZER", "DCM_DERIVED", "DCM_MOSAIC"}
"""Reasons of DICOM scans of which ingest lists the series, though none was converted."""


def check_ingest(folder: Folder, shard: str) -> pa.Table | None:
    """The shard's tables of manifest and ingest, and the images that ingest made of DICOM.

    Returns
    -------
    pyarrow.Table or None
        The table INGEST, if it is sound.
    """
    path, lists = f"ingest/{shard}.parquet", f"manifest/shards/{shard}.parquet"
    scans = folder.table(lists, SHARD)
    ingested = folder.table(path, INGEST)
    if scans is not None and ingested is not None:
        _same_scans(folder, path, ingested["scan_id"], scans["scan_id"], "the manifest")
        folder.made_of(path, path_of_record(path), list_of_scans=lists)
    rows = [] if ingested is None else ingested.to_pylist()
    if scans is not None:
        _check_links(folder, scans, {row["scan_id"] for row in rows if row["state"] == "ready"})
    own = Path("ingest", shard)
    converted = [
        row for row in rows if row["image"] and Path(row["image"]).parts[-3:-1] == own.parts
    ]
    for row in converted:
        image = f"{own}/{row['scan_id']}.nii.gz"
        folder.bytes_of(image, row["n_bytes"], row["image_sha256"])
    for companion in (one for row in rows for one in from_json(row["companions"]).values()):
        place = Path(companion.get("image", ""))
        if place.parts[-3:-1] == own.parts:
            image = f"{own}/{place.name}"
            folder.bytes_of(image, companion["n_bytes"], companion["image_sha256"])
    series = f"ingest/series/{shard}.parquet"
    of_dicom = any(row["volume"] is row["channels"] is None for row in converted) or any(
        row["reason"] in _AFTER_CHOICE for row in rows
    )
    if of_dicom or (folder.results / series).exists():
        folder.table(series, SERIES)
    return ingested


def _check_links(folder: Folder, scans: pa.Table, ready: set[str]) -> None:
    """With hashed ids, the links to images that ingest could read, and to their label maps."""
    for row in scans.to_pylist():
        if row["scan_id"] not in ready:
            continue
        images = [row["image"], *further_images(row["more_images"], row["companions"])]
        links = [(IMAGES, name) for name in images]
        if row["dseg_n_bytes"] is not None:  # none is made to what is missing
            links.append((LABEL_MAPS, row["dseg"]))
        for place, name in links:
            link = Path(name)
            path = f"{PRIVATE}/{place}/{link.name}"
            is_ours = link.parts[-3:-1] == (PRIVATE, place)
            if is_ours and not os.path.lexists(folder.results / path):
                folder.report(path, "missing", "is not there")


def check_model(
    folder: Folder, shard: str, model: str, ingested: pa.Table | None, *, must: Mapping[str, bool]
) -> None:
    """What one model made of a shard.

    Parameters
    ----------
    must : mapping of str to bool
        Whether the tables of ``segment``, ``measure``, ``previews`` and ``agreement`` must be
        there; one that need not be is checked if it is.
    """

    def wanted(stage: str, path: str) -> bool:
        return must[stage] or (folder.results / path).exists()

    path = f"segment/{model}/{shard}.parquet"
    segmented = folder.table(path, SEGMENT) if wanted("segment", path) else None
    rows = [] if segmented is None else segmented.to_pylist()
    if ingested is not None and segmented is not None:
        ready = ingested.filter(pc.equal(ingested["state"], "ready"))
        if _same_scans(folder, path, segmented["scan_id"], ready["scan_id"], "ingest"):
            images = {row["scan_id"]: row["image_sha256"] for row in ready.to_pylist()}
            changed = [row for row in rows if row["image_sha256"] != images[row["scan_id"]]]
            if changed:
                folder.report(
                    path, "out of date", f"{len(changed)} scans of other bytes than ingest's"
                )
    if segmented is not None:
        folder.made_of(path, path_of_record(path), ingest=f"ingest/{shard}.parquet")
    of_scan = None if segmented is None else {row["scan_id"]: row for row in rows}
    _check_receipts(folder, f"segment/{model}/{shard}", of_scan, _kept(folder, model, shard))

    label_maps = [row["scan_id"] for row in rows if row["state"] == "segmented"]
    out = f"measure/{model}/{shard}.parquet"
    measured = folder.table(out, VOLUMES) if wanted("measure", out) else None
    if measured is not None and segmented is not None:
        _same_scans(folder, out, pc.unique(measured["scan_id"]), label_maps, "segment")
        folder.made_of(out, path_of_record(out), segment=path)
    if segmented is not None:
        _check_label_names(folder, f"segment/{model}/{shard}", measured)

    pictures = f"measure/{model}/previews/{shard}.parquet"
    drawn = folder.table(pictures, PREVIEWS) if wanted("previews", pictures) else None
    if drawn is not None and measured is not None:
        sound = measured.filter(pc.not_equal(measured["status"], "failed"))
        _same_scans(folder, pictures, drawn["scan_id"], pc.unique(sound["scan_id"]), "measure")

    compared = f"agreement/{model}/{shard}.parquet"
    if wanted("agreement", compared):
        folder.table(compared, AGREEMENT)


def _kept(folder: Folder, model: str, shard: str) -> dict[str, str]:
    """Digest of the label map of each scan for which its rows stand in, if it was not kept."""
    path = f"measure/{model}/kept/{shard}.parquet"
    table = folder.table(path, KEPT) if (folder.results / path).exists() else None
    pictures = f"measure/{model}/kept/previews/{shard}.parquet"
    drawn = table is not None and pc.any(table["has_picture"]).as_py()
    if drawn or (folder.results / pictures).exists():
        folder.table(pictures, PREVIEWS)
    if table is None:
        return {}
    columns = [table[name].to_pylist() for name in ("scan_id", "label_map_sha256")]
    return dict(zip(*columns, strict=True))


def _check_receipts(
    folder: Folder, place: str, rows: Mapping[str, Row] | None, kept: Mapping[str, str]
) -> None:
    """Every receipt of a shard's folder, and every label map against its receipt.

    Receipts of scans that left stay, for they may come back. Their label maps need not be there:
    where label maps are not kept, those went, and the rows that stood in for them may have gone
    since.
    """
    _, model, shard = place.split("/")
    stand_in = f"measure/{model}/kept/{shard}.parquet"
    there = set(of_scans.receipts(folder.results / place))
    here = rows or {}
    for scan_id in sorted(there | set(here)):
        path = f"{place}/{scan_id}{of_scans.RECEIPT}"
        receipt = folder.json(path)
        if receipt is None:
            continue
        if not receipt_is_whole(receipt) or receipt.get("scan_id") != scan_id:
            folder.report(path, "damaged", "is not as it was written")
            continue
        if scan_id in here and (named := _differences(here[scan_id], receipt, place)):
            what = f"is not what the receipt of {scan_id} says: {', '.join(named)}"
            folder.report(f"{place}.parquet", "contradicts", what)
        if receipt["state"] == "segmented":
            label_map = f"{place}/{scan_id}{of_scans.LABEL_MAP}"
            sha256 = receipt["label_map_sha256"]
            is_there = of_scans.exists(folder.results / label_map)
            if not is_there and rows is not None and scan_id not in here:
                continue
            if not is_there and not kept and (folder.results / stand_in).parent.is_dir():
                folder.report(stand_in, "missing", "is not there, nor are label maps of its scans")
            elif is_there or kept.get(scan_id) != sha256:
                folder.bytes_of(label_map, receipt["label_map_bytes"], sha256)


def _differences(row: Row, receipt: Row, place: str) -> list[str]:
    """Columns in which a row of SEGMENT is not what segment writes of the receipt."""
    said = {name: receipt.get(name) for name in SEGMENT}
    said["cohortvol_version"] = receipt["versions"]["cohortvol"]
    said["precision"] = (receipt.get("numerics") or {}).get("precision")
    if said["label_map"] is not None:
        said["label_map"] = f"{place}/{said['label_map']}"
    return [name for name in SEGMENT if row[name] != said[name]]


def _check_label_names(folder: Folder, place: str, measured: pa.Table | None) -> None:
    """The names of the labels against the table of volumes, which holds all of them."""
    path = f"{place}/dseg.tsv"
    if not folder.is_there(path):
        return
    try:
        lines = (folder.results / path).read_bytes().decode().split("\n")
        header, *rows = [line.split("\t") for line in lines[:-1]]
        names = {int(row[0]): row[1] for row in rows}
        layers = [int(row[2]) for row in rows] if header == ["index", "name", "layer"] else []
        sound = (
            lines[-1] == ""
            and header in (["index", "name"], ["index", "name", "layer"])
            and all(len(row) == len(header) and row[0] == str(int(row[0])) for row in rows)
            and [*names] == sorted(names)
            and set(layers) == set(range(len(set(layers))))
        )
    except (ValueError, IndexError):
        sound, names = False, {}
    if sound and measured is not None and measured.num_rows:
        labels = zip(measured["label"].to_pylist(), measured["structure"].to_pylist(), strict=True)
        sound = names == {label: name for label, name in labels if label is not None}
    if not sound:
        folder.report(path, "damaged", "does not name the labels that were measured")


def _same_scans(
    folder: Folder, path: str, found: Iterable[Any], wanted: Iterable[Any], stage: str
) -> bool:
    """Whether a table holds the scans that the stage before it has; reports it if not."""
    has, needs = ({str(scan_id) for scan_id in scans} for scans in (found, wanted))
    if has == needs:
        return True
    lacks, more = len(needs - has), len(has - needs)
    what = f"lacks {lacks} and has {more} other scans than {stage}"
    folder.report(path, "out of date", what)
    return False
