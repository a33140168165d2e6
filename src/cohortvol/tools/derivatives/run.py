"""Finished label maps and volumes as a BIDS derivatives dataset, for tools that read those.

Names follow the standard (BIDS 1.10, Derivatives: Segmentations): the source's entities, then
``space-<suffix of the source>``, as the label map lies on that image's grid, then
``seg-<model>``, then ``_dseg``. Volumes have no suffix in the standard yet: they are
``_morph.tsv``, as BEP 11 proposes, and named in ``.bidsignore``.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.anatomy import structures
from cohortvol.errors import ConfigError, TableError
from cohortvol.store import of_scans
from cohortvol.store.files import (
    commit_bytes,
    commit_json,
    commit_text,
    json_text,
    make_folder,
    sha256_of,
)
from cohortvol.store.finished import has_its_label_map, with_label_maps
from cohortvol.store.schemas import MANIFEST, VOLUMES
from cohortvol.store.storage import temporary_beside
from cohortvol.store.tables import read_table
from cohortvol.tools.derivatives.names import names_of

log = logging.getLogger(__name__)

BIDS_VERSION = "1.10.0"
SOURCE = "source"
"""Name by which BIDS URIs refer to the dataset that the images are of."""


_OURS = re.compile(r"sub-[0-9A-Za-z+]+_.*seg-[0-9A-Za-z]+_(dseg\.(nii\.gz|json)|morph\.tsv)")

_MORPH = {
    "index": "label index in the _dseg image; n/a for the sum of a left and a right structure",
    "name": "anatomical structure, TotalSegmentator spelling",
    "volume_ml": "voxel count x |det(affine)|, mL; n/a where unknown, never 0",
    "n_voxels": "voxels of the structure",
    "status": "ok, cut, absent or failed",
    "cut_by_fov": "the structure reaches the edge of the image: volume_ml is a lower bound",
    "qc": "pass, flag or exclude",
    "qc_flags": "QC codes, joined by ;",
}


def run(results: Path, out: Path, *, copy: bool = False, source: str | None = None) -> int:
    """Write the scans of a finished cohort that are done as BIDS derivatives.

    The same command again writes what is new or changed, and removes what it wrote of scans that
    are not done any more. Every file appears whole.

    Parameters
    ----------
    results : Path
        Results folder, assembled.
    out : Path
        Dataset to write; empty, new, or written by this before.
    copy : bool
        Copy label maps; hard links if False, copies where the disk has none.
    source : str, optional
        URL, DOI or path of the dataset that was segmented, for its reference.

    Returns
    -------
    int
        Scans that are done, but whose label map is not there or not what the table says.

    Raises
    ------
    ConfigError
        If `out` holds something else, or two scans would get the same name.
    TableError
        If the results are not assembled.
    """
    done, model = with_label_maps(results)
    segmentation = re.sub(r"[^0-9A-Za-z]", "", model)
    names = names_of(done, segmentation)
    _check_out(out, model)
    volumes = read_table(results / "volumes.parquet", VOLUMES)
    sources = {} if source is None else _sources(results)
    by_scan = dict(iter(volumes.groupby("scan_id")))

    commit_json(out / "dataset_description.json", _description(done, model, source))
    commit_text(out / ".bidsignore", "*_morph.tsv\n*_morph.json\nmorph.json\n")
    commit_text(out / "README", _readme(model))
    commit_text(out / "dseg.tsv", _label_table(results, done))
    commit_json(out / "dseg.json", _about_labels())
    commit_json(out / "morph.json", {name: {"Description": text} for name, text in _MORPH.items()})
    n_bad, written = 0, set()
    for scan in done.astype(object).where(done.notna(), None).to_dict("records"):
        name = names[scan["scan_id"]]
        folder = make_folder(out / name.folder)
        label_map = results / scan["label_map"]
        if not has_its_label_map(results, scan):
            log.warning("%s: its label map is not there or changed; not written", scan["scan_id"])
            n_bad += 1
            continue
        place = folder / f"{name.stem}_dseg.nii.gz"
        _put(label_map, place, scan["label_map_sha256"], copy=copy)
        _commit_new(
            place.with_name(f"{name.stem}_dseg.json"),
            json_text(_sidecar(scan, sources.get(scan["scan_id"]))),
        )
        _commit_new(folder / f"{name.stem}_morph.tsv", _morph_table(by_scan[scan["scan_id"]]))
        written.add(name.stem)
    n_removed = _remove_others(out, written)
    log.info("%s: %d scans written, %d files of others removed", out, len(written), n_removed)
    return n_bad


def _check_out(out: Path, model: str) -> None:
    """Refuse a folder that holds anything but an earlier export of the same model."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        found = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
        is_ours = found["Name"] == _title(model)
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise ConfigError(
            f"{out}: holds something else than label maps of {model} from an earlier "
            "`cohortvol bids-derivatives`\n"
            "  Give a new folder with --out, one for each model."
        )


def _title(model: str) -> str:
    return f"cohortvol organ segmentations and volumes, model {model}"


def _description(done: pd.DataFrame, model: str, source: str | None) -> dict[str, Any]:
    ways = done[["cohortvol_version", "profile", "segmentation_key"]].drop_duplicates()
    about: dict[str, Any] = {
        "Name": _title(model),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "cohortvol",
                "Version": way["cohortvol_version"],
                "Description": f"model {model}, profile {way['profile']}, "
                f"segmentation key {way['segmentation_key']}",
            }
            for way in ways.sort_values(list(ways.columns)).to_dict("records")
        ],
    }
    if source is not None:
        kind = "DOI" if source.lower().startswith(("doi:", "https://doi.org/")) else "URL"
        about |= {"SourceDatasets": [{kind: source}], "DatasetLinks": {SOURCE: source}}
    return about


def _readme(model: str) -> str:
    return (
        f"Label maps and organ volumes that cohortvol made with the model {model}.\n\n"
        "*_dseg.nii.gz  label map on the grid of its scan; dseg.tsv names the labels\n"
        "*_dseg.json    how it came about, and the quality control of the scan\n"
        "*_morph.tsv    volumes; morph.json describes the columns\n\n"
        "Scans that are not done are not here; scans.parquet of the results says why.\n"
    )


def _label_table(results: Path, done: pd.DataFrame) -> str:
    """``index  name  snomed_code  laterality`` of every label in the label maps, sorted."""
    rows: dict[int, dict[str, str]] = {}
    for folder in sorted({(results / label_map).parent for label_map in done["label_map"]}):
        path = folder / "dseg.tsv"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TableError(f"{path}: cannot be read ({error.strerror}); run segment") from error
        for row in csv.DictReader(text.splitlines(), delimiter="\t"):
            known = structures.load().get(row["name"])
            codes = {
                "snomed_code": known.snomed_code if known else "",
                "laterality": known.laterality if known else "",
            }
            rows[int(row["index"])] = {**row, **codes}
    columns = ["index", "name", "snomed_code", "laterality"]
    columns += ["layer"] if any("layer" in row for row in rows.values()) else []
    return _tsv(columns, ([rows[label].get(name) for name in columns] for label in sorted(rows)))


def _about_labels() -> dict[str, Any]:
    """What holds for every ``_dseg``: inherited by those below."""
    columns = {
        "snomed_code": "SNOMED CT code of the structure, of both sides where laterality tells them",
        "laterality": "left, right, both (one label holds both sides) or none",
        "layer": "volume of a label map with several, from 0",
    }
    return {
        "Description": "Organs, one label index per voxel; dseg.tsv names them",
        "Manual": False,
        "SpatialReference": "orig",
        **{name: {"Description": text} for name, text in columns.items()},
    }


def _sidecar(scan: dict[str, Any], source: str | None) -> dict[str, Any]:
    about = {
        "SpatialReference": "orig",
        "ScanId": scan["scan_id"],
        "SubjectId": scan["subject_id"],
        "SessionId": scan["session_id"],
        "Model": scan["model"],
        "Profile": scan["profile"],
        "SegmentationKey": scan["segmentation_key"],
        "CohortvolVersion": scan["cohortvol_version"],
        "ImageSHA256": scan["image_sha256"],
        "LabelMapSHA256": scan["label_map_sha256"],
        "QC": scan["qc"],
        "QCFlags": [code for code in (scan["qc_flags"] or "").split(";") if code],
    }
    about |= {"Sources": [source]} if source else {}
    return about


def _sources(results: Path) -> dict[str, str]:
    """BIDS URI of the image of every scan that lies in a BIDS dataset under its own name."""
    manifest = read_table(results / "manifest" / "scans.parquet", MANIFEST)
    uris = {}
    for scan_id, subject, image in zip(
        manifest["scan_id"], manifest["subject_id"], manifest["image"], strict=True
    ):
        parts = Path(image).parts if isinstance(image, str) else ()
        if parts and parts[-1].startswith(f"{scan_id}.nii") and subject in parts:
            uris[scan_id] = f"bids:{SOURCE}:" + "/".join(parts[parts.index(subject) :])
    return uris


def _morph_table(volumes: pd.DataFrame) -> str:
    table = volumes.rename(columns={"label": "index", "structure": "name"})[list(_MORPH)]
    return _tsv(list(_MORPH), table.astype(object).itertuples(index=False))


def _tsv(columns: list[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if pd.isna(value) or value == "":
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _commit_new(path: Path, text: str) -> None:
    """Write a file unless it holds this text already."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    commit_text(path, text)


def _put(label_map: Path, place: Path, sha256: str, *, copy: bool) -> None:
    """A link to a label map, or a copy of it, at a place; nothing is done where it is there.

    What is packed can only be copied.
    """
    copy = copy or not label_map.exists()
    if place.exists():
        is_link = label_map.exists() and place.samefile(label_map)
        if not copy and is_link:
            return
        if copy and not is_link and sha256_of(place) == sha256:
            return
    if not copy:
        temporary = temporary_beside(place)
        try:
            os.link(label_map, temporary)
            os.replace(temporary, place)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
        finally:
            temporary.unlink(missing_ok=True)
        if place.exists() and sha256_of(place) == sha256:
            return
    commit_bytes(place, of_scans.read(label_map))


def _remove_others(out: Path, written: set[str]) -> int:
    """Remove files of ours whose scan was not written, and the folders this leaves empty."""
    n_removed = 0
    for path in _our_files(out):
        stem = re.sub(r"_(dseg\.nii\.gz|dseg\.json|morph\.tsv)$", "", path.name)
        if stem in written:
            continue
        path.unlink()
        n_removed += 1
        for folder in list(path.parents)[: len(path.relative_to(out).parts) - 1]:
            if any(folder.iterdir()):
                break
            folder.rmdir()
    return n_removed


def _our_files(out: Path) -> Iterator[Path]:
    for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*"):
        yield from (path for path in sorted(out.glob(pattern)) if _OURS.fullmatch(path.name))
