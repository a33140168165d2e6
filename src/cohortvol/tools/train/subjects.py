"""Cases of a data set with one file per structure, and whom it keeps for its test."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from cohortvol.anatomy.subject_folders import (
    IMAGES,
    MASKS,
    TEST,
    Subject,
    mask_files,
    read_split,
)
from cohortvol.errors import LONGEST_LIST, ConfigError, did_you_mean
from cohortvol.tools.train.recipe import TOTALSEGMENTATOR, Dataset, Recipe

logger = logging.getLogger(__name__)


def files_of_structures(recipe: Recipe, dataset: str) -> list[str]:
    """Masks that a dataset must have of every subject: those of the parts that it teaches."""
    taught = {
        structure
        for part, structures in recipe.parts.items()
        if dataset not in recipe.lacking(part)
        for structure in structures
    }
    labels = recipe.datasets[dataset].labels
    return [str(name) for name, structure in labels.items() if structure in taught]


def refuse_unknown(name: str, leave_out: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ConfigError if a dataset is to leave out cases that it does not have."""
    cases = set(known)
    unknown = [
        f"datasets.{name}.leave_out: no case {case!r}{did_you_mean(case, cases)}"
        for case in leave_out
        if case not in cases
    ]
    if unknown:
        raise ConfigError("\n".join(unknown[:LONGEST_LIST]))


def read_subjects(folder: Path, name: str, dataset: Dataset, wanted: Sequence[str]) -> pd.DataFrame:
    """Cases for training: ``case, subject, source, image, label_map``.

    The publisher gives a file for every structure of every subject, without any voxel where the
    structure is not in the scan. So a file that is missing says nothing, and is refused.

    Parameters
    ----------
    folder : Path
        With ``meta.csv`` and a folder of each subject.
    name : str
        Of the dataset in the recipe; put before the numbers of its subjects.
    dataset : Dataset
        Its modality says which image is read, and whom to leave out.
    wanted : sequence of str
        Names of the masks, without ``.nii.gz``.

    Raises
    ------
    ConfigError
        Naming every subject that is not in ``meta.csv``, or is there alone, and every file that is
        missing; or if one to be left out is not known.
    TableError
        See `read_split`.
    """
    subjects = read_split(folder)
    named = {one.folder for one in subjects}
    present = {path.parent.name for path in folder.glob(f"*/{MASKS}")}
    wrong = _listed("without a row in meta.csv, so nobody knows whether they are for testing",
                    sorted(present - named))  # fmt: skip
    refuse_unknown(name, dataset.leave_out, named)
    training = [
        one for one in subjects if one.split != TEST and one.folder not in dataset.leave_out
    ]
    image = IMAGES[dataset.modality]
    wrong += _listed(
        f"in meta.csv, but without a folder {MASKS}",
        [one.folder for one in training if one.folder not in present],
    )
    missing = defaultdict(list)
    for one in training:
        if one.folder in present:
            place = folder / one.folder
            if not (place / image).is_file():
                missing[image].append(one.folder)
            known = mask_files(place / MASKS)
            for mask in wanted:
                if mask not in known:
                    missing[f"{MASKS}/{mask}.nii.gz"].append(one.folder)
    for file, of in missing.items():
        wrong += _listed(f"without {file}", of, len(training))
    if wrong:
        hint = (
            "  A structure that is not in a scan has a file without any voxel. Unpack the data set "
            "again,\n  leave those subjects out (leave_out), or take what it does not label out of "
            "the recipe."
        )
        raise ConfigError("\n".join([f"{folder}: cannot be trained on", *wrong, hint]))
    if not training:
        raise ConfigError(f"{folder}: {len(subjects)} subjects, all for testing or left out")
    logger.info(
        "%s: %d subjects to train on, %d kept for its test, %d left out",
        name, len(training), sum(one.split == TEST for one in subjects), len(dataset.leave_out),
    )  # fmt: skip
    return pd.DataFrame(
        {
            "case": [one.folder for one in training],
            "subject": [_person(name, one) for one in training],
            "source": "real",
            "image": [folder / one.folder / image for one in training],
            "label_map": [folder / one.folder / MASKS for one in training],
        }
    )


def _listed(what: str, names: Sequence[str], n: int | None = None) -> list[str]:
    """A line that names those of whom something is wrong; empty where it is nobody."""
    if not names:
        return []
    if len(names) == n:
        return [f"  all {n} subjects are {what}"]
    more = ", ..." if len(names) > LONGEST_LIST else ""
    return [f"  {len(names)} subjects {what}: {', '.join(names[:LONGEST_LIST])}{more}"]


def _person(dataset: str, subject: Subject) -> str:
    """Numbers such as ``s0001`` are of one dataset alone, unless ``subject_id`` says who it is."""
    return subject.person or f"{dataset}-{subject.folder}"


def subjects_for_test(recipe: Recipe, *datasets: str) -> set[str]:
    """People whom some datasets of the recipe, all if none are named, keep for their test."""
    return {
        _person(name, one)
        for name, dataset in recipe.datasets.items()
        if dataset.layout == TOTALSEGMENTATOR and dataset.folder
        if name in (datasets or recipe.datasets)
        for one in read_split(dataset.folder)
        if one.split == TEST
    }
