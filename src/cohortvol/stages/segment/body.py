"""Where in a scan the body is."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

MARGIN_MM = 20.0
COARSE_MM = 5.0

Box = tuple[slice, slice, slice]


def body_box(data: np.ndarray, spacing_mm: np.ndarray) -> Box:
    """Bounding box of the body with a margin of `MARGIN_MM`; the whole scan if none is found.

    Parameters
    ----------
    data : (i, j, k) array
        Grey values; air is dark.
    spacing_mm : (3,) array
        Voxel edges.

    Notes
    -----
    On voxels of about `COARSE_MM`: half of Otsu's threshold, so that shaded muscle belongs to the
    body; the largest piece of what exceeds it; its box. Dark organs inside do not matter to a box.
    """
    steps = [max(1, round(COARSE_MM / edge)) for edge in spacing_mm]
    coarse = ndimage.uniform_filter(np.asarray(data, dtype=np.float32), steps)[
        tuple(slice(step // 2, None, step) for step in steps)
    ]
    low = float(np.percentile(coarse, 0.5))
    threshold = low + (_otsu(coarse) - low) / 2
    pieces, n_pieces = ndimage.label(coarse > threshold)
    if n_pieces == 0:
        return slice(None), slice(None), slice(None)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    box = ndimage.find_objects(pieces)[largest - 1]
    i, j, k = (
        slice(
            max(0, int(ends.start * step - MARGIN_MM / edge)),
            min(n, int(np.ceil(ends.stop * step + MARGIN_MM / edge))),
        )
        for ends, step, edge, n in zip(box, steps, spacing_mm, data.shape, strict=True)
    )
    return i, j, k


def _otsu(image: np.ndarray) -> float:
    return float(threshold_otsu(image))  # type: ignore[no-untyped-call]
