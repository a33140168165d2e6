"""Label maps that were made elsewhere, in place of a network: read, checked, put into our layers.

Nothing is resampled. What is not on the grid of its scan, holds a label that the model's table does
not have, or lacks a file, is a row with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import orientation, spacing_mm, to_axes
from cohortvol.anatomy.nifti import NO_IMAGE, image_of
from cohortvol.compute.resources import Job
from cohortvol.errors import ScanError
from cohortvol.models.card import Card, load_card
from cohortvol.reasons import state_of
from cohortvol.stages.segment.receipts import Work
from cohortvol.store import label_maps
from cohortvol.store.schemas import INGEST
from cohortvol.store.storage import is_fault, of_scan
from cohortvol.store.tables import append_rows

MOST_OFF_VOXELS = 0.1
"""Farthest that the corners of a label map may lie from those of its scan, of the shortest voxel
edge: headers that other programs wrote are rounded, and less moves no label by a voxel."""

MASKED = (1, 255)
"""Values of a mask inside its structure, beside the label of the structure itself."""

MOST_NAMED = 5
"""Labels or structures that a detail names."""


class Grid(NamedTuple):
    """Shape, and voxel to RAS+ mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    def words(self) -> str:
        edges = " x ".join(f"{edge:.3f}" for edge in spacing_mm(self.affine))
        size = " x ".join(map(str, self.shape))
        return f"{size} voxels of {edges} mm, {orientation(self.affine)}"


@dataclass(frozen=True)
class Processor:
    """Where label maps are read: no GPU takes part."""

    type: str = "cpu"


@dataclass(frozen=True)
class Taken:
    """A label map in the layers and labels of the model, on the grid of its scan."""

    labels: np.ndarray
    affine: np.ndarray
    seconds_network: float | None = None
    softmax: None = None

    @property
    def prepared(self) -> Taken:
        """What the grid is asked of."""
        return self


class LabelMaps:
    """The label maps of a model that were made elsewhere; stands where a `Segmenter` does."""

    device = Processor()
    numerics: dict[str, Any] | None = None

    def __init__(self, card: Card, job: Job | None = None) -> None:
        self._card = card  # of the structures wanted
        self._layers = load_card(card.folder).parts  # with all others
        self._left_out = set(card.elsewhere) - {one for part in self._layers for one in part.labels}
        self._dtype = np.uint8 if max(card.labels, default=0) < 256 else np.uint16
        if job is not None:
            job.device = self.device.type
            job.ready()

    def read(self, work: Work) -> Taken:
        """The label map of a scan.

        Raises
        ------
        ScanError
            ``DSEG_...``, or ``SRC_MISSING`` and the like where the scan itself is not there.
        """
        scan = _grid_of(work.image)
        files = _contents(work)
        if [*files] == [""]:
            layers = self._of_one_file(files[""], scan)
        else:
            layers = self._of_masks(files, scan)
        labels = layers[0] if len(layers) == 1 else np.stack(layers, axis=-1)
        return Taken(labels, scan.affine)

    def predict(self, taken: Taken) -> Taken:
        """Nothing is left to be done."""
        return taken

    def finish(self, taken: Taken) -> np.ndarray:
        """(I, J, K) or (I, J, K, layer) label map."""
        return taken.labels

    def _of_one_file(self, content: bytes, scan: Grid) -> list[np.ndarray]:
        """Layers of a file that holds all structures, in as many volumes or in one."""
        found = _labels(content, scan, "")
        if found.ndim == 4 and found.shape[3] != len(self._layers):
            n_layers = len(self._layers)
            detail = f"{found.shape[3]} volumes, where the table of labels has {n_layers} layers"
            raise ScanError("DSEG_VALUES", detail)
        volumes = np.moveaxis(found, 3, 0) if found.ndim == 4 else [found]
        strange: set[int] = set()
        for number, volume in enumerate(volumes):
            known = set(self._card.elsewhere)
            if found.ndim == 4:
                known = self._left_out | set(self._layers[number].labels)
            strange |= _values(volume) - known
        if strange:
            raise ScanError("DSEG_UNKNOWN_LABEL", _listed(sorted(strange)))
        layers = []
        for part in self._card.parts:
            volume = volumes[part.layer if found.ndim == 4 else 0]
            to_ours = np.zeros(int(volume.max(initial=0)) + 1, dtype=self._dtype)
            for theirs, ours in self._card.local_to_global(part).items():
                to_ours[theirs : theirs + 1] = ours
            layers.append(to_ours[volume])
        return layers

    def _of_masks(self, files: dict[str, bytes], scan: Grid) -> list[np.ndarray]:
        """Layers of files that hold one structure each."""
        names = self._card.elsewhere
        wanted = [names[label] for part in self._card.parts for label in part.labels]
        missing = [name for name in wanted if name not in files]
        if missing:
            raise ScanError("DSEG_MISSING", f"no file of {_listed(missing)}")
        layers = []
        for part in self._card.parts:
            layer = np.zeros(scan.shape, dtype=self._dtype)
            for theirs, ours in self._card.local_to_global(part).items():
                mask = _mask(files[names[theirs]], scan, names[theirs], theirs)
                taken = layer[mask]
                shared = (taken != 0) & (taken != ours)
                if shared.any():
                    other = self._card.labels[int(taken[shared][0])]
                    detail = f"{int(shared.sum())} voxels of {names[theirs]} and {other}"
                    raise ScanError("DSEG_OVERLAP", detail)
                layer[mask] = ours
            layers.append(layer)
        return layers


def tried(ingested: pd.DataFrame, card: Card) -> pd.DataFrame:
    """Rows of INGEST as they are where the label map of a ready scan can be taken; others with the
    reason why not. Models of networks have nothing to try.
    """
    if not card.elsewhere:
        return ingested
    reader, rows = LabelMaps(card), ingested.to_dict("records")
    for row in rows:
        if row["state"] != "ready":
            continue
        work = Work(
            row["scan_id"],
            Path(row["image"]),
            row["image_sha256"],
            model=card.id,
            profile=card.default_profile,
            segmentation_key="",
            **dseg_of(row),
        )
        try:
            reader.read(work)
        except ScanError as error:
            state = state_of(error.reason)
            row |= {"state": state, "reason": error.reason, "detail": error.detail or None}
    return append_rows(rows, INGEST)


def dseg_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Path and sha256 of the label map in a row of INGEST, as `Work` has them."""
    dseg, sha256 = (None if pd.isna(row[name]) else row[name] for name in ("dseg", "dseg_sha256"))
    return {"dseg": dseg or "", "dseg_sha256": sha256}


def _grid_of(image: Path) -> Grid:
    """Of a scan, from its header: measure compares its bytes."""
    try:
        header: Any = of_scan(image, lambda: nib.load(image))
    except FileNotFoundError as error:
        raise ScanError("SRC_MISSING", "") from error
    except PermissionError as error:
        raise ScanError("SRC_PERMISSION", "") from error
    except NO_IMAGE as error:
        raise ScanError("SRC_CHANGED", "no NIfTI image any more") from error
    return Grid(header.shape[:3], np.asarray(header.affine))


def _contents(work: Work) -> dict[str, bytes]:
    """Bytes of every file of a label map, by structure: those that ingest saw."""
    if not work.dseg:
        raise ScanError("DSEG_MISSING", "the manifest names none")
    place = Path(work.dseg)
    try:
        read = of_scan(place, partial(_read_all, work.dseg))
    except OSError as error:
        if is_fault(error):
            raise
        raise ScanError("DSEG_UNREADABLE", error.strerror or type(error).__name__) from error
    if not read:
        raise ScanError("DSEG_MISSING", "")
    twins = sorted({name for name, _ in read if [one for one, _ in read].count(name) > 1})
    if twins:
        raise ScanError("DSEG_UNREADABLE", f"two files of {_listed(twins)}")
    sha256 = [(name, hashlib.sha256(content).hexdigest()) for name, content in read]
    if label_maps.digest(sha256) != work.dseg_sha256:
        raise ScanError("DSEG_CHANGED", "")
    return dict(read)


def _read_all(dseg: str) -> list[tuple[str, bytes]]:
    return [(name, file.read_bytes()) for name, file in label_maps.files_of(dseg)]


def _labels(content: bytes, scan: Grid, name: str) -> np.ndarray:
    """Whole numbers from 0 to 65535 on the grid of the scan, of one file.

    Axes stored in another order or direction are turned to those of the scan.
    """
    of = f"{name}: " if name else ""
    if not content:
        raise ScanError("DSEG_EMPTY", name)
    try:
        image = image_of(content)
        affine = np.asarray(image.affine)
        voxels = np.asanyarray(image.dataobj)
    except (*NO_IMAGE, OSError, EOFError) as error:
        raise ScanError("DSEG_UNREADABLE", f"{of}{type(error).__name__}") from error
    if voxels.ndim > 3 and voxels.shape[3:] == (1,) * (voxels.ndim - 3):
        voxels = voxels.reshape(voxels.shape[:3])
    if voxels.ndim not in (3, 4):
        raise ScanError("DSEG_VALUES", f"{of}{voxels.ndim} dimensions")
    voxels = _on_grid(voxels, affine, scan, of)
    return _whole(voxels, of)


def _on_grid(voxels: np.ndarray, affine: np.ndarray, scan: Grid, of: str) -> np.ndarray:
    """The voxels on the axes of the scan, whose grid they must be on."""
    found = Grid(voxels.shape[:3], affine)
    try:
        if orientation(affine) != orientation(scan.affine):
            voxels, affine = to_axes(voxels, affine, orientation(scan.affine))
        off_mm = _farthest_mm(scan.shape, affine, scan.affine)
        limit_mm = MOST_OFF_VOXELS * float(spacing_mm(scan.affine).min())
        same = voxels.shape[:3] == scan.shape and off_mm <= limit_mm
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, nib.orientations.OrientationError):
        raise ScanError("DSEG_GRID", f"{of}its header gives no axes") from None
    if not same:
        away = "" if voxels.shape[:3] != scan.shape else f", up to {off_mm:.3g} mm away"
        detail = f"{of}{found.words()}; its scan {scan.words()}{away}"
        raise ScanError("DSEG_GRID", detail)
    return voxels


def _farthest_mm(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    """Greatest distance of the corners of a grid under two affines."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1)
    corners = (one - other)[:3] @ np.vstack([ends, np.ones(ends.shape[1])])
    return float(np.linalg.norm(corners, axis=0).max())


def _whole(voxels: np.ndarray, of: str) -> np.ndarray:
    """Labels as unsigned integers."""
    if voxels.dtype.kind not in "biuf":
        raise ScanError("DSEG_VALUES", f"{of}voxels of the type {voxels.dtype}")
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.round(voxels)):
        raise ScanError("DSEG_VALUES", f"{of}voxels that are no whole numbers")
    low, high = (float(voxels.min()), float(voxels.max())) if voxels.size else (0.0, 0.0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ScanError("DSEG_VALUES", f"{of}labels from {low:g} to {high:g}")
    return voxels.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _mask(content: bytes, scan: Grid, name: str, label: int) -> np.ndarray:
    """Where the structure of one file is."""
    voxels = _labels(content, scan, name)
    if voxels.ndim != 3:
        raise ScanError("DSEG_VALUES", f"{name}: {voxels.shape[3]} volumes")
    inside = _values(voxels)
    if len(inside) > 1 or not inside <= {*MASKED, label}:
        detail = f"{name}: values {_listed(sorted(inside))}, where a mask has 0 and 1"
        raise ScanError("DSEG_UNKNOWN_LABEL", detail)
    mask: np.ndarray = voxels > 0
    return mask


def _values(voxels: np.ndarray) -> set[int]:
    """Labels that there are, without background."""
    return {int(label) for label in np.flatnonzero(np.bincount(voxels.ravel())) if label}


def _listed(names: list[Any]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(str, names[:MOST_NAMED])) + more
