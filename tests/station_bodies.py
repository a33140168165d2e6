"""Made-up trunks whose organs have known places, imaged in several table positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EDGES_MM = (7.0, 7.0, 4.0)
SHAPE = (46, 34)
LIVER, BOWEL = 900.0, 40
LIVER_MM = ((-70.0, 10.0, 0.0), (65.0, 60.0, 70.0))
"""Centre and half axes."""


@dataclass(frozen=True)
class Trunk:
    """A tapering ellipse of muscle in a coat of fat, a liver, a spine, and bowel at random."""

    seed: int
    height_mm: float = 500.0

    def image(
        self,
        slices_mm: np.ndarray,
        moved_mm: tuple[float, float, float] = (0, 0, 0),
        gain: float = 1.0,
        noise: float = 15.0,
        part: str = "water",
        draw: int = 0,
    ) -> np.ndarray:
        """Grey values (I, J, K) of axial slices at these heights, of a body that has moved."""
        rng = np.random.default_rng(self.seed)
        x, y = (
            (np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(SHAPE, EDGES_MM, strict=False)
        )
        x, y, z = np.meshgrid(x, y, slices_mm, indexing="ij")
        x, y, z = (one - by for one, by in zip((x, y, z), moved_mm, strict=True))
        width = 1 + 0.12 * np.sin(z / 80 + self.seed)
        across = (x / (130 * width)) ** 2 + (y / (95 * width)) ** 2
        muscle, fat = (450.0, 120.0) if part == "water" else (60.0, 1000.0)
        grey = np.where(across < 1, fat, 0.0)
        grey[across < 0.75] = muscle
        for _ in range(BOWEL):
            centre = rng.uniform((-80, -55, -self.height_mm / 2), (80, 55, self.height_mm / 2))
            half = rng.uniform(10, 35, 3)
            grey[_inside(x, y, z, centre, half) & (across < 0.75)] = rng.uniform(50, 550)
        grey[(x**2 + (y + 60) ** 2 < 18**2) & (z % 32 < 26)] = 300.0
        if part == "water":
            grey[_inside(x, y, z, *LIVER_MM) & (across < 0.9)] = LIVER
        noisy = np.random.default_rng([self.seed, draw])
        first, second = noisy.normal(0, noise, (2, *grey.shape))
        return np.rint(gain * np.hypot(grey + first, second)).astype(np.int16)


def _inside(x, y, z, centre, half):
    return sum(((a - c) / h) ** 2 for a, c, h in zip((x, y, z), centre, half, strict=True)) < 1


def grid(first_mm: float, step_mm: float = EDGES_MM[2]) -> np.ndarray:
    """Affine of slices from a height upwards."""
    affine = np.diag([*EDGES_MM[:2], step_mm, 1.0])
    affine[:3, 3] = [
        *(-(n - 1) / 2 * edge for n, edge in zip(SHAPE, EDGES_MM, strict=False)),
        first_mm,
    ]
    return affine


def heights(
    n_stations: int, n_slices: int, overlap: int, step_mm: float = EDGES_MM[2]
) -> list[np.ndarray]:
    """Slices of stations that overlap by some, with the middle of all at 0 mm."""
    total = n_stations * n_slices - (n_stations - 1) * overlap
    first = -round(total / 2) * step_mm
    return [
        first + step_mm * (n * (n_slices - overlap) + np.arange(n_slices))
        for n in range(n_stations)
    ]


def liver_ml(image: np.ndarray, affine: np.ndarray) -> float:
    """Volume of what is as bright as the liver."""
    voxels = np.count_nonzero(image > LIVER * 0.75)
    return float(voxels * abs(np.linalg.det(affine[:3, :3])) / 1000)
