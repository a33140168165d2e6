"""Public folders of DICOM through what `cohortvol check` does: verdicts, and are grids right?

    git clone https://github.com/neurolabusc/dcm_qa_xa30   # and others of that kind
    python benchmarks/public_dicom.py dcm_qa_xa30 dcm_qa_uih dcm_qa_philips_enh dcm_qa_cs_dl

Such a repository has folders of DICOM in `In/`, as scanners wrote them, and in `Ref/` the NIfTI
images that dcm2niix made of them, each named after the number of its series. Archives and packed
files are unpacked into a temporary folder; a folder of several series is looked at as it is, and
once more for every number of a series that names of its files begin with. A grid is right where it
is that of an image of the same number, whichever way its axes are stored.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.trial import trial

SAME_MM = 0.05  # between two corners of one grid, which Ref holds in single precision
NO_DICOM = {".csv", ".xlsx", ".txt", ".pdf", ".json", ".nii", ".bval", ".bvec", ".md"}


def main() -> None:
    """Unpack, check, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clones", nargs="+", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = [
            row for clone in options.clones for row in folders_of(clone, Path(work, clone.name))
        ]
        scans = pd.DataFrame(rows)
        scans = (
            scans.join(verdicts(scans).set_index("scan_id"), "scan_id").astype(object).fillna("")
        )
    shown = ["clone", "folder", "state", "reason", "grid", "detail"]
    print(scans[shown].to_csv(sep="|", index=False))
    print(scans.groupby(["clone", "state", "reason", "grid"]).size().to_string())


def folders_of(clone: Path, work: Path) -> list[dict[str, str]]:
    """A row for every folder below `In/` that holds files of DICOM, as a manifest has it."""
    unpacked = work / "In"
    for path in sorted((clone / "In").rglob("*")):
        to = unpacked / path.relative_to(clone / "In")
        if not path.is_file() or path.suffix in NO_DICOM - {".xlsx", ".csv"}:
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(to.with_suffix(""))
        elif path.suffix == ".gz":
            to.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            shutil.copyfile(path, to)
    found = []
    for place, _, names in sorted(os.walk(unpacked)):
        folder = Path(place)
        images = [name for name in names if Path(name).suffix not in NO_DICOM]
        if not images:
            continue
        found.append((folder, str(folder.relative_to(unpacked)), folder.name))
        by_number = defaultdict(list)
        for name in images:
            by_number[re.match(r"([1-9]\d*)?", name)[0]].append(name)
        if len(by_number) > 1 and any("_" in name for name in images) and folder.parent == unpacked:
            for number, members in sorted(by_number.items()):
                one = work / "split" / folder.name / number
                one.mkdir(parents=True)
                for name in members:
                    os.link(folder / name, one / name)
                found.append((one, f"{folder.relative_to(unpacked)}/{number}_*", number))
    return [
        {
            "scan_id": f"{clone.name}-{n}", "image": str(folder), "clone": clone.name,
            "folder": told, "references": str(clone / "Ref"), "number": number,
        }
        for n, (folder, told, number) in enumerate(found)
    ]  # fmt: skip


def verdicts(scans: pd.DataFrame) -> pd.DataFrame:
    """By scan what `cohortvol check` finds, and the image of `Ref/` that has its grid."""
    given = scans.set_index("scan_id")
    asked = scans[["scan_id", "image"]].assign(dseg=None)
    found = []
    for rows in trial(asked, Rules()):
        for row in rows.to_dict("records"):
            grid = ""
            if row["state"] == "ready":
                scan = given.loc[row["scan_id"]]
                grid = compared(nib.load(row["image"]), Path(scan["references"]), scan["number"])
            told = {name: row[name] for name in ("scan_id", "state", "reason", "detail")}
            found.append(told | {"grid": grid})
    return pd.DataFrame(found)


def compared(image: nib.Nifti1Image, references: Path, number: str) -> str:
    """The name of an image that has this grid, or what is there instead."""
    wanted = re.match(r"\d*", number)[0] or re.sub(r"_+\d*$", "", number.replace("_SaveBySlc", ""))
    named = [p for p in sorted(references.glob("*.nii*")) if f"_{wanted}_" in f"_{p.name}"]
    for path in named:
        reference = nib.load(path)
        if np.allclose(corners(image), corners(reference), atol=SAME_MM):
            return f"equal to {path.name}"
    return f"none of {len(named)} references" if named else "no reference"


def corners(image: nib.Nifti1Image) -> np.ndarray:
    """Corners of a grid, mm, and its voxel edges, in an order that no storage changes."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1)
    points = nib.affines.apply_affine(image.affine, ends.T)
    order = np.lexsort(np.round(points, 0).T)
    edges = np.sort(nib.affines.voxel_sizes(image.affine))
    return np.vstack([points[order], edges])


if __name__ == "__main__":
    main()
