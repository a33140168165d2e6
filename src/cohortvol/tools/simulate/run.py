"""Draw a cohort: with images for the whole workflow, or as tables only for the statistics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from cohortvol.errors import ConfigError
from cohortvol.store import schemas, tables
from cohortvol.store.files import commit_text, make_folder
from cohortvol.tools.simulate import anatomy, cohort
from cohortvol.tools.simulate.faults import FAULTS
from cohortvol.tools.simulate.image import (
    ORGANS,
    Acquisition,
    acquire,
    contrasts,
    label_map_of,
    organ_masks,
    shading_of,
    signal_of,
    write_nifti,
)

logger = logging.getLogger(__name__)

CUT_SHARE = 0.1

PROTOCOLS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "T2-SPIR": ("LAS", (1.8, 1.8, 7.0)),
    "T2-HASTE": ("LSP", (2.0, 2.0, 6.0)),
    "T1-GRE": ("LPS", (2.0, 2.0, 5.0)),
    "T1-VIBE-contrast": ("RAS", (2.0, 2.0, 4.0)),
    "DIXON-water": ("LAS", (2.2, 2.2, 3.0)),
}
"""Axis codes and voxel edges (mm, along the stored axes) of each simulated sequence."""

DIXON = "DIXON-water"
"""The sequence in which fat and water can be swapped."""

CHANNELS = ("water", "fat", "in_phase", "opposed_phase")
"""Images of a Dixon acquisition, on one grid."""

N_FAULTS = len(FAULTS) + 4
"""Scans that `broken` needs: one per fault of `FAULTS`, one without age, two of one id, a swap."""

TRUTH = {
    "scan_id": schemas.Column(schemas.text, "row key"),
    "structure": schemas.Column(schemas.text, "anatomical structure"),
    "volume_ml": schemas.Column(schemas.real, "volume that was drawn and built, mL"),
    "in_view": schemas.Column(schemas.real, "share of it inside the field of view, 0 to 1"),
}


def run(
    out: Path, n: int, seed: int, broken: bool = False, processes: int = 1, dixon: bool = False
) -> None:
    """Write a cohort with images: ``manifest.csv``, ``images/``, ``labels/`` and its truth.

    Beside them: ``truth.parquet`` (volume drawn per scan and structure), ``planted.csv`` (the
    slopes a perfect analysis finds) and ``faults.csv`` (what was broken on purpose).

    Parameters
    ----------
    out : Path
        Folder to write to.
    n : int
        Number of scans, one per subject.
    seed : int
        Everything is drawn from it; scan 7 does not depend on `n`.
    broken : bool
        Break scans in every way of `FAULTS`, take one age away, give two scans one id, and swap
        fat and water in a Dixon scan.
    processes : int
        Scans built at a time.
    dixon : bool
        Four images of every scan, `CHANNELS`, in ``images``, ``images_2`` and so on.
    """
    if broken and dixon:
        raise ConfigError("--dixon makes sound scans; leave --broken out")
    if n < 1 or (broken and n < N_FAULTS):
        raise ConfigError(f"--n {n}: at least {N_FAULTS if broken else 1} scans are needed")
    make_folder(out)
    build = partial(dixon_scan if dixon else one_scan, out, seed)
    rows: list[dict[str, object]] = []
    truths: list[dict[str, object]] = []
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not sys.stderr.isatty()) as progress,
        ProcessPoolExecutor(processes) as pool,
    ):
        task = progress.add_task("simulating", total=n)
        for row, truth in pool.map(build, range(n)):
            rows.append(row)
            truths.extend(truth)
            progress.advance(task)
    manifest = pd.DataFrame(rows)
    faults = pd.DataFrame(columns=["scan_id", "fault"])
    if broken:
        chosen = np.random.default_rng([seed, 9]).choice(n, len(FAULTS) + 3, replace=False)
        swapped = _to_swap(manifest, chosen)
        row, truth = one_scan(out, seed, swapped, dixon="fat")
        manifest.loc[swapped] = pd.Series(row)
        truths = [old for old in truths if old["scan_id"] != row["scan_id"]] + truth
        manifest, faults = _break(manifest, out, chosen)
        faults.loc[len(faults)] = [row["scan_id"], "fat-water swap"]
    commit_text(out / "manifest.csv", manifest.to_csv(index=False))
    commit_text(out / "faults.csv", faults.to_csv(index=False))
    commit_text(out / "planted.csv", cohort.planted_slopes().to_csv(index=False))
    truths.sort(key=lambda row: str(row["scan_id"]))
    tables.write_table(out / "truth.parquet", pd.DataFrame(truths), TRUTH)
    logger.info("%d scans in %s", n, out)


def one_scan(
    out: Path, seed: int, index: int, dixon: str | None = None
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Build, image and write scan `index`; its manifest row and its rows of truth.

    With `dixon` it is called a Dixon water image, and its voxels show the part of that name:
    ``fat`` where the reconstruction swapped the two.
    """
    rng = np.random.default_rng([seed, 0, index])
    scan_id = f"sub-{index + 1:04d}"
    subjects = cohort.draw_subjects(1, rng)
    volumes = cohort.draw_volumes(subjects, rng).iloc[0].to_dict()
    subject = subjects.iloc[0].copy()
    if dixon is not None:
        subject["sequence"] = DIXON
    shown = subject["sequence"] if dixon is None else f"DIXON-{dixon}"
    bmi = subject["weight_kg"] / (subject["height_cm"] / 100) ** 2
    built = anatomy.build(volumes, subject["height_cm"], bmi, rng)
    masks = organ_masks(built)
    acquisition = _acquisition(built, masks, subject, rng)
    n_tissues = len(anatomy.TISSUES)
    means = contrasts()[shown].to_numpy() * rng.uniform(0.88, 1.12, n_tissues)
    signal = signal_of(built.tissues, means, rng.uniform(0.03, 0.08, n_tissues) * means, rng)
    image, affine = acquire(signal, built.affine, acquisition, rng)
    scaled = np.rint(image * rng.uniform(400, 1500)).astype(np.int16)
    labels = label_map_of(masks, built.affine, acquisition)
    for folder, data in (("images", scaled), ("labels", labels)):
        write_nifti(out / folder / f"{scan_id}.nii.gz", data, affine)
    row = {"scan_id": scan_id, "image": f"images/{scan_id}.nii.gz", "subject_id": scan_id}
    seen = _share_in_view(masks, built.affine, image.shape, affine)
    return row | _texts(subject), _truth(scan_id, volumes, seen)


def dixon_scan(
    out: Path, seed: int, index: int
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """`one_scan` of a Dixon acquisition, with all of its images.

    Fat is added to water in phase and taken from it in opposed phase, in every voxel as it is
    sampled, so that the two cancel at their borders.
    """
    rng = np.random.default_rng([seed, 6, index])
    scan_id = f"sub-{index + 1:04d}"
    subjects = cohort.draw_subjects(1, rng)
    volumes = cohort.draw_volumes(subjects, rng).iloc[0].to_dict()
    subject = subjects.iloc[0].copy()
    subject["sequence"] = DIXON
    bmi = subject["weight_kg"] / (subject["height_cm"] / 100) ** 2
    built = anatomy.build(volumes, subject["height_cm"], bmi, rng)
    masks = organ_masks(built)
    acquisition = _acquisition(built, masks, subject, rng)
    table = contrasts()
    water, fat = (
        signal_of(built.tissues, means, 0.05 * means, rng)
        for means in (table[f"DIXON-{part}"].to_numpy() for part in ("water", "fat"))
    )
    signals = (water, fat, water + fat, water - fat)
    shading = shading_of(built.tissues.shape, built.affine, acquisition, rng)
    scale = rng.uniform(400, 1500)
    folders = ["images", *(f"images_{n}" for n in range(2, len(CHANNELS) + 1))]
    for folder, signal in zip(folders, signals, strict=True):
        image, affine = acquire(signal, built.affine, acquisition, rng, shading)
        scaled = np.rint(image * scale).astype(np.int16)
        write_nifti(out / folder / f"{scan_id}.nii.gz", scaled, affine)
    labels = label_map_of(masks, built.affine, acquisition)
    write_nifti(out / "labels" / f"{scan_id}.nii.gz", labels, affine)
    places = {folder.replace("images", "image"): f"{folder}/{scan_id}.nii.gz" for folder in folders}
    seen = _share_in_view(masks, built.affine, labels.shape, affine)
    row = {"scan_id": scan_id, **places, "subject_id": scan_id, **_texts(subject)}
    return row, _truth(scan_id, volumes, seen)


def _texts(subject: pd.Series) -> dict[str, object]:
    return {str(key): value for key, value in subject.items()}


def _truth(
    scan_id: str, volumes: Mapping[str, float], in_view: Sequence[float]
) -> list[dict[str, object]]:
    return [
        {"scan_id": scan_id, "structure": name, "volume_ml": volumes[name], "in_view": share}
        for name, share in zip(ORGANS, in_view, strict=True)
    ]


def _acquisition(
    built: anatomy.Anatomy,
    masks: list[np.ndarray],
    subject: pd.Series,
    rng: np.random.Generator,
) -> Acquisition:
    """A field of view that holds the four organs with a margin, or that cuts one in some scans."""
    spots = np.argwhere(np.logical_or.reduce(masks))
    low = built.affine[:3, 3] + spots.min(axis=0) * anatomy.SPACING_MM
    high = built.affine[:3, 3] + spots.max(axis=0) * anatomy.SPACING_MM
    body = np.array(built.tissues.shape) * anatomy.SPACING_MM
    low[:2], high[:2] = built.affine[:2, 3], built.affine[:2, 3] + body[:2]
    margin = np.array([0.0, 0.0, rng.uniform(18, 40)])
    low, high = low - margin, high + margin
    if rng.random() < CUT_SHARE:
        depth = margin[2] + rng.uniform(15, 45)
        if rng.random() < 0.5:
            low[2] += depth
        else:
            high[2] -= depth
    orientation, spacing = PROTOCOLS[subject["sequence"]]
    return Acquisition(
        orientation=orientation,
        spacing_mm=spacing,
        centre_mm=tuple((low + high) / 2),
        extent_mm=tuple(high - low),
        tilt_deg=float(rng.normal(0, 2)),
        noise=float(rng.uniform(0.01, 0.03)),
        shading=float(rng.uniform(0.1, 0.3)),
    )


def _share_in_view(
    masks: list[np.ndarray], affine: np.ndarray, shape: tuple[int, ...], grid: np.ndarray
) -> list[float]:
    """Share of each mask's voxels whose centres lie inside the image's box."""
    to_image = np.linalg.inv(grid) @ affine
    shares = []
    for mask in masks:
        voxels = np.argwhere(mask) @ to_image[:3, :3].T + to_image[:3, 3]
        inside = np.all((voxels >= -0.5) & (voxels < np.array(shape) - 0.5), axis=1)
        shares.append(float(inside.mean()))
    return shares


def _to_swap(manifest: pd.DataFrame, taken: np.ndarray) -> int:
    """Index of the first Dixon scan that is not to be broken already; of any if there is none."""
    free = manifest.drop(index=taken)
    dixon = free[free["sequence"] == DIXON]
    return int((dixon if len(dixon) else free).index[0])


def _break(
    manifest: pd.DataFrame, out: Path, chosen: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Break the scans of these rows, one in each way."""
    named = []
    for index, (fault, spoil) in zip(chosen, FAULTS.items(), strict=False):
        spoil(out / manifest.loc[index, "image"])
        named.append((manifest.loc[index, "scan_id"], fault))
    ageless, first, second = chosen[len(FAULTS) :]
    manifest.loc[ageless, "age_years"] = None
    named.append((manifest.loc[ageless, "scan_id"], "missing age"))
    manifest.loc[second, "scan_id"] = manifest.loc[first, "scan_id"]
    named.append((manifest.loc[first, "scan_id"], "duplicate id"))
    return manifest, pd.DataFrame(named, columns=["scan_id", "fault"])
