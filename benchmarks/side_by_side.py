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
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cohortvol.anatomy.geometry import from_axes, to_axes
from cohortvol.anatomy.overlap import overlap_by_structure
from cohortvol.models.card import Card, load_card
from cohortvol.models.catalogue import load
from cohortvol.stages.segment.zoom import nearest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from published_fixture import TRAINER, weights_folder

HERE = Path(__file__).resolve().parent
SUFFIX = ".nii.gz"
LITTLE_LOGIT = 0.0025
TINY = {
    "patch_size": [96, 112, 112],
    "UNet_base_num_features": 4,
    "unet_max_num_features": 4,
    "n_conv_per_stage_encoder": [2] * 5,
    "n_conv_per_stage_decoder": [2] * 4,
    "num_pool_per_axis": [4, 4, 4],
    "pool_op_kernel_sizes": [[1, 1, 1], *[[2, 2, 2]] * 4],
    "conv_kernel_sizes": [[3, 3, 3]] * 5,
}
SMALL = {**TINY, "patch_size": [48, 64, 64]}
FULL_3MM = {**TINY, "UNet_base_num_features": 32, "unet_max_num_features": 320}
FULL_15MM = {
    **FULL_3MM,
    "patch_size": [112, 160, 128],
    "n_conv_per_stage_encoder": [2] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
    "num_pool_per_axis": [4, 5, 5],
    "pool_op_kernel_sizes": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 6,
}


@dataclass(frozen=True)
class Setting:
    """A known model, what its network looks like, and the peers that can run it."""

    model: str
    settings: Mapping[str, Any]
    spacing_mm: float
    peers: tuple[str, ...]
    profiles: tuple[str, ...] = ("ts218", "fast")
    words: tuple[str, ...] = ()  # of the command of MRSegmentator
    trainer: str = TRAINER  # in the name of the folder, of the last part
    mirror_axes: tuple[int, ...] | None = None


TOTALSEGMENTATOR = (
    "totalsegmentator_cli",
    "totalsegmentator_cli_tuned",
    "totalsegmentator_api",
    "totalsegmentator_api_tuned",
    "nnunetv2_predict",
    "nnunetv2_predict_tuned",
    "nnunet_sequential",
)
SETTINGS = {
    "tiny": Setting("total_mr_3mm", TINY, 3.0, TOTALSEGMENTATOR),
    "tiny-1.5mm": Setting("total_mr", {**TINY, "patch_size": [64, 80, 80]}, 1.5, TOTALSEGMENTATOR),
    "full-3mm": Setting("total_mr_3mm", FULL_3MM, 3.0, TOTALSEGMENTATOR),
    "full-1.5mm": Setting("total_mr", FULL_15MM, 1.5, TOTALSEGMENTATOR),
    "body_mr": Setting(
        "body_mr", TINY, 1.5, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0", mirror_axes=(0, 1, 2),
    ),
    "vertebrae_mr": Setting(
        "vertebrae_mr", TINY, 1.5, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0_NoMirroring",
    ),
    "liver_segments_mr": Setting(
        "liver_segments_mr", SMALL, 3.0, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0_NoMirroring",
    ),
    "liver_lesions_mr": Setting(
        "liver_lesions_mr", SMALL, 3.0, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0", mirror_axes=(0, 1, 2),
    ),
    "mrsegmentator": Setting(
        "mrsegmentator", TINY, 1.5, ("mrsegmentator",), profiles=("nnunet", "fast")
    ),
    "mrsegmentator-3mm": Setting(
        "mrsegmentator", SMALL, 3.0, ("mrsegmentator",), profiles=("nnunet", "fast")
    ),
    "mrsegmentator-fast": Setting(
        "mrsegmentator_fast", SMALL, 3.0, ("mrsegmentator",), profiles=("mrseg-fast", "fast"),
        words=("--fast",),
    ),
    "mrsegmentator-body-comp": Setting(
        "mrsegmentator_body_comp", SMALL, 3.0, ("mrsegmentator",), profiles=("nnunet", "fast"),
        words=("--body_comp",), mirror_axes=(0, 1, 2),
    ),
}  # fmt: skip


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
        zoomed_scans(of_peers, zoomed, setting)
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


def speed_scans(folder: Path, n: int) -> None:
    """Scans of one common geometry, 320 x 260 x 72 voxels of 1.25 x 1.25 x 3 mm."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(_speed_scan, repeat(folder), range(n)))


def _speed_scan(folder: Path, seed: int) -> None:
    write_scan(folder / f"scan{seed:02d}", grey((320, 260, 72), seed), np.diag([1.25, 1.25, 3, 1]))


def first_scans(scans: Path, n: int | None) -> Path:
    """A folder of links to the first `n` scans; the folder itself where all are meant."""
    if n is None:
        return scans
    folder = scans.with_name(f"{scans.name}-first-{n}")
    folder.mkdir(exist_ok=True)
    for path in sorted(scans.glob(f"*{SUFFIX}"))[:n]:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


def geometry_scans(folder: Path, shrink: int = 1) -> None:
    """Ten scans whose geometry or grey values are easily got wrong, their edges divided."""
    tilt = Rotation.from_euler("zx", [20, -14], degrees=True).as_matrix()
    cases = {
        "anisotropic": ((150, 130, 40), np.diag([1.6, 1.6, 5.0]), 1500.0),
        "oblique": ((120, 110, 60), tilt @ np.diag([2.0, 2.0, 3.3]), 900.0),
        "pil": ((60, 130, 130), _axes("PIL") @ np.diag([2.2, 1.7, 5.5]), 700.0),
        "asl": ((130, 120, 44), _axes("ASL") @ np.diag([1.9, 1.9, 6.0]), 1100.0),
        "lps": ((140, 120, 50), _axes("LPS") @ np.diag([1.7, 1.7, 4.4]), 4000.0),
        "unit_floats": ((140, 120, 50), np.diag([1.7, 1.7, 4.0]), 1.0),
        "hundred_floats": ((140, 120, 50), np.diag([1.8, 1.8, 4.0]), 99.7),
        "thick_slices": ((200, 170, 26), np.diag([1.4, 1.4, 8.0]), 2500.0),
        "isotropic": ((90, 90, 90), np.diag([3.0, 3.0, 3.0]), 800.0),
        "large_thin": ((300, 240, 20), np.diag([1.2, 1.2, 6.6]), 30000.0),
    }
    for seed, (name, (shape, axes, top)) in enumerate(cases.items()):
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = [-90.0, -70.0, 15.0]
        image = grey(tuple(n // shrink for n in shape), 100 + seed) * (top / 1500)
        dtype = np.float32 if "floats" in name else np.int16
        write_scan(folder / name, image.astype(dtype), affine)


def _axes(code: str) -> np.ndarray:
    orientation = nib.orientations.axcodes2ornt(code)
    return np.asarray(nib.orientations.inv_ornt_aff(orientation, (1, 1, 1)))[:3, :3].T


def grey(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Blobs of several sizes within an ellipse of air, 0 to 1500, int16 values."""
    rng = np.random.default_rng(seed)
    total = np.zeros(shape)
    for cells in (4, 9, 20):
        coarse = rng.normal(size=[min(cells, n) for n in shape])
        factors = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
        total += ndimage.zoom(coarse, factors, order=1, mode="nearest", grid_mode=True) / cells**0.3
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape[:2]), indexing="ij")
    body = (axes[0] ** 2 + axes[1] ** 2 < 1)[..., None]
    total = (total - total.min()) / np.ptp(total) * 1400 + rng.normal(0, 20, shape)
    return np.asarray(np.clip(np.where(body, total, rng.rayleigh(8, shape)), 0, 1500), np.int16)


def write_scan(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), f"{path}{SUFFIX}")


def published_weights(folder: Path, setting: Setting) -> list[Path]:
    """Trained-model folders of a known model, with random weights; made once."""
    made = []
    parts = load()[setting.model].parts
    for part in parts:
        name = part.folders[0]
        labels = part.labels
        trainer = setting.trainer if part is parts[-1] else TRAINER
        of_the_box = {"spacing": part.spacing_mm[::-1]} if part.spacing_mm else {}
        if not (folder / name).is_dir():
            weights_folder(
                folder, name, labels, setting.spacing_mm, max(len(part.folds), 1),
                {**setting.settings, **of_the_box},
                trainer="nnUNetTrainer", of_folder=trainer, mirror_axes=setting.mirror_axes,
            )  # fmt: skip
            for label in [n for n, label in labels.items() if label in parts[-1].crop]:
                favour(folder / name, label)
        made += list((folder / name).iterdir())
    return made


def favour(weights: Path, label: int) -> None:
    """Let a random network find a few voxels of a label, in some scans of a corner alone."""
    for path in weights.glob("*/fold_*/checkpoint_final.pth"):
        content = torch.load(path, weights_only=False)
        values = content["network_weights"]
        values[max(name for name in values if name.endswith(".bias") and "seg_" in name)][
            label
        ] += LITTLE_LOGIT
        torch.save(content, path)


def zoomed_scans(scans: Path, folder: Path, setting: Setting) -> None:
    """Scans as TotalSegmentator hands them to nnU-Net: canonical, zoomed, cut to integers."""
    for path in sorted(scans.glob(f"*{SUFFIX}")):
        image = nib.as_closest_canonical(nib.load(path))
        zooms = np.asarray(image.header.get_zooms())
        factors = zooms / setting.spacing_mm
        data = ndimage.zoom(image.get_fdata(), factors, order=1, mode="nearest").astype(np.int32)
        affine = image.affine.copy()
        affine[:3, :3] /= factors
        write_scan(folder / f"{path.name.removesuffix(SUFFIX)}_0000", data, affine)


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


def import_known(setting: Setting, weights: list[Path], folder: Path) -> Path:
    model = folder / setting.model
    if not model.is_dir():
        command = [_bin("cohortvol"), "models", "import", "--known", setting.model]
        command += ["--models-dir", str(folder), *(str(path.parent) for path in weights)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return model


def _bin(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def random_model(work: Path, network: str) -> Path:
    """The model of a network with random weights, made and imported below `work` once."""
    setting = SETTINGS[network]
    weights = published_weights(work / "weights" / network, setting)
    return import_known(setting, weights, work / "models" / network)


def common_scans(work: Path, n: int) -> Path:
    """A folder of `speed_scans` below `work`, made once."""
    folder = work / f"scans-{n}"
    if not folder.is_dir():
        speed_scans(folder, n)
    return folder


def checked_shard(scans: Path) -> Path:
    """The table of ingest that one worker takes, of a folder of scans; made once."""
    folder = scans.with_name(f"{scans.name}-cohort")
    ingest = folder / "ingest.parquet"
    if not ingest.is_file():
        manifest = folder / "manifest.csv"
        steps = (
            ("manifest-from-folder", str(scans), "--out", str(manifest)),
            ("manifest", "--manifest", str(manifest), "--results", str(folder),
             "--shard-size", "1000"),
            ("ingest", "--shard", str(folder / "manifest/shards/0000.parquet"),
             "--out", str(ingest)),
        )  # fmt: skip
        for step in steps:
            subprocess.run([_bin("cohortvol"), *step], check=True, stdout=subprocess.DEVNULL)
    return ingest


def cohortvol_command(
    scans: Path, model: Path, profile: str, device: str
) -> Callable[[Path], list[str]]:
    """One worker on one shard; checking the scans and cutting the shard come before."""
    ingest = checked_shard(scans)

    def command(out: Path) -> list[str]:
        words = ["segment", "--ingest", ingest, "--model", model, "--folder", out / "shard"]
        words += ["--out", out / "segment.parquet", "--profile", profile, "--device", device]
        return [_bin("cohortvol"), *map(str, words)]

    return command


def _peer(python: Path, way: str, job: Mapping[str, Any]) -> Callable[[Path], list[str]]:
    def command(out: Path) -> list[str]:
        path = out / "job.json"
        path.write_text(json.dumps({**job, "out": str(out)}))
        return [str(python), str(HERE / "peer_ways.py"), way, str(path)]

    return command


def measured(command: list[str], environment: Mapping[str, str], log: Path) -> dict[str, float]:
    """Wall and processor seconds, peak memory, and the share of time the GPU was busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with open(log, "w") as stream:
        process = subprocess.Popen(command, env=dict(environment), stdout=stream, stderr=stream)
    memory, gpu = _Memory(process.pid), _Gpu()
    code = process.wait()
    seconds = time.perf_counter() - start
    memory.end()
    busy = gpu.end()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit {code}, see {log}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": round(seconds, 1),
        "cpu_s": round(used, 1),
        "peak_mb": round(memory.peak_bytes / 2**20),
        **busy,
    }


class _Memory(threading.Thread):
    """Looks every two seconds at the memory of a process tree.

    Not more often: the kernel walks through all of its pages, and they wait meanwhile.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self.peak_bytes = 0
        self.start()

    def run(self) -> None:
        while not self._ended.wait(2.0):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                total = sum(process.memory_full_info().pss for process in tree)
            except psutil.Error:  # one ended while we looked
                continue
            self.peak_bytes = max(self.peak_bytes, total)

    def end(self) -> None:
        self._ended.set()
        self.join()


class _Gpu:
    """Asks nvidia-smi ten times a second for how much of the time the GPU is busy."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if smi := shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._printed = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                [smi, *query, "--id=0", "--loop-ms=100"], stdout=self._printed
            )

    def end(self) -> dict[str, float]:
        """Share of the whole run, and of the time from its first use to its last."""
        if self._process is None:
            return {}
        self._process.terminate()
        self._process.wait()
        self._printed.seek(0)
        percent = np.array([float(line) for line in self._printed])
        (used,) = np.nonzero(percent)
        if not len(used):
            return {"gpu_busy": 0.0}
        at_work = percent[used[0] : used[-1] + 1]
        return {
            "gpu_busy": round(percent.mean() / 100, 2),
            "gpu_busy_at_work": round(at_work.mean() / 100, 2),
            "gpu_at_work_s": round(len(at_work) / 10, 1),
        }


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
