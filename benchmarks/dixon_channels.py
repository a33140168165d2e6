"""A Dixon cohort through a model of two channels, beside the model that sees water alone.

    python benchmarks/dixon_channels.py --out results/dixon-channels

Simulates `--train` people to train on and `--cohort` others, four images each; trains a network
that sees water and fat and one that sees water, alike in all else (`cohortvol train`, minutes on a
CPU); runs both on the cohort through Snakemake to the report; and prints the Dice of each with what
was drawn, of people that neither was trained on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CHANNELS = {"water-fat": "channels: [water, fat]", "water": ""}  # of one nothing is said
RECIPE = """
id: {model}
title: Organs of simulated Dixon scans, {model}
licence: CC0-1.0
labels: {{1: liver, 2: kidney_right, 3: kidney_left, 4: spleen}}
{channels}
spacing_mm: [8.0, 8.0, 8.0]
base_features: 8
max_features: 32
planning_memory_gb: 0.5
batch_size: 2
learning_rate: 0.01
phases:
  - {{iterations: {iterations}, source_weights: {{real: 1.0}}}}
n_folds: 2
"""


def main() -> None:
    """Simulate, train, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/dixon-channels"))
    parser.add_argument("--train", type=int, default=12, help="people to train on")
    parser.add_argument("--cohort", type=int, default=20, help="people to measure")
    parser.add_argument("--iterations", type=int, default=100)
    options = parser.parse_args()
    out = options.out.resolve()
    for name, n, seed in (("train", options.train, 5), ("cohort", options.cohort, 6)):
        if not (out / name / "manifest.csv").exists():
            call("cohortvol", "simulate", "--dixon", "--out", out / name, "--n", n, "--seed", seed)
    for model, channels in CHANNELS.items():
        recipe = out / f"{model}.yaml"
        recipe.write_text(
            RECIPE.format(model=model, channels=channels, iterations=options.iterations)
        )
        start = time.perf_counter()
        if not (out / "models" / model).exists():
            call("cohortvol", "train", "--recipe", recipe, "--pairs", out / "train",
                 "--work", out / "work" / model, "--out", out / "models" / model)  # fmt: skip
        print(f"{model}: trained in {time.perf_counter() - start:.0f} s", flush=True)
        call("snakemake", "--cores", 2, "--quiet", "all", "--config", f"model={model}",
             f"models_dir={out / 'models'}", f"manifest={out / 'cohort' / 'manifest.csv'}",
             f"results={out / 'results' / model}")  # fmt: skip
    found = [f"--model={model}={out / 'results' / model / 'segment' / model}" for model in CHANNELS]
    cards = [f"--model-labels={m}={out / 'models' / m / 'card.json'}" for m in CHANNELS]
    drawn = ["--expert", out / "cohort", "--expert-labels", out / "models" / "water" / "card.json"]
    call("cohortvol", "evaluate", *drawn, *found, *cards, "--out", out / "evaluate")
    summary = pd.read_parquet(out / "evaluate" / "summary.parquet")
    dice = summary[(summary["metric"] == "dice") & (summary["group_by"] == "all")]
    columns = ["model", "average", "structure", "n_pairs", "mean", "ci_low", "ci_high"]
    print(dice[columns].to_string(index=False))
    print(f"page of the cohort: {out / 'results' / 'water-fat' / 'report' / 'index.html'}")


def call(program: str, *words: object) -> None:
    """A command of the environment, from the repository; ends with it if it fails."""
    subprocess.run([BIN / program, *map(str, words)], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
