"""The embedded model on real scans it was not trained on: what it finds, beside the reference.

    python benchmarks/embedded_on_real_scans.py DATA

DATA holds ``ukat_renal_mr`` (three coronal dual-echo series with manual kidney outlines)
and ``totalsegmentator_refs`` (a small MR and TotalSegmentator's own output on it, which is no
expert truth). Prints a table; the figures on the card of the model come from here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.geometry import voxel_volume_ml
from cohortvol.segment import Segmenter

TOTAL_MR = {"spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5}
"""Label index of TotalSegmentator's ``total_mr``."""


def main(data: Path) -> None:
    """Segment the four scans and print Dice and volumes."""
    segmenter = Segmenter.load(Path(__file__).parents[1] / "models" / "embedded-v1")
    names = {name: index for index, name in segmenter.card.labels.items()}
    rows = []
    for series in sorted((data / "ukat_renal_mr").glob("*_01")):
        outlines = sorted(series.glob("*_roi-[LR].nii.gz"))
        image = outlines[0].with_name(outlines[0].name.replace("_roi-L", ""))
        found, affine = _segment(segmenter, image)
        for outline in outlines:
            side = {"L": "kidney_left", "R": "kidney_right"}[outline.name[-8]]
            mask = np.asarray(nib.load(outline).dataobj) > 0
            rows.append(_row(series.name, side, found == names[side], mask, affine))
    folder = data / "totalsegmentator_refs"
    found, affine = _segment(segmenter, folder / "example_mr_sm.nii.gz")
    theirs = np.asarray(nib.load(folder / "example_seg_mr.nii.gz").dataobj)
    for structure, index in TOTAL_MR.items():
        mask = theirs == index
        rows.append(_row("example_mr_sm", structure, found == names[structure], mask, affine))
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


def _segment(segmenter: Segmenter, path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    labels, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
    return labels, image.affine


def _row(
    scan: str, structure: str, ours: np.ndarray, reference: np.ndarray, affine: np.ndarray
) -> dict[str, object]:
    size = ours.sum() + reference.sum()
    return {
        "scan": scan,
        "structure": structure,
        "dice": 2 * (ours & reference).sum() / size if size else np.nan,
        "volume_ml": ours.sum() * voxel_volume_ml(affine),
        "reference_ml": reference.sum() * voxel_volume_ml(affine),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
