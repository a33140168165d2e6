"""One label map: how much of each structure there is, where it lies, what shape it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from cohortvol.anatomy.geometry import FACES, orientation, voxel_volume_ml
from cohortvol.errors import GeometryError, UnknownLabelError

MEASURED = (
    "structure",
    "label",
    "n_voxels",
    "volume_ml",
    "cut_by_fov",
    "cut_faces",
    "cut_area_mm2",
    "n_components",
    "largest_component_fraction",
    "centroid_ras_mm",
    "bbox",
    "mean_intensity",
    "sd_intensity",
)

FACE_ORDER = "LRPAIS"
"""Order in which faces are listed, whatever the order the voxels are stored in."""


def structure_volumes(
    label_map: np.ndarray,
    affine: np.ndarray,
    structures: Mapping[int, str],
    image: np.ndarray | None = None,
    gaps: Sequence[tuple[int, int]] = (),
) -> pd.DataFrame:
    """Volume, place and shape of every structure in one label map.

    A volume is a voxel count times the voxel volume |det(affine[:3, :3])|, which holds
    for rotated and flipped grids. It is measured on the grid given, without resampling.

    Parameters
    ----------
    label_map : (I, J, K) integer array
        One label index per voxel; 0 is background.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.
    structures : mapping of int to str
        Label index to structure name, without background, such as ``{5: "liver"}``.
    image : (I, J, K) array, optional
        The scan on the same grid, for intensities in its own units.
    gaps : sequence of (int, int)
        First and last index on the third axis of parts that the image does not show, as between
        stations; a structure that reaches one is cut there.

    Returns
    -------
    pandas.DataFrame
        One row per entry of `structures`, in its order: ``structure``; ``label``;
        ``n_voxels``, null where the structure was not found; ``volume_ml``, NaN there, never 0;
        ``cut_by_fov``, True where it reaches the first or last voxel layer of an array axis,
        or of the part of it that the image fills (`filled_part`), so that its volume is a lower
        bound; ``cut_faces``, those ends as letters of L R P A
        I S, each axis named by the anatomical axis nearest to it; ``cut_area_mm2``, the area
        in contact with them; ``n_components``, face-connected, and
        ``largest_component_fraction`` of the voxels; ``centroid_ras_mm``; ``bbox``, first and
        last index on each axis; ``mean_intensity`` and ``sd_intensity`` (population standard
        deviation), NaN without an image. All but the first two are null where not found.

    Raises
    ------
    GeometryError
        If `label_map` is not 3D, `affine` spans no volume, or `image` has another shape.
    UnknownLabelError
        If `label_map` holds an index missing from `structures`, or is no integer array.

    Notes
    -----
    Same rule as ``nibabel.imagestats.mask_volume``, with the determinant for the zooms.
    """
    if label_map.ndim != 3:
        raise GeometryError(f"a label map has 3 axes; this one has shape {label_map.shape}")
    if image is not None and image.shape != label_map.shape:
        raise GeometryError(
            f"the scan has shape {image.shape}, its label map has {label_map.shape}"
        )
    voxel_ml = voxel_volume_ml(affine)
    counts = _voxel_counts(label_map, structures)
    filled = (slice(None),) * 3 if image is None else filled_part(image)
    contact_mm2 = _contact_with_the_edge(label_map[filled], affine, len(counts))
    for first, last in gaps:
        for part, end in ((label_map[:, :, :first], -1), (label_map[:, :, last + 1 :], 0)):
            letter, area_mm2 = _contact_with_an_end(part, affine, len(counts), axis=2, end=end)
            contact_mm2[letter] = contact_mm2[letter] + area_mm2
    boxes = ndimage.find_objects(label_map, max_label=len(counts) - 1)
    rows = []
    for label, structure in structures.items():
        row: dict[str, Any] = {"structure": structure, "label": label}
        rows.append(row)
        if label >= len(counts) or counts[label] == 0:
            continue
        box = boxes[label - 1]
        mask = label_map[box] == label
        reached = [face for face in contact_mm2 if contact_mm2[face][label]]
        row |= {
            "n_voxels": int(counts[label]),
            "volume_ml": float(counts[label] * voxel_ml),
            "cut_by_fov": bool(reached),
            "cut_faces": "".join(reached),
            "cut_area_mm2": float(sum(area[label] for area in contact_mm2.values())),
            "bbox": [index for axis in box for index in (axis.start, axis.stop - 1)],
        }
        row |= _shape(mask, box, affine)
        if image is not None:
            row |= _intensity(image[box][mask])
    return typed(pd.DataFrame(rows, columns=list(MEASURED)))


def filled_part(image: np.ndarray) -> tuple[slice, slice, slice]:
    """The image without layers of one value at its ends, where they are padding.

    Anatomy that ends at padding was cut off there, as at the edge of an image. Where the grey
    values thin out towards the ends instead, as in a body whose background was set to zero, the
    constant layers are background and stay: padding has behind it a layer that is at least half
    as full as those of the middle.
    """
    i, j, k = (_filled_layers(np.moveaxis(image, axis, 0)) for axis in range(3))
    return i, j, k


def _filled_layers(layers: np.ndarray) -> slice:
    n_layers = len(layers)
    start = next((n for n in range(n_layers) if not _is_constant(layers[n])), n_layers)
    if start == n_layers:
        return slice(None)
    stop = next(n for n in range(n_layers, 0, -1) if not _is_constant(layers[n - 1]))
    middle = layers[(start + stop) // 2]

    def is_padding(outer: int, inner: int) -> bool:
        value = layers[outer].flat[0]
        full, usual = (np.count_nonzero(layer != value) for layer in (layers[inner], middle))
        return bool(2 * full >= usual)

    return slice(
        start if start > 0 and is_padding(start - 1, start) else 0,
        stop if stop < n_layers and is_padding(stop, stop - 1) else n_layers,
    )


def _is_constant(layer: np.ndarray) -> bool:
    return bool(layer.min() == layer.max())


def _voxel_counts(label_map: np.ndarray, structures: Mapping[int, str]) -> np.ndarray:
    if not np.issubdtype(label_map.dtype, np.integer):
        raise UnknownLabelError(f"a label map holds integers; this one holds {label_map.dtype}")
    if label_map.size and label_map.min() < 0:
        raise UnknownLabelError(f"label {label_map.min()} is negative")
    counts = np.bincount(label_map.ravel(), minlength=1)
    unknown = [int(label) for label in np.flatnonzero(counts) if label and label not in structures]
    if unknown:
        raise UnknownLabelError(
            f"labels {unknown} are not in the model's card, which names "
            f"{min(structures)} to {max(structures)}"
        )
    return counts


def _contact_with_the_edge(
    label_map: np.ndarray, affine: np.ndarray, n_labels: int
) -> dict[str, np.ndarray]:
    """Area in mm2 by label on each of the six faces of the grid, by the letter of the face."""
    areas = dict(
        _contact_with_an_end(label_map, affine, n_labels, axis=axis, end=end)
        for axis in range(3)
        for end in (0, -1)
    )
    return {letter: areas[letter] for letter in FACE_ORDER}


def _contact_with_an_end(
    label_map: np.ndarray, affine: np.ndarray, n_labels: int, *, axis: int, end: int
) -> tuple[str, np.ndarray]:
    """Letter of the face at the first (0) or last (-1) layer of an axis; area in mm2 by label."""
    columns = np.asarray(affine, dtype=float)[:3, :3].T
    high = orientation(affine)[axis]
    low = next(pair.replace(high, "") for pair in FACES if high in pair)
    face_mm2 = np.linalg.norm(np.cross(columns[axis - 2], columns[axis - 1]))
    layer = label_map.take(end, axis=axis)
    area_mm2 = np.bincount(layer.ravel(), minlength=n_labels) * face_mm2
    return high if end else low, area_mm2


def _shape(mask: np.ndarray, box: tuple[slice, ...], affine: np.ndarray) -> dict[str, Any]:
    affine = np.asarray(affine, dtype=float)
    components, n_components = ndimage.label(mask)
    n_voxels = int(mask.sum())
    largest = int(np.bincount(components.ravel())[1:].max())
    centre = []
    for axis, extent in enumerate(box):
        others = tuple(other for other in range(3) if other != axis)
        centre.append(mask.sum(axis=others) @ np.arange(extent.start, extent.stop) / n_voxels)
    return {
        "n_components": int(n_components),
        "largest_component_fraction": largest / n_voxels,
        "centroid_ras_mm": (affine[:3, :3] @ centre + affine[:3, 3]).tolist(),
    }


def _intensity(values: np.ndarray) -> dict[str, float]:
    return {
        "mean_intensity": float(values.mean(dtype=np.float64)),
        "sd_intensity": float(values.std(dtype=np.float64)),
    }


def typed(volumes: pd.DataFrame) -> pd.DataFrame:
    """Give measured columns the types that keep null apart from 0 and False."""
    kinds = {
        "label": "Int64",
        "n_voxels": "Int64",
        "n_components": "Int64",
        "cut_by_fov": "boolean",
        "volume_ml": "float64",
        "cut_area_mm2": "float64",
        "largest_component_fraction": "float64",
        "mean_intensity": "float64",
        "sd_intensity": "float64",
        "volume_expected_ml": "float64",
        "volume_low_ml": "float64",
        "volume_high_ml": "float64",
    }
    return volumes.astype({name: kind for name, kind in kinds.items() if name in volumes})
