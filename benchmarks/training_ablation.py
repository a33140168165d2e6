"""MRI alone against MRI and CT, trained through the workflow.

    python benchmarks/training_ablation.py simulated
    python benchmarks/training_ablation.py sts_ct_mr DATA

``simulated`` draws people: 12 with an MRI of one of five sequences, 48 others with a CT, and 40
with an MRI whom no network sees. Both variants of ``models/ablation-simulated.yaml`` are trained,
and their final networks measured on the 40: mean Dice, and the difference with its 95 % bootstrap
interval. The grey values of tissues in CT (`HOUNSFIELD`) are assumed, as in a portal venous phase.

``sts_ct_mr`` is for the plumbing. DATA is the folder of that name of the IBSI data sets
(github.com/theibsi/data_sets): per person ``CT_image.nii.gz``, ``MR_T1_image.nii.gz`` and the
outlined tumour on each. Prints Dice out of fold from the cards: the folds of the MRI are the same
in both variants. Four people and some hundred batches: a test that all runs, and no finding.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.anatomy.overlap import overlap_by_structure
from cohortvol.models.card import load_card
from cohortvol.stages.segment import Segmenter
from cohortvol.tools.simulate import anatomy, cohort
from cohortvol.tools.simulate.image import (
    Acquisition,
    acquire,
    contrasts,
    label_map_of,
    organ_masks,
    signal_of,
    write_nifti,
)
from cohortvol.tools.simulate.training import random_acquisition

REPOSITORY = Path(__file__).parents[1]
VARIANTS = ("mri", "mri-ct")
FILES_OF_STS = {"mr": "MR_T1", "ct": "CT"}
N_SIMULATED = {"mr": 12, "ct": 48, "new": 40}
HOUNSFIELD = {
    "air": -1000, "fat": -100, "muscle": 60, "cavity": -100, "bone": 300, "disc": 90, "csf": 5,
    "lung": -800, "vessel": 150, "bowel_wall": 80, "bowel_fluid": 15, "bowel_gas": -900,
    "stomach": 20, "gallbladder": 8, "pancreas": 100, "adrenal_gland_left": 65,
    "adrenal_gland_right": 65, "renal_sinus": -60, "liver": 110, "kidney_right": 180,
    "kidney_left": 180, "spleen": 120,
}  # fmt: skip


def main(data: str, given: Path | None, out: Path, cores: int) -> None:
    """Lay out the folders, train both variants, print what came of it."""
    started = time.monotonic()
    if data == "simulated":
        simulate(out, cores)
    else:
        link_sts(given, out)
    train(REPOSITORY / "models" / f"ablation-{data.removesuffix('_ct_mr')}.yaml", out, cores)
    if data == "simulated":
        report_new_scans(out)
    else:
        report_cards(out)
    print(f"{time.monotonic() - started:.0f} s")


def simulate(out: Path, cores: int) -> None:
    """``mr``, ``ct`` and ``new``, each with images and label maps; made once."""
    for number, (dataset, n) in enumerate(N_SIMULATED.items()):
        folder = out / dataset
        if not (folder / "done").exists():
            with ProcessPoolExecutor(cores) as pool:
                list(pool.map(partial(_simulate_one, folder, number), range(n)))
            (folder / "done").touch()


def _simulate_one(folder: Path, dataset: int, index: int) -> None:
    """One person, drawn as `cohortvol simulate` draws them, on a random grid."""
    rng = np.random.default_rng([7, dataset, index])
    subject = cohort.draw_subjects(1, rng)
    row = subject.iloc[0]
    volumes = cohort.draw_volumes(subject, rng).iloc[0].to_dict()
    bmi = row["weight_kg"] / (row["height_cm"] / 100) ** 2
    built = anatomy.build(volumes, row["height_cm"], bmi, rng)
    low = built.affine[:3, 3]
    high = low + np.array(built.tissues.shape) * anatomy.SPACING_MM
    if folder.name == "ct":
        image, labels, grid = _ct(built, low, high, rng)
    else:
        means = contrasts()[row["sequence"]].to_numpy()
        signal = signal_of(built.tissues, means, 0.04 * means, rng)
        acquisition = random_acquisition(rng, low, high)
        image, grid = acquire(signal, built.affine, acquisition, rng)
        image = np.rint(2000 * image / image.max())
        labels = label_map_of(organ_masks(built), built.affine, acquisition)
    for kind, voxels in (("images", image.astype(np.int16)), ("labels", labels)):
        write_nifti(folder / kind / f"{folder.name}{index:02d}.nii.gz", voxels, grid)


def _ct(
    built: anatomy.Anatomy, low: np.ndarray, high: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axial CT in HU, without coil shading, its label map and affine."""
    means = (np.array([HOUNSFIELD[name] for name in anatomy.TISSUES]) + 1000) / 1000
    signal = signal_of(built.tissues, means, np.full(len(means), 0.015), rng)
    acquisition = Acquisition(
        orientation="LPS",
        spacing_mm=(2.0, 2.0, float(rng.uniform(2, 5))),
        centre_mm=tuple((low + high) / 2),
        extent_mm=tuple((high - low) * (1, 1, rng.uniform(0.8, 1))),
        noise=0.02,
        shading=0.0,
    )
    image, grid = acquire(signal, built.affine, acquisition, rng)
    labels = label_map_of(organ_masks(built), built.affine, acquisition)
    return np.rint(1000 * image - 1000), labels, grid


def link_sts(data: Path | None, out: Path) -> None:
    """``mr`` and ``ct`` as links to the images of four people."""
    if data is None:
        raise SystemExit("name the folder sts_ct_mr")
    for dataset, name in FILES_OF_STS.items():
        for person in sorted(data.glob("STS_*")):
            for kind, file in (("images", "image"), ("labels", "mask")):
                link = out / dataset / kind / f"{person.name}.nii.gz"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to((person / f"{name}_{file}.nii.gz").resolve())


def train(shipped: Path, out: Path, cores: int) -> None:
    """Both variants of a recipe, its data sets being in `out`."""
    recipe = out / shipped.name
    text = shipped.read_text()
    for dataset in ("mr", "ct"):
        folder = f"training/{shipped.stem.removeprefix('ablation-')}/{dataset}"
        text = text.replace(folder, f"{out.resolve()}/{dataset}")
    recipe.write_text(text)
    subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "rules",
            "--snakefile", "workflow/training.smk", "--config", f"recipe={recipe.resolve()}",
            f"work={out.resolve()}/work", f"models_dir={out.resolve()}/models",
            "device=cpu", "threads=1",
        ],
        cwd=REPOSITORY,
        check=True,
    )  # fmt: skip


def report_cards(out: Path) -> None:
    """Dice out of fold, from the cards."""
    rows = []
    for variant in VARIANTS:
        card = load_card(out / "models" / f"ablation-sts-{variant}")
        for name, figures in card.accuracy.items():
            rows += [
                {"variant": variant, "figures": name, "structure": structure, **figure}
                for structure, figure in figures.items()
            ]
    print(pd.DataFrame(rows).to_string(index=False))


def report_new_scans(out: Path) -> None:
    """Dice of both final networks on the people they have not seen."""
    rows = []
    for variant in VARIANTS:
        segmenter = Segmenter.load(out / "models" / f"ablation-simulated-{variant}", "nnunet")
        index = {structure: label for label, structure in segmenter.card.labels.items()}
        for path in sorted((out / "new" / "images").glob("*.nii.gz")):
            image = nib.load(path)
            found, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
            drawn = np.asarray(nib.load(out / "new" / "labels" / path.name).dataobj)
            for structure, overlap in overlap_by_structure(found, index, drawn, index).items():
                if overlap.n_second:
                    rows.append((variant, path.name, structure, overlap.dice))
    table = pd.DataFrame(rows, columns=["variant", "scan", "structure", "dice"])
    table.to_csv(out / "dice.csv", index=False)
    wide = table.pivot(index=["structure", "scan"], columns="variant", values="dice")
    rng = np.random.default_rng(0)
    lines = []
    for structure, group in [*wide.groupby("structure"), ("all", wide.groupby("scan").mean())]:
        gain = (group["mri-ct"] - group["mri"]).to_numpy()
        means = rng.choice(gain, (10_000, len(gain))).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        lines.append(
            {"structure": structure, "n": len(gain), **group.mean().round(3),
             "gain": gain.mean().round(3), "low": low.round(3), "high": high.round(3)}
        )  # fmt: skip
    print(pd.DataFrame(lines).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("simulated", "sts_ct_mr"))
    parser.add_argument("folder", type=Path, nargs="?", help="of sts_ct_mr")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    out = given.out or Path("training") / given.data.removesuffix("_ct_mr")
    main(given.data, given.folder, out, given.cores)
