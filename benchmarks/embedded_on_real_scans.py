"""The embedded model on real scans it was not trained on: what it finds, beside the reference.

    python benchmarks/embedded_on_real_scans.py DATA

DATA holds ``ukat_renal_mr`` (three coronal dual-echo series with manual kidney outlines)
and ``totalsegmentator_refs`` (a small MR and TotalSegmentator's own output on it, which is no
expert truth). Prints a table, with the ends of each volume's interval; the figures on the card of
the model come from here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.geometry import voxel_volume_ml
from cohortvol.intervals import Softmax, interval, softmax_by_label
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
        found, softmax, affine = _segment(segmenter, image)
        for outline in outlines:
            side = {"L": "kidney_left", "R": "kidney_right"}[outline.name[-8]]
            mask = np.asarray(nib.load(outline).dataobj) > 0
            row = _row(series.name, side, found == names[side], mask, affine)
            rows.append(row | _interval(segmenter, side, row, softmax))
    folder = data / "totalsegmentator_refs"
    found, softmax, affine = _segment(segmenter, folder / "example_mr_sm.nii.gz")
    theirs = np.asarray(nib.load(folder / "example_seg_mr.nii.gz").dataobj)
    for structure, index in TOTAL_MR.items():
        mask = theirs == index
        row = _row("example_mr_sm", structure, found == names[structure], mask, affine)
        rows.append(row | _interval(segmenter, structure, row, softmax))
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


def _segment(segmenter: Segmenter, path: Path) -> tuple[np.ndarray, Softmax, np.ndarray]:
    image = nib.load(path)
    predicted = segmenter.predict(
        segmenter.prepare(image.get_fdata(dtype=np.float32), image.affine)
    )
    return segmenter.finish(predicted), softmax_by_label(predicted.softmax), image.affine


def _interval(
    segmenter: Segmenter, structure: str, row: dict[str, object], softmax: Softmax
) -> dict[str, object]:
    """Ends of the interval of a row's volume, and whether the reference lies between them."""
    label = {name: index for index, name in segmenter.card.labels.items()}[structure]
    calibration = segmenter.card.calibration(segmenter.profile.name)
    if label not in softmax or calibration is None:
        return {}
    factor = calibration.structures.get(structure)
    one = interval(row["volume_ml"], *softmax[label], factor, calibration.source)
    covered = one.low_ml <= row["reference_ml"] <= one.high_ml
    return {"low_ml": one.low_ml, "high_ml": one.high_ml, "covered": covered}


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
