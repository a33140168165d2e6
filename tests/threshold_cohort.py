"""A cohort of tiny scans and a model that is a threshold, for tests of what a run does to files.

The model stands in for the network alone: reading, claims, receipts and writing are the worker's.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import nibabel as nib
import numpy as np
from safetensors.numpy import load_file, save_file

from cohortvol.config import check
from cohortvol.errors import ScanError
from cohortvol.models.card import load_card
from cohortvol.stages import assemble, ingest, manifest, measure, segment
from cohortvol.store.files import sha256_of
from cohortvol.store.kept import Kept, table_of
from cohortvol.store.records import noted, read_index
from cohortvol.workflow.flow import Flow

LABELS = {1: "liver", 2: "spleen"}
THRESHOLDS = {"a": (300.0, 600.0), "b": (350.0, 700.0)}
"""Grey values from which on a voxel is liver, and spleen, by version of the weights."""

PLANS = Path(__file__).parents[1] / "models/embedded-v2/parts/main/plans.json"
"""Plans that a model may have; no network is built of them."""

NOT_FOR_THE_NETWORK = 999.0
"""Grey value in the first voxel of a scan on which the model fails."""


class ThresholdSegmenter:
    """What `cohortvol.stages.segment.infer.Segmenter` is to the worker, without a network."""

    device = SimpleNamespace(type="cpu")
    dtype = np.float32
    numerics: ClassVar[dict[str, str]] = {"device": "none"}
    predictions = 0

    def __init__(self, thresholds: Sequence[float]) -> None:
        self._thresholds = thresholds

    @classmethod
    def load(cls, folder: Path, profile: str | None = None, **_: Any) -> ThresholdSegmenter:
        weights = load_file(folder / "parts/threshold/fold_0.safetensors")
        shift = 40.0 if profile == "ts218" else 0.0
        return cls([float(value) + shift for value in weights["thresholds"]])

    def prepare(self, data: np.ndarray, affine: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(data=data, affine=affine)

    def predict(self, prepared: SimpleNamespace) -> SimpleNamespace:
        type(self).predictions += 1
        if prepared.data.flat[0] == NOT_FOR_THE_NETWORK:
            raise ScanError("SEG_NONFINITE", "1 of 1 patches")
        return SimpleNamespace(prepared=prepared, seconds_network=0.0, softmax=None)

    def finish(self, predicted: SimpleNamespace) -> np.ndarray:
        return np.digitize(predicted.prepared.data, self._thresholds).astype(np.uint8)


@contextmanager
def threshold_in_place_of_the_network() -> Iterator[None]:
    """The worker loads the threshold while this is entered."""
    with mock.patch("cohortvol.stages.segment.infer.Segmenter", ThresholdSegmenter):
        yield


def write_model(folder: Path, weights: str = "a", notes: str = "") -> None:
    """A model folder as `models import` makes them; `notes` are a word on the card alone."""
    part = folder / "parts" / "threshold"
    part.mkdir(parents=True, exist_ok=True)
    contents = {
        "plans.json": json.loads(PLANS.read_text(encoding="utf-8")),
        "dataset.json": {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0} | {name: index for index, name in LABELS.items()},
        },
    }
    for name, content in contents.items():
        (part / name).write_text(json.dumps(content))
    thresholds = np.array(THRESHOLDS[weights], dtype=np.float32)
    save_file({"thresholds": thresholds}, part / "fold_0.safetensors")
    names = [path.relative_to(folder).as_posix() for path in sorted(part.iterdir())]
    card = {
        "id": folder.name, "title": "Threshold", "licence": "CC0-1.0", "source": "test",
        "citation": "none", "orientation": "RAS", "default_profile": "nnunet",
        "profiles": ["nnunet", "ts218"], "spacing_mm": [5.0, 5.0, 5.0],
        "labels": LABELS, "notes": [notes],
        "parts": [{
            "name": "threshold", "configuration": "3d_fullres", "trainer": "none", "folds": ["0"],
            "labels": LABELS, "files": {name: sha256_of(folder / name) for name in names},
        }],
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))


NOT_SEGMENTED = (3, 11)
"""Contents of a scan on which the model fails."""


def slices_of(content: int) -> int:
    """Slices of the scan of this content."""
    return 8 + content % 2


@cache
def image_bytes(content: int) -> bytes:
    """A sound scan; every `content` gives another one.

    The voxels are 5.5 mm wide, so that the scan is just wide enough for ingest.
    """
    noise = np.random.default_rng(content).normal(size=(9, 10, slices_of(content)))
    voxels = noise.cumsum(0).cumsum(1)
    voxels = np.clip((voxels - voxels.min()) / np.ptp(voxels) * 900, 0, 900).astype(np.int16)
    if content in NOT_SEGMENTED:
        voxels.flat[0] = NOT_FOR_THE_NETWORK
    image = nib.Nifti1Image(voxels, np.diag([5.5, 5.5, 5.5, 1.0]))
    image.set_qform(image.affine, 1)
    return gzip.compress(image.to_bytes(), mtime=0)


TOO_SHORT = 200
"""Bytes of a scan that was cut."""


@dataclass(frozen=True)
class Settings:
    """What the config of a run says; the last five change no result."""

    model: str = "threshold"
    weights: str = "a"
    profile: str | None = None
    min_slices: int = 8
    min_largest_fraction: float = 0.9
    outlier_max_z: float = 5.0
    notes: str = ""
    shard_size: int = 3
    workers: int = 0
    keep_label_maps: bool = True
    store: str = "files"

    def config(self, source: Source, results: Path) -> dict[str, Any]:
        """The whole configuration of a run."""
        return check(
            {
                "manifest": str(source.manifest), "withdrawals": str(source.withdrawals),
                "results": str(results), "bad_rows": "quarantine", "previews": False,
                "model": self.model, "models_dir": str(source.models_dir),
                "shard_size": self.shard_size, "keep_label_maps": self.keep_label_maps,
                "store": self.store,
                "ingest": {"min_slices": self.min_slices},
                "segment": {"profile": self.profile, "workers": self.workers},
                "measure": {"min_largest_fraction": self.min_largest_fraction},
                "assemble": {"outlier_max_z": self.outlier_max_z},
            }
        )  # fmt: skip

    @property
    def matters(self) -> tuple[Any, ...]:
        return (
            self.model, self.weights, self.profile, self.min_slices, self.min_largest_fraction,
            self.outlier_max_z,
        )  # fmt: skip


@dataclass
class Row:
    """A row of the manifest."""

    scan_id: str
    subject_id: str
    image: str
    age_years: int


@dataclass
class Source:
    """What the user has: a manifest, images, models, and a list of those who withdrew."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    models: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Weights and notes of each model as it is on the disk."""
    date: int = 1_700_000_000
    """Of the image that was written or touched last."""
    models_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.models_dir = self.folder / "models"

    @property
    def manifest(self) -> Path:
        return self.folder / "scans.csv"

    @property
    def withdrawals(self) -> Path:
        return self.folder / "withdrawn.txt"

    def image(self, name: str) -> Path:
        return self.folder / "images" / name

    def write(self) -> None:
        """The manifest and the list, each only where it changed."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["scan_id", "subject_id", "image", "age_years", "sex"])
        rows.writerows(
            [row.scan_id, row.subject_id, f"images/{row.image}", row.age_years, "F"]
            for row in self.rows
        )
        _write_changed(self.manifest, text.getvalue().encode())
        _write_changed(self.withdrawals, "".join(f"{name}\n" for name in self.withdrawn).encode())

    def write_image(self, name: str, content: bytes) -> None:
        """An image, with a date that no image before it had, as clocks with steps may give."""
        path = self.image(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._date(path)

    def touch(self, name: str) -> None:
        self._date(self.image(name))

    def _date(self, path: Path) -> None:
        self.date += 1
        os.utime(path, (self.date, self.date))

    def model(self, settings: Settings) -> Path:
        """The model folder that the settings name, with the weights that they name."""
        folder = self.models_dir / settings.model
        wanted = (settings.weights, settings.notes)
        if self.models.get(settings.model) != wanted:
            write_model(folder, *wanted)
            self.models[settings.model] = wanted
        return folder

    def here(self) -> list[Row]:
        """The rows of those who did not withdraw."""
        return [row for row in self.rows if row.subject_id not in self.withdrawn]

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Bytes and time of every file."""
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


def _write_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


class Stages:
    """Each stage as the rule of the same name runs it, for one source and one results folder."""

    def __init__(self, source: Source, settings: Settings, results: Path) -> None:
        self.source, self.settings, self.results = source, settings, results
        self.model = source.model(settings)
        self.config = settings.config(source, results)
        self.card = load_card(self.model)
        self.flow = Flow(self.config, self.card)

    def check(self) -> None:
        manifest.check(self.source.manifest, self.results, **manifest.from_config(self.config))

    def manifest(self) -> None:
        given = manifest.from_config(self.config)
        with noted(
            self.flow.manifest({}).text(self.results),
            lambda: manifest.sources(
                self.source.manifest, self.source.withdrawals, given["choice"]
            ),
        ):
            manifest.run(
                self.source.manifest,
                self.results,
                shard_size=self.settings.shard_size,
                **given,
            )

    def ingest(self, shard: str) -> None:
        with self._noted("ingest", shard):
            ingest.run(
                self.results / f"manifest/shards/{shard}.parquet",
                self.results / f"ingest/{shard}.parquet",
                ingest.Rules(min_slices=self.settings.min_slices),
            )

    def segment(self, shard: str) -> None:
        place = self.results / "segment" / self.settings.model
        with self._noted("segment", shard):
            segment.run_shard(
                self.results / f"ingest/{shard}.parquet",
                self.model,
                place / shard,
                place / f"{shard}.parquet",
                profile=self.settings.profile,
                workers=self.settings.workers,
                kept=self.kept(shard),
                store=self.settings.store,
            )

    def measure(self, shard: str) -> None:
        with self._noted("measure", shard):
            measure.run_shard(
                self.results / f"segment/{self.settings.model}/{shard}.parquet",
                self.results / f"ingest/{shard}.parquet",
                self.model,
                self.results,
                self.results / f"measure/{self.settings.model}/{shard}.parquet",
                min_largest_fraction=self.settings.min_largest_fraction,
                kept=self.kept(shard),
            )

    def _noted(self, rule: str, shard: str) -> AbstractContextManager[None]:
        return noted(self.flow.of_shard(rule, shard).text(self.results))

    def kept(self, shard: str) -> Kept | None:
        """What stands in for label maps, if they are not kept."""
        if self.settings.keep_label_maps:
            return None
        measured = self.results / f"measure/{self.settings.model}/{shard}.parquet"
        return Kept(table_of(measured), self.flow.measuring)

    def assemble(self) -> None:
        settings = assemble.Settings(outlier_max_z=self.settings.outlier_max_z, skip_unknown=True)
        with noted(self.flow.of_cohort("assemble").text(self.results)):
            assemble.run(self.results, self.card.id, settings=settings)

    def shards(self) -> list[str]:
        return read_index(self.results)

    def all(self) -> None:
        """Every stage once, in order."""
        self.manifest()
        for shard in self.shards():
            self.ingest(shard)
            self.segment(shard)
            self.measure(shard)
        self.assemble()
