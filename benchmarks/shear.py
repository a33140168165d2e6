"""What slanted axes do to volumes: the same body, sampled on axes more and more off a right angle.

    python benchmarks/shear.py FOLDER --n 6

FOLDER holds scans (.nii.gz). Each is resampled onto a grid whose second and third axes lean by so
many degrees, as registration and a tilted gantry leave them, segmented with the embedded model and
measured; volumes are compared with those of the scan resampled at right angles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import affine_transform

from cohortvol.anatomy.geometry import spacing_mm, voxel_volume_ml
from cohortvol.stages.segment import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]
DEGREES = (0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)


def leaning(affine: np.ndarray, degrees: float) -> np.ndarray:
    """The same voxels, the second axis leaning to the first and the third to the second."""
    edges, slope = spacing_mm(affine), np.tan(np.radians(degrees))
    lean = np.eye(4)
    lean[0, 1], lean[1, 2] = slope * edges[1] / edges[0], slope * edges[2] / edges[1]
    return affine @ lean


def volumes_ml(segmenter: Segmenter, image: nib.Nifti1Image, degrees: float) -> dict[str, float]:
    """Volume of every structure on axes that lean so far."""
    data = image.get_fdata(dtype=np.float32)
    middle = np.eye(4)
    middle[:3, 3] = (np.array(data.shape) - 1) / 2
    affine = leaning(image.affine @ middle, degrees) @ np.linalg.inv(middle)
    to_image = np.linalg.inv(image.affine) @ affine
    grey = affine_transform(data, to_image[:3, :3], to_image[:3, 3], order=1, mode="nearest")
    labels, _ = segmenter.segment(grey, affine)
    return {
        name: np.count_nonzero(labels == label) * voxel_volume_ml(affine)
        for label, name in segmenter.card.labels.items()
    }


def main() -> None:
    """Print the largest and the mean difference of volumes for each angle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=6, help="scans, the first by name")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segmenter = Segmenter.load(REPOSITORY / "models" / "embedded-v2", device="cpu")
    off: dict[float, list[float]] = {degrees: [] for degrees in DEGREES}
    for path in sorted(options.folder.rglob("*.nii.gz"))[: options.n]:
        image = nib.load(path)
        found = {degrees: volumes_ml(segmenter, image, degrees) for degrees in DEGREES}
        for degrees in DEGREES:
            off[degrees] += [
                100 * (ml / found[0.0][name] - 1)
                for name, ml in found[degrees].items()
                if found[0.0][name] > 1
            ]
    print("| degrees | mean difference, % | mean of its size | largest |")
    print("|---|---|---|---|")
    for degrees, values in off.items():
        size = np.abs(values)
        print(f"| {degrees:g} | {np.mean(values):+.2f} | {size.mean():.2f} | {size.max():.1f} |")


if __name__ == "__main__":
    main()
