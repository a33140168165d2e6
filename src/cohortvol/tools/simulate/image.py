"""From a tissue map to an MR image: contrast, texture, coil shading, resolution, grid, noise."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from isal import igzip
from scipy import ndimage

from cohortvol.store.files import commit
from cohortvol.tools.simulate.anatomy import TISSUES, Anatomy

ORGANS = ("liver", "kidney_right", "kidney_left", "spleen")
"""Structures of the simulated label maps; label index = place in this tuple + 1."""


@dataclass(frozen=True)
class Acquisition:
    """How a tissue map is imaged.

    Attributes
    ----------
    orientation : str
        Axis codes of the stored array, such as ``LAS`` (axial) or ``LSP`` (coronal).
    spacing_mm : tuple of three floats
        Voxel edges along those array axes.
    centre_mm, extent_mm : tuple of three floats
        Middle and edge lengths of the field of view along R, A, S.
    tilt_deg : float
        Rotation of the grid about the left-right axis (an oblique scan).
    noise : float
        Standard deviation of the noise in each quadrature channel; tissues lie in 0 to 1.
    shading : float
        Standard deviation of the logarithm of the coil shading (bias field).
    """

    orientation: str
    spacing_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    tilt_deg: float = 0.0
    noise: float = 0.02
    shading: float = 0.2


def contrasts() -> pd.DataFrame:
    """Signal of every tissue (rows, in the order of `TISSUES`) in every sequence (columns)."""
    source = resources.files("cohortvol.tools.simulate") / "contrasts.tsv"
    with source.open(encoding="utf-8") as stream:
        table: pd.DataFrame = pd.read_csv(stream, sep="\t", index_col="tissue")
    return table.loc[list(TISSUES)]


def grid_of(acquisition: Acquisition) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and RAS+ affine of the image an acquisition makes."""
    axes = nib.orientations.axcodes2ornt(tuple(acquisition.orientation))
    direction = np.zeros((3, 3))
    shape = []
    for column, (ras_axis, sign) in enumerate(axes):
        edge = acquisition.spacing_mm[column]
        direction[int(ras_axis), column] = sign * edge
        shape.append(max(1, round(acquisition.extent_mm[int(ras_axis)] / edge)))
    c, s = np.cos(np.deg2rad(acquisition.tilt_deg)), np.sin(np.deg2rad(acquisition.tilt_deg))
    direction = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ direction
    affine = np.eye(4)
    affine[:3, :3] = direction
    affine[:3, 3] = acquisition.centre_mm - direction @ ((np.array(shape) - 1) / 2)
    return (shape[0], shape[1], shape[2]), affine


def smooth_noise(
    shape: tuple[int, ...], wavelength_voxels: float, rng: np.random.Generator
) -> np.ndarray:
    """Noise of unit variance whose grain is `wavelength_voxels` wide, as float32."""
    sigma = wavelength_voxels / 4
    step = max(1, int(sigma))
    coarse = tuple(int(np.ceil(n / step)) + 2 for n in shape)
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma / step)
    field /= field.std() + 1e-6
    zoom = ndimage.affine_transform(field, [1 / step] * 3, 0.5, output_shape=shape, order=1)
    return np.asarray(zoom, dtype=np.float32)


def signal_of(
    tissues: np.ndarray, means: np.ndarray, sds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Signal per voxel of a tissue map: a mean per index, and texture of two grain sizes."""
    texture = 0.6 * smooth_noise(tissues.shape, 6, rng) + 0.8 * smooth_noise(tissues.shape, 2, rng)
    signal = means[tissues] + sds[tissues] * texture
    return np.asarray(np.clip(signal, 0, None), dtype=np.float32)


def shading_of(
    shape: tuple[int, ...], affine: np.ndarray, acquisition: Acquisition, rng: np.random.Generator
) -> np.ndarray:
    """What the coils make of a signal of 1 on the grid of a signal map."""
    wavelength = 220 / float(np.abs(affine[0, 0]))
    return np.exp(acquisition.shading * smooth_noise(shape, wavelength, rng))


def acquire(
    signal: np.ndarray,
    affine: np.ndarray,
    acquisition: Acquisition,
    rng: np.random.Generator,
    shading: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Image of a signal map: shading, partial volume, the acquisition's grid, Rician noise.

    A signal may be negative, as where fat is opposed to water. `shading` is drawn if not given.

    Returns
    -------
    image : 3D float32 array on the grid of `grid_of(acquisition)`
    affine : (4, 4) float array
    """
    shape, grid = grid_of(acquisition)
    if shading is None:
        shading = shading_of(signal.shape, affine, acquisition, rng)
    image = _sample(signal * shading, affine, acquisition, shape, grid)
    real, imaginary = (
        acquisition.noise * rng.standard_normal(shape, dtype=np.float32) for _ in range(2)
    )
    noisy: np.ndarray = np.hypot(image + real, imaginary)
    return noisy, grid


def label_map_of(
    masks: list[np.ndarray], affine: np.ndarray, acquisition: Acquisition
) -> np.ndarray:
    """Label map on the acquisition's grid: in each voxel the structure that fills most of it.

    Label index = place of the mask in `masks` + 1; 0 where no structure fills more than the
    rest of the voxel does.
    """
    shape, grid = grid_of(acquisition)
    best = np.full(shape, 0.5, np.float32)
    labels = np.zeros(shape, np.uint8)
    for index, mask in enumerate(masks, start=1):
        share = _sample(mask.astype(np.float32), affine, acquisition, shape, grid)
        labels[share > best] = index
        best = np.maximum(best, share)
    return labels


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a .nii.gz whose qform and sform agree; equal arrays give equal bytes."""
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    packed = igzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    commit(path, lambda stream: stream.write(packed))


def organ_masks(anatomy: Anatomy) -> list[np.ndarray]:
    """Masks of `ORGANS` in a simulated anatomy."""
    return [anatomy.tissues == TISSUES.index(name) for name in ORGANS]


def _sample(
    volume: np.ndarray,
    affine: np.ndarray,
    acquisition: Acquisition,
    shape: tuple[int, int, int],
    grid: np.ndarray,
) -> np.ndarray:
    """Average over the voxel of the new grid (as a Gaussian of the same variance), then sample."""
    here = nib.affines.voxel_sizes(affine)
    edge_along_ras = np.zeros(3)
    for (ras_axis, _), edge in zip(
        nib.orientations.axcodes2ornt(tuple(acquisition.orientation)),
        acquisition.spacing_mm,
        strict=True,
    ):
        edge_along_ras[int(ras_axis)] = edge
    variance = np.clip(edge_along_ras**2 - here**2, 0, None) / 12
    blurred = ndimage.gaussian_filter(volume, np.sqrt(variance) / here, truncate=2.5)
    to_source = np.linalg.inv(affine) @ grid
    return np.asarray(
        ndimage.affine_transform(
            blurred, to_source[:3, :3], to_source[:3, 3], output_shape=shape, order=1, cval=0.0
        ),
        dtype=np.float32,
    )
