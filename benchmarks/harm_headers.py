"""What headers that lie do to an age slope, with and without looking at the body.

    python benchmarks/harm_headers.py --out results/harm-headers

8,672 simulated subjects with known organ volumes; 1 % of the scans are mirrored left to right
under the header that they had, and 1 % have the thickness of a slice, 0.6 to 0.8 of it, for the
step. What a mirrored scan's volumes become is not assumed: simulated images are mirrored and
segmented with the embedded model, and judged by ``ingest``. Whether a wrong step is seen is asked
of ``assemble``, for each simulated scan alone among the others. Scans that are marked are left out.
Once the wrong scans are drawn at random, and once among the people of one site who are over 60.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from cohortvol.models.orientation import look
from cohortvol.stages.assemble.scale import off_scale
from cohortvol.stages.segment import Segmenter
from cohortvol.tools.simulate import cohort
from cohortvol.tools.simulate import run as simulate
from harm import N_SUBJECTS, ORGANS, draw, slope
from scale import tables

SHARE = 0.01
WAYS = ("no header wrong", "looked at", "believed")
HERE = Path(__file__).resolve().parent
Seen = tuple[dict[str, float], bool]
"""Measured over true volume by organ, and whether the scan is marked."""


def main() -> None:
    """Mirror, stretch, fit; print the slopes and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="simulated images")
    parser.add_argument("--out", type=Path, default=Path("results/harm-headers"))
    parser.add_argument("--source", type=Path, help="simulated cohort that is there already")
    options = parser.parse_args()
    source = options.source or options.out / "source"
    if options.source is None:
        simulate.run(source, n=options.images, seed=21, processes=2)
    torch.set_num_threads(2)
    mirrored = list(of_mirrored(source, options.images))
    stretched = list(of_stretched(source))
    for what, seen in (("mirrored", mirrored), ("wrong step", stretched)):
        print(f"{what}: {np.mean([marked for _, marked in seen]):.0%} of {len(seen)} marked")
    rng = np.random.default_rng(0)
    subjects = cohort.draw_subjects(N_SUBJECTS, rng)
    true_ml = cohort.draw_volumes(subjects, rng)[list(ORGANS.values())]
    site = subjects["site"].value_counts().index[-1]
    old_there = (subjects["site"] == site) & (subjects["age_years"] > 60)
    among = {"anyone": np.ones(N_SUBJECTS, bool), "people over 60 of one site": old_there}
    rows = []
    for who, which in among.items():
        hit = rng.permutation(np.flatnonzero(which))[: 2 * round(SHARE * N_SUBJECTS)]
        kinds = [(mirrored, stretched)[n % 2] for n in range(len(hit))]
        wrong = [kind[rng.integers(len(kind))] for kind in kinds]
        for way in WAYS:
            volume_ml = true_ml.copy()
            for subject, (factors, marked) in zip(hit, wrong, strict=True):
                if way == "looked at" and marked:
                    volume_ml.loc[subject] = np.nan
                elif way != "no header wrong":
                    volume_ml.loc[subject] *= pd.Series(factors)
            for organ in ORGANS.values():
                rows.append((who, organ, way, *slope(subjects, volume_ml[organ])))
    columns = ["broken among", "organ", "way", "ml_per_decade", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=columns)
    print(table.round(2).to_string(index=False))
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "harm_headers.csv", index=False)
    draw(table, HERE / "harm_headers.png")


def of_mirrored(source: Path, n_images: int):
    """What each image becomes when it is mirrored; an organ that is not found is not there."""
    segmenter = Segmenter.load(HERE.parent / "models" / "embedded-v2", device="cpu")
    label_of = {name: label for label, name in segmenter.card.labels.items()}
    for path in sorted((source / "images").glob("*.nii.gz"))[:n_images]:
        image, labels = nib.load(path), nib.load(source / "labels" / path.name)
        axis = next(n for n, code in enumerate(nib.aff2axcodes(image.affine)) if code in "LR")
        voxels = np.flip(image.get_fdata(dtype=np.float32), axis)
        found, _ = segmenter.segment(voxels, image.affine)
        truth = np.asarray(labels.dataobj)
        factors = {
            organ: np.count_nonzero(found == label_of[organ]) / np.count_nonzero(truth == label)
            for label, organ in ORGANS.items()
            if (truth == label).any()
        }
        missing = {organ: np.nan for organ, factor in factors.items() if factor == 0}
        yield factors | missing, look(voxels, image.affine).is_turned


def of_stretched(source: Path):
    """Each scan with a step that is 0.6 to 0.8 of what it is, alone among the others."""
    volumes, scans = tables(source / "labels", 1)
    rng = np.random.default_rng(1)
    for row in range(len(scans)):
        factor = float(rng.uniform(0.6, 0.8))
        changed = scans.copy()
        edges = changed[[f"spacing_{axis}_mm" for axis in "ijk"]].iloc[row]
        changed.loc[changed.index[row], edges.idxmax()] *= factor
        marked = scans["scan_id"].iloc[row] in off_scale(volumes, changed).index
        yield dict.fromkeys(ORGANS.values(), factor), marked


if __name__ == "__main__":
    main()
