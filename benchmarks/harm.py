"""What broken scans do to an age slope, and what is left of it when they are out.

    python benchmarks/harm.py

8,672 simulated subjects with known organ volumes; 1 % of the scans end early, and 0.5 % have two
affines of different voxel size. What such a scan's volumes become is not assumed: simulated images
are broken, read by SimpleITK and by nibabel as their users do, and the true label map is measured
in the slices and at the spacing that came back. An organ in slices that never came is 0 mL, as
TotalSegmentator writes it. The slope is mL per decade, adjusted for sex, with robust errors. Once
the broken scans are drawn at random, and once among people over 70, as in a cohort whose oldest
archive is damaged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK

from cohortvol.errors import ScanError
from cohortvol.stages.analyse.fits.regression import contrast, fit
from cohortvol.stages.ingest import check_scan
from cohortvol.tools.simulate import cohort, faults
from cohortvol.tools.simulate import run as simulate

N_SUBJECTS = 8672
SHARES = {"truncated": 0.01, "conflicting geometry": 0.005}
ORGANS = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}
OLDER_THAN = {"anyone": 0, "people over 70": 70}
WAYS = ("no scan broken", "cohortvol", "nibabel", "SimpleITK")
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Break, read, fit; print the slopes and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="simulated images to break")
    parser.add_argument("--out", type=Path, default=Path("results/harm"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    simulate.run(options.out / "source", n=options.images, seed=7, processes=2)
    subjects = cohort.draw_subjects(N_SUBJECTS, rng)
    true_ml = cohort.draw_volumes(subjects, rng)[list(ORGANS.values())]
    broken = [
        as_read(options.out, fault, options.images, rng)
        for fault, share in SHARES.items()
        for _ in range(round(share * N_SUBJECTS))
    ]
    rows = []
    for who, age in OLDER_THAN.items():
        hit = rng.permutation(np.flatnonzero(subjects["age_years"] > age))[: len(broken)]
        for way in WAYS:
            volume_ml = true_ml.copy()
            for subject, seen in zip(hit, broken, strict=True):
                factors = seen.get(way, 1.0)
                volume_ml.loc[subject] *= np.nan if factors is None else factors
            for organ in ORGANS.values():
                rows.append((who, organ, way, *slope(subjects, volume_ml[organ])))
    columns = ["broken among", "organ", "way", "ml_per_decade", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=columns)
    print(table.round(2).to_string(index=False))
    refused = {way: sum(seen[way] is None for seen in broken) for way in broken[0]}
    print(f"refused of {len(broken)}:", ", ".join(f"{way} {n}" for way, n in refused.items()))
    table.to_csv(options.out / "harm.csv", index=False)
    draw(table, HERE / "harm.png")


def as_read(folder: Path, fault: str, n_images: int, rng: np.random.Generator):
    """Measured over true volume of each organ as each reader has it; None where it refuses."""
    name = f"sub-{rng.integers(n_images) + 1:04d}.nii.gz"
    labels = nib.load(folder / "source" / "labels" / name)
    label_map = np.asarray(labels.dataobj)
    voxel_mm3 = abs(np.linalg.det(labels.affine[:3, :3]))
    path = folder / "broken.nii.gz"
    data = (folder / "source" / "images" / name).read_bytes()
    if fault == "truncated":
        path.write_bytes(data[: int(len(data) * rng.uniform(0.1, 0.95))])
    else:
        path.write_bytes(data)
        faults.FAULTS[fault](path)

    def factors(grey: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
        came = grey.any(axis=(0, 1))
        true = np.array([np.count_nonzero(label_map == label) for label in ORGANS])
        found = np.array([np.count_nonzero(label_map[..., came] == label) for label in ORGANS])
        scale = np.prod(spacing_mm) / voxel_mm3
        return np.divide(found * scale, true, out=np.ones(len(true)), where=true > 0)

    return {
        "cohortvol": _cohortvol(path, factors),
        "nibabel": _nibabel(path, factors),
        "SimpleITK": _simpleitk(path, factors),
    }


def _cohortvol(path, factors):
    try:
        check_scan(path)
    except ScanError:
        return None
    return _nibabel(path, factors)


def _nibabel(path, factors):
    try:
        image = nib.load(path)
        return factors(np.asarray(image.dataobj), image.header.get_zooms())
    except Exception:
        return None


def _simpleitk(path, factors):
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        return None
    return factors(SimpleITK.GetArrayFromImage(image).T, image.GetSpacing())


def slope(subjects: pd.DataFrame, volume_ml: pd.Series) -> tuple[float, float, float]:
    """Slope and its 95 % interval, mL per decade."""
    kept = volume_ml.notna().to_numpy()
    decades = (subjects["age_years"].to_numpy()[kept] - 50) / 10
    male = (subjects["sex"].to_numpy()[kept] == "M").astype(float)
    design = np.column_stack([np.ones(kept.sum()), decades, male])
    found = contrast(fit(design, volume_ml.to_numpy()[kept]), np.array([0.0, 1.0, 0.0]))
    return found.value, found.ci_low, found.ci_high


def draw(table: pd.DataFrame, path: Path) -> None:
    """Slope with interval, one column per organ and one line per way."""
    figure, panels = plt.subplots(
        len(OLDER_THAN), len(ORGANS), figsize=(10, 4.4), sharex="col", sharey=True
    )
    groups = table.groupby(["broken among", "organ"], sort=False)
    for panel, ((who, organ), rows) in zip(panels.flat, groups, strict=True):
        at = np.arange(len(rows))[::-1]
        error = [rows["ml_per_decade"] - rows["ci_low"], rows["ci_high"] - rows["ml_per_decade"]]
        panel.errorbar(rows["ml_per_decade"], at, xerr=error, fmt="o", color="black", capsize=3)
        panel.axvline(rows["ml_per_decade"].iloc[0], color="grey", linewidth=0.8, linestyle=":")
        panel.set_title(f"{organ.replace('_', ' ')}\n{who}", fontsize=9)
        panel.set_yticks(at, rows["way"])
    for panel in panels[-1]:
        panel.set_xlabel("mL per decade")
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
