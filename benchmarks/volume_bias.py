"""Two rules for one label map: what upstream's statistics and cohortvol's `measure` say of it.

    python benchmarks/volume_bias.py

An ellipsoid of the size of a liver is drawn on grids of common protocols; both tools are given the
same perfect label map, so that every difference is the rule's. Upstream's rules (TotalSegmentator
2.18, nnunet.py and statistics.py): with `--fast` voxels are counted on a grid of nominally 3 mm
that `scipy.ndimage.zoom` made, and a structure within 3 voxels of the edge has volume 0. The table
in docs/volume-bias.md comes from here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from cohortvol.stages.measure.volumes import structure_volumes

PROTOCOLS = (  # slices, slice distance and in-plane spacing in mm
    (30, 6.0, 1.5),
    (26, 7.2, 1.5),
    (44, 4.4, 1.25),
    (36, 5.0, 1.25),
    (88, 2.5, 1.25),
)
RADII_MM = (85.0, 70.0, 62.0)
BORDER_VOXELS = 3
FAST_MM = 3.0


def ellipsoid(spacing_mm: np.ndarray, n_slices: int, lift_mm: float = 0.0) -> np.ndarray:
    """Mask in a field of view of 400 x 300 mm in plane, `lift_mm` above the middle."""
    shape = (round(400 / spacing_mm[0]), round(300 / spacing_mm[1]), n_slices)
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, spacing_mm, strict=True)]
    axes[2] = axes[2] - lift_mm
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    a, b, c = RADII_MM
    return np.asarray((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1)


def upstream_ml(mask: np.ndarray, spacing_mm: np.ndarray, fast: bool) -> float:
    """Volume as ``--statistics`` gives it."""
    if fast:
        zoomed = ndimage.zoom(mask.astype(float), spacing_mm / FAST_MM, order=1, mode="nearest")
        mask, spacing_mm = zoomed >= 0.5, np.full(3, FAST_MM)
    inside = mask[(slice(BORDER_VOXELS, -BORDER_VOXELS),) * 3]
    if inside.sum() < mask.sum():
        return 0.0
    return float(mask.sum() * np.prod(spacing_mm) / 1000)


def measured(mask: np.ndarray, spacing_mm: np.ndarray) -> pd.Series:
    """The row cohortvol has for it."""
    affine = np.diag([*spacing_mm, 1.0])
    return structure_volumes(mask.astype(np.uint8), affine, {1: "liver"}).iloc[0]


def main() -> None:
    """Print both tables."""
    true_ml = 4 / 3 * np.pi * np.prod(RADII_MM) / 1000
    rows = []
    for n_slices, thickness_mm, inplane_mm in PROTOCOLS:
        spacing_mm = np.array([inplane_mm, inplane_mm, thickness_mm])
        for place, lift_mm in (("whole", 0.0), ("cut", n_slices * thickness_mm / 2 - 45)):
            mask = ellipsoid(spacing_mm, n_slices, lift_mm)
            ours = measured(mask, spacing_mm)
            rows.append(
                {
                    "protocol": f"{n_slices} x {thickness_mm} mm",
                    "organ": place,
                    "drawn_ml": true_ml,
                    "upstream_ml": upstream_ml(mask, spacing_mm, fast=False),
                    "upstream_fast_ml": upstream_ml(mask, spacing_mm, fast=True),
                    "cohortvol_ml": ours["volume_ml"],
                    "cut_by_fov": bool(ours["cut_by_fov"]),
                    "cut_area_mm2": ours["cut_area_mm2"],
                }
            )
    table = pd.DataFrame(rows)
    table["fast_bias_pct"] = 100 * (table["upstream_fast_ml"] / table["cohortvol_ml"] - 1)
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
