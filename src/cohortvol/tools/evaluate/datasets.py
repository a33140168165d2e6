"""Where the experts' label maps, the models' and the images lie, in the layouts people have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cohortvol.anatomy import structures
from cohortvol.anatomy.subject_folders import IMAGES, MASKS, META, TEST, read_split
from cohortvol.errors import ConfigError, ScanError
from cohortvol.tools.evaluate import chaos
from cohortvol.tools.evaluate.labels import LabelMap, read_masks, read_nifti, vocabulary

LAYOUTS = ("auto", "chaos", "amos", "totalsegmentator", "pairs")


@dataclass(frozen=True)
class Case:
    """One scan with the expert's labels.

    Attributes
    ----------
    scan_id : str
        Name by which the models' label maps are found.
    subject_id : str
        The person; the two sequences of a CHAOS subject share it.
    layout : str
        One of `LAYOUTS`, without ``auto``.
    expert : Path
        Label map; of CHAOS the folder of the case, of TotalSegmentator that of the masks.
    image : Path or None
        The scan, or the folder of its DICOM slices.
    labels : mapping of str to int, or None
        Structure to label index; None where the file itself says it.
    """

    scan_id: str
    subject_id: str
    layout: str
    expert: Path
    image: Path | None
    labels: Mapping[str, int] | None


def find_cases(
    folder: Path, layout: str, labels: str | None, split: str | None = None
) -> list[Case]:
    """Every scan of a dataset that has labels of an expert, in the order of their names.

    Parameters
    ----------
    folder : Path
        - ``chaos``: a case with ``DICOM_anon`` and ``Ground``, or any folder above such cases;
        - ``amos``: ``dataset.json`` and ``labelsTr/``, ``imagesTr/`` (or ``Va``), as nnU-Net's;
        - ``totalsegmentator``: ``sNNNN/segmentations/*.nii.gz`` beside ``mri.nii.gz``;
        - ``pairs``: label maps in ``labels/`` or the folder itself, images in ``images/``.
    layout : str
        One of `LAYOUTS`.
    labels : str or None
        See `cohortvol.tools.evaluate.labels.vocabulary`.
    split : str, optional
        Part of the official split: scans of the layout totalsegmentator that ``meta.csv`` has in
        it.

    Raises
    ------
    ConfigError
        If there is no such folder, no case in it, or two of one name; or a split is asked for of
        another layout.
    TableError
        If ``meta.csv`` cannot be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of experts' label maps")
    layout = _layout_of(folder) if layout == "auto" else layout
    known = None if labels is None else vocabulary(labels)
    find = {"chaos": _chaos, "amos": _amos, "totalsegmentator": _totalsegmentator, "pairs": _pairs}
    cases = sorted(find[layout](folder, known), key=lambda case: case.scan_id)
    if not cases:
        raise ConfigError(f"{folder}: no label map of an expert in the layout {layout}")
    _refuse_twins(folder, [case.scan_id for case in cases])
    return cases if split is None else _in_split(folder, layout, cases, split)


def _in_split(folder: Path, layout: str, cases: list[Case], split: str) -> list[Case]:
    if layout != "totalsegmentator":
        raise ConfigError(f"--split {split}: the layout {layout} has no {META} that says it")
    chosen = {one.folder for one in read_split(folder) if one.split == split}
    if absent := sorted(chosen - {case.scan_id for case in cases}):
        raise ConfigError(
            f"{folder}: {len(absent)} subjects of the split {split} have no {MASKS}: "
            f"{', '.join(absent[:5])}"
        )
    if not chosen:
        raise ConfigError(f"{folder / META}: nobody is in the split {split}")
    return [case for case in cases if case.scan_id in chosen]


def n_for_training(folder: Path, cases: Sequence[Case]) -> int:
    """Scans that ``meta.csv`` gives for training; 0 where there is none."""
    if cases[0].layout != "totalsegmentator" or not (folder / META).is_file():
        return 0
    split = {one.folder: one.split for one in read_split(folder)}
    return sum(split.get(case.scan_id, TEST) != TEST for case in cases)


def _layout_of(folder: Path) -> str:
    if next(folder.glob(f"*/{MASKS}"), None):
        return "totalsegmentator"
    if (folder / "dataset.json").is_file() and next(folder.glob("labels*"), None):
        return "amos"
    if (folder / chaos.GROUND).is_dir() or next(folder.glob(f"**/{chaos.GROUND}"), None):
        return "chaos"
    return "pairs"


def _chaos(folder: Path, labels: Mapping[str, int] | None) -> list[Case]:
    grounds = [folder / chaos.GROUND] if (folder / chaos.GROUND).is_dir() else []
    cases = []
    for ground in grounds or folder.glob(f"**/{chaos.GROUND}"):
        case = ground.parent
        parts = case.relative_to(folder).parts or (folder.name,)
        person = parts[:-1] if parts[-1] in ("T1DUAL", "T2SPIR") and len(parts) > 1 else parts
        image = chaos.dicom_folder(case)
        cases.append(Case("_".join(parts), "_".join(person), "chaos", case, image, labels))
    return cases


def _amos(folder: Path, labels: Mapping[str, int] | None) -> list[Case]:
    named = vocabulary(str(folder / "dataset.json")) if labels is None else labels
    cases = []
    for part in ("Tr", "Va", "Ts"):
        images = _by_id(folder / f"images{part}")
        for name, path in _by_id(folder / f"labels{part}").items():
            cases.append(Case(name, name, "amos", path, images.get(name), named))
    return cases


def _totalsegmentator(folder: Path, labels: Mapping[str, int] | None) -> list[Case]:
    cases = []
    for masks in folder.glob(f"*/{MASKS}"):
        images = [
            masks.parent / name for name in IMAGES.values() if (masks.parent / name).is_file()
        ]
        image, name = (images[0] if images else None), masks.parent.name
        cases.append(Case(name, name, "totalsegmentator", masks, image, labels))
    return cases


def _pairs(folder: Path, labels: Mapping[str, int] | None) -> list[Case]:
    inside = folder / "labels"
    maps = _by_id(inside if inside.is_dir() else folder)
    images = _by_id(folder / "images")
    return [
        Case(name, name, "pairs", path, images.get(name), labels) for name, path in maps.items()
    ]


def _by_id(folder: Path) -> dict[str, Path]:
    files = [path for path in sorted(folder.glob("*")) if _is_nifti(path)]
    _refuse_twins(folder, [id_of(path) for path in files])
    return {id_of(path): path for path in files}


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")


def id_of(path: Path) -> str:
    """Scan of a file: ``label_12.nii.gz``, ``image_12.nii.gz``, ``12_dseg.nii``, ``12_0000.nii.gz``
    and ``12.nii.gz`` are all of scan ``12``.
    """
    name = re.sub(r"\.nii(\.gz)?$", "", path.name)
    return re.sub(r"(_dseg|_0000)$", "", re.sub(r"^(label|image)_", "", name))


def _refuse_twins(folder: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{folder}: {len(twice)} scans with two files each, {', '.join(twice[:5])}\n"
            "  Which one is meant cannot be guessed: keep one of them."
        )


def find_label_maps(folder: Path) -> dict[str, Path]:
    """A model's label maps below a folder, by scan: files, folders of masks, or of PNG slices.

    Raises
    ------
    ConfigError
        If there is no such folder, nothing in it, or two label maps of one scan.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of a model's label maps")
    found: list[tuple[str, Path]] = []
    masks: dict[Path, None] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in IMAGES.values() and (path.parent / MASKS).is_dir():
            continue  # the scan beside its masks
        if _is_nifti(path):
            if path.parent.name == MASKS or (
                path.parent != folder and id_of(path) in structures.load()
            ):
                masks[path.parent] = None
            else:
                found.append((id_of(path), path))
        elif path.suffix == ".png":
            masks[path.parent] = None
    for place in masks:
        case = place.parent if place.name in (MASKS, "Results") else place
        found.append(("_".join(case.relative_to(folder).parts), place))
    if not found:
        raise ConfigError(f"{folder}: holds no label maps (.nii, .nii.gz, or folders of .png)")
    _refuse_twins(folder, [name for name, _ in found])
    return dict(found)


def read_expert(case: Case) -> LabelMap:
    """Labels of the expert of one case; ScanError where they cannot be used."""
    if case.layout == "chaos":
        return chaos.read_expert(case.expert)
    if case.layout == "totalsegmentator":
        return read_masks(_by_id(case.expert))
    return read_nifti(case.expert, case.labels)


def read_model(place: Path, labels: Mapping[str, int] | None, expert: LabelMap) -> LabelMap:
    """A model's label map of one scan; ScanError where it cannot be used."""
    if place.is_dir():
        if next(place.glob("*.png"), None):
            return chaos.read_model(place, expert)
        return read_masks(_by_id(place))
    return read_nifti(place, labels)


def read_image(case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """Grey values (I, J, K) and affine of a case's scan; None where there is none to show."""
    if case.image is None:
        return None
    try:
        if case.image.is_dir():
            return chaos.read_grey(case.image)
        image = nib.Nifti1Image.from_filename(case.image)
        grey = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, ScanError, nib.filebasedimages.ImageFileError):
        return None
    return (grey if grey.ndim == 3 else grey[..., 0]), np.asarray(image.affine)
