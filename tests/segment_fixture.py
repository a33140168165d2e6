"""A tiny model, images of a shard, and a segmenter that fails where it is told to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cohortvol.models.networks import Source, import_nnunet
from segment_cohort import AFFINE, scan, write_scan

N_SCANS = 6


def tiny_model(trained: Path, folder: Path) -> Path:
    """The model folder that a trained network is imported into."""
    return import_nnunet(
        [Source(trained)], folder / "tiny", model_id="tiny", licence="test", orientation="RAS"
    ).folder


def images_in(folder: Path) -> dict[str, Path]:
    """Images of the scans of a shard, by id."""
    found = {f"s{n}": folder / f"s{n}.nii.gz" for n in range(N_SCANS)}
    for n, path in enumerate(found.values()):
        write_scan(path, scan(n), AFFINE)
    return found


def with_card(model, folder, **changes):
    """A copy of a model folder whose card says something else."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(card))
    return folder


class FaultySegmenter:
    """Fails on scans by their place in the order they come in; else calls the real one."""

    def __init__(self, segmenter, faults):
        self.segmenter, self.faults, self.calls = segmenter, dict(faults), 0
        self.dtype, self.device = segmenter.dtype, segmenter.device
        self.numerics = segmenter.numerics

    def prepare(self, data, affine):
        return self.segmenter.prepare(data, affine)

    def predict(self, prepared):
        self.calls += 1
        if self.calls in self.faults:
            raise self.faults[self.calls]
        return self.segmenter.predict(prepared)

    def finish(self, predicted):
        return self.segmenter.finish(predicted)


def with_faults(monkeypatch, segmenter, faults):
    faulty = FaultySegmenter(segmenter, faults)
    monkeypatch.setattr("cohortvol.stages.segment.infer.Segmenter.load", lambda *a, **k: faulty)
    return faulty


class Killed(BaseException):
    """Stands for the death of the process: nothing in the worker may catch it."""
