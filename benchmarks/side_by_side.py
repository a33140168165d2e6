"""Ways from scans to label maps, side by side: same scans, same weights, one run.

    python benchmarks/side_by_side.py --network tiny --scans 8 --peers /path/to/peers/bin
    python benchmarks/side_by_side.py --network full-3mm --scans 3 --peers ...
    python benchmarks/side_by_side.py --network full-1.5mm --scans 1 --peers ...
    python benchmarks/side_by_side.py --network mrsegmentator --scans 8 --peers ...
    python benchmarks/side_by_side.py --network mrsegmentator-fast --geometry --peers ...
    python benchmarks/side_by_side.py --network vertebrae_mr --geometry --peers ...
    python benchmarks/side_by_side.py --network liver_segments_mr --geometry --peers ...
    python benchmarks/side_by_side.py --network tiny --geometry --peers ...       # equality
    python benchmarks/side_by_side.py --network full-1.5mm --scans 50 --device cuda \\
        --profiles fast --ways totalsegmentator_api --peer-scans 5 --peers ...

The weights are random, in the layout and at the architecture of the published ones (made by
nnU-Net from plans of the old format); the patch sizes are assumed, since the published plans could
not be read. Without ``--peers`` only the ways that cohortvol's own environment holds are run.
Every way is a process tree of its own: wall time, processor time of all its processes, and the
greatest sum of their memory (PSS), start-up included. nnU-Net's own ways are given scans that are
on the network's grid already, and are not asked to bring the labels back. Written to ``--out``:
a table, a plot, and every way's label maps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import torch

from cohortvol.anatomy.geometry import from_axes, to_axes
from cohortvol.anatomy.overlap import overlap_by_structure
from cohortvol.models.card import Card, load_card
from cohortvol.models.catalogue import load
from cohortvol.stages.segment.zoom import nearest
from process_meter import measured
from side_by_side_models import SETTINGS, Setting, import_known, published_weights
from side_by_side_scans import (
    SUFFIX,
    checked_shard,
    first_scans,
    geometry_scans,
    program,
    speed_scans,
    zoomed_scans,
)

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Make weights and scans, run the ways, write table and plot."""
    options = _options()
    setting = SETTINGS[options.network]
    work = options.out.resolve()
    geometry = f"geometry-{options.shrink}" if options.shrink > 1 else "geometry"
    scans = work / (geometry if options.geometry else f"scans-{options.scans}")
    if not scans.is_dir():
        if options.geometry:
            geometry_scans(scans, options.shrink)
        else:
            speed_scans(scans, options.scans)
    weights = published_weights(work / "weights" / options.network, setting)
    of_peers = first_scans(scans, options.peer_scans)
    ways_of_peers = options.ways or (
        ("totalsegmentator_network",) if options.paper else setting.peers
    )
    zoomed = work / f"{of_peers.name}-{setting.spacing_mm:g}mm"
    if any(way.startswith("nnunet") for way in ways_of_peers):
        zoomed_scans(of_peers, zoomed, setting.spacing_mm)
    environment = {
        **os.environ,
        "nnUNet_raw": str(work),
        "nnUNet_preprocessed": str(work),
        "nnUNet_results": str(weights[0].parent.parent),
        "TOTALSEG_WEIGHTS_PATH": str(weights[0].parent.parent),
        "TOTALSEG_HOME_DIR": str(_home(work)),
    }
    if "mrsegmentator" in setting.peers:
        root = _mrsegmentator_root(work / f"{options.network}-root", setting, weights[0])
        environment["MRSEG_WEIGHTS_PATH"] = str(root)
    job = {
        "scans": str(of_peers),
        "zoomed": str(zoomed),
        "weights": [str(folder) for folder in weights],
        "device": options.device,
        "tile_step": 0.5 if options.paper else 0.8,
        "spline_order": 3 if options.paper else 1,
        "task": {
            "task": "total_mr" if setting.model.startswith("total_mr") else setting.model,
            "fast": setting.model == "total_mr_3mm",
        },
        "words": setting.words,
    }
    model = import_known(setting, weights, work / "models" / options.network)
    ways: dict[str, Callable[[Path], list[str]]] = {}
    profiles = ("paper",) if options.paper else options.profiles or setting.profiles
    for profile in profiles[:1] if options.geometry else profiles:
        ways[f"cohortvol {profile}"] = cohortvol_command(scans, model, profile, options.device)
    for way in ways_of_peers:
        python = options.peers / "python" if options.peers else Path(sys.executable)
        if options.peers or way.startswith("nnunet"):
            ways[way] = _peer(python, way, job)
    rows: list[dict[str, Any]] = []
    reference: Path | None = None
    card = load_card(model)
    for name, command in ways.items():
        out = work / options.network / name.replace(" ", "_")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        mine = scans if name.startswith("cohortvol") else of_peers
        row = {"way": name, "scans": len(list(mine.glob(f"*{SUFFIX}")))}
        row |= measured(command(out), environment, out / "log.txt") | of_the_worker(out)
        rows.append(row | (compared(out, reference, card, mine) if reference else {}))
        reference = reference or out
        print(json.dumps(rows[-1]), flush=True)
    table = as_table(pd.DataFrame(rows))
    name = f"{options.network}{'-geometry' if options.geometry else ''}"
    name = f"{name}{'-paper' if options.paper else ''}"
    table.to_csv(work / f"{name}.csv", index=False)
    print(table.to_string(index=False))
    plot(table, work / f"{name}.png", options.network)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(SETTINGS), default="tiny")
    parser.add_argument("--scans", type=int, default=8, help="number of scans of 320x260x72")
    parser.add_argument("--peer-scans", type=int, help="peers get the first so many of them only")
    parser.add_argument("--geometry", action="store_true", help="ten small scans of odd geometry")
    parser.add_argument("--shrink", type=int, default=1, help="edges of these are divided by it")
    parser.add_argument("--paper", action="store_true", help="spline order 3 and tile step 0.5")
    parser.add_argument("--ways", nargs="*", help="these peers only")
    parser.add_argument("--profiles", nargs="*", help="these profiles of cohortvol only")
    parser.add_argument("--peers", type=Path, help="bin folder of the peers' environment")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; `cohortvol doctor` says why")
    return options


def _mrsegmentator_root(root: Path, setting: Setting, trained: Path) -> Path:
    """The weights as MRSegmentator 2.0 keeps them, so that it fetches none."""
    place = root / trained.parent.name
    if not place.exists():
        root.mkdir(exist_ok=True)
        place.symlink_to(trained)
    version = load()[setting.model].parts[0].weights_version
    (trained / "version.json").write_text(json.dumps({"weights_version": version}))
    return root


def _home(work: Path) -> Path:
    """TotalSegmentator's folder of settings, with its reports of usage turned off."""
    home = work / "home"
    home.mkdir(parents=True, exist_ok=True)
    settings = {"totalseg_id": "none", "send_usage_stats": False, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(settings))
    return home


def cohortvol_command(
    scans: Path, model: Path, profile: str, device: str
) -> Callable[[Path], list[str]]:
    """One worker on one shard; checking the scans and cutting the shard come before."""
    ingest = checked_shard(scans)

    def command(out: Path) -> list[str]:
        words = ["segment", "--ingest", ingest, "--model", model, "--folder", out / "shard"]
        words += ["--out", out / "segment.parquet", "--profile", profile, "--device", device]
        return [program("cohortvol"), *map(str, words)]

    return command


def _peer(python: Path, way: str, job: Mapping[str, Any]) -> Callable[[Path], list[str]]:
    def command(out: Path) -> list[str]:
        path = out / "job.json"
        path.write_text(json.dumps({**job, "out": str(out)}))
        return [str(python), str(HERE / "peer_ways.py"), way, str(path)]

    return command


def of_the_worker(out: Path) -> dict[str, float]:
    """What our own worker says of its time: seconds until it was ready, and in the network."""
    path = out / "segment.resources.json"
    if not path.is_file():
        return {}
    (run,) = json.loads(path.read_text())["runs"]
    return {"startup_s": run["seconds_startup"], "network_s": run["seconds_network"]}


def label_map(out: Path, case: str, card: Card, image: nib.Nifti1Image) -> np.ndarray:
    """What a way says of a scan on the scan's own grid, in the labels of the model's card.

    Of a model that sees a box around what another part finds, what it says of the box.
    """
    last = card.parts[-1]
    for path in (
        out / "shard" / f"{case}_dseg{SUFFIX}",
        out / f"{case}{SUFFIX}",
        out / f"{case}_seg{SUFFIX}",
    ):
        if path.is_file():
            found = np.asarray(nib.load(path).dataobj)
            if not last.crop:
                return found
            mapping = np.arange(256, dtype=np.uint8)
            if found.ndim == 3:  # of a peer, who counts the labels of the box from 1
                mapping[list(last.labels)] = list(card.local_to_global(last).values())
            return mapping[found if found.ndim == 3 else found[..., last.layer]]
    labels = np.zeros(image.shape, np.uint8)
    if (out / case).is_dir():  # one file per structure
        for label, structure in card.labels.items():
            labels[np.asarray(nib.load(out / case / f"{structure}{SUFFIX}").dataobj) > 0] = label
        return labels
    moved, _ = to_axes(labels, image.affine, card.orientation)
    for part, weights in zip(card.parts, load()[card.id].parts, strict=True):
        (path,) = out.glob(f"{weights.folders[0]}/{case}{SUFFIX}")
        mapping = np.zeros(256, np.uint8)
        for local, label in card.local_to_global(part).items():
            mapping[local] = label
        back = mapping[nearest(np.asarray(nib.load(path).dataobj), moved.shape)]
        moved = np.where(back, back, moved)
    return from_axes(moved, image.affine, card.orientation)


def compared(out: Path, reference: Path, card: Card, scans: Path) -> dict[str, Any]:
    """How many voxels differ from the reference, and the least Dice and volume of a structure."""
    differing, dice, volume, worst = 0, 1.0, 0.0, ""
    for path in sorted(scans.glob(f"*{SUFFIX}")):
        image = nib.load(path)
        case = path.name.removesuffix(SUFFIX)
        found, expected = (label_map(where, case, card, image) for where in (out, reference))
        n_differing = int((found != expected).sum())
        worst = f"{worst} {case}:{n_differing}" if n_differing else worst
        differing += n_differing
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        names = {structure: label for label, structure in card.labels.items()}
        for overlap in overlap_by_structure(expected, names, found, names).values():
            if overlap.n_first * voxel_ml > 1:
                dice = min(dice, overlap.dice)
                volume = max(volume, abs(overlap.n_second / overlap.n_first - 1))
    return {
        "voxels_differing": differing,
        "least_dice": round(dice, 5),
        "most_volume_pct": round(100 * volume, 3),
        "where": worst.strip(),
    }


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with seconds per scan and ratios to the first row."""
    seconds = rows["wall_s"] / rows["scans"]
    rows.insert(1, "wall_s_per_scan", seconds.round(2))
    rows.insert(2, "ratio", (seconds / seconds.iloc[0]).round(2))
    return rows


def plot(table: pd.DataFrame, path: Path, title: str) -> None:
    """Seconds per scan of every way, with its ratio to the first."""
    figure, axes = plt.subplots(figsize=(7.2, 0.42 * len(table) + 1.0), layout="constrained")
    ours = table["way"].str.startswith("cohortvol")
    bars = axes.barh(
        table["way"].str.replace("_", " "),
        table["wall_s_per_scan"],
        color=np.where(ours, "#0072B2", "#B0B0B0"),
    )
    labels = [
        f"{row.wall_s_per_scan:.1f} s  ({row.ratio:.1f}x)" for row in table.itertuples(index=False)
    ]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2)
    axes.set_xlabel("wall time per scan, s (start-up included)")
    axes.set_title(title, loc="left")
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
