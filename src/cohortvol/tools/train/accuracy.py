"""How good a training is on the subjects it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import voxel_volume_ml
from cohortvol.anatomy.overlap import overlap_by_structure
from cohortvol.models.intervals import OUT_OF_FOLD, Calibration, Case, calibrate, softmax_by_label
from cohortvol.tools.train.cases import cases_of_part, mri_or_all, read_image
from cohortvol.tools.train.folds import SOFTMAX, fold_folder
from cohortvol.tools.train.prepare import dataset_name
from cohortvol.tools.train.recipe import Recipe

COLUMNS = ("case", "modality", "structure", "volume_ml", "true_ml", "dice", "spread_ratio")


def held_out_volumes(recipe: Recipe, part: str, cases: pd.DataFrame, work: Path) -> pd.DataFrame:
    """Every structure of a part in every held-out case, by a network that has not seen it.

    Parameters
    ----------
    cases : pandas.DataFrame
        Of the recipe, from `cohortvol.tools.train.cases.cases_of`.
    work : Path
        Of the part.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; ``spread_ratio`` null where nothing was found; no row for what the expert's
        label map does not hold. The part's own label map, before parts are merged.
    """
    rows = []
    labels = {structure: index for index, structure in recipe.labels_of(part).items()}
    modality = cases_of_part(recipe, part, cases).set_index("case")["modality"]
    experts = work / "raw" / dataset_name(recipe) / "labelsTr"
    for fold in map(str, range(recipe.n_folds)):
        validation = fold_folder(recipe, work, fold) / "validation"
        kept = json.loads((validation / SOFTMAX).read_text(encoding="utf-8"))
        for case in sorted(kept):
            ours, affine = read_image(validation / f"{case}.nii.gz")
            expert, _ = read_image(experts / f"{case}.nii.gz")
            voxel_ml, softmax = voxel_volume_ml(affine), softmax_by_label(kept[case])
            for structure, found in overlap_by_structure(ours, labels, expert, labels).items():
                if found.n_second:
                    spread = softmax.get(labels[structure], (np.nan, np.nan))[1]
                    volumes = (found.n_first * voxel_ml, found.n_second * voxel_ml)
                    rows.append((case, modality[case], structure, *volumes, found.dice, spread))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def out_of_fold_accuracy(held_out: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Dice and volume error per structure, from rows of `held_out_volumes`.

    Returns
    -------
    dict
        Per structure: ``n``, ``dice_mean``, ``dice_min``, ``volume_error_pct_mean`` (signed)
        and ``volume_error_pct_mean_absolute``.
    """
    accuracy = {}
    for structure, part in held_out.groupby("structure", sort=False):
        error_pct = 100 * (part["volume_ml"] / part["true_ml"] - 1)
        accuracy[str(structure)] = {
            "n": len(part),
            "dice_mean": round(part["dice"].mean(), 4),
            "dice_min": round(part["dice"].min(), 4),
            "volume_error_pct_mean": round(error_pct.mean(), 2),
            "volume_error_pct_mean_absolute": round(error_pct.abs().mean(), 2),
        }
    return accuracy


def accuracy_by_modality(held_out: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """`out_of_fold_accuracy` of the scans a model is for, and of the CT it learnt from beside it.

    Returns
    -------
    dict
        ``out_of_fold`` of the MRI, or of the CT where there is no MRI; ``out_of_fold_ct`` of the
        CT where there are both.
    """
    parts = dict(list(held_out.groupby("modality")))
    if len(parts) < 2:
        return {"out_of_fold": out_of_fold_accuracy(held_out)}
    return {
        "out_of_fold": out_of_fold_accuracy(parts["MR"]),
        "out_of_fold_ct": out_of_fold_accuracy(parts["CT"]),
    }


def out_of_fold_calibration(held_out: pd.DataFrame) -> dict[str, Any]:
    """What volume intervals are worth, for the card: one interval per MRI case found.

    Of CT where there is no MRI; empty where no structure was found at all.
    """
    mine = mri_or_all(held_out)
    found = mine[(mine["volume_ml"] > 0) & mine["spread_ratio"].notna()]
    factors = calibrate(
        Case(row.structure, row.volume_ml, row.true_ml, row.spread_ratio)
        for row in found.itertuples()
    )
    if not factors:
        return {}
    return Calibration(
        source=OUT_OF_FOLD,
        profile="nnunet",
        structures=factors,
        note=f"{found['case'].nunique()} cases held out by the folds; the final network saw them",
    ).to_card()
