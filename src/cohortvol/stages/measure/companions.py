"""Values of companions in the structures of a scan; a reason where there are none."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.structures import pairs
from cohortvol.errors import ScanError, log_unforeseen
from cohortvol.models.channels import dixon_part
from cohortvol.stages.measure.dixon import PARTS, SWAP_RATIO, WATERY, is_swapped
from cohortvol.stages.measure.reading import Scan, check_unchanged, voxels_of
from cohortvol.store.companions import as_json, from_json
from cohortvol.store.storage import is_fault

log = logging.getLogger(__name__)

MOSTLY_FAT = 50.0
"""Percent of fat beyond which organs of water are taken for fat: all of them are exchanged."""

Facts = Mapping[str, Any]


def with_companions(
    rows: pd.DataFrame,
    scan: Scan,
    layers: Sequence[Mapping[int, str]],
    cell: object,
    swap_ratio: float = SWAP_RATIO,
) -> pd.DataFrame:
    """Volumes with the column ``companions`` of the table VOLUMES.

    Parameters
    ----------
    rows : pandas.DataFrame
        What `measure_scan` returned.
    scan, layers, swap_ratio
        As of `measure_scan`.
    cell : str or None
        ``companions`` of the table INGEST; without one there is no such column.
    """
    known = from_json(cell)
    if not known:
        return rows
    labels = {name: label for layer in layers for label, name in layer.items()}
    sides = {name: [labels.get(one) for one in both] for name, both in pairs().items()}
    values = {
        name: _in_labels(name, facts, scan, layers, swap_ratio) for name, facts in known.items()
    }
    cells = []
    for row in rows.to_dict("records"):
        own = [row["label"]] if pd.notna(row["label"]) else sides[row["structure"]]
        told = {
            name: {"unit": known[name]["unit"]} | _of_structure(row, own, found)
            for name, found in values.items()
        }
        cells.append(as_json(told))
    return rows.assign(companions=cells)


def _of_structure(
    row: Mapping[str, Any], labels: Sequence[int | None], found: Mapping[int, np.ndarray] | str
) -> dict[str, Any]:
    """Values in one structure, or in both of a pair; else the reason."""
    if isinstance(found, str):
        return {"reason": found}
    if pd.isna(row["n_voxels"]):
        return {"reason": row["reason"]}
    values = np.concatenate([found[label] for label in labels if label is not None])
    return {
        "n_voxels": int(values.size),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "sd": float(values.std()),
    }


def _in_labels(
    name: str,
    facts: Facts,
    scan: Scan,
    layers: Sequence[Mapping[int, str]],
    swap_ratio: float,
) -> dict[int, np.ndarray] | str:
    """Values of a companion by label, in its unit, as float64; or the reason why there are none."""
    if "reason" in facts:
        return str(facts["reason"])
    try:
        path = Path(facts["image"])
        check_unchanged(path, facts["image_sha256"], "SRC_CHANGED")
        image = voxels_of(nib.load(path))
        found: dict[int, np.ndarray] = {}
        for n in range(len(layers)):
            found |= _by_label(scan.label_map[..., n], image, facts["factor"])
        _check_not_swapped(name, image, found, scan, layers, swap_ratio)
    except ScanError as error:
        return error.reason
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_fault(error):
            raise
        log_unforeseen(log, name, error)
        return "BUG_UNEXPECTED"
    return found


def _by_label(label_map: np.ndarray, image: np.ndarray, factor: float) -> dict[int, np.ndarray]:
    """Values of an image, times a factor, in every label but 0, in one walk through it."""
    inside = label_map > 0
    labels, values = label_map[inside], image[inside].astype(float) * factor
    order = np.argsort(labels, kind="stable")
    known, starts = np.unique(labels[order], return_index=True)
    return dict(zip(known.tolist(), np.split(values[order], starts[1:]), strict=False))


def _check_not_swapped(
    name: str,
    image: np.ndarray,
    found: Mapping[int, np.ndarray],
    scan: Scan,
    layers: Sequence[Mapping[int, str]],
    swap_ratio: float,
) -> None:
    """Raise ``IMG_COMPANION_SWAPPED`` where fat and water are exchanged in it."""
    part = dixon_part(name)
    if part in PARTS:
        labelled = [(scan.label_map[..., n], layer) for n, layer in enumerate(layers)]
        swapped = is_swapped(image, labelled, part, swap_ratio)
    else:
        names = {label: structure for layer in layers for label, structure in layer.items()}
        organs = [values for label, values in found.items() if names[label] in WATERY]
        is_fat = [float(np.median(values)) > MOSTLY_FAT for values in organs]
        swapped = part == "fat_fraction" and bool(organs) and all(is_fat)
    if swapped:
        raise ScanError("IMG_COMPANION_SWAPPED", name)
