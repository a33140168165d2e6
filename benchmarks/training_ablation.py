"""MRI alone against MRI and CT, trained through the workflow on four people with both.

    python benchmarks/training_ablation.py DATA [--out training/sts] [--cores 2]

DATA is the folder ``sts_ct_mr`` of the IBSI data sets (github.com/theibsi/data_sets): per person
``CT_image.nii.gz``, ``MR_T1_image.nii.gz`` and the outlined tumour on each. Links the images into
training folders, runs ``workflow/training.smk`` with ``models/ablation-sts.yaml`` on the CPU, and
prints Dice out of fold from the cards: the folds of the MRI are the same in both variants. Four
people and some hundred batches: a test that everything runs, and no finding.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from cohortvol.models import load_card

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "models" / "ablation-sts.yaml"
FILES = {"mr": "MR_T1", "ct": "CT"}


def main(data: Path, out: Path, cores: int) -> None:
    """Lay out the folders, train both variants, print a table."""
    for dataset, name in FILES.items():
        for person in sorted(data.glob("STS_*")):
            for kind, file in (("images", "image"), ("labels", "mask")):
                link = out / dataset / kind / f"{person.name}.nii.gz"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to((person / f"{name}_{file}.nii.gz").resolve())
    recipe = out / RECIPE.name
    recipe.write_text(RECIPE.read_text().replace("training/sts/", f"{out.resolve()}/"))
    started = time.monotonic()
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
    rows = []
    for variant in ("mri", "mri-ct"):
        card = load_card(out / "models" / f"ablation-sts-{variant}")
        for name, figures in card.accuracy.items():
            rows += [
                {"variant": variant, "figures": name, "structure": structure, **figure}
                for structure, figure in figures.items()
            ]
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("training/sts"))
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    main(given.data, given.out, given.cores)
