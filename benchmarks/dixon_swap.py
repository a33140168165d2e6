"""Fat-water swaps in simulated Dixon images: how often the rule of `measure` is right.

    python benchmarks/dixon_swap.py N [SEED]

N people, each imaged twice under the name of a Dixon water image: as that, and swapped, as the
fat image. Organs come from the embedded model, which was trained on no Dixon fat image; beside it
from the label maps that were drawn. Printed: sensitivity and specificity of water images called
so, and of fat images called so, with the ratios they rest on. Simulated images only.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.stages.measure.dixon import SWAP_RATIO, is_swapped, organ_ratios
from cohortvol.stages.segment import Segmenter
from cohortvol.tools.simulate.image import ORGANS
from cohortvol.tools.simulate.run import one_scan

DRAWN = dict(enumerate(ORGANS, start=1))


def main(n: int, seed: int) -> None:
    """Simulate, segment and judge, and print the two tables."""
    segmenter = Segmenter.load(Path(__file__).parents[1] / "models" / "embedded-v2")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(n):
            for shown in ("water", "fat"):
                row, _ = one_scan(Path(folder), seed, index, dixon=shown)
                image = nib.load(Path(folder) / str(row["image"]))
                grey = np.asarray(image.dataobj)
                drawn = np.asarray(
                    nib.load(Path(folder) / f"labels/{row['scan_id']}.nii.gz").dataobj
                )
                found, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
                for name, labels, names in (
                    (segmenter.card.id, found, segmenter.card.labels), ("drawn", drawn, DRAWN),
                ):  # fmt: skip
                    rows.append(_judged(grey, labels, names) | {"labels": name, "shown": shown})
    table = pd.DataFrame(rows)
    print(table.groupby(["labels", "shown"])[["least_ratio", "most_ratio"]].agg(["min", "max"]))
    for name, part in table.groupby("labels"):
        for called in ("water", "fat"):
            wrong, right = part[part["shown"] != called], part[part["shown"] == called]
            print(
                f"{name}, called {called}: sensitivity {int(wrong[called].sum())} of {len(wrong)}, "
                f"specificity {int((~right[called]).sum())} of {len(right)} (ratio {SWAP_RATIO})"
            )


def _judged(grey: np.ndarray, labels: np.ndarray, names: dict[int, str]) -> dict[str, object]:
    layers = [(labels, names)]
    ratios = organ_ratios(grey, layers).values()
    return {
        "least_ratio": min(ratios, default=np.nan),
        "most_ratio": max(ratios, default=np.nan),
        **{called: is_swapped(grey, layers, called) for called in ("water", "fat")},
    }


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 77)
