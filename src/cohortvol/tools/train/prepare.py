"""From cases to what nnU-Net trains on: raw dataset, fingerprint, plan, preprocessed cases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)

from cohortvol.errors import CohortvolError, ConfigError
from cohortvol.store.channels import in_folders
from cohortvol.store.files import commit_json, digest_of
from cohortvol.tools.train.cases import cases_of_part, index_of_part, read_pair, splits_of_part
from cohortvol.tools.train.nnunet import SmallPlanner
from cohortvol.tools.train.recipe import Label, Recipe

logger = logging.getLogger(__name__)

DATASET_ID = 1
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
PREPARED = "prepared.json"
FREE = ("title", "licence", "origin", "citation", "notes", "datasets", "parts")
"""Settings that may change after a training was prepared, or are compared for each part."""
OF_TRAINING = (
    "batch_size",
    "optimizer",
    "learning_rate",
    "pretrain",
    "phases",
    "final",
)
"""Settings that only the training of a fold depends on."""


@contextmanager
def nnunet_folders(work: Path) -> Iterator[Path]:
    """nnU-Net's three folders under `work`, told to it the only way it listens to."""
    names = {f"nnUNet_{folder}": folder for folder in ("raw", "preprocessed", "results")}
    before = {name: os.environ.get(name) for name in names}
    for name, folder in names.items():
        os.environ[name] = str((work / folder).absolute())
    try:
        yield work
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dataset_name(recipe: Recipe) -> str:
    """nnU-Net's name of the dataset, such as ``Dataset001_embedded-v2``."""
    return f"Dataset{DATASET_ID:03d}_{recipe.id}"


def prepare(recipe: Recipe, part: str, cases: pd.DataFrame, work: Path, processes: int) -> None:
    """Everything nnU-Net needs of one part, in its work folder; done once.

    Parameters
    ----------
    cases : pandas.DataFrame
        Of the whole recipe, from `cohortvol.tools.train.cases.cases_of`.
    work : Path
        Of this part.

    Raises
    ------
    ConfigError
        Naming every case whose label map holds an index that its dataset does not name, or does
        not lie on its image; or if `work` was prepared from other cases or settings.
    """
    name = dataset_name(recipe)
    content = _content(recipe, part, cases)
    if (work / PREPARED).is_file():
        _check_same(work, content)
        return
    splits = splits_of_part(recipe, part, cases)
    mine = cases_of_part(recipe, part, cases)
    for dataset, lacks in recipe.lacking(part).items():
        logger.info("part %s: without %s, which lacks %s", part, dataset, ", ".join(lacks))
    _write_raw(recipe, part, mine, work / "raw" / name, processes)
    extract_fingerprint_dataset(DATASET_ID, num_processes=processes, show_progress_bar=False)
    planner = SmallPlanner(
        DATASET_ID,
        gpu_memory_target_in_gb=recipe.planning_memory_gb,
        overwrite_target_spacing=[float(edge) for edge in reversed(recipe.spacing_mm)],
        base_features=recipe.base_features,
        max_features=recipe.max_features,
        full_resolution=recipe.convolutions_at_full_resolution,
    )
    planner.plan_experiment()
    preprocess_dataset(
        DATASET_ID, PLANS, [CONFIGURATION], num_processes=[processes], show_progress_bar=False
    )
    commit_json(work / "preprocessed" / name / "splits_final.json", splits)
    commit_json(work / PREPARED, content)


def _content(recipe: Recipe, part: str, cases: pd.DataFrame) -> dict[str, str]:
    """Digest of each thing that the prepared cases depend on."""
    settings = asdict(recipe)
    mine = cases_of_part(recipe, part, cases)
    columns = ["case", "subject", "source", "dataset"]
    return {
        "cases": digest_of(mine[columns].to_numpy().tolist()),
        "folds": digest_of(splits_of_part(recipe, part, cases)),
        "labels": digest_of(
            {
                dataset: sorted(index_of_part(recipe, part, dataset).items())
                for dataset in sorted(mine["dataset"].unique())
            }
        ),
        **{
            name: digest_of(value)
            for name, value in settings.items()
            if name not in (*FREE, *OF_TRAINING, "n_folds") and (value or name != "channels")
        },
    }


def _check_same(work: Path, content: dict[str, str]) -> None:
    before = json.loads((work / PREPARED).read_text(encoding="utf-8"))
    changed = [name for name in content if before.get(name) != content[name]]
    if changed:
        raise ConfigError(
            f"{work}: was prepared with other {', '.join(changed)} than the recipe has now\n"
            "  Name another folder with --work, or delete this one with all trained in it."
        )


def _write_raw(recipe: Recipe, part: str, cases: pd.DataFrame, raw: Path, processes: int) -> None:
    """nnU-Net's raw dataset of one part: images in RAS+, label maps with the part's indices."""
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    index = {name: index_of_part(recipe, part, name) for name in recipe.datasets}
    jobs = [
        (
            row.case,
            in_folders(row.image, len(recipe.image_folders)),
            row.label_map,
            index[row.dataset],
            raw,
        )
        for row in cases.itertuples()
    ]
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(_write_case, *zip(*jobs, strict=True)))
    else:
        results = [_write_case(*job) for job in jobs]
    if wrong := [one.problem for one in results if one.problem]:
        raise ConfigError(
            "\n".join([f"{len(wrong)} of {len(jobs)} cases cannot be trained on", *wrong])
        )
    _tell(part, results)
    commit_json(
        raw / "dataset.json",
        {
            # Grey values are normalised scan by scan, CT as MRI: TotalSegmentator MRI does so too.
            "channel_names": {str(n): name for n, name in enumerate(recipe.channels or ["MRI"])},
            "labels": {
                "background": 0,
                **{name: index for index, name in recipe.labels_of(part).items()},
            },
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIO",
        },
    )


def _tell(part: str, results: Sequence[_Written]) -> None:
    """What was settled by a rule while the cases of a part were written."""
    if n := sum(one.is_empty for one in results):
        logger.info(
            "part %s: %d of %d cases hold none of its structures and teach background alone",
            part, n, len(results),
        )  # fmt: skip
    if overlapping := [one.n_overlapping for one in results if one.n_overlapping]:
        logger.info(
            "part %s: %d voxels of %d cases are in two masks; the later structure has them",
            part, sum(overlapping), len(overlapping),
        )  # fmt: skip


@dataclass(frozen=True)
class _Written:
    """A case that was written, or what is wrong with it."""

    problem: str = ""
    n_overlapping: int = 0
    is_empty: bool = False


def _write_case(
    case: str, images: Sequence[Path], label_map: Path, index: Mapping[Label, int], raw: Path
) -> _Written:
    try:
        channels = [read_pair(image, label_map, index) for image in images]
    except CohortvolError as error:
        return _Written(f"  {case}: {error}")
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        return _Written(f"  {case}: cannot be read ({error})")
    _, labels, affine, n_overlapping = channels[0]
    for n, (voxels, *_) in enumerate(channels):
        _write(raw / "imagesTr" / f"{case}_{n:04}.nii.gz", voxels, affine)
    _write(raw / "labelsTr" / f"{case}.nii.gz", labels, affine)
    return _Written("", n_overlapping, not labels.any())


def _write(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data), affine), path)
