"""Other people's ways from scans to label maps, each as they would be called; for side_by_side.py.

    python benchmarks/peer_ways.py WAY JOB.json

Runs in an environment that holds the peers (benchmarks/README.md says how to make one); cohortvol
need not be in it. A job names ``scans`` (stored grids), ``zoomed`` (the same on the grid of the
network, for nnU-Net's own ways), ``weights`` (trained-model folders), ``out``, ``device``,
``task`` (arguments of TotalSegmentator), ``words`` (of MRSegmentator's command) and ``tile_step``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
SUFFIX = ".nii.gz"

Job = dict[str, Any]

_PREDICT = (
    "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as run\n"
    "if __name__ == '__main__': run()"
)


def totalsegmentator_cli(job: Job) -> None:
    """One call of the command per scan, one file per structure: its default."""
    for scan in sorted(Path(job["scans"]).glob(f"*{SUFFIX}")):
        _totalsegmentator(scan, Path(job["out"]) / scan.name.removesuffix(SUFFIX), job)


def totalsegmentator_cli_tuned(job: Job) -> None:
    """One call per scan, one label file, one process for each helper."""
    for scan in sorted(Path(job["scans"]).glob(f"*{SUFFIX}")):
        _totalsegmentator(scan, Path(job["out"]) / scan.name, job, "--ml", "-nr", "1", "-ns", "1")


def _totalsegmentator(scan: Path, out: Path, job: Job, *more: str) -> None:
    device = "gpu" if job["device"] == "cuda" else "cpu"
    command = [BIN / "TotalSegmentator", "-i", scan, "-o", out, "-d", device, "-q", *more]
    command += ["-ta", job["task"]["task"]]
    command += ["--fast"] if job["task"]["fast"] else []
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def totalsegmentator_api(job: Job) -> None:
    """Its Python function called in a loop in one process, with its defaults."""
    _totalsegmentator_api(job)


def totalsegmentator_api_tuned(job: Job) -> None:
    """The same with one label file and one process for each helper."""
    _totalsegmentator_api(job, ml=True, nr_thr_resamp=1, nr_thr_saving=1)


def totalsegmentator_network(job: Job) -> None:
    """The function below its API, given spline order and tile step: for profile `paper`."""
    import torch
    from totalsegmentator import nnunet

    predict = nnunet.nnUNetv2_predict

    def at_step(*args: Any, **kwargs: Any) -> Any:
        return predict(*args, **{**kwargs, "step_size": job["tile_step"]})

    nnunet.nnUNetv2_predict = at_step  # version 2.18 derives the step from the name of the task
    fast = job["task"]["fast"]
    for scan in sorted(Path(job["scans"]).glob(f"*{SUFFIX}")):
        nnunet.nnUNet_predict_image(
            str(scan), str(Path(job["out"]) / scan.name),
            task_id=852 if fast else [850, 851], model="3d_fullres", folds=[0],
            trainer="nnUNetTrainer_2000epochs_NoMirroring", tta=False, multilabel_image=True,
            resample=3.0 if fast else 1.5, resampling_order=job["spline_order"],
            task_name="total_mr", quiet=True, nr_threads_resampling=1, nr_threads_saving=1,
            device=torch.device(job["device"]),
        )  # fmt: skip


def _totalsegmentator_api(job: Job, **more: Any) -> None:
    from totalsegmentator.python_api import totalsegmentator

    device = "gpu" if job["device"] == "cuda" else "cpu"
    for scan in sorted(Path(job["scans"]).glob(f"*{SUFFIX}")):
        name = scan.name if more.get("ml") else scan.name.removesuffix(SUFFIX)
        totalsegmentator(
            scan, Path(job["out"]) / name, device=device, quiet=True,
            task=job["task"]["task"], fast=job["task"]["fast"], **more,
        )  # fmt: skip


def nnunetv2_predict(job: Job) -> None:
    """The command of nnU-Net on the folder of scans that are on the network's grid already."""
    _nnunetv2_predict(job)


def nnunetv2_predict_tuned(job: Job) -> None:
    """The same with one process for each helper."""
    _nnunetv2_predict(job, "-npp", "1", "-nps", "1")


def _nnunetv2_predict(job: Job, *more: str) -> None:
    for weights in job["weights"]:
        command = [sys.executable, "-c", _PREDICT, "-i", job["zoomed"]]
        command += ["-o", Path(job["out"]) / Path(weights).parent.name, "-m", weights, "-f", "0"]
        command += ["-step_size", job["tile_step"], "--disable_tta", "-device", job["device"]]
        command += ["--disable_progress_bar", *more]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def nnunet_sequential(job: Job) -> None:
    """nnU-Net's predictor without helper processes, one model in memory at a time."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    for weights in job["weights"]:
        predictor = nnUNetPredictor(
            tile_step_size=job["tile_step"], use_gaussian=True, use_mirroring=False,
            device=torch.device(job["device"]), allow_tqdm=False,
        )  # fmt: skip
        predictor.initialize_from_trained_model_folder(weights, use_folds=(0,))
        out = Path(job["out"]) / Path(weights).parent.name
        out.mkdir()
        predictor.predict_from_files_sequential(job["zoomed"], str(out))


def mrsegmentator(job: Job) -> None:
    """Its command on the folder of scans."""
    command = [BIN / "mrsegmentator", "--input", job["scans"], "--outdir", job["out"]]
    command += ["--batchsize", "1", "--nproc", "1", "--nproc_export", "1", *job["words"]]
    command += ["--cpu_only"] if job["device"] == "cpu" else []
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


WAYS: tuple[Callable[[Job], None], ...] = (
    totalsegmentator_cli,
    totalsegmentator_cli_tuned,
    totalsegmentator_api,
    totalsegmentator_api_tuned,
    totalsegmentator_network,
    nnunetv2_predict,
    nnunetv2_predict_tuned,
    nnunet_sequential,
    mrsegmentator,
)


if __name__ == "__main__":
    chosen = {way.__name__: way for way in WAYS}[sys.argv[1]]
    chosen(json.loads(Path(sys.argv[2]).read_text()))
