"""Every scan of a finished cohort that came as DICOM, written back as DICOM."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom

from cohortvol.anatomy.nifti import image_of
from cohortvol.errors import ConfigError, InstallationError, ScanError, log_unforeseen
from cohortvol.store import of_scans
from cohortvol.store.files import (
    commit,
    commit_text,
    digest_of,
    json_text,
    remove,
    sha256_of,
    sweep,
)
from cohortvol.store.finished import has_its_label_map, with_label_maps
from cohortvol.store.keys import IDS, PRIVATE
from cohortvol.store.schemas import MANIFEST, SERIES, VOLUMES
from cohortvol.store.tables import read_table
from cohortvol.tools.dicom_seg.source import Chosen, Slices, find_slices

log = logging.getLogger(__name__)

MARK = "cohortvol-dicom-seg.json"
"""Which model the objects in a folder are of; a folder without it is not ours."""
SEG, REPORT = "_seg{layer}.dcm", "_sr.dcm"
_OF_HEADERS = (AttributeError, LookupError, TypeError, ValueError)
"""What highdicom raises of headers that lack what it takes for granted."""
_OURS = re.compile(r"_(seg[0-9]+|sr)\.dcm$")
RECORDS = "records"
"""Folder of what was written of each scan; committed last, so that a scan without is made anew."""
WRITER_VERSION = "1"
"""Raised when the same label map and volumes would give other objects."""


@dataclass
class Counts:
    """What became of the scans that are done.

    `without_images` counts by reason code those whose DICOM images are no longer there, or not what
    they were; `without_label_map` those whose label map is gone or changed.
    """

    written: int = 0
    as_they_were: int = 0
    not_dicom: int = 0
    excluded: int = 0
    empty: int = 0
    without_label_map: int = 0
    without_images: Counter[str] = field(default_factory=Counter)
    removed: int = 0

    @property
    def problems(self) -> int:
        """Scans that should have been written and were not."""
        return self.without_label_map + self.without_images.total()


def run(results: Path, out: Path, *, identified: bool = False) -> Counts:
    """Write label maps as DICOM SEG, and their volumes as structured reports (TID 1500).

    The same command again writes what is new or changed, goes on where one was stopped, and removes
    what it wrote of scans that are not written any more. Every file appears whole.

    Parameters
    ----------
    results : Path
        Results folder, assembled.
    out : Path
        Folder to write; empty, new, or written by this before.
    identified : bool
        Write though ids are hashed: the objects bear the names of the people, beside their keys.

    Raises
    ------
    InstallationError
        Without highdicom.
    ConfigError
        If ids are hashed and `identified` is not set, no label maps were kept, or `out` holds
        something else.
    TableError
        If the results are not assembled.
    """
    _check_installed()
    done, model = with_label_maps(results)
    _check_identified(results, identified)
    _check_out(out, model)
    manifest = read_table(results / "manifest" / "scans.parquet", MANIFEST)
    images = dict(zip(manifest["scan_id"], manifest["image"], strict=True))
    chosen = _chosen(results)
    volumes = read_table(results / "volumes.parquet", VOLUMES)
    by_scan = dict(iter(volumes.groupby("scan_id")))
    if not out.is_dir():
        out.mkdir(mode=0o700, parents=True)  # names of people stand in it
    commit_text(out / MARK, json_text({"model": model}), mode=0o600)
    sweep(out)
    counts = Counts()
    kept: set[str] = set()
    records: set[str] = set()
    for scan in _rows(done):
        scan_id = scan["scan_id"]
        if scan_id not in chosen:
            counts.not_dicom += 1
            continue
        if scan["qc"] == "exclude":
            counts.excluded += 1
            continue
        about = _Scan(scan, by_scan[scan_id], chosen[scan_id])
        try:
            written = _write(results, out, about, Path(images[scan_id]), counts)
        except ScanError as error:
            log.warning("%s: not written, %s", scan_id, error)
            counts.without_images[error.reason] += 1
            continue
        except _OF_HEADERS as error:
            log_unforeseen(log, scan_id, error)
            counts.without_images["BUG_UNEXPECTED"] += 1
            continue
        kept |= set(written)
        records |= {f"{scan_id}.json"} if written else set()
    counts.removed = _remove_others(out, kept, records)
    return counts


@dataclass(frozen=True)
class _Scan:
    """What the results say of one scan."""

    row: Mapping[str, Any]
    volumes: pd.DataFrame
    chosen: Chosen

    @property
    def id(self) -> str:
        return str(self.row["scan_id"])

    @property
    def key(self) -> str:
        """Changes when other objects would be written."""
        told = ("structure", "label", "volume_ml", "status", "cut_by_fov", "qc", "qc_flags")
        made = ("label_map_sha256", "model", "profile", "segmentation_key", "cohortvol_version")
        return digest_of(
            {
                "scan": self.id,
                "series": self.chosen.series,
                **{name: self.row[name] for name in made},
                "volumes": self.volumes[list(told)].to_json(orient="values", double_precision=15),
                "version": WRITER_VERSION,
            }
        )

    @property
    def names(self) -> dict[int, str]:
        """Label index to structure."""
        rows = self.volumes[self.volumes["label"].notna()]
        return dict(zip(rows["label"].astype(int), rows["structure"], strict=True))


def _write(results: Path, out: Path, scan: _Scan, image: Path, counts: Counts) -> list[str]:
    """Names of the files of a scan, written or there already; none where that cannot be."""
    label_map = results / scan.row["label_map"]
    if not has_its_label_map(results, scan.row):
        log.warning("%s: its label map is not there or changed; not written", scan.id)
        counts.without_label_map += 1
        return []
    there = _there(out, scan)
    if there:
        counts.as_they_were += 1
        return there
    loaded = image_of(of_scans.read(label_map))
    labels = np.asarray(loaded.dataobj)
    labels = labels if labels.ndim == 4 else labels[..., np.newaxis]
    if not labels.any():
        log.warning("%s: its label map is empty; not written", scan.id)
        counts.empty += 1
        return []
    with _as_stored():
        slices = find_slices(image, scan.chosen, labels.shape[:3], loaded.affine)
        made = _objects(scan, labels, slices)
        sha256 = {name: commit(out / name, one.save_as, mode=0o600) for name, one in made.items()}
    record = json_text({"key": scan.key, "sha256": sha256})
    commit_text(out / RECORDS / f"{scan.id}.json", record, mode=0o600)
    counts.written += 1
    return list(made)


@contextmanager
def _as_stored() -> Iterator[None]:
    """Values of headers are copied as they are; what would be said of them may name a person."""
    settings, logger = pydicom.config.settings, logging.getLogger("pydicom")
    reading, writing = settings.reading_validation_mode, settings.writing_validation_mode
    level = logger.level
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = reading, writing
        logger.setLevel(level)


def _there(out: Path, scan: _Scan) -> list[str]:
    """Names of the files that were written of a scan, if they are what would be written now."""
    try:
        record = json.loads((out / RECORDS / f"{scan.id}.json").read_text(encoding="utf-8"))
        files = record["sha256"] if record["key"] == scan.key else {}
        are_sound = all(sha256_of(out / name) == sha256 for name, sha256 in files.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return list(files) if are_sound else []


def _objects(scan: _Scan, labels: np.ndarray, slices: Slices) -> dict[str, Any]:
    """The objects of a scan by the names of their files: a segmentation for each layer in which
    something was found, and the report where a volume may be told."""
    from cohortvol.tools.dicom_seg.objects import Made, Volume, report, segmentation

    row = scan.row
    made = Made(row["model"], row["profile"], row["segmentation_key"], row["cohortvol_version"])
    segmentations: dict[str, Any] = {}
    for layer in range(labels.shape[-1]):
        found = [int(label) for label in np.unique(labels[..., layer]) if label]
        if not found:
            continue
        names = {label: scan.names[label] for label in found}
        one = segmentation(labels[..., layer], names, slices, made, scan.key, layer)
        segmentations[f"{scan.id}{SEG.format(layer=layer + 1)}"] = one
    sums = scan.volumes["label"].isna()
    known = scan.volumes["volume_ml"].notna() & (scan.volumes["qc"] != "exclude") & ~sums
    volumes = {
        one["structure"]: Volume(
            one["structure"],
            float(one["volume_ml"]),
            bool(one["cut_by_fov"]),
            tuple(code for code in (one["qc_flags"] or "").split(";") if code),
        )
        for one in _rows(scan.volumes[known])
    }
    if not volumes:
        return segmentations
    told = report(list(segmentations.values()), volumes, slices, made, scan.key)
    return {**segmentations, f"{scan.id}{REPORT}": told}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table, what is missing being None."""
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows


def _check_installed() -> None:
    try:
        import_module("highdicom")
    except ImportError as error:
        raise InstallationError(
            f"dicom-seg needs highdicom, which cannot be imported ({error})\n"
            "  pip install 'cohortvol[dicom-seg]'"
        ) from error


def _check_identified(results: Path, identified: bool) -> None:
    if (results / PRIVATE / IDS).exists() and not identified:
        raise ConfigError(
            f"{results}: its ids are hashed, and DICOM objects bear the names and ids of people, "
            "so that an\n  archive knows whose they are\n"
            "  With --identified they are written all the same; keep the folder as you keep "
            f"{PRIVATE}/."
        )


def _check_out(out: Path, model: str) -> None:
    """Refuse a folder that holds anything but what this wrote of the same model."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        is_ours = json.loads((out / MARK).read_text(encoding="utf-8"))["model"] == model
    except (OSError, ValueError, LookupError, TypeError):
        is_ours = False
    if not is_ours:
        raise ConfigError(
            f"{out}: holds something else than objects of {model} from an earlier "
            "`cohortvol dicom-seg`\n  Give a new folder with --out, one for each model."
        )


def _chosen(results: Path) -> dict[str, Chosen]:
    """The series that ingest took, of every scan that came as DICOM; of several the first."""
    found: dict[str, Chosen] = {}
    for path in sorted((results / "ingest" / "series").glob("*.parquet")):
        table = read_table(path, SERIES)
        for row in _rows(table[table["chosen"].fillna(False).astype(bool)]):
            chosen = Chosen(row["series"], row["image_type"] or "", row["echo_time_ms"])
            found.setdefault(row["scan_id"], chosen)
    return found


def _remove_others(out: Path, kept: set[str], records: set[str]) -> int:
    """Remove objects and records of scans that are not written any more."""
    objects = [path for path in out.glob("*.dcm") if _OURS.search(path.name)]
    stale = [path for path in objects if path.name not in kept]
    for path in (*stale, *(out / RECORDS).glob("*.json")):
        if path.name not in records and path.name not in kept:
            remove(path)
    return len(stale)
