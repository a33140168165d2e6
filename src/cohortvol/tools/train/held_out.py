"""The networks of the folds as models of their own, each beside the cases it has not seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.models.card import FOLD_MODEL, Card
from cohortvol.models.networks import import_nnunet
from cohortvol.store.channels import in_folders
from cohortvol.store.files import commit_bytes, make_folder
from cohortvol.tools.train.cases import mri_or_all, read_labels, splits_of_part
from cohortvol.tools.train.folds import sources
from cohortvol.tools.train.recipe import Recipe

HELD_OUT = "held_out"


def write_held_out(recipe: Recipe, cases: pd.DataFrame, work: Path) -> None:
    """A folder per fold for ``cohortvol models consistency``, in place of earlier ones.

    ``held_out/<fold>`` has ``model/``, the parts of that fold merged as the final model's are, and
    the MRI that no part of it was trained on: links in ``images/``, ``images_2/`` and so on, and in
    ``labels/`` the label maps with the indices of the model. The CT is there where there is no MRI.

    Parameters
    ----------
    cases : pandas.DataFrame
        From `cohortvol.tools.train.cases.cases_of`.
    work : Path
        Of the whole training; every fold of every part is trained.
    """
    shutil.rmtree(work / HELD_OUT, ignore_errors=True)
    splits = {part: splits_of_part(recipe, part, cases) for part in recipe.parts}
    mine = mri_or_all(cases)
    for fold in range(recipe.n_folds):
        folder = make_folder(work / HELD_OUT / str(fold))
        card = import_nnunet(
            sources(recipe, work, str(fold)),
            folder / FOLD_MODEL,
            model_id=f"{recipe.id}-fold-{fold}",
            licence=recipe.licence,
            orientation="RAS",
        )
        unseen = set.intersection(*(set(splits[part][fold]["val"]) for part in recipe.parts))
        for case in mine[mine["case"].isin(unseen)].itertuples():
            write_case(recipe, card, folder, case)


def write_case(recipe: Recipe, card: Card, folder: Path, case: Any) -> None:
    """Links to the images of a case, which is a row of `cases`, and its labels as the model's."""
    of_model = {structure: label for label, structure in card.labels.items()}
    named = recipe.datasets[case.dataset].labels
    index = {theirs: of_model.get(structure, 0) for theirs, structure in named.items()}
    labels, affine, _ = read_labels(case.label_map, index)
    content = nifti_gz(labels, affine)
    commit_bytes(make_folder(folder / "labels") / f"{case.case}.nii.gz", content)
    links = in_folders(folder / "images" / f"{case.case}.nii.gz", len(recipe.image_folders))
    for link, channel in zip(links, in_folders(case.image, len(links)), strict=True):
        (make_folder(link.parent) / link.name).symlink_to(os.path.abspath(channel))
