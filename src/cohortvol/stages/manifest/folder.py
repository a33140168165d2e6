"""A manifest out of a folder of images."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cohortvol.errors import ManifestError
from cohortvol.stages.manifest.rows import check_columns
from cohortvol.store.archives import ENDS as ARCHIVE_ENDS
from cohortvol.store.files import commit_text
from cohortvol.store.schemas import COVARIATES
from cohortvol.store.text_table import read_text_table

log = logging.getLogger(__name__)

_ENDS = (".nii", ".nii.gz", *ARCHIVE_ENDS)


def from_folder(folder: Path, covariates: Path | None = None) -> pd.DataFrame:
    """One row per NIfTI file or archive of a folder, sorted by file name.

    What dcm2niix wrote beside the image of a series is none of its own: phase, real and imaginary
    parts, localizers of a series, and the image resampled to equal steps. They are logged.

    Parameters
    ----------
    folder : Path
        The images; folders in it are not searched.
    covariates : Path, optional
        CSV, TSV or Parquet with a row per ``scan_id`` and columns of the manifest.

    Returns
    -------
    pandas.DataFrame
        ``scan_id``, made of the file name; ``image``, absolute; the covariates as text, in
        the columns that the table has.

    Raises
    ------
    ManifestError
        If there are no images, two file names give the same id, or the covariates do not
        join one to one.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    images = sorted(
        path
        for path in folder.resolve().iterdir()
        if path.name.lower().endswith(_ENDS) and not path.name.startswith(".")
    )
    if not images:
        raise ManifestError(f"{folder}: holds no file that ends in {', '.join(_ENDS)}")
    images = _without_twins(folder, images)
    ids = [_scan_id(path.name) for path in images]
    _refuse_collisions(folder, ids, [path.name for path in images])
    table = pd.DataFrame({"scan_id": ids, "image": [str(path) for path in images]})
    return table if covariates is None else _joined(table, covariates)


_TWIN = re.compile(r"(_(ph|real|imaginary|ROI\d+|Eq(_\d+)?|Tilt(_\d+)?))+$")
"""What dcm2niix puts behind the name of another image of the same series."""


def _without_twins(folder: Path, images: Sequence[Path]) -> list[Path]:
    """Images but those that dcm2niix made beside another one of the folder."""
    stems = {path: re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) for path in images}
    known = set(stems.values())
    twins = {
        path for path, stem in stems.items() if _TWIN.search(stem) and _TWIN.sub("", stem) in known
    }
    if twins:
        names = ", ".join(path.name for path in images if path in twins)
        log.warning(
            "%s: %d images left out, which dcm2niix made beside others: %s",
            folder,
            len(twins),
            names,
        )
    return [path for path in images if path not in twins]


def write_from_folder(folder: Path, out: Path, covariates: Path | None = None) -> int:
    """Write `from_folder` as CSV to `out`; the number of scans."""
    table = from_folder(folder, covariates)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.itertuples(index=False))
    commit_text(out, text.getvalue())
    log.info("%s: %d scans", out, len(table))
    return len(table)


def _scan_id(name: str) -> str:
    """A file name without its extension, other characters than those of an id becoming _."""
    stem = re.sub(r"\.(nii|nii\.gz|zip|tar|tar\.gz|tgz)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:64]


def _refuse_collisions(folder: Path, ids: list[str], names: list[str]) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    for scan_id, name in zip(ids, names, strict=True):
        groups[scan_id.casefold()].append(name)
    lines = [f"  no id can be made of {name!r}" for name in groups.pop("", [])]
    lines += [
        f"  {scan_id}: {', '.join(map(repr, same))}"
        for scan_id, same in groups.items()
        if len(same) > 1
    ]
    if lines:
        raise ManifestError(
            "\n".join(
                [
                    f"{folder}: file names that do not give one scan_id each (ID_COLLISION)",
                    *lines,
                    "  Rename them, or write the manifest by hand.",
                ]
            )
        )


def _joined(table: pd.DataFrame, covariates: Path) -> pd.DataFrame:
    """Images with all columns of their scan_id's row; empty where a scan has none."""
    given = read_text_table(covariates)
    check_columns(covariates, [*given.columns, "image"], ("scan_id",))
    by_id = {row["scan_id"]: row for row in given.rows}
    if len(by_id) < len(given.rows):
        counts = pd.Series([row["scan_id"] for row in given.rows]).value_counts()
        repeated = ", ".join(counts.index[counts > 1])
        raise ManifestError(
            f"{covariates}: several rows for the same scan_id: {repeated} (TAB_JOIN)"
        )
    without = [scan_id for scan_id in table["scan_id"] if scan_id not in by_id]
    unused = sorted(set(by_id) - set(table["scan_id"]))
    if len(without) == len(table):
        raise ManifestError(
            f"{covariates}: has none of the images' scan ids (TAB_JOIN)\n"
            f"  images   {', '.join(table['scan_id'][:3])}, ...\n"
            f"  table    {', '.join(unused[:3])}, ..."
        )
    if without:
        log.warning("%s: no row for %d images: %s", covariates, len(without), ", ".join(without))
    if unused:
        log.warning("%s: no image for %d rows: %s", covariates, len(unused), ", ".join(unused))
    ours = [name for name in COVARIATES if name in given.columns]
    further = [name for name in given.columns if name not in (*COVARIATES, *table.columns)]
    joined = {
        name: [by_id.get(scan_id, {}).get(name, "") for scan_id in table["scan_id"]]
        for name in (*ours, *further)
    }
    return table.assign(**joined)
