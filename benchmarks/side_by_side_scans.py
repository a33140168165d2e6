"""Scans of common and of odd geometry, and the table of ingest that a worker takes of them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

SUFFIX = ".nii.gz"


def speed_scans(folder: Path, n: int) -> None:
    """Scans of one common geometry, 320 x 260 x 72 voxels of 1.25 x 1.25 x 3 mm."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(_speed_scan, repeat(folder), range(n)))


def _speed_scan(folder: Path, seed: int) -> None:
    write_scan(folder / f"scan{seed:02d}", grey((320, 260, 72), seed), np.diag([1.25, 1.25, 3, 1]))


def first_scans(scans: Path, n: int | None) -> Path:
    """A folder of links to the first `n` scans; the folder itself where all are meant."""
    if n is None:
        return scans
    folder = scans.with_name(f"{scans.name}-first-{n}")
    folder.mkdir(exist_ok=True)
    for path in sorted(scans.glob(f"*{SUFFIX}"))[:n]:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


def geometry_scans(folder: Path, shrink: int = 1) -> None:
    """Ten scans whose geometry or grey values are easily got wrong, their edges divided."""
    tilt = Rotation.from_euler("zx", [20, -14], degrees=True).as_matrix()
    cases = {
        "anisotropic": ((150, 130, 40), np.diag([1.6, 1.6, 5.0]), 1500.0),
        "oblique": ((120, 110, 60), tilt @ np.diag([2.0, 2.0, 3.3]), 900.0),
        "pil": ((60, 130, 130), _axes("PIL") @ np.diag([2.2, 1.7, 5.5]), 700.0),
        "asl": ((130, 120, 44), _axes("ASL") @ np.diag([1.9, 1.9, 6.0]), 1100.0),
        "lps": ((140, 120, 50), _axes("LPS") @ np.diag([1.7, 1.7, 4.4]), 4000.0),
        "unit_floats": ((140, 120, 50), np.diag([1.7, 1.7, 4.0]), 1.0),
        "hundred_floats": ((140, 120, 50), np.diag([1.8, 1.8, 4.0]), 99.7),
        "thick_slices": ((200, 170, 26), np.diag([1.4, 1.4, 8.0]), 2500.0),
        "isotropic": ((90, 90, 90), np.diag([3.0, 3.0, 3.0]), 800.0),
        "large_thin": ((300, 240, 20), np.diag([1.2, 1.2, 6.6]), 30000.0),
    }
    for seed, (name, (shape, axes, top)) in enumerate(cases.items()):
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = [-90.0, -70.0, 15.0]
        image = grey(tuple(n // shrink for n in shape), 100 + seed) * (top / 1500)
        dtype = np.float32 if "floats" in name else np.int16
        write_scan(folder / name, image.astype(dtype), affine)


def _axes(code: str) -> np.ndarray:
    orientation = nib.orientations.axcodes2ornt(code)
    return np.asarray(nib.orientations.inv_ornt_aff(orientation, (1, 1, 1)))[:3, :3].T


def grey(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Blobs of several sizes within an ellipse of air, 0 to 1500, int16 values."""
    rng = np.random.default_rng(seed)
    total = np.zeros(shape)
    for cells in (4, 9, 20):
        coarse = rng.normal(size=[min(cells, n) for n in shape])
        factors = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
        total += ndimage.zoom(coarse, factors, order=1, mode="nearest", grid_mode=True) / cells**0.3
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape[:2]), indexing="ij")
    body = (axes[0] ** 2 + axes[1] ** 2 < 1)[..., None]
    total = (total - total.min()) / np.ptp(total) * 1400 + rng.normal(0, 20, shape)
    return np.asarray(np.clip(np.where(body, total, rng.rayleigh(8, shape)), 0, 1500), np.int16)


def write_scan(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), f"{path}{SUFFIX}")


def zoomed_scans(scans: Path, folder: Path, spacing_mm: float) -> None:
    """Scans as TotalSegmentator hands them to nnU-Net: canonical, zoomed, cut to integers."""
    for path in sorted(scans.glob(f"*{SUFFIX}")):
        image = nib.as_closest_canonical(nib.load(path))
        zooms = np.asarray(image.header.get_zooms())
        factors = zooms / spacing_mm
        data = ndimage.zoom(image.get_fdata(), factors, order=1, mode="nearest").astype(np.int32)
        affine = image.affine.copy()
        affine[:3, :3] /= factors
        write_scan(folder / f"{path.name.removesuffix(SUFFIX)}_0000", data, affine)


def program(name: str) -> str:
    """Of the environment that this runs in."""
    return str(Path(sys.executable).parent / name)


def common_scans(work: Path, n: int) -> Path:
    """A folder of `speed_scans` below `work`, made once."""
    folder = work / f"scans-{n}"
    if not folder.is_dir():
        speed_scans(folder, n)
    return folder


def checked_shard(scans: Path) -> Path:
    """The table of ingest that one worker takes, of a folder of scans; made once."""
    folder = scans.with_name(f"{scans.name}-cohort")
    ingest = folder / "ingest.parquet"
    if not ingest.is_file():
        manifest = folder / "manifest.csv"
        steps = (
            ("manifest-from-folder", str(scans), "--out", str(manifest)),
            ("manifest", "--manifest", str(manifest), "--results", str(folder),
             "--shard-size", "1000"),
            ("ingest", "--shard", str(folder / "manifest/shards/0000.parquet"),
             "--out", str(ingest)),
        )  # fmt: skip
        for step in steps:
            subprocess.run([program("cohortvol"), *step], check=True, stdout=subprocess.DEVNULL)
    return ingest
