"""The cases of a training: which there are, which folds hold them out, their labels in a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import to_ras
from cohortvol.anatomy.subject_folders import merge_masks
from cohortvol.errors import ConfigError, TableError
from cohortvol.store.text_table import read_text_table
from cohortvol.tools.train.recipe import TOTALSEGMENTATOR, Label, Recipe
from cohortvol.tools.train.subjects import (
    files_of_structures,
    read_subjects,
    refuse_unknown,
    subjects_for_test,
)

AFFINE_TOLERANCE_MM = 1e-3


def read_cases(folder: Path, image_folders: Sequence[str] = ("images",)) -> pd.DataFrame:
    """Cases of a training folder: ``case, subject, source``, from ``cases.csv``.

    A folder without ``cases.csv`` holds real scans only, one subject each.

    Raises
    ------
    ConfigError
        If images and label maps do not match the table.
    TableError
        If the table cannot be read with certainty.
    """
    table = folder / "cases.csv"
    if table.is_file():
        given = read_text_table(table)
        cases = pd.DataFrame(given.rows, columns=given.columns)
    else:
        names = sorted(p.name.removesuffix(".nii.gz") for p in folder.glob("images/*.nii.gz"))
        cases = pd.DataFrame({"case": names, "subject": names, "source": "real"})
    columns = [name for name in ("case", "subject", "source") if name not in cases.columns]
    if columns:
        raise ConfigError(f"{table}: columns missing: {', '.join(columns)}")
    if cases.empty:
        raise ConfigError(f"{folder}: no images/*.nii.gz to train on")
    twice = cases.loc[cases["case"].duplicated(), "case"].unique()
    if len(twice):
        raise ConfigError(f"{table}: named twice: {', '.join(twice)}")
    absent = [
        f"{kind}/{case}.nii.gz"
        for case in cases["case"]
        for kind in (*image_folders, "labels")
        if not (folder / kind / f"{case}.nii.gz").is_file()
    ]
    if absent:
        raise ConfigError(f"{folder}: missing {', '.join(absent)} ({len(absent)} files)")
    return cases[["case", "subject", "source"]]


def cases_of(recipe: Recipe, pairs: Path | None = None) -> pd.DataFrame:
    """All cases of a recipe, those of every dataset.

    Parameters
    ----------
    pairs : Path, optional
        Folder of the one dataset of a recipe that names no folders.

    Returns
    -------
    pandas.DataFrame
        ``case, subject, source, dataset, modality, image, label_map``: `case` is unique, with the
        dataset's name before it where the recipe names datasets; the last two are paths, the
        label map's that of a folder of masks in the layout totalsegmentator. Equal subjects of
        two datasets are one person, so that the CT of a person is held out together with the MRI.
        Two people of one name cost nothing but that they share a fold. Whom a dataset keeps for
        its test is in no row, whichever dataset an image is from.

    Raises
    ------
    ConfigError
        Naming every dataset that cannot be used, and every source of a phase that no dataset has;
        or if `pairs` is missing, or given beside folders of the recipe.
    """
    named = all(dataset.folder for dataset in recipe.datasets.values())
    if named == (pairs is not None):
        raise ConfigError(
            "the recipe names the folders of its datasets: leave --pairs out"
            if named
            else "the recipe names no datasets: give the folder of images and labels with --pairs"
        )
    tables, wrong = [], []
    for name, dataset in recipe.datasets.items():
        folder = dataset.folder or pairs
        assert folder is not None  # noqa: S101  (for the type checker: one of them is given)
        try:
            if dataset.layout == TOTALSEGMENTATOR:
                cases = _subjects(recipe, name, folder)
            else:
                cases = _with_files(read_cases(folder, recipe.image_folders), folder)
                refuse_unknown(name, dataset.leave_out, cases["case"])
                cases = cases[~cases["case"].isin(dataset.leave_out)]
        except (ConfigError, TableError) as error:
            wrong.append(str(error))
            continue
        cases = cases.assign(dataset=name, modality=dataset.modality)
        tables.append(cases.assign(case=f"{name}-" + cases["case"]) if named else cases)
    if not wrong:
        sources = {source for table in tables for source in table["source"]}
        phases = [*recipe.phases, *(one for one in (recipe.pretrain, recipe.final) if one)]
        wanted = dict.fromkeys(source for phase in phases for source in phase.source_weights)
        wrong = [
            f"source_weights names {source!r}; the sources of the cases are "
            f"{', '.join(sorted(sources))}"
            for source in wanted
            if source not in sources
        ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    cases = pd.concat(tables, ignore_index=True)
    return cases[~cases["subject"].isin(subjects_for_test(recipe))].reset_index(drop=True)


def _subjects(recipe: Recipe, name: str, folder: Path) -> pd.DataFrame:
    """The cases of a dataset with a folder for each subject, and one image in it."""
    if len(recipe.channels) > 1:
        raise ConfigError(
            f"dataset {name}: layout {TOTALSEGMENTATOR} has one image of a subject, and the recipe "
            f"names {len(recipe.channels)} channels: {', '.join(recipe.channels)}"
        )
    return read_subjects(folder, name, recipe.datasets[name], files_of_structures(recipe, name))


def _with_files(cases: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The cases of a folder of pairs, with the paths of image and label map."""
    return cases.assign(
        **{
            column: [folder / kind / f"{case}.nii.gz" for case in cases["case"]]
            for column, kind in (("image", "images"), ("label_map", "labels"))
        }
    )


def cases_of_part(recipe: Recipe, part: str, cases: pd.DataFrame) -> pd.DataFrame:
    """The cases whose dataset labels all structures of a part.

    A structure that a dataset does not label is no background there, so its cases are left out.
    """
    return cases[~cases["dataset"].isin(recipe.lacking(part))].reset_index(drop=True)


def mri_or_all(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of MRI, which models are for; all, CT that is, where there is no MRI."""
    mri = table[table["modality"] == "MR"]
    return table if mri.empty else mri


def split_by_subject(cases: pd.DataFrame, n_folds: int, seed: int) -> list[dict[str, list[str]]]:
    """Folds over the subjects of real cases; a subject's synthetic cases never leave its side.

    Parameters
    ----------
    cases : pandas.DataFrame
        ``case, subject, source``, and ``dataset, modality`` where there is more than one dataset.
        Subjects are dealt out dataset by dataset, those with an MRI first: the folds of the MRI
        are the same with and without CT, and each dataset is spread over all folds.

    Returns
    -------
    list of dict
        ``{"train": [...], "val": [...]}`` per fold; ``val`` holds real cases only, ``train``
        every case whose subject is not among them.
    """
    real = cases[cases["source"] == "real"]
    if "dataset" in real:
        order = real["dataset"].where(real["modality"] != "CT", "\uffff" + real["dataset"])
        home = order.groupby(real["subject"]).min()
    else:
        home = pd.Series("", index=sorted(real["subject"].unique()))
    held_out: list[set[str]] = [set() for _ in range(n_folds)]
    for _, group in home.groupby(home):
        subjects = pd.Series(sorted(group.index)).sample(frac=1, random_state=seed)
        for fold in range(n_folds):
            held_out[fold] |= set(subjects.iloc[fold::n_folds])
    return [
        {
            "train": list(cases.loc[~cases["subject"].isin(away), "case"]),
            "val": list(real.loc[real["subject"].isin(away), "case"]),
        }
        for away in held_out
    ]


def splits_of_part(recipe: Recipe, part: str, cases: pd.DataFrame) -> list[dict[str, list[str]]]:
    """`split_by_subject` over all cases of the recipe, then only those of one part.

    A subject is held out by the same fold of every part.

    Raises
    ------
    ConfigError
        If a fold of the part has nothing to train on or to hold out.
    """
    mine = set(cases_of_part(recipe, part, cases)["case"])
    splits = [
        {kind: [case for case in names if case in mine] for kind, names in split.items()}
        for split in split_by_subject(cases, recipe.n_folds, recipe.seed)
    ]
    empty = [
        f"fold {fold} has nothing to {'train on' if kind == 'train' else 'hold out'}"
        for fold, split in enumerate(splits)
        for kind, names in split.items()
        if not names
    ]
    if empty:
        raise ConfigError(f"part {part}: {'; '.join(empty)}; use fewer folds, or more subjects")
    return splits


def read_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in RAS+ and their affine in mm."""
    image = nib.Nifti1Image.from_filename(path)
    return to_ras(np.asarray(image.dataobj), np.asarray(image.affine))


def index_of_part(recipe: Recipe, part: str, dataset: str) -> dict[Label, int]:
    """Label index, or file, of a dataset to the index of a part; 0 for what is left to others."""
    mine = {structure: index for index, structure in recipe.labels_of(part).items()}
    named = recipe.datasets[dataset].labels
    return {index: mine.get(structure, 0) for index, structure in named.items()}


def harmonised(labels: np.ndarray, index: Mapping[Label, int]) -> np.ndarray:
    """A label map with other label indices.

    Parameters
    ----------
    labels : (I, J, K) array
        Whole numbers, of any type.
    index : dict of int to int
        New index of each; background stays 0.

    Returns
    -------
    (I, J, K) array of uint8 or uint16

    Raises
    ------
    ConfigError
        If `labels` holds what is no whole number, or no index of `index`.
    """
    found = np.unique(labels)
    if not np.array_equal(found, np.rint(found)):
        raise ConfigError(f"label map holds {found[found != np.rint(found)][0]:g}, no whole number")
    unknown = [int(one) for one in found if int(one) not in {0, *index}]
    if unknown:
        raise ConfigError(f"label indices the recipe does not name: {unknown}")
    new = np.array([index.get(int(one), 0) for one in found])
    kind = np.uint8 if max(index.values(), default=0) < 2**8 else np.uint16
    return new.astype(kind)[np.searchsorted(found, labels)]


def read_labels(label_map: Path, index: Mapping[Label, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Label map of a case with other label indices, on the axes that it is stored on.

    Parameters
    ----------
    label_map : Path
        A file, or a folder with a mask per structure.
    index : mapping of int or str to int
        New index of each label index, or of each mask; 0 for none.

    Returns
    -------
    (I, J, K) array, (4, 4) array, int
        Label map, affine, and voxels that two masks claimed: the higher index has them.

    Raises
    ------
    ConfigError, GeometryError
        See `harmonised` and `merge_masks`.
    """
    if label_map.is_dir():
        merged = merge_masks(label_map, {str(name): new for name, new in index.items() if new})
        return merged.voxels, merged.affine, merged.n_overlapping
    drawn = nib.Nifti1Image.from_filename(label_map)
    return harmonised(np.asarray(drawn.dataobj), index), np.asarray(drawn.affine), 0


def read_pair(
    image: Path, label_map: Path, index: Mapping[Label, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Image, label map and affine of a case, in RAS+, and voxels claimed twice; see `read_labels`.

    Raises
    ------
    ConfigError
        If they lie on different grids, or the labels cannot be used.
    """
    voxels, affine = read_image(image)
    labels, label_affine, n_overlapping = read_labels(label_map, index)
    labels, label_affine = to_ras(labels, label_affine)
    if voxels.ndim != 3 or voxels.shape != labels.shape:
        raise ConfigError(
            f"image and label map are on different grids: {voxels.shape} and {labels.shape} voxels"
        )
    if not np.allclose(affine, label_affine, atol=AFFINE_TOLERANCE_MM):
        raise ConfigError(
            "image and label map are on different grids: same shape, other place or spacing"
        )
    return voxels, labels, affine, n_overlapping
