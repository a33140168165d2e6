"""A scan and label maps of it that were made elsewhere, for the tests of taking them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohortvol.errors import ScanError
from cohortvol.models.card import load_card, restrict
from cohortvol.models.label_table import read_labels, write_model
from cohortvol.stages.segment.elsewhere import LabelMaps
from cohortvol.stages.segment.receipts import Work
from cohortvol.store import label_maps
from segment_cohort import AFFINE

SHAPE = (12, 11, 9)
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.3)) @ AFFINE
TABLE = (
    "label\tname\tstructure\n1\tliver\tliver\n2\tmilz\tspleen\n7\tunused\t\n9\tlast\tkidney_left\n"
)


def model_of(folder: Path, text: str = TABLE, name: str = "given") -> Path:
    """The model folder of a table of labels."""
    table = folder / f"{name}.tsv"
    table.write_text(text, encoding="utf-8")
    write_model(read_labels(str(table)), folder / name, model_id=name)
    return folder / name


def labels_of(seed: int = 1, labels: tuple[int, ...] = (0, 1, 2, 9)) -> np.ndarray:
    """A label map of random voxels."""
    return np.random.default_rng(seed).choice(labels, SHAPE).astype(np.uint8)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


class Scan:
    """A scan, and a label map of it that was made elsewhere."""

    def __init__(self, folder: Path, text: str = TABLE) -> None:
        self.folder = folder
        self.card = load_card(model_of(folder, text))
        self.image = write(folder / "scan.nii.gz", np.zeros(SHAPE, np.int16))

    def take(self, dseg: Path | str | None, roi: tuple[str, ...] = ()) -> np.ndarray:
        """The label map as segment takes it."""
        given = str(dseg or "")
        digest = label_maps.digest_of_files(given) if given else None
        work = Work("one", self.image, "", "given", "elsewhere", "", dseg=given, dseg_sha256=digest)
        reader = LabelMaps(restrict(self.card, roi))
        return reader.finish(reader.predict(reader.read(work)))

    def refused(self, dseg: Path | str | None) -> tuple[str, str]:
        """Reason and detail."""
        with pytest.raises(ScanError) as caught:
            self.take(dseg)
        return caught.value.reason, caught.value.detail

    def masks(self, voxels: np.ndarray, **inside: int) -> Path:
        """A folder with a file per structure; `inside` names other values than 1."""
        for label, name in self.card.elsewhere.items():
            mask = (voxels == label) * np.uint8(inside.get(name, 1))
            write(self.folder / "masks" / f"{name}.nii.gz", mask)
        return self.folder / "masks"
