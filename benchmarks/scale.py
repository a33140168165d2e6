"""How often a wrong voxel size is seen in label maps, and how often a right one is called wrong.

    python benchmarks/scale.py --n 2000 --out results/scale

Label maps of simulated bodies, as their anatomy is. In each of ten draws 2 % of the scans get one
axis scaled by 0.6 to 0.8 or by 1.25 to 1.6.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import FACES, orientation, spacing_mm
from cohortvol.stages.assemble.rows import BOX
from cohortvol.stages.assemble.scale import AXES, off_scale, usual_factors
from cohortvol.stages.measure.volumes import structure_volumes
from cohortvol.tools.simulate import run as simulate
from cohortvol.tools.simulate.image import ORGANS

SHARE, DRAWS = 0.02, 10
LABELS = dict(enumerate(ORGANS, start=1))


def measured(path: Path) -> tuple[list[dict], dict]:
    """Rows of volumes of a label map, and the row of its scan."""
    image = nib.load(path)
    found = structure_volumes(np.asarray(image.dataobj), image.affine, LABELS)
    name = path.name.partition(".")[0]
    rows = [
        {"scan_id": name, "structure": row["structure"],
         "status": "cut" if row["cut_by_fov"] else "ok",
         **dict(zip(BOX, np.diff(np.reshape(row["bbox"], (3, 2)))[:, 0] + 1, strict=True))}
        for row in found[found["n_voxels"].notna()].to_dict("records")
    ]  # fmt: skip
    edges = dict(zip(("spacing_i_mm", "spacing_j_mm", "spacing_k_mm"), spacing_mm(image.affine),
                     strict=True))  # fmt: skip
    return rows, {"scan_id": name, "orientation": orientation(image.affine), **edges}


def tables(folder: Path, processes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of volumes and of scans of all label maps in a folder."""
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(measured, sorted(folder.glob("*.nii.gz")), chunksize=16))
    rows = [row for of_scan, _ in found for row in of_scan]
    texts = dict.fromkeys(["scan_id", "structure", "status"], "category")
    volumes = pd.DataFrame(rows).astype(texts)
    of_people = pd.read_csv(folder.parent / "manifest.csv", usecols=["scan_id", "site", "sequence"])
    return volumes, pd.DataFrame([scan for _, scan in found]).merge(of_people, "left", "scan_id")


def scaled(scans: pd.DataFrame, row: int, along: str, factor: float) -> str:
    """Change a voxel edge of one scan; the axis of the body that it lies along."""
    scans.loc[scans.index[row], f"spacing_{along}_mm"] *= factor
    letter = scans["orientation"].iloc[row]["ijk".index(along)]
    return AXES[next(n for n, ends in enumerate(FACES) if letter in ends)]


def wrong_factor(rng: np.random.Generator) -> float:
    """0.6 to 0.8, or 1.25 to 1.6."""
    low, high = ((0.6, 0.8), (1.25, 1.6))[rng.integers(2)]
    return float(rng.uniform(low, high))


def main() -> None:
    """Simulate, scale, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("results/scale"))
    parser.add_argument("--labels", type=Path, help="folder of label maps there already")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.labels is None:
        simulate_one = partial(simulate.run, n=options.n, seed=99, processes=options.processes)
        simulate_one(options.out)
    volumes, scans = tables(options.labels or options.out / "labels", options.processes)
    rng = np.random.default_rng(0)
    planted = found = right = judged = alarms = sound = 0
    for _ in range(DRAWS):
        changed = scans.copy()
        rows = rng.permutation(len(scans))[: round(SHARE * len(scans))]
        truth = {
            scans["scan_id"].iloc[row]: scaled(
                changed, row, "ijk"[rng.integers(3)], wrong_factor(rng)
            )
            for row in rows
        }
        said = off_scale(volumes, changed)
        known = set(usual_factors(volumes, changed).index)
        planted, judged = planted + len(truth), judged + len(known & set(truth))
        found += len(set(truth) & set(said.index))
        right += sum(said.get(scan, "").startswith(axis) for scan, axis in truth.items())
        sound += len(known - set(truth))
        alarms += len(set(said.index) - set(truth))
    print(f"{len(scans)} scans, {DRAWS} draws of {SHARE:.0%} scaled along one axis")
    print(f"scaled: {planted}, of which {judged} can be judged; found {found} "
          f"({found / planted:.1%} of all, {found / judged:.1%} of these), "
          f"with the right axis {right}")  # fmt: skip
    print(f"sound and judged: {sound}, called wrong {alarms} ({alarms / sound:.2%})")


if __name__ == "__main__":
    main()
