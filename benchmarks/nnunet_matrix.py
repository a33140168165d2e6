"""Labels of every kind of nnU-Net beside those of nnunetv2 itself, on every storage of a scan.

    python benchmarks/nnunet_matrix.py
    python benchmarks/nnunet_matrix.py --only cascade "best checkpoint" --out results/nnunet_matrix

nnunetv2 plans every network, saves it with random weights, an eighth as wide as it would be, and
runs it on a scan stored RAS, LPS and RSA, turned by 20 degrees, and smaller than a patch. Random
weights say something else in every voxel: labels that are as likely, and pieces of a voxel, are
everywhere. The table is of voxels that differ, with mirrored passes and without, and after the
postprocessing of nnU-Net, and of how many labels there are in each scan at least. It is printed and
kept in ``matrix.tsv``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cohortvol.models.card import Card
from cohortvol.models.networks import Source, import_nnunet
from nnunet_compared import PROFILES, compared, imported
from nnunet_trained import CHANNELS, Chosen, Training, storages, train_and_predict

PLAIN = Training(trained=False)
LOW = replace(PLAIN, configuration="3d_lowres")
CASCADE = replace(PLAIN, configuration="3d_cascade_fullres")
FLAT = replace(PLAIN, configuration="2d")
FIVE = "0 1 2 3 4"
ZIP = "zip of the cascade"
ROWS = {
    "3D, default trainer, fold 0": Chosen((PLAIN,)),
    "no mirroring": Chosen((replace(PLAIN, kind="never mirrored"),)),
    "ResEnc M": Chosen((replace(PLAIN, planner="nnUNetPlannerResEncM"),)),
    "2D": Chosen((FLAT,)),
    "3d_lowres": Chosen((LOW,)),
    "cascade": Chosen((CASCADE,)),
    "cascade, masked normalisation": Chosen((replace(CASCADE, kind="masked"),)),
    "cascade, regions": Chosen((replace(CASCADE, kind="regions"),)),
    "2D and 3D averaged": Chosen((FLAT, PLAIN)),
    "3d_lowres and cascade averaged": Chosen((LOW, CASCADE)),
    "2D, 3D and cascade averaged": Chosen((FLAT, PLAIN, CASCADE)),
    "regions": Chosen((replace(PLAIN, kind="regions"),)),
    "ignore label": Chosen((replace(PLAIN, reader="NibabelIO"),)),
    "read by NibabelIOWithReorient": Chosen((replace(PLAIN, reader="NibabelIOWithReorient"),)),
    **{kind: Chosen((replace(PLAIN, kind=kind),)) for kind in CHANNELS},
    "folds 0 to 4": Chosen((replace(PLAIN, folds=FIVE),)),
    "fold all": Chosen((replace(PLAIN, folds="all"),)),
    "best checkpoint": Chosen((replace(PLAIN, checkpoint="checkpoint_best.pth"),)),
    ZIP: Chosen((CASCADE,)),
}
"""What is tried, by what it is called in the table."""
AXES = ("RAS", "LPS", "RSA")


def main() -> None:
    """Let nnU-Net plan and predict, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("results/nnunet_matrix"))
    options = parser.parse_args()
    work = options.out.resolve() / "work"
    shutil.rmtree(work, ignore_errors=True)
    torch.set_num_threads(1)
    chosen = {kind: ROWS[kind] for kind in options.only}
    members = [member for one in chosen.values() for member in one.members]
    before = [member.before for member in members if member.before is not None]
    trainings = list(dict.fromkeys([*before, *members]))
    for of in {training.kind for training in trainings}:
        write_scans(work / "scans" / of, of)
    train_and_predict(
        work, trainings, work / "scans", work / "scans", [*dict.fromkeys(chosen.values())]
    )
    rows = [row for kind, one in chosen.items() for row in rows_of(kind, one, work)]
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "matrix.tsv", sep="\t", index=False)
    print(table.to_string(index=False))
    differ = table.drop(columns=["kind", "passes", "kept", "labels"])
    print(f"{int(differ.to_numpy().sum())} voxels differ in {differ.size} label maps")
    shutil.rmtree(work)


def write_scans(folder: Path, of: str) -> None:
    """Every storage of a scan for one kind of data set, as nnU-Net wants them named."""
    folder.mkdir(parents=True)
    for channel in range(n_channels := len(CHANNELS.get(of, ("MR",)))):
        several = channel if n_channels > 1 else None
        for name, image in storages(AXES, several, of).items():
            nib.save(image, folder / f"{name}_{channel:04}.nii.gz")


def rows_of(kind: str, chosen: Chosen, work: Path) -> Iterator[dict[str, object]]:
    """Voxels that differ for one kind: with mirrored passes, without, and after postprocessing."""
    for kept in ("all", "largest"):
        out = work / "model"
        shutil.rmtree(out, ignore_errors=True)
        if kind != ZIP:
            card = imported(chosen, work, out, keeps_largest=kept == "largest")
        elif kept == "all":
            card = from_zip(chosen.members[0], work, out)
        else:
            return
        for profile, passes in PROFILES.items():
            if profile not in card.profiles:
                continue
            labels = chosen.labels if kept == "all" else chosen.kept
            scans = work / "scans" / chosen.members[0].kind
            found = compared(card, profile, scans, labels(work, passes))
            row = {"kind": kind, "passes": passes, "kept": kept}
            row |= {name: one.n_differ for name, one in found.items()}
            row["labels"] = min(one.n_labels for one in found.values())
            print(*row.values(), sep="\t", flush=True)
            yield row


def from_zip(cascade: Training, work: Path, out: Path) -> Card:
    """The model folder of what ``nnUNetv2_export_model_to_zip`` makes of a cascade."""
    trainings = [one for one in (cascade.before, cascade) if one is not None]
    places = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    archive = work / "exported.zip"
    for training in trainings:  # gets what training leaves there and is packed with it
        fingerprint = work / "preprocessed" / training.dataset / "dataset_fingerprint.json"
        shutil.copy(fingerprint, training.results(work))
        for fold in training.folds.split():
            folder = training.results(work) / f"fold_{fold}"
            (folder / "progress.png").touch()
            (folder / "validation").mkdir(exist_ok=True)
            (folder / "validation" / "summary.json").write_text("{}")
    subprocess.run(
        [
            sys.executable, "-c",
            "from nnunetv2.model_sharing.entry_points import export_pretrained_model_entry as run\n"
            "run()",
            "-d", str(cascade.number), "-o", str(archive), "-f", *cascade.folds.split(),
            "-c", *(training.configuration for training in trainings),
        ],
        env=os.environ | places, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    source = Source(archive, training=cascade.configuration)
    return import_nnunet([source], out, model_id=out.name, licence="test")


if __name__ == "__main__":
    main()
