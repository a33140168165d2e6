"""How often a mirrored or turned body is found, and how often a sound one is called so.

    cohortvol train-orientation --real CHAOS/images --simulated TRAIN/images --out TRAINED
    cohortvol simulate --out TEST --n 60 --seed 77
    python benchmarks/orientation.py --out-of-fold TRAINED/out_of_fold.csv --simulated TEST \
        --image CORONAL.nii.gz --image CT.nii.gz

Every scan is judged as it is and in the 47 other ways. Real scans of training were scored by
networks that had not seen them; simulated ones are new to the network, and every second one is cut
to a slab of 40 to 70 % along one of its axes. Other images are judged as they are.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.models.orientation import (
    TURNS,
    Weights,
    in_words,
    judge,
    look,
    packaged,
    picture,
    scores,
    turned,
)

MIRRORED = TURNS.index(((0, 1, 2), (True, False, False)))


def order_in(turn: int) -> np.ndarray:
    """Of the scores of a picture, those of the picture turned: which one stands where."""
    marked = np.arange(27).reshape(3, 3, 3)
    places = {turned(marked, one).tobytes(): n for n, one in enumerate(TURNS)}
    again = turned(marked, TURNS[turn])
    return np.array([places[turned(again, one).tobytes()] for one in TURNS])


ORDERS = [order_in(turn) for turn in range(len(TURNS))]
UNDOING = [int(np.flatnonzero(order == 0)[0]) for order in ORDERS]
"""For each turn, the one that undoes it."""


def judged(scored: np.ndarray) -> pd.DataFrame:
    """What is said of one scan in each of the 48 ways."""
    verdicts = [judge(scored[order]) for order in ORDERS]
    return pd.DataFrame({
        "turn": range(len(TURNS)), "is_called": [one.turn is not None for one in verdicts],
        "is_right": [one.turn == TURNS[back] for one, back in zip(verdicts, UNDOING, strict=True)],
        "is_alarm": [one.is_turned for one in verdicts],
    })  # fmt: skip


def of_folder(folder: Path, weights: Weights, cut: bool) -> pd.DataFrame:
    """Of all images that `simulate` made, by sequence; every second one cut, with `cut`."""
    sequences = pd.read_csv(folder / "manifest.csv").set_index("scan_id")["sequence"]
    rng = np.random.default_rng(0)
    found = []
    for n, (scan, sequence) in enumerate(sequences.items()):
        image = nib.load(folder / "images" / f"{scan}.nii.gz")
        voxels = np.asanyarray(image.dataobj)
        is_cut = cut and n % 2 == 1
        if is_cut:
            axis = int(rng.integers(3))
            size = voxels.shape[axis]
            length = int(size * rng.uniform(0.4, 0.7))
            start = int(rng.integers(0, size - length + 1))
            voxels = np.take(voxels, range(start, start + length), axis)
        scored = scores(picture(voxels, image.affine), weights)
        group = f"simulated {sequence}, {'slab' if is_cut else 'whole'}"
        found.append(judged(scored).assign(scan=scan, group=group))
    return pd.concat(found)


def summary(rows: pd.DataFrame, group: str) -> str:
    """One line of the table."""
    sound, other = rows[rows["turn"] == 0], rows[rows["turn"] > 0]
    called, mirrored = other[other["is_called"]], other[other["turn"] == MIRRORED]
    left_right = mirrored[mirrored["is_called"]]
    return (
        f"| {group} | {rows['scan'].nunique()} | {100 * called['is_right'].mean():.1f} "
        f"| {100 * left_right['is_right'].mean():.1f} | {100 * (~other['is_called']).mean():.1f} "
        f"| {100 * (~mirrored['is_called']).mean():.1f} "
        f"| {100 * (~sound['is_called']).mean():.1f} | {int(sound['is_alarm'].sum())} |"
    )


def main() -> None:
    """Print a table by group, what is said of other images, and the time of a scan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-of-fold", type=Path)
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--image", type=Path, action="append", default=[])
    options = parser.parse_args()
    found = []
    if options.out_of_fold:
        table = pd.read_csv(options.out_of_fold).set_index("scan")
        found += [
            judged(scored).assign(scan=scan, group="real, out of fold")
            for scan, scored in zip(table.index, table.to_numpy(), strict=True)
        ]
    if options.simulated:
        found.append(of_folder(options.simulated, packaged(), cut=True))
    if found:
        rows = pd.concat(found)
        print(
            "| scans | n | right of those called turned or not, % | left-right alone "
            "| cannot tell, % | left-right alone | sound: cannot tell, % | called turned |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for group, some in rows.groupby("group"):
            print(summary(some, group))
        print(summary(rows, "all"))
    for path in options.image:
        image = nib.load(path)
        voxels = np.asanyarray(image.dataobj)
        voxels = voxels.reshape((*voxels.shape[:3], -1))[..., 0]
        start = time.perf_counter()
        verdict = look(voxels, image.affine)
        words = in_words(verdict.turn) if verdict.turn else "cannot tell"
        print(f"{path}: {words}, p {verdict.probability:.3f}, {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
