"""Two models, or two profiles, on the same scans: how far their label maps agree."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import check_same_grid
from cohortvol.anatomy.nifti import image_of
from cohortvol.anatomy.overlap import dice_by_structure
from cohortvol.errors import ConfigError, GeometryError, did_you_mean
from cohortvol.store import of_scans
from cohortvol.store.schemas import AGREEMENT, SEGMENT, SHARDS, VOLUMES
from cohortvol.store.tables import append_rows, read_table, write_table

log = logging.getLogger(__name__)

NOT_COMPARED = "QC_NOT_COMPARED"


def run(
    results: Path,
    model: str,
    other_model: str,
    other_results: Path | None = None,
    shards: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare the label maps of two models scan by scan; write ``agreement/<model>/<shard>``.

    Structures are compared by their name: names are TotalSegmentator's, one for each SNOMED code
    and side, and what two models mean differently has two names, as "spine" and "vertebrae".

    Parameters
    ----------
    results : Path
        Results folder, measured with `model`.
    model, other_model : str
        Model ids.
    other_results : Path, optional
        Results folder of a run with `other_model` on the same scans; `results` without it. Two
        profiles of one model need two folders, as one folder holds one profile of a model.
    shards : sequence of str
        Shards to compare; all of the folder if empty.

    Returns
    -------
    pandas.DataFrame
        Rows of AGREEMENT of these shards.

    Raises
    ------
    ConfigError
        If both are the same label maps, or there are none of the other model.
    TableError
        If a shard has not been measured with `model`.
    """
    elsewhere = results if other_results is None else other_results
    if model == other_model and elsewhere.resolve() == results.resolve():
        raise ConfigError(
            f"{results}: {model} would be compared with itself\n"
            "  Give another model with --other-model, or the folder of a run with another profile "
            "with --other-results."
        )
    other = _Other(elsewhere, other_model)
    tables = []
    for shard in shards or _measured_shards(results, model):
        rows = append_rows(list(_of_shard(results, model, shard, other)), AGREEMENT)
        write_table(results / "agreement" / model / f"{shard}.parquet", rows, AGREEMENT)
        n_compared = rows.loc[rows["reason"].isna(), "scan_id"].nunique()
        log.info("%s: %d of %d compared", shard, n_compared, rows["scan_id"].nunique())
        tables.append(rows)
    return pd.concat(tables, ignore_index=True) if tables else append_rows([], AGREEMENT)


class _Other:
    """What another model made of the scans, found by scan_id in whichever shard it lies there."""

    def __init__(self, results: Path, model: str) -> None:
        self.results = results
        self.model = model
        folder = results / "measure"
        if not (folder / model).is_dir():
            there = sorted(path.name for path in folder.glob("*/"))
            raise ConfigError(
                f"{folder}: nothing was measured with {model!r}{did_you_mean(model, there)}\n"
                f"  Run the workflow with model={model} results={results} on the same manifest."
            )
        columns = {name: SHARDS[name] for name in ("scan_id", "shard")}
        shards = read_table(results / "manifest" / "shards.parquet", columns)
        self._shard_of = dict(zip(shards["scan_id"], shards["shard"], strict=True))
        self._tables = lru_cache(maxsize=4)(self._read)

    def scan(self, scan_id: str) -> tuple[dict[str, Any], pd.DataFrame] | None:
        """Row of SEGMENT and rows of VOLUMES of a scan; None if it has no label map."""
        shard = self._shard_of.get(scan_id)
        if shard is None or not self._path("measure", shard).exists():
            return None
        segmented, volumes = self._tables(shard)
        return (segmented[scan_id], volumes[scan_id]) if scan_id in segmented else None

    def _path(self, stage: str, shard: str) -> Path:
        return self.results / stage / self.model / f"{shard}.parquet"

    def _read(self, shard: str) -> tuple[dict[str, dict[str, Any]], dict[str, pd.DataFrame]]:
        return _read_shard(self._path("segment", shard), self._path("measure", shard))


def _read_shard(
    segment: Path, measure: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, pd.DataFrame]]:
    """Rows of the scans that have a label map and volumes, by scan_id."""
    volumes = {str(name): rows for name, rows in read_table(measure, VOLUMES).groupby("scan_id")}
    segmented = read_table(segment, SEGMENT)
    rows = segmented[segmented["state"] == "segmented"].to_dict("records")
    return {row["scan_id"]: row for row in rows if row["scan_id"] in volumes}, volumes


def _measured_shards(results: Path, model: str) -> list[str]:
    return sorted(path.stem for path in (results / "measure" / model).glob("[0-9]*.parquet"))


def _of_shard(results: Path, model: str, shard: str, other: _Other) -> Iterator[dict[str, Any]]:
    segmented, volumes = _read_shard(
        results / "segment" / model / f"{shard}.parquet",
        results / "measure" / model / f"{shard}.parquet",
    )
    for scan_id in sorted(segmented):
        ours = segmented[scan_id]
        known = {
            "scan_id": scan_id,
            "model": model,
            "profile": ours["profile"],
            "other_model": other.model,
        }
        theirs = other.scan(scan_id)
        if theirs is None:
            yield known | {"reason": NOT_COMPARED}
            continue
        known |= {
            "other_profile": theirs[0]["profile"],
            "other_segmentation_key": theirs[0]["segmentation_key"],
        }
        try:
            compared = compare(
                _label_map(results, ours), volumes[scan_id],
                _label_map(other.results, theirs[0]), theirs[1],
            )  # fmt: skip
            if ours["image_sha256"] != theirs[0]["image_sha256"]:
                raise ValueError("the two models saw different bytes of the image")
        except (OSError, ValueError, GeometryError) as error:
            log.warning("%s: not compared: %s", scan_id, str(error).splitlines()[0])
            yield known | {"reason": NOT_COMPARED}
            continue
        for row in compared.to_dict("records"):
            yield known | row


def _label_map(results: Path, segmented: Mapping[str, Any]) -> nib.Nifti1Image:
    path = results / segmented["label_map"]
    try:
        content = of_scans.read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path.name} is missing") from error
    if hashlib.sha256(content).hexdigest() != segmented["label_map_sha256"]:
        raise ValueError(f"{path.name} is not the file that segment wrote")
    image: nib.Nifti1Image = image_of(content)
    return image


def compare(
    first: nib.Nifti1Image,
    first_volumes: pd.DataFrame,
    second: nib.Nifti1Image,
    second_volumes: pd.DataFrame,
) -> pd.DataFrame:
    """Dice and difference of volume of the structures that two label maps of one scan share.

    Parameters
    ----------
    first, second : nibabel.Nifti1Image
        Label maps.
    first_volumes, second_volumes : pandas.DataFrame
        Their rows of VOLUMES, which name the labels.

    Returns
    -------
    pandas.DataFrame
        ``structure, volume_ml, other_volume_ml, volume_difference_pct, dice``.

    Raises
    ------
    GeometryError
        If the two are on different grids.
    """
    check_same_grid(
        (first.shape[:3], first.affine), (second.shape[:3], second.affine), ("one", "other")
    )
    dice = dice_by_structure(
        np.asarray(first.dataobj), _labels(first_volumes),
        np.asarray(second.dataobj), _labels(second_volumes),
    )  # fmt: skip
    ours, theirs = (
        rows.set_index("structure")["volume_ml"].reindex(list(dice)).to_numpy(dtype=float)
        for rows in (first_volumes, second_volumes)
    )
    return pd.DataFrame(
        {
            "structure": list(dice),
            "volume_ml": ours,
            "other_volume_ml": theirs,
            "volume_difference_pct": 200 * (theirs - ours) / (theirs + ours),
            "dice": list(dice.values()),
        }
    )


def _labels(volumes: pd.DataFrame) -> dict[str, int]:
    labelled = volumes[volumes["label"].notna()]
    return {
        str(name): int(label)
        for name, label in zip(labelled["structure"], labelled["label"], strict=True)
    }


def summary(agreement: pd.DataFrame) -> pd.DataFrame:
    """Per structure over the scans: ``structure, n, median_dice, least_dice``, and the median of
    ``volume_difference_pct``; ``n`` counts the scans in which either found it."""
    held = agreement[agreement["dice"].notna()]
    grouped = held.groupby("structure", sort=False)
    return grouped.agg(
        n=("dice", "size"),
        median_dice=("dice", "median"),
        least_dice=("dice", "min"),
        median_volume_difference_pct=("volume_difference_pct", "median"),
    ).reset_index()
