"""The embedded model on real scans it was not trained on: what it finds, beside the reference.

    python benchmarks/embedded_on_real_scans.py DATA

DATA holds ``ukat_renal_mr`` (three coronal dual-echo series with manual kidney outlines)
and ``totalsegmentator_refs`` (a small MR and TotalSegmentator's own output on it, which is no
expert truth). Prints a table of what `cohortvol evaluate` measures, with the ends of each volume's
interval; the figures on the card of the model come from here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.models.intervals import Softmax, interval, softmax_by_label
from cohortvol.stages.segment import Segmenter
from cohortvol.tools.evaluate.labels import LabelMap, read_masks, read_nifti
from cohortvol.tools.evaluate.measures import measure_pair

SHOWN = ("structure", "dice", "nsd", "hd95_mm", "model_ml", "expert_ml")
SIDES = {"L": "kidney_left", "R": "kidney_right"}


def main(data: Path) -> None:
    """Segment the four scans and print overlap, distances and volumes."""
    segmenter = Segmenter.load(Path(__file__).parents[1] / "models" / "embedded-v2")
    rows = []
    for series in sorted((data / "ukat_renal_mr").glob("*_01")):
        outlines = sorted(series.glob("*_roi-[LR].nii.gz"))
        image = outlines[0].with_name(outlines[0].name.replace("_roi-L", ""))
        expert = read_masks({SIDES[outline.name[-8]]: outline for outline in outlines})
        rows += _measured(segmenter, series.name, image, expert)
    folder = data / "totalsegmentator_refs"
    theirs = read_nifti(folder / "example_seg_mr.nii.gz", None)
    rows += _measured(segmenter, "example_mr_sm", folder / "example_mr_sm.nii.gz", theirs)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


def _measured(
    segmenter: Segmenter, scan: str, path: Path, expert: LabelMap
) -> list[dict[str, object]]:
    image = nib.load(path)
    predicted = segmenter.predict(
        segmenter.prepare(image.get_fdata(dtype=np.float32), image.affine)
    )
    softmax = softmax_by_label(predicted.softmax)
    labels = {name: index for index, name in segmenter.card.labels.items()}
    found = LabelMap(segmenter.finish(predicted), image.affine, labels)
    rows: list[dict[str, object]] = []
    for one in measure_pair(expert, found, tolerance_mm=3.0):
        row = {"scan": scan, **{name: one.get(name) for name in SHOWN}}
        rows.append(row | _interval(segmenter, str(one["structure"]), row, softmax))
    return rows


def _interval(
    segmenter: Segmenter, structure: str, row: dict[str, object], softmax: Softmax
) -> dict[str, object]:
    """Ends of the interval of a row's volume, and whether the reference lies between them."""
    label = {name: index for index, name in segmenter.card.labels.items()}[structure]
    calibration = segmenter.card.calibration(segmenter.profile.name)
    if label not in softmax or calibration is None:
        return {}
    factor = calibration.structures.get(structure)
    one = interval(row["model_ml"], *softmax[label], factor, calibration.source)
    covered = one.low_ml <= row["expert_ml"] <= one.high_ml
    return {"low_ml": one.low_ml, "high_ml": one.high_ml, "covered": covered}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
