"""One patch on a CPU as `ts218` runs it and as `fast` does, in turns.

    python benchmarks/fast_on_cpu.py --threads 1 2

The full-size 3 mm network in TotalSegmentator's layout with random weights. Printed for each number
of threads: least wall and processor seconds of `--repeats`, their ratio to `ts218`, what share of
the labels differs from `ts218`, and the Dice of all structures together and of the worst of those
with a thousandth of the patch. bfloat16 is timed where the processor multiplies it, or with
`--bfloat16`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cohortvol.compute.processor import flags, multiplies_bfloat16
from cohortvol.models.card import load_card
from cohortvol.models.networks import ChannelsLastUNet, UnrolledUNet, load_part
from cohortvol.stages.segment.heap import keep_large_blocks
from side_by_side_models import SETTINGS, random_model


def main() -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(SETTINGS), default="full-3mm")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true", help="even where it is emulated")
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # nnU-Net's, of plans like the published ones
    keep_large_blocks()
    card = load_card(random_model(options.out.resolve(), options.network))
    module = load_part(card, card.parts[0]).modules[0]
    ways: dict[str, Any] = {
        "ts218": UnrolledUNet(module),
        "fast, float32": ChannelsLastUNet(module, torch.float32),
    }
    if options.bfloat16 or multiplies_bfloat16(flags()):
        ways["fast, bfloat16"] = ChannelsLastUNet(module, torch.bfloat16)
    shape = SETTINGS[options.network].settings["patch_size"]
    patch = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(0))
    for n_threads in options.threads:
        torch.set_num_threads(n_threads)
        print(f"{n_threads} threads")
        print(compared(ways, patch, options.repeats).to_string(index=False), flush=True)


@torch.inference_mode()
def compared(ways: dict[str, Any], patch: torch.Tensor, repeats: int) -> pd.DataFrame:
    """A row for each way; the first is what the others are held against."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    labels = {}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            logits = way(patch)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
            labels[name] = logits[0].argmax(0)
    first = next(iter(ways))
    least = {
        name: [min(column) for column in zip(*of_way[1:], strict=True)]
        for name, of_way in seconds.items()
    }
    rows = []
    for name in ways:
        differ = labels[name] != labels[first]
        rows.append(
            {
                "way": name,
                "wall_s": least[name][0],
                "processor_s": least[name][1],
                "wall_ratio": least[first][0] / least[name][0],
                "processor_ratio": least[first][1] / least[name][1],
                "differ_ppm": 1e6 * float(differ.float().mean()),
                **dice(labels[name], labels[first]),
            }
        )
    return pd.DataFrame(rows).round(5)


def dice(found: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Of all structures together, and of the worst that is large enough to have four digits."""
    sizes = torch.bincount(torch.cat([found.flatten(), expected.flatten()]))
    common = torch.bincount(found[found == expected], minlength=len(sizes))
    of_each = (2 * common / sizes)[sizes > 2 * expected.numel() / 1000]
    return {
        "dice": float(2 * common[1:].sum() / sizes[1:].sum()),
        "least_dice": float(of_each.min()),
    }


if __name__ == "__main__":
    main()
