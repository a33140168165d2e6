"""One pair of label maps: overlap, distance of surfaces and error of volume of each structure."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from cohortvol.anatomy.geometry import (
    check_same_grid,
    orientation,
    spacing_mm,
    to_axes,
    voxel_volume_ml,
)
from cohortvol.anatomy.overlap import layers_of, overlap_by_structure
from cohortvol.anatomy.structures import pairs
from cohortvol.errors import GeometryError, ScanError
from cohortvol.tools.evaluate.labels import LabelMap
from cohortvol.tools.evaluate.surface import border_distances, element_distances

PAPER, STRICT = "paper", "strict"
RULES = (PAPER, STRICT)
"""What a structure is worth that the expert did not draw and the model found: nothing is compared
(as TotalSegmentator's evaluation and its MRI study do), or an overlap of 0."""

EXPERT_ABSENT, MISSED, EXPERT_SIDES = "EVAL_EXPERT_ABSENT", "EVAL_MISSED", "EVAL_EXPERT_SIDES"
MODEL_SIDES = "EVAL_MODEL_SIDES"

Box = tuple[slice, ...]


def measure_pair(
    expert: LabelMap, model: LabelMap, *, tolerance_mm: float, rule: str = PAPER
) -> list[dict[str, Any]]:
    """Rows of `PAIRS`, without model and subject, for what both vocabularies name.

    Both are brought to one order of the axes and must then be one grid. Nothing is resampled.
    Of a structure that

    - neither holds, or that the expert did not draw, nothing is compared (see `RULES`);
    - the model missed, Dice and normalised surface Dice are 0, its volume is wrong by -100 %, and
      distances are null, as there is nothing to measure from.

    A left organ that lies right of its partner is the expert's error or the model's. The expert's
    makes both sides incomparable; the model's is its own, and is counted and flagged.

    Raises
    ------
    ScanError
        ``EVAL_OTHER_GRID`` if the two are on different grids.
    """
    model = _on_axes_of(expert, model)
    try:
        check_same_grid(expert.grid, model.grid, ("expert", "model"))
    except GeometryError as error:
        raise ScanError("EVAL_OTHER_GRID", " ".join(str(error).split())) from error
    overlaps = overlap_by_structure(expert.voxels, expert.labels, model.voxels, model.labels)
    boxes = [_boxes(one) for one in (expert, model)]
    swapped_by_expert, swapped_by_model = (
        _on_wrong_sides(one, box) for one, box in zip((expert, model), boxes, strict=True)
    )
    voxel_ml = voxel_volume_ml(expert.affine)
    rows = []
    for structure, overlap in overlaps.items():
        row: dict[str, Any] = {
            "structure": structure,
            "expert_n_voxels": overlap.n_first or None,
            "model_n_voxels": overlap.n_second or None,
            "expert_ml": overlap.n_first * voxel_ml if overlap.n_first else None,
            "model_ml": overlap.n_second * voxel_ml if overlap.n_second else None,
            "warning": MODEL_SIDES if structure in swapped_by_model else None,
        }
        rows.append(row)
        if not overlap.n_first:
            row["reason"] = EXPERT_ABSENT
            if rule == STRICT and overlap.n_second:
                row |= {"dice": 0.0, "nsd": 0.0}
            continue
        if structure in swapped_by_expert:
            row["reason"] = EXPERT_SIDES
            continue
        row |= {"dice": overlap.dice, **_volume_errors(overlap.n_first, overlap.n_second, voxel_ml)}
        if not overlap.n_second:
            row |= {"nsd": 0.0, "reason": MISSED}
            continue
        row |= _surfaces(expert, model, structure, boxes, tolerance_mm)
    return rows


def _on_axes_of(expert: LabelMap, model: LabelMap) -> LabelMap:
    """The model's label map with its axes in the order of the expert's; no voxel moves in space."""
    axes = orientation(expert.affine)
    if orientation(model.affine) == axes:
        return model
    voxels, affine = to_axes(model.voxels, model.affine, axes)
    return LabelMap(voxels, affine, model.labels)


def _volume_errors(n_expert: int, n_model: int, voxel_ml: float) -> dict[str, float]:
    error_ml = (n_model - n_expert) * voxel_ml
    error_pct = 100.0 * (n_model - n_expert) / n_expert
    return {
        "volume_error_ml": error_ml,
        "volume_error_pct": error_pct,
        "absolute_volume_error_ml": abs(error_ml),
        "absolute_volume_error_pct": abs(error_pct),
    }


def _boxes(label_map: LabelMap) -> dict[str, tuple[int, Box]]:
    """Layer and bounding box of every structure that a label map holds."""
    names = {label: structure for structure, label in label_map.labels.items()}
    found = {}
    for number, layer in enumerate(layers_of(label_map.voxels)):
        for label, box in enumerate(ndimage.find_objects(layer), start=1):
            if box is not None and label in names:
                found[names[label]] = (number, box)
    return found


def _mask(label_map: LabelMap, structure: str, layer: int, box: Box) -> np.ndarray:
    voxels = label_map.voxels if label_map.voxels.ndim == 3 else label_map.voxels[..., layer]
    return np.asarray(np.equal(voxels[box], label_map.labels[structure], order="C"))


def _surfaces(
    expert: LabelMap,
    model: LabelMap,
    structure: str,
    boxes: list[dict[str, tuple[int, Box]]],
    tolerance_mm: float,
) -> dict[str, float | None]:
    places = [boxes[which][structure] for which in (0, 1)]
    shape = expert.voxels.shape[:3]
    # One voxel more on each side, so that the edge of the box is the edge of the image only where
    # it is.
    box = tuple(
        slice(max(0, min(one.start, other.start) - 1), min(n, max(one.stop, other.stop) + 1))
        for one, other, n in zip(places[0][1], places[1][1], shape, strict=True)
    )
    masks = [
        _mask(one, structure, place[0], box)
        for one, place in zip((expert, model), places, strict=True)
    ]
    edges_mm = spacing_mm(expert.affine)
    elements = element_distances(masks[0], masks[1], edges_mm)
    within = [one.share_within(tolerance_mm) for one in elements]
    borders = border_distances(masks[0], masks[1], edges_mm)
    apart_mm = np.concatenate([one.mm for one in borders])
    has_borders = all(len(one.mm) for one in borders)
    return {
        "nsd": sum(part for part, _ in within) / sum(whole for _, whole in within),
        "hd95_mm": max(one.percentile(95) for one in elements),
        "assd_mm": float(apart_mm.mean()) if has_borders else None,
        "mssd_mm": float(apart_mm.max()) if has_borders else None,
    }


def _on_wrong_sides(label_map: LabelMap, boxes: dict[str, tuple[int, Box]]) -> set[str]:
    """Structures of pairs whose left one's centre lies right of the right one's."""
    wrong: set[str] = set()
    for left, right in pairs().values():
        if left in boxes and right in boxes:
            x_mm = [_centre_x_mm(label_map, side, *boxes[side]) for side in (left, right)]
            if x_mm[0] > x_mm[1]:  # x grows to the right of the person
                wrong |= {left, right}
    return wrong


def _centre_x_mm(label_map: LabelMap, structure: str, layer: int, box: Box) -> float:
    mask = _mask(label_map, structure, layer, box)
    corner = [part.start for part in box]
    x_mm = label_map.affine[0, 3]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = mask.sum(axis=others)
        centre = corner[axis] + np.average(np.arange(len(counts)), weights=counts)
        x_mm += label_map.affine[0, axis] * centre
    return float(x_mm)
