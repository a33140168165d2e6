"""Public folders of DICOM through `cohortvol check`: the verdict of each, and are grids right?

    git clone https://github.com/neurolabusc/dcm_qa_xa30   # and others of that kind
    python benchmarks/public_dicom.py dcm_qa_xa30 dcm_qa_uih dcm_qa_philips_enh dcm_qa_cs_dl

Such a repository has folders of DICOM in `In/`, as scanners wrote them, and in `Ref/` the NIfTI
images that dcm2niix made of them, each named after the number of its series. Archives and packed
files are unpacked into a temporary folder; a folder of several series is looked at as it is, and
once more for every number that names of its files begin with. A grid is right where it is that of
an image of the same number, whichever way its axes are stored.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
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
        checked = check(scans, Path(work))
        scans = scans.join(checked.set_index("scan_id")[["state", "reason", "detail"]], "scan_id")
        ready = scans[scans["state"] == "ready"].assign(dseg=None, more_images=None)
        scans = scans.join(grids(ready), "scan_id").fillna("")
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
            by_number[re.match(r"\d*", name)[0]].append(name)
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


def check(scans: pd.DataFrame, work: Path) -> pd.DataFrame:
    """What `cohortvol check` says of every folder."""
    manifest, out = work / "scans.csv", work / "checked.csv"
    scans[["scan_id", "image"]].to_csv(manifest, index=False)
    done = subprocess.run(
        ["cohortvol", "check", manifest, "--out", out],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return pd.read_csv(out)


def grids(ready: pd.DataFrame) -> pd.DataFrame:
    """By scan, the image of `Ref/` that has its grid, or that there is none of its number."""
    found = {}
    for rows in trial(ready, Rules()):
        for row in rows.itertuples():
            scan = ready.set_index("scan_id").loc[row.scan_id]
            found[row.scan_id] = compared(nib.load(row.image), Path(scan.references), scan.number)
    return pd.DataFrame({"grid": pd.Series(found, dtype=object)})


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
