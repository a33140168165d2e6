"""Profile `fast` against its parents, with a trained model on real scans.

    python benchmarks/fast_profile.py ../shared/data/chaos_mr_t2spir/images
    python benchmarks/fast_profile.py ../shared/data/chaos_mr_t2spir/images --bfloat16

The embedded model segments every scan twice: as nnU-Net does (`nnunet`) and by TotalSegmentator's
steps to the spacing of its plans (`ts218`), each with `fast` beside it. Printed: Dice and
difference of volume, per scan and structure over 1 mL, and seconds in one process. With
`--bfloat16` the processor is said to multiply bfloat16: it emulates it where it does not, and the
labels are those of one that does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.overlap import overlap_by_structure
from cohortvol.compute.processor import NATIVE_BFLOAT16
from cohortvol.stages.segment import Segmenter, infer

MODEL = Path(__file__).resolve().parent.parent / "models" / "embedded-v2"


def main() -> None:
    """Print the table and its worst rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    if options.bfloat16:
        infer.flags = lambda: frozenset(NATIVE_BFLOAT16)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        zooming = Path(temporary) / "zooming"
        shutil.copytree(MODEL, zooming)
        card = json.loads((MODEL / "card.json").read_text())
        plans = json.loads((MODEL / "parts/main/plans.json").read_text())
        spacing = plans["configurations"][card["parts"][0]["configuration"]]["spacing"]
        card |= {"spacing_mm": spacing[::-1], "profiles": ["ts218", "fast"]}
        (zooming / "card.json").write_text(json.dumps(card | {"default_profile": "ts218"}))
        for model, parent in ((MODEL, "nnunet"), (zooming, "ts218")):
            slow, fast = (Segmenter.load(model, name) for name in (parent, "fast"))
            for path in sorted(options.folder.glob("*.nii.gz")):
                rows += compare(path, parent, slow, fast)
    table = pd.DataFrame(rows)
    print(table.sort_values("dice").head(8).to_string(index=False))
    summary = table.groupby("parent").agg(
        n=("dice", "size"),
        least_dice=("dice", "min"),
        mean_dice=("dice", "mean"),
        most_volume_pct=("volume_pct", lambda values: values.abs().max()),
        mean_volume_pct=("volume_pct", "mean"),
        parent_s=("parent_s", "mean"),
        fast_s=("fast_s", "mean"),
    )
    print(summary.to_string())


def compare(path: Path, parent: str, slow: Segmenter, fast: Segmenter) -> list[dict[str, object]]:
    """One row per structure over 1 mL of a scan."""
    image = nib.load(path)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    maps, seconds = [], []
    for segmenter in (slow, fast):
        data = image.get_fdata(dtype=segmenter.dtype, caching="unchanged")
        start = time.perf_counter()
        labels, _ = segmenter.segment(data, image.affine)
        seconds.append(time.perf_counter() - start)
        maps.append(labels)
    rows: list[dict[str, object]] = []
    names = {structure: label for label, structure in slow.card.labels.items()}
    for structure, overlap in overlap_by_structure(maps[0], names, maps[1], names).items():
        if overlap.n_first * voxel_ml > 1:
            rows.append(
                {
                    "parent": parent,
                    "scan": path.name.removesuffix(".nii.gz"),
                    "structure": structure,
                    "volume_ml": overlap.n_first * voxel_ml,
                    "dice": overlap.dice,
                    "volume_pct": 100 * (overlap.n_second / overlap.n_first - 1),
                    "parent_s": seconds[0],
                    "fast_s": seconds[1],
                }
            )
    return rows


if __name__ == "__main__":
    main()
