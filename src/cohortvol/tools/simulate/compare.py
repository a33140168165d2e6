"""What the workflow found in a simulated cohort, beside what was planted there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.anatomy.nifti import image_of
from cohortvol.anatomy.overlap import dice_by_structure
from cohortvol.store import of_scans, schemas, tables
from cohortvol.store.text_table import read_frame
from cohortvol.tools.simulate.image import ORGANS
from cohortvol.tools.simulate.run import TRUTH

FULLY_IN_VIEW = 0.999


def volumes_against_truth(source: Path, results: Path) -> pd.DataFrame:
    """Accuracy per structure over the scans whose organ is wholly inside the field of view.

    Parameters
    ----------
    source : Path
        Folder that ``cohortvol simulate --out`` made.
    results : Path
        Results folder of the workflow on its manifest.

    Returns
    -------
    pandas.DataFrame
        ``structure, n, correlation`` (Pearson, of volumes), ``mean_absolute_error_pct``,
        ``mean_error_pct`` (of the volume drawn) and ``dice_mean`` (on the scan's own grid).
    """
    truth = tables.read_table(source / "truth.parquet", TRUTH)
    found = tables.read_table(results / "volumes.parquet", schemas.VOLUMES)
    scans = tables.read_table(results / "scans.parquet", schemas.SCANS)
    label_maps = scans.dropna(subset=["label_map"]).set_index("scan_id")["label_map"]
    both = truth.merge(
        found[["scan_id", "structure", "volume_ml"]],
        on=["scan_id", "structure"],
        suffixes=("_true", "_measured"),
        validate="1:1",
    ).dropna(subset=["volume_ml_measured"])
    both = both[both["in_view"] > FULLY_IN_VIEW]
    labels = found.dropna(subset=["label"]).drop_duplicates("structure")
    label_of = labels.set_index("structure")["label"].to_dict()
    dice = {
        scan_id: _dice(source / "labels" / f"{scan_id}.nii.gz", results / label_map, label_of)
        for scan_id, label_map in label_maps.items()
    }
    rows = []
    for structure, part in both.groupby("structure", sort=False):
        error = 100 * (part["volume_ml_measured"] / part["volume_ml_true"] - 1)
        rows.append(
            {
                "structure": structure,
                "n": len(part),
                "correlation": np.corrcoef(part["volume_ml_true"], part["volume_ml_measured"])[0, 1]
                if len(part) > 1
                else np.nan,
                "mean_absolute_error_pct": error.abs().mean(),
                "mean_error_pct": error.mean(),
                "dice_mean": np.mean(
                    [dice[scan_id][str(structure)] for scan_id in part["scan_id"]]
                ),
            }
        )
    return pd.DataFrame(rows)


def slopes_against_planted(planted: Path, slopes: Path) -> pd.DataFrame:
    """Planted slopes beside recovered ones, with their intervals, in percent per decade.

    Parameters
    ----------
    planted, slopes : Path
        ``planted.csv`` of the simulation, ``analyse/slopes.parquet`` of the analysis.

    Returns
    -------
    pandas.DataFrame
        ``structure, sex, model, planted, recovered, ci_low, ci_high, n_used, covered``.
    """
    wanted = read_frame(planted)
    found = pd.read_parquet(slopes)
    both = found.merge(wanted, on=["structure", "sex", "model"], validate="1:1")
    both = both.sort_values(["structure", "model", "sex"], kind="stable")
    low, high = both["slope_pct_per_decade_ci_low"], both["slope_pct_per_decade_ci_high"]
    return pd.DataFrame(
        {
            "structure": both["structure"],
            "sex": both["sex"],
            "model": both["model"],
            "planted": both["planted_pct_per_decade"],
            "recovered": both["slope_pct_per_decade"],
            "ci_low": low,
            "ci_high": high,
            "n_used": both["n_used"],
            "covered": both["planted_pct_per_decade"].between(low, high),
        }
    ).reset_index(drop=True)


def _dice(drawn: Path, found: Path, label_of: Mapping[str, int]) -> dict[str, float]:
    """Dice of the organs that the model knows, whatever label and layer it gives them."""
    truth, labels = (np.asarray(image_of(of_scans.read(file)).dataobj) for file in (drawn, found))
    drawn_labels = {name: index for index, name in enumerate(ORGANS, start=1)}
    return dice_by_structure(truth, drawn_labels, labels, label_of)
