"""Label maps with the names of their labels: what is compared, and how it is read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cohortvol.anatomy import structures
from cohortvol.errors import ConfigError, ModelError, ScanError, did_you_mean
from cohortvol.models import catalogue
from cohortvol.models.files import read_object
from cohortvol.store.text_table import read_text_table

CHAOS_MR = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}

VOCABULARIES: dict[str, Mapping[int, str]] = {
    "chaos_mr": CHAOS_MR,
    "chaos_mr_grey": {63: "liver", 126: "kidney_right", 189: "kidney_left", 252: "spleen"},
    "chaos_ct_grey": {255: "liver"},
}
"""Vocabularies of the CHAOS challenge; `vocabulary` knows those of models beside them."""


@dataclass(frozen=True)
class LabelMap:
    """A label map whose labels have names.

    Attributes
    ----------
    voxels : (I, J, K) or (I, J, K, layers) integer array
        Label indices; 0 is background. A label stands in one layer only.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.
    labels : mapping of str to int
        Structure to label index, for every structure that the map could hold.
    """

    voxels: np.ndarray
    affine: np.ndarray
    labels: Mapping[str, int]

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine."""
        return self.voxels.shape[:3], self.affine


def known_vocabularies() -> list[str]:
    """Names that `vocabulary` takes beside files."""
    weights = ("amos22", "mrsegmentator", catalogue.OUTDATED)
    return sorted({*VOCABULARIES, "total_mr", *weights})


def vocabulary(name: str) -> dict[str, int]:
    """Structure to label index, by the name of a vocabulary or from a file.

    Parameters
    ----------
    name : str
        One of `known_vocabularies`; or a file: a model's ``card.json``, a ``dataset.json`` of
        nnU-Net or AMOS, or a table with the columns ``label`` and ``structure``.

    Raises
    ------
    ConfigError
        If there is no such vocabulary, or the file is none.
    """
    path = Path(name)
    if path.suffix in (".json", ".tsv", ".csv"):
        return _from_file(path)
    if name == "total_mr":
        return _by_structure(
            {label: pair[1] for label, pair in catalogue.label_map("852").items()}, name
        )
    if name in VOCABULARIES:
        return _by_structure(VOCABULARIES[name], name)
    found = catalogue.label_map(name)
    if not found:
        raise ConfigError(
            f"{name!r} is no known vocabulary of labels"
            f"{did_you_mean(name, known_vocabularies())}\n"
            "  Give one of these names, or a card.json, dataset.json, or a table with the "
            "columns label and structure."
        )
    return _by_structure({label: pair[1] for label, pair in found.items()}, name)


def _from_file(path: Path) -> dict[str, int]:
    rows = read_text_table(path).rows if path.suffix != ".json" else []
    try:
        if path.suffix != ".json":
            return _by_structure({int(row["label"]): row["structure"] for row in rows}, str(path))
        labels = read_object(path)["labels"]
        if not isinstance(labels, dict):
            raise ValueError("its labels are no object")
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise ConfigError(f"{path}: holds no names of labels ({error})") from error
    pairs = {}
    for one, other in labels.items():  # AMOS and cards write {"1": name}, nnU-Net {name: 1}
        label, name = (other, one) if isinstance(other, int) else (one, other)
        if not isinstance(name, str) or not str(label).isdecimal():
            raise ConfigError(f"{path}: {one}: {other} is no label index with a name")
        if int(label):
            pairs[int(label)] = structure_named(name)
    return _by_structure(pairs, str(path))


def _by_structure(pairs: Mapping[int, str], source: str) -> dict[str, int]:
    twice = sorted(name for name in set(pairs.values()) if list(pairs.values()).count(name) > 1)
    if twice:
        raise ConfigError(f"{source}: structures with two labels: {', '.join(twice)}")
    return {name: label for label, name in pairs.items()}


def structure_named(name: str) -> str:
    """The structure that a publisher's name stands for; the name itself where none is known.

    ``right kidney`` and ``right_kidney`` are ``kidney_right``, ``arota`` is ``aorta``.
    """
    plain = re.sub(r"[\s_/-]+", "_", name.strip().lower())
    if plain in structures.load():
        return plain
    for weights in ("amos22", "mrsegmentator", "total_mr_before_2.5"):
        for upstream, structure in catalogue.label_map(weights).values():
            if plain == re.sub(r"[\s_/-]+", "_", upstream.lower()):
                return structure
    side, _, rest = plain.partition("_")
    if side in ("left", "right") and f"{rest}_{side}" in structures.load():
        return f"{rest}_{side}"
    return plain


def read_nifti(path: Path, labels: Mapping[str, int] | None) -> LabelMap:
    """A label map from NIfTI; names from its header's label table where none are given.

    Raises
    ------
    ScanError
        If it cannot be read, is no 3D map of whole numbers, or its labels have no names.
    """
    try:
        image = nib.Nifti1Image.from_filename(path)
        raw = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError("EVAL_UNREADABLE", f"{path.name}: {type(error).__name__}") from error
    if raw.ndim == 4 and raw.shape[3] == 1:
        raw = raw[..., 0]
    if raw.ndim not in (3, 4):
        raise ScanError("EVAL_UNREADABLE", f"{path.name}: {raw.ndim} dimensions")
    if labels is None:
        labels = _named_in_header(image)
    if labels is None:
        raise ScanError("EVAL_NO_NAMES", path.name)
    return LabelMap(_whole(raw, path.name), np.asarray(image.affine), labels)


def _whole(raw: np.ndarray, name: str) -> np.ndarray:
    """Labels as the smallest unsigned integers; ScanError if they are not whole or negative."""
    if not np.issubdtype(raw.dtype, np.integer):
        if not np.isfinite(raw).all() or (raw != np.round(raw)).any():
            raise ScanError("EVAL_UNREADABLE", f"{name}: voxels that are no whole numbers")
    low, high = (int(raw.min()), int(raw.max())) if raw.size else (0, 0)
    if low < 0 or high > 65535:
        raise ScanError("EVAL_UNREADABLE", f"{name}: labels from {low} to {high}")
    return raw.astype(np.uint8 if high < 256 else np.uint16)


def _named_in_header(image: nib.Nifti1Image) -> dict[str, int] | None:
    """Names that TotalSegmentator writes into an extension of the header; None where none are."""
    for extension in image.header.extensions:
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        if "<LabelTable" not in text or "<!ENTITY" in text:  # no entities, so nothing expands
            continue
        try:
            tree = ElementTree.fromstring(text.strip("\0 \n"))  # noqa: S314
        except ElementTree.ParseError:
            continue
        pairs = {
            int(label.get("Key", "0")): structure_named(label.text or "")
            for label in tree.iter("Label")
        }
        return _by_structure({key: name for key, name in pairs.items() if key}, "header")
    return None


def read_masks(files: Mapping[str, Path]) -> LabelMap:
    """One label map from a file of one mask for each structure, as TotalSegmentator writes them.

    Masks that overlap are put in layers. A file without any voxel is a structure that was looked
    for and is not there.

    Raises
    ------
    ScanError
        If one cannot be read, or they are on different grids.
    """
    layers: list[np.ndarray] = []
    affine = np.eye(4)
    labels = {}
    for label, (structure, path) in enumerate(sorted(files.items()), start=1):
        mask = read_nifti(path, {structure: 1})
        inside = mask.voxels > 0
        if not layers:
            layers, affine = [np.zeros(inside.shape, dtype=np.uint8)], mask.affine
        if inside.shape != layers[0].shape or not np.allclose(affine, mask.affine, atol=1e-3):
            raise ScanError("EVAL_OTHER_GRID", f"{path.name}: not on the grid of the other masks")
        layer = next((one for one in layers if not one[inside].any()), None)
        if layer is None:
            layer = np.zeros(inside.shape, dtype=np.uint8)
            layers.append(layer)
        layer[inside] = label
        labels[structure] = label
    voxels = layers[0] if len(layers) == 1 else np.stack(layers, axis=-1)
    return LabelMap(voxels, affine, labels)
