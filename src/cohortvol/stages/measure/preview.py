"""One small picture of a scan: three planes with the outlines of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import spacing_mm, to_axes
from cohortvol.stages.measure.png import encode

ROW_WIDTH, ROW_HEIGHT = 540, 200
"""Most pixels of a row of three planes, without its letters."""

MIN_PIXEL_MM = 1.0
"""Smallest pixel: a small structure is shown small, not blown up."""

REACH_MM = 220.0
"""Longest way above and below the middle: the abdomen is shown and no face."""

HEAD = frozenset({"brain", "face", "skull"})
"""Structures that no plane is laid through, whatever is wrong with them."""

MARGIN_MM = 30.0
"""What is shown around the structure of the second row."""

BAR_MM = 50.0
"""Length of the bar above each axial plane."""

WINDOW_PERCENTILES = (1.0, 99.0)
"""Grey values of the three planes that become black and the lightest grey."""

MAX_BYTES = 40_000
GREYS = 32
LIGHTEST = 215  # outlines stand out from the brightest fat

COLOURS = {
    "liver": "#CC79A7",
    "kidney_right": "#56B4E9",
    "kidney_left": "#E69F00",
    "spleen": "#009E73",
    "pancreas": "#D55E00",
    "gallbladder": "#0072B2",
}
"""Outlines that can be told apart under every common colour vision deficiency (Okabe and Ito,
https://jfly.uni-koeln.de/color/). What a model has beside them takes the colours left over, in
the order of its labels, and then `OTHER_COLOUR`."""

OTHER_COLOUR = "#FFFFFF"
SHOWN_COLOUR = "#F0E442"
"""The one outline of the second row."""

_PALETTE = (*COLOURS.values(), OTHER_COLOUR, SHOWN_COLOUR)  # behind the greys
_GAP, _HEAD = 8, 11
_AXES = "LPI"  # of the arrays here: columns to the left or back, rows to the back or the feet
_LETTERS = {
    "L": ("#   ", "#   ", "#   ", "#   ", "#   ", "#   ", "####"),
    "R": ("### ", "#  #", "#  #", "### ", "# # ", "#  #", "#  #"),
    "A": (" ## ", "#  #", "#  #", "####", "#  #", "#  #", "#  #"),
    "P": ("### ", "#  #", "#  #", "### ", "#   ", "#   ", "#   "),
}
_PLANES = ((2, "RL"), (1, "RL"), (0, "AP"))
"""Axial, coronal, sagittal: the array axis a plane stands on, letters of its left and right."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Preview:
    """A picture, and what must be known to read it.

    Attributes
    ----------
    png : bytes
        First row: the axial, coronal and sagittal plane that cut all structures at their
        fullest. Second row: those that cut one structure at its fullest, closer. Radiological
        convention: the right of the person is on the left.
    outlines : dict of str to str
        Colour, ``#rrggbb``, of each structure that was found.
    structure : str or None
        The structure of the second row, in `SHOWN_COLOUR`; None where there is one row.
    """

    png: bytes
    outlines: dict[str, str]
    structure: str | None

    @property
    def structure_colour(self) -> str | None:
        """Colour of the outline in the second row."""
        return SHOWN_COLOUR if self.structure else None


@dataclass(frozen=True)
class _Scan:
    """Image and label map in the order of `_AXES`."""

    grey: np.ndarray
    labels: np.ndarray
    edges_mm: np.ndarray
    window: np.ndarray = field(default_factory=lambda: np.zeros(2))


@dataclass(frozen=True)
class _Found:
    """One structure: its layer, label and box, and its area in the planes of each axis."""

    layer: int
    label: int
    box: Box
    areas: tuple[np.ndarray, ...]


def draw_preview(
    label_map: np.ndarray,
    image: np.ndarray,
    affine: np.ndarray,
    layers: Sequence[Mapping[int, str]],
    judged: pd.DataFrame,
) -> Preview:
    """Three planes of a scan where its structures are, and three through the one to look at.

    Planes are those of the grid that are nearest to axial, coronal and sagittal, in their true
    proportions. Nothing depends on the order in which the voxels are stored.

    Parameters
    ----------
    label_map : (I, J, K, n_layers) integer array
        Label indices; 0 is background.
    image : (I, J, K) array
        The scan on the same grid.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.
    layers : sequence of mapping of int to str
        Label index to structure name for each layer.
    judged : pandas.DataFrame
        What `judge` returned for them.
    """
    labels, moved = to_axes(label_map, affine, _AXES)
    scan = _Scan(to_axes(image, affine, _AXES)[0], labels, spacing_mm(moved))
    found = _find(labels, layers, judged, np.linalg.inv(moved) @ affine)
    colours = _colours([name for layer in layers for name in layer.values()])
    below = [one for name, one in found.items() if name not in HEAD]
    place = _fullest(below, scan.grey.shape)
    whole = _abdomen(scan, place)
    planes = [_plane(scan.grey, whole, place, axis).ravel() for axis, _ in _PLANES]
    scan = replace(scan, window=np.percentile(np.concatenate(planes), WINDOW_PERCENTILES))
    of_label = [
        {label: GREYS + _PALETTE.index(colours[name]) for label, name in layer.items()}
        for layer in layers
    ]
    rows = [_row(scan, whole, place, of_label)]
    structure = worst_structure(judged)
    shown = found.get(structure or "")
    place = _fullest([shown], scan.grey.shape) if shown else place
    if shown and whole[2].start <= place[2] < whole[2].stop:
        only: list[dict[int, int]] = [{} for _ in layers]
        only[shown.layer] = {shown.label: GREYS + _PALETTE.index(SHOWN_COLOUR)}
        rows += [_black(_GAP), _row(scan, _around(shown.box, whole, scan.edges_mm), place, only)]
    return Preview(
        png=_small(np.vstack(rows)),
        outlines={name: colours[name] for name in found},
        structure=structure if len(rows) > 1 else None,
    )


def worst_structure(judged: pd.DataFrame) -> str | None:
    """The structure to look at: found, and excluded rather than flagged, with the most codes.

    Parameters
    ----------
    judged : pandas.DataFrame
        What `judge` returned for one scan; of equals the first is taken, and none of `HEAD`.

    Returns
    -------
    str or None
        None where every structure that was found has passed.
    """
    doubtful = judged[judged["n_voxels"].notna() & judged["label"].notna()]
    doubtful = doubtful[(doubtful["qc"] != "pass") & ~doubtful["structure"].isin(HEAD)]
    if doubtful.empty:
        return None
    n_codes = doubtful["qc_flags"].str.count(";")
    excluded = doubtful["qc"] == "exclude"
    order = pd.DataFrame({"excluded": excluded, "n": n_codes})
    worst = order.sort_values(["excluded", "n"], ascending=False, kind="stable").index[0]
    return str(doubtful.loc[worst, "structure"])


def _find(
    labels: np.ndarray,
    layers: Sequence[Mapping[int, str]],
    judged: pd.DataFrame,
    to_moved: np.ndarray,
) -> dict[str, _Found]:
    """The structures that were found, in the order of their layers."""
    present = judged[judged["n_voxels"].notna() & judged["label"].notna()]
    boxes = dict(zip(present["structure"], present["bbox"], strict=True))
    found = {}
    for layer, structures in enumerate(layers):
        for label, name in structures.items():
            if name in boxes:
                box = _moved_box(boxes[name], to_moved)
                areas = _areas(labels[..., layer], label, box)
                found[name] = _Found(layer, label, box, areas)
    return found


def _moved_box(bbox: Sequence[int], to_moved: np.ndarray) -> Box:
    """A box of the table, first and last index on each axis, in arrays with other axes."""
    corners = np.reshape(bbox, (3, 2))
    moved = np.sort((to_moved[:3, :3] @ corners + to_moved[:3, 3:]).round().astype(int), axis=1)
    first, second, third = (slice(low, high + 1) for low, high in moved)
    return first, second, third


def _areas(volume: np.ndarray, label: int, box: Box) -> tuple[np.ndarray, ...]:
    """Voxels of a label in each plane of the grid, for the three axes."""
    mask = volume[box] == label
    from_above = mask.sum(axis=2)
    within = (from_above.sum(axis=1), from_above.sum(axis=0), mask.sum(axis=(0, 1)))
    areas = tuple(np.zeros(n) for n in volume.shape)
    for area, extent, part in zip(areas, box, within, strict=True):
        area[extent] = part
    return areas


def _fullest(found: Sequence[_Found], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where structures are cut at their fullest: the largest sum of relative areas, by axis.

    Each area is taken as a part of the structure's own largest, so that a liver does not outweigh
    two kidneys. Of equal planes the middle one; without structures the middle of the grid.
    """
    if not found:
        return tuple(n // 2 for n in shape)
    places = []
    for axis in range(3):
        total = np.sum([one.areas[axis] / one.areas[axis].max() for one in found], axis=0)
        best = np.flatnonzero(total > total.max() - 1e-9)
        places.append(int(best[len(best) // 2]))
    return tuple(places)


def _abdomen(scan: _Scan, place: Sequence[int]) -> Box:
    """All of the scan, but for what lies beyond `REACH_MM` above and below."""
    n_left, n_back, n_down = scan.grey.shape
    reach = int(REACH_MM / scan.edges_mm[2])
    up, down = max(0, place[2] - reach), min(n_down, place[2] + reach + 1)
    return slice(0, n_left), slice(0, n_back), slice(up, down)


def _around(box: Box, whole: Box, edges_mm: np.ndarray) -> Box:
    """A box with a margin, as far as `whole` reaches."""
    margins = np.round(MARGIN_MM / edges_mm).astype(int)
    first, second, third = (
        slice(max(limit.start, part.start - margin), min(limit.stop, part.stop + margin))
        for part, limit, margin in zip(box, whole, margins, strict=True)
    )
    return first, second, third


def _plane(volume: np.ndarray, box: Box, place: Sequence[int], axis: int) -> np.ndarray:
    """One plane as it is looked at: rows and columns of `_AXES`, contiguous in memory."""
    index: list[Any] = list(box)
    index[axis] = place[axis]
    return np.ascontiguousarray(volume[tuple(index)].T)


def _row(
    scan: _Scan, box: Box, place: Sequence[int], of_label: Sequence[Mapping[int, int]]
) -> np.ndarray:
    """Axial, coronal and sagittal plane side by side at one scale, as places in the palette."""
    lengths_mm = np.array([part.stop - part.start for part in box]) * scan.edges_mm
    width_mm = 2 * lengths_mm[0] + lengths_mm[1]
    pixel_mm = max(
        MIN_PIXEL_MM,
        width_mm / (ROW_WIDTH - 2 * _GAP - 3),  # each plane may be rounded up
        lengths_mm[1:].max() / ROW_HEIGHT,
    )
    lengths = np.maximum(1, np.round(lengths_mm / pixel_mm).astype(int))
    planes = []
    for axis, letters in _PLANES:
        column_axis, row_axis = (other for other in range(3) if other != axis)
        shape = (lengths[row_axis], lengths[column_axis])
        drawn = _as_grey(_resized(_plane(scan.grey, box, place, axis), shape), scan.window)
        for layer, colours in enumerate(of_label):
            labels = _plane(scan.labels[..., layer], box, place, axis)
            _outline(drawn, _nearest(labels, shape), colours)
        planes.append(np.vstack([_head(letters, drawn.shape[1]), drawn]))
    _bar(planes[0], round(BAR_MM / pixel_mm))
    row = _black(max(plane.shape[0] for plane in planes))
    left = 0
    for plane in planes:
        row[: plane.shape[0], left : left + plane.shape[1]] = plane
        left += plane.shape[1] + _GAP
    return row


def _black(rows: int) -> np.ndarray:
    return np.zeros((rows, ROW_WIDTH), dtype=np.uint8)


def _as_grey(plane: np.ndarray, window: np.ndarray) -> np.ndarray:
    low, high = window
    scaled = np.clip((plane - low) / ((high - low) or 1.0), 0, 1)
    return np.asarray((scaled * (GREYS - 1)).round().astype(np.uint8))


def _resized(plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A plane on other pixels: linear between its own, mean of them where they are smaller."""
    rows, columns = (_weights(n, to) for n, to in zip(plane.shape, shape, strict=True))
    return np.asarray(rows @ plane.astype(np.float64) @ columns.T)


def _weights(n: int, to: int) -> np.ndarray:
    """(to, n) weights of `n` old pixels in `to` new ones: a triangle, wider where it must be."""
    scale = n / to
    centres = (np.arange(to) + 0.5) * scale - 0.5
    away = np.abs(np.arange(n) - np.clip(centres, 0, n - 1)[:, None])
    weights = np.clip(1 - away / max(scale, 1.0), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _nearest(plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = (
        ((np.arange(to) + 0.5) * n / to).astype(int)
        for n, to in zip(plane.shape, shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def _outline(drawn: np.ndarray, labels: np.ndarray, colours: Mapping[int, int]) -> None:
    """Colour the outermost pixels of each structure; the edge of the image bounds it too."""
    wanted = np.where(np.isin(labels, list(colours)), labels, 0)
    padded = np.pad(wanted, 1)
    inner = padded[1:-1, 1:-1]
    bounds = np.zeros(inner.shape, dtype=bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        bounds |= inner != other
    for label, colour in colours.items():
        drawn[bounds & (inner == label)] = colour


def _head(letters: str, width: int) -> np.ndarray:
    """A strip above a plane with the letters of its left and its right end."""
    strip = np.zeros((_HEAD, width), dtype=np.uint8)
    for letter, start in zip(letters, (0, max(0, width - 4)), strict=True):
        strokes = np.array([list(line) for line in _LETTERS[letter]]) == "#"
        strip[2:9, start : start + 4] = (GREYS - 1) * strokes[:, :width]
    return strip


def _bar(plane: np.ndarray, length: int) -> None:
    """A bar of this many pixels in the head of a plane, where it fits between the letters."""
    start = (plane.shape[1] - length) // 2
    if start > 6:
        plane[5:7, start : start + length] = GREYS - 1


def _small(pixels: np.ndarray) -> bytes:
    """PNG of at most `MAX_BYTES`, in as many greys as fit."""
    greys = np.linspace(0, LIGHTEST, GREYS).round()[:, None].repeat(3, axis=1)
    colours = [list(bytes.fromhex(colour[1:])) for colour in _PALETTE]
    palette = np.vstack([greys, colours])
    step = 1
    while len(png := encode(pixels, palette)) > MAX_BYTES and step < GREYS:
        step *= 2
        pixels = np.where(pixels < GREYS, pixels // step * step, pixels).astype(np.uint8)
    return png


def _colours(structures: Sequence[str]) -> dict[str, str]:
    taken = {name: colour for name, colour in COLOURS.items() if name in structures}
    left_over = iter([colour for name, colour in COLOURS.items() if name not in structures])
    return {name: taken.get(name) or next(left_over, OTHER_COLOUR) for name in structures}
