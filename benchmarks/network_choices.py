"""How to run one patch through a network: memory, layout, precision, compiler, threads.

    python benchmarks/network_choices.py --network full-3mm
    python benchmarks/network_choices.py --network full-1.5mm --device cuda

Every choice in a process of its own, on the same patch and random weights; the choices of
cohortvol stand in docs/decisions/0009. Seconds are the median of `--repeats` after one warm-up,
first call the warm-up itself. Labels are compared with those of the first row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cohortvol.models.card import load_card
from cohortvol.models.networks import load_part
from cohortvol.stages.segment.heap import keep_large_blocks
from side_by_side_models import SETTINGS, random_model

CHOICES = {
    "cpu": ("as torch comes", "heap kept", "heap kept, channels last", "heap kept, bfloat16",
            "heap kept, compiled", "heap kept, 1 thread"),
    "cuda": ("as torch comes", "half precision", "half precision, channels last",
             "half precision, compiled", "half precision, 4 patches"),
}  # fmt: skip


def main() -> None:
    """Run every choice, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(SETTINGS), default="full-3mm")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    parser.add_argument("--choice", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.choice:
        print(json.dumps(measured(options)))
        return
    rows: list[dict[str, Any]] = []
    for choice in CHOICES[options.device]:
        command = [sys.executable, __file__, *sys.argv[1:], "--choice", choice]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table["ratio"] = (table["seconds"] / table["seconds"].iloc[0]).round(2)
    print(table.to_string(index=False))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one patch, and the share of voxels whose label is not that of the first choice."""
    work, words = options.out.resolve(), options.choice
    setting = SETTINGS[options.network]
    card = load_card(random_model(work, options.network))
    device = torch.device(options.device)
    network: Any = load_part(card, card.parts[0]).modules[0].to(device)
    n_patches = 4 if "4 patches" in words else 1
    patch = torch.randn(
        (n_patches, 1, *setting.settings["patch_size"]), generator=torch.Generator().manual_seed(0)
    ).to(device)
    if "heap kept" in words:
        keep_large_blocks()
    if "channels last" in words:
        network = network.to(memory_format=torch.channels_last_3d)
        patch = patch.to(memory_format=torch.channels_last_3d)
    if "1 thread" in words:
        torch.set_num_threads(1)
    if "compiled" in words:
        network = torch.compile(network)
    narrow = torch.bfloat16 if "bfloat16" in words else torch.float16
    seconds = []
    with (
        torch.inference_mode(),
        torch.autocast(device.type, narrow, enabled="bfloat16" in words or "half" in words),
    ):
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            logits = network(patch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    labels = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
    kept = work / f"choices-{options.network}-{options.device}.npy"
    if words == CHOICES[options.device][0]:
        np.save(kept, labels)
    return {
        "choice": words,
        "seconds": round(float(np.median(seconds[1:])) / n_patches, 3),
        "first_call": round(seconds[0], 2),
        "labels_differing_ppm": round(1e6 * float((labels != np.load(kept)).mean()), 1),
    }


if __name__ == "__main__":
    main()
