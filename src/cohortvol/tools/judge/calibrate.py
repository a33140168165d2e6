"""What the volume intervals of a model are worth, measured on labelled scans new to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import voxel_volume_ml
from cohortvol.anatomy.overlap import dice_by_structure
from cohortvol.errors import ConfigError
from cohortvol.models.card import choose_profile, load_card
from cohortvol.models.inference import SOFTMAX, recipe_of
from cohortvol.models.intervals import (
    EXPERT,
    SIMULATED,
    Calibration,
    Case,
    calibrate,
    interval,
    softmax_by_label,
)
from cohortvol.stages.segment.infer import Segmenter
from cohortvol.store.schemas import Column, real, text
from cohortvol.store.tables import read_table
from cohortvol.tools.judge.labelled import (
    label_names,
    labelled_scans,
    of_every_scan,
    read_channels,
    read_labels,
)

TRUTH = {
    "scan_id": Column(text, "image without its ending"),
    "structure": Column(text, "anatomical structure"),
    "volume_ml": Column(real, "volume drawn, mL"),
    "in_view": Column(real, "share of it inside the field of view"),
}
"""What is read of the ``truth.parquet`` beside simulated scans."""


def measured(
    model: Path, labelled: Path, profile: str | None = None, device: str = "auto", threads: int = 0
) -> pd.DataFrame:
    """Every structure of every labelled scan as the model finds it, beside what it is.

    Parameters
    ----------
    model : Path
        Model folder.
    labelled : Path
        See `labelled_scans` and `label_names`. A folder that ``cohortvol simulate`` made has the
        volumes that were drawn in ``truth.parquet``, which are taken instead of voxel counts.
    profile, device, threads
        As for `Segmenter.load`.

    Returns
    -------
    pandas.DataFrame
        ``scan, structure, volume_ml, true_ml, expected_ratio, spread_ratio, dice``; no row where
        either finds nothing of the structure. Cut structures count as far as they are in view.
    """
    card = load_card(model)
    scans, names = labelled_scans(labelled, card), label_names(labelled, card)
    truth = _truth(labelled)
    chosen = recipe_of(choose_profile(card, profile).name) + SOFTMAX
    segmenter = Segmenter.load(model, chosen, device=device, threads=threads)
    rows = []
    for name, found in of_every_scan(scans, lambda files: _one_scan(segmenter, *files, names)):
        for row in found:
            row["true_ml"] = truth.get((name, str(row["structure"])), row["true_ml"])
            rows.append({"scan": name, **row})
    if not rows:
        raise ConfigError(f"{labelled}: no structure of model {card.id} was found in any scan")
    return pd.DataFrame(rows)


def _truth(labelled: Path) -> dict[tuple[str, str], float]:
    if not is_simulated(labelled):
        return {}
    table = read_table(labelled / "truth.parquet", TRUTH).set_index(["scan_id", "structure"])
    return dict((table["volume_ml"] * table["in_view"]).items())


def is_simulated(labelled: Path) -> bool:
    """Whether ``cohortvol simulate`` made the folder, so that no expert stands behind it."""
    return (labelled / "truth.parquet").is_file()


def _one_scan(
    segmenter: Segmenter, images: Sequence[Path], label_map: Path, names: Mapping[int, str]
) -> list[dict[str, object]]:
    scan = read_channels(images, segmenter.dtype)
    drawn = read_labels(label_map, scan)
    predicted = segmenter.predict(segmenter.prepare(scan.data, scan.affine))
    labels = segmenter.finish(predicted).reshape(*scan.data.shape[:3], -1)
    softmax = softmax_by_label(predicted.softmax)
    index_of = {structure: index for index, structure in names.items()}
    own = {structure: label for label, structure in segmenter.card.labels.items()}
    dice = dice_by_structure(labels, own, drawn, index_of)
    voxel_ml = voxel_volume_ml(scan.affine)
    rows: list[dict[str, object]] = []
    for layer, structures in enumerate(segmenter.card.labels_by_layer):
        for label, structure in structures.items():
            n_found = int((labels[..., layer] == label).sum())
            n_true = int((drawn == index_of.get(structure, -1)).sum())
            if not n_found or not n_true or label not in softmax:
                continue
            rows.append(
                {
                    "structure": structure,
                    "volume_ml": n_found * voxel_ml,
                    "true_ml": n_true * voxel_ml,
                    "expected_ratio": softmax[label][0],
                    "spread_ratio": softmax[label][1],
                    "dice": dice[structure],
                }
            )
    return rows


def calibration_of(
    found: pd.DataFrame, labelled: Path, profile: str, note: str = ""
) -> Calibration:
    """What the intervals of a model are worth, from `measured`."""
    cases = (
        Case(row.structure, row.volume_ml, row.true_ml, row.spread_ratio)
        for row in found.itertuples()
    )
    return Calibration(
        source=SIMULATED if is_simulated(labelled) else EXPERT,
        profile=recipe_of(profile),
        structures=calibrate(cases),
        note=note or f"{found['scan'].nunique()} scans",
    )


def coverage(found: pd.DataFrame, calibration: Calibration | None) -> pd.DataFrame:
    """How many true volumes a calibration's intervals hold, per structure.

    Returns
    -------
    pandas.DataFrame
        ``structure, n, dice_mean, mean_absolute_error_pct, q, level_pct``, both null where the
        structure is not calibrated; ``covered_pct``, of the `n`; ``width_pct``, mean width of an
        interval in % of the volume counted.
    """
    source = "" if calibration is None else calibration.source
    rows = []
    for structure, part in found.groupby("structure", sort=False):
        factor = None if calibration is None else calibration.structures.get(str(structure))
        intervals = [
            interval(row.volume_ml, row.expected_ratio, row.spread_ratio, factor, source)
            for row in part.itertuples()
        ]
        low = np.array([one.low_ml for one in intervals])
        high = np.array([one.high_ml for one in intervals])
        error = part["volume_ml"] / part["true_ml"] - 1
        rows.append(
            {
                "structure": structure,
                "n": len(part),
                "dice_mean": part["dice"].mean(),
                "mean_absolute_error_pct": 100 * error.abs().mean(),
                "q": np.nan if factor is None else factor.q,
                "level_pct": np.nan if factor is None else 100 * factor.level,
                "covered_pct": 100 * part["true_ml"].between(low, high).mean(),
                "width_pct": 100 * ((high - low) / part["volume_ml"]).mean(),
            }
        )
    return pd.DataFrame(rows)
