"""Time to evaluate a pair of label maps, beside DeepMind's surface-distance on the same pairs.

    python benchmarks/evaluate_speed.py N [PEER N_PEER]

N simulated pairs of 320 x 260 x 72 voxels of 1.25 x 1.25 x 3 mm with 50 structures, from 1 mL to
1.5 L in all sizes; the second map is the first bent by a smooth field of some 2 mm. PEER is the
python of an environment with surface-distance, which evaluates the first N_PEER pairs: Dice,
surface Dice at 3 mm and HD95 of every structure. cohortvol gives ASSD, MSSD and volumes besides.
Seconds are those of one processor, as the machine may have other work.

    python3 -m venv peer && peer/bin/pip install surface-distance==0.1
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE, SPACING_MM = (320, 260, 72), (1.25, 1.25, 3.0)
N_STRUCTURES = 50
TOLERANCE_MM = 3.0


def main(n: int, peer: str | None, n_peer: int) -> None:
    """Simulate, evaluate, and print times and the greatest difference."""
    from cohortvol.tools.evaluate.labels import LabelMap
    from cohortvol.tools.evaluate.measures import measure_pair

    names = {f"structure_{label}": label for label in range(1, N_STRUCTURES + 1)}
    affine = np.diag([*SPACING_MM, 1.0])
    seconds, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            expert, model = pair(number)
            if peer and number < n_peer:
                np.save(Path(folder) / f"{number:04d}.npy", np.stack([expert, model]))
            start = time.process_time()
            rows = measure_pair(
                LabelMap(expert, affine, names), LabelMap(model, affine, names),
                tolerance_mm=TOLERANCE_MM,
            )  # fmt: skip
            seconds.append(time.process_time() - start)
            found.append([[row.get(name) for name in ("dice", "nsd", "hd95_mm")] for row in rows])
        print(f"cohortvol: {n} pairs, {statistics.median(seconds):.2f} s a pair (median), "
              f"{min(seconds):.2f} to {max(seconds):.2f} s")  # fmt: skip
        if peer:
            call = [peer, __file__, "--peer", folder]
            theirs = json.loads(subprocess.run(call, check=True, capture_output=True).stdout)
            ours = np.array(found[:n_peer], dtype=float)
            apart = np.nanmax(np.abs(ours - np.array(theirs["found"], dtype=float)), axis=(0, 1))
            ratio = statistics.median(theirs["seconds"]) / statistics.median(seconds[:n_peer])
            print(
                f"surface-distance: {n_peer} pairs, {statistics.median(theirs['seconds']):.2f} s a "
                f"pair (median), {ratio:.1f} times as long\n"
                f"greatest difference of {ours[..., 0].size} pairs of masks: Dice {apart[0]:.1e}, "
                f"surface Dice {apart[1]:.1e}, HD95 {apart[2]:.1e} mm"
            )


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ellipsoids of 50 sizes in a body, smaller ones in front, and the same bent a little."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    size_mm = np.array(SHAPE) * SPACING_MM
    grid = [(np.arange(n) + 0.5) * edge for n, edge in zip(SHAPE, SPACING_MM, strict=True)]
    labels = np.zeros(SHAPE, dtype=np.uint8)
    volumes_ml = np.geomspace(1500, 1, N_STRUCTURES)
    for label, volume_ml in enumerate(volumes_ml, start=1):
        radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        axes_mm = radius_mm * np.array([1.2, 1.0, 1 / 1.2])
        middle = size_mm / 2 + (rng.random(3) - 0.5) * size_mm * (0.75, 0.7, 0.55)
        x, y, z = (
            ((at - where) / axis)[tuple(slice(None) if i == k else None for i in range(3))]
            for k, (at, where, axis) in enumerate(zip(grid, middle, axes_mm, strict=True))
        )
        labels[x**2 + y**2 + z**2 < 1] = label
    coarse = rng.normal(0, 2.0, (3, 8, 7, 5)) / np.array(SPACING_MM)[:, None, None, None]
    zoom = [n / c for n, c in zip(SHAPE, coarse.shape[1:], strict=True)]
    bend = np.stack([ndimage.zoom(one, zoom, order=1) for one in coarse])
    places = np.indices(SHAPE, dtype=np.float32) + bend
    return labels, ndimage.map_coordinates(labels, places, order=0, mode="nearest")


def as_peer(folder: Path) -> None:
    """Evaluate the pairs of a folder with surface-distance; print seconds and values as JSON."""
    np.Inf = np.inf  # the package is older than numpy 2
    import surface_distance as sd

    seconds, found = [], []
    for path in sorted(folder.glob("*.npy")):
        expert, model = np.load(path)
        start = time.process_time()
        rows = []
        for label in range(1, N_STRUCTURES + 1):
            masks = expert == label, model == label
            if not masks[0].any():
                rows.append([None, None, None])
                continue
            if not masks[1].any():
                rows.append([0.0, 0.0, None])
                continue
            apart = sd.compute_surface_distances(*masks, SPACING_MM)
            rows.append(
                [
                    float(sd.compute_dice_coefficient(*masks)),
                    float(sd.compute_surface_dice_at_tolerance(apart, TOLERANCE_MM)),
                    float(sd.compute_robust_hausdorff(apart, 95)),
                ]
            )
        seconds.append(time.process_time() - start)
        found.append(rows)
    print(json.dumps({"seconds": seconds, "found": found}))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--peer":
        as_peer(Path(sys.argv[2]))
    elif len(sys.argv) in (2, 4):
        with_peer = len(sys.argv) == 4
        main(int(sys.argv[1]), sys.argv[2] if with_peer else None,
             int(sys.argv[3]) if with_peer else 0)  # fmt: skip
    else:
        sys.exit(__doc__)
