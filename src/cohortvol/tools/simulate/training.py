"""Training images of random contrast from label maps, after SynthSeg (Billot et al. 2023).

Two sources: real scans, warped, either repainted (their unlabelled remainder split into
pseudo-tissues by the scan's own grey levels) or recoloured (their own texture, organs darker or
brighter); and simulated anatomies. Each becomes an image whose contrast, shading, noise,
resolution, orientation and field of view are drawn at random, so that a network learns shapes
and neighbourhoods and not the greys of one sequence.
"""

from __future__ import annotations

import logging
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from cohortvol.anatomy.geometry import to_ras
from cohortvol.errors import ConfigError
from cohortvol.store.files import commit_text
from cohortvol.tools.simulate import anatomy, cohort
from cohortvol.tools.simulate.image import (
    ORGANS,
    Acquisition,
    acquire,
    contrasts,
    label_map_of,
    organ_masks,
    signal_of,
    smooth_noise,
    write_nifti,
)

logger = logging.getLogger(__name__)

WORK_MM = 3.0
"""Edge of the isotropic voxels real label maps are brought to before warping."""


def run(
    out: Path,
    labelled: Path | None,
    per_scan: int,
    n_simulated: int,
    seed: int,
    processes: int = 1,
) -> None:
    """Write training pairs ``images/*.nii.gz`` and ``labels/*.nii.gz`` and ``cases.csv``.

    Parameters
    ----------
    out : Path
        Folder to write to.
    labelled : Path or None
        Folder with ``images/image_<id>.nii.gz`` and ``labels/label_<id>.nii.gz``; label
        indices as in `ORGANS`.
    per_scan : int
        Synthetic images per labelled scan.
    n_simulated : int
        Images of simulated anatomies.
    seed : int
        Everything is drawn from it; a case does not depend on how many others are made.
    processes : int
        Cases made at a time.

    Notes
    -----
    ``cases.csv`` has ``case, subject, source``. A synthetic image carries the subject of the
    label map it was made from, so that a split by subject never trains on a warped copy of a
    label map it is tested on.
    """
    scans = []
    if labelled is not None:
        scans = sorted((labelled / "images").glob("image_*.nii.gz"))
        if not scans:
            raise ConfigError(f"{labelled}: no images/image_<id>.nii.gz in this folder")
    rows: list[Case] = []
    with ProcessPoolExecutor(processes) as pool:
        for cases in pool.map(partial(_cases_of_scan, out, per_scan, seed), scans):
            rows += cases
            logger.info("%s: %d synthetic images", cases[0].subject, per_scan)
        for case in pool.map(partial(_case_of_anatomy, out, seed), range(n_simulated)):
            rows.append(case)
            if len(rows) % 20 == 0:
                logger.info("%s: simulated", case.case)
    commit_text(out / "cases.csv", pd.DataFrame(rows).to_csv(index=False))


class Case(NamedTuple):
    """One row of ``cases.csv``."""

    case: str
    subject: str
    source: str


def _cases_of_scan(out: Path, per_scan: int, seed: int, scan: Path) -> list[Case]:
    """The scan itself and the synthetic images made of it."""
    subject = scan.name.removeprefix("image_").removesuffix(".nii.gz")
    image, affine = _load(scan)
    expert, _ = _load(scan.parents[1] / "labels" / f"label_{subject}.nii.gz")
    labels = np.rint(expert).astype(np.uint8)
    cases = [Case(f"real_{subject}", subject, "real")]
    _write(out, cases[0].case, image, labels, affine)
    work, work_labels = _at_work_spacing(image, labels, affine)
    for index in range(per_scan):
        rng = np.random.default_rng([seed, 1, zlib.crc32(subject.encode()), index])
        case = Case(f"synth_{subject}_{index:02d}", subject, "synthetic")
        recoloured = index % 2 == 1
        _write(out, case.case, *_from_scan(work, work_labels, rng, recoloured))
        cases.append(case)
    return cases


def _case_of_anatomy(out: Path, seed: int, index: int) -> Case:
    """One simulated anatomy and its image."""
    case = Case(f"sim_{index:03d}", f"sim_{index:03d}", "simulated")
    _write(out, case.case, *_from_simulation(np.random.default_rng([seed, 2, index])))
    return case


def random_acquisition(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> Acquisition:
    """An acquisition of any plane, resolution and field of view of the box `low` to `high` (mm)."""
    plane = rng.choice(["axial", "coronal", "isotropic"], p=[0.55, 0.25, 0.2])
    inplane, slices = rng.uniform(1.5, 3.2), rng.uniform(3, 9)
    orientation, spacing = {
        "axial": ("RAS", (inplane, inplane, slices)),
        "coronal": ("RAS", (inplane, slices, inplane)),
        "isotropic": ("RAS", (rng.uniform(2, 4),) * 3),
    }[str(plane)]
    size = high - low
    keep = np.array([rng.uniform(0.9, 1.05), rng.uniform(0.9, 1.05), rng.uniform(0.55, 1.0)])
    if plane == "coronal":
        keep[1] = rng.uniform(0.2, 0.95)
    shift = rng.uniform(-0.5, 0.5, 3) * (1 - keep) * size
    return Acquisition(
        orientation=orientation,
        spacing_mm=spacing,
        centre_mm=tuple((low + high) / 2 + shift),
        extent_mm=tuple(size * keep),
        tilt_deg=float(rng.normal(0, 5)),
        noise=float(rng.uniform(0.005, 0.06)),
        shading=float(rng.uniform(0.05, 0.4)),
    )


def _from_simulation(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    subject = cohort.draw_subjects(1, rng).iloc[0]
    volumes = cohort.draw_volumes(pd.DataFrame([subject]), rng, spread=1.4).iloc[0].to_dict()
    bmi = subject.weight_kg / (subject.height_cm / 100) ** 2
    built = anatomy.build(volumes, subject.height_cm, bmi, rng)
    n_tissues = len(anatomy.TISSUES)
    if rng.random() < 0.6:
        means = contrasts()[rng.choice(cohort.SEQUENCES)].to_numpy() * rng.uniform(
            0.8, 1.25, n_tissues
        )
    else:
        means = rng.uniform(0.03, 1, n_tissues)
        means[0] = rng.uniform(0, 0.03)
        means[anatomy.TISSUE["lung"]] = rng.uniform(0, 0.15)
        means[anatomy.TISSUE["kidney_left"]] = means[anatomy.TISSUE["kidney_right"]]
    signal = signal_of(built.tissues, means, rng.uniform(0.01, 0.1, n_tissues) * means, rng)
    shape = np.array(built.tissues.shape)
    low = built.affine[:3, 3]
    acquisition = random_acquisition(rng, low, low + shape * anatomy.SPACING_MM)
    image, affine = acquire(signal, built.affine, acquisition, rng)
    return image, label_map_of(organ_masks(built), built.affine, acquisition), affine


def _from_scan(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, recoloured: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    paint = _recoloured if recoloured else _repainted
    signal, warped = paint(image, labels, _warp(image.shape, rng), rng)
    affine = np.diag([WORK_MM] * 3 + [1.0])
    acquisition = random_acquisition(rng, np.zeros(3), np.array(image.shape) * WORK_MM)
    acquired, grid = acquire(signal, affine, acquisition, rng)
    masks = [warped == index for index in range(1, len(ORGANS) + 1)]
    return acquired, label_map_of(masks, affine, acquisition), grid


def _repainted(
    image: np.ndarray, labels: np.ndarray, coordinates: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Every tissue a grey of its own, drawn without regard to the scan's."""
    first_organ = int(rng.integers(4, 10))
    n_tissues = first_organ + len(ORGANS)
    tissues = _pseudo_tissues(image, labels, first_organ)
    residual = image - ndimage.mean(image, tissues, np.arange(n_tissues))[tissues]
    residual /= residual.std() + 1e-6
    tissues = ndimage.map_coordinates(tissues, coordinates, order=0)
    residual = ndimage.map_coordinates(residual, coordinates, order=1)
    means = rng.uniform(0.05, 1, n_tissues)
    means[0] = rng.uniform(0, 0.05)
    means[first_organ + 2] = means[first_organ + 1] * rng.uniform(0.95, 1.05)
    signal = signal_of(tissues, means, rng.uniform(0.01, 0.08, n_tissues) * means, rng)
    signal = np.clip(signal + rng.uniform(-0.12, 0.12) * residual * means[tissues], 0, None)
    return signal, np.clip(tissues - first_organ + 1, 0, None)


def _recoloured(
    image: np.ndarray, labels: np.ndarray, coordinates: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The scan's own greys and texture through a gamma curve, some organs darker or brighter.

    A liver and a spleen full of iron are nearly black in T2; one scan in sixteen shows that, and
    a network that never sees it in training takes such a liver for lung.
    """
    signal = np.clip(image / np.percentile(image, 99.5), 0, 1.5) ** rng.uniform(0.7, 1.4)
    liver, kidney, spleen = np.exp(rng.uniform(np.log(0.25), np.log(1.6), 3))
    if rng.random() < 0.4:
        spleen = liver * rng.uniform(0.8, 1.25)
    factors = np.where(rng.random(3) < 0.6, (liver, kidney, spleen), 1.0)
    factor = np.array([1.0, factors[0], factors[1], factors[1], factors[2]], np.float32)[labels]
    signal = signal * ndimage.gaussian_filter(factor, 0.5)
    warped = ndimage.map_coordinates(labels, coordinates, order=0)
    return ndimage.map_coordinates(signal, coordinates, order=1), warped


def _pseudo_tissues(image: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Background split by grey level into air and `n_classes` - 1 others; organs come last."""
    smooth = ndimage.gaussian_filter(image, 0.7)
    outside = smooth < 0.06 * np.percentile(smooth, 99)
    rest = ~outside & (labels == 0)
    edges = np.quantile(smooth[rest], np.linspace(0, 1, n_classes)[1:-1])
    tissues = np.where(outside, 0, 1 + np.digitize(smooth, edges)).astype(np.int16)
    organs = labels > 0
    tissues[organs] = n_classes - 1 + labels[organs].astype(np.int16)
    return tissues


def _warp(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Voxel coordinates of a random affine map and a smooth random displacement."""
    angles = np.deg2rad(rng.uniform(-12, 12, 3))
    matrix = np.diag(rng.uniform(0.82, 1.2, 3))
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    middle = (np.array(shape)[:, None, None, None] - 1) / 2
    grid = np.indices(shape, dtype=np.float32) - middle
    moved = np.tensordot(matrix.astype(np.float32), grid, axes=1) + middle
    for axis in range(3):
        moved[axis] += rng.uniform(0, 2.5) * smooth_noise(shape, rng.uniform(25, 60), rng)
    return np.asarray(moved)


def _at_work_spacing(
    image: np.ndarray, labels: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    zoom = nib.affines.voxel_sizes(affine) / WORK_MM
    masks = [ndimage.zoom((labels == i + 1).astype(np.float32), zoom, order=1) for i in range(4)]
    stack = np.stack([np.full_like(masks[0], 0.5), *masks])
    return ndimage.zoom(image, zoom, order=1), np.argmax(stack, axis=0).astype(np.uint8)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_filename(path)
    return to_ras(image.get_fdata(dtype=np.float32), np.asarray(image.affine))


def _write(out: Path, case: str, image: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> None:
    scaled = np.rint(image * (2000 / max(float(image.max()), 1e-6))).astype(np.int16)
    for folder, data in (("images", scaled), ("labels", labels)):
        write_nifti(out / folder / f"{case}.nii.gz", data, affine)
